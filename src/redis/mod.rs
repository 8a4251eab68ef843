//! The Redis below the accounts: how we reach it, and the private one that we run ourselves.
//!
//! - [`backup`]: backup of a live Redis, and its restoration.
//! - [`connection`]: a client that never does anything twice, and what its errors mean.
//! - [`durability`]: what Redis really does with what it acknowledges.
//! - [`embedded`]: a private `redis-server`, started and supervised by us.

use std::path::PathBuf;

pub mod backup;
pub mod connection;
pub mod durability;
pub mod embedded;

pub use connection::{Pulse, connect, is_unavailable};
pub use embedded::Embedded;

/// Why Redis cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The URL is not one of a Redis.
    #[error("redis.url: {0}")]
    Url(String),
    /// The file of authorities cannot be used.
    #[error("redis.tls_ca_file: {}: {message}", path.display())]
    Authorities {
        /// Which.
        path: PathBuf,
        /// Why not.
        message: String,
    },
    /// `redis-server` is not installed.
    #[error(
        "there is no redis-server on this machine: install it (Debian: apt-get install \
         redis-server), or name a Redis with --redis-url"
    )]
    NotInstalled,
    /// Another server uses the data directory.
    #[error("the data directory {0} is in use by another img2text or its Redis")]
    DataDirInUse(String),
    /// There is nothing to read in the data directory.
    #[error(
        "no Redis runs on the data directory {0}, and it holds no data: see --data-dir and \
         --redis-url"
    )]
    NoData(String),
    /// A private Redis would start empty, and write that over what is there.
    #[error(
        "the data directory {0} holds a snapshot (dump.rdb) without an append-only file, which a \
         private Redis would not read but replace. Run `redis-server --dir {0} --appendonly no`, ask \
         it for `CONFIG SET appendonly yes`, and stop it once INFO says aof_rewrite_in_progress:0"
    )]
    SnapshotOnly(String),
    /// The private Redis does not come up.
    #[error("the private Redis does not come up; its last words: {0}")]
    DoesNotStart(String),
    /// The file system or the process table said no.
    #[error("{what}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: std::io::Error,
    },
}
