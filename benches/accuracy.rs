//! Claim: img2text reads more than plain Tesseract where pictures are hard, and no less where they
//! are easy.
//!
//! Both read the same pictures in the same run, one after the other on one core: the `tesseract`
//! command with its defaults, and the recogniser of a worker with all preparation on, and then with
//! each step of it left out. Reads the folders of `../shared/data` (or `IMG2TEXT_ACCURACY_DATA`);
//! without them, pages that it draws itself.
//!
//! `cargo bench --bench accuracy -- [FOLDER]... [--steps]`

#[path = "../tests/support/picture.rs"]
#[allow(dead_code)]
mod picture;

use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use image::imageops;
use img2text::config;
use img2text::ocr::recognizer::Recognizer;
use img2text::ocr::wire::{Job, Outcome, Task};
use img2text::ocr::{Options, Preparation};

/// A picture and what it says.
struct Sample {
    name: String,
    file: Vec<u8>,
    truth: String,
}

/// Pictures of a kind.
struct Folder {
    name: &'static str,
    measure: Measure,
    language: &'static str,
    /// What the `tesseract` command is told about the layout.
    segmentation: &'static str,
    samples: Vec<Sample>,
}

/// How a text is compared with the truth.
#[derive(Clone, Copy)]
enum Measure {
    /// F1 over words in any order; more is better.
    WordF1,
    /// Wrong characters per character of the truth; less is better.
    CharacterErrors,
}

fn main() {
    // Tesseract reads it when the process starts.
    if std::env::var_os("OMP_THREAD_LIMIT").is_none() {
        let program = std::env::current_exe().expect("a program");
        let mut again = Command::new(program);
        let error = again.args(std::env::args().skip(1)).env("OMP_THREAD_LIMIT", "1").exec();
        panic!("cannot start again: {error}");
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let wanted: Vec<&String> = arguments.iter().filter(|word| !word.starts_with("--")).collect();
    let steps = arguments.iter().any(|word| word == "--steps");
    let verbose = arguments.iter().any(|word| word == "--verbose");
    let mut folders = folders();
    folders.retain(|folder| wanted.is_empty() || wanted.iter().any(|name| *name == folder.name));
    println!("| pictures | measure | plain Tesseract | img2text | s, plain | s, img2text |");
    println!("|---|---|---|---|---|---|");
    for folder in &folders {
        let plain = measure(folder, |sample| tesseract(folder, &sample.file));
        let ours = measure(folder, |sample| img2text(folder, sample, Preparation::default()));
        println!(
            "| {} ({}) | {} | {:.4} | {:.4} | {:.1} | {:.1} |",
            folder.name,
            folder.samples.len(),
            folder.measure.name(),
            plain.score,
            ours.score,
            plain.time.as_secs_f64(),
            ours.time.as_secs_f64()
        );
        if verbose {
            for ((sample, plain), ours) in folder.samples.iter().zip(&plain.each).zip(&ours.each) {
                println!("  {}: {plain:.4} {ours:.4}", sample.name);
            }
        }
    }
    if steps {
        without_each_step(&folders);
    }
}

/// What is lost without each step of the preparation.
fn without_each_step(folders: &[Folder]) {
    let all = Preparation::default();
    let steps = [
        ("none at all", Preparation::NONE),
        ("upscale", Preparation { upscale: false, ..all }),
        ("downscale", Preparation { downscale: false, ..all }),
        ("invert", Preparation { invert: false, ..all }),
        ("deskew", Preparation { deskew: false, ..all }),
        ("rotate", Preparation { rotate: false, ..all }),
        ("adaptive_threshold", Preparation { adaptive_threshold: false, ..all }),
    ];
    println!();
    println!("| pictures | left out | score | s |");
    println!("|---|---|---|---|");
    for folder in folders {
        for (name, preparation) in steps {
            let ours = measure(folder, |sample| img2text(folder, sample, preparation));
            let time = ours.time.as_secs_f64();
            println!("| {} | {name} | {:.4} | {time:.1} |", folder.name, ours.score);
        }
    }
}

struct Measured {
    score: f64,
    time: Duration,
    each: Vec<f64>,
}

fn measure(folder: &Folder, mut read: impl FnMut(&Sample) -> (String, Duration)) -> Measured {
    let mut time = Duration::ZERO;
    let (mut parts, mut whole, mut each) = (0, 0, Vec::new());
    for sample in &folder.samples {
        let (text, taken) = read(sample);
        time += taken;
        let (part, of) = folder.measure.compare(&text, &sample.truth);
        parts += part;
        whole += of;
        each.push(part as f64 / of.max(1) as f64);
    }
    Measured { score: parts as f64 / whole.max(1) as f64, time, each }
}

/// What the command reads with its defaults.
fn tesseract(folder: &Folder, file: &[u8]) -> (String, Duration) {
    let started = Instant::now();
    let mut child = Command::new("tesseract")
        .args(["-", "-", "-l", folder.language, "--psm", folder.segmentation])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("tesseract is installed: run `make setup`");
    let mut input = child.stdin.take().expect("a pipe");
    input.write_all(file).expect("tesseract reads");
    drop(input);
    let output = child.wait_with_output().expect("tesseract ends");
    (String::from_utf8_lossy(&output.stdout).into_owned(), started.elapsed())
}

/// What a worker reads.
fn img2text(folder: &Folder, sample: &Sample, preparation: Preparation) -> (String, Duration) {
    thread_local! {
        static RECOGNIZER: std::cell::RefCell<Recognizer<'static>> =
            Recognizer::new(Box::leak(Box::new(config::Ocr::default()))).into();
    }
    let languages = vec![folder.language.to_string()];
    let task = Task::Read(Options { languages, preparation, ..Options::default() });
    let job = Job { task, time_ms: 600_000 };
    RECOGNIZER.with_borrow_mut(|recognizer| {
        let started = Instant::now();
        match recognizer.work(&job, sample.file.clone()) {
            Outcome::Read(page, _) => (page.text, started.elapsed()),
            outcome => panic!("{}: {outcome:?}", sample.name),
        }
    })
}

impl Measure {
    fn name(self) -> &'static str {
        match self {
            Self::WordF1 => "word F1",
            Self::CharacterErrors => "CER",
        }
    }

    /// A share, as its part and its whole.
    fn compare(self, text: &str, truth: &str) -> (usize, usize) {
        match self {
            Self::WordF1 => {
                let (text, mut truth) = (words(text), words(truth));
                let all = text.values().sum::<usize>() + truth.values().sum::<usize>();
                let both = |(word, count): (String, usize)| {
                    truth.remove(&word).map_or(0, |other| other.min(count))
                };
                (2 * text.into_iter().map(both).sum::<usize>(), all)
            }
            Self::CharacterErrors => {
                let fold = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
                let (text, truth) = (fold(text), fold(truth));
                (distance(&text, &truth), truth.chars().count())
            }
        }
    }
}

/// The words of a text, without case and without punctuation around them.
fn words(text: &str) -> HashMap<String, usize> {
    let mut words = HashMap::new();
    for word in text.split_whitespace() {
        let word = word.trim_matches(|character: char| !character.is_alphanumeric());
        if !word.is_empty() {
            *words.entry(word.to_lowercase()).or_default() += 1;
        }
    }
    words
}

/// How many characters have to be put in, taken out or replaced to get from one text to the other.
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (index, character) in from.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = index + 1;
        for (column, other) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(character != *other);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(row[column] + 1).min(diagonal + 1);
        }
    }
    row[to.len()]
}

fn folders() -> Vec<Folder> {
    let root = std::env::var_os("IMG2TEXT_ACCURACY_DATA").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data"),
        PathBuf::from,
    );
    if !root.is_dir() {
        return drawn();
    }
    let folder = |name, measure, language, segmentation, samples| Folder {
        name,
        measure,
        language,
        segmentation,
        samples,
    };
    let (words, errors) = (Measure::WordF1, Measure::CharacterErrors);
    vec![
        folder("funsd", words, "eng", "3", read(&root.join("funsd"), ".words.txt")),
        folder("unlv", errors, "eng", "3", read(&root.join("unlv"), ".gt.txt")),
        folder("russian_lines", errors, "rus", "7", read(&root.join("russian_lines"), ".gt.txt")),
        folder("tesseract_test", errors, "eng", "3", read(&root.join("tesseract_test"), ".txt")),
        folder("phototest", errors, "eng", "3", phototest(&root.join("tesseract_test"))),
    ]
}

/// The pictures of a folder that have a truth beside them.
fn read(folder: &Path, truth_suffix: &str) -> Vec<Sample> {
    let mut samples = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let is_picture = path.extension().is_some_and(|extension| extension != "txt");
        let truth = fs::read_to_string(folder.join(format!("{name}{truth_suffix}")));
        if let (true, Ok(truth), Ok(file)) = (is_picture, truth, fs::read(&path)) {
            samples.push(Sample { name, file, truth });
        }
    }
    samples.sort_by(|a, b| a.name.cmp(&b.name));
    samples
}

/// One page in every position, and its text.
fn phototest(folder: &Path) -> Vec<Sample> {
    let truth = fs::read_to_string(folder.join("phototest.gold.txt")).unwrap_or_default();
    let mut samples = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with("phototest") && !name.ends_with(".txt") {
            let file = fs::read(entry.path()).expect("a readable picture");
            samples.push(Sample { name, file, truth: truth.clone() });
        }
    }
    samples.sort_by(|a, b| a.name.cmp(&b.name));
    samples
}

/// Pages of our own: clean, small, turned, tilted, light on dark.
fn drawn() -> Vec<Folder> {
    let lines = [
        "It is a truth universally acknowledged that a picture in",
        "possession of good contrast must be in want of a reader.",
        "However little known the words or wishes of such a picture",
        "may be on its first entering a neighbourhood, this truth is",
        "so well fixed in the minds of the surrounding recognisers,",
        "that it is considered the rightful property of one of them.",
    ];
    let page = |size| picture::text(&lines, size);
    let mut inverted = page(40);
    imageops::invert(&mut inverted);
    let pages = [
        ("drawn, clean", page(40)),
        ("drawn, small", page(13)),
        ("drawn, huge", page(300)),
        ("drawn, light on dark", inverted),
        ("drawn, on its side", imageops::rotate90(&page(40))),
        ("drawn, on its head", imageops::rotate180(&page(40))),
        ("drawn, tilted", picture::tilted(&page(40), 6.0)),
    ];
    let folder = |(name, page)| {
        let file = picture::encode(&page, image::ImageFormat::Png);
        let truth = lines.join("\n");
        let samples = vec![Sample { name: "page".into(), file, truth }];
        let measure = Measure::CharacterErrors;
        Folder { name, measure, language: "eng", segmentation: "3", samples }
    };
    pages.map(folder).into()
}
