//! Files that mean harm or are broken: each ends in an answer or in a clear error, and costs
//! nobody else anything.

use std::panic;
use std::time::{Duration, Instant};

use image::ImageFormat;
use img2text::config;
use img2text::ocr::geometry::Turn;
use img2text::ocr::{Preparation, image as file, prepare};
use tonic::Code;

use crate::support::picture;
use crate::support::server::{Server, recognize_request, spent};

const FORMATS: [ImageFormat; 6] = [
    ImageFormat::Png,
    ImageFormat::Jpeg,
    ImageFormat::WebP,
    ImageFormat::Tiff,
    ImageFormat::Bmp,
    ImageFormat::Gif,
];

/// Small numbers that differ, the same for the same seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        // xorshift64*: good enough to break files.
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % limit.max(1)
    }
}

/// A seed to repeat a failure with: `HOSTILE_SEED=…`.
fn seed() -> u64 {
    let given = std::env::var("HOSTILE_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(|| uuid::Uuid::new_v4().as_u128() as u64 | 1);
    println!("HOSTILE_SEED={seed}");
    seed
}

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
    let none = |name: &str| {
        let line = limits.lines().find(|line| line.starts_with(name)).expect("a limit");
        line[name.len()..].split_whitespace().next() == Some("0")
    };
    assert!(none("Max file size") && none("Max core file size"), "{limits}");
    // It still reads data for other languages, and every kind of file.
    let mut request = recognize_request("42", picture::pdf(&["Behind walls"]));
    request.languages = vec!["rus".into(), "eng".into()];
    let text = server.recognize().await.recognize(request).await.unwrap().into_inner().text;
    assert_eq!(text.trim(), "Behind walls");
}
