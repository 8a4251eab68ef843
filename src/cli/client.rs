//! What every command that talks to a server shares: where it is, and what its refusals say.

use std::time::Duration;

use anyhow::Result;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};
use tonic_types::StatusExt;

use super::Failure;

/// Which server to talk to.
#[derive(Clone, Debug, clap::Args)]
pub struct Server {
    /// The server's address
    #[arg(
        long,
        env = "IMG2TEXT_SERVER",
        default_value = "http://127.0.0.1:50051",
        value_name = "URL",
        global = true
    )]
    server: String,
    /// How long one call may take, in milliseconds
    #[arg(long, default_value_t = 120_000, value_name = "MS", global = true)]
    timeout_ms: u64,
}

impl Server {
    /// Connects to the server.
    pub async fn connect(&self) -> Result<Channel> {
        let endpoint = Endpoint::from_shared(self.server.clone()).map_err(|_| Failure {
            code: 2,
            message: format!("--server {}: this is not a URL", self.server),
        })?;
        let channel = endpoint
            .connect_timeout(Duration::from_secs(5))
            .timeout(Duration::from_millis(self.timeout_ms))
            // A picture of many megabytes crawls through windows of HTTP/2's default size.
            .initial_stream_window_size(4 << 20)
            .initial_connection_window_size(16 << 20)
            .connect()
            .await
            .map_err(|_| Failure {
                code: 5,
                message: format!(
                    "no server answers at {}: start one with `img2text serve`",
                    self.server
                ),
            })?;
        Ok(channel)
    }
}

/// A server's refusal as a person should read it: the message, what is wrong with which field,
/// and the reason by which the documentation explains it.
pub fn describe(status: &Status) -> String {
    let details = status.get_error_details();
    let mut text = status.message().to_string();
    for violation in details.bad_request().iter().flat_map(|bad| &bad.field_violations) {
        let line = format!("{}: {}", violation.field, violation.description);
        if !text.contains(&line) {
            text.push_str("\n  ");
            text.push_str(&line);
        }
    }
    if let Some(info) = details.error_info() {
        text = format!("{text} [{}]", info.reason);
    }
    text
}
