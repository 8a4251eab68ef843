//! Between the server and Redis is a network: it may be slow, and connections may die without a
//! word, or lead to what is no primary any more. Calls then end in bounded time, as "try again"; they go on when it can, and nobody pays for
//! a text that did not come.

use std::time::{Duration, Instant};

use img2text::grpc::proto::Quota;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::support::picture;
use crate::support::proxy::Proxy;
use crate::support::redis::Redis;
use crate::support::server::{PATIENCE, Server, recognize_request, spent};

const COMMAND_TIMEOUT: Duration = Duration::from_millis(500);
/// A step is tried twice; what is more is for a busy machine.
const BOUND: Duration = COMMAND_TIMEOUT.saturating_mul(10);

struct Reached {
    redis: Redis,
    proxy: Proxy,
    server: Server,
}

impl Reached {
    async fn start() -> Self {
        let redis = Redis::start();
        redis.cli(&["HSET", "sub:user:42", "extra_remaining", "1000"]);
        let proxy = Proxy::before(redis.socket()).await;
        let server = Server::with([
            ("redis.url", proxy.url()),
            ("redis.command_timeout_ms", &COMMAND_TIMEOUT.as_millis().to_string()),
            ("quota.hold_ttl_ms_default", "3000"),
        ]);
        Self { redis, proxy, server }
    }

    /// Recognises a picture, and says how long that took.
    async fn recognize(&self) -> (Result<(), Status>, Duration) {
        let request = recognize_request("42", picture::line("On the way"));
        let mut client = self.server.recognize().await;
        let begun = Instant::now();
        let answer = client.recognize(request).await;
        (answer.map(|_| ()), begun.elapsed())
    }

    /// Asks until there is a text. Until then it is "try again", and never "no quota".
    async fn recognizes_again(&self) {
        let deadline = Instant::now() + PATIENCE;
        while let (Err(status), _) = self.recognize().await {
            assert_eq!(status.code(), Code::Unavailable, "{status:?}");
            assert!(Instant::now() < deadline, "never recovered: {status:?}");
        }
    }

    /// The account once nothing is held any more.
    async fn settled(&self) -> Quota {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let account = self.server.account("42").await;
            let held = account.held.expect("what is held");
            if held.free + held.plan + held.extra == 0 {
                return account;
            }
            assert!(Instant::now() < deadline, "held for ever: {account:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

fn assert_try_again((answer, time): (Result<(), Status>, Duration)) {
    let status = answer.expect_err("Redis cannot be reached in time");
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    let details = status.get_error_details();
    assert_eq!(details.error_info().expect("a reason").reason, "STORE_UNAVAILABLE");
    assert!(details.retry_info().is_some(), "{status:?}");
    assert!(time < BOUND, "{time:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_redis_makes_calls_slow_and_one_too_slow_ends_them() {
    let reached = Reached::start().await;
    reached.proxy.delay(COMMAND_TIMEOUT / 5);
    let (answer, time) = reached.recognize().await;
    answer.expect("slow is not gone");
    // The reservation and the commit, one after the other.
    assert!(time >= COMMAND_TIMEOUT * 2 / 5, "the way is not slow: {time:?}");

    reached.proxy.delay(COMMAND_TIMEOUT * 3);
    assert_try_again(reached.recognize().await);

    reached.proxy.delay(Duration::ZERO);
    reached.recognizes_again().await;
    // The reservation that was not answered in time was made, and went back with its time.
    assert_eq!(spent(&reached.settled().await), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_died_without_a_word_are_made_anew() {
    let reached = Reached::start().await;
    for texts in 1..=3 {
        reached.recognizes_again().await;
        assert_eq!(spent(&reached.settled().await), texts);
        reached.proxy.cut();
        assert_try_again(reached.recognize().await);
    }
    reached.recognizes_again().await;
    assert_eq!(spent(&reached.settled().await), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_became_a_replica_is_left_for_the_new_one() {
    let reached = Reached::start().await;
    reached.recognizes_again().await;
    reached.redis.cli(&["REPLICAOF", "127.0.0.1", "1"]);
    assert_try_again(reached.recognize().await);

    let promoted = Redis::start();
    reached.proxy.lead_to(promoted.socket());
    reached.recognizes_again().await;
    assert_eq!(promoted.cli(&["HGET", "sub:user:42", "free_used"]).trim(), "1");
}
