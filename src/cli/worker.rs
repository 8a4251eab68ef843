//! `img2text worker`, hidden: a child process of a server, which recognises for it.

use anyhow::{Context, Result};

use crate::ocr::{pool, worker};
use crate::process;

/// Works until the server is gone.
pub fn run() -> Result<()> {
    process::die_with_parent()?;
    let settings = std::env::var(pool::SETTINGS_VARIABLE).context("a worker without settings")?;
    Ok(worker::run(&serde_json::from_str(&settings)?)?)
}
