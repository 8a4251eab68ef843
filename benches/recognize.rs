//! Claims: Recognize over gRPC, with its quota, reaches at saturation at least 0.95 of the pictures
//! per second of bare Tesseract, and at least those of tesserocr; what stands around Tesseract adds
//! little to the time of a call.
//!
//! The references are as many threads as the server has workers, each with a warm engine of the
//! system's Tesseract, without a network, an account, or a process in between; and as many
//! processes of tesserocr, the Python binding, whose wheel carries a Tesseract of its own. All read
//! the same pictures, in turns in the same run, with Tesseract's own page layout; the preparation of
//! the pictures is off, as it is in the references. Prints the medians of the rounds and their
//! ratios, then the times of a caller who is alone.
//!
//! `make tools` installs tesserocr.

#[path = "../tests/support/mod.rs"]
#[allow(dead_code)]
mod support;

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use image::ImageFormat;
use img2text::grpc::proto::{Preparation, RecognizeOptions, RecognizeRequest};
use support::load::{median, quantile};
use support::picture;
use support::server::{Server, recognize_request};
use tesseract::plumbing::TessBaseApi;

const ROUNDS: usize = 7;
const PICTURES_A_ROUND: usize = 60;
/// Enough that a worker never waits for a caller.
const CALLERS_A_WORKER: usize = 3;
/// How many calls a caller who is alone makes.
const LONE_CALLS: usize = 200;

fn main() {
    // The references need what the server gives its workers: without it, engines in parallel
    // fight over the cores. Tesseract reads it when the process starts.
    if std::env::var_os("OMP_THREAD_LIMIT").is_none() {
        let program = std::env::current_exe().expect("a program");
        let error = Command::new(program).env("OMP_THREAD_LIMIT", "1").exec();
        panic!("cannot start again: {error}");
    }
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let workers = std::thread::available_parallelism().expect("a number of cores").get();
    let pictures = Arc::new(pictures());
    let server = Server::with([("ocr.workers", &workers.to_string())]);
    server.redis_cli(&["HSET", "sub:user:bench", "extra_remaining", "1000000"]);
    saturate(&runtime, &server, workers, &pictures);
    runtime.block_on(alone(&server, &pictures));
}

fn saturate(
    runtime: &tokio::runtime::Runtime,
    server: &Server,
    workers: usize,
    pictures: &Arc<Vec<Vec<u8>>>,
) {
    let tesserocr = Tesserocr::new(pictures);
    let (mut over_grpc, mut bare, mut python) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        over_grpc.push(runtime.block_on(rate_over_grpc(server, workers, pictures)));
        bare.push(bare_rate(workers, pictures));
        python.extend(tesserocr.as_ref().map(|tesserocr| tesserocr.rate(workers)));
    }
    let ours = median(over_grpc);
    println!("| at saturation, {workers} workers | pictures/s | Recognize's share of it |");
    println!("|---|---|---|");
    println!("| Recognize over gRPC, with quota | {ours:.2} | |");
    let bare = median(bare);
    let version = img2text::ocr::engine::version();
    println!(
        "| bare engines, Tesseract {version} of the system | {bare:.2} | {:.2} |",
        ours / bare
    );
    if let Some(tesserocr) = tesserocr {
        let version = tesserocr.version();
        let python = median(python);
        println!(
            "| tesserocr, Tesseract {version} of its own | {python:.2} | {:.2} |",
            ours / python
        );
        println!("\nThe system's Tesseract is {:.2} times as fast as tesserocr's.", bare / python);
    }
}

/// Paragraphs of printed text, a third of a page each.
fn pictures() -> Vec<Vec<u8>> {
    let lines = [
        "It is a truth universally acknowledged that a picture in",
        "possession of good contrast must be in want of a reader.",
        "However little known the words or wishes of such a picture",
        "may be on its first entering a neighbourhood, this truth is",
        "so well fixed in the minds of the surrounding recognisers,",
        "that it is considered the rightful property of one of them.",
    ];
    let sized = |size| picture::encode(&picture::text(&lines, size), ImageFormat::Png);
    [30, 34, 38, 42].map(sized).into()
}

/// A request without any preparation.
fn request(picture: &[u8]) -> RecognizeRequest {
    let preparation = Preparation {
        skip_upscale: true,
        skip_downscale: true,
        skip_invert: true,
        skip_deskew: true,
        skip_rotate: true,
        skip_adaptive_threshold: true,
    };
    let options = RecognizeOptions { preparation: Some(preparation), ..Default::default() };
    RecognizeRequest { options: Some(options), ..recognize_request("bench", picture.to_vec()) }
}

async fn rate_over_grpc(server: &Server, workers: usize, pictures: &Arc<Vec<Vec<u8>>>) -> f64 {
    let next = Arc::new(AtomicUsize::new(0));
    let client = server.recognize().await;
    let started = Instant::now();
    let callers = (0..workers * CALLERS_A_WORKER).map(|_| {
        let (mut client, next, pictures) = (client.clone(), next.clone(), pictures.clone());
        tokio::spawn(async move {
            while let Some(picture) = take(&next, &pictures) {
                client.recognize(request(picture)).await.expect("a text");
            }
        })
    });
    for caller in callers.collect::<Vec<_>>() {
        caller.await.expect("a caller ends");
    }
    PICTURES_A_ROUND as f64 / started.elapsed().as_secs_f64()
}

fn bare_engine() -> TessBaseApi {
    let mut engine = TessBaseApi::create();
    engine.init_2(None, Some(c"eng")).expect("an engine");
    // The library's own default is one block; programs and the server look for the layout.
    engine.set_variable(c"tessedit_pageseg_mode", c"3").expect("a variable");
    engine
}

fn read(engine: &mut TessBaseApi, picture: &[u8]) {
    let grey = image::load_from_memory(picture).expect("a picture").into_luma8();
    let (width, height) = (grey.width() as i32, grey.height() as i32);
    engine.set_image(grey.as_raw(), width, height, 1, width).expect("a picture");
    engine.recognize().expect("a text");
    assert!(!engine.get_utf8_text().expect("a text").as_ref().is_empty());
}

fn bare_rate(threads: usize, pictures: &Arc<Vec<Vec<u8>>>) -> f64 {
    let next = Arc::new(AtomicUsize::new(0));
    let ready = Arc::new(std::sync::Barrier::new(threads + 1));
    let threads = (0..threads).map(|_| {
        let (next, pictures, ready) = (next.clone(), pictures.clone(), ready.clone());
        std::thread::spawn(move || {
            let mut engine = bare_engine();
            ready.wait();
            while let Some(picture) = take(&next, &pictures) {
                read(&mut engine, picture);
            }
        })
    });
    let threads: Vec<_> = threads.collect();
    ready.wait();
    let started = Instant::now();
    for thread in threads {
        thread.join().expect("a thread ends");
    }
    PICTURES_A_ROUND as f64 / started.elapsed().as_secs_f64()
}

/// The next picture of the round.
fn take<'a>(next: &AtomicUsize, pictures: &'a [Vec<u8>]) -> Option<&'a Vec<u8>> {
    let number = next.fetch_add(1, Ordering::Relaxed);
    (number < PICTURES_A_ROUND).then(|| &pictures[number % pictures.len()])
}

/// tesserocr, in a Python of its own.
struct Tesserocr {
    python: PathBuf,
    home: tempfile::TempDir,
    pictures: usize,
}

impl Tesserocr {
    /// Nothing if it is not installed.
    fn new(pictures: &[Vec<u8>]) -> Option<Self> {
        let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/bin/python");
        let found = Command::new(&python).args(["-c", "import tesserocr"]).output().ok()?;
        if !found.status.success() {
            return None;
        }
        let home = tempfile::tempdir().expect("a temporary directory");
        for (number, picture) in pictures.iter().enumerate() {
            let path = home.path().join(format!("{number}.png"));
            std::fs::write(path, picture).expect("a file");
        }
        Some(Self { python, home, pictures: pictures.len() })
    }

    fn rate(&self, processes: usize) -> f64 {
        self.run(processes).0
    }

    fn version(&self) -> String {
        self.run(1).1
    }

    fn run(&self, processes: usize) -> (f64, String) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/tesserocr_rate.py");
        let output = Command::new(&self.python)
            .arg(script)
            .args([&processes.to_string(), &PICTURES_A_ROUND.to_string(), "eng"])
            .args((0..self.pictures).map(|number| self.home.path().join(format!("{number}.png"))))
            .output()
            .expect("Python runs");
        assert!(output.status.success(), "{output:?}");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let (rate, version) = said.trim().split_once(' ').expect("a rate and a version");
        (rate.parse().expect("a number"), version.into())
    }
}

/// What a caller who is alone waits, and how much of it is not Tesseract.
async fn alone(server: &Server, pictures: &Arc<Vec<Vec<u8>>>) {
    let mut engine = bare_engine();
    let (mut calls, mut bare, mut added) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..LONE_CALLS {
        let picture = &pictures[number % pictures.len()];
        let call = time_of_call(server, picture).await;
        let started = Instant::now();
        read(&mut engine, picture);
        let taken = milliseconds(started.elapsed());
        calls.push(call);
        bare.push(taken);
        added.push(call - taken);
    }
    let busy = Arc::new(AtomicBool::new(true));
    let other = tokio::spawn(keep_a_worker_busy(server.recognize().await, Arc::clone(&busy)));
    let mut beside = Vec::new();
    for number in 0..LONE_CALLS {
        beside.push(time_of_call(server, &pictures[number % pictures.len()]).await);
    }
    busy.store(false, Ordering::Relaxed);
    other.await.expect("the other caller ends");
    println!("\n| a caller who is alone | p50, ms | p99, ms |");
    println!("|---|---|---|");
    for (what, times) in [
        ("Recognize over gRPC, with quota", &calls),
        ("a bare engine", &bare),
        ("added around Tesseract, call by call", &added),
        ("Recognize while another caller keeps one worker busy", &beside),
    ] {
        let at = |share| quantile(times.clone(), share);
        println!("| {what} | {:.1} | {:.1} |", at(0.5), at(0.99));
    }
}

async fn time_of_call(server: &Server, picture: &[u8]) -> f64 {
    // A client of its own costs nothing that counts: the connection is made before.
    let mut client = server.recognize().await;
    let started = Instant::now();
    client.recognize(request(picture)).await.expect("a text");
    milliseconds(started.elapsed())
}

async fn keep_a_worker_busy(
    mut client: img2text::grpc::proto::recognize_service_client::RecognizeServiceClient<
        tonic::transport::Channel,
    >,
    busy: Arc<AtomicBool>,
) {
    let page = picture::dense_page();
    while busy.load(Ordering::Relaxed) {
        client.recognize(request(&page)).await.expect("a text");
    }
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
