//! What a client does wrong, on purpose or not, costs little and is answered with a reason.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::Reason;

use img2text::grpc::proto::GetQuotaRequest;
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;
use tonic_types::StatusExt;

use crate::support::http2::{self, END_HEADERS, Kind, frame};
use crate::support::picture;
use crate::support::server::{PATIENCE, Server, recognize_request, spent, wait_until};

const GET_QUOTA: &str = "/img2text.v1.QuotaService/GetQuota";

/// Bytes where a method expects a text.
#[derive(Clone, PartialEq, prost::Message)]
struct NoText {
    #[prost(bytes = "vec", tag = "1")]
    user_id: Vec<u8>,
}

fn assert_reason(status: &Status, code: Code, reason: &str) {
    assert_eq!(status.code(), code, "{status:?}");
    let details = status.get_error_details();
    let info = details.error_info().unwrap_or_else(|| panic!("no ErrorInfo in {status:?}"));
    assert_eq!((info.domain.as_str(), info.reason.as_str()), ("img2text", reason));
}

async fn send(server: &Server, path: &'static str, message: NoText) -> Status {
    let mut client = tonic::client::Grpc::new(server.channel().await);
    client.ready().await.expect("a server");
    let codec = ProstCodec::<NoText, ()>::default();
    let sent: Result<tonic::Response<()>, Status> =
        client.unary(Request::new(message), path.parse().unwrap(), codec).await;
    sent.expect_err(path)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_transport_refuses_has_a_reason_too() {
    let server = Server::with([("ocr.image_bytes_max", "100000")]);
    let message = NoText { user_id: vec![0xFF; 8] };
    let status = send(&server, "/img2text.v1.QuotaService/NoSuch", message.clone()).await;
    assert_reason(&status, Code::Unimplemented, "METHOD_UNKNOWN");
    let status = send(&server, "/no.such.Service/Method", message.clone()).await;
    assert_reason(&status, Code::Unimplemented, "METHOD_UNKNOWN");
    let status = send(&server, "/img2text.v1.QuotaService/GetQuota", message).await;
    assert_reason(&status, Code::InvalidArgument, "MESSAGE_MALFORMED");

    let request = recognize_request("42", vec![0; 400_000]);
    let status = server.recognize().await.recognize(request).await.unwrap_err();
    assert_reason(&status, Code::InvalidArgument, "MESSAGE_TOO_LARGE");

    let mut request = Request::new(recognize_request("42", picture::line("Too late")));
    request.set_timeout(Duration::from_millis(3));
    let status = server.recognize().await.recognize(request).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
    // Each is one line of the log, with its reason; nothing was charged.
    wait_until("the calls are in the log", || {
        ["METHOD_UNKNOWN", "MESSAGE_MALFORMED", "MESSAGE_TOO_LARGE"]
            .iter()
            .all(|reason| server.log().contains(reason))
    });
    wait_until("nothing is held", || server.redis_cli(&["KEYS", "*holds*"]).trim().is_empty());
    assert_eq!(spent(&server.account("42").await), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_connection_is_closed_and_a_place_is_free_again() {
    let server =
        Server::with([("server.handshake_ms_max", "500"), ("server.connections_max", "20")]);
    let connect = || TcpStream::connect(server.address()).expect("the server listens");
    let mut silent: Vec<TcpStream> = (0..20).map(|_| connect()).collect();
    // A byte now and then buys no time.
    let started = Instant::now();
    for stream in &mut silent {
        stream.write_all(b"PRI").expect("not closed yet");
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    }
    for stream in &mut silent {
        let mut buffer = [0; 1_024];
        // The server's own greeting, then the end.
        while matches!(stream.read(&mut buffer), Ok(bytes) if bytes > 0) {}
    }
    assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
    assert_eq!(spent(&server.account("42").await), 0);
}

/// One that has greeted, and is not there any more when it is asked.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_answer_keep_alive_is_cut_off() {
    let server =
        Server::with([("server.keepalive_interval_ms", "200"), ("server.idle_ms_max", "500")]);
    let mut polite = server.quota().await;
    let mut silent = TcpStream::connect(server.address()).expect("the server listens");
    silent.write_all(&http2::greeting()).expect("not closed yet");
    silent.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut buffer = [0; 1_024];
    // The server's greeting and its questions, then the end.
    while silent.read(&mut buffer).expect("the end, in time") > 0 {}
    // One that answers them stays, though its caller has said nothing all that time.
    let request = GetQuotaRequest { user_id: "42".into() };
    polite.get_quota(request).await.expect("its connection is there");
}

/// The client is asked to go elsewhere, and what it has begun is finished.
#[tokio::test(flavor = "multi_thread")]
async fn calls_on_a_connection_that_is_too_old_are_finished() {
    let server = Server::with([("server.connection_age_ms_max", "1000")]);
    let connection = http2::connect(server.address(), None).await;
    let (response, mut body) = http2::begin(&connection, GET_QUOTA).await.expect("begun");
    let deadline = Instant::now() + PATIENCE;
    while http2::is_open(&connection).await {
        assert!(Instant::now() < deadline, "the connection gets no older");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let message = http2::message(&GetQuotaRequest { user_id: "42".into() });
    body.send_data(message.into(), true).expect("the call goes on");
    let status = http2::status(response).await.expect("answered");
    assert_eq!(status.code(), Code::Ok, "{status:?}");
}

/// A call without an end is cut off in the end.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_much_too_old_is_closed_whatever_runs_on_it() {
    let server = Server::with([
        ("server.connection_age_ms_max", "1000"),
        ("server.connection_grace_ms_max", "1000"),
        ("ocr.call_ms_max", "1000"),
    ]);
    let connection = http2::connect(server.address(), None).await;
    let (response, _body) =
        http2::begin(&connection, "/img2text.v1.RecognizeService/RecognizeStream").await.unwrap();
    let started = Instant::now();
    http2::status(response).await.expect_err("nothing ends this call but its connection");
    assert!(started.elapsed() >= Duration::from_millis(1_900), "{:?}", started.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_beyond_those_that_there_may_be_is_closed_at_once() {
    const CONNECTIONS: usize = 10;
    let server = Server::with([("server.connections_max", "10")]);
    let connect = || TcpStream::connect(server.address()).expect("the server listens");
    let mut taken: Vec<TcpStream> = (0..CONNECTIONS).map(|_| connect()).collect();
    // Accepted in their order: the server greets the last one after all others have their places.
    let mut greeting = [0; http2::FRAME_HEAD_BYTES];
    for stream in &mut taken {
        stream.write_all(&http2::greeting()).expect("a place");
        stream.read_exact(&mut greeting).expect("a place");
    }
    let mut beyond = connect();
    beyond.set_read_timeout(Some(PATIENCE)).unwrap();
    assert!(!matches!(beyond.read(&mut greeting), Ok(1..)), "a place too many");
    drop(taken);
    wait_until("a place is free again", || {
        let mut stream = connect();
        stream.write_all(&http2::greeting()).is_ok() && stream.read_exact(&mut greeting).is_ok()
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn more_calls_than_a_connection_may_have_are_refused() {
    const STREAMS: u32 = 4;
    let server = Server::with([("server.streams_max", "4")]);
    let mut stream = TcpStream::connect(server.address()).expect("the server listens");
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(&http2::greeting()).expect("not closed yet");
    // The server says how many, and takes it as read when its settings are acknowledged.
    let acknowledged = frame(Kind::Settings, http2::ACK, 0, &[]);
    stream.write_all(&acknowledged).expect("not closed yet");
    let headers = http2::call_headers(GET_QUOTA);
    for call in 0..STREAMS + 3 {
        let begin = frame(Kind::Headers, END_HEADERS, 2 * call + 1, &headers);
        stream.write_all(&begin).expect("not closed yet");
    }
    let mut refused = Vec::new();
    while refused.len() < 3 {
        let (kind, id, payload) = http2::read_frame(&mut stream).expect("an answer");
        if kind == Kind::RstStream as u8 {
            let reason = u32::from_be_bytes(payload[..4].try_into().unwrap());
            assert_eq!(Reason::from(reason), Reason::REFUSED_STREAM);
            refused.push(id);
        }
    }
    assert_eq!(refused, [9, 11, 13]);
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_that_are_too_large_are_refused() {
    let server = Server::with([("server.header_bytes_max", "2048")]);
    let connection = http2::connect(server.address(), None).await;
    let call = async |bytes: usize| {
        let request = http::Request::post(format!("http://test{GET_QUOTA}"))
            .header("content-type", "application/grpc")
            .header("x-large", "v".repeat(bytes))
            .body(())
            .unwrap();
        let ready = connection.clone().ready().await.expect("a server");
        let (response, mut body) = { ready }.send_request(request, false).unwrap();
        let message = GetQuotaRequest { user_id: "42".into() };
        let _ = body.send_data(Bytes::from(http2::message(&message)), true);
        response.await.expect("an answer").status()
    };
    assert_eq!(call(1_000).await, 200);
    assert_eq!(call(3_000).await, 431);
    assert_eq!(call(1_000).await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn more_calls_than_may_wait_are_refused_at_once() {
    const CALLS: usize = 8;
    let server = Server::with([("ocr.workers", "1"), ("ocr.queue_max", "1")]);
    let page = picture::dense_page();
    let mut calls = tokio::task::JoinSet::new();
    for number in 0..CALLS {
        let mut client = server.recognize().await;
        let request = recognize_request(&format!("user-{number}"), page.clone());
        calls.spawn(async move { (number, client.recognize(request).await.map(drop)) });
    }
    let mut refused = 0;
    while let Some(ended) = calls.join_next().await {
        let (number, outcome) = ended.expect("no panic");
        if let Err(status) = &outcome {
            assert_reason(status, Code::Unavailable, "OVERLOADED");
            assert!(status.get_error_details().retry_info().is_some(), "{status:?}");
            refused += 1;
        }
        let account = server.account(&format!("user-{number}")).await;
        assert_eq!(spent(&account), u64::from(outcome.is_ok()));
    }
    // One is worked on and one waits, until the first is done.
    assert!((1..=CALLS - 2).contains(&refused), "{refused} of {CALLS} were refused");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_has_a_line_a_call_and_shows_no_user_where_it_must_not() {
    let server = Server::with([("telemetry.hash_user_ids", "true")]);
    let request = GetQuotaRequest { user_id: "somebody-in-particular".into() };
    server.quota().await.get_quota(request).await.unwrap();
    wait_until("the call is in the log", || server.log().contains("QuotaService/GetQuota"));
    let request = recognize_request("somebody-in-particular", picture::line("Confidential"));
    let text = server.recognize().await.recognize(request).await.unwrap().into_inner().text;
    assert!(text.contains("Confidential"), "{text}");
    wait_until("the call is in the log", || server.log().contains("RecognizeService/Recognize"));
    let log = server.log();
    assert!(!log.contains("somebody-in-particular") && !log.contains("Confidential"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_and_probes_tell_how_it_stands() {
    let server = Server::with([("telemetry.http_listen", "127.0.0.1:0")]);
    server
        .recognize()
        .await
        .recognize(recognize_request("42", picture::line("Count")))
        .await
        .unwrap();
    assert_eq!(server.http("/livez").0, 200);
    assert_eq!(server.http("/readyz").0, 200);
    wait_until("the call is counted", || {
        let (_, page) = server.http("/metrics");
        page.contains("img2text_rpc_duration_seconds_count{method=\"/img2text.v1.RecognizeService/Recognize\",code=\"OK\"} 1")
            && page.contains("img2text_quota_events_total{event=\"recognized\"} 1")
            && page.contains("img2text_redis_up 1")
    });
    let (_, page) = server.http("/metrics");
    for line in [
        "img2text_ocr_queue_depth 0",
        "img2text_ocr_phase_seconds_count{phase=\"recognize\"} 1",
        "img2text_quota_reservations_total{outcome=\"reserved\"} 1",
        "img2text_quota_reservations_total{outcome=\"committed\"} 1",
        "img2text_recognized_pages_total 1",
        "img2text_redis_step_seconds_count{step=\"reserve\"} 1",
        "img2text_storage_findings{verdict=\"at_risk\"} 0",
    ] {
        assert!(page.contains(line), "no {line} in {page}");
    }
    let mut numbers = page.lines().filter(|line| !line.starts_with('#'));
    assert!(numbers.all(|line| !line.contains("user")), "{page}");
}
