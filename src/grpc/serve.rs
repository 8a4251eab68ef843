//! The server: the services behind one listener, their health, and a stop that loses nothing.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use fred::clients::Client;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Server;

use super::auth::Auth;
use super::edge;
use super::listener::{self, Tls};
use super::proto::DESCRIPTORS;
use super::proto::quota_service_server::QuotaServiceServer;
use super::proto::recognize_service_server::RecognizeServiceServer;
use super::proto::storage_service_server::StorageServiceServer;
use super::readiness::Readiness;
use super::{quota, recognize, storage};
use crate::config::Config;
use crate::ocr::Pool;
use crate::quota::Store;
use crate::recognition::Recognizer;
use crate::telemetry::metrics;

/// What a message may have beside its picture.
const MESSAGE_BYTES_EXTRA: usize = 64 << 10;
/// HTTP/2's own windows halve the speed of a message of ten megabytes.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
const FRAME_BYTES_MAX: u32 = 1 << 20;
/// How many calls a client may begin and end at once before its connection is closed: one that
/// does nothing else wants to keep us busy.
const RESETS_PENDING_MAX: usize = 32;
/// What the calls that a stop has ended may take to say so.
const FAREWELL_MAX: Duration = Duration::from_secs(5);

/// What the services stand on.
#[derive(Clone)]
pub struct Parts {
    /// The connection to Redis.
    pub redis: Client,
    /// The accounts.
    pub store: Store,
    /// The workers.
    pub pool: Pool,
}

/// Serves until `stop` is cancelled; then refuses what is new, lets what runs finish, for
/// `server.drain_ms_max` at most, and gives back what could not.
pub async fn serve(config: &Config, parts: Parts, stop: CancellationToken) -> Result<()> {
    listener::allow_files(config.server.connections_max);
    let listen: SocketAddr = config.server.listen.parse()?;
    let listener =
        TcpListener::bind(listen).await.with_context(|| format!("cannot listen on {listen}"))?;
    let address = listener.local_addr()?;

    let auth = Arc::new(Auth::load(&config.auth.callers, config.auth.reflection_open)?);
    let callers_watcher = tokio::spawn(Arc::clone(&auth).watch(config.auth.callers.clone()));
    let tls = Tls::load(&config.server)?;
    let tls_watcher = tls.clone().map(|tls| tokio::spawn(tls.watch()));

    let call_time_max = Duration::from_millis(config.ocr.call_ms_max);
    let recognizer = Recognizer::new(parts.pool.clone(), parts.store.clone());
    let recognize = RecognizeServiceServer::new(recognize::Service::new(recognizer, call_time_max))
        .max_decoding_message_size(config.ocr.image_bytes_max + MESSAGE_BYTES_EXTRA);
    let quota = QuotaServiceServer::new(quota::Service::new(parts.store.clone()));
    let storage = StorageServiceServer::new(storage::Service::new(parts.redis.clone()));
    let (health, health_service) = tonic_health::server::health_reporter();
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(
                tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
            )
            .include_reflection_service(false)
    };
    let readiness = Readiness::new(parts.redis.clone(), &config.redis, health).await?;
    let http = match config.telemetry.http_listen.is_empty() {
        true => None,
        false => {
            Some(metrics::serve_http(&config.telemetry.http_listen, readiness.serving()).await?)
        }
    };
    let gate = readiness.gate();
    // It ends with saying that the server does not serve, so that nobody is sent here any more.
    let watcher = tokio::spawn(readiness.watch(stop.clone()));
    let drained = async move {
        let _ = watcher.await;
    };
    let connections = listener::accept(listener, &config.server, tls, stop.clone());
    let keepalive = Duration::from_millis(config.server.keepalive_interval_ms);
    let server = Server::builder()
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES_MAX)
        .max_concurrent_streams(config.server.streams_max)
        .http2_max_header_list_size(config.server.header_bytes_max)
        .http2_keepalive_interval(Some(keepalive))
        .http2_keepalive_timeout(Some(keepalive))
        .http2_max_pending_accept_reset_streams(Some(RESETS_PENDING_MAX))
        // With a grace of tonic's own it would never ask, only cut: the listener has the end.
        .max_connection_age(listener::age_max(&config.server))
        .layer(edge::Layer::new(config, auth))
        .add_service(health_service)
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?)
        .add_service(storage)
        .add_service(InterceptedService::new(quota, gate.clone()))
        .add_service(InterceptedService::new(recognize, gate))
        .serve_with_incoming_shutdown(connections, drained);
    tracing::info!(%address, "listening");

    let mut server = tokio::spawn(server);
    let drain_time = Duration::from_millis(config.server.drain_ms_max);
    let finished = tokio::select! {
        finished = &mut server => Some(finished),
        () = async { stop.cancelled().await; tokio::time::sleep(drain_time).await } => None,
    };
    if finished.is_none() {
        tracing::warn!("calls still run: they are ended and not charged");
    }
    parts.pool.stop();
    let finished = match finished {
        Some(finished) => Some(finished),
        None => tokio::time::timeout(FAREWELL_MAX, &mut server).await.ok(),
    };
    if let Some(finished) = finished {
        finished??;
    }
    if let Some(http) = http {
        http.abort();
    }
    callers_watcher.abort();
    if let Some(watcher) = tls_watcher {
        watcher.abort();
    }
    if tokio::time::timeout(FAREWELL_MAX, parts.store.settled()).await.is_err() {
        tracing::warn!("some holds could not be given back; they go back when their time is over");
    }
    Ok(())
}
