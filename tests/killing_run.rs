//! The killing run: clients reserve, commit, release, buy and recognise while the server, its
//! workers and its Redis are killed with SIGKILL at random and started again. Afterwards every
//! acknowledged operation is in the history exactly once, nothing is held, and the books balance.
//!
//! `IMG2TEXT_KILLING_RUN_SECONDS` makes it longer (default 15).

use std::collections::HashMap;
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use img2text::grpc::proto::quota_service_client::QuotaServiceClient;
use img2text::grpc::proto::recognize_service_client::RecognizeServiceClient;
use img2text::grpc::proto::{
    ChargeState, CommitReservationRequest, Entry, EntryKind, GrantExtraRequestsRequest,
    ListHistoryRequest, ReleaseReservationRequest, ReserveQuotaRequest,
};
use rustix::process::Signal;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use crate::support::picture;
use crate::support::server::{Server, recognize_request, signal};

const CALLERS: usize = 6;
const USERS: usize = 3;
/// Short, so that what a killed part held is free again before the run is over.
const HOLD_TTL_MS: u64 = 2_000;
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// What a caller was told.
#[derive(Default)]
struct Told {
    committed: Vec<(usize, String)>,
    released: Vec<(usize, String)>,
    granted: Vec<(usize, String)>,
    /// Recognitions that were delivered, charged for sure.
    recognized: [u64; USERS],
    /// Recognitions that were delivered, charged or not.
    in_doubt: [u64; USERS],
}

struct Caller {
    number: usize,
    address: Arc<RwLock<String>>,
    channel: Option<Channel>,
    told: Told,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whatever_is_killed_every_acknowledged_operation_counts_exactly_once() {
    let seconds = std::env::var("IMG2TEXT_KILLING_RUN_SECONDS");
    let seconds = seconds.map_or(15, |text| text.parse().expect("a number of seconds"));
    let mut server = Server::with([
        ("quota.hold_ttl_ms_default", &HOLD_TTL_MS.to_string()),
        ("quota.history_entries_max", "1000000"),
        ("quota.payments_max", "1000000"),
        ("ocr.workers", "2"),
    ]);
    for user in 0..USERS {
        server.redis_cli(&["HSET", &format!("sub:user:{user}"), "extra_remaining", "10000000"]);
    }
    let address = Arc::new(RwLock::new(server.address().to_string()));
    let stop = CancellationToken::new();
    let callers: Vec<_> = (0..CALLERS)
        .map(|number| {
            let caller =
                Caller { number, address: address.clone(), channel: None, told: Told::default() };
            tokio::spawn(caller.work_until(stop.clone()))
        })
        .collect();

    let kills = kill_until(&mut server, &address, Instant::now() + Duration::from_secs(seconds));
    stop.cancel();
    let mut told = Vec::new();
    for caller in callers {
        told.push(caller.await.expect("a caller does not fail"));
    }
    tokio::time::sleep(Duration::from_millis(HOLD_TTL_MS)).await;

    let mut operations = 0;
    for user in 0..USERS {
        let held = server.account(&user.to_string()).await.held.expect("what is held");
        assert_eq!((held.free, held.plan, held.extra), (0, 0, 0), "no hold outlives its ttl");
        operations += check_history(&server, user, &told).await;
    }
    let audit = server.command(["quota", "audit"]);
    assert!(audit.status.success(), "{}", String::from_utf8_lossy(&audit.stdout));
    let in_doubt: u64 = told.iter().flat_map(|told| told.in_doubt).sum();
    println!(
        "killing run: {seconds} s, {operations} operations, kills: {kills:?}, lost: 0, delivered with their charge in doubt: {in_doubt}"
    );
}

/// Kills one part after the other; answers how often each.
fn kill_until(
    server: &mut Server,
    address: &RwLock<String>,
    end: Instant,
) -> HashMap<&'static str, u32> {
    let mut kills = HashMap::new();
    let parts = ["worker", "redis", "server"];
    // At random times, and every part in turn, so that none is spared by chance.
    for part in parts.into_iter().cycle().take_while(|_| Instant::now() < end) {
        let random = uuid::Uuid::new_v4().as_u128();
        std::thread::sleep(Duration::from_millis(200 + (random % 900) as u64));
        match part {
            "server" => {
                server.kill();
                server.restart();
                *address.write().expect("nobody panics") = server.address().to_string();
            }
            "redis" => signal(server.redis_pid(), Signal::KILL),
            _ => {
                for worker in server.children("worker").into_iter().take(1) {
                    signal(worker, Signal::KILL);
                }
            }
        }
        *kills.entry(part).or_insert(0) += 1;
    }
    kills
}

impl Caller {
    async fn work_until(mut self, stop: CancellationToken) -> Told {
        let mut round = 0;
        while !stop.is_cancelled() {
            round += 1;
            let user = (round + self.number) % USERS;
            let name = format!("caller{}-{round}", self.number);
            match round % 8 {
                0 => self.grant(user, name).await,
                1 => self.recognize(user, name).await,
                _ => self.spend(user, name, round % 3 == 0).await,
            }
        }
        self.told
    }

    /// Repeats a call, under the same ids, until it is answered for good.
    async fn until_answered<T, F: Future<Output = Result<T, Status>>>(
        &mut self,
        call: impl Fn(Channel) -> F,
    ) -> Result<T, Status> {
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            let outcome = match self.connect().await {
                Some(channel) => tokio::time::timeout(CALL_TIMEOUT, call(channel))
                    .await
                    .unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer"))),
                None => Err(Status::unavailable("no server")),
            };
            match outcome {
                Err(status) if may_be_repeated(&status) => {
                    assert!(Instant::now() < end, "no answer in a minute: {status:?}");
                    self.channel = None;
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                outcome => return outcome,
            }
        }
    }

    async fn connect(&mut self) -> Option<Channel> {
        if self.channel.is_none() {
            let address = self.address.read().expect("nobody panics").clone();
            let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address");
            self.channel = endpoint.connect_timeout(CALL_TIMEOUT).connect().await.ok();
        }
        self.channel.clone()
    }

    async fn spend(&mut self, user: usize, name: String, release: bool) {
        let reserve = ReserveQuotaRequest {
            user_id: user.to_string(),
            reservation_id: name.clone(),
            amount: 1,
            ttl: Some(prost_types::Duration { seconds: HOLD_TTL_MS as i64 / 1000, nanos: 0 }),
            ..Default::default()
        };
        let held = self
            .until_answered(|channel| {
                let request = reserve.clone();
                async move { QuotaServiceClient::new(channel).reserve_quota(request).await }
            })
            .await;
        // A hold that was made unheard may be over by the time it is asked for again.
        if held.is_err() {
            return;
        }
        let (user_id, reservation_id) = (user.to_string(), name.clone());
        if release {
            let request = ReleaseReservationRequest { user_id, reservation_id };
            let released = self
                .until_answered(|channel| {
                    let request = request.clone();
                    async move { QuotaServiceClient::new(channel).release_reservation(request).await }
                })
                .await;
            if released.is_ok() {
                self.told.released.push((user, name));
            }
            return;
        }
        let request = CommitReservationRequest { user_id, reservation_id, amount: None };
        let committed = self
            .until_answered(|channel| {
                let request = request.clone();
                async move { QuotaServiceClient::new(channel).commit_reservation(request).await }
            })
            .await;
        if committed.is_ok() {
            self.told.committed.push((user, name));
        }
    }

    async fn grant(&mut self, user: usize, name: String) {
        let request = GrantExtraRequestsRequest {
            user_id: user.to_string(),
            amount: 2,
            payment_id: name.clone(),
        };
        self.until_answered(|channel| {
            let request = request.clone();
            async move { QuotaServiceClient::new(channel).grant_extra_requests(request).await }
        })
        .await
        .expect("a purchase is never refused");
        self.told.granted.push((user, name));
    }

    async fn recognize(&mut self, user: usize, name: String) {
        let mut request = recognize_request(&user.to_string(), picture::line("Killing"));
        request.request_id = Some(name);
        let response = self
            .until_answered(|channel| {
                let request = request.clone();
                async move { RecognizeServiceClient::new(channel).recognize(request).await }
            })
            .await
            .expect("a recognition that is repeated is answered")
            .into_inner();
        assert_eq!(response.text.trim(), "Killing");
        match response.charge.expect("a charge").state() {
            ChargeState::Confirmed => self.told.recognized[user] += 1,
            _ => self.told.in_doubt[user] += 1,
        }
    }
}

/// Whether the call was not answered for good: its server, worker or Redis was killed, or the
/// attempt before it still runs.
fn may_be_repeated(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unavailable
            | Code::Unknown
            | Code::DeadlineExceeded
            | Code::Aborted
            | Code::Cancelled
            | Code::Internal
    )
}

/// Checks that the history has everything that was acknowledged, once. Answers how much it has.
async fn check_history(server: &Server, user: usize, told: &[Told]) -> u64 {
    let entries = history(server, user).await;
    let mut counts: HashMap<(EntryKind, String), u64> = HashMap::new();
    for entry in &entries {
        *counts.entry((entry.kind(), entry.id.clone())).or_default() += 1;
    }
    let acknowledged = |kind: EntryKind, of: &dyn Fn(&Told) -> &Vec<(usize, String)>| {
        for (whose, id) in told.iter().flat_map(|told| of(told).iter()) {
            if *whose == user {
                let count = counts.get(&(kind, id.clone())).copied().unwrap_or(0);
                assert_eq!(count, 1, "{kind:?} {id} of user {user}");
            }
        }
    };
    acknowledged(EntryKind::Committed, &|told| &told.committed);
    acknowledged(EntryKind::Released, &|told| &told.released);
    acknowledged(EntryKind::ExtraGranted, &|told| &told.granted);
    assert!(counts.values().all(|count| *count == 1), "nothing is there twice");

    // The server names the holds of recognitions by random ids, the callers theirs by `caller`.
    let recognized = entries
        .iter()
        .filter(|entry| entry.kind() == EntryKind::Committed && !entry.id.starts_with("caller"))
        .count() as u64;
    let sure: u64 = told.iter().map(|told| told.recognized[user]).sum();
    let in_doubt: u64 = told.iter().map(|told| told.in_doubt[user]).sum();
    assert!(
        (sure..=sure + in_doubt).contains(&recognized),
        "user {user}: {recognized} recognitions charged, {sure} delivered as charged, {in_doubt} in doubt"
    );
    entries.len() as u64
}

async fn history(server: &Server, user: usize) -> Vec<Entry> {
    let mut client = server.quota().await.max_decoding_message_size(usize::MAX);
    let mut request =
        ListHistoryRequest { user_id: user.to_string(), page_size: 1_000, ..Default::default() };
    let mut entries = Vec::new();
    loop {
        let page = client.list_history(request.clone()).await.expect("a history").into_inner();
        entries.extend(page.entries);
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            return entries;
        }
    }
}
