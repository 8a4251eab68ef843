//! The checking of a request's fields: all of them, so that a caller need not mend one at a time.

use tonic::Status;
use tonic_types::FieldViolation;

use super::status;
use crate::quota::InvalidId;
use crate::quota::account::AMOUNT_MAX;

/// What is wrong with which field of a request: all of it, not only the first.
#[derive(Default)]
pub(super) struct Fields {
    violations: Vec<FieldViolation>,
}

impl Fields {
    pub(super) fn wrong<T>(&mut self, field: &str, description: impl Into<String>) -> Option<T> {
        self.violations.push(FieldViolation::new(field, description));
        None
    }

    pub(super) fn id<T>(&mut self, field: &str, id: Result<T, InvalidId>) -> Option<T> {
        id.map_err(|error| self.wrong::<T>(field, error.to_string())).ok()
    }

    pub(super) fn amount(&mut self, field: &str, amount: i64, least: u64) -> Option<u64> {
        let most = AMOUNT_MAX;
        match u64::try_from(amount) {
            Ok(amount) if (least..=most).contains(&amount) => Some(amount),
            _ => self.wrong(field, format!("must be {least} to {most}")),
        }
    }

    pub(super) fn refusal(self) -> Status {
        status::invalid_argument(self.violations)
    }
}
