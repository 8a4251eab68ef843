//! What happened over all users, by day: counted in memory, written to Redis twice a second.
//!
//! A server that is killed loses what it has not written yet. A batch whose reply was lost is sent
//! again under the same number, and Redis does not add it twice.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};

use super::account::{UserId, Work};

/// How often what was counted is written.
pub(super) const WRITE_INTERVAL: Duration = Duration::from_millis(500);

/// The most days that are read at once.
pub const DAYS_MAX: usize = 400;

/// What happened on one day, over all users.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Recognitions that were charged or answered again.
    pub requests: u64,
    /// Recognitions and reservations refused for lack of quota.
    pub refusals: u64,
    /// Recognitions that failed after their request was reserved.
    pub failures: u64,
    /// Pages recognised.
    pub pages: u64,
    /// Characters recognised.
    pub characters: u64,
}

/// A day's counts, and how many users there were.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Day {
    /// The day, UTC.
    pub date: Date,
    /// What happened.
    pub counts: Counts,
    /// How many users did any of it, within about one percent.
    pub active_users: u64,
}

/// Something that is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    Recognized(Work),
    AnsweredAgain,
    Refused,
    Failed,
}

impl Event {
    /// Its name in the metrics.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Recognized(_) => "recognized",
            Self::AnsweredAgain => "answered_again",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }
}

/// What was counted on one day and is not written yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Batch {
    /// Numbers the batches of this server from 1 on.
    pub number: u64,
    pub date: Date,
    pub counts: Counts,
    pub users: HashSet<UserId>,
}

/// The counters of one server.
#[derive(Debug)]
pub(super) struct Statistics {
    /// Names this run of this server, so that batches can be numbered.
    pub server: String,
    counted: Mutex<Counted>,
    /// Held while a batch is being written, so that they are written one after the other.
    pub writing: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Counted {
    days: BTreeMap<Date, Batch>,
    /// The batch that was sent last, until Redis has acknowledged it.
    sent: Option<Batch>,
    batches: u64,
}

impl Statistics {
    pub(super) fn new() -> Self {
        Self {
            server: uuid::Uuid::new_v4().to_string(),
            counted: Mutex::default(),
            writing: tokio::sync::Mutex::default(),
        }
    }

    fn counted(&self) -> MutexGuard<'_, Counted> {
        // Numbers are whole between two lines of code: a panic elsewhere has not broken them.
        self.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn count(&self, user: &UserId, event: Event) {
        let date = today();
        let mut counted = self.counted();
        let batch = counted.days.entry(date).or_default();
        let counts = &mut batch.counts;
        match event {
            Event::Recognized(work) => {
                counts.requests += 1;
                counts.pages += u64::from(work.pages);
                counts.characters += work.characters;
            }
            Event::AnsweredAgain => counts.requests += 1,
            Event::Refused => counts.refusals += 1,
            Event::Failed => counts.failures += 1,
        }
        if !batch.users.contains(user) {
            batch.users.insert(user.clone());
        }
    }

    /// The batch to send: the same again until it is acknowledged.
    pub(super) fn next(&self) -> Option<Batch> {
        let mut counted = self.counted();
        if counted.sent.is_none() {
            let (date, batch) = counted.days.pop_first()?;
            counted.batches += 1;
            counted.sent = Some(Batch { number: counted.batches, date, ..batch });
        }
        counted.sent.clone()
    }

    pub(super) fn acknowledged(&self) {
        self.counted().sent = None;
    }
}

/// Today, UTC.
pub fn today() -> Date {
    Timestamp::now().to_zoned(TimeZone::UTC).date()
}

/// The days from the first to the last, as many as may be read at once.
pub(super) fn days(first: Date, last: Date) -> Vec<Date> {
    let first = first.max(last.saturating_sub((DAYS_MAX as i64 - 1).days()));
    first.series(1.day()).take_while(|day| *day <= last).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_the_same_until_it_is_acknowledged() {
        let (statistics, user) = (Statistics::new(), UserId::parse("42").unwrap());
        assert_eq!(statistics.next(), None);
        statistics.count(&user, Event::Recognized(Work { pages: 2, characters: 30 }));
        let first = statistics.next().unwrap();
        statistics.count(&user, Event::Refused);
        assert_eq!(statistics.next(), Some(first.clone()));
        assert_eq!((first.number, first.counts.characters, first.users.len()), (1, 30, 1));
        statistics.acknowledged();
        let second = statistics.next().unwrap();
        assert_eq!((second.number, second.counts.refusals, second.counts.requests), (2, 1, 0));
    }

    #[test]
    fn a_range_of_days_is_bounded_and_keeps_the_latest() {
        let date = |text: &str| text.parse::<Date>().unwrap();
        let leap = days(date("2028-02-28"), date("2028-03-01"));
        assert_eq!(leap, ["2028-02-28", "2028-02-29", "2028-03-01"].map(date));
        assert_eq!(days(date("2028-02-28"), date("2028-02-27")), []);
        let long = days(date("2000-01-01"), date("2028-02-29"));
        assert_eq!((long.len(), long.last()), (DAYS_MAX, Some(&date("2028-02-29"))));
    }
}
