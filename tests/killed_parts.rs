//! Any part may be killed (SIGKILL) at any time: what was acknowledged stays, what was not
//! delivered is not charged.

use std::time::{Duration, Instant};

use img2text::grpc::proto::{
    ChargeState, CommitReservationRequest, GetQuotaRequest, ReserveQuotaRequest,
    quota_service_client::QuotaServiceClient,
};
use rustix::process::Signal;
use tonic::Code;
use tonic_types::StatusExt;

use crate::support::picture;
use crate::support::redis::Redis;
use crate::support::server::{PATIENCE, Server, recognize_request, signal, spent, wait_until};

/// The worker dies in the middle of a call: that call fails with a clear status and is not
/// charged, and the next one works.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_worker_costs_its_caller_nothing() {
    let server = Server::with([("ocr.workers", "1")]);
    let mut client = server.recognize().await;
    client.recognize(recognize_request("41", picture::line("Warm"))).await.expect("warm");
    let worker = server.children("worker")[0];

    let request = recognize_request("42", picture::dense_page());
    let call = tokio::spawn(async move { client.recognize(request).await });
    wait_until_busy(worker);
    signal(worker, Signal::KILL);
    let status = call.await.unwrap().expect_err("the worker is dead");
    assert_eq!(status.code(), Code::Internal, "{status:?}");
    assert_eq!(status.get_error_details().error_info().unwrap().reason, "WORKER_DIED");
    let account = server.account("42").await;
    assert_eq!((account.available.unwrap().free, spent(&account)), (3, 0));

    let request = recognize_request("42", picture::line("The next call"));
    let response = server.recognize().await.recognize(request).await.unwrap().into_inner();
    assert_eq!(response.text.trim(), "The next call");
}

/// After a power cut a server may be there before its Redis: it says that it does not serve, and
/// serves once it can.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_may_start_before_its_redis() {
    for durability in ["warn", "strict"] {
        let mut redis = Redis::start();
        redis.kill();
        let settings = [
            ("redis.url", &*redis.url()),
            ("redis.durability", durability),
            ("redis.command_timeout_ms", "500"),
        ];
        let server = Server::with(settings);
        let is_healthy = || server.command(["health"]).status.success();
        assert!(!is_healthy(), "{durability}: it says that it serves");
        let request = GetQuotaRequest { user_id: "42".into() };
        let status = server.quota().await.get_quota(request).await.expect_err("no Redis");
        assert_eq!(status.code(), Code::Unavailable, "{durability}: {status:?}");
        redis.restart();
        wait_until("it serves", is_healthy);
        assert_eq!(server.account("42").await.available.unwrap().free, 3);
    }
}

/// A page that takes longer than the server allows ends in bounded time and is not charged.
#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_takes_too_long_costs_nothing() {
    let server = Server::with([("ocr.workers", "1"), ("ocr.page_ms_max", "400")]);
    let mut client = server.recognize().await;
    let started = Instant::now();
    let request = recognize_request("42", picture::dense_page());
    let status = client.recognize(request).await.expect_err("too long");
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
    assert!(status.get_error_details().error_info().is_some());
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    let account = server.account("42").await;
    assert_eq!((account.available.unwrap().free, spent(&account)), (3, 0));

    let response = client.recognize(recognize_request("42", picture::line("Short"))).await;
    assert_eq!(response.unwrap().into_inner().text.trim(), "Short");
}

/// The caller's own deadline holds too, and the answer to it still arrives in time.
#[tokio::test(flavor = "multi_thread")]
async fn the_callers_deadline_is_kept() {
    let server = Server::with([("ocr.workers", "1")]);
    let mut client = server.recognize().await;
    let mut request = tonic::Request::new(recognize_request("42", picture::dense_page()));
    request.set_timeout(Duration::from_millis(1_200));
    let status = client.recognize(request).await.expect_err("too long");
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
    let account = server.account("42").await;
    assert_eq!((account.available.unwrap().free, spent(&account)), (3, 0));
}

/// Redis stands still when the text is there. Its caller gets it in time, with the charge in doubt.
#[tokio::test(flavor = "multi_thread")]
async fn a_text_whose_charge_is_not_confirmed_in_time_is_delivered() {
    let server = Server::with([("ocr.workers", "1"), ("redis.command_timeout_ms", "60000")]);
    let redis = server.redis_pid();
    let mut client = server.recognize().await;
    let page = picture::dense_page();
    let started = Instant::now();
    client.recognize(recognize_request("41", page.clone())).await.expect("read");
    let patience = started.elapsed() * 3 + Duration::from_secs(2);

    let mut request = tonic::Request::new(recognize_request("42", page));
    request.set_timeout(patience);
    let call = tokio::spawn(async move { client.recognize(request).await });
    let held = || server.redis_cli(&["KEYS", "{sub:user:42}:holds"]);
    wait_until("the call holds its request", || held().contains("holds"));
    signal(redis, Signal::STOP);
    let answer = call.await.unwrap();
    signal(redis, Signal::CONT);
    let answer = answer.expect("the text").into_inner();
    assert!(answer.text.contains("quick brown fox"));
    let charge = answer.charge.unwrap();
    assert_eq!((charge.state(), answer.quota), (ChargeState::Unconfirmed, None));
    // It was on its way, and is charged once.
    wait_until_spent_by(&server, "42", 1).await;
}

/// The server is killed in the middle of a recognition: it is not charged, and its hold goes back
/// when its time is over.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_charges_nothing_for_what_it_did_not_finish() {
    let mut server = Server::with([("ocr.workers", "1"), ("quota.hold_ttl_ms_default", "2000")]);
    let mut client = server.recognize().await;
    let request = recognize_request("42", picture::dense_page());
    let call = tokio::spawn(async move { client.recognize(request).await });
    let held = || server.redis_cli(&["KEYS", "{sub:user:42}:holds"]);
    wait_until("the call holds its request", || held().contains("holds"));
    server.kill();
    call.await.unwrap().expect_err("the server is dead");

    server.restart();
    let deadline = Instant::now() + PATIENCE;
    loop {
        let account = server.account("42").await;
        assert_eq!(spent(&account), 0);
        if account.available.unwrap().free == 3 {
            assert_eq!(account.held.unwrap().free, 0);
            break;
        }
        assert!(Instant::now() < deadline, "the hold never came back: {account:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Redis is killed again and again under load. Every commit that was acknowledged is there
/// afterwards, and at most the calls that were in doubt are charged besides.
#[tokio::test(flavor = "multi_thread")]
async fn no_acknowledged_commit_is_lost_when_redis_is_killed() {
    const CALLERS: usize = 8;
    const KILLS: usize = 4;
    let server = Server::start();
    server.redis_cli(&["HSET", "sub:user:42", "free_used", "3", "extra_remaining", "1000000"]);
    let stop = tokio_util::sync::CancellationToken::new();
    let channel = server.channel().await;
    let callers = (0..CALLERS).map(|caller| {
        let client = QuotaServiceClient::new(channel.clone());
        tokio::spawn(spend_until(stop.clone(), client, caller))
    });
    let callers: Vec<_> = callers.collect();

    for _ in 0..KILLS {
        let before = spent(&server.account("42").await);
        wait_until_spent(&server, before + 20).await;
        let redis = server.redis_pid();
        signal(redis, Signal::KILL);
        wait_until("Redis is started again", || {
            server.children("unixsocket:").first().is_some_and(|pid| *pid != redis)
        });
    }
    wait_until_spent(&server, 1).await;
    stop.cancel();
    let (mut acknowledged, mut in_doubt) = (0, 0);
    for caller in callers {
        let counts = caller.await.expect("a caller ends");
        acknowledged += counts.0;
        in_doubt += counts.1;
    }
    let account = server.account("42").await;
    // Not the free requests, which the old system had spent.
    let charged = account.spent.unwrap().extra;
    println!("acknowledged {acknowledged}, in doubt {in_doubt}, spent {charged}");
    assert!(charged >= acknowledged, "{charged} spent of {acknowledged} acknowledged");
    assert!(charged <= acknowledged + in_doubt, "{charged} > {acknowledged} + {in_doubt}");
    let left: u64 =
        server.redis_cli(&["HGET", "sub:user:42", "extra_remaining"]).trim().parse().unwrap();
    let held = account.held.unwrap().extra;
    assert_eq!(left + held + charged, 1_000_000);
}

/// Reserves and commits until told to stop; counts the commits that were acknowledged and those
/// whose outcome is unknown.
async fn spend_until(
    stop: tokio_util::sync::CancellationToken,
    mut client: QuotaServiceClient<tonic::transport::Channel>,
    caller: usize,
) -> (u64, u64) {
    let (mut acknowledged, mut in_doubt) = (0, 0);
    for call in 0.. {
        if stop.is_cancelled() {
            break;
        }
        let reservation_id = format!("{caller}-{call}");
        let reserve = ReserveQuotaRequest {
            user_id: "42".into(),
            reservation_id: reservation_id.clone(),
            amount: 1,
            ..Default::default()
        };
        if let Err(status) = client.reserve_quota(reserve).await {
            assert_eq!(status.code(), Code::Unavailable, "{status:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        }
        let commit =
            CommitReservationRequest { user_id: "42".into(), reservation_id, amount: None };
        match client.commit_reservation(commit).await {
            Ok(_) => acknowledged += 1,
            Err(status) => {
                assert_eq!(status.code(), Code::Unavailable, "{status:?}");
                in_doubt += 1;
            }
        }
    }
    (acknowledged, in_doubt)
}

async fn wait_until_spent_by(server: &Server, user: &str, all: u64) {
    let deadline = Instant::now() + PATIENCE;
    while spent(&server.account(user).await) != all {
        assert!(Instant::now() < deadline, "waited in vain for {all} spent");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn wait_until_spent(server: &Server, least: u64) {
    let mut client = server.quota().await;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let request = img2text::grpc::proto::GetQuotaRequest { user_id: "42".into() };
        match client.get_quota(request).await {
            Ok(response) if spent(response.get_ref().quota.as_ref().unwrap()) >= least => return,
            Ok(_) => {}
            Err(status) => assert_eq!(status.code(), Code::Unavailable, "{status:?}"),
        }
        assert!(Instant::now() < deadline, "waited in vain for {least} spent");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Waits until a process has used more of its processor than it had: it works.
fn wait_until_busy(pid: u32) {
    let ticks = || -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let (_, rest) = stat.rsplit_once(')').expect("a process");
        rest.split_whitespace().nth(11).expect("utime").parse().expect("a number")
    };
    let before = ticks();
    wait_until("the worker works", || ticks() > before + 20);
}
