//! A full disk: Redis, which syncs every change, exits. Nothing acknowledged is lost, calls say
//! "try again" meanwhile, and all goes on by itself once there is room.

use std::fs::File;
use std::io::Write;
use std::time::{Duration, Instant};

use img2text::grpc::proto::GrantExtraRequestsRequest;
use tonic::Code;

use crate::support::server::{PATIENCE, Server};

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_loses_nothing_and_heals() {
    let server = Server::on_a_disk_of(8 << 20);
    let mut client = server.quota().await;
    let mut grant = async |number: usize| {
        let request = GrantExtraRequestsRequest {
            user_id: "ann".into(),
            amount: 1,
            payment_id: format!("p{number}"),
        };
        client.grant_extra_requests(request).await.map(|_| ())
    };
    for number in 0..10 {
        grant(number).await.expect("there is room");
    }

    let path = server.data_dir_inside().join("filler");
    let mut filler = File::create(&path).unwrap();
    while filler.write_all(&[0; 4096]).is_ok() {}
    while filler.write_all(&[0]).is_ok() {}

    let (mut next, mut acknowledged) = (10, 10);
    let deadline = Instant::now() + PATIENCE;
    let mut refused = 0;
    while refused < 3 || !server.log().contains("the private Redis has ended") {
        assert!(Instant::now() < deadline, "the disk was never full");
        let started = Instant::now();
        match grant(next).await {
            Ok(()) => acknowledged += 1,
            Err(status) => {
                assert_eq!(status.code(), Code::Unavailable, "{status:?}");
                refused += 1;
            }
        }
        assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
        next += 1;
    }

    drop(filler);
    std::fs::remove_file(path).unwrap();
    let deadline = Instant::now() + PATIENCE;
    while grant(next).await.is_err() {
        assert!(Instant::now() < deadline, "there is room again, and nothing goes on");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let extra = server.account("ann").await.available.unwrap().extra;
    assert!(extra > acknowledged, "{acknowledged} and one more were acknowledged: {extra}");
    // Those in doubt, sent again: each is there once.
    for number in 0..=next {
        grant(number).await.expect("there is room again");
    }
    assert_eq!(server.account("ann").await.available.unwrap().extra, next as u64 + 1);
    println!("{acknowledged} acknowledged, {refused} refused on a full disk");
}
