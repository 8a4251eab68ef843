//! What is counted and measured, for Prometheus, and the probes beside it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use axum::Router;
use axum::http::{StatusCode, header};
use axum::routing::get;
use metrics::{describe_counter, describe_gauge, describe_histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// The bounds of the buckets of times, in seconds: from a step in Redis to the longest page.
const TIME_BUCKETS: [f64; 14] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0, 120.0];
/// How often what was measured is put into its buckets, so that it does not pile up when nobody
/// asks.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// The name of a metric, its kind and its meaning; `docs/metrics.md` lists them.
pub const METRICS: &[(&str, Kind, &str)] = &[
    (
        "img2text_rpc_duration_seconds",
        Kind::Histogram,
        "What calls took, from their headers to the end of their answer, by method and code.",
    ),
    (
        "img2text_rpc_failures_total",
        Kind::Counter,
        "Calls that failed, by method and by the reason in docs/errors.md; CALLER_WENT_AWAY for those that nobody waited for.",
    ),
    ("img2text_rpc_in_flight", Kind::Gauge, "Calls that run."),
    (
        "img2text_messages_in_flight_bytes",
        Kind::Gauge,
        "The messages that the server holds, of which server.in_flight_bytes_max is the limit.",
    ),
    ("img2text_connections", Kind::Gauge, "Connections that are open."),
    (
        "img2text_connections_refused_total",
        Kind::Counter,
        "Connections closed at once because there were server.connections_max.",
    ),
    (
        "img2text_connections_silent_total",
        Kind::Counter,
        "Connections closed because the client said nothing in time.",
    ),
    ("img2text_ocr_queue_depth", Kind::Gauge, "Pages that wait for a worker."),
    ("img2text_ocr_queue_wait_seconds", Kind::Histogram, "How long pages waited for a worker."),
    (
        "img2text_ocr_page_seconds",
        Kind::Histogram,
        "How long workers took for a page that they recognised.",
    ),
    (
        "img2text_ocr_phase_seconds",
        Kind::Histogram,
        "What workers did with the pages that they recognised, by phase: decode, prepare, orient, recognize, write.",
    ),
    (
        "img2text_ocr_worker_restarts_total",
        Kind::Counter,
        "Workers that were replaced, by reason: died; killed over a page that took too long (deadline) or that nobody wanted any more (abandoned); worn out after so many pages, or by how much memory they kept.",
    ),
    (
        "img2text_quota_events_total",
        Kind::Counter,
        "Recognitions by what became of their charge: recognized, answered_again, refused, failed.",
    ),
    (
        "img2text_quota_near_limit_total",
        Kind::Counter,
        "Steps after which an account was near its limit, as quota.near_limit_percent sets it.",
    ),
    (
        "img2text_quota_reservations_total",
        Kind::Counter,
        "Holds by outcome: reserved, and then committed, released or expired. One that expires is counted when its user is next touched.",
    ),
    (
        "img2text_quota_refusals_total",
        Kind::Counter,
        "Holds that an account refused, by the reason in docs/errors.md: QUOTA_EXHAUSTED, TOO_MANY_HOLDS or TOO_MANY_RESERVATIONS.",
    ),
    ("img2text_recognized_pages_total", Kind::Counter, "Pages that were read and charged."),
    (
        "img2text_recognized_characters_total",
        Kind::Counter,
        "Characters that were read and charged.",
    ),
    (
        "img2text_redis_up",
        Kind::Gauge,
        "1 if Redis, every node of a Cluster, answered when it was last asked, else 0.",
    ),
    (
        "img2text_redis_ping_seconds",
        Kind::Histogram,
        "How long Redis, the slowest node of a Cluster, took to answer a PING.",
    ),
    (
        "img2text_redis_step_seconds",
        Kind::Histogram,
        "How long Redis took for a step on an account, by step; a second attempt after a lost answer included.",
    ),
    (
        "img2text_storage_findings",
        Kind::Gauge,
        "What was found in Redis when it was last looked at, by verdict: durable, unknown, at_risk.",
    ),
    (
        "img2text_storage_durable",
        Kind::Gauge,
        "1 if Redis is proven to keep what it acknowledges, else 0.",
    ),
];

/// What kind of numbers a metric has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A number that only grows.
    Counter,
    /// A number as it is now.
    Gauge,
    /// How many values were in which range.
    Histogram,
}

/// Serves `/metrics`, `/livez` and `/readyz` on `address`. Nothing is counted unless this is
/// called.
pub async fn serve_http(address: &str, serving: Arc<AtomicBool>) -> Result<JoinHandle<()>> {
    let listener =
        TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
    let metrics = start_metrics()?;
    let page = metrics.clone();
    let routes = Router::new()
        .route(
            "/metrics",
            get(async move || {
                ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], page.render())
            }),
        )
        // That it answers is the answer.
        .route("/livez", get(async || "alive\n"))
        .route(
            "/readyz",
            get(async move || match serving.load(Ordering::Relaxed) {
                true => (StatusCode::OK, "ready\n"),
                false => (StatusCode::SERVICE_UNAVAILABLE, "not ready\n"),
            }),
        );
    tracing::info!(http = %listener.local_addr()?, "metrics and probes");
    Ok(tokio::spawn(async move {
        let upkeep = async {
            loop {
                tokio::time::sleep(UPKEEP_INTERVAL).await;
                metrics.run_upkeep();
            }
        };
        tokio::select! {
            served = axum::serve(listener, routes) => {
                if let Err(error) = served {
                    tracing::error!(%error, "metrics and probes are gone");
                }
            }
            () = upkeep => {}
        }
    }))
}

fn start_metrics() -> Result<PrometheusHandle> {
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &TIME_BUCKETS)?
        .install_recorder()?;
    for &(name, kind, meaning) in METRICS {
        match kind {
            Kind::Counter => describe_counter!(name, meaning),
            Kind::Gauge => describe_gauge!(name, meaning),
            Kind::Histogram => describe_histogram!(name, meaning),
        }
    }
    Ok(handle)
}
