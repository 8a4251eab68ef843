//! Claim: what the server says about itself costs little, and nothing that is not asked for.
//!
//! ReserveQuota, the call with the least work of its own, at eight callers: with the log of calls
//! alone, without it, with metrics, with every call traced to a collector on the same machine, and
//! with one in a hundred traced. In turns in the same run; prints the medians of the rounds, and
//! their ratio to the first.

#[path = "../tests/support/mod.rs"]
#[allow(dead_code)]
mod support;

use std::time::Duration;

use support::collector::Collector;
use support::load::{median, reserve_rate};
use support::server::Server;

const ROUNDS: u32 = 7;
const ROUND_TIME: Duration = Duration::from_secs(2);
const CALLERS: usize = 8;
/// What the server says of itself, but not its calls.
const NO_CALLS: &str = "warn,img2text::grpc::serve=info";

#[tokio::main]
async fn main() {
    let collector = Collector::start().await;
    let otlp = ("telemetry.otlp_endpoint", collector.endpoint());
    let http = ("telemetry.http_listen", "127.0.0.1:0");
    let servers = [
        ("a log line a call (the default)", Server::start()),
        ("no log line", Server::with([("telemetry.log_filter", NO_CALLS)])),
        ("log and metrics", Server::with([http])),
        ("log and 1 % traced", Server::with([otlp, ("telemetry.trace_sampling_ratio", "0.01")])),
        ("log and all traced", Server::with([otlp])),
        ("log, metrics and all traced", Server::with([http, otlp])),
    ];
    let mut rates = servers.each_ref().map(|_| Vec::new());
    for round in 0..ROUNDS {
        for ((_, server), rates) in servers.iter().zip(&mut rates) {
            rates.push(reserve_rate(server, CALLERS, ROUND_TIME, &round.to_string()).await);
        }
    }
    let medians = rates.map(median);
    println!("| telemetry | ReserveQuota/s | ratio |");
    println!("|---|---|---|");
    for ((what, _), rate) in servers.iter().zip(medians) {
        println!("| {what} | {rate:.0} | {:.2} |", rate / medians[0]);
    }
    println!("\nThe collector received {} spans.", collector.spans().len());
}
