//! The service of accounts: from protobuf to the words of [`quota`](crate::quota) and back.

use std::time::Duration;

use jiff::civil::Date;
use jiff::{Timestamp, ToSpan};
use tonic::{Request, Response, Status};

use super::fields::Fields;
use super::proto;
use super::proto::quota_service_server::QuotaService;
use crate::quota::history::{self, Entry, EntryKind, Filter};
use crate::quota::page::Page;
use crate::quota::{self, Actor, PaymentId, ReservationId, Store, UserId, catalog, statistics};

/// The least time that a hold may be asked for.
const HOLD_TTL_MIN: Duration = Duration::from_secs(1);

/// How many items a page has if the caller does not say, and the most that it can have.
const PAGE_SIZE_DEFAULT: usize = 100;
const PAGE_SIZE_MAX: usize = 1_000;

/// The longest reason that goes into the history.
const REASON_CHARACTERS_MAX: usize = 200;

/// The kinds of entries here and on the wire.
const KINDS: [(EntryKind, proto::EntryKind); 9] = [
    (EntryKind::Opened, proto::EntryKind::Opened),
    (EntryKind::Committed, proto::EntryKind::Committed),
    (EntryKind::Released, proto::EntryKind::Released),
    (EntryKind::Expired, proto::EntryKind::Expired),
    (EntryKind::PlanActivated, proto::EntryKind::PlanActivated),
    (EntryKind::ExtraGranted, proto::EntryKind::ExtraGranted),
    (EntryKind::PlanCancelled, proto::EntryKind::PlanCancelled),
    (EntryKind::Adjusted, proto::EntryKind::Adjusted),
    (EntryKind::Reset, proto::EntryKind::Reset),
];

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

    /// The accounts on behalf of the caller, and what it asks for.
    fn on_behalf<T>(&self, request: Request<T>) -> (Store, T) {
        let actor = request.extensions().get::<Actor>().cloned();
        (self.store.acting_as(actor.unwrap_or_else(Actor::server)), request.into_inner())
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
        let user = one_user(request.into_inner().user_id)?;
        let quota = self.store.get(&user).await?;
        Ok(Response::new(proto::GetQuotaResponse { quota: Some(quota.into()) }))
    }

    async fn reserve_quota(
        &self,
        request: Request<proto::ReserveQuotaRequest>,
    ) -> Result<Response<proto::ReserveQuotaResponse>, Status> {
        let (store, request) = self.on_behalf(request);
        let mut fields = Fields::default();
        let user = fields.user(request.user_id);
        let id = fields.id("reservation_id", ReservationId::parse(request.reservation_id));
        let amount = fields.amount("amount", request.amount, 1);
        let ttl = self.ttl(&mut fields, request.ttl);
        let (Some(user), Some(id), Some(amount), Some(ttl)) = (user, id, amount, ttl) else {
            return Err(fields.refusal());
        };
        let held = store.reserve(&user, &id, amount, ttl, request.validate_only).await?;
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
        let (store, request) = self.on_behalf(request);
        let mut fields = Fields::default();
        let user = fields.user(request.user_id);
        let id = fields.id("reservation_id", ReservationId::parse(request.reservation_id));
        let amount = match request.amount {
            Some(amount) => fields.amount("amount", amount, 0).map(Some),
            None => Some(None),
        };
        let (Some(user), Some(id), Some(amount)) = (user, id, amount) else {
            return Err(fields.refusal());
        };
        let spent = store.commit(&user, &id, amount).await?;
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
        let (store, request) = self.on_behalf(request);
        let mut fields = Fields::default();
        let user = fields.user(request.user_id);
        let id = fields.id("reservation_id", ReservationId::parse(request.reservation_id));
        let (Some(user), Some(id)) = (user, id) else {
            return Err(fields.refusal());
        };
        let released = store.release(&user, &id, "").await?;
        Ok(Response::new(proto::ReleaseReservationResponse {
            quota: Some(released.quota.into()),
            replayed: released.replayed,
        }))
    }

    async fn extend_reservation(
        &self,
        request: Request<proto::ExtendReservationRequest>,
    ) -> Result<Response<proto::ExtendReservationResponse>, Status> {
        let (store, request) = self.on_behalf(request);
        let mut fields = Fields::default();
        let user = fields.user(request.user_id);
        let id = fields.id("reservation_id", ReservationId::parse(request.reservation_id));
        let ttl = self.ttl(&mut fields, request.ttl);
        let (Some(user), Some(id), Some(ttl)) = (user, id, ttl) else {
            return Err(fields.refusal());
        };
        let extended = store.extend(&user, &id, ttl).await?;
        Ok(Response::new(proto::ExtendReservationResponse {
            reservation: Some(reservation(extended.value, &user)),
        }))
    }

    async fn list_reservations(
        &self,
        request: Request<proto::ListReservationsRequest>,
    ) -> Result<Response<proto::ListReservationsResponse>, Status> {
        let request = request.into_inner();
        let mut fields = Fields::default();
        let user = fields.user(request.user_id);
        let page_size = fields.page_size(request.page_size);
        let (Some(user), Some(page_size)) = (user, page_size) else {
            return Err(fields.refusal());
        };
        let page = self.store.reservations(&user, page_size, &request.page_token).await?;
        Ok(Response::new(proto::ListReservationsResponse {
            reservations: page.items.into_iter().map(|hold| reservation(hold, &user)).collect(),
            next_page_token: page.next_page_token,
        }))
    }

    async fn force_release_reservation(
        &self,
        request: Request<proto::ForceReleaseReservationRequest>,
    ) -> Result<Response<proto::ForceReleaseReservationResponse>, Status> {
        let (store, request) = self.on_behalf(request);
        let mut fields = Fields::default();
        let user = fields.user(request.user_id);
        let id = fields.id("reservation_id", ReservationId::parse(request.reservation_id));
        let reason = fields.reason(request.reason);
        let (Some(user), Some(id), Some(reason)) = (user, id, reason) else {
            return Err(fields.refusal());
        };
        let released = store.release(&user, &id, &reason).await?;
        Ok(Response::new(proto::ForceReleaseReservationResponse {
            quota: Some(released.quota.into()),
            replayed: released.replayed,
        }))
    }

    async fn list_plans(
        &self,
        _request: Request<proto::ListPlansRequest>,
    ) -> Result<Response<proto::ListPlansResponse>, Status> {
        let catalog = self.store.catalog();
        let plan = |(name, plan): (&String, &catalog::Plan)| proto::Plan {
            plan: name.clone(),
            quota: plan.quota,
        };
        let mut plans: Vec<_> = catalog.plans.iter().map(plan).collect();
        plans.sort_by_key(|plan| plan.quota);
        Ok(Response::new(proto::ListPlansResponse {
            plans,
            free_allowance: catalog.free.allowance,
            free_monthly: catalog.free.period == catalog::Period::Monthly,
        }))
    }

    async fn activate_plan(
        &self,
        request: Request<proto::ActivatePlanRequest>,
    ) -> Result<Response<proto::ActivatePlanResponse>, Status> {
        let (store, request) = self.on_behalf(request);
        let mut fields = Fields::default();
        let user = fields.user(request.user_id);
        let payment = fields.id("payment_id", PaymentId::parse(request.payment_id));
        let plan = fields.plan(request.plan);
        let (Some(user), Some(payment), Some(plan)) = (user, payment, plan) else {
            return Err(fields.refusal());
        };
        let bought = store.activate_plan(&user, &plan, &payment).await?;
        Ok(Response::new(proto::ActivatePlanResponse {
            granted: Some(bought.value.granted.into()),
            quota: Some(bought.quota.into()),
            replayed: bought.replayed,
        }))
    }

    async fn grant_extra_requests(
        &self,
        request: Request<proto::GrantExtraRequestsRequest>,
    ) -> Result<Response<proto::GrantExtraRequestsResponse>, Status> {
        let (store, request) = self.on_behalf(request);
        let mut fields = Fields::default();
        let user = fields.user(request.user_id);
        let payment = fields.id("payment_id", PaymentId::parse(request.payment_id));
        let amount = fields.amount("amount", request.amount, 1);
        let (Some(user), Some(payment), Some(amount)) = (user, payment, amount) else {
            return Err(fields.refusal());
        };
        let bought = store.grant_extra(&user, amount, &payment).await?;
        Ok(Response::new(proto::GrantExtraRequestsResponse {
            granted: Some(bought.value.granted.into()),
            quota: Some(bought.quota.into()),
            replayed: bought.replayed,
        }))
    }

    async fn cancel_plan(
        &self,
        request: Request<proto::CancelPlanRequest>,
    ) -> Result<Response<proto::CancelPlanResponse>, Status> {
        let (store, request) = self.on_behalf(request);
        let user = one_user(request.user_id)?;
        let cancelled = store.cancel_plan(&user).await?;
        Ok(Response::new(proto::CancelPlanResponse {
            quota: Some(cancelled.quota.into()),
            replayed: cancelled.replayed,
        }))
    }

    async fn adjust_quota(
        &self,
        request: Request<proto::AdjustQuotaRequest>,
    ) -> Result<Response<proto::AdjustQuotaResponse>, Status> {
        let (store, request) = self.on_behalf(request);
        let mut fields = Fields::default();
        let bucket = fields.bucket(request.bucket());
        let user = fields.user(request.user_id);
        let delta = fields.delta(request.delta);
        let reason = fields.reason(request.reason);
        let id = fields.id("adjustment_id", PaymentId::parse(request.adjustment_id));
        let (Some(user), Some(bucket), Some(delta), Some(reason), Some(id)) =
            (user, bucket, delta, reason, id)
        else {
            return Err(fields.refusal());
        };
        let adjusted = store.adjust(&user, bucket, delta, &reason, &id).await?;
        Ok(Response::new(proto::AdjustQuotaResponse {
            granted: Some(adjusted.value.granted.into()),
            lapsed: Some(adjusted.value.lapsed.into()),
            quota: Some(adjusted.quota.into()),
            replayed: adjusted.replayed,
        }))
    }

    async fn list_history(
        &self,
        request: Request<proto::ListHistoryRequest>,
    ) -> Result<Response<proto::ListHistoryResponse>, Status> {
        let request = request.into_inner();
        let mut fields = Fields::default();
        let kinds: Option<Vec<_>> = request.kinds().map(|kind| fields.kind(kind)).collect();
        let user = fields.user(request.user_id);
        let page_size = fields.page_size(request.page_size);
        let start = fields.time("start_time", request.start_time);
        let end = fields.time("end_time", request.end_time);
        let (Some(user), Some(page_size), Some(start), Some(end), Some(kinds)) =
            (user, page_size, start, end, kinds)
        else {
            return Err(fields.refusal());
        };
        let filter = Filter { start, end, kinds };
        let page = self.store.history(&user, &filter, page_size, &request.page_token).await?;
        Ok(Response::new(proto::ListHistoryResponse {
            entries: page.items.into_iter().map(proto::Entry::from).collect(),
            next_page_token: page.next_page_token,
        }))
    }

    async fn get_usage(
        &self,
        request: Request<proto::GetUsageRequest>,
    ) -> Result<Response<proto::GetUsageResponse>, Status> {
        let user = one_user(request.into_inner().user_id)?;
        let (months, quota) = self.store.usage(&user).await?;
        let month = |(month, sums): (String, history::Month)| proto::Month {
            month,
            entries: sums.entries,
            granted: Some(sums.movement.granted.into()),
            spent: Some(sums.movement.spent.into()),
            lapsed: Some(sums.movement.lapsed.into()),
        };
        Ok(Response::new(proto::GetUsageResponse {
            months: months.into_iter().rev().map(month).collect(),
            quota: Some(quota.into()),
        }))
    }

    async fn list_users(
        &self,
        request: Request<proto::ListUsersRequest>,
    ) -> Result<Response<proto::ListUsersResponse>, Status> {
        let request = request.into_inner();
        let mut fields = Fields::default();
        let Some(page_size) = fields.page_size(request.page_size) else {
            return Err(fields.refusal());
        };
        let page = self.store.users(page_size, &request.page_token).await?;
        Ok(Response::new(proto::ListUsersResponse {
            user_ids: page.items.iter().map(ToString::to_string).collect(),
            next_page_token: page.next_page_token,
        }))
    }

    async fn export_account(
        &self,
        request: Request<proto::ExportAccountRequest>,
    ) -> Result<Response<proto::ExportAccountResponse>, Status> {
        let user = one_user(request.into_inner().user_id)?;
        let account_json = self.store.export(&user).await?.to_json().to_string();
        Ok(Response::new(proto::ExportAccountResponse { account_json }))
    }

    async fn delete_account(
        &self,
        request: Request<proto::DeleteAccountRequest>,
    ) -> Result<Response<proto::DeleteAccountResponse>, Status> {
        let user = one_user(request.into_inner().user_id)?;
        let replayed = self.store.delete(&user).await?;
        Ok(Response::new(proto::DeleteAccountResponse { replayed }))
    }

    async fn audit_accounts(
        &self,
        request: Request<proto::AuditAccountsRequest>,
    ) -> Result<Response<proto::AuditAccountsResponse>, Status> {
        let request = request.into_inner();
        let mut fields = Fields::default();
        let page = match (request.user_id, fields.page_size(request.page_size)) {
            (Some(user), Some(_)) => {
                fields.user(user).map(|user| Page { items: vec![user], next_page_token: "".into() })
            }
            (None, Some(size)) => Some(self.store.users(size, &request.page_token).await?),
            (_, None) => None,
        };
        let Some(page) = page else {
            return Err(fields.refusal());
        };
        let mut findings = Vec::new();
        for user in &page.items {
            findings.extend(self.store.audit(user).await?.into_iter().map(|finding| {
                proto::Finding {
                    user_id: user.to_string(),
                    check: finding.check,
                    expected: finding.expected,
                    found: finding.found,
                }
            }));
        }
        Ok(Response::new(proto::AuditAccountsResponse {
            accounts: page.items.len() as u64,
            findings,
            next_page_token: page.next_page_token,
        }))
    }

    async fn get_statistics(
        &self,
        request: Request<proto::GetStatisticsRequest>,
    ) -> Result<Response<proto::GetStatisticsResponse>, Status> {
        let request = request.into_inner();
        let mut fields = Fields::default();
        let last = fields.day("last_day", &request.last_day, statistics::today());
        let month_ago = last.unwrap_or_default().saturating_sub(30.days());
        let first = fields.day("first_day", &request.first_day, month_ago);
        let (Some(first), Some(last)) = (first, last) else {
            return Err(fields.refusal());
        };
        let days = self.store.statistics(first, last).await?;
        let day = |day: statistics::Day| proto::Day {
            day: day.date.to_string(),
            requests: day.counts.requests,
            refusals: day.counts.refusals,
            failures: day.counts.failures,
            pages: day.counts.pages,
            characters: day.counts.characters,
            active_users: day.active_users,
        };
        let days = days.into_iter().map(day).collect();
        Ok(Response::new(proto::GetStatisticsResponse { days }))
    }
}

/// The user of a request that names nothing else.
fn one_user(user_id: String) -> Result<UserId, Status> {
    let mut fields = Fields::default();
    fields.user(user_id).ok_or_else(|| fields.refusal())
}

/// The fields that only accounts have.
impl Fields {
    fn plan(&mut self, plan: String) -> Option<String> {
        if plan.is_empty() || plan.len() > 64 || plan.contains('|') {
            return self.wrong("plan", "must be the name of a plan in the catalog");
        }
        Some(plan)
    }

    fn reason(&mut self, reason: String) -> Option<String> {
        match reason.trim().chars().count() {
            1..=REASON_CHARACTERS_MAX => Some(reason.trim().into()),
            _ => self.wrong("reason", format!("must be 1 to {REASON_CHARACTERS_MAX} characters")),
        }
    }

    fn delta(&mut self, delta: i64) -> Option<i64> {
        let most = quota::account::AMOUNT_MAX;
        if delta == 0 || delta.unsigned_abs() > most {
            return self.wrong("delta", format!("must be -{most} to {most}, not 0"));
        }
        Some(delta)
    }

    fn bucket(&mut self, bucket: proto::Bucket) -> Option<quota::Bucket> {
        match bucket {
            proto::Bucket::Free => Some(quota::Bucket::Free),
            proto::Bucket::Plan => Some(quota::Bucket::Plan),
            proto::Bucket::Extra => Some(quota::Bucket::Extra),
            proto::Bucket::Unspecified => self.wrong("bucket", "must be free, plan or extra"),
        }
    }

    fn kind(&mut self, kind: proto::EntryKind) -> Option<EntryKind> {
        match KINDS.iter().find(|(_, wire)| *wire == kind) {
            Some((kind, _)) => Some(*kind),
            None => self.wrong("kinds", "must be kinds of entries"),
        }
    }

    fn page_size(&mut self, page_size: i32) -> Option<usize> {
        match usize::try_from(page_size) {
            Ok(0) => Some(PAGE_SIZE_DEFAULT),
            Ok(size) => Some(size.min(PAGE_SIZE_MAX)),
            Err(_) => self.wrong("page_size", "must not be negative"),
        }
    }

    fn time(
        &mut self,
        field: &str,
        time: Option<prost_types::Timestamp>,
    ) -> Option<Option<Timestamp>> {
        let Some(time) = time else { return Some(None) };
        match Timestamp::new(time.seconds, time.nanos) {
            Ok(time) => Some(Some(time)),
            Err(_) => self.wrong(field, "must be a time in the years 1 to 9999"),
        }
    }

    fn day(&mut self, field: &str, day: &str, default: Date) -> Option<Date> {
        if day.is_empty() {
            return Some(default);
        }
        day.parse().ok().or_else(|| self.wrong(field, "must be a day, as in 2026-11-23"))
    }
}

pub(super) fn timestamp(time: Timestamp) -> prost_types::Timestamp {
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

impl From<Entry> for proto::Entry {
    fn from(entry: Entry) -> Self {
        let kind = KINDS.iter().find(|(kind, _)| *kind == entry.kind);
        let kind = kind.map_or(proto::EntryKind::Unspecified, |(_, wire)| *wire);
        Self {
            number: entry.number,
            time: Some(timestamp(entry.time)),
            kind: kind.into(),
            id: entry.id,
            actor: entry.actor,
            granted: Some(entry.movement.granted.into()),
            spent: Some(entry.movement.spent.into()),
            lapsed: Some(entry.movement.lapsed.into()),
            detail: entry.detail,
        }
    }
}
