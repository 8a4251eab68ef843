//! Pixels to text.
//!
//! Tesseract is C++: it can abort, hang, or eat memory, and a thread cannot be killed. So
//! recognition runs in child processes, one per core, each with warm engines, and a picture is
//! decoded there too: a bomb costs one call, not the server.
//!
//! - [`image`]: what can be told of a picture by its first bytes, and its pixels.
//! - `tiff`, `pdf`: files of several pages.
//! - `resolution`: what a file says of its resolution.
//! - [`prepare`]: the pixels made ready for Tesseract.
//! - [`geometry`]: rectangles, and the way back to the pixels as sent.
//! - [`recognizer`]: one page from its file to its layout.
//! - `script`: which languages to expect, where the request leaves that open.
//! - [`engine`]: Tesseract. The only place with unsafe code.
//! - [`layout`]: what was read: pages, blocks, paragraphs, lines, words.
//! - [`output`]: a page as hOCR, ALTO, TSV or PDF.
//! - [`wire`]: how a server and its workers talk.
//! - [`worker`]: the child process.
//! - `room`: how much may wait, in all and of one caller.
//! - `turns`: which caller is next.
//! - `phases`: what a worker did with a page, and when.
//! - `sandbox`: as little of the system as a worker needs.
//! - [`pool`]: the child processes, and the queue before them.

pub mod engine;
pub mod geometry;
pub mod image;
pub mod layout;
pub mod output;
mod pdf;
mod phases;
pub mod pool;
pub mod prepare;
pub mod recognizer;
mod resolution;
mod room;
mod sandbox;
mod script;
mod tiff;
mod turns;
pub mod wire;
pub mod worker;

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use layout::{Format, Page};
pub use phases::{Phase, PhaseTime};
pub use pool::{Place, Pool, WhenFull, Worker};
pub use prepare::Preparation;

/// How to read a picture. Everything here may change the answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Options {
    /// The languages of the text, most likely first; empty for the server's default; [`AUTO`] alone
    /// to choose them by the script.
    pub languages: Vec<String>,
    /// Which page of the file, from 1.
    pub page: u32,
    /// What to expect on the page.
    pub segmentation: Segmentation,
    /// What may be done to the picture first.
    pub preparation: Preparation,
    /// Whether the answer has the structure of the page besides its text.
    pub layout: bool,
    /// The formats that the page is also written in.
    pub formats: Vec<Format>,
}

/// Instead of a language: choose the languages by the script that the text is written in.
pub const AUTO: &str = "auto";

impl Default for Options {
    fn default() -> Self {
        Self {
            languages: Vec::new(),
            page: 1,
            segmentation: Segmentation::default(),
            preparation: Preparation::default(),
            layout: false,
            formats: Vec::new(),
        }
    }
}

/// What to expect on a page; the numbers are Tesseract's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Segmentation {
    /// A page of any layout.
    #[default]
    Auto = 3,
    /// One column of text of several sizes.
    SingleColumn = 4,
    /// One block of text of one size.
    SingleBlock = 6,
    /// One line.
    SingleLine = 7,
    /// One word.
    SingleWord = 8,
    /// One character.
    SingleCharacter = 10,
    /// As much text as can be found, in no order.
    SparseText = 11,
    /// One line as it is, without Tesseract's own corrections.
    RawLine = 13,
}

/// What is wrong with a field of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Violation {
    /// The field, as the contract names it.
    pub field: String,
    /// What is wrong, and what would be right.
    pub description: String,
}

impl Violation {
    /// A violation of a field.
    pub fn new(field: impl Into<String>, description: impl Into<String>) -> Self {
        Self { field: field.into(), description: description.into() }
    }
}

/// Why a picture was not recognised.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request is wrong, as could be told without decoding the picture.
    #[error("the request is invalid")]
    Invalid(Vec<Violation>),
    /// The picture proved corrupt while it was decoded.
    #[error("the picture cannot be decoded: {0}")]
    Undecodable(String),
    /// The page is larger in the formats that were asked for than it may be.
    #[error("the page has {bytes} bytes in these formats; it may have {bytes_max}")]
    OutputsTooLarge {
        /// What they take.
        bytes: usize,
        /// What they may take.
        bytes_max: usize,
    },
    /// The queue is full, or too long for the caller's deadline.
    #[error("the recogniser is busy")]
    Overloaded {
        /// When a place may be free.
        retry_after: Duration,
    },
    /// The server was told to stop.
    #[error("the server is stopping")]
    Stopping,
    /// The caller's or the server's time for one page was over.
    #[error("the time for this page was over")]
    DeadlineExceeded,
    /// The worker process died over this picture.
    #[error("the recogniser failed on this picture: {0}")]
    WorkerDied(String),
    /// The workers cannot be started: a broken installation.
    #[error("the recogniser does not work on this machine: {0}")]
    Broken(String),
}
