//! The main job: check, queue, reserve, recognise, settle.
//!
//! The order is the promise. What can be refused without work is refused first and touches no
//! account. A caller without quota never waits for a worker. Nothing is charged before the text is
//! there, and the text is not handed out before the charge is settled.

use std::time::{Duration, Instant};

use bytes::Bytes;
use sha2::{Digest, Sha256};

use crate::ocr::{self, Options, Page, WhenFull};
use crate::quota::{
    self, Actor, Charge, Charged, Quota, RequestId, Settled, State, Store, StoredAnswer, UserId,
    Work,
};

/// What is left of the caller's time when a worker is told to stop: enough to settle the hold and to
/// answer before the caller stops listening.
const SETTLING_TIME: Duration = Duration::from_millis(250);
/// What is left of it when the answer has to leave.
const ANSWERING_TIME: Duration = Duration::from_millis(50);

/// Recognises pictures and charges the accounts of those who asked.
#[derive(Clone)]
pub struct Recognizer {
    pool: ocr::Pool,
    store: Store,
    /// Who asks, if that is known.
    actor: Option<Actor>,
}

/// One page to recognise, and who pays.
#[derive(Clone, Debug)]
pub struct Request {
    /// Whose account pays.
    pub user: UserId,
    /// The name under which the same request can be asked again without a second charge.
    pub request_id: Option<RequestId>,
    /// The encoded picture.
    pub image: Bytes,
    /// How to read it.
    pub options: Options,
    /// When the caller stops waiting.
    pub deadline: Instant,
    /// What to do where too many wait already.
    pub when_full: WhenFull,
}

/// A recognised page, and what it cost.
#[derive(Clone, Debug)]
pub struct Recognized {
    /// What was read.
    pub page: Page,
    /// What became of the charge.
    pub settled: Settled,
}

/// Why a page was not recognised. Nothing is charged then.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The account refused, or could not be asked.
    #[error(transparent)]
    Quota(#[from] quota::Error),
    /// The picture was refused, or the recogniser failed.
    #[error(transparent)]
    Ocr(#[from] ocr::Error),
    /// The answer is larger than a reply may be.
    #[error("the answer has {bytes} bytes; a reply may have {bytes_max}")]
    ReplyTooLarge {
        /// What the answer takes.
        bytes: usize,
        /// What it may take.
        bytes_max: usize,
    },
}

impl Recognizer {
    /// A recogniser on the given workers and accounts.
    pub fn new(pool: ocr::Pool, store: Store) -> Self {
        Self { pool, store, actor: None }
    }

    /// The same recogniser, with `actor` as the one who asks and spends.
    pub fn acting_as(&self, actor: Actor) -> Self {
        let store = self.store.acting_as(actor.clone());
        Self { pool: self.pool.clone(), store, actor: Some(actor) }
    }

    /// The workers.
    pub fn pool(&self) -> &ocr::Pool {
        &self.pool
    }

    /// Counts the pages of a file. Costs nothing.
    pub async fn count_pages(&self, request: &Request) -> Result<u32, Error> {
        self.pool.check(&request.image, &request.options)?;
        let worker = self.queue(request).await?.worker().await?;
        Ok(worker.count(&request.image, request.deadline).await?)
    }

    #[tracing::instrument(name = "admit", skip_all)]
    async fn queue(&self, request: &Request) -> Result<ocr::Place, ocr::Error> {
        // Callers take turns. Where they need not say who they are, their users do: but one who
        // did could take as many turns as it can think of users.
        let caller = self.actor.as_ref().map_or(request.user.as_str(), Actor::as_str);
        self.pool.queue(caller, &request.image, request.deadline, request.when_full).await
    }

    /// Recognises one page and charges one request for it, if the page can be `accept`ed as an
    /// answer.
    ///
    /// If this future is dropped, because the caller went away, the hold goes back: [`Charge`]
    /// releases what it was not told to commit.
    pub async fn recognize(
        &self,
        request: Request,
        accept: impl Fn(&Page) -> Result<(), Error>,
    ) -> Result<Recognized, Error> {
        self.pool.check(&request.image, &request.options)?;
        let place = self.queue(&request).await?;
        let request_id = request.request_id.as_ref();
        let charge =
            match self.store.charge(&request.user, request_id, request.fingerprint()).await? {
                Charged::New(charge) => charge,
                Charged::Answered(stored) => return Recognized::again(stored),
            };
        let page = work(place, &request).await.map_err(Error::from);
        let answer_by = before(request.deadline, ANSWERING_TIME);
        let page = page.and_then(|page| match Instant::now() < answer_by {
            true => accept(&page).map(|()| page),
            // Nobody would be there any more to take it.
            false => Err(ocr::Error::DeadlineExceeded.into()),
        });
        match page {
            Ok(page) => Ok(settle(charge, page, answer_by).await),
            Err(error) => {
                // The caller may ask again at once: its request must be back by then.
                charge.release().await;
                Err(error)
            }
        }
    }

    /// Says what [`recognize`](Self::recognize) would say before any work is done, and changes
    /// nothing: the account as it stands, or why the request would be refused.
    pub async fn validate(&self, request: &Request) -> Result<Quota, Error> {
        self.pool.check(&request.image, &request.options)?;
        let request_id = request.request_id.as_ref();
        let quota =
            self.store.validate_charge(&request.user, request_id, request.fingerprint()).await?;
        Ok(quota)
    }
}

async fn work(place: ocr::Place, request: &Request) -> Result<Page, ocr::Error> {
    let worker = place.worker().await?;
    // A deadline that is nearer than that is as good as over.
    let deadline = before(request.deadline, SETTLING_TIME);
    worker.recognize(&request.image, &request.options, deadline).await
}

/// Charges for a page. Where the store of accounts does not say in time that it did, the caller gets
/// its text all the same.
async fn settle(charge: Charge, page: Page, answer_by: Instant) -> Recognized {
    let work = Work { pages: 1, characters: page.text.chars().count() as u64 };
    let answer = serde_json::to_vec(&page).ok().map(Bytes::from);
    let commit = tokio::time::timeout_at(answer_by.into(), charge.commit(work, answer));
    // The commit goes on by itself.
    let settled = commit.await.unwrap_or_else(|_| Settled::not_charged(State::Unconfirmed));
    Recognized { page, settled }
}

fn before(deadline: Instant, time: Duration) -> Instant {
    deadline.checked_sub(time).unwrap_or(deadline)
}

impl Request {
    /// A digest of everything that determines the answer.
    fn fingerprint(&self) -> [u8; 32] {
        let mut digest = Sha256::new();
        let options = serde_json::to_vec(&self.options).unwrap_or_default();
        digest.update((options.len() as u64).to_le_bytes());
        digest.update(options);
        digest.update(&self.image);
        digest.finalize().into()
    }
}

impl Recognized {
    /// The answer of a request that was answered and paid before.
    fn again(stored: StoredAnswer) -> Result<Self, Error> {
        let page = serde_json::from_slice(&stored.answer).map_err(|error| {
            let what = format!("a stored answer is unreadable: {error}");
            quota::Error::AccountCorrupt { what }
        })?;
        let quota = Some(stored.quota);
        Ok(Self { page, settled: Settled { state: State::Confirmed, spent: stored.spent, quota } })
    }
}
