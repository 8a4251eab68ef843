//! A server that is told to stop finishes what runs, refuses what is new, and leaves nothing.

use std::time::{Duration, Instant};

use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_types::StatusExt;

use crate::support::picture;
use crate::support::server::{Server, is_running, recognize_request, spent, wait_until};

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_finishes_the_running_call_and_leaves_no_process() {
    let mut server = Server::with([("ocr.workers", "1")]);
    let mut client = server.recognize().await;
    let request = recognize_request("42", picture::dense_page());
    let call = tokio::spawn(async move { client.recognize(request).await });
    let held = || server.redis_cli(&["KEYS", "{sub:user:42}:holds"]);
    wait_until("the call holds its request", || held().contains("holds"));
    let mut children = server.children("worker");
    children.push(server.redis_pid());

    server.terminate();
    let response = call.await.unwrap().expect("the running call is finished").into_inner();
    assert!(response.text.contains("quick brown fox"));
    assert!(server.wait().success(), "{}", server.log());
    for child in children {
        wait_until("the server's children are gone", || !is_running(child));
    }

    server.restart();
    assert_eq!(spent(&server.account("42").await), 1);
}

/// More than can be finished in time: some are answered, the others are told to come back, and none
/// of them has paid.
#[tokio::test(flavor = "multi_thread")]
async fn sigterm_cuts_no_call_off_however_many_run() {
    const CALLS: usize = 20;
    const DRAIN: Duration = Duration::from_secs(4);
    let mut server = Server::with([("server.drain_ms_max", "4000"), ("ocr.workers", "2")]);
    // A good part of a second each: some are read in time, not all.
    let lines = ["The quick brown fox jumps over the lazy dog while sheep sleep soundly."; 25];
    let page = picture::encode(&picture::text(&lines, 28), image::ImageFormat::Png);
    let user = |number: usize| format!("user-{number}");
    let mut calls = Vec::new();
    for number in 0..CALLS {
        let mut client = server.recognize().await;
        let request = recognize_request(&user(number), page.clone());
        calls.push(tokio::spawn(async move { client.recognize(request).await.map(drop) }));
    }
    // Each holds its request, or is done already.
    wait_until("all calls run", || {
        let holds = server.redis_cli(&["KEYS", "{sub:user:user-*}:holds"]);
        let done = calls.iter().filter(|call| call.is_finished()).count();
        holds.lines().filter(|key| key.contains("holds")).count() + done >= CALLS
    });

    let told = Instant::now();
    server.terminate();
    let mut outcomes: Vec<Result<(), Status>> = Vec::new();
    for call in calls {
        outcomes.push(call.await.unwrap());
    }
    assert!(server.wait().success(), "{}", server.log());
    let took = told.elapsed();
    let answered = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
    println!("{answered} of {CALLS} calls were answered, {took:.1?} after SIGTERM it was over");
    for status in outcomes.iter().filter_map(|outcome| outcome.as_ref().err()) {
        // What the transport says of a connection that breaks has no reason.
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
        let details = status.get_error_details();
        assert_eq!(details.error_info().expect("an ErrorInfo").reason, "STOPPING", "{status:?}");
    }
    // Redis is stopped after the calls; a busy machine takes its time for that.
    assert!(took < DRAIN + Duration::from_secs(10), "{took:?}");

    server.restart();
    for (number, outcome) in outcomes.iter().enumerate() {
        let account = server.account(&user(number)).await;
        assert_eq!(spent(&account), u64::from(outcome.is_ok()), "{number}: {outcome:?}");
        assert_eq!(account.held.unwrap_or_default(), Default::default(), "{number}: {outcome:?}");
    }
}

/// Whoever watches the health is told that it is over, and holds up nothing.
#[tokio::test(flavor = "multi_thread")]
async fn sigterm_does_not_wait_for_those_who_watch() {
    let mut server = Server::start();
    let mut client = HealthClient::new(server.channel().await);
    let request = HealthCheckRequest { service: "img2text.v1.RecognizeService".into() };
    let mut watch = client.watch(request).await.unwrap().into_inner();
    let first = watch.message().await.unwrap().expect("how it is");
    assert_eq!(first.status(), ServingStatus::Serving);

    let told = Instant::now();
    server.terminate();
    let last = watch.message().await.unwrap().expect("how it is then");
    assert_eq!(last.status(), ServingStatus::NotServing);
    assert!(watch.message().await.unwrap().is_none(), "the watch is over");
    assert!(server.wait().success(), "{}", server.log());
    // Much less than it would wait for a call.
    assert!(told.elapsed() < Duration::from_secs(15), "{:?}", told.elapsed());
    assert!(!server.log().contains("calls still run"), "{}", server.log());
}

/// SIGKILL: nobody can clean up, and still nothing is left and the data is taken over.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_leaves_no_redis_and_no_worker() {
    let mut server = Server::start();
    let request = recognize_request("42", picture::line("Before the kill"));
    server.recognize().await.recognize(request).await.unwrap();
    let mut children = server.children("worker");
    children.push(server.redis_pid());
    assert!(children.len() > 1, "a worker and a Redis: {children:?}");

    server.kill();
    for child in children {
        wait_until("the server's children are gone", || !is_running(child));
    }
    server.restart();
    assert_eq!(spent(&server.account("42").await), 1);
}

#[tokio::test]
async fn a_second_server_on_the_same_data_is_refused() {
    let server = Server::start();
    let output = server.command([
        "serve".as_ref(),
        "--listen".as_ref(),
        "127.0.0.1:0".as_ref(),
        "--data-dir".as_ref(),
        server.data_dir().as_os_str(),
    ]);
    assert!(!output.status.success());
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(message.contains("in use"), "{message}");
    // The first goes on.
    assert_eq!(spent(&server.account("42").await), 0);
}
