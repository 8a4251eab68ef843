//! A failover by Sentinel: calls wait or end as "try again", in bounded time, and go on with the
//! new primary. Replication is asynchronous, so changes that were acknowledged can be lost with the
//! old one: that is said beforehand, and counted here.

use std::time::{Duration, Instant};

use img2text::grpc::proto::GrantExtraRequestsRequest;
use tonic::Code;

use crate::support::redis::Sentinels;
use crate::support::server::{PATIENCE, Server};

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_is_bounded_and_what_it_loses_is_known() {
    const BEFORE: usize = 50;
    let mut sentinels = Sentinels::start();
    let server = Server::with([("redis.url", sentinels.url().as_str())]);
    let status = server.command(["storage", "status"]);
    let printed = String::from_utf8(status.stdout).unwrap();
    assert!(printed.contains("a failover can lose them"), "{printed}");

    let mut client = server.quota().await;
    let (mut acknowledged, mut refused) = (Vec::new(), 0);
    let (mut killed, mut longest, mut away) = (None, Duration::ZERO, None);
    let deadline = Instant::now() + PATIENCE;
    for number in 0.. {
        assert!(Instant::now() < deadline, "no failover: {refused} refused");
        if number == BEFORE {
            sentinels.kill_primary();
            killed = Some(Instant::now());
        }
        let payment_id = format!("p{number}");
        let request = GrantExtraRequestsRequest {
            user_id: "ann".into(),
            amount: 1,
            payment_id: payment_id.clone(),
        };
        let started = Instant::now();
        let outcome = client.grant_extra_requests(request).await;
        longest = longest.max(started.elapsed());
        match outcome {
            Ok(_) => {
                acknowledged.push(payment_id);
                if let Some(killed) = killed {
                    away = away.or_else(|| Some(killed.elapsed()));
                    if number > BEFORE + 60 {
                        break;
                    }
                }
            }
            Err(status) => {
                assert_eq!(status.code(), Code::Unavailable, "{status:?}");
                refused += 1;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    assert!(longest < Duration::from_secs(15), "a call took {longest:?}");

    let export = String::from_utf8(server.command(["quota", "export", "ann"]).stdout).unwrap();
    let lost =
        acknowledged.iter().filter(|payment| !export.contains(&format!("\"{payment}\""))).count();
    println!(
        "{} acknowledged, {refused} refused, {lost} lost; away for {away:?}, longest call {longest:?}",
        acknowledged.len()
    );
    // What is there adds up, whatever was lost.
    let audit = server.command(["quota", "audit", "ann"]);
    assert!(audit.status.success(), "{audit:?}");
}
