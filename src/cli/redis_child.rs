//! `img2text redis-child PROGRAM ARGUMENT...`, hidden: becomes the private Redis of a server,
//! having asked the kernel to end it when the server ends.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result};

use crate::process;

/// What to become.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The program and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<OsString>,
}

/// Becomes the program; returns only if that fails.
pub fn run(args: Args) -> Result<()> {
    process::die_with_parent()?;
    let (program, arguments) = args.command.split_first().context("nothing to become")?;
    // The request for a signal survives `exec`.
    let error = Command::new(program).args(arguments).env_remove(process::PARENT_VARIABLE).exec();
    Err(error).with_context(|| format!("cannot run {}", program.display()))
}
