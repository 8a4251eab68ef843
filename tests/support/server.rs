//! A real `img2text serve` in a process of its own.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use img2text::grpc::proto::quota_service_client::QuotaServiceClient;
use img2text::grpc::proto::recognize_service_client::RecognizeServiceClient;
use img2text::grpc::proto::{GetQuotaRequest, Quota, RecognizeRequest};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use tempfile::TempDir;
use tonic::transport::{Channel, Endpoint};

/// The program under test.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_img2text");

/// How long anything that a test waits for may take. Long, because a machine may be busy; nothing
/// waits this long when all is well.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until a condition holds, and fails the test if it does not in time.
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A server, its data directory and its log. Ended when dropped.
pub struct Server {
    child: Child,
    address: String,
    settings: BTreeMap<String, String>,
    home: TempDir,
}

impl Server {
    /// A server with default settings on an embedded Redis.
    pub fn start() -> Self {
        Self::with([])
    }

    /// A server with some settings of its own, as in `("ocr.workers", "1")`.
    pub fn with<const N: usize>(settings: [(&str, &str); N]) -> Self {
        Self::with_all(&settings)
    }

    /// The same; of two that set the same the later one counts.
    pub fn with_all(settings: &[(&str, &str)]) -> Self {
        let home = tempfile::tempdir().expect("a temporary directory");
        let settings = settings.iter().map(|(name, value)| (name.to_string(), value.to_string()));
        let settings = settings.collect();
        let (child, address) = launch(home.path(), serve(home.path(), &settings));
        Self { child, address, settings, home }
    }

    /// A server whose data directory is a disk of so many bytes: one in memory, which only the
    /// server and its children see.
    pub fn on_a_disk_of(bytes: u64) -> Self {
        let home = tempfile::tempdir().expect("a temporary directory");
        let server = serve(home.path(), &BTreeMap::new());
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount", "sh", "-c"]);
        command.arg(format!(
            "mkdir \"$0\" && mount -t tmpfs -o size={bytes} disk \"$0\" && exec \"$@\""
        ));
        command.arg(home.path().join("data")).arg(server.get_program()).args(server.get_args());
        let (child, address) = launch(home.path(), command);
        Self { child, address, settings: BTreeMap::new(), home }
    }

    /// A server that may have so many files open, as in `256:4096`: at first, and if it asks.
    pub fn with_descriptors(limits: &str, settings: &[(&str, &str)]) -> Self {
        let home = tempfile::tempdir().expect("a temporary directory");
        let settings = settings.iter().map(|(name, value)| (name.to_string(), value.to_string()));
        let settings = settings.collect();
        let server = serve(home.path(), &settings);
        let mut command = Command::new("prlimit");
        command.arg(format!("--nofile={limits}"));
        command.arg(server.get_program()).args(server.get_args());
        let (child, address) = launch(home.path(), command);
        Self { child, address, settings, home }
    }

    /// The data directory as the server sees it, where that is not as all see it.
    pub fn data_dir_inside(&self) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", self.pid()));
        root.join(self.data_dir().strip_prefix("/").expect("absolute"))
    }

    /// Starts the server again on the same data, after it has ended.
    pub fn restart(&mut self) {
        let _ = self.child.wait();
        let command = serve(self.home.path(), &self.settings);
        (self.child, self.address) = launch(self.home.path(), command);
    }

    /// Where the server listens, as in `127.0.0.1:40123`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Where the embedded Redis keeps its data.
    pub fn data_dir(&self) -> PathBuf {
        self.home.path().join("data")
    }

    /// What the server has logged since it was started for the first time.
    pub fn log(&self) -> String {
        fs::read_to_string(self.home.path().join("log")).unwrap_or_default()
    }

    /// The server's process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The process ids of the server's children whose command line has the given word.
    pub fn children(&self, word: &str) -> Vec<u32> {
        children(self.pid(), word)
    }

    /// The process id of the embedded Redis.
    pub fn redis_pid(&self) -> u32 {
        let mut pid = None;
        wait_until("the embedded Redis runs", || {
            pid = self.children("unixsocket:").first().copied();
            pid.is_some()
        });
        pid.expect("just seen")
    }

    /// The Unix socket of the embedded Redis, which it names in its title.
    pub fn redis_socket(&self) -> String {
        let title = command_line(self.redis_pid());
        let socket = title.split_whitespace().find_map(|word| word.strip_prefix("unixsocket:"));
        socket.expect("Redis names its socket").to_string()
    }

    /// Asks the embedded Redis behind the server's back, as an operator would.
    pub fn redis_cli(&self, command: &[&str]) -> String {
        let output = Command::new("redis-cli")
            .args(["-s", &self.redis_socket()])
            .args(command)
            .output()
            .expect("redis-cli runs");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("text")
    }

    /// SIGKILL: what a power cut and the kernel's OOM killer are like.
    pub fn kill(&mut self) {
        self.child.kill().expect("the server runs");
        self.child.wait().expect("the server can be waited for");
    }

    /// Tells the server to stop.
    pub fn terminate(&self) {
        signal(self.pid(), Signal::TERM);
    }

    /// Waits for the server to end.
    pub fn wait(&mut self) -> ExitStatus {
        let mut status = None;
        wait_until("the server has ended", || {
            status = self.child.try_wait().expect("the server can be waited for");
            status.is_some()
        });
        status.expect("just seen")
    }

    /// A channel to the server.
    pub async fn channel(&self) -> Channel {
        Endpoint::from_shared(format!("http://{}", self.address))
            .expect("an address")
            .connect()
            .await
            .expect("the server listens")
    }

    /// A client of the recogniser.
    pub async fn recognize(&self) -> RecognizeServiceClient<Channel> {
        RecognizeServiceClient::new(self.channel().await).max_decoding_message_size(64 << 20)
    }

    /// A client of the accounts.
    pub async fn quota(&self) -> QuotaServiceClient<Channel> {
        QuotaServiceClient::new(self.channel().await)
    }

    /// A user's account.
    pub async fn account(&self, user: &str) -> Quota {
        let request = GetQuotaRequest { user_id: user.into() };
        let response = self.quota().await.get_quota(request).await.expect("an account");
        response.into_inner().quota.expect("an account")
    }

    /// What `telemetry.http_listen` answers: the status and the body.
    pub fn http(&self, path: &str) -> (u16, String) {
        let log = self.log();
        let (_, address) = log.rsplit_once("http=").expect("telemetry.http_listen is set");
        let address = address.split_whitespace().next().expect("an address");
        let mut stream = TcpStream::connect(address).expect("the probes listen");
        write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            .expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok());
        let (_, body) = answer.split_once("\r\n\r\n").expect("headers and a body");
        (status.expect("a status"), body.to_string())
    }

    /// Runs the program as a client of this server.
    pub fn command<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Output {
        Command::new(PROGRAM)
            .args(arguments)
            .env("IMG2TEXT_SERVER", format!("http://{}", self.address))
            .output()
            .expect("the program runs")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- log of the server\n{}---", self.log());
        }
    }
}

/// What an account has spent, from all buckets.
pub fn spent(account: &Quota) -> u64 {
    let spent = account.spent.expect("what was spent");
    spent.free + spent.plan + spent.extra
}

/// A request to recognise one picture.
pub fn recognize_request(user: &str, image: Vec<u8>) -> RecognizeRequest {
    RecognizeRequest {
        image: image.into(),
        user_id: user.into(),
        languages: vec!["eng".into()],
        ..Default::default()
    }
}

/// Sends a signal to a process that the test started.
pub fn signal(pid: u32, signal: Signal) {
    let _ = kill_process(to_pid(pid), signal);
}

/// Whether a process is there.
pub fn is_running(pid: u32) -> bool {
    test_kill_process(to_pid(pid)).is_ok()
}

/// How much memory a process has.
pub fn resident_bytes(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("its memory");
    let kibibytes = line.split_whitespace().nth(1).and_then(|number| number.parse::<u64>().ok());
    kibibytes.expect("a number") << 10
}

fn to_pid(pid: u32) -> Pid {
    Pid::from_raw(pid as i32).expect("a process id")
}

fn children(parent: u32, word: &str) -> Vec<u32> {
    let processes = fs::read_dir("/proc").expect("/proc").flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| parent_of(*pid) == Some(parent) && command_line(*pid).contains(word))
        .collect()
}

fn parent_of(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // After the name, which is in parentheses and may hold anything: state, parent.
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

fn command_line(pid: u32) -> String {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace('\0', " ")
}

/// What a server says that must refuse to start with these settings.
pub fn launch_fails(settings: &[(&str, &str)]) -> String {
    let home = tempfile::tempdir().expect("a temporary directory");
    let settings = settings.iter().map(|(name, value)| (name.to_string(), value.to_string()));
    let output = serve(home.path(), &settings.collect()).output().expect("the program runs");
    assert!(!output.status.success(), "the server started");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn serve(home: &Path, settings: &BTreeMap<String, String>) -> Command {
    let mut command = Command::new(PROGRAM);
    command.args(["serve", "--listen", "127.0.0.1:0", "--data-dir"]).arg(home.join("data"));
    for (name, value) in settings {
        command.arg("--set").arg(format!("{name}={value}"));
    }
    command
}

/// Starts a server and waits until it says where it listens.
fn launch(home: &Path, mut command: Command) -> (Child, String) {
    let path = home.join("log");
    let log = fs::OpenOptions::new().create(true).append(true).open(&path).expect("a log file");
    let log_start = log.metadata().expect("a log file").len() as usize;
    let child = command
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a log file"))
        .stderr(log)
        .spawn()
        .expect("the program starts");
    // Ended if it does not come to listen: a test that fails leaves nothing behind either.
    let mut child = Ended(Some(child));
    let mut address = None;
    wait_until("the server listens", || {
        let log = fs::read_to_string(&path).expect("a log file");
        address = listening_address(&log[log_start..]);
        if let Some(status) = child.running().try_wait().expect("the server can be waited for") {
            panic!("the server ended ({status}):\n{}", &log[log_start..]);
        }
        address.is_some()
    });
    (child.keep(), address.expect("just seen"))
}

/// A process that is ended unless it is kept.
struct Ended(Option<Child>);

impl Ended {
    fn running(&mut self) -> &mut Child {
        self.0.as_mut().expect("not kept yet")
    }

    fn keep(mut self) -> Child {
        self.0.take().expect("not kept yet")
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn listening_address(log: &str) -> Option<String> {
    let line = log.lines().find(|line| line.contains("listening"))?;
    let address = line.split_once("address=")?.1;
    Some(address.split_whitespace().next()?.to_string())
}
