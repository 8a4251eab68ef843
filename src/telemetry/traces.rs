//! Traces: what a call did and when, as OpenTelemetry's spans, sent over OTLP.
//!
//! Spans are made everywhere and cost nothing as long as nobody wants them. A caller's
//! `traceparent` says to which trace a call belongs, but not whether it is recorded: that is the
//! operator's to decide, or callers could make the server send as much as they like.

use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use http::HeaderMap;
use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry::trace::{
    Link, Span as _, SpanKind, TraceContextExt, TraceId, Tracer, TracerProvider,
};
use opentelemetry::{Context, KeyValue, global};
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{SamplingDecision, SamplingResult, SdkTracerProvider, ShouldSample};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::filter_fn;

use super::AnyLayer;
use crate::config::Telemetry;
use crate::ocr::PhaseTime;

/// Who says it, in every trace and span.
const NAME: &str = "img2text";
/// What the last spans may take to be sent when the server stops.
const FAREWELL_MAX: Duration = Duration::from_secs(3);

/// The way of the spans out of the process, if there is one.
#[derive(Debug)]
#[must_use = "what was not sent yet is lost unless it is stopped"]
pub struct Traces {
    provider: Option<SdkTracerProvider>,
}

impl Traces {
    /// Gives also the layer that collects the spans.
    pub(super) fn start(settings: &Telemetry) -> Result<(Self, Option<AnyLayer>)> {
        let Some(provider) = provider(settings)? else {
            return Ok((Self { provider: None }, None));
        };
        let spans = tracing_opentelemetry::layer()
            .with_tracer(provider.tracer(NAME))
            // What it would add for programmers is nothing to an operator.
            .with_location(false)
            .with_threads(false)
            .with_tracked_inactivity(false)
            .with_filter(filter_fn(|what| what.is_span() && what.target().starts_with(NAME)))
            .boxed();
        global::set_tracer_provider(provider.clone());
        Ok((Self { provider: Some(provider) }, Some(spans)))
    }

    /// Sends what was not sent yet, if the collector takes it in time.
    pub async fn stop(self) {
        let Some(provider) = self.provider else { return };
        let stop =
            tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(FAREWELL_MAX));
        if let Ok(Err(error)) = stop.await {
            tracing::warn!(%error, "the last spans are lost");
        }
    }
}

fn provider(settings: &Telemetry) -> Result<Option<SdkTracerProvider>> {
    let endpoint = settings.otlp_endpoint.as_str();
    if endpoint.is_empty() {
        return Ok(None);
    }
    let exporter = SpanExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .build()
        .with_context(|| format!("telemetry.otlp_endpoint = {endpoint:?}"))?;
    let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    let resource = Resource::builder().with_service_name(NAME).with_attribute(version).build();
    let provider = SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_sampler(Share(settings.trace_sampling_ratio))
        .with_resource(resource)
        .build();
    Ok(Some(provider))
}

/// Records this share of the calls, whole. Neither a caller's flag nor its choice of a trace id has
/// a say.
#[derive(Clone, Debug)]
struct Share(f64);

impl ShouldSample for Share {
    fn should_sample(
        &self,
        parent: Option<&Context>,
        _trace: TraceId,
        _name: &str,
        _kind: &SpanKind,
        _attributes: &[KeyValue],
        _links: &[Link],
    ) -> SamplingResult {
        let parent = parent.filter(|parent| parent.has_active_span());
        let parent = parent.map(|parent| parent.span().span_context().clone());
        let recorded = match &parent {
            Some(parent) if parent.is_valid() && !parent.is_remote() => parent.is_sampled(),
            _ => chance() < self.0,
        };
        let decision =
            if recorded { SamplingDecision::RecordAndSample } else { SamplingDecision::Drop };
        let trace_state = parent.map(|parent| parent.trace_state().clone()).unwrap_or_default();
        SamplingResult { decision, attributes: Vec::new(), trace_state }
    }
}

/// A random number from 0 up to 1.
fn chance() -> f64 {
    let (high, _) = uuid::Uuid::new_v4().as_u64_pair();
    // The upper half of it has nothing but random bits.
    f64::from((high >> 32) as u32) / (f64::from(u32::MAX) + 1.0)
}

/// Makes a span, just begun, a part of the trace that a call's headers name.
pub fn continue_trace(span: &Span, headers: &HeaderMap) {
    if span.is_disabled() {
        return;
    }
    let parent = TraceContextPropagator::new().extract(&Headers(headers));
    if parent.has_active_span() {
        // It fails only for a span that has begun, and this one has not.
        let _ = span.set_parent(parent);
    }
}

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}

/// The trace that a span is recorded in.
pub fn trace_id(span: &Span) -> Option<TraceId> {
    if span.is_disabled() {
        return None;
    }
    let context = span.context();
    let context = context.span().span_context().clone();
    context.is_sampled().then(|| context.trace_id())
}

/// Adds what a worker did, as it measured it, to the current span, which began its wait for the
/// worker at `started`.
pub fn record_phases(started: SystemTime, phases: &[PhaseTime]) {
    let span = Span::current();
    if span.is_disabled() {
        return;
    }
    let parent = span.context();
    let tracer = global::tracer(NAME);
    for phase in phases {
        let begin = started + phase.begin;
        let span = tracer.span_builder(phase.name()).with_kind(SpanKind::Internal);
        let mut span = span.with_start_time(begin).start_with_context(&tracer, &parent);
        span.end_with_timestamp(begin + phase.duration);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recorded(share: f64, parent: Option<&Context>) -> bool {
        let share = Share(share);
        let result = share.should_sample(parent, TraceId::INVALID, "", &SpanKind::Server, &[], &[]);
        result.decision == SamplingDecision::RecordAndSample
    }

    #[test]
    fn a_caller_cannot_have_its_calls_recorded() {
        let mut headers = HeaderMap::new();
        let sampled = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        headers.insert("traceparent", sampled.parse().unwrap());
        let parent = TraceContextPropagator::new().extract(&Headers(&headers));
        assert!(parent.span().span_context().is_sampled());
        assert!((0..1_000).all(|_| !recorded(0.0, Some(&parent))));
        assert!((0..1_000).all(|_| recorded(1.0, Some(&parent))));
        assert!((0..1_000).all(|_| recorded(1.0, None)));
    }

    #[test]
    fn chances_are_even() {
        let low = (0..10_000).filter(|_| chance() < 0.25).count();
        assert!((2_000..3_000).contains(&low), "{low}");
    }
}
