//! `img2text quota ...`: accounts from the command line. Tables for people, `--json` for
//! programs.
//!
//! Whoever changes an account names the change (`--id`), so that a command whose answer was lost
//! can be given again. Where no name is given a random one is made and printed.

use anyhow::Result;
use clap::{Subcommand, ValueEnum};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Failure, client};
use crate::grpc::proto::quota_service_client::QuotaServiceClient;
use crate::grpc::proto::{self, Buckets, Quota};

/// How many items are asked for at once.
const PAGE_SIZE: i32 = 1_000;

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
    /// List the plans that are sold
    Plans,
    /// Give a user a plan that was paid for
    Activate {
        /// Whose account
        user: String,
        /// The plan's name
        plan: String,
        /// The payment's id; the same again grants nothing again
        #[arg(long, value_name = "PAYMENT")]
        id: Option<String>,
    },
    /// End a user's plan with the next reset
    Cancel {
        /// Whose account
        user: String,
    },
    /// Give a user single requests that were paid for
    Grant {
        /// Whose account
        user: String,
        /// How many requests
        amount: i64,
        /// The payment's id; the same again grants nothing again
        #[arg(long, value_name = "PAYMENT")]
        id: Option<String>,
    },
    /// Correct an account by hand
    Adjust {
        /// Whose account
        user: String,
        /// Which requests
        bucket: Bucket,
        /// How many are added, or taken away if negative
        #[arg(allow_negative_numbers = true)]
        delta: i64,
        /// Why; stays in the history
        #[arg(long)]
        reason: String,
        /// The adjustment's id; the same again adjusts nothing again
        #[arg(long, value_name = "ADJUSTMENT")]
        id: Option<String>,
    },
    /// List a user's open holds
    Holds {
        /// Whose holds
        user: String,
    },
    /// Give a hold back whose holder is known to be gone
    Release {
        /// Whose hold
        user: String,
        /// The reservation
        reservation: String,
        /// Why; stays in the history
        #[arg(long)]
        reason: String,
    },
    /// Show what happened to an account, newest first
    History {
        /// Whose history
        user: String,
        /// Only from this time on, as in 2026-11-01T00:00:00Z
        #[arg(long, value_name = "TIME")]
        since: Option<jiff::Timestamp>,
        /// Only before this time
        #[arg(long, value_name = "TIME")]
        until: Option<jiff::Timestamp>,
        /// Only this kind; may be given several times
        #[arg(long, value_name = "KIND")]
        kind: Vec<Kind>,
        /// At most so many entries
        #[arg(long, default_value_t = 100, value_name = "N")]
        limit: usize,
    },
    /// Show what was granted and spent in each month
    Usage {
        /// Whose usage
        user: String,
    },
    /// List all users
    Users,
    /// Print everything that is kept about a user, as JSON
    Export {
        /// Whose data
        user: String,
    },
    /// Delete everything that is kept about a user, and close the id for ever
    Delete {
        /// Whose account
        user: String,
        /// Do it; without this nothing is deleted
        #[arg(long)]
        yes: bool,
    },
    /// Check that accounts add up: one user's or everybody's
    Audit {
        /// Whose account [default: all]
        user: Option<String>,
    },
    /// Show what happened over all users, day by day
    Statistics {
        /// The first day, as in 2026-11-01 [default: 30 days before the last]
        #[arg(long, default_value = "", hide_default_value = true)]
        since: String,
        /// The last day [default: today]
        #[arg(long, default_value = "", hide_default_value = true)]
        until: String,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Bucket {
    Free,
    Plan,
    Extra,
}

impl From<Bucket> for proto::Bucket {
    fn from(bucket: Bucket) -> Self {
        match bucket {
            Bucket::Free => Self::Free,
            Bucket::Plan => Self::Plan,
            Bucket::Extra => Self::Extra,
        }
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Kind {
    Opened,
    Committed,
    Released,
    Expired,
    PlanActivated,
    ExtraGranted,
    PlanCancelled,
    Adjusted,
    Reset,
}

impl From<Kind> for proto::EntryKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Opened => Self::Opened,
            Kind::Committed => Self::Committed,
            Kind::Released => Self::Released,
            Kind::Expired => Self::Expired,
            Kind::PlanActivated => Self::PlanActivated,
            Kind::ExtraGranted => Self::ExtraGranted,
            Kind::PlanCancelled => Self::PlanCancelled,
            Kind::Adjusted => Self::Adjusted,
            Kind::Reset => Self::Reset,
        }
    }
}

/// What a command came to: for programs, and for people.
struct Output {
    json: Value,
    text: String,
}

/// Runs the command against the server.
pub async fn run(args: Args) -> Result<()> {
    // Histories and exports may be large; the server bounds them.
    let mut client =
        QuotaServiceClient::new(args.server.connect().await?).max_decoding_message_size(usize::MAX);
    let audit = matches!(args.command, Command::Audit { .. });
    let output = execute(&mut client, args.command).await?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&output.json)?);
    } else {
        print!("{}", output.text);
    }
    let findings = output.json["findings"].as_array().map_or(0, Vec::len);
    if audit && findings > 0 {
        let message = format!("{findings} checks do not add up");
        return Err(Failure { code: 3, message }.into());
    }
    Ok(())
}

type Client = QuotaServiceClient<client::Connection>;

async fn execute(client: &mut Client, command: Command) -> Result<Output> {
    match command {
        Command::Get { user: user_id } => {
            let response = client.get_quota(proto::GetQuotaRequest { user_id }).await?;
            Ok(account(response.into_inner().quota))
        }
        Command::Plans => plans(client).await,
        Command::Activate { user: user_id, plan, id } => {
            let payment_id = name(id);
            let request = proto::ActivatePlanRequest { user_id, plan, payment_id };
            let response = client.activate_plan(request.clone()).await?.into_inner();
            Ok(step(&request.payment_id, response.replayed, response.quota))
        }
        Command::Cancel { user: user_id } => {
            let response = client.cancel_plan(proto::CancelPlanRequest { user_id }).await?;
            Ok(account(response.into_inner().quota))
        }
        Command::Grant { user: user_id, amount, id } => {
            let payment_id = name(id);
            let request = proto::GrantExtraRequestsRequest { user_id, amount, payment_id };
            let response = client.grant_extra_requests(request.clone()).await?.into_inner();
            Ok(step(&request.payment_id, response.replayed, response.quota))
        }
        Command::Adjust { user: user_id, bucket, delta, reason, id } => {
            let bucket = proto::Bucket::from(bucket).into();
            let adjustment_id = name(id);
            let request =
                proto::AdjustQuotaRequest { user_id, bucket, delta, reason, adjustment_id };
            let response = client.adjust_quota(request.clone()).await?.into_inner();
            Ok(step(&request.adjustment_id, response.replayed, response.quota))
        }
        Command::Holds { user } => holds(client, user).await,
        Command::Release { user: user_id, reservation: reservation_id, reason } => {
            let request = proto::ForceReleaseReservationRequest { user_id, reservation_id, reason };
            let response = client.force_release_reservation(request).await?;
            Ok(account(response.into_inner().quota))
        }
        Command::History { user: user_id, since, until, kind, limit } => {
            let request = proto::ListHistoryRequest {
                user_id,
                start_time: since.map(timestamp),
                end_time: until.map(timestamp),
                kinds: kind.into_iter().map(|kind| proto::EntryKind::from(kind).into()).collect(),
                ..Default::default()
            };
            history(client, request, limit).await
        }
        Command::Usage { user: user_id } => {
            let response = client.get_usage(proto::GetUsageRequest { user_id }).await?;
            Ok(usage(&response.into_inner().months))
        }
        Command::Users => users(client).await,
        Command::Export { user: user_id } => {
            let response = client.export_account(proto::ExportAccountRequest { user_id }).await?;
            let json: Value = serde_json::from_str(&response.into_inner().account_json)?;
            let text = format!("{}\n", serde_json::to_string_pretty(&json)?);
            Ok(Output { json, text })
        }
        Command::Delete { user, yes } => delete(client, user, yes).await,
        Command::Audit { user } => audit(client, user).await,
        Command::Statistics { since: first_day, until: last_day } => {
            let request = proto::GetStatisticsRequest { first_day, last_day };
            Ok(statistics(&client.get_statistics(request).await?.into_inner().days))
        }
    }
}

/// The name of a change: the one that was given, or a new one. That is said beforehand, so that
/// the command can be given again if its answer is lost.
fn name(id: Option<String>) -> String {
    id.unwrap_or_else(|| {
        let id = Uuid::new_v4().to_string();
        eprintln!("img2text: to try this again, add --id {id}");
        id
    })
}

fn account(quota: Option<Quota>) -> Output {
    let quota = quota.unwrap_or_default();
    Output { json: quota_json(&quota), text: quota_table(&quota) }
}

fn step(id: &str, replayed: bool, quota: Option<Quota>) -> Output {
    let Output { mut json, text } = account(quota);
    json["id"] = id.into();
    json["replayed"] = replayed.into();
    let done = if replayed { "done before, nothing changed" } else { "done" };
    Output { json, text: format!("id          {id} ({done})\n{text}") }
}

async fn plans(client: &mut Client) -> Result<Output> {
    let catalog = client.list_plans(proto::ListPlansRequest {}).await?.into_inner();
    let plans: Vec<Value> = catalog
        .plans
        .iter()
        .map(|plan| json!({ "plan": plan.plan, "quota": plan.quota }))
        .collect();
    let mut rows = vec![vec!["plan".into(), "requests a month".into()]];
    rows.extend(catalog.plans.iter().map(|plan| vec![plan.plan.clone(), plan.quota.to_string()]));
    let period = if catalog.free_monthly { "every month" } else { "once" };
    Ok(Output {
        json: json!({
            "plans": plans,
            "free_allowance": catalog.free_allowance,
            "free_monthly": catalog.free_monthly,
        }),
        text: format!("{}free: {} requests, {period}\n", table(&rows), catalog.free_allowance),
    })
}

async fn holds(client: &mut Client, user_id: String) -> Result<Output> {
    let mut request =
        proto::ListReservationsRequest { user_id, page_size: PAGE_SIZE, page_token: String::new() };
    let mut json = Vec::new();
    let mut rows = vec![["reservation", "requests", "ends", "made", "by"].map(String::from).into()];
    loop {
        let page = client.list_reservations(request.clone()).await?.into_inner();
        for hold in page.reservations {
            json.push(json!({
                "reservation_id": hold.reservation_id,
                "held": buckets_json(hold.held),
                "expire_time": time(hold.expire_time),
                "create_time": time(hold.create_time),
                "actor": hold.actor,
                "request_id": hold.request_id,
            }));
            rows.push(vec![
                hold.reservation_id,
                total(hold.held).to_string(),
                time(hold.expire_time),
                time(hold.create_time),
                hold.actor,
            ]);
        }
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            return Ok(Output { json: json.into(), text: table(&rows) });
        }
    }
}

async fn history(
    client: &mut Client,
    mut request: proto::ListHistoryRequest,
    limit: usize,
) -> Result<Output> {
    let mut json = Vec::new();
    let mut rows = vec![
        ["time", "what", "granted", "spent", "lapsed", "by", "id", "detail"]
            .map(String::from)
            .into(),
    ];
    while json.len() < limit {
        request.page_size = i32::try_from(limit - json.len()).unwrap_or(PAGE_SIZE).min(PAGE_SIZE);
        let page = client.list_history(request.clone()).await?.into_inner();
        for entry in page.entries {
            let kind = kind_name(entry.kind());
            json.push(json!({
                "number": entry.number,
                "time": time(entry.time),
                "kind": kind,
                "id": entry.id,
                "actor": entry.actor,
                "granted": buckets_json(entry.granted),
                "spent": buckets_json(entry.spent),
                "lapsed": buckets_json(entry.lapsed),
                "detail": entry.detail,
            }));
            rows.push(vec![
                time(entry.time),
                kind,
                total(entry.granted).to_string(),
                total(entry.spent).to_string(),
                total(entry.lapsed).to_string(),
                entry.actor,
                entry.id,
                entry.detail,
            ]);
        }
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
    }
    Ok(Output { json: json.into(), text: table(&rows) })
}

/// `ENTRY_KIND_PLAN_ACTIVATED` as `plan-activated`, which is also what `--kind` takes.
fn kind_name(kind: proto::EntryKind) -> String {
    kind.as_str_name().trim_start_matches("ENTRY_KIND_").to_lowercase().replace('_', "-")
}

fn usage(months: &[proto::Month]) -> Output {
    let json = months.iter().map(|month| {
        json!({
            "month": month.month,
            "entries": month.entries,
            "granted": buckets_json(month.granted),
            "spent": buckets_json(month.spent),
            "lapsed": buckets_json(month.lapsed),
        })
    });
    let mut rows = vec![["month", "granted", "spent", "lapsed"].map(String::from).into()];
    rows.extend(months.iter().map(|month| {
        let sums = [month.granted, month.spent, month.lapsed];
        let sums = sums.into_iter().map(|buckets| total(buckets).to_string());
        std::iter::once(month.month.clone()).chain(sums).collect()
    }));
    Output { json: json.collect::<Vec<_>>().into(), text: table(&rows) }
}

async fn users(client: &mut Client) -> Result<Output> {
    let mut request = proto::ListUsersRequest { page_size: PAGE_SIZE, page_token: String::new() };
    let mut users = std::collections::BTreeSet::new();
    loop {
        let page = client.list_users(request.clone()).await?.into_inner();
        users.extend(page.user_ids);
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            let text = users.iter().map(|user| format!("{user}\n")).collect();
            return Ok(Output { json: users.into_iter().collect::<Vec<_>>().into(), text });
        }
    }
}

async fn delete(client: &mut Client, user_id: String, yes: bool) -> Result<Output> {
    if !yes {
        let message = format!(
            "this deletes everything that is kept about {user_id} and closes the id for ever: \
             say --yes if that is meant"
        );
        return Err(Failure { code: 2, message }.into());
    }
    let request = proto::DeleteAccountRequest { user_id };
    let replayed = client.delete_account(request).await?.into_inner().replayed;
    let text = if replayed { "was deleted before\n" } else { "deleted\n" };
    Ok(Output { json: json!({ "replayed": replayed }), text: text.into() })
}

async fn audit(client: &mut Client, user_id: Option<String>) -> Result<Output> {
    let mut request =
        proto::AuditAccountsRequest { user_id, page_size: PAGE_SIZE, page_token: String::new() };
    let mut accounts = 0;
    let mut findings = Vec::new();
    let mut rows = vec![["user", "check", "expected", "found"].map(String::from).into()];
    loop {
        let page = client.audit_accounts(request.clone()).await?.into_inner();
        accounts += page.accounts;
        for finding in page.findings {
            findings.push(json!({
                "user_id": finding.user_id,
                "check": finding.check,
                "expected": finding.expected,
                "found": finding.found,
            }));
            let numbers = [finding.expected.to_string(), finding.found.to_string()];
            rows.push([finding.user_id, finding.check].into_iter().chain(numbers).collect());
        }
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
    }
    let text = match findings.len() {
        0 => format!("{accounts} accounts checked, all add up\n"),
        _ => format!("{}{accounts} accounts checked\n", table(&rows)),
    };
    Ok(Output { json: json!({ "accounts": accounts, "findings": findings }), text })
}

fn statistics(days: &[proto::Day]) -> Output {
    let json = days.iter().map(|day| {
        json!({
            "day": day.day,
            "requests": day.requests,
            "refusals": day.refusals,
            "failures": day.failures,
            "pages": day.pages,
            "characters": day.characters,
            "active_users": day.active_users,
        })
    });
    let header = ["day", "requests", "refusals", "failures", "pages", "characters", "active users"];
    let mut rows = vec![header.map(String::from).into()];
    rows.extend(days.iter().map(|day| {
        let numbers =
            [day.requests, day.refusals, day.failures, day.pages, day.characters, day.active_users];
        std::iter::once(day.day.clone()).chain(numbers.map(|number| number.to_string())).collect()
    }));
    Output { json: json.collect::<Vec<_>>().into(), text: table(&rows) }
}

/// Rows in columns, as wide as their widest cell; numbers to the right.
fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max()
    };
    let is_number = |cell: &str| !cell.is_empty() && cell.bytes().all(|b| b.is_ascii_digit());
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for column in 0..columns {
            let cell = row.get(column).map_or("", String::as_str);
            let width = width(column).unwrap_or(0);
            let padded = match is_number(cell) {
                true => format!("{cell:>width$}"),
                false => format!("{cell:<width$}"),
            };
            line += &padded;
            line += "  ";
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}

fn quota_table(quota: &Quota) -> String {
    let plan = match (quota.plan.as_str(), quota.plan_cancelled) {
        ("", _) => "none".into(),
        (plan, true) => format!("{plan} (ends with the next reset)"),
        (plan, false) => plan.to_string(),
    };
    let near = if quota.near_limit { " (near the limit)" } else { "" };
    let mut rows = vec![["", "free", "plan", "extra", "total"].map(String::from).into()];
    for (name, buckets) in [
        (format!("available{near}"), quota.available),
        ("held".into(), quota.held),
        ("spent".into(), quota.spent),
        ("lapsed".into(), quota.lapsed),
        ("granted".into(), quota.granted),
    ] {
        let Buckets { free, plan, extra } = buckets.unwrap_or_default();
        let numbers = [free, plan, extra, free + plan + extra].map(|number| number.to_string());
        rows.push(std::iter::once(name).chain(numbers).collect());
    }
    format!(
        "user        {}\nplan        {plan}\nnext reset  {}\n\n{}",
        quota.user_id,
        time(quota.next_reset_time),
        table(&rows)
    )
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

fn total(buckets: Option<Buckets>) -> u64 {
    let Buckets { free, plan, extra } = buckets.unwrap_or_default();
    free + plan + extra
}

fn time(time: Option<prost_types::Timestamp>) -> String {
    let time = time.unwrap_or_default();
    match jiff::Timestamp::new(time.seconds, time.nanos) {
        Ok(time) => time.to_string(),
        Err(_) => String::new(),
    }
}

fn timestamp(time: jiff::Timestamp) -> prost_types::Timestamp {
    prost_types::Timestamp { seconds: time.as_second(), nanos: time.subsec_nanosecond() }
}
