//! The service of accounts: from protobuf to the words of [`quota`](crate::quota) and back.

use std::time::Duration;

use jiff::Timestamp;
use tonic::{Request, Response, Status};

use super::fields::Fields;
use super::proto;
use super::proto::quota_service_server::QuotaService;
use crate::quota::{self, ReservationId, Store, UserId};

/// The least time that a hold may be asked for.
const HOLD_TTL_MIN: Duration = Duration::from_secs(1);

/// The service, on the accounts of a store.
#[derive(Clone)]
pub struct Service {
    store: Store,
}

impl Service {
    /// The service on these accounts.
    pub fn new(store: Store) -> Self {
        Self { store }
    }

    fn ttl(&self, fields: &mut Fields, ttl: Option<prost_types::Duration>) -> Option<Duration> {
        let settings = self.store.settings();
        let Some(ttl) = ttl else {
            return Some(Duration::from_millis(settings.hold_ttl_ms_default));
        };
        let longest = Duration::from_millis(settings.hold_ttl_ms_max);
        match Duration::try_from(ttl) {
            Ok(ttl) if (HOLD_TTL_MIN..=longest).contains(&ttl) => Some(ttl),
            _ => fields.wrong("ttl", format!("must be {HOLD_TTL_MIN:?} to {longest:?}")),
        }
    }
}

#[tonic::async_trait]
impl QuotaService for Service {
    async fn get_quota(
        &self,
        request: Request<proto::GetQuotaRequest>,
    ) -> Result<Response<proto::GetQuotaResponse>, Status> {
        let request = request.into_inner();
        let mut fields = Fields::default();
        let Some(user) = fields.id("user_id", UserId::parse(request.user_id)) else {
            return Err(fields.refusal());
        };
        let quota = self.store.get(&user).await?;
        Ok(Response::new(proto::GetQuotaResponse { quota: Some(quota.into()) }))
    }

    async fn reserve_quota(
        &self,
        request: Request<proto::ReserveQuotaRequest>,
    ) -> Result<Response<proto::ReserveQuotaResponse>, Status> {
        let request = request.into_inner();
        let mut fields = Fields::default();
        let user = fields.id("user_id", UserId::parse(request.user_id));
        let id = fields.id("reservation_id", ReservationId::parse(request.reservation_id));
        let amount = fields.amount("amount", request.amount, 1);
        let ttl = self.ttl(&mut fields, request.ttl);
        let (Some(user), Some(id), Some(amount), Some(ttl)) = (user, id, amount, ttl) else {
            return Err(fields.refusal());
        };
        let held = self.store.reserve(&user, &id, amount, ttl, request.validate_only).await?;
        Ok(Response::new(proto::ReserveQuotaResponse {
            reservation: Some(reservation(held.value, &user)),
            quota: Some(held.quota.into()),
            replayed: held.replayed,
        }))
    }

    async fn commit_reservation(
        &self,
        request: Request<proto::CommitReservationRequest>,
    ) -> Result<Response<proto::CommitReservationResponse>, Status> {
        let request = request.into_inner();
        let mut fields = Fields::default();
        let user = fields.id("user_id", UserId::parse(request.user_id));
        let id = fields.id("reservation_id", ReservationId::parse(request.reservation_id));
        let amount = match request.amount {
            Some(amount) => fields.amount("amount", amount, 0).map(Some),
            None => Some(None),
        };
        let (Some(user), Some(id), Some(amount)) = (user, id, amount) else {
            return Err(fields.refusal());
        };
        let spent = self.store.commit(&user, &id, amount).await?;
        Ok(Response::new(proto::CommitReservationResponse {
            spent: Some(spent.value.into()),
            quota: Some(spent.quota.into()),
            replayed: spent.replayed,
        }))
    }

    async fn release_reservation(
        &self,
        request: Request<proto::ReleaseReservationRequest>,
    ) -> Result<Response<proto::ReleaseReservationResponse>, Status> {
        let request = request.into_inner();
        let mut fields = Fields::default();
        let user = fields.id("user_id", UserId::parse(request.user_id));
        let id = fields.id("reservation_id", ReservationId::parse(request.reservation_id));
        let (Some(user), Some(id)) = (user, id) else {
            return Err(fields.refusal());
        };
        let released = self.store.release(&user, &id, "").await?;
        Ok(Response::new(proto::ReleaseReservationResponse {
            quota: Some(released.quota.into()),
            replayed: released.replayed,
        }))
    }

    async fn extend_reservation(
        &self,
        request: Request<proto::ExtendReservationRequest>,
    ) -> Result<Response<proto::ExtendReservationResponse>, Status> {
        let request = request.into_inner();
        let mut fields = Fields::default();
        let user = fields.id("user_id", UserId::parse(request.user_id));
        let id = fields.id("reservation_id", ReservationId::parse(request.reservation_id));
        let ttl = self.ttl(&mut fields, request.ttl);
        let (Some(user), Some(id), Some(ttl)) = (user, id, ttl) else {
            return Err(fields.refusal());
        };
        let extended = self.store.extend(&user, &id, ttl).await?;
        Ok(Response::new(proto::ExtendReservationResponse {
            reservation: Some(reservation(extended.value, &user)),
        }))
    }
}

fn timestamp(time: Timestamp) -> prost_types::Timestamp {
    prost_types::Timestamp { seconds: time.as_second(), nanos: time.subsec_nanosecond() }
}

fn reservation(reservation: quota::Reservation, user: &UserId) -> proto::Reservation {
    proto::Reservation {
        reservation_id: reservation.id.to_string(),
        user_id: user.to_string(),
        held: Some(reservation.held.into()),
        expire_time: Some(timestamp(reservation.expires)),
        create_time: Some(timestamp(reservation.created)),
        actor: reservation.actor,
        request_id: reservation.request.map(|id| id.to_string()),
    }
}

impl From<quota::Buckets> for proto::Buckets {
    fn from(quota::Buckets { free, plan, extra }: quota::Buckets) -> Self {
        Self { free, plan, extra }
    }
}

impl From<quota::Quota> for proto::Quota {
    fn from(quota: quota::Quota) -> Self {
        Self {
            user_id: quota.user.to_string(),
            plan: quota.plan,
            available: Some(quota.available.into()),
            held: Some(quota.held.into()),
            spent: Some(quota.spent.into()),
            next_reset_time: Some(timestamp(quota.next_reset)),
            granted: Some(quota.granted.into()),
            lapsed: Some(quota.lapsed.into()),
            plan_cancelled: quota.plan_cancelled,
            near_limit: quota.near_limit,
        }
    }
}
