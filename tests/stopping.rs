//! A server that is told to stop finishes what runs, refuses what is new, and leaves nothing.

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
