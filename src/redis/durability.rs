//! What Redis really does with what it acknowledges, read from Redis itself.
//!
//! Settings on paper do not survive a power cut; so every node that holds accounts is asked for
//! what it does and what it last managed to do.

use std::collections::HashMap;
use std::fmt;

use fred::clients::Client;
use fred::interfaces::{ClientLike, ClusterInterface};
use fred::types::config::Server;
use fred::types::{ClusterHash, CustomCommand, Value};

/// How safe something is, worst last, so that the greatest is the verdict on all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// What was acknowledged is not lost.
    Durable,
    /// It may not be read, so nobody knows.
    Unknown,
    /// What was acknowledged can be lost.
    AtRisk,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Durable => "durable",
            Self::Unknown => "unknown",
            Self::AtRisk => "at risk",
        })
    }
}

/// One thing that was looked at, on one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The node's address; empty if there is only one.
    pub node: String,
    /// What was looked at, as Redis calls it where it has a name there.
    pub check: &'static str,
    /// How safe it is.
    pub verdict: Verdict,
    /// What was found, and what to do about it.
    pub sentence: String,
}

/// All that was looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Every finding, node by node.
    pub findings: Vec<Finding>,
}

impl Report {
    /// The verdict on everything: that of the worst finding.
    pub fn verdict(&self) -> Verdict {
        self.findings.iter().map(|finding| finding.verdict).max().unwrap_or(Verdict::Unknown)
    }

    /// The findings that are not as they should be.
    pub fn troubles(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(|finding| finding.verdict != Verdict::Durable)
    }
}

/// Looks at every node that holds accounts.
pub async fn check(client: &Client) -> Result<Report, fred::error::Error> {
    let mut report = Report::default();
    for node in nodes(client)? {
        let facts =
            Facts { info: info(client, &node).await?, config: config(client, &node).await? };
        let name = node.map(|node| node.to_string()).unwrap_or_default();
        let judged = facts.judge().into_iter();
        report.findings.extend(judged.map(|(check, verdict, sentence)| Finding {
            node: name.clone(),
            check,
            verdict,
            sentence,
        }));
    }
    Ok(report)
}

/// Every primary of a Cluster; otherwise the one Redis there is.
pub(super) fn nodes(client: &Client) -> Result<Vec<Option<Server>>, fred::error::Error> {
    if !client.is_clustered() {
        return Ok(vec![None]);
    }
    let state = client.cached_cluster_state();
    let nodes = state.map(|state| state.unique_primary_nodes()).unwrap_or_default();
    if nodes.is_empty() {
        let kind = fred::error::ErrorKind::Cluster;
        return Err(fred::error::Error::new(kind, "no node of the cluster is known"));
    }
    Ok(nodes.into_iter().map(Some).collect())
}

/// Asks one node.
pub(super) async fn ask(
    client: &Client,
    node: &Option<Server>,
    command: &'static str,
    arguments: Vec<Value>,
) -> Result<Value, fred::error::Error> {
    let command = CustomCommand::new_static(command, ClusterHash::Random, false);
    match node {
        Some(node) => client.with_cluster_node(node).custom(command, arguments).await,
        None => client.custom(command, arguments).await,
    }
}

/// What a node says of itself; nothing where that may not be read.
async fn info(
    client: &Client,
    node: &Option<Server>,
) -> Result<HashMap<String, String>, fred::error::Error> {
    match ask(client, node, "INFO", vec![]).await {
        Ok(value) => Ok(text_fields(value)),
        Err(error) if super::is_unavailable(&error) => Err(error),
        Err(_) => Ok(HashMap::new()),
    }
}

/// The settings of a node; nothing where they may not be read.
async fn config(
    client: &Client,
    node: &Option<Server>,
) -> Result<Option<HashMap<String, String>>, fred::error::Error> {
    match ask(client, node, "CONFIG", vec!["GET".into(), "*".into()]).await {
        Ok(value) => Ok(value.convert().ok()),
        Err(error) if super::is_unavailable(&error) => Err(error),
        // Forbidden by an ACL, or renamed away: not a failure, but not known either.
        Err(_) => Ok(None),
    }
}

fn text_fields(info: Value) -> HashMap<String, String> {
    let text: String = info.convert().unwrap_or_default();
    let fields = text.lines().filter_map(|line| line.split_once(':'));
    fields.map(|(name, value)| (name.to_string(), value.trim().to_string())).collect()
}

type Judged = (&'static str, Verdict, String);

/// What a node says of itself.
struct Facts {
    info: HashMap<String, String>,
    config: Option<HashMap<String, String>>,
}

impl Facts {
    fn judge(&self) -> Vec<Judged> {
        let mut judged = vec![self.version(), self.role(), self.append_only_file()];
        judged.extend(self.settings());
        judged.extend([
            self.last_outcome("aof_last_write_status", "the last write to the append-only file"),
            self.last_outcome(
                "aof_last_bgrewrite_status",
                "the last rewrite of the append-only file",
            ),
            self.last_outcome("rdb_last_bgsave_status", "the last snapshot"),
            self.snapshot_time(),
            self.memory(),
            self.replicas(),
        ]);
        judged
    }

    fn info(&self, field: &str) -> Option<&str> {
        self.info.get(field).map(String::as_str)
    }

    fn number(&self, field: &str) -> Option<u64> {
        self.info(field)?.parse().ok()
    }

    /// Valkey says here which Redis it is like.
    fn version(&self) -> Judged {
        const CHECK: &str = "redis_version";
        let Some(version) = self.info(CHECK) else {
            return (CHECK, Verdict::Unknown, "INFO does not say".into());
        };
        match version.split('.').next().unwrap_or_default().parse() {
            Ok(7u32..) => (CHECK, Verdict::Durable, format!("is {version}")),
            Ok(_) => (
                CHECK,
                Verdict::AtRisk,
                format!("is {version}: every step on an account is refused. Run 7.0 or later"),
            ),
            Err(_) => (CHECK, Verdict::Unknown, format!("is {version:?}")),
        }
    }

    /// A replica answers what it is asked, and refuses every change.
    fn role(&self) -> Judged {
        const CHECK: &str = "role";
        match self.info(CHECK) {
            Some("master") => (CHECK, Verdict::Durable, "is a primary".into()),
            Some(role) => (
                CHECK,
                Verdict::AtRisk,
                format!("is {role}: it takes no changes. Name its primary in redis.url"),
            ),
            None => (CHECK, Verdict::Unknown, "INFO does not say".into()),
        }
    }

    fn append_only_file(&self) -> Judged {
        match self.info("aof_enabled") {
            Some("1") => {
                ("appendonly", Verdict::Durable, "every change is written to a file".into())
            }
            Some(_) => (
                "appendonly",
                Verdict::AtRisk,
                "there is no append-only file: a restart loses everything since the last \
                 snapshot. CONFIG SET appendonly yes, and in redis.conf"
                    .into(),
            ),
            None => ("appendonly", Verdict::Unknown, "INFO does not say".into()),
        }
    }

    /// The settings on which it depends what a power cut takes.
    fn settings(&self) -> Vec<Judged> {
        let expected: [(&'static str, &str, &str); 4] = [
            (
                "appendfsync",
                "always",
                "up to the last second of acknowledged changes is lost with the power",
            ),
            (
                "no-appendfsync-on-rewrite",
                "no",
                "while the file is rewritten, acknowledged changes are not on the disk",
            ),
            (
                "stop-writes-on-bgsave-error",
                "yes",
                "Redis goes on taking writes when its disk fails",
            ),
            ("maxmemory-policy", "noeviction", "accounts are thrown away when the memory is full"),
        ];
        let mut judged: Vec<Judged> = expected
            .into_iter()
            .map(|(name, right, otherwise)| match self.setting(name) {
                None => (name, Verdict::Unknown, "CONFIG may not be read".into()),
                Some(found) if found == right => (name, Verdict::Durable, format!("is {found}")),
                Some(found) => (
                    name,
                    Verdict::AtRisk,
                    format!(
                        "is {found}: {otherwise}. CONFIG SET {name} {right}, and in redis.conf"
                    ),
                ),
            })
            .collect();
        judged.push(match self.setting("aof-load-truncated") {
            None => ("aof-load-truncated", Verdict::Unknown, "CONFIG may not be read".into()),
            // Either is safe: what is torn off was never acknowledged.
            Some("yes") => (
                "aof-load-truncated",
                Verdict::Durable,
                "is yes: after a power cut Redis starts without the torn, unacknowledged end"
                    .into(),
            ),
            Some(found) => (
                "aof-load-truncated",
                Verdict::Durable,
                format!("is {found}: after a power cut Redis waits for redis-check-aof --fix"),
            ),
        });
        judged
    }

    fn setting(&self, name: &str) -> Option<&str> {
        self.config.as_ref()?.get(name).map(String::as_str)
    }

    fn last_outcome(&self, field: &'static str, what: &str) -> Judged {
        match self.info(field) {
            Some("ok") => (field, Verdict::Durable, format!("{what} went well")),
            Some(status) => (
                field,
                Verdict::AtRisk,
                format!("{what} failed ({status}): look at Redis's log and at its disk"),
            ),
            None => (field, Verdict::Unknown, "INFO does not say".into()),
        }
    }

    /// A snapshot makes a restart quick and is what a copy of the disk has; with an append-only
    /// file nothing depends on its age.
    fn snapshot_time(&self) -> Judged {
        let (Some(saved), Some(changes)) =
            (self.number("rdb_last_save_time"), self.number("rdb_changes_since_last_save"))
        else {
            return ("rdb_last_save_time", Verdict::Unknown, "INFO does not say".into());
        };
        let time = jiff::Timestamp::from_second(saved as i64).unwrap_or_default();
        let sentence = format!("the last snapshot is of {time}; {changes} changes came since");
        ("rdb_last_save_time", Verdict::Durable, sentence)
    }

    fn memory(&self) -> Judged {
        let (Some(used), Some(max)) = (self.number("used_memory"), self.number("maxmemory")) else {
            return ("maxmemory", Verdict::Unknown, "INFO does not say".into());
        };
        if max == 0 {
            return ("maxmemory", Verdict::Durable, "there is no bound but the machine's".into());
        }
        let percent = used.saturating_mul(100) / max;
        let sentence = format!("{percent} % of the memory allowed are used");
        if percent < 90 {
            ("maxmemory", Verdict::Durable, sentence)
        } else {
            // Nothing is lost; but purchases are about to be refused.
            let sentence =
                format!("{sentence}: when it is full, changes are refused. Raise maxmemory");
            ("maxmemory", Verdict::AtRisk, sentence)
        }
    }

    fn replicas(&self) -> Judged {
        match self.number("connected_slaves") {
            None => ("replicas", Verdict::Unknown, "INFO does not say".into()),
            Some(0) => {
                ("replicas", Verdict::Durable, "there is none that could be promoted".into())
            }
            Some(count) => (
                "replicas",
                Verdict::AtRisk,
                format!(
                    "{count} could be promoted without the latest acknowledged changes, as \
                     replication is asynchronous: a failover can lose them"
                ),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(change: (&str, &str)) -> Facts {
        let pairs = |text: &str| {
            let pairs = text.split_whitespace().map(|pair| pair.split_once('=').unwrap());
            pairs.map(|(name, value)| (name.to_string(), value.to_string())).collect()
        };
        let mut info: HashMap<_, _> = pairs(
            "redis_version=7.0.15 role=master aof_enabled=1 aof_last_write_status=ok aof_last_bgrewrite_status=ok \
             rdb_last_bgsave_status=ok rdb_last_save_time=1 rdb_changes_since_last_save=0 \
             used_memory=10 maxmemory=100 connected_slaves=0",
        );
        let mut config: HashMap<_, _> = pairs(
            "appendfsync=always no-appendfsync-on-rewrite=no stop-writes-on-bgsave-error=yes \
             maxmemory-policy=noeviction aof-load-truncated=yes",
        );
        let (name, value) = change;
        if info.contains_key(name) { &mut info } else { &mut config }
            .insert(name.into(), value.into());
        Facts { info, config: Some(config) }
    }

    fn verdict(facts: &Facts) -> Verdict {
        facts.judge().into_iter().map(|(_, verdict, _)| verdict).max().unwrap()
    }

    #[test]
    fn each_way_to_lose_something_is_found() {
        assert_eq!(verdict(&facts(("used_memory", "11"))), Verdict::Durable);
        for change in [
            ("redis_version", "6.2.14"),
            ("role", "slave"),
            ("aof_enabled", "0"),
            ("appendfsync", "everysec"),
            ("appendfsync", "no"),
            ("no-appendfsync-on-rewrite", "yes"),
            ("stop-writes-on-bgsave-error", "no"),
            ("maxmemory-policy", "allkeys-lru"),
            ("aof_last_write_status", "err"),
            ("aof_last_bgrewrite_status", "err"),
            ("rdb_last_bgsave_status", "err"),
            ("used_memory", "95"),
            ("connected_slaves", "1"),
        ] {
            assert_eq!(verdict(&facts(change)), Verdict::AtRisk, "{change:?}");
        }
        let mut unreadable = facts(("used_memory", "11"));
        unreadable.config = None;
        assert_eq!(verdict(&unreadable), Verdict::Unknown);
    }
}
