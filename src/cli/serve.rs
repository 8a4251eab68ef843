//! `img2text serve`: puts the house together and lets it run until it is told to stop.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, Result};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::Failure;
use super::settings::Settings;
use crate::config::Config;
use crate::grpc::serve::{Parts, serve};
use crate::ocr::Pool;
use crate::quota::{Catalog, Store};
use crate::redis::{self, Embedded};
use crate::telemetry;

/// Our own program, for the children: after an upgrade its path may be gone or another program.
pub(super) const OWN_PROGRAM: &str = "/proc/self/exe";

/// Run the server.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    settings: Settings,
    /// Listen on an address that others can reach, without authentication
    #[arg(long)]
    insecure: bool,
}

/// Runs the server until SIGTERM or SIGINT.
pub async fn run(args: Args) -> Result<()> {
    let config = args.settings.load()?.config;
    refuse_strangers(&config, args.insecure)?;
    let traces = telemetry::start(&config.telemetry)?;
    let served = start_and_serve(&config).await;
    traces.stop().await;
    served
}

async fn start_and_serve(config: &Config) -> Result<()> {
    let stop = stop_on_signal()?;
    let catalog = match config.quota.catalog.as_os_str().is_empty() {
        true => Catalog::built_in(),
        false => Catalog::load(&config.quota.catalog)
            .with_context(|| config.quota.catalog.display().to_string())?,
    };
    let embedded = match config.redis.url.is_empty() {
        true => Some(Embedded::start(OWN_PROGRAM.into(), &config.redis).await?),
        false => None,
    };
    let url = embedded.as_ref().map_or_else(|| config.redis.url.clone(), Embedded::url);
    let served = serve_on(config, catalog, &url, stop).await;
    // Whatever came before: what was acknowledged is on the disk, and stays whole.
    if let Some(embedded) = embedded {
        embedded.stop().await;
    }
    served?;
    tracing::info!("stopped");
    Ok(())
}

async fn serve_on(
    config: &Config,
    catalog: Catalog,
    redis_url: &str,
    stop: CancellationToken,
) -> Result<()> {
    let redis = redis::connect(&config.redis, redis_url).await?;
    let store = Store::new(redis.clone(), catalog, config.quota.clone());
    let pool = Pool::start(PathBuf::from(OWN_PROGRAM), config.ocr.clone()).await?;
    serve(config, Parts { redis, store, pool }, stop).await
}

/// An address that others can reach needs authentication, or somebody who says in so many words
/// that it does not.
fn refuse_strangers(config: &Config, insecure: bool) -> Result<()> {
    let listen: SocketAddr = config.server.listen.parse()?;
    let known_callers = !config.auth.callers.as_os_str().is_empty();
    if insecure || known_callers || listen.ip().is_loopback() {
        return Ok(());
    }
    let message = format!(
        "server.listen = {listen}: others could reach the accounts there without authentication. \
         Name the callers (auth.callers, see `img2text token new --help`), listen on 127.0.0.1, or \
         say --insecure if something else keeps strangers out"
    );
    Err(Failure { code: 2, message }.into())
}

fn stop_on_signal() -> Result<CancellationToken> {
    let stop = CancellationToken::new();
    let (mut terminate, mut interrupt) =
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let told = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("told to stop: finishing what runs");
        told.cancel();
    });
    Ok(stop)
}
