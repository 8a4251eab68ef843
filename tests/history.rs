//! What was used can be shown, and the numbers can be proven to add up at any time.

use std::collections::HashSet;
use std::time::Duration;

use img2text::quota::history::{EntryKind, Filter, Movement};
use img2text::quota::{Actor, Error, PaymentId, Store, UserId};

use crate::on_both;
use crate::support::account::{Account, MINUTE, buckets, id};
use crate::support::redis::{self, Cluster};

async fn spend(store: &Store, user: &UserId, name: &str) {
    store.reserve(user, &id(name), 1, MINUTE, false).await.unwrap();
    store.commit(user, &id(name), None).await.unwrap();
}

on_both! {
    async fn the_history_tells_what_happened_newest_first(account: Account) {
        let store = account.store.acting_as(Actor::parse("shop").unwrap());
        let user = &account.user;
        store.reserve(user, &id("a"), 2, MINUTE, false).await.unwrap();
        store.commit(user, &id("a"), Some(1)).await.unwrap();
        store.reserve(user, &id("b"), 1, MINUTE, false).await.unwrap();
        store.release(user, &id("b"), "stuck").await.unwrap();
        store.reserve(user, &id("c"), 1, MINUTE, false).await.unwrap();
        let expired = account.now() + jiff::SignedDuration::from_secs(60);
        account.advance(MINUTE * 5);
        let entries = store.history(user, &Filter::default(), 100, "").await.unwrap().items;
        let told: Vec<_> = entries
            .iter()
            .map(|entry| (entry.number, entry.kind, entry.id.as_str(), entry.actor.as_str()))
            .collect();
        assert_eq!(told, [
            (4, EntryKind::Expired, "c", "img2text"),
            (3, EntryKind::Released, "b", "shop"),
            (2, EntryKind::Committed, "a", "shop"),
            (1, EntryKind::Opened, "", "img2text"),
        ]);
        assert_eq!(entries[0].time, expired, "what fell due has the time at which it fell due");
        assert_eq!(entries[1].detail, "stuck");
        assert_eq!(entries[2].movement.spent, buckets(1, 0, 0));
        assert_eq!(entries[3].movement.granted, buckets(3, 0, 0));
    }
}

on_both! {
    async fn pages_show_every_entry_once_even_while_new_ones_come(account: Account) {
        account.write(&[("extra_remaining", "100")]).await;
        let (store, user) = (&account.store, &account.user);
        for number in 0..25 {
            spend(store, user, &format!("r{number}")).await;
        }
        let filter = Filter { kinds: vec![EntryKind::Committed], ..Filter::default() };
        let (mut token, mut seen) = (String::new(), Vec::new());
        loop {
            let page = store.history(user, &filter, 10, &token).await.unwrap();
            assert!(page.items.len() <= 10);
            seen.extend(page.items.iter().map(|entry| entry.number));
            token = page.next_page_token;
            if token.is_empty() {
                break;
            }
            spend(store, user, &format!("later{}", seen.len())).await;
        }
        assert_eq!(seen, (2..27).rev().collect::<Vec<u64>>());
        let page = store.history(user, &filter, 10, "").await.unwrap();
        let other = Filter { kinds: vec![EntryKind::Opened], ..Filter::default() };
        let refused = store.history(user, &other, 10, &page.next_page_token).await;
        assert!(matches!(refused, Err(Error::InvalidPageToken)));
    }
}

on_both! {
    async fn the_history_can_be_filtered_by_time(account: Account) {
        let (store, user) = (&account.store, &account.user);
        spend(store, user, "a").await;
        account.advance(MINUTE);
        let second = account.now();
        spend(store, user, "b").await;
        account.advance(MINUTE);
        let third = account.now();
        spend(store, user, "c").await;
        let filter = Filter { start: Some(second), end: Some(third), kinds: vec![] };
        let entries = store.history(user, &filter, 10, "").await.unwrap().items;
        let ids: Vec<_> = entries.iter().map(|entry| entry.id.as_str()).collect();
        assert_eq!(ids, ["b"]);
    }
}

on_both! {
    async fn nothing_is_lost_by_folding(account: Account) {
        account.change(|settings, _| settings.history_entries_max = 10);
        account.write(&[("plan", "1000"), ("plan_remaining", "1000")]).await;
        let (store, user) = (&account.store, &account.user);
        for month in 5..12 {
            account.set_time(&format!("2030-{month:02}-15T12:00:00Z"));
            for number in 0..30 {
                spend(store, user, &format!("{month}-{number}")).await;
            }
        }
        let (months, quota) = store.usage(user).await.unwrap();
        let names: Vec<_> = months.keys().map(String::as_str).collect();
        assert_eq!(names, [
            "2030-05", "2030-06", "2030-07", "2030-08", "2030-09", "2030-10", "2030-11",
        ]);
        let mut total = Movement::default();
        let mut entries = 0;
        for month in months.values() {
            assert_eq!(month.movement.spent.total(), 30);
            total += month.movement;
            entries += month.entries;
        }
        assert_eq!(entries, 1 + 7 * 30 + 6, "an opening, every commit, every reset");
        assert_eq!((total.granted, total.spent, total.lapsed),
            (quota.granted, quota.spent, quota.lapsed));
        assert!(store.history(user, &Filter::default(), 1000, "").await.unwrap().items.len() <= 10);
        assert_eq!(store.audit(user).await.unwrap(), []);
    }
}

on_both! {
    async fn the_audit_says_who_does_not_balance_and_by_how_much(account: Account) {
        let (store, user) = (&account.store, &account.user);
        store.reserve(user, &id("a"), 2, MINUTE, false).await.unwrap();
        assert_eq!(store.audit(user).await.unwrap(), []);
        let key = format!("{{sub:user:{user}}}:account");
        redis::command(&account.client, "HINCRBY", &[&key, "granted_free", "5"]).await;
        let findings = store.audit(user).await.unwrap();
        let balance = &findings[0];
        assert_eq!(balance.check, "granted = available + held + spent + lapsed, free");
        assert_eq!((balance.expected, balance.found), (8, 3));
        assert_eq!(findings[1].check, "granted = history + months, free");
        redis::command(&account.client, "HINCRBY", &[&key, "granted_free", "-5"]).await;
        let holds = format!("{{sub:user:{user}}}:holds");
        redis::command(&account.client, "HDEL", &[&holds, "a"]).await;
        assert!(!store.audit(user).await.unwrap().is_empty(), "a lost hold is found");
    }
}

on_both! {
    /// An operator's change to the old system's fields is no finding: the next touch adopts it.
    async fn a_change_from_outside_becomes_an_entry_and_the_books_still_balance(account: Account) {
        let (store, user) = (&account.store, &account.user);
        spend(store, user, "a").await;
        account.write(&[("extra_remaining", "40"), ("free_used", "3")]).await;
        assert_eq!(store.audit(user).await.unwrap(), []);
        let quota = store.get(user).await.unwrap();
        assert_eq!(quota.available, buckets(0, 0, 40));
        assert_eq!((quota.granted, quota.lapsed), (buckets(3, 0, 40), buckets(2, 0, 0)));
        let newest = store.history(user, &Filter::default(), 1, "").await.unwrap().items.remove(0);
        assert_eq!((newest.kind, newest.actor.as_str()), (EntryKind::Adjusted, "outside"));
        assert_eq!(store.audit(user).await.unwrap(), []);
    }
}

on_both! {
    async fn open_holds_are_listed_page_by_page_in_the_order_of_their_end(account: Account) {
        account.write(&[("extra_remaining", "100")]).await;
        let (store, user) = (&account.store, &account.user);
        for number in 0..7u32 {
            let ttl = MINUTE * (10 - number);
            store.reserve(user, &id(&format!("r{number}")), 1, ttl, false).await.unwrap();
        }
        let first = store.reservations(user, 3, "").await.unwrap();
        store.release(user, &id("r5"), "").await.unwrap();
        let second = store.reservations(user, 3, &first.next_page_token).await.unwrap();
        let third = store.reservations(user, 3, &second.next_page_token).await.unwrap();
        assert_eq!(third.next_page_token, "");
        let listed: Vec<_> = [first, second, third]
            .into_iter()
            .flat_map(|page| page.items)
            .map(|hold| hold.id.to_string())
            .collect();
        assert_eq!(listed, ["r6", "r5", "r4", "r3", "r2", "r1", "r0"]);
    }
}

on_both! {
    async fn a_deleted_account_is_gone_and_no_replayed_payment_revives_it(account: Account) {
        let (store, user) = (&account.store, &account.user);
        assert!(matches!(store.delete(user).await, Err(Error::NoAccount)));
        let payment = PaymentId::parse("p1").unwrap();
        store.activate_plan(user, "10", &payment).await.unwrap();
        spend(store, user, "a").await;
        store.reserve(user, &id("b"), 1, MINUTE, false).await.unwrap();
        assert!(!store.delete(user).await.unwrap());
        assert!(store.delete(user).await.unwrap(), "a second time it is a replay");
        assert_eq!(account.keys().await, [format!("{{sub:user:{user}}}:account")]);
        let refused = [
            store.activate_plan(user, "10", &payment).await.err(),
            store.grant_extra(user, 1, &payment).await.err(),
            store.reserve(user, &id("c"), 1, MINUTE, false).await.err(),
            store.commit(user, &id("b"), None).await.err(),
            store.get(user).await.err(),
        ];
        for error in refused {
            assert!(matches!(error, Some(Error::AccountDeleted)), "{error:?}");
        }
        assert_eq!(account.hgetall().await, []);
        assert_eq!(store.audit(user).await.unwrap(), []);
    }
}

on_both! {
    async fn an_export_holds_everything_that_is_kept(account: Account) {
        let (store, user) = (&account.store, &account.user);
        store.grant_extra(user, 9, &PaymentId::parse("pay").unwrap()).await.unwrap();
        spend(store, user, "a").await;
        store.reserve(user, &id("b"), 1, MINUTE, false).await.unwrap();
        let json = store.export(user).await.unwrap().to_json();
        assert_eq!(json["main"]["extra_remaining"], "9");
        assert!(json["payments"]["pay"].as_str().unwrap().contains("grant"));
        assert!(json["holds"]["b"].is_string() && json["settled"]["a"].is_string());
        assert_eq!(json["history"].as_array().unwrap().len(), 3);
    }
}

/// On a Cluster of their own, so that it is known who is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_are_listed_from_every_node() {
    let cluster = Cluster::start();
    let account = Account::on(&cluster.url()).await;
    let mut expected = HashSet::new();
    for number in 0..100 {
        let user = UserId::parse(format!("user{number}")).unwrap();
        spend(&account.store, &user, "a").await;
        expected.insert(user);
    }
    let (mut token, mut listed) = (String::new(), HashSet::new());
    loop {
        let page = account.store.users(20, &token).await.unwrap();
        listed.extend(page.items);
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(listed, expected);
    assert!(matches!(account.store.users(20, "00").await, Err(Error::InvalidPageToken)));
}

on_both! {
    /// The store of one server, and a second one beside it.
    async fn statistics_count_every_server_once(account: Account) {
        use img2text::quota::{Charged, Work};
        let today = img2text::quota::statistics::today();
        let before = account.store.statistics(today, today).await.unwrap();
        let before = before.first().map(|day| day.counts).unwrap_or_default();
        let (first, second) = (account.store.clone(), Account::with_user(&account).await.store);
        for store in [&first, &second] {
            let charged = store.charge(&account.user, None, [0; 32]).await.unwrap();
            let Charged::New(charge) = charged else { panic!("nothing is stored") };
            charge.commit(Work { pages: 1, characters: 10 }, None).await;
        }
        let Charged::New(charge) = first.charge(&account.user, None, [0; 32]).await.unwrap() else {
            panic!("nothing is stored")
        };
        assert!(second.charge(&account.user, None, [0; 32]).await.is_err(), "none is left");
        drop(charge);
        first.settled().await;
        second.settled().await;
        let after = account.store.statistics(today, today).await.unwrap()[0];
        // Other tests on the same Redis count too.
        assert!(after.counts.requests >= before.requests + 2);
        assert!(after.counts.pages >= before.pages + 2);
        assert!(after.counts.characters >= before.characters + 20);
        assert!(after.counts.refusals > before.refusals);
        assert!(after.counts.failures > before.failures);
        assert!(after.active_users >= 1);
    }
}

/// Redis is stopped while a batch is on its way, so that the attempt times out and yet runs
/// afterwards, before the next one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_of_statistics_whose_reply_was_lost_is_not_counted_twice() {
    use img2text::quota::Charged;
    let server = redis::Redis::start();
    let patience = Duration::from_millis(600);
    let client = redis::connect_with(&server.url(), patience).await;
    let account = Account::of(&client, |_, _| {});
    let store = &account.store;
    let Charged::New(charge) = store.charge(&account.user, None, [0; 32]).await.unwrap() else {
        panic!("nothing is stored")
    };
    server.pause();
    drop(charge);
    // Batches are sent twice a second: one is certainly sent, and its time over, meanwhile.
    tokio::time::sleep(patience + Duration::from_millis(550)).await;
    server.resume();
    store.settled().await;
    let today = img2text::quota::statistics::today();
    let counts = store.statistics(today, today).await.unwrap()[0].counts;
    assert_eq!((counts.failures, counts.requests, counts.refusals), (1, 0, 0));
}

#[tokio::test]
async fn time_passes_in_tests_only() {
    // The clock of a production store is Redis's: whatever a caller sends, it cannot be moved.
    let redis = redis::Redis::start();
    let account = Account::on(&redis.url()).await;
    let store = Store::new(
        account.client.clone(),
        img2text::quota::Catalog::built_in(),
        img2text::config::Quota::default(),
    );
    let held = store.reserve(&account.user, &id("4102444800000"), 1, MINUTE, false).await.unwrap();
    let now = jiff::Timestamp::now();
    let made = held.value.created.as_millisecond() - now.as_millisecond();
    assert!(made.unsigned_abs() < Duration::from_secs(60).as_millis() as u64);
}
