//! What happened to an account: the entries, and the monthly totals into which they fold.

use std::collections::BTreeMap;
use std::ops::AddAssign;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::account::{Buckets, Error};

/// What kind of thing happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EntryKind {
    /// The account was seen for the first time: what was there, and what had been used.
    Opened,
    /// A hold was committed.
    Committed,
    /// A hold was released.
    Released,
    /// A hold was over before it was settled.
    Expired,
    /// A plan was bought.
    PlanActivated,
    /// Single requests were bought.
    ExtraGranted,
    /// A plan was cancelled.
    PlanCancelled,
    /// An operator adjusted the account, or it was changed from outside.
    Adjusted,
    /// A month began.
    Reset,
}

impl EntryKind {
    /// Every kind, by its name in Redis.
    const NAMES: [(&str, Self); 9] = [
        ("open", Self::Opened),
        ("commit", Self::Committed),
        ("release", Self::Released),
        ("expire", Self::Expired),
        ("activate", Self::PlanActivated),
        ("grant", Self::ExtraGranted),
        ("cancel", Self::PlanCancelled),
        ("adjust", Self::Adjusted),
        ("reset", Self::Reset),
    ];

    fn parse(text: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(name, _)| *name == text).map(|(_, kind)| *kind)
    }

    /// The kind's name in Redis.
    pub fn as_str(self) -> &'static str {
        Self::NAMES.iter().find(|(_, kind)| *kind == self).map_or("", |(name, _)| name)
    }
}

/// What was granted, spent and lapsed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Movement {
    /// What was granted.
    pub granted: Buckets,
    /// What was spent.
    pub spent: Buckets,
    /// What lapsed.
    pub lapsed: Buckets,
}

impl Movement {
    fn parse(numbers: &[u64]) -> Option<Self> {
        let [gf, gp, ge, sf, sp, se, lf, lp, le] = *numbers else { return None };
        Some(Self {
            granted: Buckets { free: gf, plan: gp, extra: ge },
            spent: Buckets { free: sf, plan: sp, extra: se },
            lapsed: Buckets { free: lf, plan: lp, extra: le },
        })
    }
}

impl AddAssign for Movement {
    fn add_assign(&mut self, other: Self) {
        self.granted = self.granted + other.granted;
        self.spent = self.spent + other.spent;
        self.lapsed = self.lapsed + other.lapsed;
    }
}

/// One thing that happened to an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its number: 1 is the account's first.
    pub number: u64,
    /// When it happened.
    pub time: Timestamp,
    /// What happened.
    pub kind: EntryKind,
    /// The reservation or payment that it is about, if it is about one.
    pub id: String,
    /// Who did it.
    pub actor: String,
    /// How much moved.
    pub movement: Movement,
    /// The plan, or the reason.
    pub detail: String,
}

impl Entry {
    /// Reads an entry as the prelude's `record` writes it: kind, time, id, actor, amounts, detail.
    pub(super) fn parse(number: u64, text: &str) -> Result<Self, Error> {
        Self::read(number, text)
            .ok_or_else(|| Error::AccountCorrupt { what: "an entry is unreadable".into() })
    }

    fn read(number: u64, text: &str) -> Option<Self> {
        let parts: Vec<&str> = text.splitn(6, '|').collect();
        let [kind, at_ms, id, actor, amounts, detail] = parts[..] else { return None };
        let numbers: Option<Vec<u64>> = amounts
            .split(',')
            .map(|amount| if amount.is_empty() { Some(0) } else { amount.parse().ok() })
            .collect();
        Some(Self {
            number,
            time: Timestamp::from_millisecond(at_ms.parse().ok()?).ok()?,
            kind: EntryKind::parse(kind)?,
            id: id.into(),
            actor: actor.into(),
            movement: Movement::parse(&numbers?)?,
            detail: detail.into(),
        })
    }

    fn month(&self) -> String {
        let date = self.time.to_zoned(TimeZone::UTC);
        format!("{:04}-{:02}", date.year(), date.month())
    }
}

/// The sums of one month.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Month {
    /// How many things happened.
    pub entries: u64,
    /// How much moved.
    pub movement: Movement,
}

/// Months by their name, as in `2026-11`.
pub type Months = BTreeMap<String, Month>;

/// Reads the monthly totals as the prelude's `fold_history` writes them.
pub(super) fn parse_months(fields: &[(String, String)]) -> Result<Months, Error> {
    let corrupt = || Error::AccountCorrupt { what: "a month is unreadable".into() };
    let read = |text: &str| {
        let numbers: Vec<u64> =
            text.split(',').map(str::parse).collect::<Result<_, _>>().map_err(|_| corrupt())?;
        let (entries, sums) = numbers.split_first().ok_or_else(corrupt)?;
        let movement = Movement::parse(sums).ok_or_else(corrupt)?;
        Ok(Month { entries: *entries, movement })
    };
    fields.iter().map(|(name, text)| Ok((name.clone(), read(text)?))).collect()
}

/// Adds entries that are not folded yet to their months.
pub(super) fn fold(months: &mut Months, entries: &[Entry]) {
    for entry in entries {
        let month = months.entry(entry.month()).or_default();
        month.entries += 1;
        month.movement += entry.movement;
    }
}

/// Which entries are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only entries at this time or later.
    pub start: Option<Timestamp>,
    /// Only entries before this time.
    pub end: Option<Timestamp>,
    /// Only these kinds; empty: all.
    pub kinds: Vec<EntryKind>,
}

impl Filter {
    pub(super) fn wants(&self, entry: &Entry) -> bool {
        self.start.is_none_or(|start| entry.time >= start)
            && self.end.is_none_or(|end| entry.time < end)
            && (self.kinds.is_empty() || self.kinds.contains(&entry.kind))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_reads_as_it_is_written() {
        let text = "adjust|1905206400000|p-1|ann|,,,,,,,7,|because: a|b";
        let entry = Entry::parse(9, text).unwrap();
        assert_eq!((entry.number, entry.kind, entry.id.as_str()), (9, EntryKind::Adjusted, "p-1"));
        assert_eq!((entry.actor.as_str(), entry.detail.as_str()), ("ann", "because: a|b"));
        assert_eq!(entry.movement.lapsed, Buckets { plan: 7, ..Buckets::default() });
        assert_eq!(entry.month(), "2030-05");
        for bad in ["", "adjust|x|p|a|,,,,,,,,|", "adjust|1|p|a|,,|", "what|1|p|a|,,,,,,,,|"] {
            assert!(Entry::parse(1, bad).is_err(), "{bad}");
        }
    }
}
