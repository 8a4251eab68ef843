//! An account to try things on: a user nobody else has, in a Redis that is shared, at a time that
//! the test moves.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use fred::clients::Client;
use fred::types::Value;
use img2text::config;
use img2text::quota::store::Clock;
use img2text::quota::{Buckets, Catalog, Keys, ReservationId, Store, UserId};
use jiff::Timestamp;

use super::redis;

/// The same test on a standalone Redis and on a Cluster of three primaries. The body gets an
/// [`Account`].
#[macro_export]
macro_rules! on_both {
    ($(#[$doc:meta])* async fn $name:ident($account:ident: Account) $body:block) => {
        $(#[$doc])*
        mod $name {
            #[allow(unused_imports)]
            use super::*;

            async fn check(#[allow(unused_mut)] mut $account: Account) $body

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn standalone() {
                check(Account::on(&$crate::support::redis::shared::standalone()).await).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn cluster() {
                check(Account::on(&$crate::support::redis::shared::cluster()).await).await;
            }
        }
    };
}

/// 2030-05-17, a day in the middle of a month, in Unix milliseconds.
pub const START_MS: u64 = 1_905_206_400_000;

pub struct Account {
    pub client: Client,
    pub store: Store,
    pub user: UserId,
    clock_ms: Arc<AtomicU64>,
}

impl Account {
    pub async fn on(url: &str) -> Self {
        Self::with(url, |_, _| {}).await
    }

    pub async fn with(url: &str, change: impl FnOnce(&mut config::Quota, &mut Catalog)) -> Self {
        Self::of(&redis::connect(url).await, change)
    }

    /// A new user in the Redis of a client.
    pub fn of(client: &Client, change: impl FnOnce(&mut config::Quota, &mut Catalog)) -> Self {
        let clock_ms = Arc::new(AtomicU64::new(START_MS));
        let store = make(client, &clock_ms, change);
        let user = UserId::parse(uuid::Uuid::new_v4().to_string()).unwrap();
        Self { client: client.clone(), store, user, clock_ms }
    }

    /// The same user, clock and Redis as another server sees them.
    pub async fn with_user(other: &Account) -> Self {
        let clock_ms = Arc::clone(&other.clock_ms);
        let store = make(&other.client, &clock_ms, |_, _| {});
        Self { client: other.client.clone(), store, user: other.user.clone(), clock_ms }
    }

    /// The same account from now on with other settings, or with another catalog.
    pub fn change(&mut self, change: impl FnOnce(&mut config::Quota, &mut Catalog)) {
        self.store = make(&self.client, &self.clock_ms, change);
    }

    pub fn main_key(&self) -> String {
        format!("sub:user:{}", self.user)
    }

    /// Writes the main hash as the old system did.
    pub async fn write(&self, fields: &[(&str, &str)]) {
        let key = self.main_key();
        let mut arguments = vec![key.as_str()];
        arguments.extend(fields.iter().flat_map(|(field, value)| [*field, *value]));
        redis::command(&self.client, "HSET", &arguments).await;
    }

    /// The main hash as an operator sees it, fields sorted.
    pub async fn hgetall(&self) -> Vec<(String, String)> {
        let reply = redis::command(&self.client, "HGETALL", &[&self.main_key()]).await;
        let texts: Vec<String> = reply.convert::<Vec<String>>().unwrap_or_default();
        let mut fields: Vec<_> =
            texts.chunks(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect();
        fields.sort();
        fields
    }

    /// Which of the user's keys exist.
    pub async fn keys(&self) -> Vec<String> {
        let mut existing = Vec::new();
        for key in Keys::of(&self.user).all() {
            if redis::command(&self.client, "EXISTS", &[key]).await == Value::Integer(1) {
                existing.push(key.clone());
            }
        }
        existing
    }

    pub fn now(&self) -> Timestamp {
        Timestamp::from_millisecond(self.clock_ms.load(Ordering::SeqCst) as i64).unwrap()
    }

    pub fn advance(&self, time: Duration) {
        self.clock_ms.fetch_add(time.as_millis() as u64, Ordering::SeqCst);
    }

    pub fn set_time(&self, time: &str) {
        let time: Timestamp = time.parse().unwrap();
        self.clock_ms.store(time.as_millisecond() as u64, Ordering::SeqCst);
    }

    pub async fn available(&self) -> Buckets {
        self.store.get(&self.user).await.unwrap().available
    }
}

fn make(
    client: &Client,
    clock_ms: &Arc<AtomicU64>,
    change: impl FnOnce(&mut config::Quota, &mut Catalog),
) -> Store {
    let (mut settings, mut catalog) = (config::Quota::default(), Catalog::built_in());
    change(&mut settings, &mut catalog);
    Store::with_clock(client.clone(), catalog, settings, Clock::Given(Arc::clone(clock_ms)))
}

pub fn id(text: &str) -> ReservationId {
    ReservationId::parse(text).unwrap()
}

pub const fn buckets(free: u64, plan: u64, extra: u64) -> Buckets {
    Buckets { free, plan, extra }
}

pub const MINUTE: Duration = Duration::from_secs(60);
