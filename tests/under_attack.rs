//! Who attacks the server costs the others little: while it goes on a caller who behaves is
//! answered, the server's memory stays within bounds, nothing panics, and afterwards all is as
//! before.
//!
//! How much slower the others are meanwhile is printed (`--nocapture`). It is compared with no
//! small bound: attacker, server and the others share the processors here, and those of a busy
//! machine are shared with more.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use img2text::grpc::proto::quota_service_client::QuotaServiceClient;
use img2text::grpc::proto::recognize_document_request::Piece;
use img2text::grpc::proto::recognize_service_client::RecognizeServiceClient;
use img2text::grpc::proto::{
    DocumentHeader, GetQuotaRequest, RecognizeDocumentRequest, RecognizeRequest,
};
use rustix::process::{Resource, Rlimit, getrlimit, setpriority_process, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tonic::transport::Endpoint;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::support::contract::{Contract, Method};
use crate::support::dice::{Dice, seed};
use crate::support::http2::{self, END_HEADERS, END_STREAM, Kind, frame};
use crate::support::picture;
use crate::support::server::{PATIENCE, Server, recognize_request, spent};

/// How often the caller who behaves makes each of its calls at least, before an attack and while it
/// goes on.
const CALLS: usize = 200;
/// What 99 of 100 of its calls take at most while the server is attacked. Generous, because the
/// machine may be busy: that an attack stops the others is what must not be.
const P99_MAX: Duration = Duration::from_secs(5);
/// What the server's process takes at most, its messages in flight apart.
const MEMORY_MAX: u64 = 256 << 20;

const GET_QUOTA: &str = "/img2text.v1.QuotaService/GetQuota";
const RECOGNIZE: &str = "/img2text.v1.RecognizeService/Recognize";
const RECOGNIZE_STREAM: &str = "/img2text.v1.RecognizeService/RecognizeStream";
const RECOGNIZE_DOCUMENT: &str = "/img2text.v1.RecognizeService/RecognizeDocument";

/// A server that writes no line for each of very many calls.
fn server<const N: usize>(settings: [(&str, &str); N]) -> Server {
    let mut all =
        vec![("telemetry.log_filter", "warn,img2text::grpc::serve=info"), ("ocr.workers", "1")];
    all.extend(settings);
    Server::with_all(&all)
}

/// Where attackers run. They give way to the server and to the others: strangers have machines of
/// their own, and what they cost the server is to be seen, not what they take from its cores.
static ATTACKERS: LazyLock<Runtime> = LazyLock::new(|| {
    const LAST: i32 = 19;
    tokio::runtime::Builder::new_multi_thread()
        .on_thread_start(|| setpriority_process(None, LAST).expect("anybody may give way"))
        .enable_all()
        .build()
        .expect("a runtime")
});

/// Attacks a server and looks at what becomes of the others: meanwhile, and for as long as what the
/// attack gives is not dropped. `memory_max` is for the whole of the server's process.
async fn attacked<T>(
    name: &str,
    server: &Server,
    memory_max: u64,
    attack: impl Future<Output = T>,
) -> T {
    let usual = Others::of(server).p99();
    let others = Others::of(server);
    let outcome = {
        let _attackers = ATTACKERS.enter();
        attack.await
    };
    let meanwhile = tokio::task::spawn_blocking(|| others.p99()).await.unwrap();
    let memory = memory_peak(server);
    println!("under attack by {name} the server took {} MiB; p99 of the others:", memory >> 20);
    for (call, usual, meanwhile) in [
        ("GetQuota", usual.get_quota, meanwhile.get_quota),
        ("Recognize", usual.recognize, meanwhile.recognize),
    ] {
        let ratio = meanwhile.as_secs_f64() / usual.as_secs_f64();
        println!("  {call}: usual {usual:.1?}, meanwhile {meanwhile:.1?} (x{ratio:.1})");
        assert!(meanwhile < P99_MAX, "{name}: 1 of 100 calls of {call} takes {meanwhile:?}");
    }
    assert!(memory < memory_max, "{name}: the server takes {memory} bytes");
    assert_sound(server).await;
    outcome
}

/// What 99 of 100 calls take at most.
#[derive(Debug)]
struct P99 {
    get_quota: Duration,
    recognize: Duration,
}

/// A caller who behaves, in a thread of its own: what attackers wait for is not its time.
struct Others {
    over: Arc<AtomicBool>,
    calls: JoinHandle<P99>,
}

impl Others {
    /// Calls one after the other until it is over, and often enough.
    fn of(server: &Server) -> Self {
        const USER: &str = "somebody";
        let granted = server.command(["quota", "grant", USER, "10000"]);
        assert!(granted.status.success(), "{granted:?}");
        let over = Arc::new(AtomicBool::new(false));
        let (url, is_over) = (format!("http://{}", server.address()), Arc::clone(&over));
        let calls = async move {
            let channel = Endpoint::from_shared(url).unwrap().connect().await.expect("it listens");
            let mut quota = QuotaServiceClient::new(channel.clone());
            let mut recognize = RecognizeServiceClient::new(channel);
            let picture = picture::line("Somebody");
            // The first call of all waits for the engine.
            let first = recognize.recognize(recognize_request(USER, picture.clone())).await;
            first.expect("recognised");
            let (mut quotas, mut texts) = (Vec::new(), Vec::new());
            while texts.len() < CALLS || !is_over.load(Ordering::Relaxed) {
                let started = Instant::now();
                let request = GetQuotaRequest { user_id: USER.into() };
                quota.get_quota(request).await.expect("a call that is right is answered");
                quotas.push(started.elapsed());
                let started = Instant::now();
                let request = recognize_request(USER, picture.clone());
                recognize.recognize(request).await.expect("a call that is right is answered");
                texts.push(started.elapsed());
            }
            P99 { get_quota: p99(quotas), recognize: p99(texts) }
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Self { over, calls: std::thread::spawn(move || runtime.block_on(calls)) }
    }

    /// Ends it, and says how long its calls took.
    fn p99(self) -> P99 {
        self.over.store(true, Ordering::Relaxed);
        self.calls.join().expect("the others are answered")
    }
}

fn p99(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() * 99 / 100]
}

/// The most memory that the server's process ever had.
fn memory_peak(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    let kibibytes = line.trim().trim_end_matches(" kB");
    kibibytes.parse::<u64>().expect("a number") << 10
}

async fn assert_sound(server: &Server) {
    let log = server.log();
    assert!(!log.contains("panicked"), "{log}");
    let request = recognize_request("afterwards", picture::line("As before"));
    let mut client = server.recognize().await;
    let response = tokio::time::timeout(PATIENCE, client.recognize(request)).await;
    let response = response.expect("an answer in time").expect("recognised").into_inner();
    assert!(response.text.contains("As before"), "{}", response.text);
}

/// So many files this process may have open.
fn allow_descriptors(count: u64) {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current.is_none_or(|current| current >= count) {
        return;
    }
    let raised = Rlimit { current: Some(count), maximum };
    setrlimit(Resource::Nofile, raised).expect("enough file descriptors: see `ulimit -Hn`");
}

async fn connect(server: &Server) -> TcpStream {
    TcpStream::connect(server.address()).await.expect("the server listens")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_idle_connections() {
    const CONNECTIONS: usize = 1_000;
    allow_descriptors(2 * CONNECTIONS as u64);
    // Fewer files than connections, as most systems allow at first: the server asks for more.
    let server = Server::with_descriptors("256:4096", &[("server.connections_max", "1050")]);
    let open = async {
        let mut idle = Vec::new();
        for number in 0..CONNECTIONS {
            let mut stream = connect(&server).await;
            // Half of them greet and say no more; the others do not even greet.
            if number % 2 == 0 {
                stream.write_all(&http2::greeting()).await.expect("not closed yet");
                // The server has greeted back: it has a place among those that are served.
                let mut greeting = [0; http2::FRAME_HEAD_BYTES];
                stream.read_exact(&mut greeting).await.expect("the server's settings");
            }
            idle.push(stream);
        }
        idle
    };
    // They stay open while the others call.
    let idle = attacked("1,000 idle connections", &server, MEMORY_MAX, open).await;
    let others = Others::of(&server).p99();
    println!("with all of them open: {others:.1?}");
    assert!(others.get_quota < P99_MAX && others.recognize < P99_MAX, "{others:?}");
    drop(idle);
}

/// Sends bytes one at a time until the server has had enough of it.
async fn dribble(
    mut stream: TcpStream,
    bytes: Vec<u8>,
    stopped: Arc<AtomicBool>,
) -> io::Result<()> {
    let mut answers = vec![0; 4_096];
    for byte in bytes {
        if stopped.load(Ordering::Relaxed) {
            break;
        }
        stream.write_all(&[byte]).await?;
        // The pace is the attack. What the server says meanwhile is read, or its end seen.
        match tokio::time::timeout(Duration::from_millis(10), stream.read(&mut answers)).await {
            Ok(Ok(0)) => break,
            Ok(outcome) => drop(outcome?),
            Err(_) => {}
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_senders() {
    const SENDERS: usize = 100;
    let server = server([("ocr.call_ms_max", "2000"), ("server.handshake_ms_max", "1000")]);
    let slowly = async {
        let stopped = Arc::new(AtomicBool::new(false));
        let mut senders = JoinSet::new();
        for _ in 0..SENDERS {
            // The greeting itself.
            let stream = connect(&server).await;
            senders.spawn(dribble(stream, http2::greeting().repeat(50), Arc::clone(&stopped)));
            // The headers of a call, after a greeting that is as it should be.
            let mut stream = connect(&server).await;
            stream.write_all(&http2::greeting()).await.expect("not closed yet");
            let headers = http2::call_headers(GET_QUOTA);
            let headers = frame(Kind::Headers, END_HEADERS, 1, &headers);
            senders.spawn(dribble(stream, headers.repeat(50), Arc::clone(&stopped)));
            // Its message.
            let mut stream = connect(&server).await;
            stream.write_all(&http2::greeting()).await.expect("not closed yet");
            let headers = http2::call_headers(RECOGNIZE);
            let headers = frame(Kind::Headers, END_HEADERS, 1, &headers);
            stream.write_all(&headers).await.expect("not closed yet");
            let message = http2::prefixed(&[0; 1 << 20]);
            let data = frame(Kind::Data, END_STREAM, 1, &message[..16 << 10]);
            senders.spawn(dribble(stream, data, Arc::clone(&stopped)));
        }
        // As long as it takes to end a call that does not arrive.
        let statuses =
            [slow_call(&server, RECOGNIZE).await, slow_call(&server, RECOGNIZE_STREAM).await];
        stopped.store(true, Ordering::Relaxed);
        while senders.join_next().await.is_some() {}
        statuses
    };
    let statuses = attacked("300 slow senders", &server, MEMORY_MAX, slowly).await;
    for status in statuses {
        assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
        assert!(status.get_error_details().error_info().is_some(), "{status:?}");
    }
}

/// A call whose message never arrives in whole, and what becomes of it.
async fn slow_call(server: &Server, path: &str) -> Status {
    let connection = http2::connect(server.address(), None).await;
    let (response, mut body) = http2::begin(&connection, path).await.expect("begun");
    body.send_data(Bytes::from_static(&[0, 0, 0, 1, 0, 7]), false).expect("sent");
    http2::status(response).await.expect("answered")
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_are_too_large_or_too_many() {
    const IN_FLIGHT: u64 = 64 << 20;
    const CONNECTIONS: usize = 8;
    const CALLS: usize = 8;
    let server = server([("server.in_flight_bytes_max", "67108864")]);
    let calls = async {
        let mut calls = JoinSet::new();
        for connection in 0..CONNECTIONS {
            let connection_to = http2::connect(server.address(), None).await;
            for call in 0..CALLS {
                // By turns: just as much as is allowed, one byte more than any client may send, and
                // four gigabytes that are only announced.
                let (announced, sent) = match (connection + call) % 3 {
                    0 => (20 << 20, 20 << 20),
                    1 => ((20 << 20) + (64 << 10) + 1, 20 << 20),
                    _ => (u32::MAX, 1 << 20),
                };
                calls.spawn(upload(connection_to.clone(), announced, sent));
            }
        }
        let mut reasons = BTreeMap::<String, usize>::new();
        while let Some(status) = calls.join_next().await {
            let status = status.expect("no panic").expect("answered");
            let details = status.get_error_details();
            let reason = details.error_info().map(|info| info.reason.clone());
            *reasons.entry(reason.unwrap_or_else(|| format!("{status:?}"))).or_default() += 1;
        }
        reasons
    };
    // Beside the messages in flight a connection may have its window full of what nobody has read.
    let windows = CONNECTIONS as u64 * (16 << 20);
    let reasons =
        attacked("large messages", &server, MEMORY_MAX + IN_FLIGHT + windows, calls).await;
    println!("{reasons:?}");
    // Those that are just small enough find no room, or are read: nothing but zeros is no message.
    let expected = ["MESSAGE_MALFORMED", "MESSAGE_TOO_LARGE", "OVERLOADED"];
    assert!(reasons.keys().all(|reason| expected.contains(&reason.as_str())), "{reasons:?}");
    assert!(reasons["MESSAGE_TOO_LARGE"] >= CONNECTIONS * CALLS / 2, "{reasons:?}");
}

/// Calls Recognize with a message that is announced as larger than what is sent of it.
async fn upload(
    connection: h2::client::SendRequest<Bytes>,
    announced: u32,
    sent: usize,
) -> Result<Status, h2::Error> {
    let (response, mut body) = http2::begin(&connection, RECOGNIZE).await?;
    let sender = async {
        body.send_data([&[0], &announced.to_be_bytes()[..]].concat().into(), false)?;
        let piece = Bytes::from(vec![0; 64 << 10]);
        for _ in 0..sent / piece.len() {
            body.reserve_capacity(piece.len());
            let Some(capacity) = std::future::poll_fn(|c| body.poll_capacity(c)).await else {
                break;
            };
            body.send_data(piece.slice(..capacity?.min(piece.len())), false)?;
        }
        body.send_data(Bytes::new(), true)
    };
    // Once the server has refused the call it takes no more of it.
    let (_, status) = tokio::join!(sender, http2::status(response));
    status
}

#[tokio::test(flavor = "multi_thread")]
async fn floods_of_headers() {
    const ROUNDS: usize = 50;
    let server = server([]);
    let call = http2::call_headers(GET_QUOTA);
    let many: Vec<u8> = (0..1_000)
        .flat_map(|number| http2::header(&format!("x-{number}"), &"v".repeat(100)))
        .collect();
    let large = http2::header("x-large", &"v".repeat(200_000));
    // One header that is remembered, and asked for again and again: a byte for four kilobytes.
    let bomb =
        [http2::remembered_header("x-bomb", &"v".repeat(4_000)), vec![0xBE; 16_000]].concat();
    let flood = async {
        let mut closed = BTreeMap::<&str, usize>::new();
        for _ in 0..ROUNDS {
            for (name, headers) in [("many", &many), ("large", &large), ("bomb", &bomb)] {
                let headers = [&call[..], headers].concat();
                let poured = http2::pour(server.address(), in_frames(1, &headers)).await;
                *closed.entry(name).or_default() += usize::from(poured.closed);
            }
            // Headers that never end.
            let begin = frame(Kind::Headers, 0, 1, &call);
            let piece = http2::header("x-more", &"v".repeat(1_000));
            let more = frame(Kind::Continuation, 0, 1, &piece);
            let pieces = std::iter::once(begin).chain(std::iter::repeat_n(more, 100_000));
            let poured = http2::pour(server.address(), pieces).await;
            assert!(poured.closed, "100 MB of headers were taken");
            // Empty ones cost a server nothing but its time, so only their number can be too many.
            let begin = frame(Kind::Headers, 0, 1, &call);
            let empty = frame(Kind::Continuation, 0, 1, &[]).repeat(100);
            let pieces = std::iter::once(begin).chain(std::iter::repeat_n(empty, 100_000));
            let poured = http2::pour(server.address(), pieces).await;
            assert!(poured.closed, "ten million pieces of headers were taken");
        }
        closed
    };
    let closed = attacked("floods of headers", &server, MEMORY_MAX, flood).await;
    println!("of {ROUNDS} connections each the server closed {closed:?}");
}

/// The headers of a call in frames of the size that every server takes.
fn in_frames(stream: u32, headers: &[u8]) -> Vec<Vec<u8>> {
    let pieces: Vec<_> = headers.chunks(16 << 10).collect();
    let last = pieces.len() - 1;
    let frame = |(number, piece): (usize, &&[u8])| {
        let kind = if number == 0 { Kind::Headers } else { Kind::Continuation };
        let mut flags = if number == last { END_HEADERS } else { 0 };
        if number == 0 {
            flags |= END_STREAM;
        }
        frame(kind, flags, stream, piece)
    };
    pieces.iter().enumerate().map(frame).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_are_begun_and_dropped() {
    const CALLS: usize = 50_000;
    const CALLS_A_PIECE: u32 = 50;
    let server = server([]);
    let headers = http2::call_headers(GET_QUOTA);
    // What makes the client drop a call, and what makes the server drop it.
    let cancel = 8_u32.to_be_bytes();
    let nothing = 0_u32.to_be_bytes();
    let pieces = |drop: Kind, payload: [u8; 4]| {
        let headers = headers.clone();
        (0..CALLS as u32 / CALLS_A_PIECE).map(move |piece| {
            (piece * CALLS_A_PIECE..(piece + 1) * CALLS_A_PIECE)
                .flat_map(|call| {
                    let stream = 2 * call + 1;
                    let begin = frame(Kind::Headers, END_HEADERS, stream, &headers);
                    [begin, frame(drop, 0, stream, &payload)].concat()
                })
                .collect()
        })
    };
    for (name, drop, payload) in [
        ("resets", Kind::RstStream, cancel),
        ("resets that the server is made to send", Kind::WindowUpdate, nothing),
    ] {
        let flood = async {
            let (mut begun, mut connections) = (0, 0);
            while begun < CALLS {
                let poured = http2::pour(server.address(), pieces(drop, payload)).await;
                // A piece at least, though the connection may be closed while it is sent.
                begun += poured.pieces.max(1) * CALLS_A_PIECE as usize;
                connections += 1;
            }
            (begun, connections)
        };
        let (begun, connections) = attacked(name, &server, MEMORY_MAX, flood).await;
        println!("{begun} calls on {connections} connections");
        assert!(connections > 1, "{name}: the server went along with all of it");
    }
}

/// A caller of a streaming call who takes no answer. What is done for it goes on without it: it
/// must not keep the worker that does it.
#[tokio::test(flavor = "multi_thread")]
async fn callers_who_take_no_answer() {
    const CALLERS: usize = 4;
    let server = server([]);
    let page = picture::text(&["Nobody reads this"], 40);
    let pages = picture::tiff(&vec![page; 6]);
    let stall = async {
        let mut stalled = Vec::new();
        for caller in 0..CALLERS {
            let user = format!("stalled-{caller}");
            let connection = http2::connect(server.address(), Some(0)).await;
            let call = http2::begin(&connection, RECOGNIZE_DOCUMENT).await.expect("begun");
            let (response, mut body) = call;
            let header = DocumentHeader { user_id: user.clone(), ..Default::default() };
            for piece in [Piece::Header(header), Piece::Chunk(pages.clone().into())] {
                let message = RecognizeDocumentRequest { piece: Some(piece) };
                body.send_data(http2::message(&message).into(), false).expect("sent");
            }
            body.send_data(Bytes::new(), true).expect("sent");
            let deadline = Instant::now() + PATIENCE;
            while spent(&server.account(&user).await) == 0 {
                assert!(Instant::now() < deadline, "not even its first page was read");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            stalled.push((connection, response));
        }
        // All of them stand still now, and the only worker is free for others.
        let request = recognize_request("other", picture::line("My turn"));
        let mut client = server.recognize().await;
        let response = tokio::time::timeout(PATIENCE, client.recognize(request)).await;
        response.expect("a worker in time").expect("recognised");
        stalled
    };
    drop(attacked("callers who take no answer", &server, MEMORY_MAX, stall).await);
}

/// How many frames are sent to each method; there are 24, so it is more than 100,000 in all.
const FRAMES_PER_METHOD: usize = 4_300;
/// How many connections send them, and how many calls run on each.
const SENDING_CONNECTIONS: usize = 4;
const SENDING_CALLS: usize = 4;

/// A request as gRPC sends it, broken: its bytes, or what stands before them.
fn broken(request: Vec<u8>, other: &[u8], dice: &mut Dice) -> Vec<u8> {
    let mut bytes = request;
    let at = dice.below(bytes.len() + 1);
    let way = dice.below(8);
    match way {
        0..=2 => {
            for _ in 0..=dice.below(8) {
                let at = dice.below(bytes.len());
                match bytes.get_mut(at) {
                    Some(byte) => *byte ^= 1 << dice.below(8),
                    None => bytes.push(dice.below(256) as u8),
                }
            }
        }
        3 => bytes.truncate(at),
        // The beginning of one and the end of another.
        4 => {
            bytes.splice(at.., other[dice.below(other.len() + 1)..].iter().copied()).for_each(drop)
        }
        5 => {
            let garbage: Vec<u8> = (0..=dice.below(32)).map(|_| dice.below(256) as u8).collect();
            bytes.splice(at..at, garbage).for_each(drop);
        }
        // Only what stands before it is wrong.
        _ => {}
    }
    let mut frame = http2::prefixed(&bytes);
    if way > 5 {
        let length = bytes.len() as u32;
        let wrong = match dice.below(4) {
            0 => length + 1 + dice.below(1_000) as u32,
            1 => dice.below(length as usize + 1) as u32,
            2 => u32::MAX - dice.below(1_000) as u32,
            _ => {
                frame[0] = 1 + dice.below(255) as u8;
                length
            }
        };
        frame[1..5].copy_from_slice(&wrong.to_be_bytes());
    }
    frame
}

/// Sends a call with one frame; gives the code of its answer.
async fn send(
    connection: &h2::client::SendRequest<Bytes>,
    method: &Method,
    frame: Vec<u8>,
) -> Result<Code, h2::Error> {
    let (response, mut body) = http2::begin(connection, &method.path).await?;
    // The server may refuse a call before it has all of it.
    let _ = body.send_data(frame.into(), true);
    Ok(http2::status(response).await?.code())
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_are_broken() {
    let contract = Arc::new(Contract::read());
    let seed = seed();
    let total = FRAMES_PER_METHOD * contract.methods().len();
    assert!(total >= 100_000, "{total} frames are too few");
    let picture = picture::encode(&picture::text(&["Ab"], 12), image::ImageFormat::Png);
    let mut files: Vec<Vec<u8>> = (1..20).map(|size| vec![b'x'; size]).collect();
    files.push(picture);
    let files = Arc::new(files);
    let server = server([]);
    let started = Instant::now();
    let next = Arc::new(AtomicUsize::new(0));
    let sending = async {
        let mut senders = JoinSet::new();
        for _ in 0..SENDING_CONNECTIONS {
            let connection = http2::connect(server.address(), None).await;
            for _ in 0..SENDING_CALLS {
                let (connection, next) = (connection.clone(), Arc::clone(&next));
                let (contract, files) = (Arc::clone(&contract), Arc::clone(&files));
                senders.spawn(async move {
                    let mut codes = BTreeMap::<String, usize>::new();
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= total {
                            return codes;
                        }
                        let (method, frame) = frame_of(&contract, &files, seed, number);
                        let answer = send(&connection, method, frame.clone());
                        let answer = tokio::time::timeout(PATIENCE, answer).await;
                        let code = match answer {
                            Ok(Ok(code)) => code,
                            other => panic!("{} with {frame:02x?}: {other:?}", method.name),
                        };
                        let ours = [Code::Internal, Code::Unknown, Code::DataLoss];
                        assert!(!ours.contains(&code), "{} {frame:02x?}: {code:?}", method.name);
                        *codes.entry(format!("{code:?}")).or_default() += 1;
                    }
                });
            }
        }
        let mut codes = BTreeMap::<String, usize>::new();
        for part in senders.join_all().await {
            part.into_iter().for_each(|(code, count)| *codes.entry(code).or_default() += count);
        }
        codes
    };
    let codes = attacked("broken messages", &server, MEMORY_MAX, sending).await;
    let rate = total as f64 / started.elapsed().as_secs_f64();
    println!("{total} frames, {rate:.0} a second: {codes:?}");
    assert_eq!(codes.values().sum::<usize>(), total);
}

/// The frame with a number: the same for the same seed, whoever sends it.
fn frame_of<'a>(
    contract: &'a Contract,
    files: &[Vec<u8>],
    seed: u64,
    number: usize,
) -> (&'a Method, Vec<u8>) {
    let mut dice = Dice(seed.wrapping_add(number as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    let methods = contract.methods();
    let method = &methods[number % methods.len()];
    let request = contract.request(method, files, &mut dice);
    let other = contract.request(&methods[dice.below(methods.len())], files, &mut dice);
    (method, broken(request, &other, &mut dice))
}

/// What a message may take says nothing about how many there may be in one call.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_with_more_messages_than_its_method_takes() {
    let server = server([]);
    let connection = http2::connect(server.address(), None).await;
    let (response, mut body) = http2::begin(&connection, RECOGNIZE).await.expect("begun");
    let request = RecognizeRequest { user_id: "42".into(), ..Default::default() };
    for _ in 0..3 {
        body.send_data(http2::message(&request).into(), false).expect("sent");
    }
    // The end of the call is not waited for.
    let status = http2::status(response).await.expect("answered");
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    let details = status.get_error_details();
    assert_eq!(details.error_info().expect("an ErrorInfo").reason, "MESSAGE_MALFORMED");
}

/// Also where the refusal comes after the headers of the answer.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_ends_within_a_message() {
    let server = server([]);
    let connection = http2::connect(server.address(), None).await;
    let (response, mut body) = http2::begin(&connection, RECOGNIZE_STREAM).await.expect("begun");
    let message = http2::prefixed(&[0; 100]);
    body.send_data(Bytes::from(message).slice(..50), true).expect("sent");
    let status = http2::status(response).await.expect("answered");
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    let details = status.get_error_details();
    assert_eq!(details.error_info().expect("an ErrorInfo").reason, "MESSAGE_MALFORMED");
}
