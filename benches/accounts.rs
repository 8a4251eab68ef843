//! Claim: a step on an account costs the same however many users there are, and however much a
//! user has behind it; and an account takes little memory, bounded for ever.
//!
//! Prints, in one run on one Redis: the steps per second of 64 callers (a reservation and its
//! commit are two) on random users out of 1,000, 100,000 and 1,000,000, and Redis's memory per
//! user; the time of a step on accounts with 0, 100 and 10,000 operations behind them; and the
//! memory of those, on the day of the operations and when those are no longer remembered. Nothing is written to disk:
//! this is about the account, not about the disk.

#[path = "../tests/support/mod.rs"]
#[allow(dead_code)]
mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use fred::clients::Client;
use img2text::config;
use img2text::quota::{Catalog, Keys, PaymentId, ReservationId, Store, UserId};
use support::redis::{self, Redis};

const USERS: [u64; 3] = [1_000, 100_000, 1_000_000];
const CALLERS: u64 = 64;
const STEPS: u64 = 40_000;
const TTL: Duration = Duration::from_secs(60);

fn main() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let server = Redis::start_in_memory();
        let client = redis::connect(&server.url()).await;
        let store = Store::new(client.clone(), Catalog::built_in(), config::Quota::default());
        with_age(&client, &store).await;
        with_users(&client, &store).await;
    });
}

async fn with_users(client: &Client, store: &Store) {
    println!("| users | steps/s, 64 callers | bytes of Redis's memory per user |");
    println!("|---|---|---|");
    let empty = memory(client).await;
    let mut users = 0;
    for count in USERS {
        let (first, all) = (users, store.clone());
        each(count - first, move |number| {
            let (store, user) = (all.clone(), user(first + number));
            async move {
                let payment = PaymentId::parse("opening").expect("an id");
                store.grant_extra(&user, 1_000_000, &payment).await.expect("granted");
            }
        })
        .await;
        users = count;
        let bytes = (memory(client).await - empty) / users;
        let started = Instant::now();
        let all = store.clone();
        each(STEPS / 2, move |number| {
            // A walk that meets users in no order, and all of them alike.
            spend(all.clone(), user(number.wrapping_mul(6_364_136_223_846_793_005) % count))
        })
        .await;
        let rate = STEPS as f64 / started.elapsed().as_secs_f64();
        println!("| {users} | {rate:.0} | {bytes} |");
    }
}

async fn with_age(client: &Client, store: &Store) {
    println!(
        "| operations behind the user | time of a step, µs | bytes of memory | after two days |"
    );
    println!("|---|---|---|---|");
    for age in [0, 100, 10_000] {
        let user = user(u64::MAX - age);
        let payment = PaymentId::parse("opening").expect("an id");
        store.grant_extra(&user, 1_000_000, &payment).await.expect("granted");
        let (aged, store) = (user.clone(), store.clone());
        each(age, move |_| spend(store.clone(), aged.clone())).await;
    }
    // One after the other and in turns, so that a busy moment of the machine meets all alike.
    let mut times = [Duration::ZERO; 3];
    let mut sizes = [(0, 0); 3];
    const ROUNDS: u32 = 500;
    for (index, age) in [0, 100, 10_000].into_iter().enumerate() {
        sizes[index] = size(client, &user(u64::MAX - age)).await;
    }
    for _ in 0..ROUNDS {
        for (index, age) in [0, 100, 10_000].into_iter().enumerate() {
            let started = Instant::now();
            spend(store.clone(), user(u64::MAX - age)).await;
            times[index] += started.elapsed();
        }
    }
    for (index, age) in [0, 100, 10_000].into_iter().enumerate() {
        let (bytes, lasting) = sizes[index];
        println!("| {age} | {} | {bytes} | {lasting} |", (times[index] / ROUNDS / 2).as_micros());
    }
}

fn user(number: u64) -> UserId {
    UserId::parse(number.to_string()).expect("an id")
}

async fn spend(store: Store, user: UserId) {
    let id = ReservationId::random();
    store.reserve(&user, &id, 1, TTL, false).await.expect("reserved");
    store.commit(&user, &id, None).await.expect("committed");
}

/// Does something for each number below `count`, 64 at a time.
async fn each<F: Future<Output = ()> + Send + 'static>(
    count: u64,
    act: impl Fn(u64) -> F + Send + Sync + Clone + 'static,
) {
    let next = Arc::new(AtomicU64::new(0));
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..CALLERS {
        let (next, act) = (next.clone(), act.clone());
        callers.spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    return;
                }
                act(number).await;
            }
        });
    }
    callers.join_all().await;
}

async fn memory(client: &Client) -> u64 {
    let info = redis::command(client, "INFO", &["memory"]).await.convert::<String>();
    let info = info.expect("a text");
    let line = info.lines().find_map(|line| line.strip_prefix("used_memory:"));
    line.and_then(|bytes| bytes.trim().parse().ok()).expect("a number")
}

/// What a user takes now, and what is left of it once the settled reservations are forgotten.
async fn size(client: &Client, user: &UserId) -> (u64, u64) {
    let (mut bytes, mut lasting) = (0, 0);
    for key in Keys::of(user).all() {
        let usage = redis::command(client, "MEMORY", &["USAGE", key, "SAMPLES", "0"]).await;
        let usage = usage.as_u64().unwrap_or(0);
        bytes += usage;
        if !key.contains("settled") {
            lasting += usage;
        }
    }
    (bytes, lasting)
}
