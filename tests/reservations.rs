//! A hold is taken at once, settled once, and never lost: neither to the caller nor to the user.

use std::time::Duration;

use img2text::quota::{Error, Store};

use crate::on_both;
use crate::support::account::{Account, MINUTE, buckets, id};
use crate::support::redis::{self, Cluster, Redis};

on_both! {
    async fn a_stranger_has_the_free_allowance_and_leaves_no_trace_by_asking(account: Account) {
        let quota = account.store.get(&account.user).await.unwrap();
        assert_eq!(quota.available, buckets(3, 0, 0));
        assert_eq!((quota.plan.as_str(), quota.granted), ("", buckets(3, 0, 0)));
        assert_eq!(quota.next_reset, "2030-06-01T00:00:00Z".parse().unwrap());
        let refused = account.store.reserve(&account.user, &id("r"), 4, MINUTE, false).await;
        assert!(matches!(
            refused,
            Err(Error::Exhausted { requested: 4, available: 3, retry_after: None })
        ));
        account.store.reserve(&account.user, &id("r"), 3, MINUTE, true).await.unwrap();
        assert_eq!(account.keys().await, Vec::<String>::new());
    }
}

on_both! {
    async fn a_hold_is_neither_available_nor_spent_and_a_commit_spends_it(account: Account) {
        account.write(&[("plan", "10"), ("plan_remaining", "10"), ("extra_remaining", "5")]).await;
        let held = account.store.reserve(&account.user, &id("r"), 14, MINUTE, false).await.unwrap();
        assert_eq!(held.value.held, buckets(3, 10, 1));
        assert_eq!(held.value.expires, account.now() + jiff::SignedDuration::from_secs(60));
        assert_eq!(held.quota.available, buckets(0, 0, 4));
        assert_eq!((held.quota.held, held.quota.spent), (buckets(3, 10, 1), buckets(0, 0, 0)));

        let spent = account.store.commit(&account.user, &id("r"), Some(5)).await.unwrap();
        assert_eq!(spent.value, buckets(3, 2, 0));
        assert_eq!(spent.quota.available, buckets(0, 8, 5));
        assert_eq!((spent.quota.held, spent.quota.spent), (buckets(0, 0, 0), buckets(3, 2, 0)));
    }
}

on_both! {
    async fn each_step_is_idempotent_by_its_id_and_compares_parameters(account: Account) {
        let (store, user) = (&account.store, &account.user);
        let first = store.reserve(user, &id("a"), 2, MINUTE, false).await.unwrap();
        let again = store.reserve(user, &id("a"), 2, MINUTE, false).await.unwrap();
        assert!(!first.replayed && again.replayed);
        assert_eq!(first.value, again.value);
        assert_eq!(again.quota.available, buckets(1, 0, 0));
        for (amount, ttl) in [(1, MINUTE), (2, MINUTE * 2)] {
            let other = store.reserve(user, &id("a"), amount, ttl, false).await;
            assert!(matches!(other, Err(Error::AlreadyExists)));
        }

        assert!(!store.commit(user, &id("a"), Some(1)).await.unwrap().replayed);
        let again = store.commit(user, &id("a"), Some(1)).await.unwrap();
        assert!(again.replayed);
        assert_eq!((again.value, again.quota.spent), (buckets(1, 0, 0), buckets(1, 0, 0)));
        for other in [Some(2), Some(0), None] {
            let refused = store.commit(user, &id("a"), other).await;
            assert!(matches!(refused, Err(Error::AlreadyCommitted)), "{other:?}");
        }
        assert!(matches!(store.release(user, &id("a"), "").await, Err(Error::AlreadyCommitted)));
        let extended = store.extend(user, &id("a"), MINUTE).await;
        assert!(matches!(extended, Err(Error::AlreadyCommitted)));
        let reserved = store.reserve(user, &id("a"), 2, MINUTE, false).await;
        assert!(matches!(reserved, Err(Error::AlreadyCommitted)));

        store.reserve(user, &id("b"), 2, MINUTE, false).await.unwrap();
        assert!(!store.release(user, &id("b"), "").await.unwrap().replayed);
        assert!(store.release(user, &id("b"), "").await.unwrap().replayed);
        let committed = store.commit(user, &id("b"), None).await;
        assert!(matches!(committed, Err(Error::AlreadyReleased)));
        assert_eq!(account.available().await, buckets(2, 0, 0));
        for unknown in [
            store.commit(user, &id("c"), None).await.err(),
            store.release(user, &id("c"), "").await.err(),
            store.extend(user, &id("c"), MINUTE).await.err(),
        ] {
            assert!(matches!(unknown, Some(Error::NotFound)));
        }
    }
}

on_both! {
    async fn no_more_is_committed_than_is_held(account: Account) {
        account.store.reserve(&account.user, &id("a"), 2, MINUTE, false).await.unwrap();
        let refused = account.store.commit(&account.user, &id("a"), Some(3)).await;
        assert!(matches!(refused, Err(Error::AmountExceedsHeld { held: 2 })));
        assert!(!account.store.commit(&account.user, &id("a"), None).await.unwrap().replayed);
    }
}

on_both! {
    async fn a_hold_past_its_time_goes_back_by_itself(account: Account) {
        let (store, user) = (&account.store, &account.user);
        store.reserve(user, &id("short"), 1, MINUTE, false).await.unwrap();
        store.reserve(user, &id("long"), 1, MINUTE * 2, false).await.unwrap();
        account.advance(MINUTE - Duration::from_millis(1));
        assert_eq!(account.available().await, buckets(1, 0, 0));
        account.advance(Duration::from_millis(1));
        assert_eq!(account.available().await, buckets(2, 0, 0));
        assert!(matches!(store.commit(user, &id("short"), None).await, Err(Error::Expired)));
        assert!(matches!(store.release(user, &id("short"), "").await, Err(Error::Expired)));
        assert!(matches!(store.extend(user, &id("short"), MINUTE).await, Err(Error::Expired)));
        assert!(!store.commit(user, &id("long"), None).await.unwrap().replayed);
    }
}

on_both! {
    /// Named for a bug that others shipped: a long call's hold expired while it ran, and it
    /// finished uncharged.
    async fn a_long_calls_hold_is_extended_and_never_shortened(account: Account) {
        let (store, user) = (&account.store, &account.user);
        store.reserve(user, &id("a"), 1, MINUTE, false).await.unwrap();
        for _ in 0..5 {
            account.advance(MINUTE / 2);
            let extended = store.extend(user, &id("a"), MINUTE).await.unwrap().value;
            assert_eq!(extended.expires, account.now() + jiff::SignedDuration::from_secs(60));
        }
        let kept = store.extend(user, &id("a"), MINUTE / 2).await.unwrap().value;
        assert_eq!(kept.expires, account.now() + jiff::SignedDuration::from_secs(60));
        assert_eq!(store.commit(user, &id("a"), None).await.unwrap().value, buckets(1, 0, 0));
    }
}

on_both! {
    async fn a_settled_reservation_is_remembered_for_its_time_and_then_forgotten(account: Account) {
        let (store, user) = (&account.store, &account.user);
        let day = Duration::from_secs(86_400);
        store.reserve(user, &id("a"), 1, MINUTE, false).await.unwrap();
        store.commit(user, &id("a"), None).await.unwrap();
        account.advance(day - Duration::from_millis(1));
        assert!(store.commit(user, &id("a"), None).await.unwrap().replayed);
        account.advance(Duration::from_millis(1));
        assert!(matches!(store.commit(user, &id("a"), None).await, Err(Error::NotFound)));
        // Redis itself drops the memory: every key of it has a time to live.
        for key in account.keys().await.iter().filter(|key| key.contains("settled")) {
            let left = redis::command(&account.client, "PTTL", &[key]).await.as_i64().unwrap();
            assert!(left > 0 && left <= 2 * day.as_millis() as i64, "{key}: {left}");
        }
    }
}

on_both! {
    async fn open_holds_are_bounded(account: Account) {
        account.change(|settings, _| settings.holds_open_max = 2);
        let (store, user) = (&account.store, &account.user);
        for name in ["a", "b"] {
            store.reserve(user, &id(name), 1, MINUTE, false).await.unwrap();
        }
        let refused = store.reserve(user, &id("c"), 1, MINUTE, false).await;
        assert!(matches!(refused, Err(Error::TooManyHolds { max: 2 })));
        store.release(user, &id("a"), "").await.unwrap();
        store.reserve(user, &id("c"), 1, MINUTE, false).await.unwrap();
        account.advance(MINUTE);
        store.reserve(user, &id("d"), 3, MINUTE, false).await.unwrap();
    }
}

on_both! {
    /// Reserving and giving back costs no quota: without a bound it could fill Redis's memory.
    async fn settled_reservations_are_bounded(account: Account) {
        account.change(|settings, _| settings.settled_reservations_max = 3);
        let (store, user) = (&account.store, &account.user);
        for name in ["a", "b"] {
            store.reserve(user, &id(name), 1, MINUTE, false).await.unwrap();
            store.release(user, &id(name), "").await.unwrap();
        }
        store.reserve(user, &id("c"), 1, MINUTE, false).await.unwrap();
        let refused = store.reserve(user, &id("d"), 1, MINUTE, false).await;
        assert!(matches!(refused, Err(Error::TooManyReservations { max: 3 })), "{refused:?}");
        // What is there already goes on, and is still answered again.
        store.commit(user, &id("c"), None).await.unwrap();
        assert!(store.commit(user, &id("c"), None).await.unwrap().replayed);
        assert!(store.release(user, &id("a"), "").await.unwrap().replayed);
    }
}

on_both! {
    /// A backup keeps what is left of a memory's lifetime, so it may come back late: what is added
    /// to it then is remembered as long as it should be.
    async fn a_memory_that_outlived_its_turn_is_renewed(account: Account) {
        let (store, user) = (&account.store, &account.user);
        let keys = ["0", "1"].map(|turn| format!("{{sub:user:{user}}}:settled:{turn}"));
        for key in &keys {
            redis::command(&account.client, "HSET", &[key, "old", "COMMITTED|1|1|0|0|1"]).await;
            redis::command(&account.client, "PEXPIRE", &[key, "5000"]).await;
        }
        store.reserve(user, &id("a"), 1, MINUTE, false).await.unwrap();
        store.release(user, &id("a"), "").await.unwrap();
        let mut lifetimes = Vec::new();
        for key in &keys {
            lifetimes.push(redis::command(&account.client, "PTTL", &[key]).await.as_i64().unwrap());
        }
        let day_ms = Duration::from_secs(86_400).as_millis() as i64;
        assert!(lifetimes.iter().any(|left| *left > day_ms - 5_000), "{lifetimes:?}");
    }
}

on_both! {
    /// Named for a bug that others shipped: a hold counter that leaked.
    async fn however_holds_end_their_places_are_free_again(account: Account) {
        account.change(|settings, _| settings.holds_open_max = 3);
        account.write(&[("extra_remaining", "1000")]).await;
        let (store, user) = (&account.store, &account.user);
        for round in 0..20 {
            for end in ["commit", "release", "expire"] {
                let id = id(&format!("{end}{round}"));
                store.reserve(user, &id, 1, MINUTE, false).await.unwrap();
                store.reserve(user, &id, 1, MINUTE, false).await.unwrap();
            }
            store.commit(user, &id(&format!("commit{round}")), None).await.unwrap();
            store.commit(user, &id(&format!("commit{round}")), None).await.unwrap();
            store.release(user, &id(&format!("release{round}")), "").await.unwrap();
            account.advance(MINUTE);
        }
        let quota = store.get(user).await.unwrap();
        assert_eq!((quota.held, quota.spent.total()), (buckets(0, 0, 0), 20));
        assert_eq!(store.audit(user).await.unwrap(), []);
    }
}

on_both! {
    /// 64 callers, 100 requests left, 500 calls.
    async fn of_many_callers_at_once_exactly_as_many_succeed_as_there_are_requests(account: Account) {
        account.write(&[("plan", "100"), ("plan_remaining", "97")]).await;
        let granted = race(&account.store, |store, number| {
            let (store, user) = (store.clone(), account.user.clone());
            async move {
                let id = id(&format!("r{number}"));
                match store.reserve(&user, &id, 1, MINUTE, false).await {
                    Ok(_) => store.commit(&user, &id, None).await.map(|_| true).unwrap(),
                    Err(Error::Exhausted { .. }) => false,
                    Err(error) => panic!("{error}"),
                }
            }
        })
        .await;
        assert_eq!(granted, 100);
        let quota = account.store.get(&account.user).await.unwrap();
        assert_eq!((quota.available, quota.held), (buckets(0, 0, 0), buckets(0, 0, 0)));
        assert_eq!(quota.spent, buckets(3, 97, 0));
    }
}

/// 500 calls from 64 callers at once; answers how many said true.
pub async fn race<F: Future<Output = bool> + Send + 'static>(
    store: &Store,
    call: impl Fn(&Store, usize) -> F,
) -> usize {
    let gate = std::sync::Arc::new(tokio::sync::Semaphore::new(64));
    let mut calls = tokio::task::JoinSet::new();
    for number in 0..500 {
        let (gate, call) = (gate.clone(), call(store, number));
        calls.spawn(async move {
            let _caller = gate.acquire().await.unwrap();
            call.await
        });
    }
    calls.join_all().await.into_iter().filter(|granted| *granted).count()
}

/// Named for a bug that others shipped: scripts that work standalone and fail with CROSSSLOT.
/// Every test of the account runs on a Cluster too; here its nodes also forget the scripts, in
/// every way there is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_forgot_the_scripts_gets_them_again() {
    let mut cluster = Cluster::start();
    let account = Account::on(&cluster.url()).await;
    let users: Vec<_> = (0..30).map(|n| format!("u{n}").as_str().to_owned()).collect();
    let reserve_for_all = async |id_text: &str| {
        for user in &users {
            let user = img2text::quota::UserId::parse(user.as_str()).unwrap();
            account.store.reserve(&user, &id(id_text), 1, MINUTE, false).await.unwrap();
        }
    };
    reserve_for_all("first").await;
    assert!(cluster.keys_per_node().iter().all(|keys| *keys > 0), "users are on every node");
    cluster.flush_scripts();
    reserve_for_all("after SCRIPT FLUSH".replace(' ', "-").as_str()).await;
    cluster.restart_every_node();
    // The client finds out by its next command that its connections are gone.
    let user = account.user.clone();
    let end = tokio::time::Instant::now() + Duration::from_secs(20);
    while account.store.get(&user).await.is_err() {
        assert!(tokio::time::Instant::now() < end, "the client does not come back");
    }
    reserve_for_all("third").await;
    for user in &users {
        let user = img2text::quota::UserId::parse(user.as_str()).unwrap();
        let quota = account.store.get(&user).await.unwrap();
        assert_eq!(quota.held, buckets(3, 0, 0), "{user}: nothing was lost");
    }
}

/// Named for a bug that others shipped: Redis down, answered as "quota exceeded".
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_down_is_never_quota_exceeded_and_nothing_acknowledged_is_lost() {
    let mut server = Redis::start();
    let account = Account::on(&server.url()).await;
    account.store.reserve(&account.user, &id("a"), 3, MINUTE, false).await.unwrap();
    server.kill();
    let begun = std::time::Instant::now();
    let refused = account.store.reserve(&account.user, &id("b"), 1, MINUTE, false).await;
    assert!(matches!(refused, Err(Error::Unavailable(_))), "{refused:?}");
    // Two attempts and a wait between them, two seconds each; the rest is for a busy machine.
    assert!(begun.elapsed() < Duration::from_secs(20), "in bounded time");
    server.restart();
    let end = std::time::Instant::now() + Duration::from_secs(20);
    let quota = loop {
        match account.store.get(&account.user).await {
            Ok(quota) => break quota,
            Err(error) => assert!(std::time::Instant::now() < end, "{error}"),
        }
    };
    assert_eq!((quota.available, quota.held), (buckets(0, 0, 0), buckets(3, 0, 0)));
}

/// A Redis that refuses writes is unavailable, not out of quota, and nothing is half done.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_without_memory_is_unavailable_and_changes_nothing() {
    let server = Redis::start();
    let account = Account::on(&server.url()).await;
    account.store.reserve(&account.user, &id("a"), 1, MINUTE, false).await.unwrap();
    redis::command(&account.client, "CONFIG", &["SET", "maxmemory", "1"]).await;
    let refused = account.store.reserve(&account.user, &id("b"), 1, MINUTE, false).await;
    assert!(matches!(refused, Err(Error::Unavailable(_))), "{refused:?}");
    redis::command(&account.client, "CONFIG", &["SET", "maxmemory", "0"]).await;
    assert_eq!(account.store.get(&account.user).await.unwrap().held, buckets(1, 0, 0));
    assert_eq!(account.available().await, buckets(2, 0, 0));
}
