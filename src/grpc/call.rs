//! What is known of the call that is being served: who makes it, for whom, and what comes of it.
//! When it is over it becomes one line of the log and one observation of the metrics.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use sha2::{Digest, Sha256};
use tonic::Code;

use super::auth::{Caller, hexadecimal};
use crate::quota::UserId;

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
    started: Instant,
    hash_user_ids: bool,
    caller: OnceLock<Arc<Caller>>,
    user: OnceLock<UserId>,
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

/// Does a part of a call outside of its task.
pub(super) async fn within<W: Future>(call: Option<Arc<Call>>, work: W) -> W::Output {
    match call {
        Some(call) => CALL.scope(call, work).await,
        None => work.await,
    }
}

impl Call {
    pub(super) fn new(method: Arc<str>, peer: Option<SocketAddr>, hash_user_ids: bool) -> Self {
        metrics::gauge!("img2text_rpc_in_flight").increment(1);
        Self {
            method,
            peer,
            started: Instant::now(),
            hash_user_ids,
            caller: OnceLock::new(),
            user: OnceLock::new(),
            outcome: OnceLock::new(),
        }
    }

    pub(super) fn identify(&self, caller: Arc<Caller>) {
        let _ = self.caller.set(caller);
    }

    /// Says how the call ended. Only the first time counts.
    pub(super) fn end(&self, code: Code, reason: &str) {
        let _ = self.outcome.set((code, reason.into()));
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
            peer = self.peer.map(tracing::field::display),
            "call"
        );
    }
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
