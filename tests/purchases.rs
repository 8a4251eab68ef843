//! What was bought is granted once and never lost.

use std::time::Duration;

use img2text::quota::history::{EntryKind, Filter};
use img2text::quota::{Bucket, Error, PaymentId};

use crate::on_both;
use crate::reservations::race;
use crate::support::account::{Account, MINUTE, buckets, id};

fn payment(text: &str) -> PaymentId {
    PaymentId::parse(text).unwrap()
}

on_both! {
    async fn a_purchase_never_lowers_what_the_user_can_spend(account: Account) {
        account.write(&[("plan", "1000"), ("plan_remaining", "900")]).await;
        let (store, user) = (&account.store, &account.user);
        let bought = store.activate_plan(user, "10", &payment("p1")).await.unwrap();
        assert_eq!((bought.value.granted, bought.replayed), (buckets(0, 10, 0), false));
        assert_eq!(bought.quota.available, buckets(3, 910, 0));
        assert_eq!(bought.quota.plan, "10");
        let extra = store.grant_extra(user, 5, &payment("p2")).await.unwrap();
        assert_eq!(extra.quota.available, buckets(3, 910, 5));
        account.set_time("2030-06-01T00:00:00Z");
        let quota = store.get(user).await.unwrap();
        assert_eq!((quota.available, quota.lapsed), (buckets(3, 10, 5), buckets(0, 910, 0)));
    }
}

on_both! {
    async fn a_payment_is_remembered_as_long_as_the_account_exists(account: Account) {
        let (store, user) = (&account.store, &account.user);
        store.activate_plan(user, "30", &payment("p1")).await.unwrap();
        account.advance(Duration::from_secs(400 * 86_400));
        let again = store.activate_plan(user, "30", &payment("p1")).await.unwrap();
        assert!(again.replayed);
        assert_eq!(again.value.granted, buckets(0, 30, 0));
        assert_eq!(again.quota.available, buckets(3, 30, 0));
        let other_plan = store.activate_plan(user, "100", &payment("p1")).await;
        assert!(matches!(other_plan, Err(Error::AlreadyExists)));
        let other_kind = store.grant_extra(user, 30, &payment("p1")).await;
        assert!(matches!(other_kind, Err(Error::AlreadyExists)));
    }
}

on_both! {
    async fn a_replayed_payment_for_a_plan_that_is_no_longer_sold_is_still_known(account: Account) {
        let user = account.user.clone();
        account.store.activate_plan(&user, "30", &payment("p1")).await.unwrap();
        account.change(|_, catalog| {
            catalog.plans.remove("30");
        });
        let again = account.store.activate_plan(&user, "30", &payment("p1")).await.unwrap();
        assert!(again.replayed);
        let unknown = account.store.activate_plan(&user, "30", &payment("p2")).await;
        assert!(matches!(unknown, Err(Error::UnknownPlan { .. })));
        assert_eq!(account.available().await, buckets(3, 30, 0));
    }
}

on_both! {
    async fn payments_are_bounded(account: Account) {
        account.change(|settings, _| settings.payments_max = 2);
        let (store, user) = (&account.store, &account.user);
        store.grant_extra(user, 1, &payment("p1")).await.unwrap();
        store.grant_extra(user, 1, &payment("p2")).await.unwrap();
        let refused = store.grant_extra(user, 1, &payment("p3")).await;
        assert!(matches!(refused, Err(Error::TooManyPayments { max: 2 })));
        assert!(store.grant_extra(user, 1, &payment("p2")).await.unwrap().replayed);
        assert_eq!(account.available().await, buckets(3, 0, 2));
    }
}

on_both! {
    async fn a_cancelled_plan_ends_with_the_next_reset_and_not_before(account: Account) {
        let (store, user) = (&account.store, &account.user);
        assert!(matches!(store.cancel_plan(user).await, Err(Error::NoPlan)));
        store.activate_plan(user, "30", &payment("p1")).await.unwrap();
        let cancelled = store.cancel_plan(user).await.unwrap();
        assert!(cancelled.quota.plan_cancelled && !cancelled.replayed);
        assert!(store.cancel_plan(user).await.unwrap().replayed);
        assert_eq!(account.available().await, buckets(3, 30, 0));
        let refused = store.reserve(user, &id("r"), 34, MINUTE, false).await;
        assert!(matches!(refused, Err(Error::Exhausted { retry_after: None, .. })));
        account.set_time("2030-06-01T00:00:00Z");
        let quota = store.get(user).await.unwrap();
        assert_eq!((quota.plan.as_str(), quota.available), ("", buckets(3, 0, 0)));
        assert_eq!((quota.plan_cancelled, quota.lapsed), (false, buckets(0, 30, 0)));
        account.set_time("2030-07-01T00:00:00Z");
        assert_eq!(account.available().await, buckets(3, 0, 0));
    }
}

on_both! {
    async fn activating_a_plan_takes_its_cancellation_back(account: Account) {
        let (store, user) = (&account.store, &account.user);
        store.activate_plan(user, "30", &payment("p1")).await.unwrap();
        store.cancel_plan(user).await.unwrap();
        let bought = store.activate_plan(user, "100", &payment("p2")).await.unwrap();
        assert!(!bought.quota.plan_cancelled);
        account.set_time("2030-06-01T00:00:00Z");
        assert_eq!(account.available().await, buckets(3, 100, 0));
    }
}

on_both! {
    async fn an_adjustment_says_why_and_takes_no_more_than_there_is(account: Account) {
        let store = account.store.acting_as(img2text::quota::Actor::parse("ann").unwrap());
        let user = &account.user;
        let up = store.adjust(user, Bucket::Extra, 7, "sorry", &payment("a1")).await.unwrap();
        assert_eq!((up.value.granted, up.quota.available), (buckets(0, 0, 7), buckets(3, 0, 7)));
        let down = store.adjust(user, Bucket::Free, -9, "abuse", &payment("a2")).await.unwrap();
        assert_eq!((down.value.lapsed, down.quota.available), (buckets(3, 0, 0), buckets(0, 0, 7)));
        assert!(store.adjust(user, Bucket::Free, -9, "abuse", &payment("a2")).await.unwrap().replayed);
        let other_reason = store.adjust(user, Bucket::Free, -9, "other", &payment("a2")).await;
        assert!(matches!(other_reason, Err(Error::AlreadyExists)));
        let filter = Filter { kinds: vec![EntryKind::Adjusted], ..Filter::default() };
        let entries = store.history(user, &filter, 10, "").await.unwrap().items;
        let said: Vec<_> = entries.iter().map(|e| (e.actor.as_str(), e.detail.as_str())).collect();
        assert_eq!(said, [("ann", "abuse"), ("ann", "sorry")]);
    }
}

on_both! {
    /// 64 callers, 500 deliveries of the same web hook.
    async fn of_identical_purchases_at_once_one_takes_effect(account: Account) {
        let first = race(&account.store, |store, _| {
            let (store, user) = (store.clone(), account.user.clone());
            async move { !store.activate_plan(&user, "100", &payment("p")).await.unwrap().replayed }
        });
        assert_eq!(first.await, 1);
        let first = race(&account.store, |store, number| {
            let (store, user) = (store.clone(), account.user.clone());
            let payment = payment(&format!("x{}", number % 10));
            async move { !store.grant_extra(&user, 3, &payment).await.unwrap().replayed }
        });
        assert_eq!(first.await, 10);
        let first = race(&account.store, |store, number| {
            let (store, user) = (store.clone(), account.user.clone());
            let name = payment(&format!("a{}", number % 10));
            async move {
                !store.adjust(&user, Bucket::Extra, -1, "test", &name).await.unwrap().replayed
            }
        });
        assert_eq!(first.await, 10);
        let quota = account.store.get(&account.user).await.unwrap();
        assert_eq!(quota.available, buckets(3, 100, 20));
        assert_eq!(quota.granted, buckets(3, 100, 30));
        assert_eq!(account.store.audit(&account.user).await.unwrap(), []);
    }
}

on_both! {
    /// Spends, grants and cancellations at once; afterwards everything adds up.
    async fn spending_and_granting_at_once_adds_up(account: Account) {
        account.store.activate_plan(&account.user, "10", &payment("p")).await.unwrap();
        let spent = race(&account.store, |store, number| {
            let (store, user) = (store.clone(), account.user.clone());
            async move {
                if number % 5 == 0 {
                    store.grant_extra(&user, 1, &payment(&format!("x{number}"))).await.unwrap();
                    return false;
                }
                let id = id(&format!("r{number}"));
                match store.reserve(&user, &id, 1, MINUTE, false).await {
                    Ok(_) if number % 3 == 0 => {
                        store.release(&user, &id, "").await.unwrap();
                        false
                    }
                    Ok(_) => store.commit(&user, &id, None).await.map(|_| true).unwrap(),
                    Err(Error::Exhausted { .. }) => false,
                    Err(error) => panic!("{error}"),
                }
            }
        })
        .await as u64;
        let quota = account.store.get(&account.user).await.unwrap();
        assert_eq!(quota.spent.total(), spent);
        assert_eq!(quota.available.total(), 3 + 10 + 100 - spent);
        assert_eq!(account.store.audit(&account.user).await.unwrap(), []);
    }
}
