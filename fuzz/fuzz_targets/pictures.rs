//! What a worker does with the bytes of a file before Tesseract sees them: check, count, decode,
//! prepare. A decoder may panic, which is caught and means a corrupt file; nothing else may.
#![no_main]

use std::sync::LazyLock;

use img2text::config;
use img2text::ocr::geometry::Turn;
use img2text::ocr::{Preparation, image, prepare::prepare};
use libfuzzer_sys::fuzz_target;

/// Small limits: what is looked for is in the headers, not in the number of pixels.
static SETTINGS: LazyLock<config::Ocr> = LazyLock::new(|| {
    // The fuzzer would end at a panic that is caught; those that are not still end it.
    std::panic::set_hook(Box::new(|_| {}));
    config::Ocr { image_pixels_max: 1 << 18, image_side_pixels_max: 2_048, ..Default::default() }
});

fuzz_target!(|file: &[u8]| {
    let settings = &*SETTINGS;
    if image::check(file, settings).is_err() {
        return;
    }
    let Ok(pages) = image::count(file) else { return };
    for page in [1, pages] {
        let Ok(decoded) = image::decode(file, page, true, settings) else { continue };
        let pixels = u64::from(decoded.grey.width()) * u64::from(decoded.grey.height());
        assert!(pixels <= settings.image_pixels_max, "{pixels} pixels");
        for turn in [Turn::None, Turn::Right] {
            prepare(&decoded.grey, turn, Preparation::default());
        }
    }
});
