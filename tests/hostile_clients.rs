//! What a client does wrong, on purpose or not, costs little and is answered with a reason.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use img2text::grpc::proto::GetQuotaRequest;
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;
use tonic_types::StatusExt;

use crate::support::picture;
use crate::support::server::{Server, recognize_request, spent, wait_until};

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

#[tokio::test(flavor = "multi_thread")]
async fn the_log_has_a_line_a_call_and_shows_no_user_where_it_must_not() {
    let server = Server::with([("telemetry.hash_user_ids", "true")]);
    let request = GetQuotaRequest { user_id: "somebody-in-particular".into() };
    server.quota().await.get_quota(request).await.unwrap();
    wait_until("the call is in the log", || server.log().contains("QuotaService/GetQuota"));
    assert!(!server.log().contains("somebody-in-particular"), "{}", server.log());
}

fn http(address: &str, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).expect("the probes listen");
    write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
    (status, answer)
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_and_probes_tell_how_it_stands() {
    let server = Server::with([("telemetry.http_listen", "127.0.0.1:0")]);
    let log = server.log();
    let address = log.split("http=").nth(1).and_then(|rest| rest.split_whitespace().next());
    let address = address.expect("an address in the log");
    server
        .recognize()
        .await
        .recognize(recognize_request("42", picture::line("Count")))
        .await
        .unwrap();
    assert_eq!(http(address, "/livez").0, 200);
    assert_eq!(http(address, "/readyz").0, 200);
    wait_until("the call is counted", || {
        let (_, page) = http(address, "/metrics");
        page.contains("img2text_rpc_duration_seconds_count{method=\"/img2text.v1.RecognizeService/Recognize\",code=\"OK\"} 1")
            && page.contains("img2text_quota_events_total{event=\"recognized\"} 1")
            && page.contains("img2text_redis_up 1")
    });
    let (_, page) = http(address, "/metrics");
    assert!(!page.contains("user"), "{page}");
}
