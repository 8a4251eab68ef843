//! A Redis that speaks TLS is believed only if an authority vouches for it.

use img2text::grpc::proto::GrantExtraRequestsRequest;
use tonic::Code;
use tonic_types::StatusExt;

use crate::support::authority::Authority;
use crate::support::redis::Redis;
use crate::support::server::{Server, launch_fails, wait_until};

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
