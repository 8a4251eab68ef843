//! What stands around every method: who may come in and how often, how long a call may take and how
//! much memory it may hold, and the full status of every refusal, also of those that the transport
//! makes.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
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
use tracing::Instrument;

use super::auth::Auth;
use super::call::{CALL, Call};
use super::in_flight::{Claim, InFlight, Incoming, Messages};
use super::listener::Peer;
use super::recognize;
use super::status::{self, Reason};
use crate::config::Config;

/// What the methods of others than the contract are called in the log and the metrics.
const OTHER_METHOD: &str = "other";

/// By how much we are faster than tonic to say that a caller's time is over: tonic would say it
/// without a reason.
const HEAD_START: Duration = Duration::from_millis(2);

/// Puts the edge around a service.
#[derive(Clone)]
pub(super) struct Layer {
    shared: Arc<Shared>,
}

struct Shared {
    auth: Arc<Auth>,
    /// The methods by their paths.
    methods: HashMap<String, Method>,
    other_method: Method,
    rate: Option<DefaultKeyedRateLimiter<String>>,
    in_flight: Arc<InFlight>,
    /// What a call may take in all, the arrival of its message included.
    call_time_max: Duration,
    hash_user_ids: bool,
}

/// What is known of a method before it is called.
#[derive(Clone)]
struct Method {
    /// Its path, shared by its calls.
    path: Arc<str>,
    messages: Messages,
}

impl Method {
    fn new(path: &str, messages: Messages) -> Self {
        Self { path: path.into(), messages }
    }
}

impl Layer {
    pub(super) fn new(config: &Config, auth: Arc<Auth>) -> Self {
        let contract = auth.methods();
        let own = contract.all.iter().map(|path| match contract.streaming.contains(path) {
            true => Method::new(path, Messages::Shared),
            false => Method::new(path, Messages::One),
        });
        let foreign = [
            ("/grpc.health.v1.Health/Check", Messages::One),
            ("/grpc.health.v1.Health/Watch", Messages::One),
            ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Messages::Passing),
            ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", Messages::Passing),
        ];
        let foreign = foreign.map(|(path, messages)| Method::new(path, messages));
        let methods = own.chain(foreign).map(|method| (method.path.to_string(), method));
        let call_time_max = Duration::from_millis(config.ocr.call_ms_max);
        let per_second = NonZeroU32::new(config.auth.requests_per_second_max);
        Self {
            shared: Arc::new(Shared {
                methods: methods.collect(),
                other_method: Method::new(OTHER_METHOD, Messages::One),
                auth,
                rate: per_second.map(|n| RateLimiter::keyed(governor::Quota::per_second(n))),
                in_flight: InFlight::new(config.server.in_flight_bytes_max, call_time_max),
                call_time_max,
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
            let method = shared.method(&request);
            let call = Arc::new(shared.begin(method, &request));
            // The memory of a message is free again only when the call is over.
            let (request, _claim) = match shared.admit(request, method, &call) {
                Ok(admitted) => admitted,
                Err(status) => return Ok(refuse(status, call)),
            };
            let time = shared.time(request.headers());
            let answer = CALL.scope(Arc::clone(&call), inner.call(request));
            let answer = answer.instrument(call.span.clone());
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
    fn method(&self, request: &Request<Body>) -> &Method {
        self.methods.get(request.uri().path()).unwrap_or(&self.other_method)
    }

    fn begin(&self, method: &Method, request: &Request<Body>) -> Call {
        let peer = request.extensions().get::<Peer>().map(|peer| peer.address);
        Call::new(Arc::clone(&method.path), peer, request.headers(), self.hash_user_ids)
    }

    fn admit(
        &self,
        request: Request<Body>,
        method: &Method,
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
        call.count_messages(&claim);
        let body = Incoming::new(body, Arc::clone(&claim), method.messages);
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

/// Completes a refusal that came from the transport in the middle of an answer, and notes how it
/// ends: in its trailers. Other frames stay as they are.
fn end(frame: Frame<Bytes>, call: &Call) -> Frame<Bytes> {
    let Some(found) = frame.trailers_ref().and_then(Status::from_header_map) else { return frame };
    let refused = found.code() != Code::Ok && found.details().is_empty();
    let status = status::complete(found);
    note(call, &status);
    if !refused {
        return frame;
    }
    let mut trailers = HeaderMap::new();
    match status.add_header(&mut trailers) {
        Ok(()) => Frame::trailers(trailers),
        Err(_) => frame,
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
        Poll::Ready(frame.map(|frame| Ok(end(frame?, &self.call))))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
