//! The one mapping from errors to `google.rpc.Status`. Every status carries an ErrorInfo with a
//! stable reason; `docs/errors.md` lists them.

use std::collections::HashMap;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};

use crate::{ocr, quota, recognition};

/// The domain of every ErrorInfo.
pub const DOMAIN: &str = "img2text";

/// When to try again what is likely to work soon: about as long as a Redis takes to restart, or a
/// page to recognise.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// A refused request: what is wrong with which field.
pub fn invalid_argument(violations: Vec<FieldViolation>) -> Status {
    let message = match violations.first() {
        Some(first) => format!("{}: {}", first.field, first.description),
        None => "the request is not valid".into(),
    };
    let mut details = details("INVALID_ARGUMENT");
    details.set_bad_request(violations);
    Status::with_error_details(Code::InvalidArgument, message, details)
}

/// The operator is strict about durability, and Redis can lose what it acknowledges.
pub fn not_durable() -> Status {
    let mut details = details("STORE_NOT_DURABLE");
    details.set_retry_info(Some(RETRY_DELAY));
    let message = "the store of accounts is not proven to keep what it acknowledges, so nothing is \
                   charged or sold: its operator has to look at `img2text storage status`";
    Status::with_error_details(Code::Unavailable, message, details)
}

fn details(reason: &str) -> ErrorDetails {
    ErrorDetails::with_error_info(reason, DOMAIN, HashMap::new())
}

impl From<quota::Error> for Status {
    fn from(error: quota::Error) -> Self {
        use quota::Error as E;
        let (code, reason) = match &error {
            E::Exhausted { .. } => (Code::ResourceExhausted, "QUOTA_EXHAUSTED"),
            E::AlreadyExists => (Code::AlreadyExists, "ALREADY_EXISTS"),
            E::NotFound => (Code::NotFound, "RESERVATION_NOT_FOUND"),
            E::NoAccount => (Code::NotFound, "ACCOUNT_NOT_FOUND"),
            E::UnknownPlan { .. } => (Code::NotFound, "UNKNOWN_PLAN"),
            E::AlreadyCommitted => (Code::FailedPrecondition, "ALREADY_COMMITTED"),
            E::AlreadyReleased => (Code::FailedPrecondition, "ALREADY_RELEASED"),
            E::Expired => (Code::FailedPrecondition, "EXPIRED"),
            E::TooManyHolds { .. } => (Code::FailedPrecondition, "TOO_MANY_HOLDS"),
            E::TooManyPayments { .. } => (Code::FailedPrecondition, "TOO_MANY_PAYMENTS"),
            E::NoPlan => (Code::FailedPrecondition, "NO_PLAN"),
            E::AccountDeleted => (Code::FailedPrecondition, "ACCOUNT_DELETED"),
            E::AccountCorrupt { .. } => (Code::FailedPrecondition, "ACCOUNT_CORRUPT"),
            E::InProgress { .. } => (Code::Aborted, "IN_PROGRESS"),
            E::AmountExceedsHeld { .. } | E::InvalidPageToken => {
                (Code::InvalidArgument, "INVALID_ARGUMENT")
            }
            E::Unavailable(_) => (Code::Unavailable, "STORE_UNAVAILABLE"),
            E::Internal(_) => (Code::Internal, "INTERNAL"),
        };
        let mut details = details(reason);
        match &error {
            E::Exhausted { retry_after, .. } => {
                details.add_quota_failure_violation("requests", error.to_string());
                if let Some(delay) = retry_after {
                    details.set_retry_info(Some(*delay));
                }
            }
            E::InProgress { retry_after } => {
                details.set_retry_info(Some(RETRY_DELAY.min(*retry_after)));
            }
            E::Unavailable(_) => {
                details.set_retry_info(Some(RETRY_DELAY));
            }
            E::AmountExceedsHeld { .. } => {
                details.add_bad_request_violation("amount", error.to_string());
            }
            E::InvalidPageToken => {
                details.add_bad_request_violation("page_token", error.to_string());
            }
            E::AlreadyCommitted | E::AlreadyReleased | E::Expired => {
                details.add_precondition_failure_violation(
                    reason,
                    "reservation_id",
                    error.to_string(),
                );
            }
            _ => {}
        }
        match &error {
            E::Internal(_) | E::AccountCorrupt { .. } => tracing::error!(%error),
            E::Unavailable(source) => tracing::warn!(%source, "{error}"),
            _ => {}
        }
        Status::with_error_details(code, error.to_string(), details)
    }
}

impl From<ocr::Error> for Status {
    fn from(error: ocr::Error) -> Self {
        use ocr::Error as E;
        let (code, reason) = match &error {
            E::Invalid(_) | E::Undecodable(_) => (Code::InvalidArgument, "INVALID_ARGUMENT"),
            E::Overloaded { .. } => (Code::Unavailable, "OVERLOADED"),
            E::Stopping => (Code::Unavailable, "STOPPING"),
            E::DeadlineExceeded => (Code::DeadlineExceeded, "DEADLINE_EXCEEDED"),
            E::WorkerDied(_) => (Code::Internal, "WORKER_DIED"),
            E::Broken(_) => (Code::Unavailable, "RECOGNIZER_UNAVAILABLE"),
        };
        let mut details = details(reason);
        let message = match &error {
            E::Invalid(violations) => {
                let violation = |v: &ocr::Violation| FieldViolation::new(&v.field, &v.description);
                return invalid_argument(violations.iter().map(violation).collect());
            }
            E::Undecodable(reason) => {
                let description = format!("cannot be decoded: {reason}");
                return invalid_argument(vec![FieldViolation::new("image", description)]);
            }
            E::Overloaded { retry_after } => {
                details.set_retry_info(Some(*retry_after));
                "every worker is busy and the queue is full, or too long for this deadline: try \
                 again later"
            }
            E::Stopping => {
                details.set_retry_info(Some(RETRY_DELAY));
                "the server is stopping, and the page was not charged: try again, elsewhere or later"
            }
            E::DeadlineExceeded => {
                "the page was not recognised in time, and was not charged: allow more time, or \
                 send a smaller picture"
            }
            E::WorkerDied(cause) => {
                tracing::error!(cause, "a worker failed");
                "the recogniser failed on this picture, and it was not charged"
            }
            E::Broken(cause) => {
                tracing::error!(cause, "no worker can be started");
                details.set_retry_info(Some(RETRY_DELAY));
                "the recogniser does not run on this server: its operator has to look at it"
            }
        };
        Status::with_error_details(code, message, details)
    }
}

impl From<recognition::Error> for Status {
    fn from(error: recognition::Error) -> Self {
        match error {
            recognition::Error::Quota(error) => error.into(),
            recognition::Error::Ocr(error) => error.into(),
        }
    }
}
