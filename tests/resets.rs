//! A month is a calendar month in UTC, however long nobody looked.

use img2text::quota::history::{EntryKind, Filter};
use img2text::quota::{Error, PaymentId};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};

use crate::on_both;
use crate::support::account::{Account, MINUTE, buckets, id};

async fn with_plan(account: &Account, plan: &str) {
    let payment = PaymentId::parse("plan").unwrap();
    account.store.activate_plan(&account.user, plan, &payment).await.unwrap();
}

async fn spend(account: &Account, name: &str, amount: u64) {
    account.store.reserve(&account.user, &id(name), amount, MINUTE, false).await.unwrap();
    account.store.commit(&account.user, &id(name), None).await.unwrap();
}

on_both! {
    /// Named for a bug that others shipped: 23:59:59 on the last of the month.
    async fn the_last_second_of_a_month_still_belongs_to_it(account: Account) {
        with_plan(&account, "10").await;
        spend(&account, "a", 8).await;
        account.set_time("2030-05-31T23:59:59.999Z");
        assert_eq!(account.available().await, buckets(0, 5, 0));
        account.set_time("2030-06-01T00:00:00Z");
        assert_eq!(account.available().await, buckets(0, 10, 0));
        let filter = Filter { kinds: vec![EntryKind::Reset], ..Filter::default() };
        let resets = account.store.history(&account.user, &filter, 9, "").await.unwrap().items;
        assert_eq!(resets[0].time, "2030-06-01T00:00:00Z".parse().unwrap());
        assert_eq!(resets[0].movement.lapsed, buckets(0, 5, 0));
    }
}

on_both! {
    async fn missed_months_are_one_refresh(account: Account) {
        with_plan(&account, "10").await;
        spend(&account, "a", 8).await;
        account.set_time("2032-02-29T12:00:00Z");
        let quota = account.store.get(&account.user).await.unwrap();
        assert_eq!((quota.available, quota.granted), (buckets(0, 10, 0), buckets(3, 20, 0)));
        assert_eq!(quota.next_reset, "2032-03-01T00:00:00Z".parse().unwrap());
        account.set_time("2032-12-31T23:59:59Z");
        let next = account.store.get(&account.user).await.unwrap().next_reset;
        assert_eq!(next, "2033-01-01T00:00:00Z".parse().unwrap());
    }
}

on_both! {
    /// Named for a bug that others shipped: the first update re-anchored the window.
    async fn using_the_account_does_not_move_the_date(account: Account) {
        with_plan(&account, "10").await;
        for day in 18..31 {
            account.set_time(&format!("2030-05-{day}T10:00:00Z"));
            spend(&account, &format!("d{day}"), 1).await;
            let next = account.store.get(&account.user).await.unwrap().next_reset;
            assert_eq!(next, "2030-06-01T00:00:00Z".parse().unwrap());
        }
    }
}

on_both! {
    /// Named for a bug that others shipped: a refund after the month rolled over undid other
    /// holds.
    async fn a_refund_after_the_month_rolled_over_lapses_and_undoes_nothing(account: Account) {
        with_plan(&account, "10").await;
        let (store, user) = (&account.store, &account.user);
        spend(&account, "free", 3).await;
        store.reserve(user, &id("old"), 4, MINUTE, false).await.unwrap();
        account.set_time("2030-05-31T23:59:50Z");
        store.reserve(user, &id("late"), 4, MINUTE, false).await.unwrap();
        account.set_time("2030-06-01T00:00:10Z");
        store.reserve(user, &id("new"), 7, MINUTE, false).await.unwrap();
        assert_eq!(account.available().await, buckets(0, 3, 0));
        store.release(user, &id("late"), "").await.unwrap();
        let quota = store.get(user).await.unwrap();
        assert_eq!((quota.available, quota.held), (buckets(0, 3, 0), buckets(0, 7, 0)));
        store.release(user, &id("new"), "").await.unwrap();
        assert_eq!(account.available().await, buckets(0, 10, 0));
        assert_eq!(store.audit(user).await.unwrap(), []);
    }
}

on_both! {
    async fn extra_and_lifetime_free_requests_return_in_any_month(account: Account) {
        let (store, user) = (&account.store, &account.user);
        store.grant_extra(user, 2, &PaymentId::parse("p").unwrap()).await.unwrap();
        account.set_time("2030-05-31T23:59:50Z");
        store.reserve(user, &id("a"), 5, MINUTE, false).await.unwrap();
        account.set_time("2030-06-01T00:00:10Z");
        store.release(user, &id("a"), "").await.unwrap();
        assert_eq!(account.available().await, buckets(3, 0, 2));
    }
}

on_both! {
    /// Named for a bug that others shipped: a grant counted twice at a month boundary.
    async fn a_grant_at_the_month_boundary_counts_once(account: Account) {
        with_plan(&account, "10").await;
        account.set_time("2030-05-31T23:59:59.999Z");
        let payment = PaymentId::parse("p2").unwrap();
        account.store.activate_plan(&account.user, "30", &payment).await.unwrap();
        account.set_time("2030-06-01T00:00:00Z");
        let again = account.store.activate_plan(&account.user, "30", &payment).await.unwrap();
        assert!(again.replayed);
        assert_eq!(again.quota.available, buckets(3, 30, 0));
        assert_eq!(again.quota.granted, buckets(3, 10 + 30 + 30, 0));
        assert_eq!(again.quota.lapsed, buckets(0, 40, 0));
        assert_eq!(account.store.audit(&account.user).await.unwrap(), []);
    }
}

on_both! {
    async fn a_refusal_says_when_to_come_back(account: Account) {
        with_plan(&account, "10").await;
        spend(&account, "a", 13).await;
        account.set_time("2030-05-31T00:00:00Z");
        let refused = account.store.reserve(&account.user, &id("b"), 10, MINUTE, false).await;
        let Err(Error::Exhausted { retry_after: Some(wait), .. }) = refused else {
            panic!("{refused:?}")
        };
        assert_eq!(wait.as_secs(), 86_400);
        let refused = account.store.reserve(&account.user, &id("b"), 11, MINUTE, false).await;
        assert!(matches!(refused, Err(Error::Exhausted { retry_after: None, .. })));
    }
}

on_both! {
    async fn a_reply_near_the_limit_says_so(account: Account) {
        with_plan(&account, "10").await;
        spend(&account, "a", 10).await;
        assert!(!account.store.get(&account.user).await.unwrap().near_limit, "10 of 13");
        spend(&account, "b", 1).await;
        assert!(account.store.get(&account.user).await.unwrap().near_limit, "11 of 13");
        account.set_time("2030-06-01T00:00:00Z");
        assert!(!account.store.get(&account.user).await.unwrap().near_limit);
    }
}

/// The date arithmetic of the scripts against a calendar's, over 250 years: the first, the last
/// and a middle second of every month.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_month_is_that_of_the_calendar_for_two_hundred_and_fifty_years() {
    let account = Account::on(&crate::support::redis::shared::standalone()).await;
    let mut month = jiff::civil::date(1999, 12, 1);
    let utc = |date: jiff::civil::Date| {
        date.to_zoned(TimeZone::UTC).expect("UTC has no gaps").timestamp()
    };
    let mut instants = 0;
    while month.year() < 2250 {
        let next = month.checked_add(1.month()).unwrap();
        let middle = utc(month).as_second() + (instants * 7919) % (27 * 86_400);
        for second in [utc(month).as_second(), middle, utc(next).as_second() - 1] {
            let time = Timestamp::from_second(second).unwrap();
            account.set_time(&time.to_string());
            let quota = account.store.get(&account.user).await.unwrap();
            assert_eq!(quota.next_reset, utc(next), "{time}");
            instants += 1;
        }
        month = next;
    }
    assert_eq!(instants, 3 * (250 * 12 + 1));
}
