//! Everything that is kept about a user, as it is stored.

use serde_json::{Map, Value, json};

use super::account::Error;
use super::charge::decompress;
use super::store::reply::Reply;

/// What is stored about a user, key by key, at one instant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// When it was read, in Unix milliseconds.
    pub read_ms: u64,
    /// The hash of the old system.
    pub main: Fields,
    /// Our counters.
    pub account: Fields,
    /// Open holds by reservation id, and the requests that are running.
    pub holds: Fields,
    /// When each hold is over, in Unix milliseconds.
    pub expiries: Fields,
    /// What happened, newest first.
    pub history: Vec<String>,
    /// The monthly totals of what is no longer in the history.
    pub months: Fields,
    /// Purchases and adjustments by payment id.
    pub payments: Fields,
    /// Reservations that were settled lately. Empty in an audit.
    pub settled: Fields,
    /// Answers that can be given again, by request id. Empty in an audit.
    pub answers: Vec<(String, Vec<u8>)>,
}

/// Fields and values, in the order in which Redis has them.
pub type Fields = Vec<(String, String)>;

impl Stored {
    pub(super) fn read(mut reply: Reply) -> Result<Self, Error> {
        let read_ms = reply.count()?;
        let mut keys = reply.list()?;
        let mut stored = Self {
            read_ms,
            main: keys.list()?.pairs()?,
            account: keys.list()?.pairs()?,
            holds: keys.list()?.pairs()?,
            expiries: keys.list()?.pairs()?,
            history: keys.list()?.texts()?,
            months: keys.list()?.pairs()?,
            payments: keys.list()?.pairs()?,
            settled: Fields::new(),
            answers: Vec::new(),
        };
        if !keys.is_empty() {
            stored.settled = keys.list()?.pairs()?;
            stored.settled.extend(keys.list()?.pairs()?);
            stored.answers = keys.list()?.byte_pairs()?;
            stored.answers.extend(keys.list()?.byte_pairs()?);
        }
        Ok(stored)
    }

    /// The whole as a JSON document.
    pub fn to_json(&self) -> Value {
        let answers = self
            .answers
            .iter()
            .filter_map(|(request, value)| Some((request.clone(), json!(answer_text(value)?))));
        json!({
            "read_ms": self.read_ms,
            "main": object(&self.main),
            "account": object(&self.account),
            "holds": object(&self.holds),
            "expiries": object(&self.expiries),
            "history": self.history,
            "months": object(&self.months),
            "payments": object(&self.payments),
            "settled": object(&self.settled),
            "answers": answers.collect::<Map<_, _>>(),
        })
    }
}

fn object(fields: &Fields) -> Value {
    fields.iter().map(|(field, value)| (field.clone(), json!(value))).collect::<Map<_, _>>().into()
}

/// The answer within a stored one, behind fingerprint, time and what was spent; none in the field
/// that counts bytes.
fn answer_text(value: &[u8]) -> Option<String> {
    let answer = value.splitn(6, |byte| *byte == b'|').nth(5)?;
    Some(String::from_utf8_lossy(&decompress(answer).ok()?).into_owned())
}
