//! `img2text health`: whether a server serves, as its health service says it.

use anyhow::Result;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::{Failure, client};

/// Ask a server whether it serves.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The service to ask about, as in `img2text.v1.QuotaService` [default: all of them]
    #[arg(default_value = "", hide_default_value = true)]
    service: String,
    #[command(flatten)]
    server: client::Server,
}

/// Prints what the server says of itself; fails unless it is `SERVING`.
pub async fn run(args: Args) -> Result<()> {
    let mut client = HealthClient::new(args.server.connect().await?);
    let request = HealthCheckRequest { service: args.service };
    let status = client.check(request).await?.into_inner().status();
    println!("{}", status.as_str_name());
    match status {
        ServingStatus::Serving => Ok(()),
        _ => Err(Failure { code: 5, message: "the server does not serve".into() }.into()),
    }
}
