//! `RecognizeService`: from the wire to [`crate::recognition`] and back.

use std::time::{Duration, Instant};

use http::HeaderMap;
use tonic::{Request, Response, Status};

use super::fields::Fields;
use super::proto::recognize_service_server::RecognizeService;
use super::proto::{self, RecognizeRequest, RecognizeResponse};
use crate::ocr::Options;
use crate::quota::{RequestId, Settled, State};
use crate::recognition::{self, Recognizer};

/// The service.
#[derive(Clone)]
pub struct Service {
    recognizer: Recognizer,
    /// The longest time a call may take, whatever its caller allows.
    call_time_max: Duration,
}

impl Service {
    /// A service on the given recogniser.
    pub fn new(recognizer: Recognizer, call_time_max: Duration) -> Self {
        Self { recognizer, call_time_max }
    }
}

#[tonic::async_trait]
impl RecognizeService for Service {
    async fn recognize(
        &self,
        request: Request<RecognizeRequest>,
    ) -> Result<Response<RecognizeResponse>, Status> {
        let allowed = timeout(request.metadata().as_ref()).unwrap_or(self.call_time_max);
        let deadline = Instant::now() + allowed.min(self.call_time_max);
        let validate_only = request.get_ref().validate_only;
        let request = recognition_request(request.into_inner(), deadline)?;
        if validate_only {
            let quota = Some(self.recognizer.validate(&request).await?.into());
            return Ok(Response::new(RecognizeResponse { quota, ..Default::default() }));
        }
        let recognized = self.recognizer.recognize(request).await?;
        Ok(Response::new(response(recognized)))
    }
}

fn recognition_request(
    request: RecognizeRequest,
    deadline: Instant,
) -> Result<recognition::Request, Status> {
    let mut fields = Fields::default();
    let user = fields.user(request.user_id);
    let request_id = request.request_id.map(RequestId::parse).transpose();
    let request_id = fields.id("request_id", request_id);
    let (Some(user), Some(request_id)) = (user, request_id) else {
        return Err(fields.refusal());
    };
    let options = Options { languages: request.languages, ..Options::default() };
    Ok(recognition::Request { user, request_id, image: request.image, options, deadline })
}

fn response(recognized: recognition::Recognized) -> RecognizeResponse {
    let recognition::Recognized { page, settled } = recognized;
    RecognizeResponse {
        text: page.text,
        mean_confidence: page.mean_confidence,
        charge: Some(charge(&settled)),
        quota: settled.quota.map(Into::into),
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
