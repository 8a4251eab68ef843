//! A Redis that speaks TLS is believed only if an authority vouches for it.

use std::time::{Duration, Instant};

use img2text::grpc::proto::GrantExtraRequestsRequest;
use tonic::Code;
use tonic_types::StatusExt;

use crate::support::authority::Authority;
use crate::support::redis::{Cluster, Redis, Sentinels};
use crate::support::server::{PATIENCE, Server, launch_fails, wait_until};

fn grant() -> GrantExtraRequestsRequest {
    GrantExtraRequestsRequest { user_id: "ann".into(), amount: 7, payment_id: "p1".into() }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_of_ones_own_vouches_for_redis() {
    let authority = Authority::new();
    authority.sign("localhost");
    let (redis, url) = Redis::start_with_tls(&authority);
    let ca = authority.path("ca.pem");
    let server = Server::with([("redis.url", &*url), ("redis.tls_ca_file", &*ca)]);
    server.quota().await.grant_extra_requests(grant()).await.expect("a Redis with TLS");
    assert_eq!(redis.cli(&["HGET", "sub:user:ann", "extra_remaining"]).trim(), "7");

    // The operator's tools reach it in the same way.
    let trust = format!("redis.tls_ca_file={ca}");
    let check = server.command(["storage", "check", "--redis-url", &url, "--set", &trust]);
    assert!(check.status.success(), "{check:?}");
    assert!(String::from_utf8_lossy(&check.stdout).starts_with("1 users"), "{check:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_only_a_stranger_vouches_for_gets_no_account() {
    let (ours, strangers) = (Authority::new(), Authority::new());
    strangers.sign("localhost");
    let (redis, url) = Redis::start_with_tls(&strangers);
    let ca = ours.path("ca.pem");
    for trust in [&*ca, ""] {
        let server = Server::with([("redis.url", &*url), ("redis.tls_ca_file", trust)]);
        let status = server.quota().await.grant_extra_requests(grant()).await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
        let details = status.get_error_details();
        assert_eq!(details.error_info().expect("an ErrorInfo").reason, "STORE_UNAVAILABLE");
        wait_until("the log says why", || {
            server.log().contains("this Redis does not prove to be ours")
        });
    }
    assert_eq!(redis.cli(&["DBSIZE"]).trim(), "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_with_tls_holds_accounts_on_every_node() {
    let authority = Authority::new();
    let mut cluster = Cluster::start_with_tls(&authority);
    let ca = authority.path("ca.pem");
    let server = Server::with([("redis.url", &*cluster.url()), ("redis.tls_ca_file", &*ca)]);
    let mut client = server.quota().await;
    for user in 0..30 {
        let request = GrantExtraRequestsRequest { user_id: user.to_string(), ..grant() };
        client.grant_extra_requests(request).await.expect("a Cluster with TLS");
    }
    assert!(cluster.keys_per_node().iter().all(|keys| *keys > 0));

    cluster.restart_every_node();
    for user in 0..30 {
        let user = user.to_string();
        granted_again(&server, &user).await;
        let account = server.account(&user).await;
        assert_eq!(account.available.expect("what is available").extra, 14, "{account:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_sentinels_name_is_reached_over_tls_and_so_is_the_next() {
    let authority = Authority::new();
    let mut sentinels = Sentinels::start_with_tls(&authority);
    let ca = authority.path("ca.pem");
    let server = Server::with([("redis.url", &*sentinels.url()), ("redis.tls_ca_file", &*ca)]);
    let first = server.quota().await.grant_extra_requests(grant()).await;
    first.expect("a primary with TLS");

    sentinels.kill_primary();
    granted_again(&server, "ann").await;
}

/// Grants once there is a Redis again.
async fn granted_again(server: &Server, user_id: &str) {
    let deadline = Instant::now() + PATIENCE;
    let request =
        GrantExtraRequestsRequest { user_id: user_id.into(), payment_id: "p2".into(), ..grant() };
    loop {
        match server.quota().await.grant_extra_requests(request.clone()).await {
            Ok(_) => break,
            Err(status) => assert_eq!(status.code(), Code::Unavailable, "{status:?}"),
        }
        assert!(Instant::now() < deadline, "no grant any more");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[test]
fn an_authority_is_refused_that_would_not_be_asked_or_cannot_be_read() {
    let authority = Authority::new();
    let ca = authority.path("ca.pem");
    let message = launch_fails(&[("redis.url", "redis://localhost"), ("redis.tls_ca_file", &ca)]);
    assert!(message.contains("redis.tls_ca_file") && message.contains("rediss://"), "{message}");
    for (file, what) in [("ca.key", "holds no certificate"), ("none.pem", "No such file")] {
        let file = authority.path(file);
        let settings = [("redis.url", "rediss://localhost"), ("redis.tls_ca_file", &*file)];
        let message = launch_fails(&settings);
        assert!(message.contains(&file) && message.contains(what), "{message}");
    }
}
