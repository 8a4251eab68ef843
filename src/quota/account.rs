//! The words of the account: ids, buckets, holds, the snapshot of an account, and what can go
//! wrong. Plain data; how it is kept is the business of [`store`](super::store).

use std::fmt;
use std::ops::Add;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;

/// The most characters that an id may have.
pub const ID_CHARACTERS_MAX: usize = 128;

/// The most requests that one step may move.
pub const AMOUNT_MAX: u64 = 1_000_000;

/// An id that breaks the rule for ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be 1 to 128 characters of A-Z a-z 0-9 . _ : @ -")]
pub struct InvalidId;

fn is_id(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._:@-".contains(&byte);
    (1..=ID_CHARACTERS_MAX).contains(&text.len()) && text.bytes().all(allowed)
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(String);

        impl $name {
            /// Takes `text` if it is 1 to 128 characters of `A-Z a-z 0-9 . _ : @ -`. Neither
            /// spaces nor braces: the id becomes part of a Redis key and of its hash tag.
            pub fn parse(text: impl Into<String>) -> Result<Self, InvalidId> {
                let text = text.into();
                if is_id(&text) { Ok(Self(text)) } else { Err(InvalidId) }
            }

            /// The id as it was given.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

id! {
    /// Names a user.
    UserId
}
id! {
    /// Names a reservation, uniquely for its user.
    ReservationId
}
id! {
    /// Names a call of Recognize, uniquely for its user.
    RequestId
}
id! {
    /// Names a purchase or an adjustment, uniquely for its user.
    PaymentId
}
id! {
    /// Who did something to an account: the name of a token, or one of our own.
    Actor
}

impl ReservationId {
    /// An id that nobody else has.
    pub fn random() -> Self {
        Self(uuid::Uuid::new_v4().to_string())
    }
}

impl Actor {
    /// The server itself: resets, expiries, and whatever nobody was named for.
    pub fn server() -> Self {
        Self("img2text".into())
    }
}

/// Numbers of requests, told apart by the bucket they belong to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Buckets {
    /// Requests of the free allowance.
    pub free: u64,
    /// Requests of the plan's month.
    pub plan: u64,
    /// Requests bought one by one.
    pub extra: u64,
}

impl Buckets {
    /// All buckets together.
    pub fn total(&self) -> u64 {
        self.free + self.plan + self.extra
    }
}

impl Add for Buckets {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            free: self.free + other.free,
            plan: self.plan + other.plan,
            extra: self.extra + other.extra,
        }
    }
}

/// An account at one instant. Always `granted = available + held + spent + lapsed`, in every
/// bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Whose account it is.
    pub user: UserId,
    /// The plan; empty without one.
    pub plan: String,
    /// The plan ends at the next reset instead of being refreshed.
    pub plan_cancelled: bool,
    /// What a reservation may take now.
    pub available: Buckets,
    /// What is reserved for work in flight.
    pub held: Buckets,
    /// What has been given since the account exists.
    pub granted: Buckets,
    /// What has been spent since the account exists.
    pub spent: Buckets,
    /// What was given and can no longer be spent, because its month was over or an operator took
    /// it back.
    pub lapsed: Buckets,
    /// What was available or held right after the last purchase, reset or other gain: the measure
    /// for `near_limit`.
    pub allotted: u64,
    /// More than the configured share (`quota.near_limit_percent`) of what was allotted is used.
    pub near_limit: bool,
    /// When the plan is refreshed next: the first instant of a month, UTC.
    pub next_reset: Timestamp,
}

/// A hold on a user's requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reservation {
    /// The id that the caller chose.
    pub id: ReservationId,
    /// How many are held, and from which bucket they came.
    pub held: Buckets,
    /// When the hold was made.
    pub created: Timestamp,
    /// When the hold goes back by itself.
    pub expires: Timestamp,
    /// Who made it.
    pub actor: String,
    /// The recognition that it is for, if its caller named it.
    pub request: Option<RequestId>,
}

/// What a step came to, and the account after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answered<T> {
    /// What the step came to, the first time it was done.
    pub value: T,
    /// The account as it stands now.
    pub quota: Quota,
    /// This very step had been done before: nothing was changed again.
    pub replayed: bool,
}

/// Why a step was refused or not done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Fewer requests are available than asked for. Nothing was taken.
    #[error("{requested} requests asked for, {available} available")]
    Exhausted {
        /// How many were asked for.
        requested: u64,
        /// How many there are.
        available: u64,
        /// How long until the next reset, if that will help.
        retry_after: Option<Duration>,
    },
    /// The id is known, with other parameters.
    #[error("the id is known with other parameters")]
    AlreadyExists,
    /// No such reservation, or settled so long ago that it is forgotten.
    #[error("no such reservation, or settled so long ago that it is forgotten")]
    NotFound,
    /// The reservation is committed, and not with these parameters.
    #[error("the reservation is already committed")]
    AlreadyCommitted,
    /// The reservation was released.
    #[error("the reservation is already released")]
    AlreadyReleased,
    /// The hold was over before it was settled: its requests went back.
    #[error("the reservation expired")]
    Expired,
    /// More is to be committed than is held.
    #[error("only {held} requests are held")]
    AmountExceedsHeld {
        /// How many are held.
        held: u64,
    },
    /// The same request is still running.
    #[error("the same request is still running")]
    InProgress {
        /// When its hold is over at the latest, unless it is extended.
        retry_after: Duration,
    },
    /// The user has as many open holds as `quota.holds_open_max` allows.
    #[error("the user has {max} open holds, the most allowed")]
    TooManyHolds {
        /// The bound.
        max: u32,
    },
    /// The user has as many reservations, open or remembered, as `quota.settled_reservations_max`
    /// allows.
    #[error("the user has {max} reservations, open or settled lately, the most allowed")]
    TooManyReservations {
        /// The bound.
        max: u32,
    },
    /// The user has as many remembered payments as `quota.payments_max` allows.
    #[error("the user has {max} payments, the most allowed")]
    TooManyPayments {
        /// The bound.
        max: u32,
    },
    /// The catalog has no such plan.
    #[error("the catalog has no plan {plan:?}")]
    UnknownPlan {
        /// The plan asked for.
        plan: String,
    },
    /// The user has no plan that could be cancelled.
    #[error("the user has no plan")]
    NoPlan,
    /// Nothing is kept about the user.
    #[error("nothing is kept about this user")]
    NoAccount,
    /// The account was deleted; it stays closed.
    #[error("the account was deleted")]
    AccountDeleted,
    /// The stored account cannot be read. Nothing was changed.
    #[error("the stored account cannot be read: {what}")]
    AccountCorrupt {
        /// Which field, and what is wrong with it.
        what: String,
    },
    /// The page token is not one of ours, or not for this list.
    #[error("the page token is not valid for this list")]
    InvalidPageToken,
    /// Redis does not answer or does not take writes. The step may or may not have been done.
    #[error("the store of accounts does not answer")]
    Unavailable(#[source] fred::error::Error),
    /// Redis answered something that makes no sense: a bug.
    #[error("the store of accounts answered nonsense: {0}")]
    Internal(String),
}

/// What a recognition came to, for the statistics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Pages recognised.
    pub pages: u32,
    /// Characters recognised.
    pub characters: u64,
}

/// What became of a charge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settled {
    /// Whether the account was charged.
    pub state: State,
    /// What was spent; zero unless confirmed.
    pub spent: Buckets,
    /// The account after the charge; absent unless confirmed.
    pub quota: Option<Quota>,
}

impl Settled {
    pub(crate) fn not_charged(state: State) -> Self {
        Self { state, spent: Buckets::default(), quota: None }
    }
}

/// Whether the account was charged for work that was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Charged, and durably so.
    Confirmed,
    /// Redis did not answer: charged or not. If not, the hold goes back by itself.
    Unconfirmed,
    /// The hold was over before the work was: not charged.
    Lapsed,
}

/// A stored answer: what a recognition was answered the first time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredAnswer {
    /// The answer as it was handed to [`Charge::commit`](super::Charge::commit).
    pub answer: Bytes,
    /// What was spent for it, the first time.
    pub spent: Buckets,
    /// The account as it stands now.
    pub quota: Quota,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_what_fits_into_a_redis_hash_tag() {
        for good in ["42", "a", "Ann.B_c:d@e-F", &"x".repeat(128)] {
            assert_eq!(UserId::parse(good).map(|id| id.to_string()), Ok(good.to_string()));
        }
        for bad in ["", " ", "a b", "{42}", "}", "a\n", "ä", "a/b", "a*", &"x".repeat(129)] {
            assert_eq!(UserId::parse(bad), Err(InvalidId), "{bad:?}");
        }
    }
}
