//! What every command that talks to a server shares: where it is, and what its refusals say.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Request, Status};
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
    /// The token that says who you are
    // From the environment, so that it need not stand in a list of processes.
    #[arg(
        long,
        env = "IMG2TEXT_TOKEN",
        hide_env_values = true,
        value_name = "TOKEN",
        global = true
    )]
    token: Option<String>,
    /// The authority that has signed the certificate of an https:// server, a PEM file
    #[arg(long, env = "IMG2TEXT_CA", value_name = "FILE", global = true)]
    ca: Option<PathBuf>,
}

/// A connection whose calls say who makes them.
pub type Connection = InterceptedService<Channel, Bearer>;

/// Puts the token, if there is one, into every call.
#[derive(Clone, Debug)]
pub struct Bearer(Option<MetadataValue<Ascii>>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request.metadata_mut().insert("authorization", value.clone());
        }
        Ok(request)
    }
}

impl Server {
    /// Connects to the server.
    pub async fn connect(&self) -> Result<Connection> {
        let bearer = self.token.as_ref().map(|token| format!("Bearer {token}").parse());
        let bearer = bearer
            .transpose()
            .map_err(|_| Failure { code: 2, message: "--token: this is not a token".into() })?;
        let endpoint = Endpoint::from_shared(self.server.clone()).map_err(|_| Failure {
            code: 2,
            message: format!("--server {}: this is not a URL", self.server),
        })?;
        let endpoint = match &self.ca {
            None => endpoint,
            Some(path) => {
                let pem = std::fs::read(path).with_context(|| path.display().to_string())?;
                let ca = Certificate::from_pem(pem);
                endpoint.tls_config(ClientTlsConfig::new().ca_certificate(ca))?
            }
        };
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
        Ok(InterceptedService::new(channel, Bearer(bearer)))
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
