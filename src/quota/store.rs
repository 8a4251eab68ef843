//! The calls of the scripts: from the words of the account to Redis and back.

mod ledger;
pub(super) mod reply;
mod scripts;
mod users;

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use fred::clients::Client;
use fred::interfaces::ClientLike;
use fred::types::{ClusterHash, CustomCommand, Value};
use tokio_util::task::TaskTracker;
use tracing::{Instrument, info_span};

use super::account::{
    Actor, Answered, Buckets, Error, Quota, RequestId, Reservation, ReservationId, StoredAnswer,
    UserId,
};
use super::catalog::Catalog;
use super::statistics::{self, Batch, Counts, Day, Event, Statistics, WRITE_INTERVAL};
use crate::config;
use reply::Reply;
use scripts::{Script, Scripts};

pub use scripts::Clock;

/// The Redis keys of one user. The hash tag of the side keys is the whole main key, so that all
/// of them are in one Cluster slot and one script may touch them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys(Vec<String>);

impl Keys {
    /// What the side keys are called, in the order in which the scripts get them, after the main
    /// key.
    const SIDE: [&str; 10] = [
        "account",
        "holds",
        "expiries",
        "settled:0",
        "settled:1",
        "history",
        "months",
        "payments",
        "answers:0",
        "answers:1",
    ];

    /// What a backup calls the main key.
    pub const MAIN_NAME: &str = "main";

    /// What every main key begins with; the user's id follows.
    pub const MAIN_PREFIX: &str = "sub:user:";

    /// The keys of a user.
    pub fn of(user: &UserId) -> Self {
        let main = format!("{}{user}", Self::MAIN_PREFIX);
        let sides = Self::SIDE.iter().map(|side| format!("{{{main}}}:{side}"));
        Self(std::iter::once(main.clone()).chain(sides).collect())
    }

    /// The hash of the old system.
    pub fn main(&self) -> &str {
        &self.0[0]
    }

    /// What a backup calls the keys, in the order of [`Keys::all`].
    pub fn names() -> [&'static str; 11] {
        std::array::from_fn(|index| match index {
            0 => Self::MAIN_NAME,
            side => Self::SIDE[side - 1],
        })
    }

    /// All keys that are worth a backup: everything but the stored answers, which are a user's
    /// texts and short-lived.
    pub fn lasting(&self) -> &[String] {
        &self.0[..self.0.len() - 2]
    }

    /// All keys.
    pub fn all(&self) -> &[String] {
        &self.0
    }
}

/// The accounts, kept in Redis. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    shared: Arc<Shared>,
    actor: Actor,
}

struct Shared {
    client: Client,
    catalog: Catalog,
    settings: config::Quota,
    scripts: Scripts,
    /// Settlements that run in tasks of their own.
    settlements: TaskTracker,
    statistics: Statistics,
}

impl Store {
    /// The accounts in the Redis of `client`. Nothing is sent until the first step.
    ///
    /// The client must not repeat commands by itself (`max_command_attempts = 1`): a command
    /// whose answer was lost may have run.
    pub fn new(client: Client, catalog: Catalog, settings: config::Quota) -> Self {
        Self::with_clock(client, catalog, settings, Clock::Redis)
    }

    /// The same with a clock of the caller's: for tests, which must move time. A server never
    /// calls it, and nothing that reaches a server can make it.
    #[doc(hidden)]
    pub fn with_clock(
        client: Client,
        catalog: Catalog,
        settings: config::Quota,
        clock: Clock,
    ) -> Self {
        let scripts = Scripts::new(&catalog, &settings, clock);
        let shared = Arc::new(Shared {
            client,
            catalog,
            settings,
            scripts,
            settlements: TaskTracker::new(),
            statistics: Statistics::new(),
        });
        tokio::spawn(write_statistics(Arc::downgrade(&shared)));
        Self { shared, actor: Actor::server() }
    }

    /// The same accounts, with `actor` as the one who does what is done.
    pub fn acting_as(&self, actor: Actor) -> Self {
        Self { shared: Arc::clone(&self.shared), actor }
    }

    /// The rules of the account.
    pub fn settings(&self) -> &config::Quota {
        &self.shared.settings
    }

    /// The plans.
    pub fn catalog(&self) -> &Catalog {
        &self.shared.catalog
    }

    /// Waits until every settlement that runs in a task of its own is done, and the statistics
    /// are written.
    pub async fn settled(&self) {
        self.shared.settlements.close();
        self.shared.settlements.wait().await;
        self.shared.settlements.reopen();
        if let Err(error) = self.write_statistics().await {
            tracing::warn!(%error, "the last statistics are lost");
        }
    }

    pub(super) fn settlements(&self) -> &TaskTracker {
        &self.shared.settlements
    }

    /// Reads an account.
    pub async fn get(&self, user: &UserId) -> Result<Quota, Error> {
        let mut reply = self.call(Script::Get, user, []).await?;
        self.quota(user, reply.accept("OK")?)
    }

    /// Holds `amount` requests for `ttl`. With `validate_only` nothing changes: the reply says
    /// what would happen.
    pub async fn reserve(
        &self,
        user: &UserId,
        id: &ReservationId,
        amount: u64,
        ttl: Duration,
        validate_only: bool,
    ) -> Result<Answered<Reservation>, Error> {
        match self.hold(user, id, amount, ttl, validate_only, None).await? {
            Held::New(reservation) => Ok(reservation),
            Held::Answered(_) => Err(Error::Internal("an answer to no request".into())),
        }
    }

    /// Holds one request for a recognition, or finds its stored answer.
    pub(super) async fn reserve_request(
        &self,
        user: &UserId,
        id: &ReservationId,
        ttl: Duration,
        validate_only: bool,
        request: Option<(&RequestId, [u8; 32])>,
    ) -> Result<Held, Error> {
        self.hold(user, id, 1, ttl, validate_only, request).await
    }

    async fn hold(
        &self,
        user: &UserId,
        id: &ReservationId,
        amount: u64,
        ttl: Duration,
        validate_only: bool,
        request: Option<(&RequestId, [u8; 32])>,
    ) -> Result<Held, Error> {
        let (request, fingerprint) = match request {
            Some((id, fingerprint)) => (id.as_str(), hexadecimal(&fingerprint)),
            None => ("", String::new()),
        };
        let arguments = [
            id.as_str().into(),
            number(amount),
            millis(ttl),
            self.actor.as_str().into(),
            flag(validate_only),
            request.into(),
            fingerprint.into(),
        ];
        let mut reply = self.call(Script::Reserve, user, arguments).await?;
        let status = reply.status()?;
        let quota = self.quota(user, &mut reply)?;
        match status.as_str() {
            "OK" | "REPLAYED" => {
                let value = reply.list()?.reservation()?;
                let replayed = status == "REPLAYED";
                if !replayed && !validate_only {
                    count_reservation("reserved");
                }
                Ok(Held::New(Answered { value, quota, replayed }))
            }
            "ANSWERED" => {
                let spent = reply.list()?.buckets()?;
                if !validate_only {
                    self.count(user, Event::AnsweredAgain);
                }
                Ok(Held::Answered(StoredAnswer { answer: reply.bytes()?, spent, quota }))
            }
            "EXHAUSTED" => {
                let available = reply.count()?;
                let retry_after = reply.integer()?;
                if !validate_only {
                    self.count(user, Event::Refused);
                    count_refusal("QUOTA_EXHAUSTED");
                }
                Err(Error::Exhausted {
                    requested: amount,
                    available,
                    retry_after: u64::try_from(retry_after).ok().map(Duration::from_millis),
                })
            }
            "IN_PROGRESS" => {
                Err(Error::InProgress { retry_after: Duration::from_millis(reply.count()?) })
            }
            "TOO_MANY_HOLDS" => {
                if !validate_only {
                    count_refusal("TOO_MANY_HOLDS");
                }
                Err(Error::TooManyHolds { max: self.shared.settings.holds_open_max })
            }
            "TOO_MANY_RESERVATIONS" => {
                if !validate_only {
                    count_refusal("TOO_MANY_RESERVATIONS");
                }
                let max = self.shared.settings.settled_reservations_max;
                Err(Error::TooManyReservations { max })
            }
            other => Err(refusal(other, &mut reply)),
        }
    }

    /// Turns a hold into spent requests: `amount` of it, or all. What is held but not committed
    /// goes back.
    pub async fn commit(
        &self,
        user: &UserId,
        id: &ReservationId,
        amount: Option<u64>,
    ) -> Result<Answered<Buckets>, Error> {
        self.commit_with_answer(user, id, amount, Bytes::new()).await
    }

    /// The same, and stores the answer of the request that the hold was for. An empty answer is
    /// not stored.
    pub(super) async fn commit_with_answer(
        &self,
        user: &UserId,
        id: &ReservationId,
        amount: Option<u64>,
        answer: Bytes,
    ) -> Result<Answered<Buckets>, Error> {
        let amount = amount.map_or_else(|| "-1".into(), number);
        let arguments =
            [id.as_str().into(), amount, self.actor.as_str().into(), Value::Bytes(answer)];
        let mut reply = self.call(Script::Commit, user, arguments).await?;
        let replayed = reply.replayed()?;
        if !replayed {
            count_reservation("committed");
        }
        let quota = self.quota(user, &mut reply)?;
        Ok(Answered { value: reply.list()?.buckets()?, quota, replayed })
    }

    /// Gives a hold back whole. The reason, if there is one, goes into the history.
    pub async fn release(
        &self,
        user: &UserId,
        id: &ReservationId,
        reason: &str,
    ) -> Result<Answered<()>, Error> {
        let arguments = [id.as_str().into(), self.actor.as_str().into(), reason.into()];
        let mut reply = self.call(Script::Release, user, arguments).await?;
        let replayed = reply.replayed()?;
        if !replayed {
            count_reservation("released");
        }
        Ok(Answered { value: (), quota: self.quota(user, &mut reply)?, replayed })
    }

    /// Gives a hold more time: `ttl` from now on. A hold is never shortened.
    pub async fn extend(
        &self,
        user: &UserId,
        id: &ReservationId,
        ttl: Duration,
    ) -> Result<Answered<Reservation>, Error> {
        let mut reply = self.call(Script::Extend, user, [id.as_str().into(), millis(ttl)]).await?;
        let replayed = reply.replayed()?;
        let quota = self.quota(user, &mut reply)?;
        Ok(Answered { value: reply.list()?.reservation()?, quota, replayed })
    }

    fn quota(&self, user: &UserId, reply: &mut Reply) -> Result<Quota, Error> {
        let percent = self.shared.settings.near_limit_percent;
        let quota = reply.account()?.quota(user.clone(), percent)?;
        if quota.near_limit {
            metrics::counter!("img2text_quota_near_limit_total").increment(1);
        }
        Ok(quota)
    }

    pub(super) fn count(&self, user: &UserId, event: Event) {
        metrics::counter!("img2text_quota_events_total", "event" => event.name()).increment(1);
        if let Event::Recognized(work) = &event {
            metrics::counter!("img2text_recognized_pages_total").increment(work.pages.into());
            metrics::counter!("img2text_recognized_characters_total").increment(work.characters);
        }
        self.shared.statistics.count(user, event);
    }

    /// Writes what was counted, batch after batch.
    async fn write_statistics(&self) -> Result<(), Error> {
        let _one_at_a_time = self.shared.statistics.writing.lock().await;
        while let Some(batch) = self.shared.statistics.next() {
            self.write_batch(&batch).await?;
            self.shared.statistics.acknowledged();
        }
        Ok(())
    }

    async fn write_batch(&self, batch: &Batch) -> Result<(), Error> {
        let sender = format!("{STATISTICS_TAG}:batch:{}", self.shared.statistics.server);
        let [day, users] = day_keys(batch.date);
        let Counts { requests, refusals, failures, pages, characters } = batch.counts;
        let numbers = [batch.number, requests, refusals, failures, pages, characters];
        let arguments: Vec<Value> = numbers
            .into_iter()
            .map(number)
            .chain(batch.users.iter().map(|user| user.as_str().into()))
            .collect();
        self.run(Script::StatisticsAdd, &[sender, day, users], &arguments).await?.replayed()?;
        Ok(())
    }

    /// What happened over all users, for each day of a range on which anything did; the latest
    /// [`DAYS_MAX`](statistics::DAYS_MAX) days of it at most.
    pub async fn statistics(
        &self,
        first: jiff::civil::Date,
        last: jiff::civil::Date,
    ) -> Result<Vec<Day>, Error> {
        let dates = statistics::days(first, last);
        let keys: Vec<String> = dates.iter().flat_map(|date| day_keys(*date)).collect();
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let mut reply = self.run(Script::StatisticsGet, &keys, &[]).await?;
        reply.replayed()?;
        let mut days = Vec::new();
        for (date, mut numbers) in dates.into_iter().zip(reply.list()?.lists()?) {
            let counts = Counts {
                requests: numbers.count()?,
                refusals: numbers.count()?,
                failures: numbers.count()?,
                pages: numbers.count()?,
                characters: numbers.count()?,
            };
            let active_users = numbers.count()?;
            if counts != Counts::default() {
                days.push(Day { date, counts, active_users });
            }
        }
        Ok(days)
    }

    /// Runs a script on a user's keys.
    async fn call<const N: usize>(
        &self,
        script: Script,
        user: &UserId,
        arguments: [Value; N],
    ) -> Result<Reply, Error> {
        let mut arguments = Vec::from(arguments);
        arguments.extend(self.shared.scripts.clock_argument());
        self.run(script, Keys::of(user).all(), &arguments).await
    }

    /// Runs a script. If its answer is lost it may have run, so it is sent once more: every step
    /// is idempotent by the id in its arguments, but for a cancellation, which has none.
    async fn run(
        &self,
        script: Script,
        keys: &[String],
        arguments: &[Value],
    ) -> Result<Reply, Error> {
        let span = info_span!(
            "step",
            otel.name = format_args!("EVALSHA {}", script.name()),
            otel.kind = "client",
            db.system.name = "redis",
            db.operation.name = "EVALSHA",
            db.stored_procedure.name = script.name(),
        );
        let started = Instant::now();
        let reply = self.run_twice(script, keys, arguments).instrument(span).await;
        metrics::histogram!("img2text_redis_step_seconds", "step" => script.name())
            .record(started.elapsed());
        reply
    }

    async fn run_twice(
        &self,
        script: Script,
        keys: &[String],
        arguments: &[Value],
    ) -> Result<Reply, Error> {
        match self.run_once(script, keys, arguments).await {
            // A plan that was bought meanwhile would be cancelled with the old one.
            outcome if script == Script::Cancel => outcome,
            Err(Error::Unavailable(_)) => {
                self.wait_for_redis().await;
                self.run_once(script, keys, arguments).await
            }
            outcome => outcome,
        }
    }

    /// Waits for a Redis that is just being started again, as long as for the answer to a command.
    async fn wait_for_redis(&self) {
        let time = self.shared.client.perf_config().default_command_timeout;
        // In vain: then the next attempt says so.
        let _ = tokio::time::timeout(time, self.shared.client.wait_for_connect()).await;
    }

    async fn run_once(
        &self,
        script: Script,
        keys: &[String],
        arguments: &[Value],
    ) -> Result<Reply, Error> {
        let script = self.shared.scripts.get(script);
        let outcome = match self.evaluate("EVALSHA", script.sha1(), keys, arguments).await {
            // A Redis that was restarted, or another node of a Cluster. EVAL carries the text to
            // the very node that owns the keys, and leaves it there.
            Err(error) if error.details().starts_with("NOSCRIPT") => {
                self.evaluate("EVAL", script.lua(), keys, arguments).await
            }
            outcome => outcome,
        };
        Reply::new(outcome.map_err(reply::failure)?)
    }

    async fn evaluate(
        &self,
        command: &'static str,
        script: Value,
        keys: &[String],
        arguments: &[Value],
    ) -> Result<Value, fred::error::Error> {
        // The slot must be said: by itself the client would hash the first argument, the script.
        let slot = ClusterHash::from(keys[0].as_str());
        let command = CustomCommand::new_static(command, slot, false);
        let mut all = Vec::with_capacity(2 + keys.len() + arguments.len());
        all.push(script);
        all.push(Value::Integer(keys.len() as i64));
        all.extend(keys.iter().map(|key| Value::from(key.as_str())));
        all.extend(arguments.iter().cloned());
        self.shared.client.custom(command, all).await
    }
}

/// Writes the statistics of a store for as long as it is there.
async fn write_statistics(store: Weak<Shared>) {
    loop {
        tokio::time::sleep(WRITE_INTERVAL).await;
        let Some(shared) = store.upgrade() else { return };
        let store = Store { shared, actor: Actor::server() };
        if let Err(error) = store.write_statistics().await {
            tracing::debug!(%error, "statistics wait for Redis");
        }
    }
}

/// The hash tag of everything that is kept over all users.
const STATISTICS_TAG: &str = "{img2text:statistics}";

/// Where a day's counts and its users are kept.
fn day_keys(date: jiff::civil::Date) -> [String; 2] {
    [format!("{STATISTICS_TAG}:day:{date}"), format!("{STATISTICS_TAG}:users:{date}")]
}

/// What became of an attempt to hold a request for a recognition.
pub(super) enum Held {
    New(Answered<Reservation>),
    Answered(StoredAnswer),
}

fn count_reservation(outcome: &'static str) {
    count_reservations(outcome, 1);
}

/// Holds that came to the same end at once.
fn count_reservations(outcome: &'static str, number: u64) {
    metrics::counter!("img2text_quota_reservations_total", "outcome" => outcome).increment(number);
}

fn count_refusal(reason: &'static str) {
    metrics::counter!("img2text_quota_refusals_total", "reason" => reason).increment(1);
}

/// Why a script refused.
fn refusal(status: &str, reply: &mut Reply) -> Error {
    match status {
        "ALREADY_EXISTS" => Error::AlreadyExists,
        "NOT_FOUND" => Error::NotFound,
        "NO_PLAN" => Error::NoPlan,
        "COMMITTED" => Error::AlreadyCommitted,
        "RELEASED" => Error::AlreadyReleased,
        "EXPIRED" => Error::Expired,
        "AMOUNT_EXCEEDS_HELD" => match reply.count() {
            Ok(held) => Error::AmountExceedsHeld { held },
            Err(error) => error,
        },
        other => Error::Internal(format!("a script answered {other:?}")),
    }
}

fn number(number: u64) -> Value {
    // As text: scripts take what Redis gives them, and Redis gives text.
    number.to_string().into()
}

fn millis(duration: Duration) -> Value {
    duration.as_millis().to_string().into()
}

fn flag(flag: bool) -> Value {
    if flag { "1".into() } else { "0".into() }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_keys_of_a_user_are_in_one_cluster_slot() {
        for id in ["42", "a:b", "x@y.z", &"-".repeat(128)] {
            let keys = Keys::of(&UserId::parse(id).unwrap());
            let slot = fred::util::redis_keyslot(format!("sub:user:{id}").as_bytes());
            for key in keys.all() {
                assert_eq!(fred::util::redis_keyslot(key.as_bytes()), slot, "{key}");
            }
        }
        // The figure in the design, so that the tag is the one that was meant.
        assert_eq!(fred::util::redis_keyslot(b"{sub:user:42}:holds"), 2419);
    }
}
