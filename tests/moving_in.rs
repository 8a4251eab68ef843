//! An account that the old system wrote, or that somebody edited by hand, is read as it is meant.

use img2text::quota::catalog::{Free, Period};
use img2text::quota::history::{EntryKind, Filter};
use img2text::quota::{Error, PaymentId};

use crate::on_both;
use crate::support::account::{Account, MINUTE, buckets, id};
use crate::support::redis;

/// The last of the old system's reset dates before the time at which the tests begin.
const JUNE_1: &str = "1906502400";

fn fields(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(field, value)| (field.to_string(), value.to_string())).collect()
}

on_both! {
    async fn a_hash_of_the_old_system_is_spent_and_shows_only_its_fields(account: Account) {
        account
            .write(&[
                ("plan", "30"),
                ("plan_remaining", "2"),
                ("extra_remaining", "4"),
                ("free_used", "2"),
                ("next_reset_ts", JUNE_1),
            ])
            .await;
        let (store, user) = (&account.store, &account.user);
        let quota = store.get(user).await.unwrap();
        assert_eq!(quota.available, buckets(1, 2, 4));
        assert_eq!((quota.granted, quota.spent), (buckets(3, 2, 4), buckets(2, 0, 0)));
        store.reserve(user, &id("a"), 5, MINUTE, false).await.unwrap();
        store.commit(user, &id("a"), Some(4)).await.unwrap();
        assert_eq!(account.hgetall().await, fields(&[
            ("extra_remaining", "3"),
            ("free_used", "3"),
            ("next_reset_ts", JUNE_1),
            ("plan", "30"),
            ("plan_remaining", "0"),
        ]));
        assert_eq!(store.audit(user).await.unwrap(), []);
    }
}

on_both! {
    async fn an_absent_field_means_zero_and_the_date_is_set_without_a_refresh(account: Account) {
        for date in [None, Some("0"), Some("soon"), Some("-5")] {
            redis::command(&account.client, "DEL", &[&account.main_key()]).await;
            account.write(&[("plan", "10"), ("plan_remaining", "1")]).await;
            if let Some(date) = date {
                account.write(&[("next_reset_ts", date)]).await;
            }
            let quota = account.store.get(&account.user).await.unwrap();
            assert_eq!(quota.available, buckets(3, 1, 0), "{date:?}");
            assert!(account.hgetall().await.contains(&("next_reset_ts".into(), JUNE_1.into())));
        }
    }
}

on_both! {
    async fn a_date_in_milliseconds_is_none(account: Account) {
        account.write(&[("plan", "30"), ("plan_remaining", "7"), ("next_reset_ts", "1756684800000")]).await;
        let quota = account.store.get(&account.user).await.unwrap();
        assert_eq!(quota.available, buckets(3, 7, 0));
        let (next, now) = (quota.next_reset.as_second(), account.now().as_second());
        assert!(next > now && next <= now + 31 * 86_400, "{next}");
    }
}

on_both! {
    async fn text_where_a_number_belongs_is_refused_and_nothing_is_changed(account: Account) {
        for (field, bad) in [
            ("plan_remaining", "many"),
            ("extra_remaining", "1.5"),
            ("free_used", ""),
            ("extra_remaining", "1e3"),
            ("plan_remaining", "99999999999999999999"),
        ] {
            redis::command(&account.client, "DEL", &[&account.main_key()]).await;
            account.write(&[("extra_remaining", "5"), (field, bad)]).await;
            let before = account.hgetall().await;
            let payment = PaymentId::parse("p").unwrap();
            for refused in [
                account.store.get(&account.user).await.err(),
                account.store.reserve(&account.user, &id("a"), 1, MINUTE, false).await.err(),
                account.store.grant_extra(&account.user, 1, &payment).await.err(),
            ] {
                let Some(Error::AccountCorrupt { what }) = refused else {
                    panic!("{field}={bad}: {refused:?}")
                };
                assert_eq!(what, format!("{field} is not a number"));
            }
            assert_eq!(account.hgetall().await, before);
            assert_eq!(account.keys().await, [account.main_key()]);
        }
    }
}

on_both! {
    async fn a_key_of_another_type_is_corrupt_and_the_audit_says_so(account: Account) {
        redis::command(&account.client, "SET", &[&account.main_key(), "hello"]).await;
        let refused = account.store.get(&account.user).await;
        assert!(matches!(refused, Err(Error::AccountCorrupt { .. })));
        assert_eq!(account.store.audit(&account.user).await.unwrap().len(), 1);
    }
}

on_both! {
    /// The old system's race could leave -1; and an operator may write any number.
    async fn a_negative_number_counts_as_nothing_and_a_negative_change_as_lapsed(account: Account) {
        account.write(&[("plan", "10"), ("plan_remaining", "-1"), ("extra_remaining", "7")]).await;
        let (store, user) = (&account.store, &account.user);
        assert_eq!(account.available().await, buckets(3, 0, 7));
        store.reserve(user, &id("a"), 4, MINUTE, false).await.unwrap();
        account.write(&[("extra_remaining", "-3")]).await;
        let quota = store.get(user).await.unwrap();
        assert_eq!((quota.available, quota.lapsed), (buckets(0, 0, 0), buckets(0, 0, 6)));
        store.release(user, &id("a"), "").await.unwrap();
        assert_eq!(account.available().await, buckets(3, 0, 1));
        store.grant_extra(user, 2, &PaymentId::parse("p").unwrap()).await.unwrap();
        assert_eq!(account.available().await, buckets(3, 0, 3));
        assert_eq!(store.audit(user).await.unwrap(), []);
    }
}

on_both! {
    async fn an_unknown_plan_keeps_its_remainder_and_is_not_refreshed(account: Account) {
        account.write(&[("plan", "gold"), ("plan_remaining", "8")]).await;
        account.store.reserve(&account.user, &id("a"), 5, MINUTE * 60, false).await.unwrap();
        account.set_time("2030-06-02T00:00:00Z");
        let quota = account.store.get(&account.user).await.unwrap();
        assert_eq!((quota.plan.as_str(), quota.available), ("gold", buckets(3, 8, 0)));
        assert_eq!(quota.next_reset, "2030-07-01T00:00:00Z".parse().unwrap());
    }
}

on_both! {
    async fn a_changed_catalog_becomes_an_entry(account: Account) {
        let user = account.user.clone();
        account.store.reserve(&user, &id("a"), 2, MINUTE, false).await.unwrap();
        account.change(|_, catalog| catalog.free.allowance = 5);
        let quota = account.store.get(&user).await.unwrap();
        assert_eq!((quota.available, quota.granted), (buckets(3, 0, 0), buckets(5, 0, 0)));
        account.change(|_, catalog| catalog.free.allowance = 1);
        let quota = account.store.get(&user).await.unwrap();
        assert_eq!((quota.available, quota.lapsed), (buckets(0, 0, 0), buckets(3, 0, 0)));
        // What comes back above the new allowance lapses: the books stay right.
        account.store.release(&user, &id("a"), "").await.unwrap();
        let quota = account.store.get(&user).await.unwrap();
        assert_eq!((quota.available, quota.lapsed), (buckets(1, 0, 0), buckets(4, 0, 0)));
        assert_eq!(account.store.audit(&user).await.unwrap(), []);
        let filter = Filter { kinds: vec![EntryKind::Adjusted], ..Filter::default() };
        assert_eq!(account.store.history(&user, &filter, 9, "").await.unwrap().items.len(), 2);
    }
}

on_both! {
    /// Somebody deleted the old system's hash: the free allowance is back, the rest is gone, and
    /// the books say so.
    async fn a_hash_deleted_by_hand_is_an_adjustment(account: Account) {
        let user = account.user.clone();
        account.store.grant_extra(&user, 6, &PaymentId::parse("p").unwrap()).await.unwrap();
        account.store.reserve(&user, &id("a"), 3, MINUTE, false).await.unwrap();
        redis::command(&account.client, "DEL", &[&account.main_key()]).await;
        let quota = account.store.get(&user).await.unwrap();
        assert_eq!(quota.available, buckets(3, 0, 0));
        assert_eq!((quota.granted, quota.lapsed), (buckets(6, 0, 6), buckets(0, 0, 6)));
        assert_eq!(account.store.audit(&user).await.unwrap(), []);
    }
}

on_both! {
    async fn the_catalog_sets_the_order_in_which_requests_are_spent(account: Account) {
        account.change(|_, catalog| catalog.spend_order.reverse());
        account.write(&[("plan", "10"), ("plan_remaining", "2"), ("extra_remaining", "2")]).await;
        let held =
            account.store.reserve(&account.user, &id("a"), 5, MINUTE, false).await.unwrap();
        assert_eq!(held.value.held, buckets(1, 2, 2));
    }
}

on_both! {
    async fn a_monthly_free_allowance_comes_back_each_month(account: Account) {
        account.change(|_, catalog| {
            catalog.free = Free { allowance: 4, period: Period::Monthly };
        });
        let (store, user) = (&account.store, &account.user);
        store.reserve(user, &id("spent"), 2, MINUTE, false).await.unwrap();
        store.commit(user, &id("spent"), None).await.unwrap();
        let month = MINUTE * 60 * 24 * 31;
        store.reserve(user, &id("held"), 1, month, false).await.unwrap();
        let refused = store.reserve(user, &id("c"), 3, MINUTE, false).await;
        assert!(matches!(refused, Err(Error::Exhausted { retry_after: Some(_), .. })));
        account.set_time("2030-06-01T00:00:00Z");
        let quota = store.get(user).await.unwrap();
        assert_eq!((quota.available, quota.held), (buckets(4, 0, 0), buckets(1, 0, 0)));
        // The held one was last month's: it lapses instead of overfilling this month.
        store.release(user, &id("held"), "").await.unwrap();
        let quota = store.get(user).await.unwrap();
        assert_eq!((quota.available, quota.lapsed), (buckets(4, 0, 0), buckets(2, 0, 0)));
        assert_eq!(store.audit(user).await.unwrap(), []);
    }
}

/// `img2text storage check` on what the old system left: says what is odd, and changes nothing.
#[test]
fn a_look_before_moving_in_tells_what_is_odd_and_changes_nothing() {
    let redis = redis::Redis::start();
    redis.cli(&["HSET", "sub:user:1", "plan", "30", "plan_remaining", "12", "free_used", "3"]);
    let check = || {
        let output = std::process::Command::new(crate::support::server::PROGRAM)
            .args(["storage", "check", "--redis-url", &redis.url()])
            .output()
            .unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let (code, printed) = check();
    assert_eq!(code, Some(0), "{printed}");
    assert!(printed.contains("1 users, 1 of them untouched"), "{printed}");
    assert!(printed.contains("12 of plans, 0 extra"), "{printed}");

    redis.cli(&["HSET", "sub:user:2", "plan", "gold", "extra_remaining", "-4"]);
    redis.cli(&["HSET", "sub:user:3", "free_used", "three"]);
    redis.cli(&["HSET", "sub:user:4 5", "free_used", "3"]);
    redis.cli(&["SET", "sub:user:6", "text"]);
    let before = redis.cli(&["DEBUG", "DIGEST"]);
    let (code, printed) = check();
    assert_eq!(code, Some(1));
    for told in [
        "sub:user:2: extra_remaining is -4: counts as 0",
        "sub:user:2: plan is \"gold\", which the catalog does not have",
        "sub:user:3: free_used is \"three\", not a number",
        "sub:user:4 5: nobody can have this id",
        "sub:user:6: is not a hash",
        "5 users, 5 of them untouched",
    ] {
        assert!(printed.contains(told), "{told:?} is not in\n{printed}");
    }
    assert!(!printed.contains("sub:user:1:"), "{printed}");
    assert_eq!(redis.cli(&["DEBUG", "DIGEST"]), before);
}
