//! `img2text storage ...`: how safe the accounts are.

use std::collections::BTreeMap;

use anyhow::Result;
use clap::Subcommand;
use fred::clients::Client;
use serde::Serialize;
use serde_json::json;

use super::settings::Settings;
use super::{Failure, backup, client};
use crate::grpc::proto::storage_service_client::StorageServiceClient;
use crate::grpc::proto::{DurabilityVerdict, GetStorageStatusRequest};
use crate::quota::inspect::oddities;
use crate::quota::{Catalog, Keys, UserId};
use crate::redis::backup::Error;
use crate::redis::backup::file::Content;
use crate::redis::backup::keys::{self, Scan};

/// Look at where the accounts are kept.
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
    /// Show what Redis really does with what it acknowledges; fails unless nothing can be lost
    Status,
    /// Look through the accounts in a Redis, as another system may have written them, and change
    /// nothing; fails if anything is odd
    Check {
        #[command(flatten)]
        settings: Settings,
    },
}

/// Runs the command against the server.
pub async fn run(args: Args) -> Result<()> {
    match args.command {
        Command::Status => status(&args.server, args.json).await,
        Command::Check { settings } => {
            let config = settings.load()?.config;
            let catalog = Catalog::load(&config.quota.catalog)?;
            let store = backup::Store::open(&config.redis, backup::Private::WithData).await?;
            let checked = check(&store.client, &catalog, args.json).await;
            store.close().await;
            checked
        }
    }
}

/// What was found.
#[derive(Default, Serialize)]
struct Found {
    /// Users with a hash.
    users: u64,
    /// Those whom this system has not touched yet.
    users_untouched: u64,
    /// What is left in the plan buckets of all.
    plan_remaining: i64,
    /// What is left in the extra buckets of all.
    extra_remaining: i64,
    /// Users with something odd.
    users_odd: u64,
}

async fn check(client: &Client, catalog: &Catalog, as_json: bool) -> Result<()> {
    let mut found = Found::default();
    let mut scan = Scan::new(client, "sub:user:*")?;
    while let Some(keys) = scan.next().await? {
        for key in keys {
            let odd = look(client, &key, catalog, &mut found).await?;
            found.users_odd += u64::from(!odd.is_empty());
            for sentence in odd {
                match as_json {
                    true => println!("{}", json!({"key": key, "odd": sentence})),
                    false => println!("{key}: {sentence}"),
                }
            }
        }
    }
    if as_json {
        println!("{}", serde_json::to_string(&found)?);
    } else {
        println!(
            "{} users, {} of them untouched by this system; left in all: {} of plans, {} extra; \
             {} with something odd",
            found.users,
            found.users_untouched,
            found.plan_remaining,
            found.extra_remaining,
            found.users_odd
        );
    }
    if found.users_odd == 0 {
        return Ok(());
    }
    Err(Failure { code: 1, message: "something is odd; nothing was changed".into() }.into())
}

/// Looks at one key: what is odd about it.
async fn look(
    client: &Client,
    key: &str,
    catalog: &Catalog,
    found: &mut Found,
) -> Result<Vec<String>> {
    found.users += 1;
    let Ok(user) = UserId::parse(key.strip_prefix(Keys::MAIN_PREFIX).unwrap_or_default()) else {
        found.users_untouched += 1;
        return Ok(vec!["nobody can have this id: 1 to 128 of A-Z a-z 0-9 . _ : @ -".into()]);
    };
    let keys = Keys::of(&user);
    let stored = match keys::read(client, &keys.all()[..2], &Keys::names()).await {
        Ok(stored) => stored,
        Err(Error::Unsupported { kind, .. }) => {
            return Ok(vec![format!("is a {kind}, not a hash")]);
        }
        Err(error) => return Err(error.into()),
    };
    found.users_untouched += u64::from(stored.iter().all(|key| key.name == Keys::MAIN_NAME));
    let main = stored.into_iter().find(|key| key.name == Keys::MAIN_NAME);
    let fields = match main.map(|key| key.content) {
        // Deleted since it was listed.
        None => return Ok(Vec::new()),
        Some(Content::Hash(fields)) => fields,
        Some(_) => return Ok(vec!["is not a hash: the account is refused".into()]),
    };
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    let fields: BTreeMap<_, _> =
        fields.into_iter().map(|(name, value)| (text(name.0), text(value.0))).collect();
    let left = |name| fields.get(name).and_then(|text| text.parse::<i64>().ok()).unwrap_or(0);
    found.plan_remaining += left("plan_remaining").max(0);
    found.extra_remaining += left("extra_remaining").max(0);
    Ok(oddities(&fields, catalog))
}

async fn status(server: &client::Server, as_json: bool) -> Result<()> {
    let mut client = StorageServiceClient::new(server.connect().await?);
    let status = client.get_storage_status(GetStorageStatusRequest {}).await?.into_inner();
    if as_json {
        let findings: Vec<_> = status
            .findings
            .iter()
            .map(|finding| {
                json!({
                    "node": finding.node,
                    "check": finding.check,
                    "verdict": word(finding.verdict()),
                    "sentence": finding.sentence,
                })
            })
            .collect();
        let status = json!({"verdict": word(status.verdict()), "findings": findings});
        println!("{}", serde_json::to_string_pretty(&status)?);
    } else {
        for finding in &status.findings {
            let node =
                if finding.node.is_empty() { String::new() } else { format!("{} ", finding.node) };
            let verdict = word(finding.verdict());
            println!("{node}{:<28} {verdict:<8} {}", finding.check, finding.sentence);
        }
        println!("{:<28} {}", "verdict", word(status.verdict()));
    }
    match status.verdict() {
        DurabilityVerdict::Durable => Ok(()),
        other => {
            let message = format!("the accounts are not proven to be durable: {}", word(other));
            Err(Failure { code: 1, message }.into())
        }
    }
}

fn word(verdict: DurabilityVerdict) -> &'static str {
    match verdict {
        DurabilityVerdict::Durable => "durable",
        DurabilityVerdict::AtRisk => "at risk",
        DurabilityVerdict::Unknown | DurabilityVerdict::Unspecified => "unknown",
    }
}
