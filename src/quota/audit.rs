//! Whether an account adds up, computed from what is stored and by none of the code that wrote it.

use std::collections::HashMap;

use super::export::{Fields, Stored};
use super::history::{self, Entry, Movement};

/// Something that does not add up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What was compared with what.
    pub check: String,
    /// What it should be.
    pub expected: i64,
    /// What it is.
    pub found: i64,
}

impl Finding {
    pub(super) fn unreadable(what: &str) -> Self {
        Self { check: format!("readable: {what}"), expected: 1, found: 0 }
    }
}

const BUCKETS: [&str; 3] = ["free", "plan", "extra"];

/// Checks an account. One that this system has not touched yet has nothing to check.
///
/// What is available is what the main hash showed when it was last written by us (`seen_*`): what
/// somebody else changed in it since then is adopted, with an entry, on the next touch.
pub(super) fn audit(stored: &Stored) -> Vec<Finding> {
    let account = match numbers(&stored.account) {
        Ok(account) => account,
        Err(finding) => return vec![finding],
    };
    if !account.contains_key("opened_ms") {
        return Vec::new();
    }
    let mut checks = Checks::default();
    let get = |field: String| account.get(&field).copied().unwrap_or(0);
    let held = held(stored, &mut checks);
    for (index, bucket) in BUCKETS.iter().enumerate() {
        let counter = |name| get(format!("{name}_{bucket}"));
        checks.equal(
            format!("granted = available + held + spent + lapsed, {bucket}"),
            counter("granted"),
            counter("seen") + held[index] + counter("spent") + counter("lapsed"),
        );
        checks.equal(format!("held = sum of the holds, {bucket}"), counter("held"), held[index]);
    }
    let Some((entries, total)) = recorded(stored) else {
        checks.findings.push(Finding::unreadable("the history"));
        return checks.findings;
    };
    checks.equal("entries = history + months".into(), get("history_entries".into()), entries);
    for (name, buckets) in
        [("granted", total.granted), ("spent", total.spent), ("lapsed", total.lapsed)]
    {
        let sums = [buckets.free, buckets.plan, buckets.extra];
        for (bucket, sum) in BUCKETS.iter().zip(sums) {
            let counter = get(format!("{name}_{bucket}"));
            checks.equal(format!("{name} = history + months, {bucket}"), counter, sum as i64);
        }
    }
    checks.findings
}

#[derive(Default)]
struct Checks {
    findings: Vec<Finding>,
}

impl Checks {
    fn equal(&mut self, check: String, expected: i64, found: i64) {
        if expected != found {
            self.findings.push(Finding { check, expected, found });
        }
    }
}

fn numbers(fields: &Fields) -> Result<HashMap<String, i64>, Finding> {
    let read = |(field, value): &(String, String)| {
        let value = value.parse().map_err(|_| Finding::unreadable(field))?;
        Ok((field.clone(), value))
    };
    fields.iter().map(read).collect()
}

/// The sum of the holds, by bucket; and every hold must be in the index of expiries, at its time.
fn held(stored: &Stored, checks: &mut Checks) -> [i64; 3] {
    let expiries: HashMap<_, _> =
        stored.expiries.iter().map(|(id, time)| (id.as_str(), time.as_str())).collect();
    let mut sums = [0; 3];
    let mut holds = 0;
    for (id, text) in stored.holds.iter().filter(|(id, _)| !id.contains('/')) {
        let parts: Vec<&str> = text.split('|').collect();
        let amounts: Vec<i64> = parts.iter().take(3).filter_map(|part| part.parse().ok()).collect();
        let (3, Some(expires)) = (amounts.len(), parts.get(3)) else {
            checks.findings.push(Finding::unreadable(&format!("hold {id}")));
            continue;
        };
        holds += 1;
        for (sum, amount) in sums.iter_mut().zip(amounts) {
            *sum += amount;
        }
        let indexed = expiries.get(id.as_str()).copied().unwrap_or("0");
        let millis = |text: &str| text.parse().unwrap_or(-1);
        checks.equal(format!("expiry of hold {id}"), millis(expires), millis(indexed));
    }
    checks.equal("holds = expiries".into(), holds, stored.expiries.len() as i64);
    sums
}

/// How many things are recorded, in the history and its monthly totals, and what they sum up to.
fn recorded(stored: &Stored) -> Option<(i64, Movement)> {
    let mut months = history::parse_months(&stored.months).ok()?;
    let parse = |text: &String| Entry::parse(0, text).ok();
    let entries: Vec<Entry> = stored.history.iter().map(parse).collect::<Option<_>>()?;
    history::fold(&mut months, &entries);
    let mut total = Movement::default();
    let mut count = 0;
    for month in months.values() {
        total += month.movement;
        count += month.entries as i64;
    }
    Some((count, total))
}
