//! `StorageService`: how safe the accounts are.

use fred::clients::Client;
use jiff::Timestamp;
use tonic::{Request, Response, Status};

use super::proto::storage_service_server::StorageService;
use super::proto::{self, GetStorageStatusRequest, GetStorageStatusResponse};
use super::quota::timestamp;
use crate::quota;
use crate::redis::durability::{self, Finding, Verdict};

/// The service.
#[derive(Clone)]
pub struct Service {
    redis: Client,
}

impl Service {
    /// A service on a connection to Redis.
    pub fn new(redis: Client) -> Self {
        Self { redis }
    }
}

#[tonic::async_trait]
impl StorageService for Service {
    async fn get_storage_status(
        &self,
        _: Request<GetStorageStatusRequest>,
    ) -> Result<Response<GetStorageStatusResponse>, Status> {
        let report = durability::check(&self.redis).await.map_err(quota::Error::Unavailable)?;
        Ok(Response::new(GetStorageStatusResponse {
            verdict: verdict(report.verdict()).into(),
            findings: report.findings.into_iter().map(finding).collect(),
            check_time: Some(timestamp(Timestamp::now())),
        }))
    }
}

fn verdict(verdict: Verdict) -> proto::DurabilityVerdict {
    match verdict {
        Verdict::Durable => proto::DurabilityVerdict::Durable,
        Verdict::Unknown => proto::DurabilityVerdict::Unknown,
        Verdict::AtRisk => proto::DurabilityVerdict::AtRisk,
    }
}

fn finding(finding: Finding) -> proto::DurabilityFinding {
    proto::DurabilityFinding {
        node: finding.node,
        check: finding.check.into(),
        verdict: verdict(finding.verdict).into(),
        sentence: finding.sentence,
    }
}
