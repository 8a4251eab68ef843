//! The checking of a request's fields: all of them, so that a caller need not mend one at a time.

use tonic::Status;
use tonic_types::FieldViolation;

use super::call;
use super::status::{self, Reason};
use crate::quota::account::AMOUNT_MAX;
use crate::quota::{InvalidId, UserId};

/// What is wrong with which field of a request: all of it, not only the first.
#[derive(Default)]
pub(super) struct Fields {
    violations: Vec<FieldViolation>,
    /// Whether the caller may not touch the user whom the request names.
    denied: bool,
}

impl Fields {
    pub(super) fn wrong<T>(&mut self, field: &str, description: impl Into<String>) -> Option<T> {
        self.violations.push(FieldViolation::new(field, description));
        None
    }

    pub(super) fn id<T>(&mut self, field: &str, id: Result<T, InvalidId>) -> Option<T> {
        id.map_err(|error| self.wrong::<T>(field, error.to_string())).ok()
    }

    /// Whom the request is about, if the caller may touch that one.
    pub(super) fn user(&mut self, user_id: String) -> Option<UserId> {
        let user = self.id("user_id", UserId::parse(user_id))?;
        if call::may_touch(&user) {
            return Some(user);
        }
        self.denied = true;
        None
    }

    pub(super) fn amount(&mut self, field: &str, amount: i64, least: u64) -> Option<u64> {
        let most = AMOUNT_MAX;
        match u64::try_from(amount) {
            Ok(amount) if (least..=most).contains(&amount) => Some(amount),
            _ => self.wrong(field, format!("must be {least} to {most}")),
        }
    }

    pub(super) fn refusal(self) -> Status {
        if self.denied {
            // The same whether there is such a user or not.
            let message = "user_id: this caller may not touch this user";
            return status::plain(Reason::PermissionDenied, message);
        }
        status::invalid_argument(self.violations)
    }
}
