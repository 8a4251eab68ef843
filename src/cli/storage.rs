//! `img2text storage ...`: how safe the accounts are.

use anyhow::Result;
use clap::Subcommand;
use serde_json::json;

use super::{Failure, client};
use crate::grpc::proto::storage_service_client::StorageServiceClient;
use crate::grpc::proto::{DurabilityVerdict, GetStorageStatusRequest};

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
}

/// Runs the command against the server.
pub async fn run(args: Args) -> Result<()> {
    match args.command {
        Command::Status => status(&args.server, args.json).await,
    }
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
