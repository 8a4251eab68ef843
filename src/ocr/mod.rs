//! Pixels to text.
//!
//! Tesseract is C++: it can abort, hang, or eat memory, and a thread cannot be killed. So
//! recognition runs in child processes, one per core, each with warm engines, and a picture is
//! decoded there too: a bomb costs one call, not the server.
//!
//! - [`image`]: what can be told of a picture by its first bytes, and its pixels made ready.
//! - [`engine`]: Tesseract. The only place with unsafe code.
//! - [`layout`]: what was read: pages, blocks, paragraphs, lines, words.
//! - [`wire`]: how a server and its workers talk.
//! - [`worker`]: the child process.
//! - [`pool`]: the child processes, and the queue before them.

pub mod engine;
pub mod image;
pub mod layout;
pub mod pool;
pub mod wire;
pub mod worker;

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use layout::Page;
pub use pool::{Place, Pool, Worker};

/// How to read a picture. Everything here may change the answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Options {
    /// The languages of the text, most likely first; empty for the server's default.
    pub languages: Vec<String>,
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
