//! One page from its file to its layout, in a worker.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ::image::GrayImage;

use super::engine::{Engine, EngineError, FoundWord, Level, Manner, Reading};
use super::geometry::Turn;
use super::image::{Decoded, ImageError};
use super::layout::{self, Block, Format, Line, Page, Paragraph, Word};
use super::phases::{Phase, Phases};
use super::prepare::{Prepared, prepare};
use super::script;
use super::wire::{Job, Outcome, Task};
use super::{AUTO, Options, Segmentation, image, output};
use crate::config;

/// Tesseract's data for finding out which way text runs and in which script it is.
const ORIENTATION_DATA: &str = "osd";
/// The resolution of a page of which nothing is known, in pixels per inch.
const RESOLUTION_PPI_DEFAULT: u32 = 300;
/// A page whose words are surer than this stands upright: turned ones come out at about 40.
const UPRIGHT_CONFIDENCE: f32 = 75.0;
/// How sure Tesseract has to be of the way text runs before a picture is turned.
const TURN_CONFIDENCE_MIN: f32 = 1.0;

/// What a worker keeps between its jobs: the warm engines, by their languages.
pub struct Recognizer<'a> {
    settings: &'a config::Ocr,
    engines: HashMap<String, WarmEngine>,
    uses: u64,
}

struct WarmEngine {
    engine: Engine,
    data_bytes: u64,
    /// The number of the use that was its last.
    last_use: u64,
}

/// A picture to read, and how.
struct Sheet<'a> {
    grey: &'a GrayImage,
    stated_ppi: Option<u32>,
    languages: &'a [String],
    options: &'a Options,
    deadline: Instant,
    phases: &'a mut Phases,
}

/// Why a page was not read.
enum Failure {
    Image(ImageError),
    Engine(EngineError),
    /// Its formats take so many bytes.
    OutputsTooLarge(usize),
}

impl From<ImageError> for Failure {
    fn from(error: ImageError) -> Self {
        Self::Image(error)
    }
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Self {
        Self::Engine(error)
    }
}

impl<'a> Recognizer<'a> {
    /// A recogniser without an engine yet.
    pub fn new(settings: &'a config::Ocr) -> Self {
        Self { settings, engines: HashMap::new(), uses: 0 }
    }

    /// Makes the engine for the server's default languages. Gives the languages that are
    /// installed, and where their data are.
    pub fn warm_up(&mut self) -> Result<(Vec<String>, PathBuf), EngineError> {
        let engine = self.engine(&self.settings.languages_default.join("+"))?;
        let (languages, data) = (engine.languages(), engine.data_dir());
        Ok((languages.into_iter().filter(|name| name != ORIENTATION_DATA).collect(), data))
    }

    /// Does a job with a file.
    pub fn work(&mut self, job: &Job, file: Vec<u8>) -> Outcome {
        let deadline = Instant::now() + Duration::from_millis(job.time_ms);
        let done = match &job.task {
            Task::Count => image::count(&file).map(Outcome::Counted).map_err(Failure::from),
            Task::Read(options) => {
                let mut phases = Phases::begin();
                let page = self.read(file, options, deadline, &mut phases);
                page.map(|page| Outcome::Read(page, phases.times()))
            }
        };
        match done {
            Ok(outcome) => outcome,
            Err(Failure::Image(ImageError::Corrupt(reason))) => Outcome::Undecodable(reason),
            Err(Failure::Image(ImageError::Refused(violation))) => Outcome::Invalid(violation),
            Err(Failure::OutputsTooLarge(bytes)) => Outcome::OutputsTooLarge(bytes),
            Err(Failure::Engine(EngineError::DeadlineExceeded)) => Outcome::DeadlineExceeded,
            Err(Failure::Engine(error)) => Outcome::Failed(error.to_string()),
        }
    }

    fn read(
        &mut self,
        file: Vec<u8>,
        options: &Options,
        deadline: Instant,
        phases: &mut Phases,
    ) -> Result<Page, Failure> {
        let wants_picture = options.formats.contains(&Format::Pdf);
        let Decoded { grey, picture, count, stated_ppi } = phases.measure(Phase::Decode, || {
            image::decode(&file, options.page, wants_picture, self.settings)
        })?;
        drop(file);
        let mut warnings = Vec::new();
        let languages = self.languages(&grey, options, &mut warnings, phases);
        let mut sheet =
            Sheet { grey: &grey, stated_ppi, languages: &languages, options, deadline, phases };
        let mut read = self.read_turned(&mut sheet, Turn::None)?;
        if options.preparation.rotate && read.mean_confidence < UPRIGHT_CONFIDENCE {
            read = self.try_upright(&mut sheet, read)?;
        }
        let mut page = Page {
            number: options.page,
            count,
            width: grey.width(),
            height: grey.height(),
            languages,
            warnings,
            ..read
        };
        let written =
            options.formats.iter().map(|format| output::write(*format, &page, picture.as_ref()));
        page.outputs = phases.measure(Phase::Write, || written.collect());
        let bytes = page.outputs.iter().map(|output| output.content.len()).sum();
        if bytes > self.settings.page_outputs_bytes_max {
            return Err(Failure::OutputsTooLarge(bytes));
        }
        if !options.layout {
            page.blocks.clear();
        }
        Ok(page)
    }

    /// The languages to expect.
    fn languages(
        &mut self,
        grey: &GrayImage,
        options: &Options,
        warnings: &mut Vec<String>,
        phases: &mut Phases,
    ) -> Vec<String> {
        match &options.languages[..] {
            [] => self.settings.languages_default.clone(),
            [auto] if auto == AUTO => {
                let found = phases.measure(Phase::Orient, || {
                    self.orientation(&prepare(grey, Turn::None, options.preparation))
                });
                let installed = self.engine(&self.settings.languages_default.join("+"));
                let installed = installed.map(|engine| engine.languages()).unwrap_or_default();
                script::languages(found, &installed, &self.settings.languages_default, warnings)
            }
            named => named.to_vec(),
        }
    }

    fn orientation(&mut self, prepared: &Prepared) -> Option<super::engine::Orientation> {
        let resolution = prepared.resolution_ppi.unwrap_or(RESOLUTION_PPI_DEFAULT);
        // Without its data pictures are not turned: the text is what it was before.
        self.engine(ORIENTATION_DATA).ok()?.orientation(&prepared.image, resolution)
    }

    /// Reads a poorly read picture again, turned as its text seems to run, and keeps what was read
    /// better.
    fn try_upright(&mut self, sheet: &mut Sheet, first: Page) -> Result<Page, Failure> {
        let (grey, preparation) = (sheet.grey, sheet.options.preparation);
        let found = sheet
            .phases
            .measure(Phase::Orient, || self.orientation(&prepare(grey, Turn::None, preparation)));
        let Some(found) = found else { return Ok(first) };
        if found.upright == Turn::None || found.confidence < TURN_CONFIDENCE_MIN {
            return Ok(first);
        }
        let second = self.read_turned(sheet, found.upright)?;
        Ok(if second.mean_confidence > first.mean_confidence { second } else { first })
    }

    /// Reads a picture that is turned first. The page knows what was read and where.
    fn read_turned(&mut self, sheet: &mut Sheet, turn: Turn) -> Result<Page, Failure> {
        let Sheet { grey, stated_ppi, languages, options, deadline, phases } = sheet;
        let mut prepared =
            phases.measure(Phase::Prepare, || prepare(grey, turn, options.preparation));
        let sent_ppi = stated_ppi.or_else(|| {
            prepared.resolution_ppi.map(|ppi| (ppi as f32 / prepared.scale).round() as u32)
        });
        // What a scanner knew is better than what letters look like, as long as the pixels are its.
        if prepared.scale == 1.0 {
            prepared.resolution_ppi = sent_ppi;
        }
        let manner = Manner {
            segmentation: match options.segmentation {
                Segmentation::Auto if prepared.is_line => Segmentation::SingleBlock,
                segmentation => segmentation,
            },
            adaptive_threshold: prepared.adaptive_threshold,
            resolution_ppi: prepared.resolution_ppi,
        };
        let engine = self.engine(&languages.join("+"))?;
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(EngineError::DeadlineExceeded.into());
        }
        let reading =
            phases.measure(Phase::Recognize, || engine.recognize(&prepared.image, manner, left))?;
        let resolution_ppi = sent_ppi.unwrap_or(RESOLUTION_PPI_DEFAULT);
        Ok(Page { resolution_ppi, ..page(reading, &prepared, turn, grey) })
    }

    /// The engine for a set of languages, made if it is not warm; those that were not used for
    /// longest make room for it.
    fn engine(&mut self, languages: &str) -> Result<&mut Engine, EngineError> {
        self.uses += 1;
        if !self.engines.contains_key(languages) {
            let directory = &self.settings.tessdata_dir;
            let directory: Option<&Path> =
                if directory.as_os_str().is_empty() { None } else { Some(directory) };
            let engine = Engine::new(directory, languages)?;
            let data_bytes = engine.data_bytes();
            self.make_room(data_bytes);
            let warm = WarmEngine { engine, data_bytes, last_use: self.uses };
            self.engines.insert(languages.to_string(), warm);
        }
        let warm = self.engines.get_mut(languages).expect("made just now");
        warm.last_use = self.uses;
        Ok(&mut warm.engine)
    }

    fn make_room(&mut self, data_bytes: u64) {
        let mut taken = self.engines.values().map(|warm| warm.data_bytes).sum::<u64>() + data_bytes;
        while taken > self.settings.engines_data_bytes_max {
            let oldest = self.engines.iter().min_by_key(|(_, warm)| warm.last_use);
            let Some(oldest) = oldest.map(|(languages, _)| languages.clone()) else { return };
            taken -= self.engines.remove(&oldest).map_or(0, |warm| warm.data_bytes);
        }
    }
}

/// What was read as a page in the coordinates of the picture as sent.
fn page(reading: Reading, prepared: &Prepared, turn: Turn, sent: &GrayImage) -> Page {
    let found_turn = common_turn(&reading.words);
    let to_sent = |word: FoundWord| {
        let bounds = prepared.to_sent.rect(word.bounds, sent.width(), sent.height());
        let FoundWord { text, confidence, opens, .. } = word;
        (opens, Word { text, bounds, confidence })
    };
    Page {
        text: reading.text,
        mean_confidence: reading.mean_confidence,
        rotation_degrees: turn.then(found_turn).degrees(),
        skew_degrees: prepared.skew_degrees,
        blocks: blocks(reading.words.into_iter().map(to_sent)),
        ..Page::default()
    }
}

/// The turn that most words need: Tesseract reads some text on its side by itself.
fn common_turn(words: &[FoundWord]) -> Turn {
    let count = |turn| words.iter().filter(|word| word.turn == turn).count();
    let turns = [Turn::None, Turn::Right, Turn::Half, Turn::Left];
    turns.into_iter().rev().max_by_key(|turn| count(*turn)).unwrap_or_default()
}

/// Gathers words into lines, lines into paragraphs, paragraphs into blocks.
fn blocks(words: impl Iterator<Item = (Option<Level>, Word)>) -> Vec<Block> {
    let mut gathered = Gathered::default();
    for (opens, word) in words {
        match opens {
            Some(Level::Block) => gathered.end_block(),
            Some(Level::Paragraph) => gathered.end_paragraph(),
            Some(Level::Line) => gathered.end_line(),
            None => {}
        }
        gathered.words.push(word);
    }
    gathered.end_block();
    gathered.blocks
}

/// What is complete, and what is still growing.
#[derive(Default)]
struct Gathered {
    blocks: Vec<Block>,
    paragraphs: Vec<Paragraph>,
    lines: Vec<Line>,
    words: Vec<Word>,
}

impl Gathered {
    fn end_line(&mut self) {
        if !self.words.is_empty() {
            self.lines.push(layout::grow::line(std::mem::take(&mut self.words)));
        }
    }

    fn end_paragraph(&mut self) {
        self.end_line();
        if !self.lines.is_empty() {
            self.paragraphs.push(layout::grow::paragraph(std::mem::take(&mut self.lines)));
        }
    }

    fn end_block(&mut self) {
        self.end_paragraph();
        if !self.paragraphs.is_empty() {
            self.blocks.push(layout::grow::block(std::mem::take(&mut self.paragraphs)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn warm(data_bytes_max: u64) -> Vec<String> {
        let settings = config::Ocr { engines_data_bytes_max: data_bytes_max, ..Default::default() };
        let mut recognizer = Recognizer::new(&settings);
        for languages in ["eng", "rus", "eng+rus", "eng", "rus+eng"] {
            recognizer.engine(languages).unwrap_or_else(|error| panic!("{languages}: {error}"));
        }
        let mut warm: Vec<String> = recognizer.engines.into_keys().collect();
        warm.sort();
        warm
    }

    #[test]
    fn engines_stay_warm_within_their_bound_and_the_oldest_go_first() {
        assert_eq!(warm(u64::MAX), ["eng", "eng+rus", "rus", "rus+eng"]);
        let bytes = |languages| {
            Engine::new(None, languages).expect("the language is installed").data_bytes()
        };
        let both = bytes("eng") + bytes("rus");
        assert_eq!(bytes("eng+rus"), both);
        assert_eq!(warm(both + bytes("eng")), ["eng", "rus+eng"]);
        // One that is needed is there, however large it is.
        assert_eq!(warm(1), ["rus+eng"]);
    }
}
