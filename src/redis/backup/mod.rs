//! Backup of a live Redis of any topology, and its restoration.
//!
//! A backup holds logical records: types, fields and remaining lifetimes, never the payloads of
//! `DUMP`, which another version of Redis refuses. All keys of a user are read at one instant, so
//! each account is whole, though not all accounts are of the same instant. Stored answers are left
//! out: they are users' texts, and short-lived.
//!
//! - [`file`]: the file; its format is described in `docs/operations.md`.
//! - [`keys`]: keys and what is in them, out of Redis and into it.
//! - [`create`](mod@create), [`restore`](mod@restore): the two ways.

pub mod create;
pub mod file;
pub mod keys;
pub mod restore;

use std::path::{Path, PathBuf};

pub use create::create;
pub use file::{Archive, Summary};
pub use restore::{Existing, Restored, restore};

/// What matches every key that belongs to a user, and every key that belongs to all.
const PATTERNS: [&str; 3] = ["sub:user:*", "{sub:user:*", "{img2text:*"];

/// Why there is no backup, or why it was not restored.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is a file of that name.
    #[error("{0} is already there")]
    Exists(PathBuf),
    /// Another backup is being written to the same directory.
    #[error("another backup is being written in {0}")]
    Busy(PathBuf),
    /// The file is not what was written.
    #[error("{path} is not a whole backup: {why}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The file is of a later version of this program.
    #[error(
        "the backup has format {found}, and this program reads up to {known}: use the img2text \
         that made it, or a later one"
    )]
    TooNew {
        /// The version of the file's format.
        found: u32,
        /// The latest version that this program reads.
        known: u32,
    },
    /// The target holds accounts, and nobody said what to do about them.
    #[error("there are accounts already: say --replace to delete them all, --merge to keep them")]
    NotEmpty,
    /// The user is there, and nobody said to replace them.
    #[error("user {0} is already there: say --replace to put the backup in its place")]
    UserExists(String),
    /// The user is not in the backup.
    #[error("user {0} is not in the backup")]
    NoSuchUser(String),
    /// A key is of a type that this system never writes.
    #[error("the key {key} is of the type {kind}, which a backup cannot hold")]
    Unsupported {
        /// The key.
        key: String,
        /// Its type.
        kind: String,
    },
    /// Redis was restarted or a Cluster reshaped while it was read, so keys may be missing.
    #[error("Redis was restarted, or its cluster changed, while it was read: try again")]
    Changed,
    /// What is in Redis after the restoration is not what is in the backup.
    #[error("after the restoration {0} is not as in the backup: does a server write to it?")]
    Different(String),
    /// Redis said no, or nothing.
    #[error("Redis: {}", .0.details())]
    Redis(#[from] fred::error::Error),
    /// The file system said no.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

impl Error {
    fn damaged(path: &Path, why: impl Into<String>) -> Self {
        Self::Damaged { path: path.into(), why: why.into() }
    }

    fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { path, source }
    }
}
