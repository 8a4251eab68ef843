//! However many calls arrive at once, exactly what was there is spent.

use img2text::grpc::proto::quota_service_client::QuotaServiceClient;
use img2text::grpc::proto::{CommitReservationRequest, ReserveQuotaRequest};
use tonic::Code;

use crate::support::server::Server;

/// Of 500 calls by 64 callers at once on an account with 100 requests, 100 succeed. The account's
/// requests are set as an operator of the old system would have set them.
#[tokio::test(flavor = "multi_thread")]
async fn of_64_callers_at_once_exactly_the_granted_number_succeed() {
    const CALLERS: usize = 64;
    const CALLS: usize = 500;
    const GRANTED: usize = 100;
    let server = Server::start();
    server.redis_cli(&["HSET", "sub:user:42", "free_used", "3", "extra_remaining", "100"]);

    let channel = server.channel().await;
    let callers = (0..CALLERS).map(|caller| {
        let mut client = QuotaServiceClient::new(channel.clone());
        tokio::spawn(async move {
            let mut succeeded = 0;
            for call in (caller..CALLS).step_by(CALLERS) {
                let reservation_id = format!("call-{call}");
                let reserve = ReserveQuotaRequest {
                    user_id: "42".into(),
                    reservation_id: reservation_id.clone(),
                    amount: 1,
                    ..Default::default()
                };
                match client.reserve_quota(reserve).await {
                    Ok(_) => succeeded += 1,
                    Err(status) => {
                        assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
                        continue;
                    }
                }
                let commit =
                    CommitReservationRequest { user_id: "42".into(), reservation_id, amount: None };
                client.commit_reservation(commit).await.expect("a hold can be committed");
            }
            succeeded
        })
    });
    let mut succeeded = 0;
    for caller in callers.collect::<Vec<_>>() {
        succeeded += caller.await.expect("a caller ends");
    }
    assert_eq!(succeeded, GRANTED);
    let account = server.account("42").await;
    assert_eq!(account.available, Some(Default::default()));
    assert_eq!(account.held, Some(Default::default()));
    assert_eq!(server.redis_cli(&["HGET", "sub:user:42", "extra_remaining"]).trim(), "0");
}
