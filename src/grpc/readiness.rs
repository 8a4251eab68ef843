//! Whether this server can keep its promises right now: Redis answers, and, where the operator is
//! strict about it, loses nothing that it acknowledged. Told by the health service, and enforced by
//! a gate before the accounts.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use fred::clients::Client;
use tokio_util::sync::CancellationToken;
use tonic::service::Interceptor;
use tonic::{Request, Status};
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use super::status;
use crate::config::{self, Durability};
use crate::redis::Pulse;
use crate::redis::durability::{self, Report, Verdict};

/// How often Redis is asked whether it is there.
const PING_INTERVAL: Duration = Duration::from_secs(1);

/// The services whose health is told, besides that of the whole server.
const SERVICES: [&str; 3] =
    ["img2text.v1.RecognizeService", "img2text.v1.QuotaService", "img2text.v1.StorageService"];

/// Lets calls through to the accounts, unless Redis is not durable and the operator is strict.
#[derive(Clone, Debug)]
pub struct Gate {
    open: Arc<AtomicBool>,
}

impl Interceptor for Gate {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        if self.open.load(Ordering::Relaxed) { Ok(request) } else { Err(status::not_durable()) }
    }
}

/// Watches over what the server depends on.
pub struct Readiness {
    redis: Client,
    pulse: Pulse,
    strict: bool,
    check_interval: Duration,
    health: HealthReporter,
    gate: Gate,
    serving: Arc<AtomicBool>,
    /// What Redis was like when it was last looked at.
    report: Option<Report>,
}

impl Readiness {
    /// Looks at Redis for the first time. Fails if it can lose what it acknowledged and the
    /// operator is strict about it.
    pub async fn new(
        redis: Client,
        settings: &config::Redis,
        health: HealthReporter,
    ) -> Result<Self> {
        let strict = settings.durability == Durability::Strict;
        // A strict server that has not seen its Redis yet lets nobody through.
        let gate = Gate { open: Arc::new(AtomicBool::new(!strict)) };
        let check_interval = Duration::from_millis(settings.durability_check_interval_ms);
        let serving = Arc::new(AtomicBool::new(false));
        let pulse = Pulse::new(redis.clone(), settings);
        let mut readiness =
            Self { redis, pulse, strict, check_interval, health, gate, serving, report: None };
        let checked = durability::check(&readiness.redis).await;
        let answers = checked.is_ok();
        if let Ok(report) = checked {
            log(&report);
            if strict && report.verdict() != Verdict::Durable {
                let troubles =
                    report.troubles().map(|t| format!("\n  {}: {}", t.check, t.sentence));
                bail!(
                    "redis.durability = \"strict\", and this Redis is not proven to keep what it \
                     acknowledges:{}",
                    troubles.collect::<String>()
                );
            }
            readiness.gate.open.store(true, Ordering::Relaxed);
            readiness.report = Some(report);
        }
        if !answers {
            tracing::error!(redis_answers = false, "not serving");
        }
        readiness.tell(answers).await;
        Ok(readiness)
    }

    /// What stands before the accounts.
    pub fn gate(&self) -> Gate {
        self.gate.clone()
    }

    /// Whether the server serves, as it changes.
    pub fn serving(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.serving)
    }

    /// Watches until the server is told to stop, and then says at once that it does not serve, and
    /// no more: those who watch its health would keep it from coming to an end.
    pub async fn watch(mut self, stop: CancellationToken) {
        let mut serving = self.serving.load(Ordering::Relaxed);
        let mut checked = Instant::now();
        // Not before: nothing is counted until the metrics are served.
        self.report.iter().for_each(measure);
        while stop.run_until_cancelled(tokio::time::sleep(PING_INTERVAL)).await.is_some() {
            let asked = Instant::now();
            let answers = self.pulse.answers().await;
            metrics::histogram!("img2text_redis_ping_seconds").record(asked.elapsed());
            metrics::gauge!("img2text_redis_up").set(if answers { 1.0 } else { 0.0 });
            let gate_open = self.gate.open.load(Ordering::Relaxed);
            if answers && (checked.elapsed() >= self.check_interval || !gate_open) {
                checked = Instant::now();
                self.check().await;
            }
            let now_serving = answers && self.gate.open.load(Ordering::Relaxed);
            if now_serving != serving {
                serving = now_serving;
                self.tell(serving).await;
                match serving {
                    true => tracing::info!("serving again"),
                    false => tracing::error!(redis_answers = answers, "not serving"),
                }
            }
        }
        self.tell(false).await;
        for service in SERVICES.into_iter().chain([""]) {
            // What was told is still taken; then the watch is over.
            self.health.clear_service_status(service).await;
            self.health.set_service_status(service, ServingStatus::NotServing).await;
        }
    }

    async fn check(&mut self) {
        let Ok(report) = durability::check(&self.redis).await else {
            // Nothing is proven any more.
            return self.gate.open.store(!self.strict, Ordering::Relaxed);
        };
        let durable = report.verdict() == Verdict::Durable;
        self.gate.open.store(durable || !self.strict, Ordering::Relaxed);
        measure(&report);
        if self.report.as_ref().map(Report::verdict) != Some(report.verdict()) {
            log(&report);
        }
        self.report = Some(report);
    }

    async fn tell(&self, serving: bool) {
        self.serving.store(serving, Ordering::Relaxed);
        let status = if serving { ServingStatus::Serving } else { ServingStatus::NotServing };
        self.health.set_service_status("", status).await;
        for service in SERVICES {
            self.health.set_service_status(service, status).await;
        }
    }
}

fn log(report: &Report) {
    for trouble in report.troubles() {
        tracing::warn!(
            node = trouble.node,
            check = trouble.check,
            verdict = %trouble.verdict,
            "Redis can lose what it acknowledged: {}",
            trouble.sentence
        );
    }
}

fn measure(report: &Report) {
    let durable = report.verdict() == Verdict::Durable;
    metrics::gauge!("img2text_storage_durable").set(if durable { 1.0 } else { 0.0 });
    let verdicts = [
        (Verdict::Durable, "durable"),
        (Verdict::Unknown, "unknown"),
        (Verdict::AtRisk, "at_risk"),
    ];
    for (verdict, name) in verdicts {
        let found = report.findings.iter().filter(|finding| finding.verdict == verdict).count();
        metrics::gauge!("img2text_storage_findings", "verdict" => name).set(found as f64);
    }
}
