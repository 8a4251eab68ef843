//! What is wrong is refused with a status that says what to do, and nothing is charged for it.

use std::io::Cursor;
use std::time::{Duration, Instant};

use image::ImageFormat;
use img2text::grpc::proto::{Buckets, RecognizeRequest, ReserveQuotaRequest};
use rustix::process::Signal;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::support::picture;
use crate::support::server::{PATIENCE, Server, recognize_request, signal, spent};

fn fields(status: &Status) -> Vec<String> {
    let details = status.get_error_details();
    let bad = details.bad_request().unwrap_or_else(|| panic!("no BadRequest in {status:?}"));
    bad.field_violations.iter().map(|violation| violation.field.clone()).collect()
}

fn assert_reason(status: &Status, reason: &str) {
    let details = status.get_error_details();
    let info = details.error_info().unwrap_or_else(|| panic!("no ErrorInfo in {status:?}"));
    assert_eq!(info.domain, "img2text");
    assert_eq!(info.reason, reason, "{status:?}");
}

/// The header of a BMP that claims to be of the given size.
fn bmp_header(width: i32, height: i32) -> Vec<u8> {
    let mut bmp = Vec::new();
    bmp.extend(b"BM");
    bmp.extend(154_u32.to_le_bytes());
    bmp.extend([0; 4]);
    bmp.extend(54_u32.to_le_bytes());
    bmp.extend(40_u32.to_le_bytes());
    bmp.extend(width.to_le_bytes());
    bmp.extend(height.to_le_bytes());
    bmp.extend(1_u16.to_le_bytes());
    bmp.extend(24_u16.to_le_bytes());
    bmp.extend([0; 24]);
    bmp.extend([0; 100]);
    bmp
}

#[tokio::test]
async fn a_wrong_request_is_refused_field_by_field_before_anything_is_reserved() {
    let server = Server::start();
    let good = picture::line("Good");
    let request = |image: &[u8]| recognize_request("42", image.to_vec());
    let cases: [(&str, RecognizeRequest, &[&str]); 8] = [
        ("an empty picture", request(b""), &["image"]),
        ("an unknown format", request(b"certainly not a picture"), &["image"]),
        ("60,000 x 60,000 pixels", request(&bmp_header(60_000, 60_000)), &["image"]),
        (
            "a language that is not installed",
            RecognizeRequest { languages: vec!["tlh".into()], ..request(&good) },
            &["languages[0]"],
        ),
        (
            "a language that is a path",
            RecognizeRequest { languages: vec!["../../etc/passwd".into()], ..request(&good) },
            &["languages[0]"],
        ),
        (
            "a user id with braces",
            RecognizeRequest { user_id: "{42}".into(), ..request(&good) },
            &["user_id"],
        ),
        (
            "a user id with spaces",
            RecognizeRequest { user_id: "4 2".into(), ..request(&good) },
            &["user_id"],
        ),
        (
            "two wrong fields",
            RecognizeRequest {
                user_id: String::new(),
                request_id: Some("{}".into()),
                ..request(&good)
            },
            &["user_id", "request_id"],
        ),
    ];
    let mut client = server.recognize().await;
    for (what, request, expected) in cases {
        let status = client.recognize(request).await.expect_err(what);
        assert_eq!(status.code(), Code::InvalidArgument, "{what}: {status:?}");
        assert_eq!(fields(&status), expected, "{what}");
        assert_reason(&status, "INVALID_ARGUMENT");
    }
    // Nothing was reserved: the account has never been touched.
    assert_eq!(server.redis_cli(&["EXISTS", "sub:user:42"]).trim(), "0");
}

#[tokio::test]
async fn a_wrong_amount_is_refused() {
    let server = Server::start();
    let mut client = server.quota().await;
    for amount in [-1, 0, i64::MIN, i64::MAX] {
        let request = ReserveQuotaRequest {
            user_id: "42".into(),
            reservation_id: "one".into(),
            amount,
            ..Default::default()
        };
        let status = client.reserve_quota(request).await.expect_err("a wrong amount");
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(fields(&status), ["amount"]);
    }
}

#[tokio::test]
async fn a_picture_that_proves_corrupt_while_decoding_costs_nothing() {
    let server = Server::start();
    let whole = picture::line("Truncated");
    let truncated = whole[..whole.len() / 2].to_vec();
    let mut corrupt = Vec::new();
    picture::text(&["Corrupt"], 40)
        .write_to(&mut Cursor::new(&mut corrupt), ImageFormat::Png)
        .unwrap();
    let middle = corrupt.len() / 2;
    corrupt[middle..middle + 40].fill(0xAA);
    let mut client = server.recognize().await;
    for image in [truncated, corrupt] {
        let status = client.recognize(recognize_request("42", image)).await.expect_err("corrupt");
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        assert_eq!(fields(&status), ["image"]);
        let account = server.account("42").await;
        assert_eq!(account.available, Some(Buckets { free: 3, plan: 0, extra: 0 }));
        assert_eq!(spent(&account), 0);
    }
}

#[tokio::test]
async fn without_quota_the_caller_is_told_what_is_missing() {
    let server = Server::start();
    server.redis_cli(&["HSET", "sub:user:42", "free_used", "3"]);
    let request = recognize_request("42", picture::line("No quota"));
    let status = server.recognize().await.recognize(request).await.expect_err("no quota");
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    assert_reason(&status, "QUOTA_EXHAUSTED");
    let details = status.get_error_details();
    assert_eq!(details.quota_failure().expect("a QuotaFailure").violations.len(), 1);
    // Without a plan no reset will help: the caller is not sent round in circles.
    assert!(details.retry_info().is_none());
}

#[tokio::test]
async fn without_quota_but_with_a_plan_the_caller_is_told_when_to_come_back() {
    let server = Server::start();
    let fields = ["free_used", "3", "plan", "10", "plan_remaining", "0"];
    let next_year = "4102444800"; // 2100-01-01
    let mut command = vec!["HSET", "sub:user:42", "next_reset_ts", next_year];
    command.extend(fields);
    server.redis_cli(&command);
    let request = recognize_request("42", picture::line("Next month"));
    let status = server.recognize().await.recognize(request).await.expect_err("no quota");
    assert_eq!(status.code(), Code::ResourceExhausted);
    let retry = status.get_error_details().retry_info().cloned().expect("a RetryInfo");
    assert!(retry.retry_delay.expect("a delay") > Duration::from_secs(86_400));
}

/// Redis stands still (SIGSTOP): the call ends in bounded time as UNAVAILABLE, never as "quota
/// exceeded", and the server recovers by itself when Redis goes on.
#[tokio::test(flavor = "multi_thread")]
async fn redis_gone_is_unavailable_and_recovers() {
    let server = Server::with([("redis.command_timeout_ms", "500")]);
    let redis = server.redis_pid();
    let request = || recognize_request("42", picture::line("Redis is back"));
    let mut client = server.recognize().await;
    client.recognize(request()).await.expect("all is well");

    signal(redis, Signal::STOP);
    let started = Instant::now();
    let status = client.recognize(request()).await.expect_err("Redis does not answer");
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert!(status.get_error_details().retry_info().is_some(), "{status:?}");
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());

    signal(redis, Signal::CONT);
    let deadline = Instant::now() + PATIENCE;
    while let Err(status) = client.recognize(request()).await {
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
        assert!(Instant::now() < deadline, "never recovered: {status:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
