//! A Redis client that never does anything twice.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fred::clients::Client;
use fred::error::{Error as RedisError, ErrorKind};
use fred::interfaces::{ClientLike, EventInterface};
use fred::types::config::{
    Config, ReconnectError, ReconnectPolicy, TcpConfig, TlsConnector, UnresponsiveConfig,
};
use fred::types::{Builder, ClientState};
use futures::future::join_all;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::Error;
use super::durability::{ask, nodes};
use crate::config;

/// How often the client looks for connections that do not answer.
const UNRESPONSIVE_CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// What rustls calls a certificate that it does not accept.
const CERTIFICATE_REFUSED: &str = "InvalidCertificate";

/// Connects to the Redis that the settings name: `redis://`, `redis-cluster://`,
/// `redis-sentinel://`, each with TLS as `rediss`, or `redis+unix://`.
///
/// A Redis that is away is no error: the client goes on trying, for ever, and meanwhile its
/// commands fail in bounded time. Must be called in a runtime.
pub async fn connect(settings: &config::Redis, url: &str) -> Result<Client, Error> {
    let mut config = Config::from_url(url).map_err(|error| Error::Url(error.details().into()))?;
    if config.tls.is_some() && !settings.tls_ca_file.as_os_str().is_empty() {
        config.tls = Some(trusting(&settings.tls_ca_file)?.into());
    }
    // Otherwise a first connection that fails would be the last.
    config.fail_fast = false;
    let command_timeout = Duration::from_millis(settings.command_timeout_ms);
    let connect_timeout = Duration::from_millis(settings.connect_timeout_ms);
    let client = Builder::from_config(config)
        .with_connection_config(|connection| {
            // A command whose answer was lost may have run: whether it is sent again is for those
            // to decide who know its idempotency.
            connection.max_command_attempts = 1;
            connection.connection_timeout = connect_timeout;
            connection.internal_command_timeout = connect_timeout;
            connection.max_command_buffer_len = settings.commands_in_flight_max;
            connection.unresponsive = UnresponsiveConfig {
                max_timeout: Some(silence_max(settings)),
                interval: UNRESPONSIVE_CHECK_INTERVAL,
            };
            // What no machine has taken in for so long is lost, and with it the connection: else the
            // kernel would go on sending it for a quarter of an hour.
            connection.tcp = TcpConfig {
                nodelay: Some(true),
                user_timeout: Some(silence_max(settings)),
                ..TcpConfig::default()
            };
            // A primary that was made a replica keeps its connections: the new one is found only by
            // asking for it again.
            connection.reconnect_errors = vec![ReconnectError::ReadOnly];
        })
        .with_performance_config(|performance| {
            performance.default_command_timeout = command_timeout;
        })
        .set_policy(ReconnectPolicy::new_exponential(0, 50, 2_000, 2))
        .build()
        .map_err(|error| Error::Url(error.details().into()))?;
    client.on_error(|(error, server)| async move {
        let server = server.map(|server| server.to_string()).unwrap_or_default();
        let error = error.details();
        match error.contains(CERTIFICATE_REFUSED) {
            true => tracing::error!(
                %server,
                error,
                "this Redis does not prove to be ours: its certificate is none that \
                 redis.tls_ca_file (if empty: the system) vouches for under this name"
            ),
            false => tracing::warn!(%server, error, "Redis connection trouble"),
        }
        Ok(())
    });
    client.connect();
    // Whoever calls first should not find a connection that is still being made. If it takes
    // longer, the calls will say so.
    let _ = tokio::time::timeout(connect_timeout, client.wait_for_connect()).await;
    Ok(client)
}

/// How long Redis may say nothing before its connection counts as dead. Later than a command's own
/// timeout, so that one slow command does not cost all others their connection.
fn silence_max(settings: &config::Redis) -> Duration {
    Duration::from_millis(settings.command_timeout_ms) * 2
}

/// Asks Redis whether it is there, and makes the connection anew when it has been silent for too
/// long.
///
/// A connection can die without a word, and the client's own check goes by the time since it last
/// *wrote* something: where commands keep coming it never finds out.
pub struct Pulse {
    client: Client,
    silence_max: Duration,
    silent_since: Option<Instant>,
}

impl Pulse {
    /// Nothing is asked yet.
    pub fn new(client: Client, settings: &config::Redis) -> Self {
        Self { client, silence_max: silence_max(settings), silent_since: None }
    }

    /// Whether every node that holds accounts answers.
    pub async fn answers(&mut self) -> bool {
        let asked = Instant::now();
        let Ok(nodes) = nodes(&self.client) else { return false };
        let answers =
            join_all(nodes.iter().map(|node| ask(&self.client, node, "PING", vec![]))).await;
        let is_silence = |error: &RedisError| *error.kind() == ErrorKind::Timeout;
        let silent = answers.iter().any(|answer| answer.as_ref().is_err_and(is_silence));
        // Otherwise it is being made anew already.
        if !silent || self.client.state() != ClientState::Connected {
            self.silent_since = None;
        } else if self.silent_since.get_or_insert(asked).elapsed() >= self.silence_max {
            self.silent_since = None;
            tracing::warn!("Redis has not answered for too long: the connection is made anew");
            let client = self.client.clone();
            // It ends once there is a new one, whenever that is.
            tokio::spawn(async move { client.force_reconnection().await });
        }
        answers.iter().all(Result::is_ok)
    }
}

/// TLS that trusts the authorities in a file, and no others.
fn trusting(path: &Path) -> Result<TlsConnector, Error> {
    let error = |message: String| Error::Authorities { path: path.into(), message };
    let read = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|e| error(e.to_string()))?;
    if read.is_empty() {
        return Err(error("holds no certificate".into()));
    }
    let mut authorities = RootCertStore::empty();
    for certificate in read {
        authorities.add(certificate).map_err(|e| error(e.to_string()))?;
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| error(e.to_string()))?
        .with_root_certificates(authorities)
        .with_no_client_auth();
    Ok(config.into())
}

/// Whether an error says that Redis cannot serve us now, as opposed to one in what we asked. A
/// command that failed so may or may not have run.
pub fn is_unavailable(error: &RedisError) -> bool {
    const STATES: [&str; 14] = [
        "MISCONF",
        "OOM ",
        "LOADING",
        "READONLY",
        "CLUSTERDOWN",
        "MASTERDOWN",
        "TRYAGAIN",
        "NOREPLICAS",
        "BUSY ",
        "MOVED ",
        "ASK ",
        // What our scripts say of a Redis that they would not run on.
        "TOO_OLD ",
        // What the client says of a command that a node of a Cluster sent elsewhere, when it may
        // not send it twice, and of one for which it knows no node. It has learnt the way by now.
        "Too many failed write attempts",
        "Failed to route command",
    ];
    match error.kind() {
        ErrorKind::Timeout
        | ErrorKind::IO
        | ErrorKind::Canceled
        | ErrorKind::Cluster
        | ErrorKind::Routing
        | ErrorKind::Backpressure
        | ErrorKind::Tls
        | ErrorKind::Auth
        | ErrorKind::Sentinel => true,
        _ => STATES.iter().any(|state| error.details().starts_with(state)),
    }
}
