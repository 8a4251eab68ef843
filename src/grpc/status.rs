//! The one mapping from errors to `google.rpc.Status`. Every status carries an ErrorInfo with a
//! stable reason; `docs/errors.md` lists them.

use std::collections::HashMap;
use std::time::Duration;

use prost::Message;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};

use crate::{ocr, quota, recognition};

/// The domain of every ErrorInfo.
pub const DOMAIN: &str = "img2text";

/// Declares the reasons: their names here and on the wire, their codes, and what a caller who gets
/// one should do.
macro_rules! reasons {
    ($($variant:ident, $name:literal, $code:ident, $advice:literal;)*) => {
        /// Why a call failed, as the ErrorInfo of its status says. The names are stable.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Reason {
            $(#[doc = $advice] $variant,)*
        }

        impl Reason {
            /// All of them, in the order of the documentation.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// Its stable name.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The code of every status with this reason.
            pub fn code(self) -> Code {
                match self { $(Self::$variant => Code::$code,)* }
            }

            /// What a caller who gets it should do.
            pub fn advice(self) -> &'static str {
                match self { $(Self::$variant => $advice,)* }
            }
        }
    };
}

reasons! {
    // Wrong in itself: the same call again fails again.
    InvalidArgument, "INVALID_ARGUMENT", InvalidArgument, "A field is wrong, or the picture cannot be decoded. `BadRequest` names each field: mend them.";
    MessageMalformed, "MESSAGE_MALFORMED", InvalidArgument, "The bytes are no message of this method. Generate the client from this server's contract.";
    MessageTooLarge, "MESSAGE_TOO_LARGE", InvalidArgument, "Send a smaller picture: `ocr.image_bytes_max` is the limit.";
    ReplyTooLarge, "REPLY_TOO_LARGE", OutOfRange, "Ask for less, or call RecognizeDocument, which sends formats in pieces: `ocr.reply_bytes_max` is the limit, and there `ocr.page_outputs_bytes_max`. Nothing was charged.";
    CompressionUnknown, "COMPRESSION_UNKNOWN", Unimplemented, "Send messages uncompressed.";
    MethodUnknown, "METHOD_UNKNOWN", Unimplemented, "Ask reflection which methods there are.";
    NameUnknown, "NAME_UNKNOWN", NotFound, "Ask reflection or health for a name that there is.";
    // Not allowed.
    Unauthenticated, "UNAUTHENTICATED", Unauthenticated, "Send a valid token or a known client certificate.";
    PermissionDenied, "PERMISSION_DENIED", PermissionDenied, "Ask the operator for a token with the scope, and for the users, that this call needs.";
    // Nothing to spend.
    QuotaExhausted, "QUOTA_EXHAUSTED", ResourceExhausted, "Buy requests, or wait as long as `RetryInfo` says where a reset will help.";
    RateLimited, "RATE_LIMITED", ResourceExhausted, "This token calls too often: wait as long as `RetryInfo` says.";
    // What is named is not there, or not as the call expects it.
    AlreadyExists, "ALREADY_EXISTS", AlreadyExists, "The id was used with other parameters: take a new one.";
    ReservationNotFound, "RESERVATION_NOT_FOUND", NotFound, "There is no such reservation, or it was settled too long ago.";
    AccountNotFound, "ACCOUNT_NOT_FOUND", NotFound, "There is no such account.";
    UnknownPlan, "UNKNOWN_PLAN", NotFound, "Ask ListPlans which plans there are.";
    AlreadyCommitted, "ALREADY_COMMITTED", FailedPrecondition, "The reservation was spent: nothing more can be done with it.";
    AlreadyReleased, "ALREADY_RELEASED", FailedPrecondition, "The reservation was given back: reserve again.";
    Expired, "EXPIRED", FailedPrecondition, "The reservation went back by itself when its time was over: reserve again.";
    TooManyHolds, "TOO_MANY_HOLDS", FailedPrecondition, "Settle some of the user's open reservations first.";
    TooManyReservations, "TOO_MANY_RESERVATIONS", FailedPrecondition, "The user has settled as many reservations lately as are remembered (`quota.settled_reservations_max`): wait until some are forgotten.";
    TooManyPayments, "TOO_MANY_PAYMENTS", FailedPrecondition, "The operator has to raise `quota.payments_max`.";
    NoPlan, "NO_PLAN", FailedPrecondition, "The user has no plan that could be cancelled.";
    AccountDeleted, "ACCOUNT_DELETED", FailedPrecondition, "The account was deleted.";
    AccountCorrupt, "ACCOUNT_CORRUPT", FailedPrecondition, "The account's data cannot be read, and nothing was changed: the operator has to mend it.";
    // The same call again may work.
    InProgress, "IN_PROGRESS", Aborted, "The same request still runs: ask again as `RetryInfo` says.";
    StoreUnavailable, "STORE_UNAVAILABLE", Unavailable, "Redis does not answer. A step may or may not have run: send it again with the same id.";
    StoreNotDurable, "STORE_NOT_DURABLE", Unavailable, "Redis could lose what it acknowledges, and the operator is strict about that: try again later.";
    Overloaded, "OVERLOADED", Unavailable, "No place for this call: try again as `RetryInfo` says. Nothing was charged.";
    Stopping, "STOPPING", Unavailable, "The server is stopping: try again, elsewhere or later. Nothing was charged.";
    RecognizerUnavailable, "RECOGNIZER_UNAVAILABLE", Unavailable, "The recogniser does not run on this server: its operator has to look at it. Nothing was charged.";
    DeadlineExceeded, "DEADLINE_EXCEEDED", DeadlineExceeded, "Allow more time, or send a smaller picture. A recognition that ends so is not charged.";
    // Ours.
    WorkerDied, "WORKER_DIED", Internal, "The recogniser failed on this picture. Nothing was charged.";
    Internal, "INTERNAL", Internal, "A bug of the server: its log has the cause.";
}

/// When to try again what is likely to work soon: about as long as a Redis takes to restart, or a
/// page to recognise.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// A refused request: what is wrong with which field.
pub fn invalid_argument(violations: Vec<FieldViolation>) -> Status {
    let message = match violations.first() {
        Some(first) => format!("{}: {}", first.field, first.description),
        None => "the request is not valid".into(),
    };
    let mut details = details(Reason::InvalidArgument);
    details.set_bad_request(violations);
    Status::with_error_details(Code::InvalidArgument, message, details)
}

/// The operator is strict about durability, and Redis can lose what it acknowledges.
pub fn not_durable() -> Status {
    let mut details = details(Reason::StoreNotDurable);
    details.set_retry_info(Some(RETRY_DELAY));
    let message = "the store of accounts is not proven to keep what it acknowledges, so nothing is \
                   charged or sold: its operator has to look at `img2text storage status`";
    Status::with_error_details(Code::Unavailable, message, details)
}

/// A status with nothing but its reason.
pub fn plain(reason: Reason, message: impl Into<String>) -> Status {
    Status::with_error_details(reason.code(), message, details(reason))
}

/// The same, with when to try again.
pub fn retry(reason: Reason, message: impl Into<String>, delay: Duration) -> Status {
    let mut details = details(reason);
    details.set_retry_info(Some(delay));
    Status::with_error_details(reason.code(), message, details)
}

/// Makes a full status of one that the transport or a service of somebody else's made, which has
/// no details; one that has stays as it is.
pub fn complete(status: Status) -> Status {
    if status.code() == Code::Ok || !status.details().is_empty() {
        return status;
    }
    let found = status.message().to_string();
    match status.code() {
        Code::OutOfRange | Code::ResourceExhausted
            if found.contains("message length too large") =>
        {
            plain(Reason::MessageTooLarge, "the message is larger than this method takes")
        }
        Code::Unimplemented if found.contains("compress") || found.contains("encoding") => {
            plain(Reason::CompressionUnknown, "send the message uncompressed")
        }
        Code::Unimplemented => plain(Reason::MethodUnknown, "there is no such method here"),
        // What the health and the reflection service say of names that they do not know.
        Code::NotFound => plain(Reason::NameUnknown, "the server knows nothing by this name"),
        Code::Cancelled => plain(Reason::DeadlineExceeded, "the time for this call was over"),
        Code::Unavailable => {
            retry(Reason::Overloaded, "the server is busy: try again later", RETRY_DELAY)
        }
        // That is how tonic says that it cannot read what the caller sent: our own errors come
        // with details.
        Code::Internal | Code::InvalidArgument | Code::Unknown => {
            tracing::debug!(status = found, "a message that cannot be read");
            plain(Reason::MessageMalformed, "the message cannot be read as what this method takes")
        }
        code => {
            tracing::error!(?code, status = found, "a status without a reason");
            plain(Reason::Internal, "something went wrong in the server")
        }
    }
}

/// A status as a message within a stream.
pub fn to_message(status: Status) -> tonic_types::Status {
    // With details it is there already, encoded for the wire.
    tonic_types::Status::decode(status.details())
        .ok()
        .filter(|_| !status.details().is_empty())
        .unwrap_or_else(|| tonic_types::Status {
            code: status.code().into(),
            message: status.message().into(),
            details: Vec::new(),
        })
}

fn details(reason: Reason) -> ErrorDetails {
    ErrorDetails::with_error_info(reason.name(), DOMAIN, HashMap::new())
}

impl From<quota::Error> for Status {
    fn from(error: quota::Error) -> Self {
        use quota::Error as E;
        let reason = match &error {
            E::Exhausted { .. } => Reason::QuotaExhausted,
            E::AlreadyExists => Reason::AlreadyExists,
            E::NotFound => Reason::ReservationNotFound,
            E::NoAccount => Reason::AccountNotFound,
            E::UnknownPlan { .. } => Reason::UnknownPlan,
            E::AlreadyCommitted => Reason::AlreadyCommitted,
            E::AlreadyReleased => Reason::AlreadyReleased,
            E::Expired => Reason::Expired,
            E::TooManyHolds { .. } => Reason::TooManyHolds,
            E::TooManyReservations { .. } => Reason::TooManyReservations,
            E::TooManyPayments { .. } => Reason::TooManyPayments,
            E::NoPlan => Reason::NoPlan,
            E::AccountDeleted => Reason::AccountDeleted,
            E::AccountCorrupt { .. } => Reason::AccountCorrupt,
            E::InProgress { .. } => Reason::InProgress,
            E::AmountExceedsHeld { .. } | E::InvalidPageToken => Reason::InvalidArgument,
            E::Unavailable(_) => Reason::StoreUnavailable,
            E::Internal(_) => Reason::Internal,
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
                    reason.name(),
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
        // What is wrong inside is for the log alone.
        let message = match &error {
            E::Internal(_) => "something went wrong in the server".into(),
            E::AccountCorrupt { .. } => {
                "the stored account cannot be read; nothing was changed".into()
            }
            _ => error.to_string(),
        };
        Status::with_error_details(reason.code(), message, details)
    }
}

impl From<ocr::Error> for Status {
    fn from(error: ocr::Error) -> Self {
        use ocr::Error as E;
        let reason = match &error {
            E::Invalid(_) | E::Undecodable(_) => Reason::InvalidArgument,
            E::OutputsTooLarge { .. } => Reason::ReplyTooLarge,
            E::Overloaded { .. } => Reason::Overloaded,
            E::Stopping => Reason::Stopping,
            E::DeadlineExceeded => Reason::DeadlineExceeded,
            E::WorkerDied(_) => Reason::WorkerDied,
            E::Broken(_) => Reason::RecognizerUnavailable,
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
            E::OutputsTooLarge { .. } => {
                let message = format!("{error}, and was not charged: ask for fewer formats");
                return plain(reason, message);
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
        Status::with_error_details(reason.code(), message, details)
    }
}

impl From<recognition::Error> for Status {
    fn from(error: recognition::Error) -> Self {
        match error {
            recognition::Error::Quota(error) => error.into(),
            recognition::Error::Ocr(error) => error.into(),
            recognition::Error::ReplyTooLarge { .. } => {
                let message = format!(
                    "{error}, and was not charged: ask for less, or call RecognizeDocument, which \
                     sends formats in pieces"
                );
                plain(Reason::ReplyTooLarge, message)
            }
        }
    }
}
