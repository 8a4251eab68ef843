//! From a file into Redis.

use std::collections::HashSet;

use fred::clients::Client;
use futures::future::try_join_all;

use super::file::{Archive, Key, Record};
use super::keys::{self, Scan, Written};
use super::{Error, PATTERNS};
use crate::quota::{Keys, UserId};

/// How many records are written at the same time.
const WRITES_MAX: usize = 32;
/// A key with less than this left to live, in milliseconds, may be gone when it is compared.
const SHORT_LIFE_MS: u64 = 60_000;

/// What becomes of what is in Redis already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// There must be nothing.
    Refuse,
    /// It is deleted.
    Replace,
    /// It stays, and the backup adds what is not there.
    Keep,
}

/// What was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// Records that were written and found as they should be.
    pub written: u64,
    /// Records that were there before, just the same.
    pub same: u64,
    /// Records that were not written because something else was there.
    pub skipped: u64,
}

/// What became of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was written, read again, and is the same.
    Written,
    /// It had been there before.
    Same,
    /// Something else was there and stays.
    Skipped,
}

/// Restores a verified backup, or one user of it, and compares what is in Redis then. `progress`
/// is told what became of each record, by user or key.
pub async fn restore(
    client: &Client,
    archive: &Archive,
    only: Option<&UserId>,
    existing: Existing,
    mut progress: impl FnMut(&str, Outcome),
) -> Result<Restored, Error> {
    if only.is_none() {
        match existing {
            Existing::Refuse if !is_empty(client).await? => return Err(Error::NotEmpty),
            Existing::Replace => delete_everything(client).await?,
            Existing::Refuse | Existing::Keep => {}
        }
    }
    let mut restored = Restored::default();
    let mut batch = Batch::default();
    for record in archive.records()? {
        let target = Target::of(record?)?;
        if only.is_some_and(|user| target.name != user.as_str() || !target.is_user) {
            continue;
        }
        if batch.is_full_for(&target) {
            batch.write(client, existing, &mut restored, &mut progress).await?;
        }
        batch.add(target);
    }
    batch.write(client, existing, &mut restored, &mut progress).await?;
    match only {
        Some(user) if restored == Restored::default() => Err(Error::NoSuchUser(user.to_string())),
        Some(user)
            if existing == Existing::Refuse && restored.skipped > 0 && restored.written == 0 =>
        {
            Err(Error::UserExists(user.to_string()))
        }
        _ => Ok(restored),
    }
}

/// Records that are written at the same time: no two of the same user, of whom the later is right.
#[derive(Default)]
struct Batch {
    targets: Vec<Target>,
    names: HashSet<String>,
}

impl Batch {
    fn is_full_for(&self, target: &Target) -> bool {
        self.targets.len() == WRITES_MAX || self.names.contains(&target.name)
    }

    fn add(&mut self, target: Target) {
        self.names.insert(target.name.clone());
        self.targets.push(target);
    }

    async fn write(
        &mut self,
        client: &Client,
        existing: Existing,
        restored: &mut Restored,
        progress: &mut impl FnMut(&str, Outcome),
    ) -> Result<(), Error> {
        let outcomes = self.targets.iter().map(|target| target.write(client, existing));
        for (target, outcome) in self.targets.iter().zip(try_join_all(outcomes).await?) {
            match outcome {
                Outcome::Written => restored.written += 1,
                Outcome::Same => restored.same += 1,
                Outcome::Skipped => restored.skipped += 1,
            }
            progress(&target.name, outcome);
        }
        *self = Self::default();
        Ok(())
    }
}

/// A record and where it belongs.
struct Target {
    /// The user's id, or the name of the key.
    name: String,
    is_user: bool,
    /// All keys whose place the record takes.
    keys: Vec<String>,
    /// Those of them that it may hold.
    lasting: usize,
    names: Vec<String>,
    records: Vec<Key>,
}

impl Target {
    fn of(record: Record) -> Result<Self, Error> {
        match record {
            Record::User { user, keys: records } => {
                let id = UserId::parse(user.as_str()).map_err(|_| Error::Unsupported {
                    key: user.clone(),
                    kind: "not a user's id".into(),
                })?;
                let keys = Keys::of(&id);
                Ok(Self {
                    name: user,
                    is_user: true,
                    lasting: keys.lasting().len(),
                    keys: keys.all().to_vec(),
                    names: Keys::names().map(String::from).to_vec(),
                    records,
                })
            }
            Record::Server { key } => Ok(Self {
                name: key.name.clone(),
                is_user: false,
                keys: vec![key.name.clone()],
                lasting: 1,
                names: vec![key.name.clone()],
                records: vec![key],
            }),
            Record::Header { .. } | Record::Manifest(_) => unreachable!("not among the records"),
        }
    }

    async fn write(&self, client: &Client, existing: Existing) -> Result<Outcome, Error> {
        let names: Vec<&str> = self.names.iter().map(String::as_str).collect();
        let only_absent = existing != Existing::Replace;
        let written = keys::write(client, &self.keys, &names, &self.records, only_absent).await?;
        let found = keys::read(client, &self.keys[..self.lasting], &names).await?;
        match (written, is_same(&self.records, &found)) {
            (Written::Yes, true) => Ok(Outcome::Written),
            (Written::Yes, false) => Err(Error::Different(self.name.clone())),
            (Written::Present, true) => Ok(Outcome::Same),
            (Written::Present, false) => Ok(Outcome::Skipped),
        }
    }
}

/// Whether what was found is what was meant, but for the time that has passed.
fn is_same(meant: &[Key], found: &[Key]) -> bool {
    let is_found = |key: &Key| match found.iter().find(|found| found.name == key.name) {
        Some(found) => {
            found.content == key.content
                && found.remaining_ms.is_some() == key.remaining_ms.is_some()
        }
        None => key.remaining_ms.is_some_and(|remaining_ms| remaining_ms < SHORT_LIFE_MS),
    };
    let is_meant = |key: &Key| meant.iter().any(|meant| meant.name == key.name);
    meant.iter().all(is_found) && found.iter().all(is_meant)
}

async fn is_empty(client: &Client) -> Result<bool, Error> {
    for pattern in PATTERNS {
        let mut scan = Scan::new(client, pattern)?;
        while let Some(found) = scan.next().await? {
            if !found.is_empty() {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

async fn delete_everything(client: &Client) -> Result<(), Error> {
    for pattern in PATTERNS {
        let mut scan = Scan::new(client, pattern)?;
        while let Some(found) = scan.next().await? {
            try_join_all(found.iter().map(|key| keys::delete(client, key))).await?;
        }
    }
    Ok(())
}
