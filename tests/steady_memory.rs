//! A worker that works on does not grow.

use image::ImageFormat;

use crate::support::picture;
use crate::support::server::{Server, recognize_request, resident_bytes};

const WORDS: [&str; 12] = [
    "Call",
    "me",
    "Ishmael",
    "Some",
    "years",
    "ago",
    "never",
    "mind",
    "how",
    "long",
    "precisely",
    "1851",
];

/// One to three short lines, in a size of their own: no two of the first hundreds are alike.
fn small_picture(number: usize) -> Vec<u8> {
    let word = |step: usize| WORDS[(number * 7 + step * 5 + number / 12) % WORDS.len()];
    let line = |row: usize| format!("{} {}", word(row), word(row + 3));
    let lines: Vec<String> = (0..=number % 3).map(line).collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    picture::encode(&picture::text(&lines, 16 + (number % 11) as u32), ImageFormat::Png)
}

#[tokio::test(flavor = "multi_thread")]
async fn after_two_thousand_pictures_a_worker_has_what_it_had_after_two_hundred() {
    let server = Server::with([("ocr.workers", "1")]);
    server.redis_cli(&["HSET", "sub:user:42", "extra_remaining", "10000"]);
    let worker = server.children(" worker ")[0];
    let mut client = server.recognize().await;
    let mut early = 0;
    for number in 0..2_000 {
        if number == 200 {
            early = resident_bytes(worker);
        }
        let request = recognize_request("42", small_picture(number));
        client.recognize(request).await.expect("a text");
    }
    let late = resident_bytes(worker);
    println!("{early} bytes after 200 pictures, {late} after 2,000");
    assert!(late <= early + early / 10, "{early} bytes have become {late}");
    assert_eq!(server.children(" worker "), [worker], "it is still the same worker");
}
