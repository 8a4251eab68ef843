//! Real `redis-server` processes: one on a Unix socket, or a Cluster of three primaries.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{LazyLock, mpsc};
use std::time::Duration;

use fred::clients::Client;
use fred::interfaces::ClientLike;
use fred::types::config::{
    Config, ConnectionConfig, PerformanceConfig, ReconnectPolicy, UnresponsiveConfig,
};
use fred::types::{Builder, ClusterHash, CustomCommand, Value};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::authority::Authority;
use super::server::wait_until;

/// Starts processes from a thread that lives as long as the tests do: the kernel kills a child
/// when the thread that spawned it ends, and whatever ends the tests, nothing is left running.
fn spawn(mut command: Command) -> Child {
    type Order = (Command, mpsc::Sender<Child>);
    static SPAWNER: LazyLock<mpsc::Sender<Order>> = LazyLock::new(|| {
        let (orders, inbox) = mpsc::channel::<Order>();
        std::thread::spawn(move || {
            for (mut command, reply) in inbox {
                reply.send(command.spawn().expect("redis-server can be started")).unwrap();
            }
        });
        orders
    });
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let (reply, child) = mpsc::channel();
    SPAWNER.send((command, reply)).unwrap();
    child.recv().unwrap()
}

fn server(directory: &Path, arguments: &[&str]) -> Child {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "redis-server", "--dir"]).arg(directory);
    command.args(["--appendonly", "yes", "--appendfsync", "always", "--save", ""]).args(arguments);
    spawn(command)
}

fn cli(arguments: &[&str]) -> String {
    let output = Command::new("redis-cli").args(arguments).output().expect("redis-cli runs");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// How several Redis and their clients speak with each other.
#[derive(Clone)]
enum Transport {
    Plain,
    /// With a certificate, its key, and the authority that signed it.
    Tls([String; 3]),
}

impl Transport {
    /// TLS, with a certificate for the address that nodes tell each other and their clients.
    fn tls(authority: &Authority) -> Self {
        authority.sign_for("node", "IP:127.0.0.1");
        Self::Tls(["node.pem", "node.key", "ca.pem"].map(|file| authority.path(file)))
    }

    /// What a URL's scheme begins with.
    fn scheme(&self) -> &str {
        match self {
            Self::Plain => "redis",
            Self::Tls(_) => "rediss",
        }
    }

    /// The settings of a Redis that listens on a port and speaks so with the others.
    fn settings(&self, port: u16) -> Vec<[String; 2]> {
        let port = port.to_string();
        let settings = match self {
            Self::Plain => vec![["port", &port]],
            Self::Tls([certificate, key, authority]) => vec![
                ["port", "0"],
                ["tls-port", &port],
                ["tls-cert-file", certificate],
                ["tls-key-file", key],
                ["tls-ca-cert-file", authority],
                ["tls-auth-clients", "no"],
                ["tls-replication", "yes"],
                ["tls-cluster", "yes"],
            ],
        };
        let settings = [settings, vec![["bind", "127.0.0.1"]]].concat();
        settings.into_iter().map(|setting| setting.map(str::to_string)).collect()
    }

    /// The same for a command line.
    fn arguments(&self, port: u16) -> Vec<String> {
        self.settings(port)
            .into_iter()
            .flat_map(|[name, value]| [format!("--{name}"), value])
            .collect()
    }

    fn cli(&self, port: u16, arguments: &[&str]) -> String {
        let port = port.to_string();
        let there = match self {
            Self::Plain => vec!["-p", &port],
            Self::Tls([_, _, authority]) => vec!["-p", &port, "--tls", "--cacert", authority],
        };
        cli(&[&there, arguments].concat())
    }
}

/// A Redis of its own, on a Unix socket, that keeps everything it acknowledged.
pub struct Redis {
    directory: TempDir,
    child: Child,
}

impl Redis {
    pub fn start() -> Self {
        let directory = tempfile::Builder::new().prefix("i2t").tempdir().unwrap();
        let child = Self::launch(directory.path(), &[]);
        Self { directory, child }
    }

    /// One that also listens on a port of localhost, with TLS and the certificate of that name.
    pub fn start_with_tls(authority: &Authority) -> (Self, String) {
        let directory = tempfile::Builder::new().prefix("i2t").tempdir().unwrap();
        let port = free_port().to_string();
        let files = ["localhost.pem", "localhost.key", "ca.pem"].map(|file| authority.path(file));
        let tls = [
            ["--bind", "127.0.0.1"],
            ["--tls-port", &port],
            ["--tls-cert-file", &files[0]],
            ["--tls-key-file", &files[1]],
            ["--tls-ca-cert-file", &files[2]],
            ["--tls-auth-clients", "no"],
        ];
        let child = Self::launch(directory.path(), tls.as_flattened());
        (Self { directory, child }, format!("rediss://localhost:{port}"))
    }

    /// The same, but nothing is written to disk: for what is about rules and not about durability.
    pub fn start_in_memory() -> Self {
        let redis = Self::start();
        redis.cli(&["config", "set", "appendonly", "no"]);
        redis
    }

    fn launch(directory: &Path, more: &[&str]) -> Child {
        let socket = directory.join("redis.sock");
        let socket = socket.to_str().unwrap();
        let arguments = [&["--port", "0", "--unixsocket", socket], more].concat();
        let child = server(directory, &arguments);
        wait_until("redis-server answers", || cli(&["-s", socket, "ping"]).trim() == "PONG");
        child
    }

    pub fn url(&self) -> String {
        format!("redis+unix://{}", self.socket())
    }

    /// The Unix socket it listens on.
    pub fn socket(&self) -> String {
        format!("{}/redis.sock", self.directory.path().display())
    }

    /// Stops it where it is; what is sent to it meanwhile waits.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id() as i32).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Asks it as an operator would.
    pub fn cli(&self, command: &[&str]) -> String {
        cli(&[&["-s", &*self.socket()], command].concat())
    }

    /// SIGKILL, as a power failure would.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub fn restart(&mut self) {
        self.child = Self::launch(self.directory.path(), &[]);
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A Redis Cluster of three primaries on loopback.
pub struct Cluster {
    nodes: Vec<Node>,
    transport: Transport,
}

struct Node {
    directory: TempDir,
    port: u16,
    bus_port: u16,
    transport: Transport,
    child: Child,
}

impl Node {
    fn start(transport: Transport) -> Self {
        let directory = tempfile::Builder::new().prefix("i2t").tempdir().unwrap();
        let (port, bus_port) = (free_port(), free_port());
        let child = Self::launch(directory.path(), port, bus_port, &transport);
        Self { directory, port, bus_port, transport, child }
    }

    fn launch(directory: &Path, port: u16, bus_port: u16, transport: &Transport) -> Child {
        let bus = bus_port.to_string();
        let cluster = ["--cluster-enabled", "yes", "--cluster-port", &bus];
        let timeout = ["--cluster-node-timeout", "2000", "--cluster-require-full-coverage", "no"];
        let listen = transport.arguments(port);
        let listen: Vec<_> = listen.iter().map(String::as_str).collect();
        let child = server(directory, &[&listen, &cluster[..], &timeout[..]].concat());
        wait_until("redis-server answers", || transport.cli(port, &["ping"]).trim() == "PONG");
        child
    }

    fn cli(&self, arguments: &[&str]) -> String {
        self.transport.cli(self.port, arguments)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Cluster {
    pub fn start() -> Self {
        Self::start_with(Transport::Plain)
    }

    /// One whose nodes speak TLS with their clients and with each other.
    pub fn start_with_tls(authority: &Authority) -> Self {
        Self::start_with(Transport::tls(authority))
    }

    fn start_with(transport: Transport) -> Self {
        let nodes: Vec<_> = (0..3).map(|_| Node::start(transport.clone())).collect();
        for (index, node) in nodes.iter().enumerate() {
            let (first, last) = (index * 16384 / 3, (index + 1) * 16384 / 3 - 1);
            node.cli(&["cluster", "set-config-epoch", &(index + 1).to_string()]);
            node.cli(&["cluster", "addslotsrange", &first.to_string(), &last.to_string()]);
            let (port, bus) = (nodes[0].port.to_string(), nodes[0].bus_port.to_string());
            node.cli(&["cluster", "meet", "127.0.0.1", &port, &bus]);
        }
        let cluster = Self { nodes, transport };
        cluster.wait_until_whole();
        cluster
    }

    fn wait_until_whole(&self) {
        wait_until("the Cluster is whole", || {
            self.nodes.iter().all(|node| {
                let info = node.cli(&["cluster", "info"]);
                info.contains("cluster_state:ok")
                    && info.contains("cluster_slots_ok:16384")
                    && info.contains("cluster_known_nodes:3")
            })
        });
    }

    pub fn url(&self) -> String {
        format!("{}-cluster://127.0.0.1:{}", self.transport.scheme(), self.nodes[0].port)
    }

    /// Empties the script cache of every node.
    pub fn flush_scripts(&self) {
        for node in &self.nodes {
            assert_eq!(node.cli(&["script", "flush"]).trim(), "OK");
        }
    }

    /// Kills every node with SIGKILL and starts it again on its data.
    pub fn restart_every_node(&mut self) {
        for node in &mut self.nodes {
            node.child.kill().unwrap();
            node.child.wait().unwrap();
            node.child =
                Node::launch(node.directory.path(), node.port, node.bus_port, &self.transport);
        }
        self.wait_until_whole();
    }

    /// How many keys each node holds.
    pub fn keys_per_node(&self) -> Vec<u64> {
        self.nodes.iter().map(|node| node.cli(&["dbsize"]).trim().parse().unwrap()).collect()
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A client as production makes it, as far as the account depends on it: no command is repeated.
pub async fn connect(url: &str) -> Client {
    connect_with(url, Duration::from_secs(2)).await
}

/// The same, with another time after which a command counts as unanswered.
pub async fn connect_with(url: &str, command_timeout: Duration) -> Client {
    let config = Config::from_url(url).unwrap();
    let connection = ConnectionConfig {
        max_command_attempts: 1,
        connection_timeout: Duration::from_secs(2),
        unresponsive: UnresponsiveConfig {
            max_timeout: Some(Duration::from_secs(2)),
            interval: Duration::from_millis(500),
        },
        ..ConnectionConfig::default()
    };
    let performance = PerformanceConfig {
        default_command_timeout: command_timeout,
        ..PerformanceConfig::default()
    };
    let mut builder = Builder::from_config(config);
    builder.set_connection_config(connection);
    builder.set_performance_config(performance);
    builder.set_policy(ReconnectPolicy::new_exponential(0, 50, 500, 2));
    let client = builder.build().unwrap();
    client.init().await.unwrap();
    client
}

/// Runs a plain Redis command whose first argument is a key.
pub async fn command(client: &Client, name: &'static str, arguments: &[&str]) -> Value {
    let arguments: Vec<Value> = arguments.iter().map(|argument| (*argument).into()).collect();
    let command = CustomCommand::new_static(name, ClusterHash::FirstKey, false);
    client.custom(command, arguments).await.unwrap()
}

/// A Redis and a Cluster that all tests share which neither kill nor empty them.
pub mod shared {
    use super::{Cluster, LazyLock, Redis};

    static STANDALONE: LazyLock<Redis> = LazyLock::new(Redis::start);
    static CLUSTER: LazyLock<Cluster> = LazyLock::new(Cluster::start);

    pub fn standalone() -> String {
        STANDALONE.url()
    }

    pub fn cluster() -> String {
        CLUSTER.url()
    }
}

/// A primary, its replica, and three Sentinels that agree on which is which.
pub struct Sentinels {
    primary: Child,
    others: Vec<Child>,
    ports: Vec<u16>,
    transport: Transport,
    _directories: Vec<TempDir>,
}

impl Sentinels {
    pub fn start() -> Self {
        Self::start_with(Transport::Plain)
    }

    /// All of them speak TLS with their clients and with each other.
    pub fn start_with_tls(authority: &Authority) -> Self {
        Self::start_with(Transport::tls(authority))
    }

    fn start_with(transport: Transport) -> Self {
        let directories: Vec<_> =
            (0..5).map(|_| tempfile::Builder::new().prefix("i2t").tempdir().unwrap()).collect();
        let ports: Vec<_> = (0..5).map(|_| free_port()).collect();
        let redis = |directory: &TempDir, port: u16, more: &[&str]| {
            let listen = transport.arguments(port);
            let listen: Vec<_> = listen.iter().map(String::as_str).collect();
            server(directory.path(), &[&listen, more].concat())
        };
        let primary = redis(&directories[0], ports[0], &[]);
        wait_until("the primary answers", || transport.cli(ports[0], &["ping"]).trim() == "PONG");
        let replica_of = format!("127.0.0.1 {}", ports[0]);
        let mut others = vec![redis(&directories[1], ports[1], &["--replicaof", &replica_of])];
        wait_until("the replica follows", || {
            let replication = transport.cli(ports[1], &["info", "replication"]);
            replication.contains("master_link_status:up")
        });
        for (directory, port) in directories.iter().zip(&ports).skip(2) {
            let listen: String =
                transport.settings(*port).iter().map(|setting| setting.join(" ") + "\n").collect();
            let settings = format!(
                "{listen}sentinel monitor accounts 127.0.0.1 {} 2\n\
                 sentinel down-after-milliseconds accounts 1000\n\
                 sentinel failover-timeout accounts 5000\n",
                ports[0]
            );
            let path = directory.path().join("sentinel.conf");
            std::fs::write(&path, settings).unwrap();
            let mut command = Command::new("setpriv");
            command.args(["--pdeathsig", "KILL", "redis-server"]).arg(&path).arg("--sentinel");
            others.push(spawn(command));
        }
        wait_until("the Sentinels know all", || {
            ports[2..].iter().all(|port| {
                let known = transport.cli(*port, &["sentinel", "master", "accounts"]);
                let known: Vec<_> = known.lines().collect();
                let number = |name| {
                    let at = known.iter().position(|line| *line == name)?;
                    known.get(at + 1)?.parse::<u32>().ok()
                };
                number("num-slaves") == Some(1) && number("num-other-sentinels") == Some(2)
            })
        });
        Self { primary, others, ports, transport, _directories: directories }
    }

    pub fn url(&self) -> String {
        let [_, _, first, second, third] = self.ports[..] else { unreachable!("five ports") };
        format!(
            "{}-sentinel://127.0.0.1:{first}?node=127.0.0.1:{second}&node=127.0.0.1:{third}\
             &sentinelServiceName=accounts",
            self.transport.scheme()
        )
    }

    /// SIGKILL.
    pub fn kill_primary(&mut self) {
        self.primary.kill().unwrap();
        self.primary.wait().unwrap();
    }
}

impl Drop for Sentinels {
    fn drop(&mut self) {
        for child in self.others.iter_mut().chain([&mut self.primary]) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
