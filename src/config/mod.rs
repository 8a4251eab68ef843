//! Every setting: its name, default, unit and environment variable.
//!
//! A setting is named by its section and field (`quota.hold_ttl_ms_max`). Times are in
//! milliseconds and sizes in bytes, as their names say.

pub mod load;

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::ocr::engine::SIDE_PIXELS_MAX;

/// All settings of a server.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where and how the server listens.
    pub server: Server,
    /// Who may call.
    pub auth: Auth,
    /// Where the accounts are kept.
    pub redis: Redis,
    /// The rules of the account.
    pub quota: Quota,
    /// The recogniser and its limits.
    pub ocr: Ocr,
    /// What the server says about itself.
    pub telemetry: Telemetry,
}

impl Config {
    /// What is out of bounds: names of settings, and what would be right.
    fn violations(&self) -> Vec<(&'static str, String)> {
        let Self { server, redis, quota, ocr, telemetry, .. } = self;
        let mut violations = Vec::new();
        if server.listen.parse::<SocketAddr>().is_err() {
            let message = "must be an IP address and a port, as in 127.0.0.1:50051".to_string();
            violations.push(("server.listen", message));
        }
        if ocr.languages_default.is_empty() {
            violations.push(("ocr.languages_default", "must name a language".into()));
        }
        if !telemetry.http_listen.is_empty() && telemetry.http_listen.parse::<SocketAddr>().is_err()
        {
            let message = "must be an IP address and a port, as in 127.0.0.1:9090".to_string();
            violations.push(("telemetry.http_listen", message));
        }
        if !telemetry.otlp_endpoint.is_empty() && !telemetry.otlp_endpoint.starts_with("http://") {
            let message = "must be an address as in http://127.0.0.1:4317".into();
            violations.push(("telemetry.otlp_endpoint", message));
        }
        if !(0.0..=1.0).contains(&telemetry.trace_sampling_ratio) {
            violations.push(("telemetry.trace_sampling_ratio", "must be from 0 to 1".into()));
        }
        if server.tls_certificate.as_os_str().is_empty() != server.tls_key.as_os_str().is_empty() {
            violations.push((
                "server.tls_key",
                "a certificate needs its key, and a key its certificate".into(),
            ));
        }
        if !server.tls_client_ca.as_os_str().is_empty()
            && server.tls_certificate.as_os_str().is_empty()
        {
            violations.push(("server.tls_client_ca", "needs server.tls_certificate".into()));
        }
        // Whoever names an authority would not want to speak in clear.
        if !redis.tls_ca_file.as_os_str().is_empty()
            && !["rediss", "valkeys"].iter().any(|scheme| redis.url.starts_with(scheme))
        {
            let message = "needs a redis.url with TLS: rediss://, rediss-cluster:// or \
                           rediss-sentinel://";
            violations.push(("redis.tls_ca_file", message.into()));
        }
        let least: [(_, u64, u64); 33] = [
            ("server.connections_max", server.connections_max as u64, 1),
            ("server.streams_max", server.streams_max.into(), 1),
            // A picture must fit in.
            (
                "server.in_flight_bytes_max",
                server.in_flight_bytes_max as u64,
                2 * ocr.image_bytes_max as u64,
            ),
            ("server.header_bytes_max", server.header_bytes_max.into(), 1_024),
            ("server.handshake_ms_max", server.handshake_ms_max, 100),
            ("server.keepalive_interval_ms", server.keepalive_interval_ms, 100),
            ("server.idle_ms_max", server.idle_ms_max, 2 * server.keepalive_interval_ms + 1),
            ("server.connection_age_ms_max", server.connection_age_ms_max, 1_000),
            ("server.connection_grace_ms_max", server.connection_grace_ms_max, ocr.call_ms_max),
            ("redis.command_timeout_ms", redis.command_timeout_ms, 1),
            ("redis.connect_timeout_ms", redis.connect_timeout_ms, 1),
            ("redis.commands_in_flight_max", redis.commands_in_flight_max as u64, 1),
            ("redis.durability_check_interval_ms", redis.durability_check_interval_ms, 100),
            ("quota.hold_ttl_ms_default", quota.hold_ttl_ms_default, 1_000),
            ("quota.hold_ttl_ms_max", quota.hold_ttl_ms_max, quota.hold_ttl_ms_default),
            ("quota.holds_open_max", quota.holds_open_max.into(), 1),
            ("quota.settled_reservation_ttl_ms", quota.settled_reservation_ttl_ms, 1_000),
            ("quota.settled_reservations_max", quota.settled_reservations_max.into(), 1),
            ("quota.history_entries_max", quota.history_entries_max.into(), 1),
            ("ocr.image_bytes_max", ocr.image_bytes_max as u64, 1),
            ("ocr.image_pixels_max", ocr.image_pixels_max, 1),
            ("ocr.image_side_pixels_max", ocr.image_side_pixels_max.into(), 1),
            ("ocr.page_ms_max", ocr.page_ms_max, 1),
            // Less than that and no engine starts.
            ("ocr.worker_memory_bytes_max", ocr.worker_memory_bytes_max, 256 << 20),
            ("ocr.call_ms_max", ocr.call_ms_max, 1),
            ("ocr.worker_pages_max", ocr.worker_pages_max, 1),
            ("ocr.in_flight_bytes_max", ocr.in_flight_bytes_max as u64, 1),
            ("ocr.caller_share_percent", ocr.caller_share_percent, 1),
            ("ocr.document_pages_max", ocr.document_pages_max.into(), 1),
            ("ocr.engines_data_bytes_max", ocr.engines_data_bytes_max, 1),
            ("ocr.stream_in_flight_max", ocr.stream_in_flight_max as u64, 1),
            ("ocr.reply_bytes_max", ocr.reply_bytes_max as u64, 1),
            ("ocr.page_outputs_bytes_max", ocr.page_outputs_bytes_max as u64, 1),
        ];
        let too_small = least.into_iter().filter(|(_, value, least)| value < least);
        violations
            .extend(too_small.map(|(name, _, least)| (name, format!("must be at least {least}"))));
        let most: [(_, u64, u64); 2] = [
            ("ocr.image_side_pixels_max", ocr.image_side_pixels_max.into(), SIDE_PIXELS_MAX.into()),
            ("ocr.caller_share_percent", ocr.caller_share_percent, 100),
        ];
        let too_large = most.into_iter().filter(|(_, value, most)| value > most);
        violations
            .extend(too_large.map(|(name, _, most)| (name, format!("must be at most {most}"))));
        violations
    }
}

/// Where and how the server listens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Server {
    /// The address and port to listen on; port 0 takes a free one.
    pub listen: String,
    /// How long calls that are running may take to finish once the server was told to stop, in
    /// milliseconds.
    pub drain_ms_max: u64,
    /// The certificate chain to show callers, a PEM file; empty: no TLS. Read again when it
    /// changes.
    pub tls_certificate: PathBuf,
    /// The private key of the certificate, a PEM file.
    pub tls_key: PathBuf,
    /// The authorities whose client certificates are accepted, a PEM file; empty: clients need
    /// none. If it is set, a connection without one is refused.
    pub tls_client_ca: PathBuf,
    /// How many connections there may be.
    pub connections_max: usize,
    /// How many calls may run on one connection.
    pub streams_max: u32,
    /// How many bytes of messages the server takes in at once, in all calls together.
    pub in_flight_bytes_max: usize,
    /// The largest headers of a call, in bytes.
    pub header_bytes_max: u32,
    /// How long a client may take from its connection to the beginning of HTTP/2, TLS included,
    /// in milliseconds.
    pub handshake_ms_max: u64,
    /// How often a silent client is asked whether it is still there, and how long it may take to
    /// answer, in milliseconds.
    pub keepalive_interval_ms: u64,
    /// How long a client may say nothing at all, in milliseconds. More than twice
    /// `server.keepalive_interval_ms`, so that only those go who do not answer.
    pub idle_ms_max: u64,
    /// How old a connection may get before its client is asked to make a new one, in
    /// milliseconds, so that load finds its way to new servers. Up to a tenth more, at random.
    pub connection_age_ms_max: u64,
    /// How long the calls that run on a connection then may take to come to an end before it is
    /// closed, in milliseconds. At least `ocr.call_ms_max`, so that only documents and streams of
    /// this length are cut off.
    pub connection_grace_ms_max: u64,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:50051".into(),
            drain_ms_max: 25_000,
            tls_certificate: PathBuf::new(),
            tls_key: PathBuf::new(),
            tls_client_ca: PathBuf::new(),
            connections_max: 4_096,
            streams_max: 256,
            in_flight_bytes_max: 512 << 20,
            header_bytes_max: 16 << 10,
            handshake_ms_max: 10_000,
            keepalive_interval_ms: 30_000,
            idle_ms_max: 75_000,
            connection_age_ms_max: 3_600_000,
            connection_grace_ms_max: 3_600_000,
        }
    }
}

/// Who may call.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Auth {
    /// The callers and what each may do, a TOML file that `img2text token new` writes entries
    /// for; empty: everybody may do everything. Read again when it changes.
    pub callers: PathBuf,
    /// Whether reflection, which describes the contract and nothing else, needs no token.
    pub reflection_open: bool,
    /// How many calls a second one caller may make; 0: as many as it likes.
    pub requests_per_second_max: u32,
}

impl Default for Auth {
    fn default() -> Self {
        Self { callers: PathBuf::new(), reflection_open: true, requests_per_second_max: 0 }
    }
}

/// Where the accounts are kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Redis {
    /// The Redis to use: `redis://`, `redis-cluster://`, `redis-sentinel://`, each with TLS as
    /// `rediss`, or `redis+unix://`. Empty: the server runs a private one of its own on
    /// `redis.data_dir`.
    pub url: String,
    /// The authorities that vouch for a Redis with TLS (`rediss://` and its like), a PEM file;
    /// empty: those that the system trusts.
    pub tls_ca_file: PathBuf,
    /// Where the private Redis keeps its data.
    pub data_dir: PathBuf,
    /// How long the private Redis may take to come up, in milliseconds. It reads all of its data
    /// first.
    pub start_ms_max: u64,
    /// How long one command may take before it counts as unanswered, in milliseconds.
    pub command_timeout_ms: u64,
    /// How long a connection may take to come up, in milliseconds.
    pub connect_timeout_ms: u64,
    /// How many commands may wait for their answer at once, in all.
    pub commands_in_flight_max: usize,
    /// What to do about a Redis that can lose what it acknowledged, or does not let us see whether
    /// it can: `warn` in the log, or be `strict` and refuse to start and to serve.
    pub durability: Durability,
    /// How often Redis is asked what it does with what it acknowledges, in milliseconds.
    pub durability_check_interval_ms: u64,
}

/// What to do about a Redis that can lose what it acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// Say so, loudly, and serve.
    #[default]
    Warn,
    /// Refuse to start and to serve.
    Strict,
}

impl Default for Redis {
    fn default() -> Self {
        Self {
            url: String::new(),
            tls_ca_file: PathBuf::new(),
            data_dir: "img2text-data".into(),
            start_ms_max: 120_000,
            command_timeout_ms: 2_000,
            connect_timeout_ms: 2_000,
            commands_in_flight_max: 10_000,
            durability: Durability::Warn,
            durability_check_interval_ms: 60_000,
        }
    }
}

/// The rules of the account.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Quota {
    /// The plan catalog, a TOML file; empty: the built-in one, the same as `deploy/plans.toml`.
    /// All servers on one Redis must have the same.
    pub catalog: PathBuf,
    /// How long a hold lasts if the caller does not say, in milliseconds.
    pub hold_ttl_ms_default: u64,
    /// The longest hold that a caller may ask for, in milliseconds.
    pub hold_ttl_ms_max: u64,
    /// How many holds a user may have open at once.
    pub holds_open_max: u32,
    /// How long a settled reservation is remembered, in milliseconds, so that settling it again
    /// gets the first answer.
    pub settled_reservation_ttl_ms: u64,
    /// How many settled reservations are remembered for a user at the same time; a user who has as
    /// many makes no new ones until some are forgotten, at the latest after twice
    /// `quota.settled_reservation_ttl_ms`. Each takes about 110 bytes of Redis's memory.
    pub settled_reservations_max: u32,
    /// How many entries a user's history holds; older ones become monthly totals.
    pub history_entries_max: u32,
    /// How many payments are remembered for a user. They are remembered as long as the account
    /// exists, so this is how many there can ever be.
    pub payments_max: u32,
    /// How long the answer of a recognition is stored, in milliseconds, so that the same request
    /// is answered again without charge; it is deleted at the latest after twice that time. It is
    /// a user's text, so the time is short. 0: answers are not stored.
    pub answer_ttl_ms: u64,
    /// The largest answer that is stored, compressed, in bytes.
    pub answer_bytes_max: usize,
    /// How many bytes of answers are stored for a user within `quota.answer_ttl_ms`.
    pub answers_bytes_max: usize,
    /// From which share of the requests on an account are used its replies say `near_limit`, in
    /// percent.
    pub near_limit_percent: u32,
}

impl Default for Quota {
    fn default() -> Self {
        Self {
            catalog: PathBuf::new(),
            hold_ttl_ms_default: 60_000,
            hold_ttl_ms_max: 3_600_000,
            holds_open_max: 1_000,
            settled_reservation_ttl_ms: 86_400_000,
            settled_reservations_max: 100_000,
            history_entries_max: 1_000,
            payments_max: 10_000,
            answer_ttl_ms: 600_000,
            answer_bytes_max: 256 << 10,
            answers_bytes_max: 4 << 20,
            near_limit_percent: 80,
        }
    }
}

/// The recogniser and its limits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Ocr {
    /// How many worker processes recognise at the same time; 0: one per core.
    pub workers: usize,
    /// The languages to expect where a request names none.
    pub languages_default: Vec<String>,
    /// Where Tesseract's language data are; empty: where Tesseract looks by itself.
    pub tessdata_dir: PathBuf,
    /// The largest encoded picture, in bytes.
    pub image_bytes_max: usize,
    /// The largest picture, width times height.
    pub image_pixels_max: u64,
    /// The longest side of a picture, in pixels: at most 32,000, which is what Tesseract can take.
    pub image_side_pixels_max: u32,
    /// How many calls may wait for a worker.
    pub queue_max: usize,
    /// The longest time one page may take in a worker, in milliseconds, whatever the caller's
    /// deadline.
    pub page_ms_max: u64,
    /// The longest time a call may take from its arrival to its answer, in milliseconds, whatever
    /// the caller's deadline.
    pub call_ms_max: u64,
    /// How much address space a worker may take, in bytes.
    pub worker_memory_bytes_max: u64,
    /// How much memory a worker may still hold after a page before it is replaced, in bytes.
    pub worker_resident_bytes_max: u64,
    /// Whether workers are shut in: no network, no files but the language data, few system calls.
    pub worker_isolation: bool,
    /// After how many pages a worker is replaced.
    pub worker_pages_max: u64,
    /// How many bytes of files may wait or be worked on, in all.
    pub in_flight_bytes_max: usize,
    /// Which share of `ocr.queue_max` and of `ocr.in_flight_bytes_max` one caller may take, in
    /// percent, so that one who comes with everything at once leaves room for the others. A caller
    /// is who shows a token or a certificate; where nobody has to, the user. All documents and
    /// streams together may take as much, since they wait where other calls are refused.
    pub caller_share_percent: u64,
    /// How many pictures of one streaming call may wait or be worked on at once.
    pub stream_in_flight_max: usize,
    /// How many pages of a document one call may ask for. A longer one is read in parts, by its
    /// first and last page.
    pub document_pages_max: u32,
    /// How many bytes of language data a worker keeps in warm engines, one for each set of
    /// languages: those that were not used for longest make room. An engine takes two to four times
    /// as much memory as its data have bytes, measured with English and Russian.
    pub engines_data_bytes_max: u64,
    /// The largest reply to Recognize, in bytes; clients refuse 4 MiB unless told otherwise.
    pub reply_bytes_max: usize,
    /// The largest page in all formats that were asked for, in bytes. RecognizeDocument sends it in
    /// pieces, but it is made as a whole.
    pub page_outputs_bytes_max: usize,
}

impl Default for Ocr {
    fn default() -> Self {
        Self {
            workers: 0,
            languages_default: vec!["eng".into(), "rus".into()],
            tessdata_dir: PathBuf::new(),
            image_bytes_max: 20 << 20,
            image_pixels_max: 100_000_000,
            image_side_pixels_max: SIDE_PIXELS_MAX,
            queue_max: 64,
            page_ms_max: 60_000,
            call_ms_max: 120_000,
            worker_memory_bytes_max: 3 << 30,
            worker_resident_bytes_max: 1 << 30,
            worker_isolation: true,
            worker_pages_max: 5_000,
            in_flight_bytes_max: 256 << 20,
            caller_share_percent: 50,
            stream_in_flight_max: 8,
            document_pages_max: 1_000,
            engines_data_bytes_max: 64 << 20,
            reply_bytes_max: 3 << 20,
            page_outputs_bytes_max: 64 << 20,
        }
    }
}

/// What the server says about itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Telemetry {
    /// Which events are logged, as `tracing_subscriber`'s EnvFilter reads it.
    pub log_filter: String,
    /// `text` for people or `json` for programs.
    pub log_format: LogFormat,
    /// Whether the log shows a digest instead of a user's id.
    pub hash_user_ids: bool,
    /// Where `/metrics` (Prometheus), `/livez` and `/readyz` are served over HTTP, as in
    /// 127.0.0.1:9090; empty: nowhere. Nobody has to prove anything there.
    pub http_listen: String,
    /// Where traces go: an OTLP collector for gRPC without TLS, as in http://127.0.0.1:4317; empty:
    /// nowhere.
    pub otlp_endpoint: String,
    /// Which share of the calls is traced, from 0 to 1. Callers have no say in it.
    pub trace_sampling_ratio: f64,
}

impl Default for Telemetry {
    fn default() -> Self {
        Self {
            log_filter: "info".into(),
            log_format: LogFormat::Text,
            hash_user_ids: false,
            http_listen: String::new(),
            otlp_endpoint: String::new(),
            trace_sampling_ratio: 1.0,
        }
    }
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// A line for people.
    #[default]
    Text,
    /// An object a line for programs.
    Json,
}
