//! `RecognizeService`: from the wire to [`crate::recognition`] and back.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use futures::stream::{self, BoxStream, StreamExt};
use http::HeaderMap;
use prost::Message;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Request, Response, Status, Streaming};

use super::fields::Fields;
use super::proto::recognize_service_server::RecognizeService;
use super::proto::{
    self, ListLanguagesRequest, ListLanguagesResponse, RecognizeDocumentRequest,
    RecognizeDocumentResponse, RecognizeRequest, RecognizeResponse, RecognizeStreamRequest,
    RecognizeStreamResponse,
};
use super::status::{self, Reason};
use super::{call, document, page};
use crate::ocr::{self, WhenFull};
use crate::quota::{Actor, RequestId, Settled, State};
use crate::recognition::{self, Recognizer};

/// What charge and account take of a reply, at most.
const CHARGE_BYTES_MAX: usize = 1 << 10;

/// The answers of a streaming call.
type Answers<T> = BoxStream<'static, Result<T, Status>>;

/// The service.
#[derive(Clone)]
pub struct Service {
    recognizer: Recognizer,
    /// The longest time a call may take, whatever its caller allows.
    call_time_max: Duration,
}

impl Service {
    /// How long a document may take in all if its caller does not say: each of its pages has its
    /// own limit.
    pub(super) fn document_time_max(&self) -> Duration {
        self.call_time_max * self.recognizer.pool().settings().document_pages_max
    }

    /// A service on the given recogniser.
    pub fn new(recognizer: Recognizer, call_time_max: Duration) -> Self {
        Self { recognizer, call_time_max }
    }

    /// The service as its caller's: the history of the accounts says who it was.
    fn acting_for<T>(&self, request: &Request<T>) -> Self {
        match request.extensions().get::<Actor>() {
            Some(actor) => {
                Self { recognizer: self.recognizer.acting_as(actor.clone()), ..self.clone() }
            }
            None => self.clone(),
        }
    }
}

#[tonic::async_trait]
impl RecognizeService for Service {
    async fn recognize(
        &self,
        request: Request<RecognizeRequest>,
    ) -> Result<Response<RecognizeResponse>, Status> {
        let service = self.acting_for(&request);
        // The call began with its headers: its message may have taken a while to arrive.
        let started = call::started();
        let ours = started + self.call_time_max;
        let deadline = deadline(&request).map_or(ours, |theirs| theirs.min(ours));
        let response = service.recognize_one(request.into_inner(), deadline, WhenFull::Refuse);
        Ok(Response::new(response.await?))
    }

    type RecognizeDocumentStream = Answers<RecognizeDocumentResponse>;

    async fn recognize_document(
        &self,
        request: Request<Streaming<RecognizeDocumentRequest>>,
    ) -> Result<Response<Self::RecognizeDocumentStream>, Status> {
        let service = self.acting_for(&request);
        let deadline = deadline(&request);
        let settings = self.recognizer.pool().settings();
        let upload = document::receive(request.into_inner(), settings.image_bytes_max);
        let arrives_until = self.deadline_within(deadline);
        let upload = tokio::time::timeout_at(arrives_until.into(), upload).await;
        let upload = upload.map_err(|_| Status::from(ocr::Error::DeadlineExceeded))??;
        let document = document::Document::new(upload, deadline, self)?;
        let counting = recognition::Request { deadline: arrives_until, ..document.page(1) };
        let pages = service.recognizer.count_pages(&counting).await?;
        let range = document.pages(pages, settings.document_pages_max)?;
        let at_once = self.recognizer.pool().workers();
        let this_call = call::current();
        let answers = stream::iter(range)
            .map(move |page| {
                let answer = service.clone().recognize_page(document.page(page));
                let answer = driven(call::within(this_call.clone(), answer));
                async move { document::messages(page, pages, answer.await) }
            })
            .buffered(at_once)
            .flat_map(stream::iter)
            .map(Ok);
        Ok(Response::new(answers.boxed()))
    }

    type RecognizeStreamStream = Answers<RecognizeStreamResponse>;

    async fn recognize_stream(
        &self,
        request: Request<Streaming<RecognizeStreamRequest>>,
    ) -> Result<Response<Self::RecognizeStreamStream>, Status> {
        let deadline = deadline(&request);
        let service = self.acting_for(&request);
        let at_once = self.recognizer.pool().settings().stream_in_flight_max;
        let this_call = call::current();
        // What is wrong with the call itself, and not with one of its pictures, ends it: but not
        // before those that came before are answered.
        let failure = Arc::new(OnceLock::new());
        let failed = Arc::clone(&failure);
        let items = request.into_inner().scan((), move |(), item| {
            let item = item.map_err(|status| failed.set(status)).ok();
            std::future::ready(item)
        });
        let end = async move { failure.get().cloned().map(Err) };
        // The next picture is read only when one before it is done: so nothing piles up here.
        let answers = items
            .map(move |RecognizeStreamRequest { id, request }| {
                let share = this_call.as_ref().map(|call| call.message_share());
                let answer = service.clone().recognize_item(id.len(), request, deadline);
                let answer = driven(call::within(this_call.clone(), answer));
                async move {
                    let answer = item_answer(id, answer.await);
                    drop(share);
                    answer
                }
            })
            .buffer_unordered(at_once)
            .map(Ok)
            .chain(stream::once(end).filter_map(std::future::ready));
        Ok(Response::new(answers.boxed()))
    }

    async fn list_languages(
        &self,
        _request: Request<ListLanguagesRequest>,
    ) -> Result<Response<ListLanguagesResponse>, Status> {
        let pool = self.recognizer.pool();
        Ok(Response::new(ListLanguagesResponse {
            languages: pool.languages().to_vec(),
            default_languages: pool.settings().languages_default.clone(),
        }))
    }
}

/// The longest id of a picture in a stream.
const ITEM_ID_BYTES_MAX: usize = 256;

impl Service {
    /// When a part of a call ends at the latest that begins now, by its caller's word and the
    /// server's.
    fn deadline_within(&self, deadline: Option<Instant>) -> Instant {
        let ours = Instant::now() + self.call_time_max;
        deadline.map_or(ours, |theirs| theirs.min(ours))
    }

    async fn recognize_one(
        &self,
        request: RecognizeRequest,
        deadline: Instant,
        when_full: WhenFull,
    ) -> Result<RecognizeResponse, Status> {
        let validate_only = request.validate_only;
        let request = recognition_request(request, deadline, when_full)?;
        if validate_only {
            let quota = Some(self.recognizer.validate(&request).await?.into());
            return Ok(RecognizeResponse { quota, ..Default::default() });
        }
        let bytes_max = self.recognizer.pool().settings().reply_bytes_max;
        let fits = |page: &ocr::Page| {
            let bytes = page::response(page.clone()).encoded_len() + CHARGE_BYTES_MAX;
            if bytes <= bytes_max {
                return Ok(());
            }
            Err(recognition::Error::ReplyTooLarge { bytes, bytes_max })
        };
        Ok(response(self.recognizer.recognize(request, fits).await?))
    }

    /// A page of a document.
    async fn recognize_page(
        self,
        mut request: recognition::Request,
    ) -> Result<RecognizeResponse, Status> {
        // The pages before may have taken long; each has its own time.
        request.deadline = self.deadline_within(Some(request.deadline));
        Ok(response(self.recognizer.recognize(request, |_| Ok(())).await?))
    }

    /// A picture of a stream.
    async fn recognize_item(
        self,
        id_bytes: usize,
        request: Option<RecognizeRequest>,
        deadline: Option<Instant>,
    ) -> Result<RecognizeResponse, Status> {
        if id_bytes > ITEM_ID_BYTES_MAX {
            let mut fields = Fields::default();
            fields.wrong::<()>("id", format!("may have at most {ITEM_ID_BYTES_MAX} bytes"));
            return Err(fields.refusal());
        }
        let deadline = self.deadline_within(deadline);
        self.recognize_one(request.unwrap_or_default(), deadline, WhenFull::Wait).await
    }
}

/// What became of a picture of a stream, under its id; under the beginning of one that is too long.
fn item_answer(
    mut id: String,
    answer: Result<RecognizeResponse, Status>,
) -> RecognizeStreamResponse {
    use proto::recognize_stream_response::Result as Outcome;
    let end = (0..=ITEM_ID_BYTES_MAX).rev().find(|end| id.is_char_boundary(*end));
    id.truncate(end.unwrap_or_default());
    let result = match answer {
        Ok(response) => Outcome::Recognized(response),
        Err(status) => Outcome::Error(status::to_message(status)),
    };
    RecognizeStreamResponse { id, result: Some(result) }
}

/// A part of a streaming call, in a task of its own. The answers of such a call are made only as
/// fast as its caller takes them: one who takes none would keep a worker for ever. The task ends
/// with the call.
fn driven<T: Send + 'static>(
    part: impl Future<Output = Result<T, Status>> + Send + 'static,
) -> impl Future<Output = Result<T, Status>> + Send {
    let task = AbortOnDropHandle::new(tokio::spawn(part));
    async move {
        task.await.unwrap_or_else(|error| {
            tracing::error!(%error, "a part of a call was not brought to an end");
            Err(status::plain(Reason::Internal, "something went wrong in the server"))
        })
    }
}

fn recognition_request(
    request: RecognizeRequest,
    deadline: Instant,
    when_full: WhenFull,
) -> Result<recognition::Request, Status> {
    let mut fields = Fields::default();
    let user = fields.user(request.user_id);
    let request_id = request.request_id.map(RequestId::parse).transpose();
    let request_id = fields.id("request_id", request_id);
    let page = request.page.unwrap_or(1);
    let options = page::options(request.options, request.languages, page, "options", &mut fields);
    let (Some(user), Some(request_id), Some(options)) = (user, request_id, options) else {
        return Err(fields.refusal());
    };
    let image = request.image;
    Ok(recognition::Request { user, request_id, image, options, deadline, when_full })
}

fn response(recognized: recognition::Recognized) -> RecognizeResponse {
    let recognition::Recognized { page, settled } = recognized;
    RecognizeResponse {
        charge: Some(charge(&settled)),
        quota: settled.quota.map(Into::into),
        ..page::response(page)
    }
}

fn charge(settled: &Settled) -> proto::Charge {
    let state = match settled.state {
        State::Confirmed => proto::ChargeState::Confirmed,
        State::Unconfirmed => proto::ChargeState::Unconfirmed,
        State::Lapsed => proto::ChargeState::Lapsed,
    };
    proto::Charge { state: state.into(), spent: Some(settled.spent.into()) }
}

/// When the caller stops waiting, if it says so.
fn deadline<T>(request: &Request<T>) -> Option<Instant> {
    timeout(request.metadata().as_ref()).map(|allowed| call::started() + allowed)
}

/// How long the caller waits, as its `grpc-timeout` says: at most eight digits and a unit.
pub(super) fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = value.split_at_checked(value.len().checked_sub(1)?)?;
    let amount: u32 = digits.parse().ok()?;
    let second = Duration::from_secs(1);
    match unit {
        "H" => Some(second * 3_600 * amount.min(1_000_000)),
        "M" => Some(second * 60 * amount),
        "S" => Some(second * amount),
        "m" => Some(Duration::from_millis(amount.into())),
        "u" => Some(Duration::from_micros(amount.into())),
        "n" => Some(Duration::from_nanos(amount.into())),
        _ => None,
    }
}
