//! A private `redis-server`, started and supervised by us: nothing to configure, nothing lost.
//!
//! It listens on a Unix socket only, in a directory that only we may enter, and writes every
//! change to disk before it answers (`appendfsync always`).
//!
//! Redis itself takes no lock on its data. So we hold a `flock` on a file in the data directory,
//! and hand the locked descriptor to Redis as its standard input, which it never reads: the lock
//! lives until both of us are gone, and nobody else's Redis writes to our files meanwhile.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, geteuid, kill_process};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::Error;
use crate::{config, process};

/// The programs that can be the private Redis, best first.
const PROGRAMS: [&str; 2] = ["redis-server", "valkey-server"];
/// How long the data directory may still be locked by a server that is just dying.
const LOCK_WAIT_MAX: Duration = Duration::from_secs(10);
/// How long Redis may take to write down what it has when told to stop, before it is killed. With
/// `appendfsync always` it loses nothing then either.
const STOP_WAIT_MAX: Duration = Duration::from_secs(10);
const RESTART_DELAY_MIN: Duration = Duration::from_millis(50);
const RESTART_DELAY_MAX: Duration = Duration::from_secs(5);
/// A Redis that ran so long starts again without delay.
const STABLE_AFTER: Duration = Duration::from_secs(10);
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// The longest path of a Unix socket, by the size of `sockaddr_un` (108) and its final zero.
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// A private Redis. Killed when dropped; [`Embedded::stop`] ends it cleanly.
pub struct Embedded {
    socket: PathBuf,
    pid: watch::Receiver<Option<u32>>,
    stop: CancellationToken,
    supervisor: JoinHandle<()>,
}

impl Embedded {
    /// Starts a private Redis on `settings.data_dir` and waits until it answers.
    ///
    /// `program` is this very program; it becomes Redis by way of its hidden subcommand
    /// `redis-child`, which sees to it that Redis dies with us.
    pub async fn start(program: PathBuf, settings: &config::Redis) -> Result<Self, Error> {
        let redis = installed().ok_or(Error::NotInstalled)?;
        let data_dir = private_dir(&settings.data_dir)?;
        let lock = lock(&data_dir).await?;
        if !has_append_only_file(&data_dir) && has_snapshot(&data_dir) {
            return Err(Error::SnapshotOnly(data_dir.display().to_string()));
        }
        let socket = socket_path(&data_dir)?;
        let recipe = Recipe { program, redis, data_dir, socket: socket.clone(), lock };

        let deadline = Instant::now() + Duration::from_millis(settings.start_ms_max);
        let mut running = recipe.launch().await?;
        running.wait_until_ready(&socket, deadline).await?;
        tracing::info!(pid = running.pid, socket = %socket.display(), "private Redis runs");

        let (pid_sender, pid) = watch::channel(Some(running.pid));
        let stop = CancellationToken::new();
        let supervisor = tokio::spawn(supervise(recipe, running, pid_sender, stop.clone()));
        Ok(Self { socket, pid, stop, supervisor })
    }

    /// Where the private Redis of a server listens that is running on `settings.data_dir`, if one
    /// is.
    pub async fn running(settings: &config::Redis) -> Result<Option<String>, Error> {
        let Ok(data_dir) = fs::canonicalize(&settings.data_dir) else { return Ok(None) };
        let socket = socket_path(&data_dir)?;
        Ok(answers(&socket).await.then(|| url(&socket)))
    }

    /// The same, but only on a data directory that a private Redis has written to before.
    pub async fn start_on_data(program: PathBuf, settings: &config::Redis) -> Result<Self, Error> {
        if !has_append_only_file(&settings.data_dir) && !has_snapshot(&settings.data_dir) {
            return Err(Error::NoData(settings.data_dir.display().to_string()));
        }
        Self::start(program, settings).await
    }

    /// Where it listens, as [`connect`](super::connect) reads it.
    pub fn url(&self) -> String {
        url(&self.socket)
    }

    /// Its process id, unless it is just being started again.
    pub fn pid(&self) -> Option<u32> {
        *self.pid.borrow()
    }

    /// Ends it cleanly: everything is on disk afterwards.
    pub async fn stop(self) {
        self.stop.cancel();
        if let Err(error) = self.supervisor.await {
            tracing::error!(%error, "the supervisor of the private Redis failed");
        }
    }
}

fn url(socket: &Path) -> String {
    format!("redis+unix://{}", socket.display())
}

/// What it takes to start Redis.
struct Recipe {
    program: PathBuf,
    redis: PathBuf,
    data_dir: PathBuf,
    socket: PathBuf,
    lock: File,
}

impl Recipe {
    async fn launch(&self) -> Result<Running, Error> {
        let lock =
            self.lock.try_clone().map_err(|source| io_error("lock", &self.data_dir, source))?;
        let mut command = Command::new(&self.program);
        command
            .arg("redis-child")
            .arg(&self.redis)
            .args(["--port", "0", "--daemonize", "no", "--logfile", "", "--loglevel", "notice"])
            .arg("--unixsocket")
            .arg(&self.socket)
            .args(["--unixsocketperm", "700"])
            .arg("--dir")
            .arg(&self.data_dir)
            // What was acknowledged is on disk; the snapshots make a restart quick.
            .args(["--appendonly", "yes", "--appendfsync", "always", "--save", "60 1000"])
            .args(["--no-appendfsync-on-rewrite", "no", "--maxmemory-policy", "noeviction"])
            .stdin(Stdio::from(lock))
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let spawned = process::spawn(command).await;
        let mut child =
            spawned.map_err(|source| io_error("start Redis on", &self.data_dir, source))?;
        let pid = child.id().unwrap_or_default();
        let last_line = Arc::new(Mutex::new(String::new()));
        if let Some(stdout) = child.stdout.take() {
            let last_line = Arc::clone(&last_line);
            tokio::spawn(async move {
                let mut lines = BufReader::new(stdout).lines();
                while let Ok(Some(line)) = lines.next_line().await {
                    tracing::debug!(target: "redis", "{line}");
                    *last_line.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = line;
                }
            });
        }
        Ok(Running { child, pid, last_line, started: Instant::now() })
    }
}

/// A Redis that was started.
struct Running {
    child: Child,
    pid: u32,
    last_line: Arc<Mutex<String>>,
    started: Instant,
}

impl Running {
    fn last_line(&self) -> String {
        self.last_line.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }

    async fn wait_until_ready(&mut self, socket: &Path, deadline: Instant) -> Result<(), Error> {
        while !answers(socket).await {
            let ended = self.child.try_wait().ok().flatten().is_some();
            if ended || Instant::now() > deadline {
                return Err(Error::DoesNotStart(self.last_line()));
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        Ok(())
    }

    async fn end(&mut self) {
        if let Some(pid) = Pid::from_raw(self.pid as i32) {
            let _ = kill_process(pid, Signal::TERM);
        }
        if tokio::time::timeout(STOP_WAIT_MAX, self.child.wait()).await.is_err() {
            tracing::warn!(pid = self.pid, "the private Redis does not stop: it is killed");
            let _ = self.child.kill().await;
        }
    }
}

/// Starts Redis again whenever it ends, later and later if it does not stay, until told to stop.
async fn supervise(
    recipe: Recipe,
    mut running: Running,
    pid: watch::Sender<Option<u32>>,
    stop: CancellationToken,
) {
    let mut delay = RESTART_DELAY_MIN;
    loop {
        tokio::select! {
            () = stop.cancelled() => return running.end().await,
            status = running.child.wait() => {
                let status = status.map_or_else(|error| error.to_string(), |s| s.to_string());
                let last_line = running.last_line();
                tracing::error!(%status, last_line, "the private Redis has ended: it is started again");
            }
        }
        pid.send_replace(None);
        if running.started.elapsed() > STABLE_AFTER {
            delay = RESTART_DELAY_MIN;
        }
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(delay) => {}
            }
            delay = (delay * 2).min(RESTART_DELAY_MAX);
            match recipe.launch().await {
                Ok(started) => break running = started,
                Err(error) => tracing::error!(%error, "the private Redis cannot be started"),
            }
        }
        pid.send_replace(Some(running.pid));
        tracing::info!(pid = running.pid, "the private Redis was started again");
    }
}

/// Whether a Redis has kept an append-only file there: one of several parts, or one of a Redis before
/// 7.0, which a later one takes over.
fn has_append_only_file(data_dir: &Path) -> bool {
    ["appendonlydir", "appendonly.aof"].iter().any(|name| data_dir.join(name).exists())
}

fn has_snapshot(data_dir: &Path) -> bool {
    data_dir.join("dump.rdb").exists()
}

/// Where the first of the programs is that is installed.
fn installed() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let directories: Vec<_> = std::env::split_paths(&path).collect();
    PROGRAMS
        .iter()
        .flat_map(|program| directories.iter().map(move |directory| directory.join(program)))
        .find(|program| program.is_file())
}

/// Makes a directory that only we may enter, and gives its absolute path.
fn private_dir(path: &Path) -> Result<PathBuf, Error> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|source| io_error("make the directory", path, source))?;
    fs::canonicalize(path).map_err(|source| io_error("enter the directory", path, source))
}

async fn lock(data_dir: &Path) -> Result<File, Error> {
    let path = data_dir.join("img2text.lock");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path)
        .map_err(|source| io_error("open", &path, source))?;
    let deadline = Instant::now() + LOCK_WAIT_MAX;
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < deadline => {
                tokio::time::sleep(POLL_INTERVAL).await;
            }
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(Error::DataDirInUse(data_dir.display().to_string()));
            }
            Err(errno) => return Err(io_error("lock", &path, errno.into())),
        }
    }
}

/// In the data directory, or where its path is too long for a Unix socket, in a private directory
/// below the system's temporary one, always the same for the same data.
fn socket_path(data_dir: &Path) -> Result<PathBuf, Error> {
    let path = data_dir.join("redis.sock");
    if path.as_os_str().len() <= SOCKET_PATH_BYTES_MAX {
        return Ok(path);
    }
    let digest = Sha256::digest(data_dir.as_os_str().as_encoded_bytes());
    let name: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let directory = private_dir(&std::env::temp_dir().join(format!("img2text-{name}")))?;
    let metadata = fs::metadata(&directory)
        .map_err(|source| io_error("enter the directory", &directory, source))?;
    if metadata.uid() != geteuid().as_raw() || metadata.mode() & 0o077 != 0 {
        let source = io::Error::from(io::ErrorKind::PermissionDenied);
        return Err(io_error("trust the directory", &directory, source));
    }
    Ok(directory.join("redis.sock"))
}

/// Whether Redis answers, and not only that it is still loading.
async fn answers(socket: &Path) -> bool {
    let ping = async {
        let mut stream = UnixStream::connect(socket).await?;
        stream.write_all(b"PING\r\n").await?;
        let mut reply = [0; 5];
        stream.read_exact(&mut reply).await?;
        io::Result::Ok(&reply == b"+PONG")
    };
    tokio::time::timeout(Duration::from_secs(1), ping)
        .await
        .is_ok_and(|reply| reply.unwrap_or(false))
}

fn io_error(what: &str, path: &Path, source: io::Error) -> Error {
    Error::Io { what: format!("cannot {what} {}", path.display()), source }
}
