//! The worker processes, and the queue before them.
//!
//! A caller takes a [`Place`] in the bounded queue, then a [`Worker`], then recognises. Each is
//! given back by dropping it. A worker that is dropped in the middle of a job is killed, and
//! another one started: so nobody waits for work that nobody wants.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio_util::sync::CancellationToken;

use super::room::{Permits, Room, Size};
use super::turns::{Turn, Turns};
use super::wire::{self, Hello, Job, Outcome, Task};
use super::{AUTO, Error, Options, Page, Violation, image};
use crate::telemetry::traces::record_phases;
use crate::{config, process};

/// The environment variable that carries the settings to a worker, as JSON.
pub const SETTINGS_VARIABLE: &str = "IMG2TEXT_WORKER_SETTINGS";

/// What a worker gets of the server's environment: where its libraries and language data are.
const INHERITED_VARIABLES: [&str; 3] = ["LD_LIBRARY_PATH", "TESSDATA_PREFIX", "RUST_BACKTRACE"];

/// How long a worker may take to start.
const START_TIME_MAX: Duration = Duration::from_secs(30);
/// How much longer than its time a worker may take before it is killed: layout analysis cannot be
/// interrupted and takes up to some hundred milliseconds.
const KILL_DELAY: Duration = Duration::from_millis(500);
/// The most languages in one request.
const LANGUAGES_MAX: usize = 8;
/// What a page is assumed to take before any was recognised.
const PAGE_TIME_FIRST_GUESS: Duration = Duration::from_millis(500);

/// The workers. Cheap to clone.
#[derive(Clone)]
pub struct Pool {
    shared: Arc<Shared>,
}

struct Shared {
    program: PathBuf,
    settings: config::Ocr,
    workers: usize,
    languages: Vec<String>,
    /// For everybody who waits or works, and their files.
    room: Arc<Room>,
    /// A turn for everybody who works.
    turns: Arc<Turns>,
    idle: Mutex<Vec<Process>>,
    stopping: CancellationToken,
    /// A moving average of what a page takes, in microseconds.
    page_time_us: AtomicU64,
}

/// A place in the queue.
pub struct Place {
    shared: Arc<Shared>,
    caller: String,
    deadline: Instant,
    permits: Permits,
    waiting: Waiting,
}

/// Somebody who waits for a worker, in the metrics.
struct Waiting;

impl Waiting {
    fn begin() -> Self {
        metrics::gauge!("img2text_ocr_queue_depth").increment(1);
        Self
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        metrics::gauge!("img2text_ocr_queue_depth").decrement(1);
    }
}

/// What to do where the queue is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenFull {
    /// Refuse: the caller comes back later.
    Refuse,
    /// Wait: the caller sends no faster than is worked.
    Wait,
}

/// A worker that is the holder's alone.
pub struct Worker {
    shared: Arc<Shared>,
    /// Absent while it works, so that one that is dropped then does not go back.
    process: Option<Process>,
    turn: Option<Turn>,
    /// Why there is no process any more, when there is none.
    lost_by: Loss,
    _permits: Permits,
}

/// Why a worker is replaced.
#[derive(Clone, Copy, Debug)]
enum Loss {
    /// The caller went away, and the worker was killed with its work.
    Abandoned,
    /// It did not stop in time, and was killed.
    Deadline,
    /// It ended by itself.
    Died,
    /// It has worked enough.
    Pages,
    /// It keeps too much memory.
    Memory,
}

impl Loss {
    /// Its name in the metrics.
    fn name(self) -> &'static str {
        match self {
            Self::Abandoned => "abandoned",
            Self::Deadline => "deadline",
            Self::Died => "died",
            Self::Pages => "pages",
            Self::Memory => "memory",
        }
    }
}

impl Pool {
    /// Starts the workers. `program` is this very program, whose hidden subcommand `worker` they
    /// are.
    pub async fn start(program: PathBuf, settings: config::Ocr) -> Result<Self, Error> {
        let workers = match settings.workers {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            workers => workers,
        };
        let (first, Greeting { languages, tesseract, isolation_missing }) =
            Process::launch(&program, &settings).await?;
        for missing in isolation_missing {
            tracing::warn!(missing, "workers are not shut in as they could be");
        }
        tracing::info!(workers, tesseract, languages = languages.join(" "), "recogniser runs");
        let pool = Self {
            shared: Arc::new(Shared {
                room: room(workers, &settings),
                turns: Turns::new(workers),
                idle: Mutex::new(vec![first]),
                stopping: CancellationToken::new(),
                page_time_us: AtomicU64::new(PAGE_TIME_FIRST_GUESS.as_micros() as u64),
                program,
                settings,
                workers,
                languages,
            }),
        };
        for _ in 1..workers {
            let process = pool.shared.launch().await?;
            pool.shared.idle().push(process);
        }
        Ok(pool)
    }

    /// The settings that the workers have.
    pub fn settings(&self) -> &config::Ocr {
        &self.shared.settings
    }

    /// How many workers there are.
    pub fn workers(&self) -> usize {
        self.shared.workers
    }

    /// The languages that are installed.
    pub fn languages(&self) -> &[String] {
        &self.shared.languages
    }

    /// Checks all that can be checked without decoding the picture.
    pub fn check(&self, picture: &[u8], options: &Options) -> Result<(), Error> {
        let mut violations = Vec::new();
        violations.extend(image::check(picture, &self.shared.settings).err());
        violations.extend(self.check_languages(&options.languages));
        if options.page == 0 {
            violations.push(Violation::new("page", "is 0; pages are counted from 1"));
        }
        if violations.is_empty() { Ok(()) } else { Err(Error::Invalid(violations)) }
    }

    fn check_languages(&self, languages: &[String]) -> Vec<Violation> {
        if languages.len() > LANGUAGES_MAX {
            let description =
                format!("names {}; at most {LANGUAGES_MAX} are allowed", languages.len());
            return vec![Violation::new("languages", description)];
        }
        if languages == [AUTO] {
            return Vec::new();
        }
        let unknown =
            languages.iter().enumerate().filter(|(_, name)| !self.languages().contains(name));
        let describe = |index| {
            let installed = self.languages().join(", ");
            let description = format!("is not installed; installed are: {installed}");
            Violation::new(format!("languages[{index}]"), description)
        };
        unknown.map(|(index, _)| describe(index)).collect()
    }

    /// Takes a place in the queue for a file of a caller, if the wait leaves time before
    /// `deadline`. Callers take turns, whatever each has waiting.
    pub async fn queue(
        &self,
        caller: &str,
        file: &[u8],
        deadline: Instant,
        when_full: WhenFull,
    ) -> Result<Place, Error> {
        let shared = &self.shared;
        let overloaded = || Error::Overloaded { retry_after: shared.expected_time(caller) };
        if deadline <= Instant::now() {
            return Err(Error::DeadlineExceeded);
        }
        let permits = match when_full {
            WhenFull::Refuse => shared.room.try_take(caller, file.len()).ok_or_else(overloaded)?,
            WhenFull::Wait => tokio::select! {
                permits = shared.room.take(caller, file.len()) => permits.ok_or_else(overloaded)?,
                () = tokio::time::sleep_until(deadline.into()) => {
                    return Err(Error::DeadlineExceeded);
                }
                () = shared.stopping.cancelled() => return Err(Error::Stopping),
            },
        };
        // A caller who would find a worker at once is let in, however little time it has: what is
        // expected of an empty queue is no reason to refuse.
        if !shared.turns.is_free() && Instant::now() + shared.expected_time(caller) > deadline {
            return Err(overloaded());
        }
        let (shared, caller) = (Arc::clone(shared), caller.to_string());
        Ok(Place { shared, caller, deadline, permits, waiting: Waiting::begin() })
    }

    /// Ends the workers. Calls that still wait or run end as [`Error::Stopping`].
    pub fn stop(&self) {
        self.shared.stopping.cancel();
        self.shared.idle().clear();
    }
}

impl Place {
    /// Waits for a worker.
    #[tracing::instrument(name = "queue", skip_all)]
    pub async fn worker(self) -> Result<Worker, Error> {
        let shared = self.shared;
        let deadline = self.deadline.into();
        let asked = Instant::now();
        let turn = tokio::select! {
            turn = shared.turns.take(&self.caller) => turn,
            () = tokio::time::sleep_until(deadline) => return Err(Error::DeadlineExceeded),
            () = shared.stopping.cancelled() => return Err(Error::Stopping),
        };
        drop(self.waiting);
        metrics::histogram!("img2text_ocr_queue_wait_seconds").record(asked.elapsed());
        let warm = shared.idle().pop();
        let process = match warm {
            Some(process) => process,
            None => shared.launch().await?,
        };
        let (process, turn) = (Some(process), Some(turn));
        Ok(Worker { shared, process, turn, lost_by: Loss::Abandoned, _permits: self.permits })
    }
}

impl Worker {
    /// Recognises a page of a file that [`Pool::check`] has let through, until `deadline` or until
    /// the server's own limit for a page, whichever comes first.
    #[tracing::instrument(name = "work", skip_all)]
    pub async fn recognize(
        self,
        file: &Bytes,
        options: &Options,
        deadline: Instant,
    ) -> Result<Page, Error> {
        let shared = Arc::clone(&self.shared);
        let (begun, started) = (SystemTime::now(), Instant::now());
        let outcome = self.work(Task::Read(options.clone()), file, deadline).await?;
        shared.learn_page_time(started.elapsed());
        metrics::histogram!("img2text_ocr_page_seconds").record(started.elapsed());
        match outcome {
            Outcome::Read(page, phases) => {
                for phase in &phases {
                    metrics::histogram!("img2text_ocr_phase_seconds", "phase" => phase.name())
                        .record(phase.duration);
                }
                record_phases(begun, &phases);
                Ok(page)
            }
            _ => Err(Error::WorkerDied("it did something else".into())),
        }
    }

    /// Counts the pages of a file that [`Pool::check`] has let through.
    pub async fn count(self, file: &Bytes, deadline: Instant) -> Result<u32, Error> {
        match self.work(Task::Count, file, deadline).await? {
            Outcome::Counted(pages) => Ok(pages),
            _ => Err(Error::WorkerDied("it did something else".into())),
        }
    }

    async fn work(mut self, task: Task, file: &Bytes, deadline: Instant) -> Result<Outcome, Error> {
        let page_time_max = Duration::from_millis(self.shared.settings.page_ms_max);
        let time = deadline.saturating_duration_since(Instant::now()).min(page_time_max);
        if time.is_zero() {
            return Err(Error::DeadlineExceeded);
        }
        let job = Job { task, time_ms: time.as_millis() as u64 };
        let Some(mut process) = self.process.take() else {
            return Err(Error::WorkerDied("it is gone".into()));
        };
        let outcome = tokio::select! {
            outcome = tokio::time::timeout(time + KILL_DELAY, process.work(&job, file)) => outcome,
            () = self.shared.stopping.cancelled() => return Err(Error::Stopping),
        };
        match outcome {
            // Dropping the process kills it.
            Err(_) => {
                tracing::warn!(pid = process.child.id(), "a worker did not stop: it is killed");
                self.lost_by = Loss::Deadline;
                Err(Error::DeadlineExceeded)
            }
            Ok(Err(error)) => {
                self.lost_by = Loss::Died;
                Err(Error::WorkerDied(error.to_string()))
            }
            Ok(Ok(outcome)) => {
                self.process = Some(process);
                match outcome {
                    Outcome::Undecodable(reason) => Err(Error::Undecodable(reason)),
                    Outcome::Invalid(violation) => Err(Error::Invalid(vec![violation])),
                    Outcome::OutputsTooLarge(bytes) => {
                        let bytes_max = self.shared.settings.page_outputs_bytes_max;
                        Err(Error::OutputsTooLarge { bytes, bytes_max })
                    }
                    Outcome::DeadlineExceeded => Err(Error::DeadlineExceeded),
                    Outcome::Failed(reason) => Err(Error::WorkerDied(reason)),
                    done => Ok(done),
                }
            }
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let loss = match self.process.take() {
            None => self.lost_by,
            Some(process) => match process.wear(&self.shared.settings) {
                None => return self.shared.idle().push(process),
                Some(loss) => loss,
            },
        };
        if self.shared.stopping.is_cancelled() {
            return;
        }
        metrics::counter!("img2text_ocr_worker_restarts_total", "reason" => loss.name())
            .increment(1);
        // The turn is not passed on until there is a worker for it.
        let (shared, turn) = (Arc::clone(&self.shared), self.turn.take());
        tokio::spawn(async move {
            match shared.launch().await {
                Ok(process) => shared.idle().push(process),
                // The next caller tries again, and is told.
                Err(error) => tracing::error!(%error, "a worker cannot be replaced"),
            }
            drop(turn);
        });
    }
}

impl Shared {
    fn idle(&self) -> MutexGuard<'_, Vec<Process>> {
        self.idle.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    async fn launch(&self) -> Result<Process, Error> {
        let (process, _) = Process::launch(&self.program, &self.settings).await?;
        Ok(process)
    }

    /// How long a caller who came now would wait and be worked for.
    fn expected_time(&self, caller: &str) -> Duration {
        let rounds = match self.turns.is_free() {
            true => 1,
            // The pages that are worked on, those whose turn is before, and its own.
            false => 1 + (self.turns.ahead_of(caller) + 1).div_ceil(self.workers) as u32,
        };
        Duration::from_micros(self.page_time_us.load(Ordering::Relaxed)) * rounds
    }

    fn learn_page_time(&self, taken: Duration) {
        let taken_us = taken.as_micros() as u64;
        let before = self.page_time_us.load(Ordering::Relaxed);
        // Which of two at once is remembered does not matter: it is an estimate.
        self.page_time_us.store((before * 7 + taken_us) / 8, Ordering::Relaxed);
    }
}

/// Room for what is worked on and for what waits. Of the waiting one caller gets its share.
fn room(workers: usize, settings: &config::Ocr) -> Arc<Room> {
    let all = Size { calls: workers + settings.queue_max, bytes: settings.in_flight_bytes_max };
    let share = |of: usize| (of as u64 * settings.caller_share_percent).div_ceil(100) as usize;
    let calls = workers + share(settings.queue_max);
    Room::new(all, Size { calls, bytes: share(settings.in_flight_bytes_max) })
}

/// A worker process and the pipes to it. Killed when dropped.
struct Process {
    child: Child,
    /// How many files it was given.
    jobs: u64,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

/// What a worker says of itself.
struct Greeting {
    languages: Vec<String>,
    tesseract: String,
    isolation_missing: Vec<String>,
}

impl Process {
    /// Starts a worker; gives it, and what it said of itself.
    async fn launch(program: &PathBuf, settings: &config::Ocr) -> Result<(Self, Greeting), Error> {
        let broken = |error: std::io::Error| Error::Broken(error.to_string());
        let settings = serde_json::to_string(settings).map_err(|error| broken(error.into()))?;
        let mut command = Command::new(program);
        // What else stands in our environment, as the password of Redis, is not for one that a
        // hostile file may take over.
        let kept = INHERITED_VARIABLES.map(|name| Some((name, std::env::var_os(name)?)));
        command
            .arg("worker")
            .env_clear()
            .envs(kept.into_iter().flatten())
            .env(SETTINGS_VARIABLE, settings)
            // Two engines that each use all cores are many times slower than two that use one.
            .env("OMP_THREAD_LIMIT", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = process::spawn(command).await.map_err(broken)?;
        let (Some(input), Some(output), Some(errors)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(Error::Broken("a worker without pipes".into()));
        };
        tokio::spawn(async move {
            let mut lines = BufReader::new(errors).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                tracing::debug!(target: "worker", "{line}");
            }
        });
        let mut process = Self { child, jobs: 0, input, output: BufReader::new(output) };
        let hello = tokio::time::timeout(START_TIME_MAX, wire::receive(&mut process.output)).await;
        match hello {
            Ok(Ok(Hello::Ready { languages, tesseract, isolation_missing })) => {
                Ok((process, Greeting { languages, tesseract, isolation_missing }))
            }
            Ok(Ok(Hello::Broken(reason))) => Err(Error::Broken(reason)),
            Ok(Err(error)) => Err(broken(error)),
            Err(_) => Err(Error::Broken("a worker does not start in time".into())),
        }
    }

    /// Whether it has worked enough: what a library leaks must not grow for ever.
    fn wear(&self, settings: &config::Ocr) -> Option<Loss> {
        if self.jobs >= settings.worker_pages_max {
            Some(Loss::Pages)
        } else if self.resident_bytes() > settings.worker_resident_bytes_max {
            Some(Loss::Memory)
        } else {
            None
        }
    }

    /// How much memory it has now; 0 where the system does not say.
    fn resident_bytes(&self) -> u64 {
        let path = self.child.id().map(|pid| format!("/proc/{pid}/statm"));
        let text = path.and_then(|path| std::fs::read_to_string(path).ok()).unwrap_or_default();
        let pages = text.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok());
        pages.unwrap_or_default() * rustix::param::page_size() as u64
    }

    async fn work(&mut self, job: &Job, picture: &Bytes) -> std::io::Result<Outcome> {
        self.jobs += 1;
        wire::send(&mut self.input, job, picture).await?;
        wire::receive(&mut self.output).await
    }
}
