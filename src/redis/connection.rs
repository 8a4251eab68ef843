//! A Redis client that never does anything twice.

use std::time::Duration;

use fred::clients::Client;
use fred::error::{Error as RedisError, ErrorKind};
use fred::interfaces::{ClientLike, EventInterface};
use fred::types::Builder;
use fred::types::config::{Config, ReconnectPolicy, UnresponsiveConfig};

use super::Error;
use crate::config;

/// How often the client looks for connections that do not answer.
const UNRESPONSIVE_CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// Connects to the Redis that the settings name: `redis://`, `rediss://` (TLS), `redis-cluster://`,
/// `redis-sentinel://`, `redis+unix://`.
///
/// A Redis that is away is no error: the client goes on trying, for ever, and meanwhile its
/// commands fail in bounded time. Must be called in a runtime.
pub async fn connect(settings: &config::Redis, url: &str) -> Result<Client, Error> {
    let config = Config::from_url(url).map_err(|error| Error::Url(error.details().into()))?;
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
                // Later than a command's own timeout, so that one slow command does not cost
                // all others their connection.
                max_timeout: Some(command_timeout * 2),
                interval: UNRESPONSIVE_CHECK_INTERVAL,
            };
        })
        .with_performance_config(|performance| {
            performance.default_command_timeout = command_timeout;
        })
        .set_policy(ReconnectPolicy::new_exponential(0, 50, 2_000, 2))
        .build()
        .map_err(|error| Error::Url(error.details().into()))?;
    client.on_error(|(error, server)| async move {
        let server = server.map(|server| server.to_string()).unwrap_or_default();
        tracing::warn!(%server, error = error.details(), "Redis connection trouble");
        Ok(())
    });
    client.connect();
    // Whoever calls first should not find a connection that is still being made. If it takes
    // longer, the calls will say so.
    let _ = tokio::time::timeout(connect_timeout, client.wait_for_connect()).await;
    Ok(client)
}

/// Whether an error says that Redis cannot serve us now, as opposed to one in what we asked. A
/// command that failed so may or may not have run.
pub fn is_unavailable(error: &RedisError) -> bool {
    const STATES: [&str; 13] = [
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
