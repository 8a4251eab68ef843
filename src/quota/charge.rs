//! The guard of one recognition: whatever happens to the call, its hold is settled.

use std::io::{Read, Write};
use std::time::Duration;

use bytes::Bytes;
use flate2::Compression;
use flate2::read::DeflateDecoder;
use flate2::write::DeflateEncoder;
use tokio::task::JoinHandle;
use tracing::{Instrument, info_span};

use super::account::{
    Answered, Error, Quota, RequestId, ReservationId, Settled, State, StoredAnswer, UserId, Work,
};
use super::statistics::Event;
use super::store::{Held, Store};

/// A request that is held for a recognition which is running.
///
/// While it lives, its hold is extended. Dropped uncommitted (a failure, a timeout, a caller who
/// went away: tonic drops the future of a cancelled call) it gives the request back, in a task
/// that outlives the call; [`Store::settled`] waits for those.
#[derive(Debug)]
#[must_use = "a charge that is dropped is given back"]
pub struct Charge {
    /// Taken by `commit`, so that dropping the rest gives nothing back.
    hold: Option<Hold>,
}

/// What starting a charge came to.
#[derive(Debug)]
pub enum Charged {
    /// A request is held: do the work.
    New(Charge),
    /// The work was done and paid before: this is what was answered.
    Answered(StoredAnswer),
}

struct Hold {
    store: Store,
    user: UserId,
    id: ReservationId,
    extender: JoinHandle<()>,
}

impl std::fmt::Debug for Hold {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hold").field("user", &self.user).field("id", &self.id).finish()
    }
}

impl Store {
    /// Holds one request of the user's for a recognition.
    ///
    /// The same `request` again is answered from what the first one stored; while that still runs
    /// it is [`Error::InProgress`], and with another fingerprint (a digest of everything that
    /// determines the answer) [`Error::AlreadyExists`].
    #[tracing::instrument(name = "reserve", skip_all)]
    pub async fn charge(
        &self,
        user: &UserId,
        request: Option<&RequestId>,
        fingerprint: [u8; 32],
    ) -> Result<Charged, Error> {
        let ttl = Duration::from_millis(self.settings().hold_ttl_ms_default);
        let id = ReservationId::random();
        let request = request.map(|request| (request, fingerprint));
        // The attempt runs in a task of its own: if the caller goes away while Redis is asked,
        // the hold may be there, and nobody else would know its id.
        let attempt = {
            let (store, user, request) =
                (self.clone(), user.clone(), request.map(|(id, print)| (id.clone(), print)));
            let attempt = async move {
                let request = request.as_ref().map(|(id, print)| (id, *print));
                let held = store.reserve_request(&user, &id, ttl, false, request).await?;
                Ok(match held {
                    Held::New(_) => Charged::New(Charge::new(store, user, id, ttl)),
                    Held::Answered(stored) => Charged::Answered(StoredAnswer {
                        answer: decompress(&stored.answer)?.into(),
                        ..stored
                    }),
                })
            };
            self.settlements().spawn(attempt.in_current_span())
        };
        attempt.await.map_err(|error| Error::Internal(error.to_string()))?
    }

    /// What [`charge`](Self::charge) would come to, and changes nothing: the account, or why it
    /// would be refused.
    pub async fn validate_charge(
        &self,
        user: &UserId,
        request: Option<&RequestId>,
        fingerprint: [u8; 32],
    ) -> Result<Quota, Error> {
        let ttl = Duration::from_millis(self.settings().hold_ttl_ms_default);
        let request = request.map(|request| (request, fingerprint));
        match self.reserve_request(user, &ReservationId::random(), ttl, true, request).await? {
            Held::New(held) => Ok(held.quota),
            Held::Answered(stored) => Ok(stored.quota),
        }
    }
}

impl Charge {
    fn new(store: Store, user: UserId, id: ReservationId, ttl: Duration) -> Self {
        let extender = tokio::spawn(extend(store.clone(), user.clone(), id.clone(), ttl));
        Self { hold: Some(Hold { store, user, id, extender }) }
    }

    /// The work is done: spends the request, and stores `answer` under its request id in the same
    /// atomic step.
    ///
    /// Never fails, because the work is there whatever Redis says: if it does not answer, twice,
    /// the charge is unconfirmed; if the hold is gone, nothing was charged.
    #[tracing::instrument(name = "commit", skip_all)]
    pub async fn commit(mut self, work: Work, answer: Option<Bytes>) -> Settled {
        let Some(hold) = self.hold.take() else {
            return Settled::not_charged(State::Lapsed);
        };
        // In a task of its own: once begun it is brought to an end, even if the caller goes away.
        let tasks = hold.store.clone();
        let commit = tasks.settlements().spawn(commit(hold, work, answer).in_current_span());
        commit.await.unwrap_or_else(|_| Settled::not_charged(State::Unconfirmed))
    }

    /// The work was not done: gives the request back, and waits until it is, so that a caller who
    /// asks again at once finds it there.
    pub async fn release(mut self) {
        if let Some(release) = self.start_release() {
            // The task logs what went wrong.
            let _ = release.await;
        }
    }

    fn start_release(&mut self) -> Option<JoinHandle<()>> {
        let hold = self.hold.take()?;
        let tasks = hold.store.clone();
        tasks.count(&hold.user, Event::Failed);
        let release = async move {
            if let Err(error) = hold.store.release(&hold.user, &hold.id, "").await {
                // It goes back by itself when its time is over.
                tracing::warn!(reservation = %hold.id, %error, "a hold could not be released");
            }
        };
        Some(tasks.settlements().spawn(release.instrument(info_span!("release"))))
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.start_release();
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.extender.abort();
    }
}

async fn commit(hold: Hold, work: Work, answer: Option<Bytes>) -> Settled {
    hold.extender.abort();
    let answer = answer.and_then(|answer| compress(&hold.store, &answer)).unwrap_or_default();
    match hold.store.commit_with_answer(&hold.user, &hold.id, None, answer).await {
        Ok(Answered { value: spent, quota, .. }) => {
            hold.store.count(&hold.user, Event::Recognized(work));
            Settled { state: State::Confirmed, spent, quota: Some(quota) }
        }
        Err(Error::Expired | Error::AlreadyReleased | Error::NotFound | Error::AccountDeleted) => {
            tracing::warn!(reservation = %hold.id, "the hold was over before the work was");
            Settled::not_charged(State::Lapsed)
        }
        Err(error) => {
            tracing::error!(reservation = %hold.id, %error, "a charge could not be confirmed");
            Settled::not_charged(State::Unconfirmed)
        }
    }
}

/// Gives the hold more time, for as long as the work takes. A call whose extension fails goes on:
/// there are two more attempts before the hold is over.
async fn extend(store: Store, user: UserId, id: ReservationId, ttl: Duration) {
    loop {
        tokio::time::sleep(ttl / 3).await;
        match store.extend(&user, &id, ttl).await {
            Ok(_) => {}
            Err(Error::Unavailable(error)) => {
                tracing::warn!(reservation = %id, %error, "a hold could not be extended");
            }
            // Somebody settled it; the commit will say so.
            Err(_) => return,
        }
    }
}

/// The answer as it is stored; nothing if it is not to be stored or is too large.
fn compress(store: &Store, answer: &[u8]) -> Option<Bytes> {
    if store.settings().answer_ttl_ms == 0 {
        return None;
    }
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(answer).ok()?;
    let compressed = encoder.finish().ok()?;
    (compressed.len() <= store.settings().answer_bytes_max).then(|| compressed.into())
}

/// The opposite of `compress`.
pub(super) fn decompress(stored: &[u8]) -> Result<Vec<u8>, Error> {
    let mut answer = Vec::new();
    DeflateDecoder::new(stored)
        .read_to_end(&mut answer)
        .map_err(|_| Error::AccountCorrupt { what: "a stored answer is unreadable".into() })?;
    Ok(answer)
}
