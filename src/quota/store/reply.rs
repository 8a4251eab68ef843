//! What the scripts answer: lists of numbers and texts, read from front to back.

use std::collections::VecDeque;

use bytes::Bytes;
use fred::error::Error as RedisError;
use fred::types::Value;
use jiff::Timestamp;

use super::{count_reservations, refusal};
use crate::quota::account::{Buckets, Error, Quota, RequestId, Reservation, ReservationId, UserId};
use crate::redis::is_unavailable;

/// A reply, or a list within it, of which the front is read next.
pub(in crate::quota) struct Reply(VecDeque<Value>);

impl Reply {
    pub(super) fn new(value: Value) -> Result<Self, Error> {
        match value {
            Value::Array(values) => Ok(Self(values.into())),
            other => Err(nonsense("a list", &other)),
        }
    }

    fn next(&mut self) -> Result<Value, Error> {
        self.0.pop_front().ok_or_else(|| Error::Internal("a script answered too little".into()))
    }

    pub(in crate::quota) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn lists(self) -> Result<Vec<Self>, Error> {
        self.0.into_iter().map(Self::new).collect()
    }

    pub(in crate::quota) fn texts(mut self) -> Result<Vec<String>, Error> {
        (0..self.0.len()).map(|_| self.text()).collect()
    }

    /// Fields and values that follow each other.
    pub(in crate::quota) fn pairs(mut self) -> Result<Vec<(String, String)>, Error> {
        (0..self.0.len() / 2).map(|_| Ok((self.text()?, self.text()?))).collect()
    }

    pub(in crate::quota) fn byte_pairs(mut self) -> Result<Vec<(String, Vec<u8>)>, Error> {
        (0..self.0.len() / 2).map(|_| Ok((self.text()?, self.bytes()?.into()))).collect()
    }

    pub(in crate::quota) fn list(&mut self) -> Result<Self, Error> {
        Self::new(self.next()?)
    }

    pub(super) fn integer(&mut self) -> Result<i64, Error> {
        let value = self.next()?;
        value.as_i64().ok_or_else(|| nonsense("a number", &value))
    }

    pub(in crate::quota) fn count(&mut self) -> Result<u64, Error> {
        let value = self.next()?;
        value.as_u64().ok_or_else(|| nonsense("a count", &value))
    }

    pub(super) fn text(&mut self) -> Result<String, Error> {
        let value = self.next()?;
        value.as_string().ok_or_else(|| nonsense("a text", &value))
    }

    pub(super) fn bytes(&mut self) -> Result<Bytes, Error> {
        let value = self.next()?;
        value.into_bytes().ok_or_else(|| Error::Internal("a script answered no bytes".into()))
    }

    pub(super) fn status(&mut self) -> Result<String, Error> {
        self.text()
    }

    /// Takes the status, which must be this one.
    pub(super) fn accept(&mut self, expected: &str) -> Result<&mut Self, Error> {
        let status = self.status()?;
        if status == expected { Ok(self) } else { Err(self.refused(&status)) }
    }

    /// Takes the status of a step that is done, now or before.
    pub(super) fn replayed(&mut self) -> Result<bool, Error> {
        match self.status()?.as_str() {
            "OK" => Ok(false),
            "REPLAYED" => Ok(true),
            other => Err(self.refused(other)),
        }
    }

    /// Why the step was refused; what the refusal says follows the account.
    fn refused(&mut self, status: &str) -> Error {
        match self.account() {
            Ok(_) => refusal(status, self),
            Err(error) => error,
        }
    }

    pub(super) fn time(&mut self) -> Result<Timestamp, Error> {
        timestamp(self.integer()?)
    }

    pub(super) fn buckets(&mut self) -> Result<Buckets, Error> {
        Ok(Buckets { free: self.count()?, plan: self.count()?, extra: self.count()? })
    }

    pub(super) fn reservation(&mut self) -> Result<Reservation, Error> {
        let id = ReservationId::parse(self.text()?)
            .map_err(|_| Error::Internal("a reservation without a valid id".into()))?;
        Ok(Reservation {
            id,
            held: self.buckets()?,
            created: self.time()?,
            expires: self.time()?,
            actor: self.text()?,
            request: RequestId::parse(self.text()?).ok(),
        })
    }

    /// Takes the account as the step left it. Before it stands how many of its holds the step found
    /// expired, which is counted here.
    pub(super) fn account(&mut self) -> Result<Self, Error> {
        let mut account = self.list()?;
        let expired = account.count()?;
        if expired > 0 {
            count_reservations("expired", expired);
        }
        Ok(account)
    }

    pub(super) fn quota(mut self, user: UserId, near_limit_percent: u32) -> Result<Quota, Error> {
        let plan = self.text()?;
        let plan_cancelled = self.integer()? == 1;
        let next_reset = timestamp(self.integer()? * 1000)?;
        let allotted = self.count()?;
        let available = self.buckets()?;
        let left_percent = 100 - u64::from(near_limit_percent.min(100));
        Ok(Quota {
            user,
            plan,
            plan_cancelled,
            available,
            held: self.buckets()?,
            granted: self.buckets()?,
            spent: self.buckets()?,
            lapsed: self.buckets()?,
            allotted,
            near_limit: allotted > 0 && available.total() * 100 <= allotted * left_percent,
            next_reset,
        })
    }
}

fn timestamp(unix_ms: i64) -> Result<Timestamp, Error> {
    Timestamp::from_millisecond(unix_ms).map_err(|error| Error::Internal(error.to_string()))
}

fn nonsense(expected: &str, found: &Value) -> Error {
    // Not the value: it may be a user's text.
    Error::Internal(format!("a script answered {} for {expected}", found.kind()))
}

/// What a failed call means. Whatever says that Redis cannot serve us now is never mistaken for
/// an answer about quota.
pub(super) fn failure(error: RedisError) -> Error {
    let details = error.details();
    if let Some(what) = details.strip_prefix("ACCOUNT_CORRUPT ") {
        return Error::AccountCorrupt { what: without_trace(what).into() };
    }
    if details.starts_with("ACCOUNT_DELETED") {
        return Error::AccountDeleted;
    }
    if is_unavailable(&error) { Error::Unavailable(error) } else { Error::Internal(details.into()) }
}

/// Redis appends where in the script it happened.
fn without_trace(message: &str) -> &str {
    message.split(" script: ").next().unwrap_or(message).trim()
}
