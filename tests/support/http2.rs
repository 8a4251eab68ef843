//! HTTP/2 below the level of polite clients: frames written by hand, and calls whose bytes are
//! sent as the test likes.

use std::io::Read;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::HeaderMap;
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::Code;

use crate::support::server::PATIENCE;

/// The kinds of frames that are written by hand (RFC 9113, section 6).
#[derive(Clone, Copy)]
pub enum Kind {
    Data = 0,
    Headers = 1,
    RstStream = 3,
    Settings = 4,
    WindowUpdate = 8,
    Continuation = 9,
}

pub const ACK: u8 = 1;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

/// What stands before the payload of a frame: its length, kind, flags and stream.
pub const FRAME_HEAD_BYTES: usize = 9;

/// A frame.
pub fn frame(kind: Kind, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind as u8, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// The next frame: its kind, its stream and its payload.
pub fn read_frame(stream: &mut impl Read) -> std::io::Result<(u8, u32, Vec<u8>)> {
    let mut head = [0; FRAME_HEAD_BYTES];
    stream.read_exact(&mut head)?;
    let [length @ .., kind, _, s1, s2, s3, s4] = head;
    let length = u32::from_be_bytes([0, length[0], length[1], length[2]]);
    let mut payload = vec![0; length as usize];
    stream.read_exact(&mut payload)?;
    Ok((kind, u32::from_be_bytes([s1, s2, s3, s4]), payload))
}

/// What every client begins with: the preface, and settings that change nothing.
pub fn greeting() -> Vec<u8> {
    [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &frame(Kind::Settings, 0, 0, &[])[..]].concat()
}

/// A header as HPACK writes one that nobody is to remember.
pub fn header(name: &str, value: &str) -> Vec<u8> {
    [&[0], &text(name)[..], &text(value)].concat()
}

/// A header as HPACK writes one that is to be remembered.
pub fn remembered_header(name: &str, value: &str) -> Vec<u8> {
    [&[0x40], &text(name)[..], &text(value)].concat()
}

/// A text in HPACK: its length, in seven bits or as many as it takes, and its bytes.
fn text(text: &str) -> Vec<u8> {
    let mut encoded = Vec::new();
    match text.len() {
        length @ ..127 => encoded.push(length as u8),
        length => {
            encoded.push(127);
            prost::encoding::encode_varint((length - 127) as u64, &mut encoded);
        }
    }
    encoded.extend(text.as_bytes());
    encoded
}

/// The headers of a call.
pub fn call_headers(path: &str) -> Vec<u8> {
    [
        header(":method", "POST"),
        header(":scheme", "http"),
        header(":path", path),
        header(":authority", "test"),
        header("content-type", "application/grpc"),
        header("te", "trailers"),
    ]
    .concat()
}

/// A message as gRPC sends it.
pub fn message(message: &impl Message) -> Vec<u8> {
    prefixed(&message.encode_to_vec())
}

/// Bytes as gRPC sends a message.
pub fn prefixed(bytes: &[u8]) -> Vec<u8> {
    [&[0], &(bytes.len() as u32).to_be_bytes()[..], bytes].concat()
}

/// What came of sending bytes on one connection.
pub struct Poured {
    /// How many of the pieces were sent.
    pub pieces: usize,
    /// Whether the server closed the connection before all were.
    pub closed: bool,
}

/// Sends pieces on a new connection, as fast as they are taken, until all are sent or the server
/// closes it. What the server answers is read and thrown away.
pub async fn pour(address: &str, pieces: impl IntoIterator<Item = Vec<u8>>) -> Poured {
    let stream = TcpStream::connect(address).await.expect("the server listens");
    let (mut answers, mut questions) = stream.into_split();
    let reader = tokio::spawn(async move {
        let mut buffer = vec![0; 64 << 10];
        while answers.read(&mut buffer).await.is_ok_and(|bytes| bytes > 0) {}
    });
    let mut poured = Poured { pieces: 0, closed: false };
    let all = std::iter::once(greeting()).chain(pieces);
    for piece in all {
        if reader.is_finished() || questions.write_all(&piece).await.is_err() {
            poured.closed = true;
            break;
        }
        poured.pieces += 1;
    }
    // The greeting is none of them.
    poured.pieces = poured.pieces.saturating_sub(1);
    drop(questions);
    reader.await.expect("the reader does not panic");
    poured
}

/// A connection whose client takes `window` bytes of every answer and leaves the rest to the
/// server; without one, what is usual. It lives as long as anything that is made from it.
pub async fn connect(address: &str, window: Option<u32>) -> SendRequest<Bytes> {
    let stream = TcpStream::connect(address).await.expect("the server listens");
    let mut builder = h2::client::Builder::new();
    if let Some(window) = window {
        builder.initial_window_size(window);
    }
    let (sender, connection) = builder.handshake(stream).await.expect("HTTP/2");
    tokio::spawn(connection);
    sender
}

/// Whether another call may be begun: not once the server has asked to go elsewhere.
pub async fn is_open(connection: &SendRequest<Bytes>) -> bool {
    connection.clone().ready().await.is_ok()
}

/// Begins a call.
pub async fn begin(
    connection: &SendRequest<Bytes>,
    path: &str,
) -> Result<(ResponseFuture, SendStream<Bytes>), h2::Error> {
    let request = http::Request::post(format!("http://test{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .expect("a request");
    connection.clone().ready().await?.send_request(request, false)
}

/// What a call was answered: its code, and the details that a status has beside it. A test fails
/// if the call does not end.
pub async fn status(response: ResponseFuture) -> Result<tonic::Status, h2::Error> {
    tokio::time::timeout(PATIENCE, end(response)).await.expect("the call ends in time")
}

async fn end(response: ResponseFuture) -> Result<tonic::Status, h2::Error> {
    let (head, body) = response.await?.into_parts();
    if let Some(status) = tonic::Status::from_header_map(&head.headers) {
        return Ok(status);
    }
    let trailers = trailers(body).await?;
    let none = || tonic::Status::new(Code::Unknown, "no status");
    Ok(tonic::Status::from_header_map(&trailers).unwrap_or_else(none))
}

async fn trailers(mut body: RecvStream) -> Result<HeaderMap, h2::Error> {
    while let Some(data) = body.data().await {
        let bytes = data?.len();
        body.flow_control().release_capacity(bytes)?;
    }
    Ok(body.trailers().await?.unwrap_or_default())
}
