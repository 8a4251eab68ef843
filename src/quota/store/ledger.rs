//! What is bought, and what happened: purchases, adjustments, history, usage.

use super::reply::Reply;
use super::{Script, Store, number, refusal};
use crate::quota::account::{Answered, Buckets, Error, PaymentId, Quota, Reservation, UserId};
use crate::quota::catalog::Bucket;
use crate::quota::history::{self, Entry, Filter, Months, Movement};
use crate::quota::page::{Page, Tokens};

/// How many entries of the history are read at once.
const ENTRIES_READ: u64 = 1_000;

impl Store {
    /// Gives the user a plan that was paid for; what is left of the old one is added to it.
    /// Answers what was granted.
    pub async fn activate_plan(
        &self,
        user: &UserId,
        plan: &str,
        payment: &PaymentId,
    ) -> Result<Answered<Movement>, Error> {
        let purchase = Purchase { kind: "activate", plan, bucket: Bucket::Plan, number: 0 };
        self.purchase(user, payment, purchase, plan).await
    }

    /// Gives the user requests that were bought one by one. Answers what was granted.
    pub async fn grant_extra(
        &self,
        user: &UserId,
        amount: u64,
        payment: &PaymentId,
    ) -> Result<Answered<Movement>, Error> {
        let amount = i64::try_from(amount).unwrap_or(i64::MAX);
        let purchase = Purchase { kind: "grant", plan: "", bucket: Bucket::Extra, number: amount };
        self.purchase(user, payment, purchase, "").await
    }

    /// Adds requests to a bucket, or takes away as many of them as are available. Answers what was
    /// granted and what lapsed.
    pub async fn adjust(
        &self,
        user: &UserId,
        bucket: Bucket,
        delta: i64,
        reason: &str,
        adjustment: &PaymentId,
    ) -> Result<Answered<Movement>, Error> {
        let purchase = Purchase { kind: "adjust", plan: "", bucket, number: delta };
        self.purchase(user, adjustment, purchase, reason).await
    }

    async fn purchase(
        &self,
        user: &UserId,
        payment: &PaymentId,
        Purchase { kind, plan, bucket, number }: Purchase<'_>,
        detail: &str,
    ) -> Result<Answered<Movement>, Error> {
        let arguments = [
            kind.into(),
            payment.as_str().into(),
            self.actor.as_str().into(),
            plan.into(),
            bucket.as_str().into(),
            number.to_string().into(),
            detail.into(),
        ];
        let mut reply = self.call(Script::Purchase, user, arguments).await?;
        let status = reply.status()?;
        let quota = self.quota(user, &mut reply)?;
        match status.as_str() {
            "OK" | "REPLAYED" => {
                let mut numbers = reply.list()?;
                let (granted, lapsed) = (numbers.buckets()?, numbers.buckets()?);
                let value = Movement { granted, spent: Buckets::default(), lapsed };
                Ok(Answered { value, quota, replayed: status == "REPLAYED" })
            }
            "UNKNOWN_PLAN" => Err(Error::UnknownPlan { plan: plan.into() }),
            "TOO_MANY_PAYMENTS" => {
                Err(Error::TooManyPayments { max: self.settings().payments_max })
            }
            other => Err(refusal(other, &mut reply)),
        }
    }

    /// Ends the user's plan with the next reset.
    pub async fn cancel_plan(&self, user: &UserId) -> Result<Answered<()>, Error> {
        let mut reply = self.call(Script::Cancel, user, [self.actor.as_str().into()]).await?;
        let replayed = reply.replayed()?;
        Ok(Answered { value: (), quota: self.quota(user, &mut reply)?, replayed })
    }

    /// Lists the open holds, in the order in which their time is over.
    pub async fn reservations(
        &self,
        user: &UserId,
        page_size: usize,
        page_token: &str,
    ) -> Result<Page<Reservation>, Error> {
        let tokens = Tokens::of(&["reservations", user.as_str()]);
        let after = tokens.read(page_token)?;
        let mut reply = self.call(Script::Holds, user, []).await?;
        self.quota(user, reply.accept("OK")?)?;
        let mut holds = reply.list()?.lists()?;
        let mut items = Vec::new();
        // A position is a time and an id, so that holds which come and go between two pages
        // neither hide nor repeat others.
        let position =
            |hold: &Reservation| format!("{:020}|{}", hold.expires.as_millisecond(), hold.id);
        let mut all =
            holds.iter_mut().map(Reply::reservation).collect::<Result<Vec<_>, _>>()?.into_iter();
        let mut more = false;
        for hold in all.by_ref() {
            if after.as_ref().is_some_and(|after| position(&hold) <= *after) {
                continue;
            }
            if items.len() == page_size {
                more = true;
                break;
            }
            items.push(hold);
        }
        let last = items.last().filter(|_| more);
        let next_page_token = last.map_or_else(String::new, |last| tokens.make(&position(last)));
        Ok(Page { items, next_page_token })
    }

    /// Lists what happened to an account, newest first.
    pub async fn history(
        &self,
        user: &UserId,
        filter: &Filter,
        page_size: usize,
        page_token: &str,
    ) -> Result<Page<Entry>, Error> {
        let tokens = Tokens::of(&["history", user.as_str(), &format!("{filter:?}")]);
        let mut before = match tokens.read(page_token)? {
            Some(position) => position.parse().map_err(|_| Error::InvalidPageToken)?,
            None => 0,
        };
        let mut items: Vec<Entry> = Vec::new();
        loop {
            let entries = self.entries(user, before, ENTRIES_READ).await?;
            for entry in &entries {
                if items.len() == page_size {
                    let last = items.last().map_or(0, |last| last.number);
                    return Ok(Page { items, next_page_token: tokens.make(&last.to_string()) });
                }
                if filter.wants(entry) {
                    items.push(entry.clone());
                }
            }
            match entries.last() {
                Some(last) if last.number > 1 => before = last.number,
                _ => return Ok(Page { items, next_page_token: String::new() }),
            }
        }
    }

    async fn entries(&self, user: &UserId, before: u64, count: u64) -> Result<Vec<Entry>, Error> {
        let mut reply = self.call(Script::History, user, [number(before), number(count)]).await?;
        self.quota(user, reply.accept("OK")?)?;
        let newest = reply.count()?;
        entries(newest, reply.list()?.texts()?)
    }

    /// What moved in each month since the account exists.
    pub async fn usage(&self, user: &UserId) -> Result<(Months, Quota), Error> {
        let mut reply = self.call(Script::Usage, user, []).await?;
        let quota = self.quota(user, reply.accept("OK")?)?;
        let mut months = history::parse_months(&reply.list()?.pairs()?)?;
        history::fold(&mut months, &entries(u64::MAX, reply.list()?.texts()?)?);
        Ok((months, quota))
    }
}

struct Purchase<'a> {
    kind: &'static str,
    plan: &'a str,
    bucket: Bucket,
    number: i64,
}

fn entries(newest: u64, texts: Vec<String>) -> Result<Vec<Entry>, Error> {
    (0..).zip(texts).map(|(older, text)| Entry::parse(newest - older, &text)).collect()
}
