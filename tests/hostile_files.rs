//! Files that mean harm or are broken: each ends in an answer or in a clear error, and costs
//! nobody else anything.

use std::panic;
use std::time::{Duration, Instant};

use image::{GrayImage, ImageFormat, Luma, imageops};
use img2text::config;
use img2text::ocr::geometry::Turn;
use img2text::ocr::{Preparation, image as file, prepare};
use tonic::Code;

use crate::support::dice::{Dice, seed};
use crate::support::picture;
use crate::support::server::{Server, recognize_request, resident_bytes, spent, wait_until};

const FORMATS: [ImageFormat; 6] = [
    ImageFormat::Png,
    ImageFormat::Jpeg,
    ImageFormat::WebP,
    ImageFormat::Tiff,
    ImageFormat::Bmp,
    ImageFormat::Gif,
];

fn originals() -> Vec<Vec<u8>> {
    let image = picture::text(&["Ab"], 12);
    let mut files: Vec<Vec<u8>> =
        FORMATS.iter().map(|format| picture::encode(&image, *format)).collect();
    files.push(picture::tiff(&[image.clone(), image]));
    files.push(picture::pdf(&["Ab"]));
    files
}

/// A file with some bytes changed, lost, doubled, or its end cut off.
fn mutated(original: &[u8], dice: &mut Dice) -> Vec<u8> {
    let mut file = original.to_vec();
    for _ in 0..=dice.below(4) {
        let at = dice.below(file.len());
        match dice.below(8) {
            0 => file.truncate(at.max(8)),
            1 => drop(file.drain(at..(at + dice.below(16)).min(file.len()))),
            2 => {
                let part = file[at..(at + dice.below(64)).min(file.len())].to_vec();
                file.splice(at..at, part);
            }
            3 => {
                // Numbers that programs forget.
                let edges = [[0xff; 4], [0; 4], [0x7f, 0xff, 0xff, 0xff], [0, 0, 0, 0x80]];
                let edge = edges[dice.below(edges.len())];
                for (byte, new) in file[at..].iter_mut().zip(edge) {
                    *byte = new;
                }
            }
            4 => {
                // Headers are where the harm is.
                let at = dice.below(file.len().min(64));
                file[at] = dice.below(256) as u8;
            }
            _ => file[at] = dice.below(256) as u8,
        }
        if file.is_empty() {
            file = original[..original.len().min(8)].to_vec();
        }
    }
    file
}

#[test]
fn a_hundred_thousand_broken_files_are_decoded_or_refused() {
    // Small, so that a header that claims more is refused as a bomb would be.
    let settings = config::Ocr { image_pixels_max: 250_000, ..config::Ocr::default() };
    let mut dice = Dice(seed());
    // Decoders that panic are caught; their reports would bury all else.
    panic::set_hook(Box::new(|_| {}));
    let (mut decoded, mut refused, mut slowest) = (0, 0, Duration::ZERO);
    let originals = originals();
    for round in 0..100_000 {
        // A PDF takes as long as hundreds of pictures.
        let kinds = if round % 50 == 0 { originals.len() } else { originals.len() - 1 };
        let bytes = mutated(&originals[dice.below(kinds)], &mut dice);
        let started = Instant::now();
        let result = file::check(&bytes, &settings)
            .map_err(|_| ())
            .and_then(|()| file::decode(&bytes, 1, true, &settings).map_err(|_| ()));
        match result {
            Ok(picture) => {
                prepare::prepare(&picture.grey, Turn::None, Preparation::default());
                decoded += 1;
            }
            Err(()) => refused += 1,
        }
        slowest = slowest.max(started.elapsed());
    }
    let _ = panic::take_hook();
    println!("{decoded} decoded, {refused} refused, the slowest in {slowest:?}");
    assert!(decoded > 10_000 && refused > 10_000, "the files are all alike");
    assert!(slowest < Duration::from_secs(20), "{slowest:?}");
}

/// How much memory the server itself may take while strangers send it whatever they like: its
/// workers decode, not it.
const SERVER_RESIDENT_BYTES_MAX: u64 = 256 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn two_thousand_broken_files_are_answered_or_cost_nothing() {
    const FILES: usize = 2_000;
    const CALLERS: usize = 4;
    let server = Server::with([("ocr.workers", "2")]);
    server.redis_cli(&["HSET", "sub:user:42", "extra_remaining", "10000"]);
    let mut dice = Dice(seed());
    let originals = originals();
    let client = server.recognize().await;
    let calls = (0..CALLERS).map(|_| {
        let files: Vec<_> = (0..FILES / CALLERS)
            .map(|_| mutated(&originals[dice.below(originals.len())], &mut dice))
            .collect();
        let mut client = client.clone();
        tokio::spawn(async move {
            let mut answered = 0;
            for file in files {
                match client.recognize(recognize_request("42", file)).await {
                    Ok(_) => answered += 1,
                    Err(status) => assert_eq!(status.code(), Code::InvalidArgument, "{status:?}"),
                }
            }
            answered
        })
    });
    let mut answered = 0;
    for call in calls.collect::<Vec<_>>() {
        answered += call.await.expect("every call has a clear end");
    }
    println!("{answered} of {FILES} answered");
    assert!(answered > FILES as u64 / 20, "the files are all alike");
    assert_eq!(spent(&server.account("42").await), answered);
    assert!(resident_bytes(server.pid()) < SERVER_RESIDENT_BYTES_MAX);
    assert!(!server.log().contains("panicked at src/grpc"), "{}", server.log());
    still_works(&server).await;
}

/// No worker is lost: as many as there should be answer at the same time.
async fn still_works(server: &Server) {
    wait_until("all workers are there", || server.children(" worker ").len() == 2);
    let client = server.recognize().await;
    let calls = (0..2).map(|_| {
        let mut client = client.clone();
        let request = recognize_request("42", picture::line("Still here"));
        async move { client.recognize(request).await.unwrap().into_inner().text }
    });
    for text in futures::future::join_all(calls).await {
        assert_eq!(text.trim(), "Still here");
    }
}

/// A PNG of one shade: many pixels in few bytes.
fn blank_png(width: u32, height: u32) -> Vec<u8> {
    picture::encode(&GrayImage::from_pixel(width, height, Luma([255])), ImageFormat::Png)
}

/// Lines of letters, so wide.
fn strip(width: u32, lines: usize, pixels_per_line: u32) -> GrayImage {
    let line = "Ab ".repeat((width / pixels_per_line) as usize);
    let all = picture::text(&vec![&*line; lines], pixels_per_line);
    imageops::crop_imm(&all, 0, 0, width, all.height()).to_image()
}

/// A GIF with one frame, repeated: nobody knows where it ends.
fn endless_gif() -> Vec<u8> {
    let one = picture::encode(&picture::text(&["Ab"], 12), ImageFormat::Gif);
    // Header and screen, whose last byte but two says how large the table of colours is.
    let table_bytes = if one[10] & 0x80 != 0 { 3 << ((one[10] & 7) + 1) } else { 0 };
    let (head, rest) = one.split_at(13 + table_bytes);
    let frame = &rest[..rest.len() - 1];
    [head, &frame.repeat(20_000)].concat()
}

/// A TIFF whose list of pages runs in a circle.
fn circular_tiff() -> Vec<u8> {
    let page = picture::text(&["Ab"], 12);
    let mut file = picture::tiff(&[page.clone(), page]);
    let first: [u8; 4] = file[4..8].try_into().expect("four bytes");
    let end = file.len();
    file[end - 4..].copy_from_slice(&first);
    file
}

#[tokio::test(flavor = "multi_thread")]
async fn pictures_that_preparing_would_make_too_long_are_read_as_they_are() {
    let server = Server::with([("ocr.workers", "1")]);
    let mut client = server.recognize().await;
    let small = strip(32_000, 1, 12);
    let climbing = picture::tilted(&strip(31_990, 3, 40), 3.0);
    assert!(climbing.width() <= 32_000, "{}", climbing.width());
    for (what, image) in [
        ("small letters, wide", &small),
        ("small letters, high", &imageops::rotate90(&small)),
        ("lines that climb", &climbing),
    ] {
        let file = picture::encode(image, ImageFormat::Png);
        let answer = client.recognize(recognize_request("42", file)).await;
        let page = answer.unwrap_or_else(|status| panic!("{what}: {status:?}")).into_inner();
        println!("{what}: {} characters", page.text.len());
    }
    assert_eq!(spent(&server.account("42").await), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn bombs_and_giants_end_in_an_answer_or_in_a_clear_error() {
    let server = Server::with([("ocr.workers", "2"), ("ocr.page_ms_max", "20000")]);
    server.redis_cli(&["HSET", "sub:user:42", "extra_remaining", "100"]);
    let mut client = server.recognize().await;
    let mut wide = picture::encode(&GrayImage::new(1, 1), ImageFormat::Png);
    wide[16..24].copy_from_slice(&[0, 0, 0xff, 0xff, 0, 0, 0xff, 0xff]);
    let files = [
        ("65,535 pixels each way, so its header says", wide),
        ("65,535 pixels wide, one high", blank_png(65_535, 1)),
        ("32,000 pixels wide, one high", blank_png(32_000, 1)),
        ("one pixel wide, 32,000 high", blank_png(1, 32_000)),
        ("99 million pixels of nothing", blank_png(9_900, 10_000)),
        ("one pixel", blank_png(1, 1)),
        ("a GIF without an end", endless_gif()),
        ("a TIFF that runs in a circle", circular_tiff()),
    ];
    let mut answered = 0;
    for (what, file) in files {
        let bytes = file.len();
        let started = Instant::now();
        match client.recognize(recognize_request("42", file)).await {
            Ok(_) => answered += 1,
            Err(status) => {
                let clear = [Code::InvalidArgument, Code::DeadlineExceeded];
                assert!(clear.contains(&status.code()), "{what}: {status:?}");
            }
        }
        println!("{what} ({bytes} bytes): {:?}", started.elapsed());
        assert_eq!(spent(&server.account("42").await), answered, "{what}");
    }
    assert!(resident_bytes(server.pid()) < SERVER_RESIDENT_BYTES_MAX);
    still_works(&server).await;
}

#[tokio::test]
async fn a_truncated_file_of_any_format_costs_nothing() {
    let server = Server::start();
    let mut client = server.recognize().await;
    let image = picture::text(&["Not all of it"], 40);
    for format in FORMATS {
        let mut bytes = picture::encode(&image, format);
        bytes.truncate(bytes.len() / 3);
        let answer = client.recognize(recognize_request("42", bytes)).await;
        // Some decoders show what there is of a JPEG; all others refuse.
        match answer {
            Ok(_) => assert_eq!(format, ImageFormat::Jpeg),
            Err(status) => assert_eq!(status.code(), Code::InvalidArgument, "{format:?}"),
        }
    }
    let paid = spent(&server.account("42").await);
    assert!(paid <= 1, "{paid}");
}

#[tokio::test]
async fn a_worker_can_do_little_but_its_work() {
    let server = Server::start();
    let worker = server.children(" worker ")[0];
    let status = std::fs::read_to_string(format!("/proc/{worker}/status")).unwrap();
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).expect("a field");
        line.split_whitespace().nth(1).unwrap().to_string()
    };
    assert_eq!(field("NoNewPrivs:"), "1");
    assert_eq!(field("Seccomp:"), "2", "a filter");
    let limits = std::fs::read_to_string(format!("/proc/{worker}/limits")).unwrap();
    let limit = |name: &str| {
        let line = limits.lines().find(|line| line.starts_with(name)).expect("a limit");
        line[name.len()..].split_whitespace().next().expect("a number").to_string()
    };
    assert_eq!((&*limit("Max file size"), &*limit("Max core file size")), ("0", "0"), "{limits}");
    let memory_max = config::Ocr::default().worker_memory_bytes_max;
    assert_eq!(limit("Max address space"), memory_max.to_string(), "{limits}");
    // Of the server's environment, which may hold the password of Redis, it has what it needs.
    let environment = std::fs::read_to_string(format!("/proc/{worker}/environ")).unwrap();
    let names = environment.split_terminator('\0').filter_map(|entry| entry.split_once('='));
    let names: Vec<&str> = names.map(|(name, _)| name).collect();
    assert!(names.contains(&"OMP_THREAD_LIMIT") && !names.contains(&"PATH"), "{names:?}");
    // It still reads data for other languages, and every kind of file.
    let mut request = recognize_request("42", picture::pdf(&["Behind walls"]));
    request.languages = vec!["rus".into(), "eng".into()];
    let text = server.recognize().await.recognize(request).await.unwrap().into_inner().text;
    assert_eq!(text.trim(), "Behind walls");
}
