//! `img2text backup create|verify|restore`: the accounts in a file, and back.

use std::fs;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Subcommand;
use fred::clients::Client;
use fred::interfaces::ClientLike;
use indicatif::{ProgressBar, ProgressStyle};
use jiff::civil::DateTime;
use jiff::{SignedDuration, Timestamp};

use super::Failure;
use super::serve::OWN_PROGRAM;
use super::settings::Settings;
use crate::config;
use crate::quota::UserId;
use crate::redis::backup::file::Record;
use crate::redis::backup::restore::Outcome;
use crate::redis::backup::{self, Archive, Existing, Summary};
use crate::redis::{self, Embedded};

/// How the files of a scheduled backup are named, in UTC.
const SCHEDULED_NAME: &str = "img2text-%Y%m%dT%H%M%SZ.backup";

/// Back up the accounts, and restore them.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write everything that Redis keeps to a file, while servers run
    Create {
        /// The file to write; with --every, the directory to write files to
        file: PathBuf,
        /// Go on for ever, and write a file so often, as in 1h or 30m
        #[arg(long, value_name = "TIME", value_parser = interval)]
        every: Option<Duration>,
        /// How many of these files to keep, the latest
        #[arg(long, value_name = "NUMBER", requires = "every", default_value_t = 24,
              value_parser = clap::value_parser!(u32).range(1..))]
        keep: u32,
        #[command(flatten)]
        settings: Settings,
    },
    /// Check that a backup is whole
    Verify {
        /// The backup
        file: PathBuf,
    },
    /// Write a backup to a Redis that holds no accounts, and compare
    Restore {
        /// The backup
        file: PathBuf,
        /// Delete what is there first; with --user, only that user
        #[arg(long, conflicts_with = "merge")]
        replace: bool,
        /// Keep what is there, add who is not, and list who was skipped
        #[arg(long)]
        merge: bool,
        /// Restore this user only
        #[arg(long, value_name = "ID")]
        user: Option<String>,
        #[command(flatten)]
        settings: Settings,
    },
}

/// Runs the command.
pub async fn run(args: Args) -> Result<()> {
    match args.command {
        Command::Create { file, every: None, settings, .. } => {
            let settings = settings.load()?.config.redis;
            print(&file, create(&settings, Private::WithData, &file).await?);
            Ok(())
        }
        Command::Create { file, every: Some(every), keep, settings } => {
            create_every(&file, every, keep as usize, &settings.load()?.config.redis).await
        }
        Command::Verify { file } => {
            let archive = Archive::open(&file)?;
            print(&file, archive.summary());
            let created = Timestamp::from_millisecond(archive.created_ms() as i64)?;
            println!("whole; of {created:.0}");
            Ok(())
        }
        Command::Restore { file, replace, merge, user, settings } => {
            let existing = match (replace, merge) {
                (true, _) => Existing::Replace,
                (_, true) => Existing::Keep,
                _ => Existing::Refuse,
            };
            let user = user.map(UserId::parse).transpose().context("--user")?;
            // First of all: a damaged file must not cost what is there.
            let archive = Archive::open(&file)?;
            let store = Store::open(&settings.load()?.config.redis, Private::Any).await?;
            let outcome = restore(&store.client, &archive, user.as_ref(), existing).await;
            store.close().await;
            outcome
        }
    }
}

async fn create(settings: &config::Redis, private: Private, file: &Path) -> Result<Summary> {
    let store = Store::open(settings, private).await?;
    let bar = progress(None);
    let summary = backup::create(&store.client, file, |record| {
        if matches!(record, Record::User { .. }) {
            bar.inc(1);
        }
    });
    let summary = summary.await;
    bar.finish_and_clear();
    store.close().await;
    Ok(summary?)
}

/// Writes a file again and again. A failure is reported, and the next attempt is made in its time.
async fn create_every(
    directory: &Path,
    every: Duration,
    keep: usize,
    settings: &config::Redis,
) -> Result<()> {
    ensure!(directory.is_dir(), "{}: with --every, name a directory", directory.display());
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let file = directory.join(Timestamp::now().strftime(SCHEDULED_NAME).to_string());
        // A Redis of our own would keep a server from its data, now or later.
        match create(settings, Private::Running, &file).await {
            // After everything was lost the last good ones are not to be pushed out.
            Ok(summary) if summary.users == 0 => print(&file, summary),
            Ok(summary) => {
                print(&file, summary);
                if let Err(error) = prune(directory, keep) {
                    eprintln!("img2text: {}: {error:#}", directory.display());
                }
            }
            Err(error) => eprintln!("img2text: no backup {}: {error:#}", file.display()),
        }
    }
}

/// Deletes all scheduled backups but the latest. Their names sort by time.
fn prune(directory: &Path, keep: usize) -> Result<()> {
    let mut names: Vec<String> = fs::read_dir(directory)?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| DateTime::strptime(SCHEDULED_NAME, name).is_ok())
        .collect();
    names.sort();
    for name in names.iter().rev().skip(keep) {
        fs::remove_file(directory.join(name)).with_context(|| format!("cannot delete {name}"))?;
    }
    Ok(())
}

async fn restore(
    client: &Client,
    archive: &Archive,
    user: Option<&UserId>,
    existing: Existing,
) -> Result<()> {
    let total = archive.summary().users + archive.summary().server_keys;
    let bar = progress(user.is_none().then_some(total));
    let restored = backup::restore(client, archive, user, existing, |name, outcome| {
        bar.inc(1);
        if outcome == Outcome::Skipped {
            bar.suspend(|| println!("skipped, as there is another already: {name}"));
        }
    });
    let restored = restored.await;
    bar.finish_and_clear();
    let restored = restored?;
    println!(
        "{} written and compared, {} there already and the same, {} skipped",
        restored.written, restored.same, restored.skipped
    );
    Ok(())
}

/// A bar where there is somebody to see it.
fn progress(total: Option<u64>) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let (bar, template) = match total {
        Some(total) => (ProgressBar::new(total), "{wide_bar} {pos}/{len}"),
        None => (ProgressBar::new_spinner(), "{spinner} {pos} users"),
    };
    bar.with_style(ProgressStyle::with_template(template).expect("the template is well-formed"))
}

fn print(file: &Path, summary: Summary) {
    let Summary { users, user_keys, server_keys } = summary;
    println!("{}: {users} users in {user_keys} keys, {server_keys} other keys", file.display());
}

fn interval(text: &str) -> Result<Duration, String> {
    let time: SignedDuration = text.parse().map_err(|error: jiff::Error| error.to_string())?;
    match Duration::try_from(time) {
        Ok(time) if time >= Duration::from_secs(1) => Ok(time),
        _ => Err("must be at least 1s".into()),
    }
}

/// Which private Redis will do, where the settings name no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Private {
    /// That of a server which runs.
    Running,
    /// Or one that is started on the data that are there.
    WithData,
    /// Or one without any.
    Any,
}

/// The Redis of the settings: one that runs, or a private one that no server is running just now.
pub(super) struct Store {
    /// The connection.
    pub client: Client,
    embedded: Option<Embedded>,
}

impl Store {
    /// Connects, and makes sure that somebody answers.
    pub async fn open(settings: &config::Redis, private: Private) -> Result<Self> {
        let running = match settings.url.as_str() {
            "" => Embedded::running(settings).await?,
            url => Some(url.to_string()),
        };
        let started = |embedded: Embedded| (embedded.url(), Some(embedded));
        let (url, embedded) = match (running, private) {
            (Some(url), _) => (url, None),
            (None, Private::Running) => {
                let message = format!(
                    "no server runs on the data directory {}: see --data-dir and --redis-url",
                    settings.data_dir.display()
                );
                return Err(Failure { code: 5, message }.into());
            }
            (None, Private::WithData) => {
                started(Embedded::start_on_data(OWN_PROGRAM.into(), settings).await?)
            }
            (None, Private::Any) => started(Embedded::start(OWN_PROGRAM.into(), settings).await?),
        };
        let client = redis::connect(settings, &url).await?;
        if client.ping::<()>(None).await.is_err() {
            let message = "Redis does not answer: see --redis-url and --data-dir".to_string();
            return Err(Failure { code: 5, message }.into());
        }
        Ok(Self { client, embedded })
    }

    /// Ends the connection and what was started.
    pub async fn close(self) {
        let _ = self.client.quit().await;
        if let Some(embedded) = self.embedded {
            embedded.stop().await;
        }
    }
}
