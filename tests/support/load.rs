//! What the benches have in common: a load of the smallest calls, and how their figures are put
//! together.

use std::time::{Duration, Instant};

use img2text::grpc::proto::ReserveQuotaRequest;
use img2text::grpc::proto::quota_service_client::QuotaServiceClient;
use tonic::transport::Channel;

use super::server::Server;

/// How many connections a load has at most.
const CHANNELS_MAX: usize = 4;

/// The value that a share of the values does not exceed.
pub fn quantile(mut values: Vec<f64>, share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values[((values.len() - 1) as f64 * share).round() as usize]
}

/// The value in the middle.
pub fn median(values: Vec<f64>) -> f64 {
    quantile(values, 0.5)
}

/// The call with the least work of its own.
pub fn reserve_request(user: &str) -> ReserveQuotaRequest {
    ReserveQuotaRequest {
        user_id: user.into(),
        reservation_id: "reservation".into(),
        amount: 1,
        ..Default::default()
    }
}

/// Calls of ReserveQuota per second that so many callers get through, each for a user of its own.
/// No two loads with different names have users in common.
pub async fn reserve_rate(server: &Server, callers: usize, time: Duration, name: &str) -> f64 {
    let mut channels: Vec<Channel> = Vec::new();
    for _ in 0..callers.min(CHANNELS_MAX) {
        channels.push(server.channel().await);
    }
    let started = Instant::now();
    let tasks = (0..callers).map(|caller| {
        let mut client = QuotaServiceClient::new(channels[caller % channels.len()].clone());
        let name = format!("bench-{name}-{caller}");
        tokio::spawn(async move {
            let mut calls = 0_u64;
            while started.elapsed() < time {
                let request = reserve_request(&format!("{name}-{calls}"));
                client.reserve_quota(request).await.expect("a hold");
                calls += 1;
            }
            calls
        })
    });
    let mut calls = 0;
    for task in tasks.collect::<Vec<_>>() {
        calls += task.await.expect("a caller ends");
    }
    calls as f64 / started.elapsed().as_secs_f64()
}
