//! A picture goes in, its text comes out, and exactly one request is spent for it.

use image::ImageFormat;
use img2text::grpc::proto::{Buckets, ChargeState};

use crate::support::picture;
use crate::support::server::{Server, recognize_request, spent};

#[tokio::test]
async fn a_picture_is_recognised_and_one_request_is_spent() {
    let server = Server::start();
    let before = server.account("42").await;
    assert_eq!(before.available, Some(Buckets { free: 3, plan: 0, extra: 0 }));

    let request = recognize_request("42", picture::line("Hello recognition"));
    let response = server.recognize().await.recognize(request).await.unwrap().into_inner();

    assert_eq!(response.text.trim(), "Hello recognition");
    assert!(response.mean_confidence > 80.0, "{}", response.mean_confidence);
    let charge = response.charge.unwrap();
    assert_eq!(charge.state(), ChargeState::Confirmed);
    assert_eq!(charge.spent, Some(Buckets { free: 1, plan: 0, extra: 0 }));
    let after = server.account("42").await;
    assert_eq!(response.quota, Some(after.clone()));
    assert_eq!(after.available, Some(Buckets { free: 2, plan: 0, extra: 0 }));
    assert_eq!(after.held, Some(Buckets::default()));
    assert_eq!(spent(&after), 1);
}

#[tokio::test]
async fn russian_and_english_are_read_together() {
    let server = Server::start();
    let picture = picture::line("Привет, world");
    let mut request = recognize_request("42", picture);
    request.languages = vec!["rus".into(), "eng".into()];
    let response = server.recognize().await.recognize(request).await.unwrap().into_inner();
    assert_eq!(response.text.trim(), "Привет, world");
}

#[tokio::test]
async fn every_format_is_read() {
    let server = Server::start();
    let mut client = server.recognize().await;
    let image = picture::text(&["The same words"], 40);
    for format in [
        ImageFormat::Png,
        ImageFormat::Jpeg,
        ImageFormat::WebP,
        ImageFormat::Tiff,
        ImageFormat::Bmp,
        ImageFormat::Gif,
    ] {
        let user = format!("reader-of-{format:?}");
        let request = recognize_request(&user, picture::encode(&image, format));
        let response = client.recognize(request).await.unwrap().into_inner();
        assert_eq!(response.text.trim(), "The same words", "{format:?}");
    }
}

#[tokio::test]
async fn a_picture_of_nearly_20_mib_is_read() {
    let server = Server::start();
    // Noise does not compress, so that the encoded picture is as large as its pixels.
    let image = picture::text(&["A large picture"], 60);
    let below = image.height();
    let (width, height) = (2_600, 2_500);
    let mut state = 1_u32;
    let mut large = image::GrayImage::from_fn(width, height, |_, y| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        image::Luma([if y > below { 240 + (state >> 28) as u8 } else { 255 }])
    });
    image::imageops::replace(&mut large, &image, 0, 0);
    let bytes = picture::encode(&large, ImageFormat::Bmp);
    assert!(bytes.len() > 18 << 20, "{}", bytes.len());
    let response = server.recognize().await.recognize(recognize_request("42", bytes)).await;
    assert!(response.unwrap().into_inner().text.contains("A large picture"));
}

#[tokio::test]
async fn validate_only_says_what_would_happen_and_changes_nothing() {
    let server = Server::start();
    let mut client = server.recognize().await;
    let mut request = recognize_request("42", picture::line("Only asking"));
    request.validate_only = true;
    let response = client.recognize(request.clone()).await.unwrap().into_inner();
    assert_eq!((response.text.as_str(), response.charge), ("", None));
    let before = response.quota.expect("the account as it stands");
    assert_eq!(before.available, Some(Buckets { free: 3, plan: 0, extra: 0 }));

    server.redis_cli(&["HSET", "sub:user:42", "free_used", "3"]);
    let refused = client.recognize(request.clone()).await.expect_err("no quota");
    assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
    request.image = b"not a picture".to_vec().into();
    let refused = client.recognize(request).await.expect_err("not a picture");
    assert_eq!(refused.code(), tonic::Code::InvalidArgument);
    assert_eq!(server.account("42").await.held, Some(Buckets::default()));
}
