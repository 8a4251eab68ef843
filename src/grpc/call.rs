//! What is known of the call that is being served: who makes it, for whom, and what comes of it.
//! When it is over it becomes one line of the log, one observation of the metrics and, if it is
//! traced, a span.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Instant;

use http::HeaderMap;
use sha2::{Digest, Sha256};
use tonic::Code;
use tracing::field::Empty;
use tracing::{Instrument, Span, info_span};

use super::auth::{Caller, hexadecimal};
use super::in_flight::{Claim, Share};
use crate::quota::UserId;
use crate::telemetry::traces;

tokio::task_local! {
    /// The call that this task serves.
    pub(super) static CALL: Arc<Call>;
}

/// A call, from its headers to the end of its answer. It is told when the last who holds it lets
/// go, however the call ended: also when its caller went away.
#[derive(Debug)]
pub(super) struct Call {
    /// The method's path, if it is one of the contract: the path of another could be anything.
    pub(super) method: Arc<str>,
    pub(super) peer: Option<SocketAddr>,
    /// Around all that is done for the call.
    pub(super) span: Span,
    /// When its headers were there.
    pub(super) started: Instant,
    hash_user_ids: bool,
    caller: OnceLock<Arc<Caller>>,
    user: OnceLock<UserId>,
    /// What its messages take. Not held here: what is left of it goes back when they are read,
    /// however long the answer then takes to leave.
    messages: OnceLock<Weak<Claim>>,
    outcome: OnceLock<(Code, String)>,
}

/// Whether the caller of this call may touch the account of `user`. Notes whom the call is about.
pub(super) fn may_touch(user: &UserId) -> bool {
    CALL.try_with(|call| {
        let _ = call.user.set(user.clone());
        call.caller.get().is_none_or(|caller| caller.may_touch(user.as_str()))
    })
    // A part of a call that has lost its call knows nobody who may.
    .unwrap_or(false)
}

/// The call that this task serves. Answers of a streaming call are made outside of its task: what
/// they do is done [`within`] it.
pub(super) fn current() -> Option<Arc<Call>> {
    CALL.try_with(Arc::clone).ok()
}

/// When the call that this task serves began.
pub(super) fn started() -> Instant {
    CALL.try_with(|call| call.started).unwrap_or_else(|_| Instant::now())
}

/// The share of the message that this task has just read, in a method that takes many.
pub(super) fn message_share() -> Share {
    CALL.try_with(|call| call.message_share()).unwrap_or_default()
}

/// Does a part of a call outside of its task.
pub(super) async fn within<W: Future>(call: Option<Arc<Call>>, work: W) -> W::Output {
    match call {
        Some(call) => {
            let span = call.span.clone();
            CALL.scope(call, work).instrument(span).await
        }
        None => work.await,
    }
}

impl Call {
    pub(super) fn new(
        method: Arc<str>,
        peer: Option<SocketAddr>,
        headers: &HeaderMap,
        hash_user_ids: bool,
    ) -> Self {
        metrics::gauge!("img2text_rpc_in_flight").increment(1);
        let span = span(&method, peer);
        traces::continue_trace(&span, headers);
        Self {
            method,
            peer,
            span,
            started: Instant::now(),
            hash_user_ids,
            caller: OnceLock::new(),
            user: OnceLock::new(),
            messages: OnceLock::new(),
            outcome: OnceLock::new(),
        }
    }

    pub(super) fn identify(&self, caller: Arc<Caller>) {
        let _ = self.caller.set(caller);
    }

    pub(super) fn count_messages(&self, claim: &Arc<Claim>) {
        let _ = self.messages.set(Arc::downgrade(claim));
    }

    /// The share of the message that was just read, in a method that takes many.
    pub(super) fn message_share(&self) -> Share {
        let claim = self.messages.get().and_then(Weak::upgrade);
        claim.map(|claim| claim.share()).unwrap_or_default()
    }

    /// Says how the call ended. Only the first time counts.
    pub(super) fn end(&self, code: Code, reason: &str) {
        let _ = self.outcome.set((code, reason.into()));
    }

    /// What the span has to say of the end.
    fn complete_span(&self, code: Code, reason: &str) {
        self.span.record("rpc.response.status_code", code_name(code));
        if !reason.is_empty() {
            self.span.record("error.type", reason);
        }
        if is_servers_fault(code) {
            self.span.record("otel.status_code", "ERROR");
        }
        if let Some(user) = self.shown_user() {
            self.span.record(if self.hash_user_ids { "user.hash" } else { "user.id" }, user);
        }
    }

    fn shown_user(&self) -> Option<String> {
        let user = self.user.get()?.as_str();
        // Enough of a digest to tell users apart.
        let hashed = || hexadecimal(&Sha256::digest(user.as_bytes())[..8]);
        Some(if self.hash_user_ids { hashed() } else { user.into() })
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let unfinished = (Code::Cancelled, "CALLER_WENT_AWAY".to_string());
        let (code, reason) = self.outcome.get().unwrap_or(&unfinished);
        let seconds = self.started.elapsed().as_secs_f64();
        if !self.span.is_disabled() {
            self.complete_span(*code, reason);
        }
        let method = self.method.to_string();
        let code = code_name(*code);
        metrics::gauge!("img2text_rpc_in_flight").decrement(1);
        metrics::histogram!("img2text_rpc_duration_seconds", "method" => method, "code" => code)
            .record(seconds);
        if !reason.is_empty() {
            let (method, reason) = (self.method.to_string(), reason.clone());
            metrics::counter!("img2text_rpc_failures_total", "method" => method, "reason" => reason)
                .increment(1);
        }
        // Probes come every few seconds, for ever: they are no news.
        if self.method.starts_with("/grpc.") {
            tracing::debug!(method = &*self.method, code, "call");
            return;
        }
        tracing::info!(
            method = &*self.method,
            code,
            reason = (!reason.is_empty()).then_some(reason.as_str()),
            duration_ms = (seconds * 1e3) as u64,
            caller = self.caller.get().map(|caller| caller.name.as_str()),
            user = self.shown_user(),
            peer = self.peer.map(display),
            trace = traces::trace_id(&self.span).map(display),
            "call"
        );
    }
}

/// The span of a call, with what OpenTelemetry's conventions for gRPC ask of it.
fn span(method: &str, peer: Option<SocketAddr>) -> Span {
    let method = method.trim_start_matches('/');
    info_span!(
        "rpc",
        otel.name = method,
        otel.kind = "server",
        otel.status_code = Empty,
        rpc.system.name = "grpc",
        rpc.method = method,
        rpc.response.status_code = Empty,
        error.r#type = Empty,
        network.peer.address = peer.map(|peer| display(peer.ip())),
        network.peer.port = peer.map(|peer| peer.port()),
        user.id = Empty,
        user.hash = Empty,
    )
}

/// Whether a code is an error of the server and not of its caller, by the same conventions.
fn is_servers_fault(code: Code) -> bool {
    use Code::{DataLoss, DeadlineExceeded, Internal, Unavailable, Unimplemented, Unknown};
    matches!(code, Unknown | DeadlineExceeded | Unimplemented | Internal | Unavailable | DataLoss)
}

/// A code as OpenTelemetry and the gRPC documentation write it.
fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
