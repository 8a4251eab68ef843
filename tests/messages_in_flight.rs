//! All messages that the server holds at once are bounded together: those of streams while they
//! are worked on, and documents until their last page.

use std::time::{Duration, Instant};

use bytes::Bytes;
use img2text::grpc::proto::recognize_document_request::Piece;
use img2text::grpc::proto::recognize_stream_response::Result as Outcome;
use img2text::grpc::proto::{DocumentHeader, RecognizeDocumentRequest, RecognizeStreamRequest};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::support::http2;
use crate::support::picture;
use crate::support::server::{PATIENCE, Server, recognize_request, wait_until};

const RECOGNIZE_STREAM: &str = "/img2text.v1.RecognizeService/RecognizeStream";
const RECOGNIZE_DOCUMENT: &str = "/img2text.v1.RecognizeService/RecognizeDocument";

/// A server that takes in 200,000 bytes at once, of which a picture may have a half.
fn server() -> Server {
    Server::with([
        ("ocr.image_bytes_max", "100000"),
        ("server.in_flight_bytes_max", "200000"),
        ("ocr.call_ms_max", "20000"),
        ("ocr.workers", "1"),
        ("telemetry.http_listen", "127.0.0.1:0"),
    ])
}

/// Bytes that are no picture: refused, but only after they have arrived.
fn no_picture(bytes: usize) -> Vec<u8> {
    vec![b'x'; bytes]
}

fn reason(status: &Status) -> String {
    let details = status.get_error_details();
    details.error_info().map(|info| info.reason.clone()).unwrap_or_default()
}

/// What a picture of so many bytes is answered: `INVALID_ARGUMENT` if there is room for it.
async fn knock(server: &Server, bytes: usize) -> String {
    let request = recognize_request("knocking", no_picture(bytes));
    let status = server.recognize().await.recognize(request).await.expect_err("no picture");
    reason(&status)
}

async fn until_there_is_room(server: &Server, bytes: usize) {
    let deadline = Instant::now() + PATIENCE;
    while knock(server, bytes).await != "INVALID_ARGUMENT" {
        assert!(Instant::now() < deadline, "there is no room again");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until so many bytes have arrived and are held.
fn until_held(server: &Server, bytes: usize) {
    wait_until(&format!("{bytes} bytes are held"), || {
        let (_, page) = server.http("/metrics");
        let mut lines = page.lines();
        let held = lines.find_map(|line| line.strip_prefix("img2text_messages_in_flight_bytes "));
        held.is_some_and(|held| held.parse::<f64>().expect("a number") >= bytes as f64)
    });
}

/// A stream may go on for ever: what was answered counts no more.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_may_send_more_in_all_than_may_be_held_at_once() {
    let server = server();
    const PICTURES: usize = 40;
    let items = (0..PICTURES).map(|number| RecognizeStreamRequest {
        id: number.to_string(),
        request: Some(recognize_request("42", no_picture(20_000))),
    });
    let items = tokio_stream::iter(items.collect::<Vec<_>>());
    let mut answers = server.recognize().await.recognize_stream(items).await.unwrap().into_inner();
    let mut answered = 0;
    while let Some(answer) = answers.message().await.expect("no answer ends the stream") {
        assert!(matches!(answer.result, Some(Outcome::Error(_))), "{answer:?}");
        answered += 1;
    }
    assert_eq!(answered, PICTURES);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_streams_have_begun_to_send_counts() {
    let server = server();
    let connection = http2::connect(server.address(), None).await;
    let mut streams = Vec::new();
    // All but the last byte of a picture each.
    for _ in 0..2 {
        let (response, mut body) =
            http2::begin(&connection, RECOGNIZE_STREAM).await.expect("begun");
        let message = http2::prefixed(&no_picture(90_000));
        let part = Bytes::from(message).slice(..80_000);
        send(&mut body, part).await;
        streams.push((response, body));
    }
    until_held(&server, 160_000);
    assert_eq!(knock(&server, 90_000).await, "OVERLOADED");
    // Smaller ones still find room.
    assert_eq!(knock(&server, 10_000).await, "INVALID_ARGUMENT");
    // Another stream is refused with its first picture, and may come back.
    let (response, mut body) = http2::begin(&connection, RECOGNIZE_STREAM).await.expect("begun");
    send(&mut body, http2::prefixed(&no_picture(90_000)).into()).await;
    let status = http2::status(response).await.expect("answered");
    assert_eq!((status.code(), &*reason(&status)), (Code::Unavailable, "OVERLOADED"));
    // A caller who goes away makes room.
    drop(streams.pop());
    until_there_is_room(&server, 90_000).await;
}

/// As much as the other side's window allows, until it is sent.
async fn send(body: &mut h2::SendStream<Bytes>, mut bytes: Bytes) {
    while !bytes.is_empty() {
        body.reserve_capacity(bytes.len());
        let capacity = std::future::poll_fn(|context| body.poll_capacity(context)).await;
        let capacity = capacity.expect("the stream is open").expect("room");
        let piece = bytes.split_to(capacity.min(bytes.len()));
        body.send_data(piece, false).expect("sent");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_counts_until_its_last_page_is_answered() {
    let server = server();
    // Its caller takes no answer, so it does not come to its end.
    let connection = http2::connect(server.address(), Some(0)).await;
    let (response, mut body) = http2::begin(&connection, RECOGNIZE_DOCUMENT).await.expect("begun");
    let page = picture::text(&["A page"], 30);
    let mut document = picture::tiff(&vec![page; 4]);
    assert!(document.len() < 90_000, "{}", document.len());
    // What follows the pages of a TIFF is nobody's.
    document.resize(99_000, 0);
    let header = DocumentHeader { user_id: "42".into(), ..Default::default() };
    send_piece(&mut body, Piece::Header(header)).await;
    for chunk in document.chunks(10_000) {
        send_piece(&mut body, Piece::Chunk(Bytes::copy_from_slice(chunk))).await;
    }
    body.send_data(Bytes::new(), true).expect("sent");
    until_held(&server, 99_000);
    // So many at once: one more of its size fits in, but not two.
    let half = async || {
        let (response, mut body) =
            http2::begin(&connection, RECOGNIZE_STREAM).await.expect("begun");
        send(&mut body, Bytes::from(http2::prefixed(&no_picture(90_000))).slice(..80_000)).await;
        (response, body)
    };
    let second = half().await;
    until_held(&server, 179_000);
    assert_eq!(knock(&server, 60_000).await, "OVERLOADED");
    // The document is answered as far as its caller takes it, and still counts.
    let response = response.await.expect("the pages are counted, and the answer begins");
    assert_eq!(knock(&server, 60_000).await, "OVERLOADED");
    drop(response);
    until_there_is_room(&server, 60_000).await;
    drop(second);
}

async fn send_piece(body: &mut h2::SendStream<Bytes>, piece: Piece) {
    let message = RecognizeDocumentRequest { piece: Some(piece) };
    send(body, http2::message(&message).into()).await;
}
