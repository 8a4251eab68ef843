//! The command line: a file per subcommand.

pub mod backup;
pub mod client;
pub mod config;
mod document;
pub mod health;
pub mod languages;
pub mod quota;
pub mod recognize;
pub mod redis_child;
pub mod serve;
pub mod settings;
pub mod storage;
pub mod token;
pub mod worker;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use tonic::{Code, Status};

/// Text recognition over gRPC, with a durable account of requests for every user.
#[derive(Debug, Parser)]
#[command(name = "img2text", version, about, max_term_width = 100, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server
    Serve(serve::Args),
    /// Recognise the text in pictures
    Recognize(recognize::Args),
    /// List the languages that the server can read
    Languages(languages::Args),
    /// Look after accounts: what may be spent, what was
    Quota(quota::Args),
    /// Look at where the accounts are kept
    Storage(storage::Args),
    /// Ask a server whether it serves
    Health(health::Args),
    /// Back up the accounts, and restore them
    Backup(backup::Args),
    /// Make tokens for callers
    Token(token::Args),
    /// Look at the settings
    Config(config::Args),
    #[command(hide = true)]
    RedisChild(redis_child::Args),
    #[command(hide = true)]
    Worker,
}

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed for another reason than those below
  2  the command line is wrong
  3  refused: the picture, an argument, or the state of what it names
  4  not enough quota
  5  the server cannot be reached, is busy, or took too long: try again
  6  not allowed: no token, or one of too small a scope";

/// Runs the command that the command line names.
pub fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Serve(args) => run(serve::run(args)),
        Command::Recognize(args) => run(recognize::run(args)),
        Command::Languages(args) => run(languages::run(args)),
        Command::Quota(args) => run(quota::run(args)),
        Command::Storage(args) => run(storage::run(args)),
        Command::Health(args) => run(health::run(args)),
        Command::Backup(args) => run(backup::run(args)),
        Command::Token(args) => token::run(args),
        Command::Config(args) => config::run(args),
        Command::RedisChild(args) => redis_child::run(args),
        Command::Worker => worker::run(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let error = Failure::from(error);
            eprintln!("img2text: {}", error.message);
            ExitCode::from(error.code)
        }
    }
}

/// Runs an asynchronous command to its end.
fn run(command: impl Future<Output = Result<()>>) -> Result<()> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(command)
}

/// A failure with the exit code that a script can tell it by. Any other error exits with 1, and a
/// server's refusal with the code that its status stands for.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// The exit code; see `img2text --help`.
    pub code: u8,
    /// What a person should read.
    pub message: String,
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        let error = match error.downcast::<Failure>() {
            Ok(failure) => return failure,
            Err(error) => error,
        };
        match error.downcast_ref::<Status>() {
            Some(status) => {
                Self { code: exit_code(status.code()), message: client::describe(status) }
            }
            None => Self { code: 1, message: format!("{error:#}") },
        }
    }
}

fn exit_code(code: Code) -> u8 {
    match code {
        Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::FailedPrecondition
        | Code::OutOfRange => 3,
        Code::ResourceExhausted => 4,
        Code::Unavailable | Code::DeadlineExceeded | Code::Aborted | Code::Cancelled => 5,
        Code::Unauthenticated | Code::PermissionDenied => 6,
        _ => 1,
    }
}
