//! Nobody calls what they may not, and nobody learns from a refusal who else may.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use futures::stream::{self, StreamExt};
use img2text::grpc::proto::quota_service_client::QuotaServiceClient;
use img2text::grpc::proto::recognize_document_request::Piece;
use img2text::grpc::proto::recognize_stream_response::Result as Outcome;
use img2text::grpc::proto::{
    DocumentHeader, GetQuotaRequest, ListUsersRequest, RecognizeDocumentRequest,
    RecognizeStreamRequest,
};
use tempfile::TempDir;

use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;
use tonic_types::StatusExt;

use crate::support::authority::Authority;
use crate::support::contract::Contract;
use crate::support::picture;
use crate::support::server::{PATIENCE, PROGRAM, Server, recognize_request};

const SCOPES: [&str; 5] = ["recognize", "quota.read", "quota.spend", "quota.admin", "storage"];

/// Every method, and the scope that it needs.
const METHODS: &[(&str, &str)] = &[
    ("RecognizeService/Recognize", "recognize"),
    ("RecognizeService/RecognizeDocument", "recognize"),
    ("RecognizeService/RecognizeStream", "recognize"),
    ("RecognizeService/ListLanguages", "recognize"),
    ("QuotaService/GetQuota", "quota.read"),
    ("QuotaService/ListReservations", "quota.read"),
    ("QuotaService/ListPlans", "quota.read"),
    ("QuotaService/ListHistory", "quota.read"),
    ("QuotaService/GetUsage", "quota.read"),
    ("QuotaService/ReserveQuota", "quota.spend"),
    ("QuotaService/CommitReservation", "quota.spend"),
    ("QuotaService/ReleaseReservation", "quota.spend"),
    ("QuotaService/ExtendReservation", "quota.spend"),
    ("QuotaService/ForceReleaseReservation", "quota.admin"),
    ("QuotaService/ActivatePlan", "quota.admin"),
    ("QuotaService/GrantExtraRequests", "quota.admin"),
    ("QuotaService/CancelPlan", "quota.admin"),
    ("QuotaService/AdjustQuota", "quota.admin"),
    ("QuotaService/ListUsers", "quota.admin"),
    ("QuotaService/ExportAccount", "quota.admin"),
    ("QuotaService/DeleteAccount", "quota.admin"),
    ("QuotaService/AuditAccounts", "quota.admin"),
    ("QuotaService/GetStatistics", "quota.admin"),
    ("StorageService/GetStorageStatus", "storage"),
];

/// A file of callers in a directory of its own.
struct Callers {
    home: TempDir,
}

impl Callers {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        fs::write(home.path().join("callers.toml"), "").unwrap();
        Self { home }
    }

    fn path(&self) -> String {
        self.home.path().join("callers.toml").to_str().unwrap().into()
    }

    /// A new token, as an operator makes it.
    fn token(&self, arguments: &[&str]) -> String {
        let output = Command::new(PROGRAM)
            .args(["token", "new", "--callers", &self.path()])
            .args(arguments)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().trim().into()
    }

    fn append(&self, text: &str) {
        let before = fs::read_to_string(self.path()).unwrap();
        fs::write(self.path(), before + text).unwrap();
    }
}

fn with_token<T>(message: T, token: Option<&str>) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(token) = token {
        let value: MetadataValue<_> = format!("Bearer {token}").parse().unwrap();
        request.metadata_mut().insert("authorization", value);
    }
    request
}

/// Calls any method with an empty message.
async fn call(channel: &Channel, method: &str, token: Option<&str>) -> Result<(), Status> {
    let mut client = tonic::client::Grpc::new(channel.clone());
    client.ready().await.expect("a server");
    let path = format!("/img2text.v1.{method}").parse().unwrap();
    let codec = ProstCodec::<(), ()>::default();
    client.unary(with_token((), token), path, codec).await.map(drop)
}

fn assert_reason(status: &Status, code: Code, reason: &str) {
    assert_eq!(status.code(), code, "{status:?}");
    let details = status.get_error_details();
    let info = details.error_info().unwrap_or_else(|| panic!("no ErrorInfo in {status:?}"));
    assert_eq!((info.domain.as_str(), info.reason.as_str()), ("img2text", reason));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_method_asks_for_a_token_with_its_scope() {
    let rows: BTreeSet<String> = METHODS.iter().map(|(method, _)| method.to_string()).collect();
    let contract = Contract::read();
    let methods: BTreeSet<String> =
        contract.methods().iter().map(|method| method.name.clone()).collect();
    assert_eq!(rows, methods, "a method without a row, or the other way round");

    let callers = Callers::new();
    let tokens = SCOPES.map(|scope| (scope, callers.token(&[scope, "--scope", scope])));
    let of = |scope: &str| tokens.iter().find(|(name, _)| *name == scope).unwrap().1.clone();
    let all = SCOPES.join(",");
    let expired = callers.token(&["expired", "--scope", &all, "--days", "0"]);
    let server = Server::with([("auth.callers", &callers.path())]);
    let channel = server.channel().await;

    let mut messages = BTreeSet::new();
    for (method, scope) in METHODS {
        let wrong = format!("i2t_{}", "0".repeat(64));
        for token in [None, Some("nonsense"), Some(&*wrong), Some(&*expired)] {
            let status = call(&channel, method, token).await.expect_err(method);
            assert_reason(&status, Code::Unauthenticated, "UNAUTHENTICATED");
            messages.insert(status.message().to_string());
        }
        for other in SCOPES.iter().filter(|other| *other != scope) {
            let status = call(&channel, method, Some(&of(other))).await.expect_err(method);
            assert_reason(&status, Code::PermissionDenied, "PERMISSION_DENIED");
        }
        if let Err(status) = call(&channel, method, Some(&of(scope))).await {
            let refused = [Code::Unauthenticated, Code::PermissionDenied];
            assert!(!refused.contains(&status.code()), "{method}: {status:?}");
        }
    }
    // Whether a token is unknown or was good yesterday: the same words.
    assert_eq!(messages.len(), 1, "{messages:?}");
    // Nobody learns which methods there are not.
    let status = call(&channel, "QuotaService/NoSuch", None).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
    // No token is in the log.
    for (_, token) in &tokens {
        assert!(!server.log().contains(token.as_str()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_of_some_users_touches_no_other() {
    let callers = Callers::new();
    let bound = ["bot", "--scope", "quota.read,quota.admin", "--user-id-prefix", "tg:"];
    let token = callers.token(&bound);
    let server = Server::with([("auth.callers", &callers.path())]);
    let mut client = server.quota().await;
    let mut get = async |user: &str| {
        let request = GetQuotaRequest { user_id: user.into() };
        client.get_quota(with_token(request, Some(&token))).await
    };
    get("tg:42").await.expect("its own user");
    for user in ["42", "tg", "wa:tg:42"] {
        let status = get(user).await.unwrap_err();
        assert_reason(&status, Code::PermissionDenied, "PERMISSION_DENIED");
    }
    // Nothing was opened for those.
    assert_eq!(server.redis_cli(&["EXISTS", "{sub:user:42}:account"]).trim(), "0");
    let request = with_token(ListUsersRequest::default(), Some(&token));
    let status = server.quota().await.list_users(request).await.unwrap_err();
    assert_reason(&status, Code::PermissionDenied, "PERMISSION_DENIED");
}

/// The methods that name a user inside of a stream: nothing before their messages says for whom
/// they are.
#[tokio::test(flavor = "multi_thread")]
async fn a_caller_of_some_users_streams_for_no_other() {
    let callers = Callers::new();
    let bound = ["bot", "--scope", "recognize", "--user-id-prefix", "tg:"];
    let token = callers.token(&bound);
    let server = Server::with([("auth.callers", &*callers.path()), ("ocr.workers", "1")]);
    let image = picture::line("For whom");

    let items = ["tg:42", "42", "wa:tg:42"].map(|user| RecognizeStreamRequest {
        id: user.into(),
        request: Some(recognize_request(user, image.clone())),
    });
    let request = with_token(tokio_stream::iter(items), Some(&token));
    let mut answers =
        server.recognize().await.recognize_stream(request).await.unwrap().into_inner();
    for _ in 0..3 {
        let answer = answers.message().await.unwrap().expect("an answer to each");
        match (&*answer.id, answer.result.expect("a result")) {
            ("tg:42", Outcome::Recognized(response)) => assert!(response.text.contains("whom")),
            (_, Outcome::Error(status)) => {
                assert_eq!(status.code, Code::PermissionDenied as i32, "{}: {status:?}", answer.id);
                assert_ne!(answer.id, "tg:42");
            }
            (user, result) => panic!("{user}: {result:?}"),
        }
    }

    let document = async |user: &str| {
        let header = DocumentHeader { user_id: user.into(), ..Default::default() };
        let pieces = [Piece::Header(header), Piece::Chunk(image.clone().into())]
            .map(|piece| RecognizeDocumentRequest { piece: Some(piece) });
        let request = with_token(tokio_stream::iter(pieces), Some(&token));
        let mut answers = server.recognize().await.recognize_document(request).await?.into_inner();
        answers.message().await.map(|page| page.expect("a page"))
    };
    document("tg:42").await.expect("its own user");
    for user in ["42", "wa:tg:42"] {
        let status = document(user).await.unwrap_err();
        assert_reason(&status, Code::PermissionDenied, "PERMISSION_DENIED");
    }
    // Nothing was opened for the others, and its own user paid for both.
    let keys = server.redis_cli(&["KEYS", "*sub:user:*"]);
    assert!(keys.lines().all(|key| key.contains("sub:user:tg:42")), "{keys}");
    let account = server.redis_cli(&["HGET", "sub:user:tg:42", "free_used"]);
    assert_eq!(account.trim(), "2");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_file_of_callers_is_read_again_and_a_wrong_one_locks_nobody_out() {
    let callers = Callers::new();
    let first = callers.token(&["first", "--scope", "quota.read"]);
    let server = Server::with([("auth.callers", &callers.path())]);
    let channel = server.channel().await;
    let may = async |token: &str| {
        let status = call(&channel, "QuotaService/ListPlans", Some(token)).await;
        status.map_err(|status| assert_eq!(status.code(), Code::Unauthenticated)).is_ok()
    };
    let until = async |what: &str, token: &str, expected: bool| {
        let deadline = Instant::now() + PATIENCE;
        while may(token).await != expected {
            assert!(Instant::now() < deadline, "waited in vain until {what}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    assert!(may(&first).await);

    let second = callers.token(&["second", "--scope", "quota.read"]);
    until("a new token is known", &second, true).await;
    callers.append("[[caller]]\nname = 7\n");
    crate::support::server::wait_until("the mistake is reported", || {
        server.log().contains("the callers cannot be read")
    });
    assert!(may(&first).await && may(&second).await);
    fs::write(callers.path(), "").unwrap();
    until("a withdrawn token is refused", &first, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_calls_too_often_is_told_when_to_come_back() {
    let callers = Callers::new();
    let greedy = callers.token(&["greedy", "--scope", "quota.read"]);
    let modest = callers.token(&["modest", "--scope", "quota.read"]);
    let server =
        Server::with([("auth.callers", &*callers.path()), ("auth.requests_per_second_max", "5")]);
    let channel = server.channel().await;
    let mut refusal = None;
    for _ in 0..100 {
        refusal = call(&channel, "QuotaService/ListPlans", Some(&greedy)).await.err();
        if refusal.is_some() {
            break;
        }
    }
    let status = refusal.expect("a limit");
    assert_reason(&status, Code::ResourceExhausted, "RATE_LIMITED");
    let retry = status.get_error_details().retry_info().and_then(|retry| retry.retry_delay);
    assert!(retry.expect("a delay") <= Duration::from_secs(1));
    call(&channel, "QuotaService/ListPlans", Some(&modest)).await.expect("another's limit");
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_take_turns_by_who_they_are_whatever_users_they_name() {
    let callers = Callers::new();
    let greedy = callers.token(&["greedy", "--scope", "recognize"]);
    let modest = callers.token(&["modest", "--scope", "recognize"]);
    let server = Server::with([("auth.callers", &*callers.path()), ("ocr.workers", "1")]);
    let picture = picture::line("One of very many");
    // A user for every picture: by users alone the others would each have to wait for all of them.
    let item = move |number: usize| RecognizeStreamRequest {
        id: number.to_string(),
        request: Some(recognize_request(&format!("user-{number}"), picture.clone())),
    };
    let items = with_token(stream::iter((0..100).map(item)), Some(&greedy));
    let mut client = server.recognize().await;
    let mut answers = client.recognize_stream(items).await.unwrap().into_inner();
    answers.next().await.unwrap().unwrap();
    let request = with_token(recognize_request("99", picture::line("Just one")), Some(&modest));
    let mut other = server.recognize().await;
    let mut meanwhile = 0;
    let one = other.recognize(request);
    tokio::pin!(one);
    let answer = loop {
        tokio::select! {
            answer = &mut one => break answer.unwrap(),
            answer = answers.next() => {
                answer.expect("more").unwrap();
                meanwhile += 1;
            }
        }
    };
    assert_eq!(answer.into_inner().text.trim(), "Just one");
    // By users all that wait for the greedy one, eight, would have gone first.
    assert!(meanwhile <= 6, "{meanwhile} of the many went first");
}

#[test]
fn an_address_for_strangers_needs_callers() {
    let data = tempfile::tempdir().unwrap();
    let output = Command::new(PROGRAM)
        .args(["serve", "--listen", "0.0.0.0:0", "--data-dir"])
        .arg(data.path().join("data"))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("auth.callers"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_certificate_is_an_identity_and_a_strangers_is_none() {
    let ours = Authority::new();
    let strangers = Authority::new();
    ours.sign("localhost");
    let callers = Callers::new();
    callers.append(
        "[[caller]]\nname = \"bot\"\ncertificate_name = \"bot.internal\"\nscopes = [\"quota.read\"]\n",
    );
    let server = Server::with([
        ("auth.callers", &*callers.path()),
        ("server.tls_certificate", &ours.path("localhost.pem")),
        ("server.tls_key", &ours.path("localhost.key")),
        ("server.tls_client_ca", &ours.path("ca.pem")),
    ]);
    let get = async |channel: Channel, user: &str| {
        QuotaServiceClient::new(channel).get_quota(GetQuotaRequest { user_id: user.into() }).await
    };
    let bot = ours.connect(&server, Some(ours.sign("bot.internal"))).await.expect("our own client");
    get(bot.clone(), "42").await.expect("a caller by its certificate");
    let status = call(&bot, "QuotaService/ListUsers", None).await.unwrap_err();
    assert_reason(&status, Code::PermissionDenied, "PERMISSION_DENIED");

    // Signed by ours, but nobody that the file knows.
    let guest = ours.connect(&server, Some(ours.sign("guest.internal"))).await.expect("ours");
    let status = get(guest, "42").await.unwrap_err();
    assert_reason(&status, Code::Unauthenticated, "UNAUTHENTICATED");

    // Signed by somebody else, under the right name; or none at all.
    for identity in [Some(strangers.sign("bot.internal")), None] {
        // In TLS 1.3 a client hears of its refusal only with its first call.
        if let Ok(channel) = ours.connect(&server, identity).await {
            let status = get(channel, "42").await.expect_err("a stranger");
            assert!(status.get_error_details().error_info().is_none(), "got in: {status:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_certificate_is_shown_without_a_restart() {
    let first = Authority::new();
    let second = Authority::new();
    first.sign("localhost");
    second.sign("localhost");
    let server = Server::with([
        ("server.tls_certificate", &*first.path("localhost.pem")),
        ("server.tls_key", &first.path("localhost.key")),
    ]);
    first.connect(&server, None).await.expect("the first certificate");
    second.connect(&server, None).await.expect_err("not the second yet");
    for file in ["localhost.key", "localhost.pem"] {
        fs::copy(second.path(file), first.path(file)).unwrap();
    }
    let deadline = Instant::now() + PATIENCE;
    while let Err(error) = second.connect(&server, None).await {
        assert!(Instant::now() < deadline, "never shown: {error:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
