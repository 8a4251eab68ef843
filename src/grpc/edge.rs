//! What stands around every method: who may come in and how often, how long a call may take and how
//! much memory it may hold, and the full status of every refusal, also of those that the transport
//! makes.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use governor::clock::{Clock, DefaultClock};
use governor::{DefaultKeyedRateLimiter, RateLimiter};
use http::{HeaderMap, Request, Response};
use http_body::{Frame, SizeHint};
use tonic::body::Body;
use tonic::{Code, Status};
use tonic_types::StatusExt;
use tower::Service;

use super::auth::Auth;
use super::call::{CALL, Call};
use super::listener::Peer;
use super::recognize;
use super::status::{self, Reason};
use crate::config::Config;

/// What the methods of others than the contract are called in the log and the metrics.
const OTHER_METHOD: &str = "other";

/// By how much we are faster than tonic to say that a caller's time is over: tonic would say it
/// without a reason.
const HEAD_START: Duration = Duration::from_millis(2);

/// When to try again after the bytes in flight were too many.
const BYTES_RETRY_DELAY: Duration = Duration::from_secs(1);

/// Puts the edge around a service.
#[derive(Clone)]
pub(super) struct Layer {
    shared: Arc<Shared>,
}

struct Shared {
    auth: Arc<Auth>,
    /// The paths of the methods, shared by the calls.
    methods: HashMap<String, Arc<str>>,
    other_method: Arc<str>,
    rate: Option<DefaultKeyedRateLimiter<String>>,
    in_flight: Arc<InFlight>,
    /// What a call may take in all, the arrival of its message included.
    call_time_max: Duration,
    hash_user_ids: bool,
}

impl Layer {
    pub(super) fn new(config: &Config, auth: Arc<Auth>) -> Self {
        let own = auth.methods().all.iter().cloned();
        let foreign = [
            "/grpc.health.v1.Health/Check",
            "/grpc.health.v1.Health/Watch",
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
            "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        ];
        let methods = own.chain(foreign.map(String::from)).map(|path| {
            let shared = Arc::from(path.as_str());
            (path, shared)
        });
        let per_second = NonZeroU32::new(config.auth.requests_per_second_max);
        Self {
            shared: Arc::new(Shared {
                methods: methods.collect(),
                other_method: OTHER_METHOD.into(),
                auth,
                rate: per_second.map(|n| RateLimiter::keyed(governor::Quota::per_second(n))),
                in_flight: Arc::new(InFlight {
                    bytes: AtomicUsize::new(0),
                    bytes_max: config.server.in_flight_bytes_max,
                }),
                call_time_max: Duration::from_millis(config.ocr.call_ms_max),
                hash_user_ids: config.telemetry.hash_user_ids,
            }),
        }
    }
}

impl<S> tower::Layer<S> for Layer {
    type Service = Edge<S>;

    fn layer(&self, inner: S) -> Edge<S> {
        Edge { inner, shared: Arc::clone(&self.shared) }
    }
}

/// A service with the edge around it.
#[derive(Clone)]
pub(super) struct Edge<S> {
    inner: S,
    shared: Arc<Shared>,
}

impl<S> Service<Request<Body>> for Edge<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Response<Body>, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        // The one that was asked whether it is ready is the one to call.
        let ready = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, ready);
        let shared = Arc::clone(&self.shared);
        async move {
            let call = Arc::new(shared.begin(&request));
            // The memory of a message is free again only when the call is over.
            let (request, _claim) = match shared.admit(request, &call) {
                Ok(admitted) => admitted,
                Err(status) => return Ok(refuse(status, call)),
            };
            let time = shared.time(request.headers());
            let answer = CALL.scope(Arc::clone(&call), inner.call(request));
            let answer = AssertUnwindSafe(answer).catch_unwind();
            let status = match tokio::time::timeout(time, answer).await {
                Ok(Ok(answer)) => return Ok(observe(answer?, call)),
                Ok(Err(_)) => {
                    tracing::error!(method = &*call.method, "a method panicked");
                    status::plain(Reason::Internal, "something went wrong in the server")
                }
                Err(_) => {
                    let message = "the time for this call was over before its answer was there";
                    status::plain(Reason::DeadlineExceeded, message)
                }
            };
            Ok(refuse(status, call))
        }
        .boxed()
    }
}

impl Shared {
    fn begin(&self, request: &Request<Body>) -> Call {
        let method = self.methods.get(request.uri().path()).unwrap_or(&self.other_method);
        let peer = request.extensions().get::<Peer>().map(|peer| peer.address);
        Call::new(Arc::clone(method), peer, self.hash_user_ids)
    }

    fn admit(
        &self,
        request: Request<Body>,
        call: &Call,
    ) -> Result<(Request<Body>, Arc<Claim>), Status> {
        let (mut head, body) = request.into_parts();
        let certificate_names = match head.extensions.get::<Peer>() {
            Some(peer) => Arc::clone(&peer.certificate_names),
            None => Arc::default(),
        };
        let caller = self.auth.admit(head.uri.path(), &head.headers, &certificate_names)?;
        if let Some(caller) = caller {
            self.check_rate(caller.name.as_str())?;
            head.extensions.insert(caller.name.clone());
            call.identify(caller);
        }
        let claim = self.in_flight.claim();
        let body = Incoming { inner: body, claim: Arc::clone(&claim), refused: false };
        Ok((Request::from_parts(head, Body::new(body)), claim))
    }

    fn check_rate(&self, name: &str) -> Result<(), Status> {
        let Some(rate) = &self.rate else { return Ok(()) };
        rate.check_key(&name.to_string()).map_err(|until| {
            let wait = until.wait_time_from(DefaultClock::default().now());
            status::retry(Reason::RateLimited, "this token calls too often", wait)
        })
    }

    fn time(&self, headers: &HeaderMap) -> Duration {
        match recognize::timeout(headers) {
            Some(asked) => asked.saturating_sub(HEAD_START).min(self.call_time_max),
            None => self.call_time_max,
        }
    }
}

fn refuse(status: Status, call: Arc<Call>) -> Response<Body> {
    note(&call, &status);
    status.into_http()
}

fn note(call: &Call, status: &Status) {
    let details = status.get_error_details();
    let reason = details.error_info().map_or("", |info| info.reason.as_str());
    call.end(status.code(), reason);
}

/// Completes a refusal that came from the transport, and watches an answer until its end.
fn observe(response: Response<Body>, call: Arc<Call>) -> Response<Body> {
    match Status::from_header_map(response.headers()) {
        Some(found) if found.code() != Code::Ok => {
            let status = status::complete(found);
            note(&call, &status);
            status.into_http()
        }
        _ => response.map(|inner| Body::new(Outgoing { inner, call })),
    }
}

/// How many bytes of messages the server holds.
struct InFlight {
    bytes: AtomicUsize,
    bytes_max: usize,
}

impl InFlight {
    fn claim(self: &Arc<Self>) -> Arc<Claim> {
        Arc::new(Claim { of: Arc::clone(self), bytes: AtomicUsize::new(0) })
    }
}

/// What one call has of them, for as long as it takes.
struct Claim {
    of: Arc<InFlight>,
    bytes: AtomicUsize,
}

impl Claim {
    fn grow(&self, bytes: usize) -> bool {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.of.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes <= self.of.bytes_max
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.of.bytes.fetch_sub(self.bytes.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}

/// A message as it arrives, counted.
struct Incoming {
    inner: Body,
    claim: Arc<Claim>,
    refused: bool,
}

impl http_body::Body for Incoming {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.refused {
            return Poll::Ready(None);
        }
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(context));
        let bytes = match &frame {
            Some(Ok(frame)) => frame.data_ref().map_or(0, Bytes::len),
            _ => 0,
        };
        if bytes > 0 && !self.claim.grow(bytes) {
            self.refused = true;
            let message = "the server holds as many messages as it can: try again later";
            let status = status::retry(Reason::Overloaded, message, BYTES_RETRY_DELAY);
            return Poll::Ready(Some(Err(status)));
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// An answer as it leaves, watched for how it ends.
struct Outgoing {
    inner: Body,
    call: Arc<Call>,
}

impl http_body::Body for Outgoing {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(context));
        if let Some(Ok(frame)) = &frame
            && let Some(trailers) = frame.trailers_ref()
            && let Some(status) = Status::from_header_map(trailers)
        {
            note(&self.call, &status);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
