//! Claim: ReserveQuota over gRPC reaches at least half of the calls per second that Redis itself
//! reaches with the same script, at 64 callers.
//!
//! The reference is redis-benchmark, from Redis's own house, with the very EVALSHA that the server
//! sends (taken down with MONITOR), against the same Redis, in turns in the same run. Every call is
//! for a user of its own on both sides. Prints a row per number of callers: the medians of the
//! rounds, and their ratio.
//!
//! `cargo bench --bench reserve -- [CALLERS]...`

#[path = "../tests/support/mod.rs"]
#[allow(dead_code)]
mod support;

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use support::load::{median, reserve_rate, reserve_request};
use support::server::Server;

const ROUNDS: u64 = 3;
const ROUND_TIME: Duration = Duration::from_secs(3);

#[tokio::main]
async fn main() {
    let server = Server::start();
    let script_call = script_call(&server).await;
    println!("| callers | ReserveQuota/s | redis-benchmark EVALSHA/s | ratio |");
    println!("|---|---|---|---|");
    for callers in numbers_of_callers() {
        let (mut over_grpc, mut in_redis) = (Vec::new(), Vec::new());
        for round in 0..ROUNDS {
            let name = format!("{callers}-{round}");
            let rate = reserve_rate(&server, callers, ROUND_TIME, &name).await;
            let calls = (rate * 1.5 * ROUND_TIME.as_secs_f64()) as u64;
            over_grpc.push(rate);
            in_redis.push(redis_benchmark_rate(&server, callers, calls, &script_call));
        }
        let (ours, theirs) = (median(over_grpc), median(in_redis));
        println!("| {callers} | {ours:.0} | {theirs:.0} | {:.2} |", ours / theirs);
    }
}

/// Those on the command line, or the usual ones.
fn numbers_of_callers() -> Vec<usize> {
    let given: Vec<usize> = std::env::args().filter_map(|word| word.parse().ok()).collect();
    if given.is_empty() { vec![1, 8, 64] } else { given }
}

/// The words of the script call by which the server reserves, with the user's name replaced by
/// redis-benchmark's placeholder for a random number.
async fn script_call(server: &Server) -> Vec<String> {
    const USER: &str = "the-one-that-is-watched";
    let mut client = server.quota().await;
    // Once before, so that the script is loaded and the call goes through by its hash.
    client.reserve_quota(reserve_request("somebody-else")).await.expect("a hold");
    let mut monitor = Command::new("redis-cli")
        .args(["-s", &server.redis_socket(), "monitor"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("redis-cli runs");
    let mut lines = BufReader::new(monitor.stdout.take().expect("a pipe")).lines();
    let started = lines.next().expect("MONITOR answers").expect("MONITOR answers");
    assert_eq!(started, "OK");
    client.reserve_quota(reserve_request(USER)).await.expect("a hold");
    let line = lines
        .map_while(Result::ok)
        .find(|line| line.to_ascii_uppercase().contains("\"EVALSHA\"") && line.contains(USER))
        .expect("the call is seen");
    monitor.kill().expect("redis-cli runs");
    monitor.wait().expect("redis-cli can be waited for");
    words(&line).into_iter().map(|word| word.replace(USER, "__rand_int__")).collect()
}

/// The words of a command as MONITOR prints them: in quotes, with backslashes before quotes and
/// backslashes.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut characters = line.chars();
    while characters.any(|character| character == '"') {
        let mut word = String::new();
        while let Some(character) = characters.next() {
            match character {
                '"' => break,
                '\\' => word.extend(characters.next()),
                other => word.push(other),
            }
        }
        words.push(word);
    }
    words
}

/// How many users redis-benchmark chooses from: so many that hardly one comes twice, and a hold is
/// made by every call.
const BENCHMARK_USERS: &str = "1000000000";

/// Calls per second as redis-benchmark counts them.
fn redis_benchmark_rate(server: &Server, callers: usize, calls: u64, command: &[String]) -> f64 {
    let calls = calls.max(1_000);
    server.redis_cli(&["CONFIG", "RESETSTAT"]);
    let output = Command::new("redis-benchmark")
        .args(["-s", &server.redis_socket(), "--csv", "-r", BENCHMARK_USERS])
        .args(["-c", &callers.to_string(), "-n", &calls.to_string()])
        .args(command)
        .output()
        .expect("redis-benchmark runs");
    let holds = holds_made(server);
    assert!(holds > calls * 99 / 100, "{calls} calls made {holds} holds: that is other work");
    let stdout = String::from_utf8_lossy(&output.stdout);
    // "test","rps","avg_latency_ms","min_latency_ms","p50_latency_ms","p95_…","p99_…","max_…"
    let rate = stdout.lines().last().and_then(|line| line.rsplit(',').nth(6));
    let rate = rate.unwrap_or_else(|| {
        panic!(
            "redis-benchmark said:
{stdout}"
        )
    });
    rate.trim_matches('"').parse().expect("a number")
}

/// How many holds were made since the statistics of Redis were reset: each is one ZADD.
fn holds_made(server: &Server) -> u64 {
    let statistics = server.redis_cli(&["INFO", "commandstats"]);
    let line = statistics.lines().find_map(|line| line.strip_prefix("cmdstat_zadd:calls="));
    let calls = line.and_then(|line| line.split(',').next()?.parse().ok());
    calls.unwrap_or_default()
}
