//! A caller who cancels is not charged, and its hold is back within a second.

use std::time::{Duration, Instant};

use img2text::grpc::proto::Buckets;

use crate::support::picture;
use crate::support::server::{PATIENCE, Server, recognize_request, spent};

#[tokio::test(flavor = "multi_thread")]
async fn the_hold_of_a_cancelled_call_is_back_within_a_second() {
    let server = Server::with([("ocr.workers", "1")]);
    let request = recognize_request("42", picture::dense_page());
    let mut client = server.recognize().await;
    let call = tokio::spawn(async move { client.recognize(request).await });
    wait_for_holds(&server, 1).await;

    call.abort();
    let cancelled = Instant::now();
    wait_for_holds(&server, 0).await;
    assert!(cancelled.elapsed() < Duration::from_secs(1), "{:?}", cancelled.elapsed());

    let account = server.account("42").await;
    assert_eq!(account.available, Some(Buckets { free: 3, plan: 0, extra: 0 }));
    assert_eq!(spent(&account), 0);

    // And the only worker is free for the next caller.
    let request = recognize_request("43", picture::line("The next caller"));
    let response = server.recognize().await.recognize(request).await.unwrap().into_inner();
    assert_eq!(response.text.trim(), "The next caller");
}

async fn wait_for_holds(server: &Server, holds: u64) {
    let deadline = Instant::now() + PATIENCE;
    while server.account("42").await.held.unwrap().free != holds {
        assert!(Instant::now() < deadline, "waited in vain for {holds} holds");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
