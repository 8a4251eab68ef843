//! Who may call what: bearer tokens and client certificates, their scopes, and the users that they
//! may touch.
//!
//! The callers stand in a file that an operator writes (`auth.callers`). It is read again when it
//! changes. A token stands there as its SHA-256 only: a token has 244 random bits, so that nobody
//! can guess one from its digest, and a stolen file opens nothing.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use jiff::Timestamp;
use prost::Message;
use prost_types::FileDescriptorSet;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tonic::Status;

use super::proto::DESCRIPTORS;
use super::status::{self, Reason};
use crate::quota::Actor;

/// What every token begins with, so that tools that look for leaked secrets can know one.
pub const TOKEN_PREFIX: &str = "i2t_";

/// How often the file is looked at.
const RELOAD_INTERVAL: Duration = Duration::from_secs(1);

/// What a caller may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, clap::ValueEnum)]
pub enum Scope {
    /// Have pictures recognised, at the expense of users.
    #[serde(rename = "recognize")]
    #[value(name = "recognize")]
    Recognize,
    /// Read accounts.
    #[serde(rename = "quota.read")]
    #[value(name = "quota.read")]
    QuotaRead,
    /// Reserve, and settle what was reserved.
    #[serde(rename = "quota.spend")]
    #[value(name = "quota.spend")]
    QuotaSpend,
    /// Sell, correct, look over all accounts, delete.
    #[serde(rename = "quota.admin")]
    #[value(name = "quota.admin")]
    QuotaAdmin,
    /// Look at the storage.
    #[serde(rename = "storage")]
    #[value(name = "storage")]
    Storage,
}

impl Scope {
    /// Its name in the file and in errors.
    pub fn name(self) -> &'static str {
        match self {
            Self::Recognize => "recognize",
            Self::QuotaRead => "quota.read",
            Self::QuotaSpend => "quota.spend",
            Self::QuotaAdmin => "quota.admin",
            Self::Storage => "storage",
        }
    }
}

/// What a method asks of its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Nothing: health, which load balancers ask.
    Open,
    /// Nothing or a token, as `auth.reflection_open` says: the contract is no secret.
    Reflection,
    /// A token with this scope.
    Scope(Scope),
    /// Any token: there is no such method, and only those who may come in are told.
    Unknown,
}

impl Access {
    /// What the method at `path` (`/package.Service/Method`) asks. A method of the accounts that
    /// nobody has thought of asks for the most.
    pub fn of(path: &str) -> Self {
        let Some((service, method)) = path.strip_prefix('/').and_then(|path| path.split_once('/'))
        else {
            return Self::Unknown;
        };
        match service {
            "grpc.health.v1.Health" => Self::Open,
            "grpc.reflection.v1.ServerReflection" | "grpc.reflection.v1alpha.ServerReflection" => {
                Self::Reflection
            }
            "img2text.v1.RecognizeService" => Self::Scope(Scope::Recognize),
            "img2text.v1.QuotaService" => Self::Scope(quota_scope(method)),
            "img2text.v1.StorageService" => Self::Scope(Scope::Storage),
            _ => Self::Unknown,
        }
    }
}

fn quota_scope(method: &str) -> Scope {
    match method {
        "GetQuota" | "ListReservations" | "ListPlans" | "ListHistory" | "GetUsage" => {
            Scope::QuotaRead
        }
        "ReserveQuota" | "CommitReservation" | "ReleaseReservation" | "ExtendReservation" => {
            Scope::QuotaSpend
        }
        _ => Scope::QuotaAdmin,
    }
}

/// Methods whose messages have no `user_id` of their own, but name a user inside, or touch none.
const OF_ONE_USER: [&str; 4] = [
    "QuotaService/ListPlans",
    "RecognizeService/ListLanguages",
    "RecognizeService/RecognizeDocument",
    "RecognizeService/RecognizeStream",
];

/// The methods of the contract.
#[derive(Debug)]
pub struct Methods {
    /// The paths of all of them.
    pub all: HashSet<String>,
    /// Those that name the one user whom they touch, or touch none: what a caller that is bound
    /// to some users may call.
    of_one_user: HashSet<String>,
    /// Those that take many messages in one call.
    pub(super) streaming: HashSet<String>,
}

impl Methods {
    /// The methods as the contract describes them.
    pub fn of_the_contract() -> Self {
        let descriptors = FileDescriptorSet::decode(DESCRIPTORS).expect("built by build.rs");
        let (mut all, mut of_one_user) = (HashSet::new(), HashSet::new());
        let mut streaming = HashSet::new();
        let messages: HashSet<String> = descriptors
            .file
            .iter()
            .flat_map(|file| file.message_type.iter().map(move |message| (file, message)))
            .filter(|(_, message)| {
                message.field.iter().any(|f| f.name() == "user_id" && !f.proto3_optional())
            })
            .map(|(file, message)| format!(".{}.{}", file.package(), message.name()))
            .collect();
        for file in &descriptors.file {
            for service in &file.service {
                for method in &service.method {
                    let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                    let name = format!("{}/{}", service.name(), method.name());
                    if messages.contains(method.input_type())
                        || OF_ONE_USER.contains(&name.as_str())
                    {
                        of_one_user.insert(path.clone());
                    }
                    if method.client_streaming() {
                        streaming.insert(path.clone());
                    }
                    all.insert(path);
                }
            }
        }
        Self { all, of_one_user, streaming }
    }
}

/// A caller that has proved who it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Its name: what the history and the log call it.
    pub name: Actor,
    scopes: Vec<Scope>,
    user_id_prefix: String,
}

impl Caller {
    /// Whether it may touch the account of this user.
    pub fn may_touch(&self, user: &str) -> bool {
        user.starts_with(&self.user_id_prefix)
    }

    fn may_call(&self, path: &str, access: Access, methods: &Methods) -> bool {
        match access {
            Access::Scope(scope) => {
                self.scopes.contains(&scope)
                    && (self.user_id_prefix.is_empty() || methods.of_one_user.contains(path))
            }
            Access::Open | Access::Reflection | Access::Unknown => true,
        }
    }
}

/// Why the file of callers cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{}: {message}", path.display())]
pub struct Error {
    path: PathBuf,
    message: String,
}

/// The file of callers.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default, rename = "caller")]
    callers: Vec<Entry>,
}

/// One caller as it stands in the file.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// A name for the log and the history of accounts, unique in the file.
    pub name: String,
    /// The SHA-256 of its token, in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_sha256: Option<String>,
    /// Instead of a token: the DNS name or URI in the SAN of its certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_name: Option<String>,
    /// What it may do.
    pub scopes: Vec<Scope>,
    /// What the ids of the users begin with whom it may touch; empty: all users.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub user_id_prefix: String,
    /// When it ends to be a caller (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<String>,
}

/// A new token, and its entry in the file.
pub fn new_token(
    name: &str,
    scopes: Vec<Scope>,
    user_id_prefix: String,
    expires: Option<Timestamp>,
) -> (String, Entry) {
    // Each has 122 bits from the system's source of randomness.
    let random = [uuid::Uuid::new_v4(), uuid::Uuid::new_v4()];
    let token = format!("{TOKEN_PREFIX}{}{}", random[0].simple(), random[1].simple());
    let entry = Entry {
        name: name.into(),
        token_sha256: Some(hexadecimal(&digest(&token))),
        certificate_name: None,
        scopes,
        user_id_prefix,
        expires: expires.map(|time| time.to_string()),
    };
    (token, entry)
}

/// Appends an entry to a file of callers, if the file is right with it.
pub fn append(path: &Path, entry: &Entry) -> Result<(), Error> {
    let error = |message: String| Error { path: path.into(), message };
    let before = match std::fs::read_to_string(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
        read => read.map_err(|e| error(format!("cannot be read: {e}")))?,
    };
    let gap = if before.is_empty() { "" } else { "\n" };
    let after = format!("{before}{gap}{}", entry.to_toml());
    Callers::parse(&after).map_err(error)?;
    std::fs::write(path, after).map_err(|e| error(format!("cannot be written: {e}")))
}

impl Entry {
    /// The entry as it stands in the file.
    pub fn to_toml(&self) -> String {
        let table = toml::to_string(self).expect("an entry is a table of plain values");
        format!("[[caller]]\n{table}")
    }
}

#[derive(Debug)]
enum Credential {
    Token([u8; 32]),
    Certificate(String),
}

#[derive(Debug)]
struct Known {
    credential: Credential,
    expires: Option<Timestamp>,
    caller: Arc<Caller>,
}

/// All callers of the file.
#[derive(Debug, Default)]
struct Callers(Vec<Known>);

impl Callers {
    fn parse(text: &str) -> Result<Self, String> {
        let file: File = toml::from_str(text).map_err(|error| error.to_string())?;
        let mut names = HashSet::new();
        let mut callers = Vec::new();
        for entry in file.callers {
            if !names.insert(entry.name.clone()) {
                return Err(format!("two callers are named {}", entry.name));
            }
            let name = entry.name.clone();
            callers.push(Known::new(entry).map_err(|what| format!("caller {name}: {what}"))?);
        }
        Ok(Self(callers))
    }

    /// Looks at every caller, whichever it is, so that the time says nothing.
    fn by_token(&self, token: &str) -> Option<&Known> {
        let digest = digest(token);
        let mut found = None;
        for known in &self.0 {
            if let Credential::Token(expected) = &known.credential
                && bool::from(expected.ct_eq(&digest))
            {
                found = Some(known);
            }
        }
        found
    }

    fn by_certificate(&self, names: &[String]) -> Option<&Known> {
        self.0.iter().find(|known| match &known.credential {
            Credential::Certificate(name) => names.contains(name),
            Credential::Token(_) => false,
        })
    }
}

impl Known {
    fn new(entry: Entry) -> Result<Self, String> {
        let credential = match (entry.token_sha256, entry.certificate_name) {
            (Some(hex), None) => Credential::Token(
                from_hexadecimal(&hex).ok_or("token_sha256 is not 64 hexadecimal digits")?,
            ),
            (None, Some(name)) if !name.is_empty() => Credential::Certificate(name),
            _ => return Err("give either token_sha256 or certificate_name".into()),
        };
        let expires = entry.expires.map(|text| text.parse::<Timestamp>()).transpose();
        let expires = expires.map_err(|_| "expires is not a time as in 2027-01-31T00:00:00Z")?;
        let name = Actor::parse(entry.name).map_err(|error| format!("its name {error}"))?;
        let caller = Caller { name, scopes: entry.scopes, user_id_prefix: entry.user_id_prefix };
        Ok(Self { credential, expires, caller: Arc::new(caller) })
    }
}

/// The one who decides who may call what.
#[derive(Debug)]
pub struct Auth {
    /// Absent: nobody has to prove anything, as on a loopback address.
    callers: Option<ArcSwap<Callers>>,
    reflection_open: bool,
    methods: Methods,
}

impl Auth {
    /// Reads the file of callers; with an empty path everybody may call everything.
    pub fn load(path: &Path, reflection_open: bool) -> Result<Self, Error> {
        let callers = match path.as_os_str().is_empty() {
            true => None,
            false => Some(ArcSwap::from_pointee(read(path)?)),
        };
        Ok(Self { callers, reflection_open, methods: Methods::of_the_contract() })
    }

    /// The methods of the contract.
    pub fn methods(&self) -> &Methods {
        &self.methods
    }

    /// Reads the file again whenever it has changed. A file that is wrong changes nothing, so that
    /// a slip of the pen locks nobody out.
    pub async fn watch(self: Arc<Self>, path: PathBuf) {
        let Some(callers) = &self.callers else { return };
        let mut before = std::fs::read(&path).ok();
        loop {
            tokio::time::sleep(RELOAD_INTERVAL).await;
            let now = tokio::fs::read(&path).await.ok();
            if now == before {
                continue;
            }
            before = now;
            match read(&path) {
                Ok(read) => {
                    tracing::info!(callers = read.0.len(), "the callers were read again");
                    callers.store(Arc::new(read));
                }
                Err(error) => {
                    tracing::error!(%error, "the callers cannot be read: those from before stay");
                }
            }
        }
    }

    /// Who calls, if that one may call this method.
    pub fn admit(
        &self,
        path: &str,
        headers: &HeaderMap,
        certificate_names: &[String],
    ) -> Result<Option<Arc<Caller>>, Status> {
        let access = Access::of(path);
        let Some(callers) = &self.callers else { return Ok(None) };
        if access == Access::Open || (access == Access::Reflection && self.reflection_open) {
            return Ok(None);
        }
        let callers = callers.load();
        let known = match headers.get(AUTHORIZATION) {
            Some(value) => callers.by_token(bearer(value.as_bytes()).unwrap_or_default()),
            None => callers.by_certificate(certificate_names),
        };
        // Unknown and expired look the same from outside: nobody learns that a token was right.
        let known = known.filter(|known| known.expires.is_none_or(|end| Timestamp::now() < end));
        let Some(known) = known else {
            return Err(status::plain(
                Reason::Unauthenticated,
                "say who you are: a valid token as `authorization: Bearer ...`, or a client \
                 certificate that this server knows",
            ));
        };
        if !known.caller.may_call(path, access, &self.methods) {
            let what = match access {
                Access::Scope(scope) if !known.caller.scopes.contains(&scope) => {
                    format!("this method needs the scope {}", scope.name())
                }
                _ => "this method is not for callers that are bound to some users".into(),
            };
            return Err(status::plain(Reason::PermissionDenied, what));
        }
        Ok(Some(Arc::clone(&known.caller)))
    }
}

fn read(path: &Path) -> Result<Callers, Error> {
    let error = |message| Error { path: path.into(), message };
    let text = std::fs::read_to_string(path).map_err(|e| error(format!("cannot be read: {e}")))?;
    Callers::parse(&text).map_err(error)
}

fn bearer(value: &[u8]) -> Option<&str> {
    let (scheme, token) = std::str::from_utf8(value).ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

/// Bytes in hexadecimal.
pub(super) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hexadecimal(text: &str) -> Option<[u8; 32]> {
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    let mut bytes = [0; 32];
    for (byte, at) in bytes.iter_mut().zip((0..64).step_by(2)) {
        *byte = u8::from_str_radix(&text[at..at + 2], 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_known_by_its_digest_only() {
        let (token, entry) = new_token("bot", vec![Scope::Recognize], "tg:".into(), None);
        let text = entry.to_toml();
        assert!(!text.contains(&token), "{text}");
        let callers = Callers::parse(&text).unwrap();
        let known = callers.by_token(&token).expect("its own token");
        assert!(known.caller.may_touch("tg:42") && !known.caller.may_touch("42"));
        assert!(callers.by_token(&token[..token.len() - 1]).is_none());
        assert!(callers.by_token("").is_none());
    }

    #[test]
    fn a_wrong_file_says_what_is_wrong() {
        let wrong = |text: &str| Callers::parse(text).unwrap_err();
        let digest = "0".repeat(64);
        let entry = |rest: &str| format!("[[caller]]\nname = \"a\"\nscopes = []\n{rest}\n");
        assert!(wrong(&entry("")).contains("caller a: give either"));
        assert!(wrong(&entry("token_sha256 = \"12\"")).contains("64 hexadecimal"));
        assert!(wrong(&entry("colour = 1")).contains("colour"));
        let good = entry(&format!("token_sha256 = \"{digest}\""));
        assert!(wrong(&format!("{good}{good}")).contains("two callers"));
        assert!(wrong(&format!("{good}expires = \"soon\"")).contains("expires"));
    }

    #[test]
    fn what_nobody_has_thought_of_asks_for_the_most() {
        let path = "/img2text.v1.QuotaService/GiveAwayEverything";
        assert_eq!(Access::of(path), Access::Scope(Scope::QuotaAdmin));
        assert_eq!(Access::of("/elsewhere.Service/Method"), Access::Unknown);
        assert_eq!(Access::of("nonsense"), Access::Unknown);
    }

    #[test]
    fn a_caller_of_some_users_may_not_look_over_all() {
        let methods = Methods::of_the_contract();
        let may = |name: &str| methods.of_one_user.contains(&format!("/img2text.v1.{name}"));
        assert!(may("QuotaService/GetQuota") && may("RecognizeService/Recognize"));
        assert!(may("RecognizeService/RecognizeDocument") && may("QuotaService/ListPlans"));
        assert!(!may("QuotaService/ListUsers") && !may("QuotaService/GetStatistics"));
        assert!(!may("QuotaService/AuditAccounts") && !may("StorageService/GetStorageStatus"));
    }
}
