//! Claim: ReserveQuota over gRPC reaches at least half of the calls per second that Redis itself
//! reaches with the same script, at 64 callers.
//!
//! The reference is redis-benchmark, from Redis's own house, with the very EVALSHA that the server
//! sends (taken down with MONITOR), against the same Redis, in turns in the same run. Every call is
//! for a user of its own on both sides. Prints a row per number of callers: the medians of the
//! rounds, and their ratio.

#[path = "../tests/support/mod.rs"]
#[allow(dead_code)]
mod support;

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use img2text::grpc::proto::ReserveQuotaRequest;
use img2text::grpc::proto::quota_service_client::QuotaServiceClient;
use support::server::Server;
use tonic::transport::Channel;

const ROUNDS: u64 = 3;
const ROUND_TIME: Duration = Duration::from_secs(3);
const CHANNELS_MAX: usize = 4;

#[tokio::main]
async fn main() {
    let server = Server::start();
    let script_call = script_call(&server).await;
    println!("| callers | ReserveQuota/s | redis-benchmark EVALSHA/s | ratio |");
    println!("|---|---|---|---|");
    for callers in [1, 8, 64] {
        let (mut over_grpc, mut in_redis) = (Vec::new(), Vec::new());
        for round in 0..ROUNDS {
            let rate = reserve_rate(&server, callers, round).await;
            let calls = (rate * 1.5 * ROUND_TIME.as_secs_f64()) as u64;
            over_grpc.push(rate);
            in_redis.push(redis_benchmark_rate(&server, callers, calls, &script_call));
        }
        let (ours, theirs) = (median(over_grpc), median(in_redis));
        println!("| {callers} | {ours:.0} | {theirs:.0} | {:.2} |", ours / theirs);
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn reserve_request(user: &str) -> ReserveQuotaRequest {
    ReserveQuotaRequest {
        user_id: user.into(),
        reservation_id: "reservation".into(),
        amount: 1,
        ..Default::default()
    }
}

/// Calls per second that so many callers get through in a round.
async fn reserve_rate(server: &Server, callers: usize, round: u64) -> f64 {
    let mut channels: Vec<Channel> = Vec::new();
    for _ in 0..callers.min(CHANNELS_MAX) {
        channels.push(server.channel().await);
    }
    let started = Instant::now();
    let tasks = (0..callers).map(|caller| {
        let mut client = QuotaServiceClient::new(channels[caller % channels.len()].clone());
        tokio::spawn(async move {
            let mut calls = 0_u64;
            while started.elapsed() < ROUND_TIME {
                let user = format!("bench-{callers}-{round}-{caller}-{calls}");
                client.reserve_quota(reserve_request(&user)).await.expect("a hold");
                calls += 1;
            }
            calls
        })
    });
    let mut calls = 0;
    for task in tasks.collect::<Vec<_>>() {
        calls += task.await.expect("a caller ends");
    }
    calls as f64 / started.elapsed().as_secs_f64()
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

/// Calls per second as redis-benchmark counts them.
fn redis_benchmark_rate(server: &Server, callers: usize, calls: u64, command: &[String]) -> f64 {
    let output = Command::new("redis-benchmark")
        .args(["-s", &server.redis_socket(), "--csv", "-r", "999999999999"])
        .args(["-c", &callers.to_string(), "-n", &calls.max(1_000).to_string()])
        .args(command)
        .output()
        .expect("redis-benchmark runs");
    let stdout = String::from_utf8_lossy(&output.stdout);
    // "test","rps","avg_latency_ms","min_latency_ms","p50_latency_ms","p95_…","p99_…","max_…"
    let rate = stdout.lines().last().and_then(|line| line.rsplit(',').nth(6));
    let rate = rate.unwrap_or_else(|| panic!("redis-benchmark said:\n{stdout}"));
    rate.trim_matches('"').parse().expect("a number")
}
