//! What is read comes with its place, in the coordinates of the picture as sent, and in formats
//! that other programs read.

use std::fs;
use std::path::Path;

use image::{GrayImage, ImageFormat, Luma, imageops};
use img2text::config;
use img2text::ocr::recognizer::Recognizer;
use img2text::ocr::wire::{Job, Outcome, Task};
use img2text::ocr::{Format, Options, Page, Preparation};

use crate::support::picture;
use crate::support::tools::{stdout, tool};

const LINES: [&str; 2] = ["Ordinary people remember", "extraordinary occasions & <birthdays>"];

/// Reads a file as a worker does.
fn read(file: &[u8], options: Options) -> Page {
    let settings = config::Ocr::default();
    let options = Options { languages: vec!["eng".into()], ..options };
    let job = Job { task: Task::Read(options), time_ms: 60_000 };
    match Recognizer::new(&settings).work(&job, file.to_vec()) {
        Outcome::Read(page, _) => page,
        outcome => panic!("{outcome:?}"),
    }
}

fn png(image: &GrayImage) -> Vec<u8> {
    picture::encode(image, ImageFormat::Png)
}

fn with_layout() -> Options {
    Options { layout: true, ..Options::default() }
}

/// Where the ink of a picture is: left, top, right, bottom.
fn ink(image: &GrayImage) -> [u32; 4] {
    let dark = image.enumerate_pixels().filter(|(_, _, shade)| shade[0] < 128);
    dark.fold([u32::MAX, u32::MAX, 0, 0], |[left, top, right, bottom], (x, y, _)| {
        [left.min(x), top.min(y), right.max(x + 1), bottom.max(y + 1)]
    })
}

/// Checks that the lines of a page lie where the ink is, give or take some pixels.
fn assert_covers(page: &Page, image: &GrayImage, tolerance: i64, what: &str) {
    let found = page.blocks.iter().map(|block| block.bounds).reduce(|a, b| a.union(b)).unwrap();
    let found = [found.left, found.top, found.right, found.bottom];
    for (found, drawn) in found.into_iter().zip(ink(image)) {
        let error = (i64::from(found) - i64::from(drawn)).abs();
        assert!(error <= tolerance, "{what}: {found} found, {drawn} drawn");
    }
}

#[test]
fn a_page_has_lines_and_words_with_their_places() {
    let image = picture::text(&LINES, 40);
    let page = read(&png(&image), with_layout());
    assert_eq!((page.width, page.height), image.dimensions());
    assert_eq!((page.number, page.count, page.rotation_degrees), (1, 1, 0));
    let lines: Vec<String> = page
        .lines()
        .map(|line| line.words.iter().map(|word| word.text.as_str()).collect::<Vec<_>>().join(" "))
        .collect();
    assert_eq!(lines, LINES);
    assert_covers(&page, &image, 4, "upright");
    let words: Vec<_> = page.lines().next().unwrap().words.iter().collect();
    assert!(words.windows(2).all(|pair| pair[0].bounds.right <= pair[1].bounds.left));
    assert!(page.words().all(|word| word.confidence > 50.0 && word.confidence <= 100.0));
    assert_eq!(page.skew_degrees, 0.0);

    assert!(read(&png(&image), Options::default()).blocks.is_empty(), "nobody asked for them");
}

#[test]
fn places_are_those_of_the_picture_as_sent_whatever_was_done_to_it() {
    let upright = picture::text(&LINES, 40);
    let small = picture::text(&LINES, 14);
    let mut light = upright.clone();
    imageops::invert(&mut light);
    let page = read(&png(&light), with_layout());
    assert_covers(&page, &upright, 4, "light on dark");
    let cases = [
        ("small", small, 0),
        ("huge", picture::text(&LINES, 160), 0),
        ("on its head", imageops::rotate180(&upright), 180),
        ("on its left side", imageops::rotate270(&upright), 90),
        ("on its right side", imageops::rotate90(&upright), 270),
        ("tilted", picture::tilted(&upright, 4.0), 0),
        ("tilted the other way", picture::tilted(&upright, -4.0), 0),
    ];
    for (what, image, rotation_degrees) in cases {
        let page = read(&png(&image), with_layout());
        assert!(page.text.contains("Ordinary people remember"), "{what}: {:?}", page.text);
        assert_eq!(page.rotation_degrees, rotation_degrees, "{what}");
        // A tilted line's rectangle is level: it is larger than the line.
        let tolerance = if what.starts_with("tilted") { 40 } else { image.height() as i64 / 25 };
        assert_covers(&page, &image, tolerance, what);
    }
}

#[test]
fn every_step_of_the_preparation_can_be_left_out() {
    let upright = picture::text(&LINES, 40);
    let turned = png(&imageops::rotate180(&upright));
    let rotate = Preparation { rotate: false, ..Preparation::default() };
    let left = read(&turned, Options { preparation: rotate, ..Options::default() });
    assert!(!left.text.contains("Ordinary"), "{:?}", left.text);
    let tilted = png(&picture::tilted(&upright, 8.0));
    let deskew = Preparation { deskew: false, ..Preparation::default() };
    let left = read(&tilted, Options { preparation: deskew, ..Options::default() });
    assert!(!left.text.contains("Ordinary people remember"), "{:?}", left.text);
}

#[test]
fn the_script_decides_where_no_language_is_named() {
    let settings = config::Ocr::default();
    let words = "Каждый охотник желает знать, где сидит фазан. ";
    let lines: Vec<String> = (0..6).map(|line| words.repeat(2) + &line.to_string()).collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let options = Options { languages: vec!["auto".into()], ..Options::default() };
    let job = Job { task: Task::Read(options), time_ms: 60_000 };
    let file = png(&picture::text(&lines, 36));
    match Recognizer::new(&settings).work(&job, file) {
        Outcome::Read(page, _) => {
            assert_eq!(page.languages.first().map(String::as_str), Some("rus"));
            assert!(page.text.contains("Каждый охотник желает знать"), "{}", page.text);
        }
        outcome => panic!("{outcome:?}"),
    }
}

/// A page in a format, written to a file in a directory.
fn written(image: &[u8], format: Format, directory: &Path) -> std::path::PathBuf {
    let page = read(image, Options { formats: vec![format], ..Options::default() });
    assert_eq!(page.outputs.len(), 1);
    let path = directory.join(format!("{format:?}").to_lowercase());
    fs::write(&path, &page.outputs[0].content).unwrap();
    path
}

#[test]
fn hocr_tools_read_the_hocr() {
    let home = tempfile::tempdir().unwrap();
    let path = written(&png(&picture::text(&LINES, 40)), Format::Hocr, home.path());
    let checked = tool("hocr-check").arg(&path).output().unwrap();
    let report = String::from_utf8_lossy(&checked.stderr).into_owned();
    assert!(checked.status.success() && !report.contains("FAILED"), "{report}");
    let lines = stdout(tool("hocr-lines").arg(&path).output().unwrap());
    let lines: Vec<&str> = lines.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    assert_eq!(lines, LINES);
}

#[test]
fn alto_tools_read_the_alto() {
    let home = tempfile::tempdir().unwrap();
    let path = written(&png(&picture::text(&LINES, 40)), Format::Alto, home.path());
    let text = stdout(tool("alto-tools").arg("-t").arg(&path).output().unwrap());
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    assert!(LINES.iter().all(|line| lines.contains(line)), "{lines:?}");
}

#[test]
fn the_tsv_is_tesseracts() {
    let image = png(&picture::text(&LINES, 40));
    let home = tempfile::tempdir().unwrap();
    let ours = fs::read_to_string(written(&image, Format::Tsv, home.path())).unwrap();
    let picture = home.path().join("page.png");
    fs::write(&picture, &image).unwrap();
    let mut command = std::process::Command::new("tesseract");
    command.arg(&picture).args(["-", "-l", "eng", "tsv"]).env("OMP_THREAD_LIMIT", "1");
    let theirs = stdout(command.output().unwrap());
    // All but the places and confidences, which the preparation may move a little.
    let columns = |text: &str| -> Vec<String> {
        let keep = |line: &str| {
            let cells: Vec<&str> = line.split('\t').collect();
            format!("{:?} {:?}", &cells[..6], cells.last())
        };
        text.lines().map(keep).collect()
    };
    assert_eq!(columns(&ours), columns(&theirs));
}

#[test]
fn the_pdf_can_be_searched_and_shows_the_picture() {
    let home = tempfile::tempdir().unwrap();
    let upright = picture::text(&LINES, 40);
    for (format, turn) in [(ImageFormat::Png, false), (ImageFormat::Jpeg, true)] {
        let image = if turn { imageops::rotate180(&upright) } else { upright.clone() };
        let path = written(&picture::encode(&image, format), Format::Pdf, home.path());
        let program =
            "import sys, pypdf; print(pypdf.PdfReader(sys.argv[1]).pages[0].extract_text())";
        let text = stdout(tool("python").arg("-c").arg(program).arg(&path).output().unwrap());
        let words: Vec<&str> = text.split_whitespace().collect();
        for word in LINES.iter().flat_map(|line| line.split_whitespace()) {
            assert!(words.contains(&word), "{format:?}: no {word} in {text:?}");
        }
        // What it shows is what was sent: it can be read again.
        let again = read(&fs::read(&path).unwrap(), Options::default());
        assert_eq!(again.text.split_whitespace().collect::<Vec<_>>().join(" "), LINES.join(" "));
    }
}

#[test]
fn a_pdf_of_a_pdf_has_pages_of_the_same_size() {
    let home = tempfile::tempdir().unwrap();
    // 400 x 200 points.
    let file = picture::pdf(&["A page of a size of its own"]);
    assert_eq!(read(&file, Options::default()).resolution_ppi, 300);
    let path = written(&file, Format::Pdf, home.path());
    let program = "import sys, pypdf; print(*pypdf.PdfReader(sys.argv[1]).pages[0].mediabox[2:])";
    let size = stdout(tool("python").arg("-c").arg(program).arg(&path).output().unwrap());
    let size: Vec<f32> = size.split_whitespace().map(|side| side.parse().unwrap()).collect();
    // A pixel is a quarter of a point.
    assert!((size[0] - 400.0).abs() < 0.5 && (size[1] - 200.0).abs() < 0.5, "{size:?}");
}

#[test]
fn a_figure_beside_the_text_is_not_taken_for_its_letters() {
    let caption = picture::text(&["The caption of a picture"], 34);
    let mut page = GrayImage::from_pixel(1_700, 1_700, Luma([255]));
    for dot in 0..9 {
        let (left, top) = (100 + dot % 3 * 500, 100 + dot / 3 * 400);
        imageops::replace(&mut page, &GrayImage::new(300, 300), left, top);
    }
    imageops::replace(&mut page, &caption, 100, 1_400);
    let text = read(&png(&page), Options::default()).text;
    assert!(text.contains("The caption of a picture"), "{text}");
}

#[test]
fn an_exif_orientation_is_obeyed() {
    let upright = picture::text(&LINES, 40);
    // Stored on its side, with the order to turn it by 90 degrees clockwise.
    let stored = picture::encode(&imageops::rotate270(&upright), ImageFormat::Jpeg);
    let exif = [
        &b"\xff\xe1\x00\x22Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
            [..],
    ]
    .concat();
    let file = [&stored[..2], &exif[..], &stored[2..]].concat();
    let page = read(&file, with_layout());
    assert_eq!((page.width, page.height), upright.dimensions());
    assert_eq!(page.rotation_degrees, 0);
    assert_covers(&page, &upright, 4, "EXIF");
}
