//! What the server says about itself: logs, traces, metrics, and whether it is alive and ready.

pub mod metrics;
pub mod traces;

use std::io::{IsTerminal, stderr};

use anyhow::{Context, Result};
use tracing_subscriber::filter::FilterExt;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry};

use crate::config::{LogFormat, Telemetry};
use traces::Traces;

/// Starts the log, on standard error, and the traces, if there is somewhere to send them. Must be
/// called in a runtime.
pub fn start(settings: &Telemetry) -> Result<Traces> {
    let (traces, spans) = Traces::start(settings)?;
    // A list, and not an Option for the spans: an absent layer would want every span to be made.
    let layers: Vec<_> = spans.into_iter().chain([log(settings)?]).collect();
    tracing_subscriber::registry().with(layers).init();
    Ok(traces)
}

/// What is told of what happens, as it happens.
type AnyLayer = Box<dyn Layer<Registry> + Send + Sync>;

fn log(settings: &Telemetry) -> Result<AnyLayer> {
    let filter = EnvFilter::try_new(&settings.log_filter)
        .with_context(|| format!("telemetry.log_filter = {:?}", settings.log_filter))?;
    // Spans are for the traces: the line of a call says what it has to say by itself.
    let filter = filter.and(tracing_subscriber::filter::filter_fn(|what| what.is_event()));
    let log = tracing_subscriber::fmt::layer().with_writer(stderr);
    let log = match settings.log_format {
        LogFormat::Text => log.with_ansi(stderr().is_terminal()).boxed(),
        LogFormat::Json => log.json().flatten_event(true).boxed(),
    };
    Ok(log.with_filter(filter).boxed())
}
