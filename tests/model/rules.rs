//! The rules of the account once more: in plain Rust, in memory, without Redis, without Lua.

use std::collections::BTreeMap;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};

/// Numbers of requests: free, plan, extra.
pub type Amounts = [i64; 3];

pub const FREE: usize = 0;
pub const PLAN: usize = 1;
pub const EXTRA: usize = 2;

/// What a step answers: numbers, or the name of an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Done { replayed: bool, numbers: Vec<i64> },
    Refused(&'static str),
}

use Outcome::{Done, Refused};

fn done(numbers: &[i64]) -> Outcome {
    Done { replayed: false, numbers: numbers.to_vec() }
}

fn replayed(numbers: &[i64]) -> Outcome {
    Done { replayed: true, numbers: numbers.to_vec() }
}

/// What the rules depend on.
#[derive(Clone, Debug)]
pub struct Rules {
    pub free_allowance: i64,
    pub free_monthly: bool,
    pub plans: BTreeMap<&'static str, i64>,
    pub holds_open_max: usize,
    pub payments_max: usize,
    pub settled_ttl_ms: i64,
    pub answer_ttl_ms: i64,
    pub charge_ttl_ms: i64,
}

#[derive(Clone, Debug)]
pub struct Hold {
    amounts: Amounts,
    pub expires_ms: i64,
    ttl_ms: i64,
    /// How often each bucket had been refreshed when the hold was taken.
    refreshes: Amounts,
    request: Option<(u8, u8)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Committed,
    Released,
    Expired,
}

#[derive(Clone, Debug)]
struct Settled {
    state: State,
    held: i64,
    spent: Amounts,
    at_ms: i64,
}

#[derive(Clone, Debug)]
struct Answer {
    fingerprint: u8,
    at_ms: i64,
    spent: Amounts,
}

/// What the old system's hash says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fields {
    pub plan: Option<String>,
    pub plan_remaining: i64,
    pub extra_remaining: i64,
    pub free_used: i64,
    pub next_reset_s: i64,
}

/// An account.
#[derive(Clone, Debug)]
pub struct Account {
    pub rules: Rules,
    pub now_ms: i64,
    pub fields: Fields,
    /// The hash is there.
    pub written: bool,
    opened: bool,
    deleted: bool,
    pub cancelled: bool,
    pub granted: Amounts,
    pub spent: Amounts,
    pub lapsed: Amounts,
    pub allotted: i64,
    seen: Amounts,
    refreshes: Amounts,
    pub holds: BTreeMap<String, Hold>,
    settled: BTreeMap<String, Settled>,
    payments: BTreeMap<String, (String, Vec<i64>)>,
    answers: BTreeMap<u8, Answer>,
}

impl Account {
    pub fn new(rules: Rules, now_ms: i64) -> Self {
        Self {
            rules,
            now_ms,
            fields: Fields::default(),
            written: false,
            opened: false,
            deleted: false,
            cancelled: false,
            granted: [0; 3],
            spent: [0; 3],
            lapsed: [0; 3],
            allotted: 0,
            seen: [0; 3],
            refreshes: [0; 3],
            holds: BTreeMap::new(),
            settled: BTreeMap::new(),
            payments: BTreeMap::new(),
            answers: BTreeMap::new(),
        }
    }

    pub fn available(&self) -> Amounts {
        [
            (self.rules.free_allowance - self.fields.free_used).max(0),
            self.fields.plan_remaining.max(0),
            self.fields.extra_remaining.max(0),
        ]
    }

    pub fn held(&self) -> Amounts {
        self.holds.values().fold([0; 3], |sum, hold| add(sum, hold.amounts))
    }

    /// Does a step: brings the account up to date, then lets `step` change it. Where a step
    /// refuses, only what was due stays done; and somebody of whom nothing is known leaves no
    /// trace.
    fn step(&mut self, step: impl FnOnce(&mut Self) -> Outcome) -> Outcome {
        if self.deleted {
            return Refused("deleted");
        }
        let (stranger, before) = (!self.written && !self.opened, self.clone());
        self.catch_up();
        let due = self.clone();
        let outcome = step(self);
        if !matches!(outcome, Done { replayed: false, .. }) {
            *self = if stranger { before } else { due };
        }
        if self.opened || !stranger {
            self.written = true;
            self.seen = self.available();
        }
        outcome
    }

    /// Looks without a trace: what `get` answers.
    pub fn get(&mut self) -> Option<Self> {
        let mut shown = None;
        let stranger = !self.written && !self.opened;
        let before = self.clone();
        let outcome = self.step(|account| {
            shown = Some(account.clone());
            done(&[])
        });
        if stranger && outcome != Refused("deleted") {
            *self = before;
        }
        shown
    }

    fn catch_up(&mut self) {
        if self.opened {
            self.adopt_changes();
        } else {
            self.opened = true;
            let used = [self.fields.free_used.max(0), 0, 0];
            self.granted = add(self.available(), used);
            self.spent = used;
            self.allot();
        }
        let mut reset_s = None;
        if self.fields.next_reset_s <= 0 {
            self.fields.next_reset_s = next_month_s(self.now_ms);
        } else if self.now_ms / 1000 >= self.fields.next_reset_s {
            reset_s = Some(self.fields.next_reset_s.max(this_month_s(self.now_ms)));
        }
        let mut due: Vec<(i64, String)> = self
            .holds
            .iter()
            .filter(|(_, hold)| hold.expires_ms <= self.now_ms)
            .map(|(id, hold)| (hold.expires_ms, id.clone()))
            .collect();
        due.sort();
        for (expires_ms, id) in due {
            if reset_s.is_some_and(|reset_s| reset_s * 1000 <= expires_ms) {
                reset_s = None;
                self.reset();
            }
            self.settle(&id, State::Expired, 0);
        }
        if reset_s.is_some() {
            self.reset();
        }
    }

    fn adopt_changes(&mut self) {
        let mut gained = false;
        for (bucket, now) in self.available().into_iter().enumerate() {
            let difference = now - self.seen[bucket];
            self.granted[bucket] += difference.max(0);
            self.lapsed[bucket] += (-difference).max(0);
            gained |= difference > 0;
        }
        if gained {
            self.allot();
        }
    }

    fn reset(&mut self) {
        let plan = self.fields.plan.clone().unwrap_or_default();
        let quota = self.rules.plans.get(plan.as_str()).copied();
        let mut refreshed = false;
        if self.cancelled {
            self.refresh(PLAN, 0);
            self.fields.plan = None;
            self.cancelled = false;
            refreshed = true;
        } else if let Some(quota) = quota {
            self.refresh(PLAN, quota);
            refreshed = true;
        }
        if self.rules.free_monthly {
            self.refresh(FREE, self.rules.free_allowance);
            refreshed = true;
        }
        self.fields.next_reset_s = next_month_s(self.now_ms);
        if refreshed {
            self.allot();
        }
    }

    fn refresh(&mut self, bucket: usize, quota: i64) {
        self.lapsed[bucket] += self.available()[bucket];
        self.granted[bucket] += quota;
        self.refreshes[bucket] += 1;
        match bucket {
            FREE => self.fields.free_used = 0,
            _ => self.fields.plan_remaining = quota,
        }
    }

    fn allot(&mut self) {
        self.allotted = total(self.available()) + total(self.held());
    }

    fn put(&mut self, bucket: usize, amount: i64) {
        if amount == 0 {
            return;
        }
        let now = self.available()[bucket] + amount;
        match bucket {
            FREE => self.fields.free_used -= amount,
            PLAN => self.fields.plan_remaining = now,
            _ => self.fields.extra_remaining = now,
        }
    }

    fn settle(&mut self, id: &str, state: State, amount: i64) -> Amounts {
        let hold = self.holds.remove(id).expect("the hold is open");
        let mut rest = amount;
        let mut spent = [0; 3];
        for bucket in [FREE, PLAN, EXTRA] {
            spent[bucket] = rest.min(hold.amounts[bucket]);
            rest -= spent[bucket];
            let back = hold.amounts[bucket] - spent[bucket];
            let before = self.available()[bucket];
            if hold.refreshes[bucket] == self.refreshes[bucket] {
                self.put(bucket, back);
            }
            self.lapsed[bucket] += back - (self.available()[bucket] - before);
        }
        self.spent = add(self.spent, spent);
        let settled = Settled { state, held: total(hold.amounts), spent, at_ms: self.now_ms };
        self.settled.insert(id.into(), settled);
        spent
    }

    fn remembered(&self, id: &str) -> Option<&Settled> {
        self.settled
            .get(id)
            .filter(|settled| settled.at_ms + self.rules.settled_ttl_ms > self.now_ms)
    }

    pub fn reserve(&mut self, id: &str, amount: i64, ttl_ms: i64, only_validate: bool) -> Outcome {
        let mut validated = None;
        let outcome = self.step(|account| {
            let outcome = account.hold(id, amount, ttl_ms, None);
            match outcome {
                // Nothing may stay of it, and yet this is its answer.
                Done { replayed: false, .. } if only_validate => {
                    validated = Some(outcome);
                    Refused("validated")
                }
                outcome => outcome,
            }
        });
        validated.unwrap_or(outcome)
    }

    fn hold(&mut self, id: &str, amount: i64, ttl_ms: i64, request: Option<(u8, u8)>) -> Outcome {
        if let Some(settled) = self.remembered(id) {
            let same = settled.held == amount;
            return Refused(if same { name(settled.state) } else { "exists" });
        }
        if let Some(hold) = self.holds.get(id) {
            let same = total(hold.amounts) == amount && hold.ttl_ms == ttl_ms;
            return if same { replayed(&numbers(hold)) } else { Refused("exists") };
        }
        if total(self.available()) < amount {
            return Refused("exhausted");
        }
        if self.holds.len() >= self.rules.holds_open_max {
            return Refused("too many holds");
        }
        let mut rest = amount;
        let mut amounts = [0; 3];
        for bucket in [FREE, PLAN, EXTRA] {
            amounts[bucket] = rest.min(self.available()[bucket]);
            rest -= amounts[bucket];
            self.put(bucket, -amounts[bucket]);
        }
        let expires_ms = self.now_ms + ttl_ms;
        let hold = Hold { amounts, expires_ms, ttl_ms, refreshes: self.refreshes, request };
        let answer = done(&numbers(&hold));
        self.holds.insert(id.into(), hold);
        answer
    }

    pub fn commit(&mut self, id: &str, amount: Option<i64>) -> Outcome {
        self.step(|account| {
            if let Some(settled) = account.remembered(id) {
                let asked = amount.unwrap_or(settled.held);
                return match settled.state {
                    State::Committed if total(settled.spent) == asked => replayed(&settled.spent),
                    state => Refused(name(state)),
                };
            }
            let Some(hold) = account.holds.get(id) else { return Refused("not found") };
            let amount = amount.unwrap_or(total(hold.amounts));
            if amount > total(hold.amounts) {
                return Refused("exceeds");
            }
            let request = hold.request;
            let spent = account.settle(id, State::Committed, amount);
            if let Some((request, fingerprint)) = request {
                let answer = Answer { fingerprint, at_ms: account.now_ms, spent };
                account.answers.insert(request, answer);
            }
            done(&spent)
        })
    }

    pub fn release(&mut self, id: &str) -> Outcome {
        self.step(|account| match account.remembered(id).map(|settled| settled.state) {
            Some(State::Released) => replayed(&[]),
            Some(state) => Refused(name(state)),
            None if account.holds.contains_key(id) => {
                account.settle(id, State::Released, 0);
                done(&[])
            }
            None => Refused("not found"),
        })
    }

    pub fn extend(&mut self, id: &str, ttl_ms: i64) -> Outcome {
        self.step(|account| {
            if let Some(settled) = account.remembered(id) {
                return Refused(name(settled.state));
            }
            let now_ms = account.now_ms;
            let Some(hold) = account.holds.get_mut(id) else { return Refused("not found") };
            hold.expires_ms = hold.expires_ms.max(now_ms + ttl_ms);
            done(&numbers(hold))
        })
    }

    /// Starts a recognition; `id` is for the hold that it may take.
    pub fn charge(&mut self, id: &str, request: u8, fingerprint: u8) -> Outcome {
        self.step(|account| {
            if let Some(answer) = account.answers.get(&request)
                && answer.at_ms + account.rules.answer_ttl_ms > account.now_ms
            {
                let same = answer.fingerprint == fingerprint;
                return if same { replayed(&answer.spent) } else { Refused("exists") };
            }
            let mut holds = account.holds.values();
            let running =
                holds.find_map(|hold| hold.request.filter(|(known, _)| *known == request));
            match running {
                Some((_, known)) if known != fingerprint => Refused("exists"),
                Some(_) => Refused("in progress"),
                None => {
                    let ttl_ms = account.rules.charge_ttl_ms;
                    account.hold(id, 1, ttl_ms, Some((request, fingerprint)))
                }
            }
        })
    }

    pub fn purchase(
        &mut self,
        kind: &str,
        payment: &str,
        plan: &str,
        bucket: usize,
        amount: i64,
    ) -> Outcome {
        let parameters = format!("{kind} {plan} {bucket} {amount}");
        self.step(|account| {
            if let Some((known, numbers)) = account.payments.get(payment) {
                return if *known == parameters { replayed(numbers) } else { Refused("exists") };
            }
            if account.payments.len() >= account.rules.payments_max {
                return Refused("too many payments");
            }
            let mut amount = amount;
            if kind == "activate" {
                let Some(quota) = account.rules.plans.get(plan) else {
                    return Refused("unknown plan");
                };
                amount = *quota;
                account.fields.plan = Some(plan.into());
                account.cancelled = false;
            }
            amount = amount.max(-account.available()[bucket]);
            match bucket {
                FREE => {
                    let left = account.available()[FREE] + amount;
                    account.fields.free_used = account.rules.free_allowance - left;
                }
                _ => account.put(bucket, amount),
            }
            let (mut granted, mut lapsed) = ([0; 3], [0; 3]);
            granted[bucket] = amount.max(0);
            lapsed[bucket] = (-amount).max(0);
            account.granted = add(account.granted, granted);
            account.lapsed = add(account.lapsed, lapsed);
            if amount > 0 {
                account.allot();
            }
            let numbers = [granted, lapsed].concat();
            account.payments.insert(payment.into(), (parameters, numbers.clone()));
            done(&numbers)
        })
    }

    pub fn cancel(&mut self) -> Outcome {
        self.step(|account| {
            if account.fields.plan.is_none() {
                return Refused("no plan");
            }
            if account.cancelled {
                return replayed(&[]);
            }
            account.cancelled = true;
            done(&[])
        })
    }

    pub fn delete(&mut self) -> Outcome {
        if self.deleted {
            return replayed(&[]);
        }
        if !self.written && !self.opened {
            return Refused("no account");
        }
        *self = Self { deleted: true, ..Self::new(self.rules.clone(), self.now_ms) };
        done(&[])
    }
}

fn name(state: State) -> &'static str {
    match state {
        State::Committed => "committed",
        State::Released => "released",
        State::Expired => "expired",
    }
}

fn numbers(hold: &Hold) -> Vec<i64> {
    let [free, plan, extra] = hold.amounts;
    vec![free, plan, extra, hold.expires_ms]
}

pub fn total(amounts: Amounts) -> i64 {
    amounts.iter().sum()
}

pub fn add(one: Amounts, other: Amounts) -> Amounts {
    [one[0] + other[0], one[1] + other[1], one[2] + other[2]]
}

fn month(now_ms: i64) -> Date {
    let now = Timestamp::from_millisecond(now_ms).expect("the time is in range");
    now.to_zoned(TimeZone::UTC).date().first_of_month()
}

fn start_s(date: Date) -> i64 {
    date.to_zoned(TimeZone::UTC).expect("UTC has no gaps").timestamp().as_second()
}

pub fn this_month_s(now_ms: i64) -> i64 {
    start_s(month(now_ms))
}

pub fn next_month_s(now_ms: i64) -> i64 {
    start_s(month(now_ms).checked_add(1.month()).expect("the time is in range"))
}
