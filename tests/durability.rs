//! A Redis that can lose what it acknowledged is noticed, reported, and, where the operator is
//! strict, refused.

use std::time::Duration;

use img2text::grpc::proto::GetQuotaRequest;
use rustix::process::Signal;
use serde_json::Value;
use tonic::Code;
use tonic_types::StatusExt;

use crate::support::server::{Server, launch_fails, signal, wait_until};

fn storage_status(server: &Server) -> (Value, Option<i32>) {
    let output = server.command(["storage", "status", "--json"]);
    (serde_json::from_slice(&output.stdout).unwrap(), output.status.code())
}

fn finding(status: &Value, check: &str) -> String {
    let findings = status["findings"].as_array().unwrap();
    let finding = findings.iter().find(|finding| finding["check"] == check);
    finding.unwrap_or_else(|| panic!("no {check} in {status}"))["verdict"].to_string()
}

#[test]
fn the_private_redis_is_durable() {
    let server = Server::with([("redis.durability", "strict")]);
    let (status, code) = storage_status(&server);
    assert_eq!(status["verdict"], "durable", "{status}");
    assert_eq!(code, Some(0));
}

#[test]
fn a_redis_that_can_lose_something_is_reported() {
    let server = Server::with([("redis.durability_check_interval_ms", "100")]);
    for (check, wrong, right) in [
        ("appendonly", "no", "yes"),
        ("appendfsync", "everysec", "always"),
        ("no-appendfsync-on-rewrite", "yes", "no"),
        ("stop-writes-on-bgsave-error", "no", "yes"),
        ("maxmemory-policy", "allkeys-lru", "noeviction"),
    ] {
        server.redis_cli(&["CONFIG", "SET", check, wrong]);
        let (status, code) = storage_status(&server);
        assert_eq!(finding(&status, check), "\"at risk\"");
        assert_eq!(status["verdict"], "at risk");
        assert_eq!(code, Some(1));
        server.redis_cli(&["CONFIG", "SET", check, right]);
    }
    server.redis_cli(&["CONFIG", "SET", "appendfsync", "everysec"]);
    wait_until("the log says so", || server.log().contains("Redis can lose what it acknowledged"));
    // Reported, not refused: this server is not strict.
    assert!(server.command(["quota", "get", "42"]).status.success());
}

#[test]
fn what_may_not_be_read_is_unknown() {
    let server = Server::start();
    server.redis_cli(&["ACL", "SETUSER", "default", "-config"]);
    let (status, code) = storage_status(&server);
    assert_eq!(finding(&status, "appendfsync"), "\"unknown\"");
    assert_eq!(status["verdict"], "unknown");
    assert_eq!(code, Some(1));

    server.redis_cli(&["ACL", "SETUSER", "default", "+config", "-info"]);
    let (status, code) = storage_status(&server);
    assert_eq!(finding(&status, "appendfsync"), "\"durable\"");
    assert_eq!(finding(&status, "appendonly"), "\"unknown\"");
    assert_eq!((&status["verdict"], code), (&Value::from("unknown"), Some(1)));
}

/// While a strict server's Redis is not durable, nothing is charged or sold, and health says so.
#[tokio::test(flavor = "multi_thread")]
async fn a_strict_server_refuses_to_serve_meanwhile() {
    let server = Server::with([
        ("redis.durability", "strict"),
        ("redis.durability_check_interval_ms", "100"),
    ]);
    let health = || server.command(["health"]).status.code();
    assert_eq!(health(), Some(0));

    server.redis_cli(&["CONFIG", "SET", "appendfsync", "everysec"]);
    wait_until("health says so", || health() == Some(5));
    let request = GetQuotaRequest { user_id: "42".into() };
    let status = server.quota().await.get_quota(request).await.expect_err("refused");
    assert_eq!(status.code(), Code::Unavailable);
    let details = status.get_error_details();
    assert_eq!(details.error_info().unwrap().reason, "STORE_NOT_DURABLE");
    assert!(details.retry_info().unwrap().retry_delay.unwrap() > Duration::ZERO);
    // The operator can still see why.
    assert_eq!(storage_status(&server).0["verdict"], "at risk");

    server.redis_cli(&["CONFIG", "SET", "appendfsync", "always"]);
    wait_until("it serves again", || health() == Some(0));
    assert_eq!(server.account("42").await.user_id, "42");
}

#[test]
fn a_strict_server_refuses_to_start_on_a_redis_without_a_file() {
    let redis = crate::support::redis::Redis::start();
    redis.cli(&["CONFIG", "SET", "appendonly", "no"]);
    let message = launch_fails(&[("redis.url", &redis.url()), ("redis.durability", "strict")]);
    assert!(message.contains("appendonly: there is no append-only file"), "{message}");
}

#[test]
fn health_follows_redis() {
    let server = Server::with([("redis.command_timeout_ms", "300")]);
    let redis = server.redis_pid();
    signal(redis, Signal::STOP);
    wait_until("health says so", || server.command(["health"]).status.code() == Some(5));
    signal(redis, Signal::CONT);
    wait_until("health says so", || server.command(["health"]).status.code() == Some(0));
}
