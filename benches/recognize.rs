//! Claim: Recognize over gRPC, with its quota, reaches at saturation at least 0.95 of the pictures
//! per second of bare Tesseract.
//!
//! The reference is as many threads as the server has workers, each with a warm engine, decoding
//! and recognising the same pictures without a network, an account, or a process in between; in
//! turns in the same run. Prints the medians of the rounds, and their ratio.

#[path = "../tests/support/mod.rs"]
#[allow(dead_code)]
mod support;

use std::os::unix::process::CommandExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use image::ImageFormat;
use support::picture;
use support::server::{Server, recognize_request};
use tesseract::plumbing::TessBaseApi;

const ROUNDS: usize = 5;
const PICTURES_A_ROUND: usize = 60;
/// Enough that a worker never waits for a caller.
const CALLERS_A_WORKER: usize = 3;

fn main() {
    // The reference needs what the server gives its workers: without it, engines in parallel
    // fight over the cores. Tesseract reads it when the process starts.
    if std::env::var_os("OMP_THREAD_LIMIT").is_none() {
        let program = std::env::current_exe().expect("a program");
        let error = std::process::Command::new(program).env("OMP_THREAD_LIMIT", "1").exec();
        panic!("cannot start again: {error}");
    }
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let workers = std::thread::available_parallelism().expect("a number of cores").get();
    let pictures = Arc::new(pictures());
    let server = Server::with([("ocr.workers", &workers.to_string())]);
    server.redis_cli(&["HSET", "sub:user:bench", "extra_remaining", "1000000"]);

    let (mut over_grpc, mut bare) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        over_grpc.push(runtime.block_on(rate_over_grpc(&server, workers, &pictures)));
        bare.push(bare_rate(workers, &pictures));
    }
    let (ours, theirs) = (median(over_grpc), median(bare));
    println!("| workers | Recognize, pictures/s | bare engines, pictures/s | ratio |");
    println!("|---|---|---|---|");
    println!("| {workers} | {ours:.2} | {theirs:.2} | {:.2} |", ours / theirs);
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
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

async fn rate_over_grpc(server: &Server, workers: usize, pictures: &Arc<Vec<Vec<u8>>>) -> f64 {
    let next = Arc::new(AtomicUsize::new(0));
    let client = server.recognize().await;
    let started = Instant::now();
    let callers = (0..workers * CALLERS_A_WORKER).map(|_| {
        let (mut client, next, pictures) = (client.clone(), next.clone(), pictures.clone());
        tokio::spawn(async move {
            while let Some(picture) = take(&next, &pictures) {
                let request = recognize_request("bench", picture.clone());
                client.recognize(request).await.expect("a text");
            }
        })
    });
    for caller in callers.collect::<Vec<_>>() {
        caller.await.expect("a caller ends");
    }
    PICTURES_A_ROUND as f64 / started.elapsed().as_secs_f64()
}

fn bare_rate(threads: usize, pictures: &Arc<Vec<Vec<u8>>>) -> f64 {
    let next = Arc::new(AtomicUsize::new(0));
    let ready = Arc::new(std::sync::Barrier::new(threads + 1));
    let threads = (0..threads).map(|_| {
        let (next, pictures, ready) = (next.clone(), pictures.clone(), ready.clone());
        std::thread::spawn(move || {
            let mut engine = TessBaseApi::create();
            engine.init_2(None, Some(c"eng")).expect("an engine");
            ready.wait();
            while let Some(picture) = take(&next, &pictures) {
                let grey = image::load_from_memory(picture).expect("a picture").into_luma8();
                let (width, height) = (grey.width() as i32, grey.height() as i32);
                engine.set_image(grey.as_raw(), width, height, 1, width).expect("a picture");
                engine.recognize().expect("a text");
                assert!(!engine.get_utf8_text().expect("a text").as_ref().is_empty());
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
