//! `img2text quota ...`: accounts from the command line. Tables for people, `--json` for
//! programs.

use anyhow::Result;
use clap::Subcommand;
use serde_json::{Value, json};
use tonic::transport::Channel;

use super::client;
use crate::grpc::proto::quota_service_client::QuotaServiceClient;
use crate::grpc::proto::{Buckets, GetQuotaRequest, Quota};

/// Look after accounts: what may be spent, what was.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
    /// Print JSON instead of a table
    #[arg(long, global = true)]
    json: bool,
    #[command(flatten)]
    server: client::Server,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show a user's account
    Get {
        /// Whose account
        user: String,
    },
}

/// Runs the command against the server.
pub async fn run(args: Args) -> Result<()> {
    let mut client = QuotaServiceClient::new(args.server.connect().await?);
    match args.command {
        Command::Get { user } => {
            let quota = get(&mut client, user).await?;
            print(args.json, &quota_json(&quota), || quota_table(&quota))
        }
    }
}

async fn get(client: &mut QuotaServiceClient<Channel>, user_id: String) -> Result<Quota> {
    let response = client.get_quota(GetQuotaRequest { user_id }).await?;
    Ok(response.into_inner().quota.unwrap_or_default())
}

/// Prints the one or the other.
fn print(as_json: bool, json: &Value, table: impl FnOnce() -> String) -> Result<()> {
    if as_json {
        println!("{}", serde_json::to_string_pretty(json)?);
    } else {
        print!("{}", table());
    }
    Ok(())
}

fn quota_table(quota: &Quota) -> String {
    let plan = match (quota.plan.as_str(), quota.plan_cancelled) {
        ("", _) => "none".into(),
        (plan, true) => format!("{plan} (ends with the next reset)"),
        (plan, false) => plan.to_string(),
    };
    let rows = [
        ("available", quota.available),
        ("held", quota.held),
        ("spent", quota.spent),
        ("lapsed", quota.lapsed),
        ("granted", quota.granted),
    ];
    let mut text = format!(
        "user        {}\nplan        {plan}\nnext reset  {}\n\n{:<10}{:>9}{:>9}{:>9}{:>9}\n",
        quota.user_id,
        time(quota.next_reset_time),
        "",
        "free",
        "plan",
        "extra",
        "total"
    );
    for (name, buckets) in rows {
        let Buckets { free, plan, extra } = buckets.unwrap_or_default();
        let total = free + plan + extra;
        text += &format!("{name:<10}{free:>9}{plan:>9}{extra:>9}{total:>9}\n");
    }
    if quota.near_limit {
        text += "\nnear the limit\n";
    }
    text
}

fn quota_json(quota: &Quota) -> Value {
    json!({
        "user_id": quota.user_id,
        "plan": quota.plan,
        "plan_cancelled": quota.plan_cancelled,
        "available": buckets_json(quota.available),
        "held": buckets_json(quota.held),
        "spent": buckets_json(quota.spent),
        "lapsed": buckets_json(quota.lapsed),
        "granted": buckets_json(quota.granted),
        "near_limit": quota.near_limit,
        "next_reset_time": time(quota.next_reset_time),
    })
}

fn buckets_json(buckets: Option<Buckets>) -> Value {
    let Buckets { free, plan, extra } = buckets.unwrap_or_default();
    json!({ "free": free, "plan": plan, "extra": extra })
}

fn time(time: Option<prost_types::Timestamp>) -> String {
    let time = time.unwrap_or_default();
    match jiff::Timestamp::new(time.seconds, time.nanos) {
        Ok(time) => time.to_string(),
        Err(_) => String::new(),
    }
}
