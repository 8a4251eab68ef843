//! Who may spend what.
//!
//! An account lives in Redis: the hash `sub:user:ID`, whose fields are those of the system that
//! this project grew from, and side keys in the same Cluster slot (see [`Keys`]). Every step is
//! one Lua script (`scripts/`), so it happens as a whole or not at all, and the numbers are right
//! without anything that has to be running: whoever touches an account first settles what is due
//! (expired holds, a monthly reset). A server keeps no quota state and may die at any time.
//!
//! - [`account`]: the words of the account, plain data.
//! - [`catalog`]: the plans.
//! - [`store`]: the calls of the scripts.
//! - [`charge`]: the guard that settles one recognition, whatever happens to it.
//! - [`history`]: what happened to an account, and its monthly totals.
//! - [`audit`]: whether an account adds up.
//! - [`export`]: everything that is kept about a user.
//! - [`inspect`]: what is odd about an account that another system wrote.
//! - [`statistics`]: what happened over all users, by day.
//! - [`page`]: lists, page by page.

pub mod account;
pub mod audit;
pub mod catalog;
pub mod charge;
pub mod export;
pub mod history;
pub mod inspect;
pub mod page;
pub mod statistics;
pub mod store;

pub use account::{
    Actor, Answered, Buckets, Error, InvalidId, PaymentId, Quota, RequestId, Reservation,
    ReservationId, Settled, State, StoredAnswer, UserId, Work,
};
pub use catalog::{Bucket, Catalog};
pub use charge::{Charge, Charged};
pub use store::{Keys, Store};
