//! Tesseract, through the raw interface of the `tesseract` crate: its safe one has no deadline.
//!
//! The only place with unsafe code. What makes it sound: an [`Engine`] owns its handle and is the
//! only one to use it; nothing that Tesseract lends is kept; what it gives is freed by its own
//! functions.

use std::ffi::{CStr, CString, OsStr, c_char, c_int};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::ptr::{NonNull, null};
use std::time::Duration;

use image::GrayImage;
use tesseract::plumbing::tesseract_sys as sys;

use super::Segmentation;
use super::geometry::{Rect, Turn};

/// The longest side of a picture, in pixels. Tesseract's coordinates have 16 bits, it looks some
/// letters beyond the edge, and it ends the process, or never ends, where one overflows: measured
/// with lines of letters of 10 to 80 pixels, at 32,766 and not at 32,400.
pub const SIDE_PIXELS_MAX: u32 = 32_000;

const WORD: sys::TessPageIteratorLevel = sys::TessPageIteratorLevel_RIL_WORD;

/// A warm engine for a set of languages.
pub struct Engine {
    handle: NonNull<sys::TessBaseAPI>,
}

/// Why an engine could not do its work.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The language data are missing or broken.
    #[error("Tesseract has no usable data for {0}")]
    Languages(String),
    /// The deadline came before the end.
    #[error("the deadline came before the end")]
    DeadlineExceeded,
    /// Tesseract gave up.
    #[error("Tesseract gave up")]
    Failed,
}

impl Engine {
    /// An engine for languages such as `eng+rus`, with its data from a directory, or from where
    /// Tesseract looks by itself.
    pub fn new(tessdata_dir: Option<&Path>, languages: &str) -> Result<Self, EngineError> {
        let unusable = || EngineError::Languages(languages.to_string());
        let language = CString::new(languages).map_err(|_| unusable())?;
        let directory = tessdata_dir.map(|path| CString::new(path.as_os_str().as_encoded_bytes()));
        let directory = directory.transpose().map_err(|_| unusable())?;
        // SAFETY: takes nothing; the handle is ours until `drop` deletes it.
        let handle = unsafe { sys::TessBaseAPICreate() };
        let engine = Self { handle: NonNull::new(handle).ok_or(EngineError::Failed)? };
        let directory = directory.as_ref().map_or(null(), |directory| directory.as_ptr());
        // SAFETY: the handle is live; both strings end with a zero and outlive the call.
        let status = unsafe { sys::TessBaseAPIInit3(handle, directory, language.as_ptr()) };
        if status == 0 { Ok(engine) } else { Err(unusable()) }
    }

    /// The languages that are installed.
    pub fn languages(&self) -> Vec<String> {
        // SAFETY: the handle is live and initialised.
        let array = unsafe { sys::TessBaseAPIGetAvailableLanguagesAsVector(self.handle.as_ptr()) };
        let mut languages = take_texts(array);
        languages.sort();
        languages
    }

    /// How many bytes the data have that it has loaded: those of its languages, and of others that
    /// they need.
    pub fn data_bytes(&self) -> u64 {
        // SAFETY: the handle is live and initialised.
        let array = unsafe { sys::TessBaseAPIGetLoadedLanguagesAsVector(self.handle.as_ptr()) };
        let directory = self.data_dir();
        let files = take_texts(array).into_iter().filter_map(|language| {
            std::fs::metadata(directory.join(format!("{language}.traineddata"))).ok()
        });
        files.map(|file| file.len()).sum()
    }

    /// Where its data are.
    pub fn data_dir(&self) -> PathBuf {
        // SAFETY: the handle is live and initialised; the text is its own, ends with a zero, and
        // is copied before anything else is asked of it.
        let path = unsafe { CStr::from_ptr(sys::TessBaseAPIGetDatapath(self.handle.as_ptr())) };
        PathBuf::from(OsStr::from_bytes(path.to_bytes()))
    }

    /// Reads a picture, or stops when the time is over.
    pub fn recognize(
        &mut self,
        image: &GrayImage,
        manner: Manner,
        time: Duration,
    ) -> Result<Reading, EngineError> {
        let handle = self.handle.as_ptr();
        let method = if manner.adaptive_threshold { c"1" } else { c"0" };
        self.set_variable(c"thresholding_method", method)?;
        // SAFETY: the handle is live; every `Segmentation` is a mode that Tesseract knows.
        unsafe { sys::TessBaseAPISetPageSegMode(handle, manner.segmentation as _) };
        self.set_image(image)?;
        if let Some(resolution) = manner.resolution_ppi {
            // SAFETY: the handle is live and has an image.
            unsafe { sys::TessBaseAPISetSourceResolution(handle, resolution as c_int) };
        }
        let monitor = Monitor::new(time).ok_or(EngineError::Failed)?;
        // SAFETY: handle and monitor are live, and nobody else uses them meanwhile.
        let status = unsafe { sys::TessBaseAPIRecognize(handle, monitor.0.as_ptr()) };
        let read = match status {
            0 => self.reading(image),
            _ if monitor.is_over() => Err(EngineError::DeadlineExceeded),
            _ => Err(EngineError::Failed),
        };
        self.clear();
        read
    }

    /// Finds out which way the text of a picture runs and in which script it is written. Nothing
    /// where there is too little of it. Needs an engine for the language `osd`.
    pub fn orientation(&mut self, image: &GrayImage, resolution_ppi: u32) -> Option<Orientation> {
        let handle = self.handle.as_ptr();
        self.set_image(image).ok()?;
        let (mut degrees, mut confidence) = (0, 0.0);
        let (mut script, mut script_confidence) = (null(), 0.0);
        // SAFETY: the handle is live and has an image; the results are written to four places that
        // outlive the calls.
        let found = unsafe {
            sys::TessBaseAPISetSourceResolution(handle, resolution_ppi as c_int);
            sys::TessBaseAPIDetectOrientationScript(
                handle,
                &mut degrees,
                &mut confidence,
                &mut script,
                &mut script_confidence,
            )
        };
        let orientation = (found != 0 && !script.is_null()).then(|| Orientation {
            // Tesseract says how far the text was turned, counted the other way round.
            upright: Turn::from_degrees((360 - degrees) % 360).unwrap_or_default(),
            confidence,
            // SAFETY: not null, ends with a zero, and belongs to the engine, which is not used
            // before the copy is made.
            script: unsafe { CStr::from_ptr(script) }.to_string_lossy().into_owned(),
            script_confidence,
        });
        self.clear();
        orientation
    }

    fn set_variable(&mut self, name: &CStr, value: &CStr) -> Result<(), EngineError> {
        // SAFETY: the handle is live; both strings end with a zero and outlive the call.
        let known = unsafe {
            sys::TessBaseAPISetVariable(self.handle.as_ptr(), name.as_ptr(), value.as_ptr())
        };
        if known == 0 { Err(EngineError::Failed) } else { Ok(()) }
    }

    fn set_image(&mut self, image: &GrayImage) -> Result<(), EngineError> {
        let (width, height) = image.dimensions();
        if width.max(height) > SIDE_PIXELS_MAX {
            return Err(EngineError::Failed);
        }
        let (width, height) = (width as c_int, height as c_int);
        let pixels = image.as_raw().as_ptr();
        // SAFETY: the handle is live and initialised; the buffer holds height rows of width bytes
        // each, and Tesseract copies it before it returns.
        unsafe {
            sys::TessBaseAPISetImage(self.handle.as_ptr(), pixels, width, height, 1, width);
        }
        Ok(())
    }

    /// Drops the picture and what was read of it, so that a waiting worker holds neither memory
    /// nor somebody's text.
    fn clear(&mut self) {
        // SAFETY: the handle is live.
        unsafe { sys::TessBaseAPIClear(self.handle.as_ptr()) };
    }

    fn reading(&self, image: &GrayImage) -> Result<Reading, EngineError> {
        // SAFETY: the handle is live and has recognised; the text is ours until it is deleted.
        let text = unsafe { sys::TessBaseAPIGetUTF8Text(self.handle.as_ptr()) };
        // SAFETY: the handle is live and has recognised.
        let percent = unsafe { sys::TessBaseAPIMeanTextConf(self.handle.as_ptr()) };
        let mut words = Vec::new();
        if let Some(mut cursor) = Cursor::new(self) {
            loop {
                words.extend(cursor.word(image.width(), image.height()));
                if !cursor.advance() {
                    break;
                }
            }
        }
        Ok(Reading {
            text: take_text(text).ok_or(EngineError::Failed)?,
            mean_confidence: percent.clamp(0, 100) as f32,
            words,
        })
    }
}

/// How to read a picture.
#[derive(Clone, Copy, Debug)]
pub struct Manner {
    /// What to expect on it.
    pub segmentation: Segmentation,
    /// Whether the threshold between ink and paper is chosen part by part (adaptive Otsu).
    pub adaptive_threshold: bool,
    /// Its resolution in pixels per inch; without one Tesseract guesses.
    pub resolution_ppi: Option<u32>,
}

/// What was read.
#[derive(Debug)]
pub struct Reading {
    /// The text.
    pub text: String,
    /// The mean confidence of the words, 0 to 100.
    pub mean_confidence: f32,
    /// The words, in reading order.
    pub words: Vec<FoundWord>,
}

/// A word as Tesseract found it.
#[derive(Debug)]
pub struct FoundWord {
    /// What it says.
    pub text: String,
    /// Where it is on the picture that Tesseract saw.
    pub bounds: Rect,
    /// How sure that is, 0 to 100.
    pub confidence: f32,
    /// The largest element that it is the first word of.
    pub opens: Option<Level>,
    /// By how much its block has to be turned to stand upright.
    pub turn: Turn,
}

/// The elements of a page above its words, from the largest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// A block.
    Block,
    /// A paragraph.
    Paragraph,
    /// A line.
    Line,
}

/// Which way a picture's text runs, and its script.
#[derive(Clone, Debug, PartialEq)]
pub struct Orientation {
    /// The turn that makes it upright.
    pub upright: Turn,
    /// How sure that is: below 1 hardly, above 5 quite.
    pub confidence: f32,
    /// The script, as in `Latin` or `Cyrillic`.
    pub script: String,
    /// How sure that is.
    pub script_confidence: f32,
}

/// Walks over the words of what was read.
struct Cursor<'a> {
    handle: NonNull<sys::TessResultIterator>,
    /// The iterator looks into what its engine has read.
    _engine: &'a Engine,
}

impl<'a> Cursor<'a> {
    /// At the first word; nothing if there is none.
    fn new(engine: &'a Engine) -> Option<Self> {
        // SAFETY: the handle is live and has recognised; the iterator is ours until `drop` deletes
        // it, and the engine, borrowed here, cannot recognise again before that.
        let handle = unsafe { sys::TessBaseAPIGetIterator(engine.handle.as_ptr()) };
        Some(Self { handle: NonNull::new(handle)?, _engine: engine })
    }

    /// The same place as Tesseract's functions for pages know it.
    fn page(&self) -> *mut sys::TessPageIterator {
        // SAFETY: the iterator is live; the result is the same object under another name, and is
        // not kept.
        unsafe { sys::TessResultIteratorGetPageIterator(self.handle.as_ptr()) }
    }

    /// Goes to the next word; false if there is none.
    fn advance(&mut self) -> bool {
        // SAFETY: the iterator is live.
        unsafe { sys::TessResultIteratorNext(self.handle.as_ptr(), WORD) != 0 }
    }

    /// The word here; nothing where a block has none, as a picture within the page.
    fn word(&self, width: u32, height: u32) -> Option<FoundWord> {
        // SAFETY: the iterator is live; the text is ours until it is deleted.
        let text = unsafe { sys::TessResultIteratorGetUTF8Text(self.handle.as_ptr(), WORD) };
        let text = take_text(text).filter(|text| !text.trim().is_empty())?;
        // SAFETY: the iterator is live.
        let confidence = unsafe { sys::TessResultIteratorConfidence(self.handle.as_ptr(), WORD) };
        Some(FoundWord {
            text,
            bounds: self.bounds(width, height)?,
            confidence: confidence.clamp(0.0, 100.0),
            opens: self.opens(),
            turn: self.turn(),
        })
    }

    fn bounds(&self, width: u32, height: u32) -> Option<Rect> {
        let (mut left, mut top, mut right, mut bottom) = (0, 0, 0, 0);
        // SAFETY: the iterator is live; the four places outlive the call.
        let found = unsafe {
            let page = self.page();
            sys::TessPageIteratorBoundingBox(
                page,
                WORD,
                &mut left,
                &mut top,
                &mut right,
                &mut bottom,
            )
        };
        let within = |value: c_int, most: u32| u32::try_from(value).unwrap_or(0).min(most);
        let (left, top) = (within(left, width), within(top, height));
        let (right, bottom) = (within(right, width).max(left), within(bottom, height).max(top));
        (found != 0).then_some(Rect { left, top, right, bottom })
    }

    fn opens(&self) -> Option<Level> {
        let levels = [
            (sys::TessPageIteratorLevel_RIL_BLOCK, Level::Block),
            (sys::TessPageIteratorLevel_RIL_PARA, Level::Paragraph),
            (sys::TessPageIteratorLevel_RIL_TEXTLINE, Level::Line),
        ];
        let page = self.page();
        // SAFETY: the iterator is live.
        let begins = |level| unsafe { sys::TessPageIteratorIsAtBeginningOf(page, level) != 0 };
        levels.into_iter().find(|(level, _)| begins(*level)).map(|(_, level)| level)
    }

    fn turn(&self) -> Turn {
        let (mut orientation, mut direction, mut order, mut skew) = (0, 0, 0, 0.0);
        // SAFETY: the iterator is live; the four places outlive the call.
        unsafe {
            let page = self.page();
            sys::TessPageIteratorOrientation(
                page,
                &mut orientation,
                &mut direction,
                &mut order,
                &mut skew,
            );
        }
        match (orientation, direction) {
            // Upright letters one below the other, it says, of lines on their right side.
            (_, sys::TessWritingDirection_WRITING_DIRECTION_TOP_TO_BOTTOM) => Turn::Left,
            (sys::TessOrientation_ORIENTATION_PAGE_RIGHT, _) => Turn::Left,
            (sys::TessOrientation_ORIENTATION_PAGE_DOWN, _) => Turn::Half,
            (sys::TessOrientation_ORIENTATION_PAGE_LEFT, _) => Turn::Right,
            _ => Turn::None,
        }
    }
}

impl Drop for Cursor<'_> {
    fn drop(&mut self) {
        // SAFETY: the iterator is live, and nobody uses it afterwards.
        unsafe { sys::TessResultIteratorDelete(self.handle.as_ptr()) };
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // SAFETY: the handle is live, and nobody uses it afterwards.
        unsafe { sys::TessBaseAPIDelete(self.handle.as_ptr()) };
    }
}

/// The texts of an array that Tesseract gives away.
fn take_texts(array: *mut *mut c_char) -> Vec<String> {
    let mut texts = Vec::new();
    if array.is_null() {
        return texts;
    }
    for index in 0.. {
        // SAFETY: the array ends with a null, which is where the loop ends.
        let text = unsafe { *array.add(index) };
        if text.is_null() {
            break;
        }
        // SAFETY: every entry before the null is a string that ends with a zero.
        texts.push(unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned());
    }
    // SAFETY: the array came from Tesseract and is not used afterwards.
    unsafe { sys::TessDeleteTextArray(array) };
    texts
}

/// Takes over a text that Tesseract gave.
fn take_text(text: *mut c_char) -> Option<String> {
    if text.is_null() {
        return None;
    }
    // SAFETY: Tesseract's texts end with a zero.
    let copy = unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned();
    // SAFETY: it came from Tesseract and is not used afterwards.
    unsafe { sys::TessDeleteText(text) };
    Some(copy)
}

/// Tells Tesseract when to stop.
struct Monitor(NonNull<sys::ETEXT_DESC>, std::time::Instant);

impl Monitor {
    fn new(time: Duration) -> Option<Self> {
        // SAFETY: takes nothing; the monitor is ours until `drop` deletes it.
        let monitor = NonNull::new(unsafe { sys::TessMonitorCreate() })?;
        // Zero would mean no deadline.
        let time_ms = time.as_millis().clamp(1, c_int::MAX as u128) as c_int;
        // SAFETY: the monitor is live.
        unsafe { sys::TessMonitorSetDeadlineMSecs(monitor.as_ptr(), time_ms) };
        let deadline = std::time::Instant::now() + Duration::from_millis(time_ms as u64);
        Some(Self(monitor, deadline))
    }

    fn is_over(&self) -> bool {
        std::time::Instant::now() >= self.1
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        // SAFETY: the monitor is live, and nobody uses it afterwards.
        unsafe { sys::TessMonitorDelete(self.0.as_ptr()) };
    }
}

/// The version of Tesseract, as in `5.5.0`.
pub fn version() -> String {
    // SAFETY: a static string that ends with a zero.
    unsafe { CStr::from_ptr(sys::TessVersion()) }.to_string_lossy().into_owned()
}
