//! `img2text token new`: a token for a caller, shown once.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Subcommand;
use jiff::Timestamp;

use crate::grpc::auth::{self, Scope};

/// Make tokens.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a token: it goes to stdout, once, and its entry, which has only its digest, to the file
    /// of callers, or to stderr
    New {
        /// What the log and the history of accounts call the caller
        name: String,
        /// What it may do
        #[arg(long = "scope", required = true, value_delimiter = ',')]
        scopes: Vec<Scope>,
        /// What the ids of the users begin with whom it may touch [default: all users]
        #[arg(long, default_value = "", hide_default_value = true)]
        user_id_prefix: String,
        /// For how many days it is good [default: for ever]
        #[arg(long, value_name = "DAYS")]
        days: Option<u32>,
        /// The file to append the entry to: what the setting `auth.callers` names
        #[arg(long, value_name = "FILE")]
        callers: Option<PathBuf>,
    },
}

/// Runs the command.
pub fn run(args: Args) -> Result<()> {
    let Command::New { name, scopes, user_id_prefix, days, callers } = args.command;
    let day = Duration::from_secs(86_400);
    let expires = days.map(|days| Timestamp::now() + day * days);
    let (token, entry) = auth::new_token(&name, scopes, user_id_prefix, expires);
    match callers {
        Some(path) => {
            auth::append(&path, &entry).with_context(|| "the token was not made".to_string())?
        }
        None => eprintln!("{}", entry.to_toml()),
    }
    writeln!(std::io::stdout(), "{token}")?;
    Ok(())
}
