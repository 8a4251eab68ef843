//! From Redis into a file.

use std::path::Path;

use fred::clients::Client;
use futures::stream::{self, StreamExt};
use jiff::Timestamp;

use super::file::{Record, Summary, Writer};
use super::keys::{self, Scan};
use super::{Error, PATTERNS};
use crate::quota::{Keys, UserId};

/// How many users are read at the same time.
const READS_MAX: usize = 32;

/// Writes a backup of everything to `path`. `progress` is told of each record.
///
/// Memory does not grow with the number of users: each is written as soon as it is read.
pub async fn create(
    client: &Client,
    path: &Path,
    progress: impl Fn(&Record),
) -> Result<Summary, Error> {
    let shape = keys::shape(client).await?;
    let mut writer = Writer::create(path, Timestamp::now().as_millisecond() as u64)?;
    for pattern in PATTERNS {
        let mut scan = Scan::new(client, pattern)?;
        while let Some(found) = scan.next().await? {
            let records = found.iter().map(|key| record(client, key));
            let mut records = stream::iter(records).buffer_unordered(READS_MAX);
            while let Some(record) = records.next().await {
                if let Some(record) = record? {
                    progress(&record);
                    writer.write(&record)?;
                }
            }
        }
    }
    if keys::shape(client).await? != shape {
        return Err(Error::Changed);
    }
    writer.finish()
}

/// The record that a key stands for. A user's main key stands for all of that user's; a user who
/// has none (a deleted one) is found by the account's key.
async fn record(client: &Client, key: &str) -> Result<Option<Record>, Error> {
    if let Some(id) = key.strip_prefix(Keys::MAIN_PREFIX) {
        return match UserId::parse(id) {
            Ok(user) => self::user(client, &user).await,
            // Nobody's account here, but somebody's data.
            Err(_) => server(client, key).await,
        };
    }
    let Some(rest) = key.strip_prefix('{').and_then(|key| key.strip_prefix(Keys::MAIN_PREFIX))
    else {
        return server(client, key).await;
    };
    match rest.strip_suffix("}:account").map(UserId::parse) {
        Some(Ok(user)) if !keys::exists(client, Keys::of(&user).main()).await? => {
            self::user(client, &user).await
        }
        // A side key comes with its user.
        _ => Ok(None),
    }
}

async fn user(client: &Client, user: &UserId) -> Result<Option<Record>, Error> {
    let keys = Keys::of(user);
    let keys = keys::read(client, keys.lasting(), &Keys::names()).await?;
    Ok((!keys.is_empty()).then(|| Record::User { user: user.to_string(), keys }))
}

async fn server(client: &Client, key: &str) -> Result<Option<Record>, Error> {
    let mut found = keys::read(client, &[key.to_string()], &[key]).await?;
    Ok(found.pop().map(|key| Record::Server { key }))
}
