//! Documents and streams: every page is answered and charged on its own.

use std::collections::BTreeMap;

use futures::stream::{self, StreamExt};
use img2text::grpc::proto::recognize_document_request::Piece;
use img2text::grpc::proto::recognize_document_response::Result as PageResult;
use img2text::grpc::proto::recognize_stream_response::Result as ItemResult;
use img2text::grpc::proto::{
    DocumentHeader, ListLanguagesRequest, OutputFormat, RecognizeDocumentRequest,
    RecognizeDocumentResponse, RecognizeOptions, RecognizeRequest, RecognizeStreamRequest,
};
use tonic::Code;
use tonic_types::StatusExt;

use crate::support::picture;
use crate::support::server::{Server, recognize_request, spent, wait_until};

const WORDS: [&str; 4] = ["First page", "Second page", "Third page", "Fourth page"];

async fn document(
    server: &Server,
    header: DocumentHeader,
    file: &[u8],
) -> Result<Vec<RecognizeDocumentResponse>, tonic::Status> {
    let mut pieces = vec![Piece::Header(header)];
    pieces.extend(file.chunks(10_000).map(|chunk| Piece::Chunk(chunk.to_vec().into())));
    let pieces = pieces.into_iter().map(|piece| RecognizeDocumentRequest { piece: Some(piece) });
    let answers = server.recognize().await.recognize_document(stream::iter(pieces)).await?;
    answers.into_inner().collect::<Vec<_>>().await.into_iter().collect()
}

fn header(user: &str) -> DocumentHeader {
    let (user_id, languages) = (user.into(), vec!["eng".into()]);
    DocumentHeader { user_id, languages, ..Default::default() }
}

#[tokio::test]
async fn each_page_of_a_document_is_charged_and_those_beyond_the_quota_are_refused() {
    let server = Server::start();
    let pages = WORDS.map(|words| picture::text(&[words], 40));
    let answers = document(&server, header("42"), &picture::tiff(&pages)).await.unwrap();

    // Three requests are free: as many pages are read, in their order.
    let numbers: Vec<u32> = answers.iter().map(|answer| answer.page).collect();
    assert_eq!(numbers, [1, 2, 3, 4]);
    assert!(answers.iter().all(|answer| answer.page_count == 4));
    let mut refused = 0;
    for (answer, words) in answers.iter().zip(WORDS) {
        match answer.result.as_ref().unwrap() {
            PageResult::Recognized(page) => assert_eq!(page.text.trim(), words),
            PageResult::Error(status) => {
                assert_eq!(Code::from(status.code), Code::ResourceExhausted);
                assert!(!status.details.is_empty());
                refused += 1;
            }
            PageResult::Output(_) => panic!("nobody asked for a format"),
        }
    }
    assert_eq!(refused, 1);
    assert_eq!(spent(&server.account("42").await), 3);
}

#[tokio::test]
async fn a_pdf_is_drawn_and_read_and_asking_again_costs_nothing() {
    let server = Server::start();
    let file = picture::pdf(&["Drawn from a PDF", "And its second page"]);
    let options =
        RecognizeOptions { formats: vec![OutputFormat::Hocr.into()], ..Default::default() };
    let header = DocumentHeader {
        request_id: Some("the-same".into()),
        first_page: Some(2),
        options: Some(options),
        ..header("42")
    };
    for _ in 0..2 {
        let answers = document(&server, header.clone(), &file).await.unwrap();
        assert_eq!(answers.len(), 2, "{answers:?}");
        let Some(PageResult::Recognized(page)) = &answers[0].result else { panic!("{answers:?}") };
        assert_eq!(page.text.trim(), "And its second page");
        let Some(PageResult::Output(chunk)) = &answers[1].result else { panic!("{answers:?}") };
        assert!(chunk.last && chunk.content.starts_with(b"<?xml"));
        assert_eq!(spent(&server.account("42").await), 1);
    }
}

#[tokio::test]
async fn a_page_that_is_not_there_is_named() {
    let server = Server::start();
    let mut request = recognize_request("42", picture::pdf(&["One page"]));
    request.page = Some(2);
    let status = server.recognize().await.recognize(request).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let details = status.get_error_details();
    assert_eq!(details.bad_request().unwrap().field_violations[0].field, "page");
    let header = DocumentHeader { last_page: Some(9), ..header("42") };
    let status = document(&server, header, &picture::pdf(&["One page"])).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(spent(&server.account("42").await), 0);
}

#[tokio::test]
async fn a_document_of_more_pages_than_a_call_may_have_is_read_in_parts() {
    let server = Server::with([("ocr.document_pages_max", "2")]);
    let file = picture::tiff(&WORDS.map(|words| picture::text(&[words], 40)));
    let status = document(&server, header("42"), &file).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let details = status.get_error_details();
    assert_eq!(details.bad_request().unwrap().field_violations[0].field, "header.last_page");
    assert_eq!(spent(&server.account("42").await), 0);

    let path = server.data_dir().join("document.tiff");
    std::fs::write(&path, &file).unwrap();
    let part = |pages| {
        server.command(["recognize", path.to_str().unwrap(), "--user", "42", "--pages", pages])
    };
    let output = part("3-4");
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let pages: Vec<&str> = text.split_terminator('\u{c}').map(str::trim).collect();
    assert_eq!(pages, WORDS[2..]);
    assert_eq!(spent(&server.account("42").await), 2);
    assert_eq!(part("2-4").status.code(), Some(3), "more than a call may have");
    assert_eq!(part("4-3").status.code(), Some(2), "no range");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_with_everything_at_once_leaves_room_for_another() {
    const CALLS: usize = 8;
    let server = Server::with([("ocr.workers", "1"), ("ocr.queue_max", "4")]);
    server.redis_cli(&["HSET", "sub:user:greedy", "extra_remaining", "1000"]);
    let page = picture::dense_page();
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..CALLS {
        let mut client = server.recognize().await;
        let request = recognize_request("greedy", page.clone());
        calls.spawn(async move { client.recognize(request).await.map(drop) });
    }
    // One is worked on; of four places in the queue two are taken.
    for _ in 0..CALLS - 3 {
        let status = calls.join_next().await.unwrap().unwrap().unwrap_err();
        assert_eq!(status.code(), Code::Unavailable);
        assert_eq!(status.get_error_details().error_info().unwrap().reason, "OVERLOADED");
    }
    let request = recognize_request("modest", picture::line("Just one"));
    let answer = server.recognize().await.recognize(request).await.unwrap().into_inner();
    assert_eq!(answer.text.trim(), "Just one");
    while let Some(call) = calls.join_next().await {
        call.unwrap().expect("it had its place");
    }
    assert_eq!(spent(&server.account("greedy").await), 3);
}

#[tokio::test]
async fn each_picture_of_a_stream_gets_its_own_answer() {
    let server = Server::start();
    let item = |(id, image): (&str, Vec<u8>)| RecognizeStreamRequest {
        id: id.into(),
        request: Some(recognize_request("42", image)),
    };
    let mut corrupt = picture::line("Corrupt");
    corrupt.truncate(corrupt.len() / 2);
    let items = [("one", picture::line("One")), ("bad", corrupt), ("two", picture::line("Two"))];
    let items = stream::iter(items.map(item));
    let answers = server.recognize().await.recognize_stream(items).await.unwrap().into_inner();
    let mut texts: Vec<(String, Result<String, Code>)> = Vec::new();
    for answer in answers.collect::<Vec<_>>().await {
        let answer = answer.unwrap();
        let text = match answer.result.unwrap() {
            ItemResult::Recognized(page) => Ok(page.text.trim().to_string()),
            ItemResult::Error(status) => Err(Code::from(status.code)),
        };
        texts.push((answer.id, text));
    }
    texts.sort_by(|a, b| a.0.cmp(&b.0));
    let expected = [
        ("bad", Err(Code::InvalidArgument)),
        ("one", Ok("One".to_string())),
        ("two", Ok("Two".to_string())),
    ];
    assert_eq!(texts, expected.map(|(id, text)| (id.to_string(), text)));
    assert_eq!(spent(&server.account("42").await), 2);
}

/// What is wrong with one picture, or with the call after it, takes no answer from the others.
#[tokio::test]
async fn a_stream_answers_what_it_has_taken_whatever_comes_after() {
    let server = Server::start();
    let item = |id: &str, image: Vec<u8>, validate_only: bool| RecognizeStreamRequest {
        id: id.into(),
        request: Some(RecognizeRequest { validate_only, ..recognize_request("42", image) }),
    };
    let long = "\u{e9}".repeat(200);
    let too_large = vec![0; 21 << 20];
    let items = stream::iter([
        item("one", picture::line("One"), false),
        item(&long, picture::line("Long"), false),
        item("asked", picture::line("Asked"), true),
        item("too large", too_large, false),
        item("never taken", picture::line("Never"), false),
    ]);
    let answers = server.recognize().await.recognize_stream(items).await.unwrap().into_inner();
    let (mut texts, mut end) = (BTreeMap::new(), None);
    for answer in answers.collect::<Vec<_>>().await {
        match answer {
            Ok(answer) => drop(texts.insert(answer.id, answer.result.unwrap())),
            Err(status) => end = Some(status),
        }
    }
    let end = end.expect("the call was wrong");
    assert_eq!(end.get_error_details().error_info().unwrap().reason, "MESSAGE_TOO_LARGE");
    assert_eq!(texts.len(), 3, "{texts:?}");
    let ItemResult::Recognized(one) = &texts["one"] else { panic!("{texts:?}") };
    assert_eq!(one.text.trim(), "One");
    let ItemResult::Recognized(asked) = &texts["asked"] else { panic!("{texts:?}") };
    assert_eq!((asked.text.as_str(), asked.charge), ("", None));
    let ItemResult::Error(status) = &texts[&long[..256]] else { panic!("{texts:?}") };
    assert_eq!(Code::from(status.code), Code::InvalidArgument);
    assert_eq!(spent(&server.account("42").await), 1);
}

#[tokio::test]
async fn one_caller_with_many_pictures_does_not_starve_another() {
    let server = Server::with([("ocr.workers", "1")]);
    server.redis_cli(&["HSET", "sub:user:greedy", "extra_remaining", "1000"]);
    let picture = picture::line("One of very many");
    let item = move |number: usize| RecognizeStreamRequest {
        id: number.to_string(),
        request: Some(recognize_request("greedy", picture.clone())),
    };
    let items = stream::iter((0..200).map(item));
    let mut client = server.recognize().await;
    let mut answers = client.recognize_stream(items).await.unwrap().into_inner();
    // The one worker is busy with the many from now on.
    answers.next().await.unwrap().unwrap();
    let request = recognize_request("modest", picture::line("Just one"));
    let modest = async {
        let response = server.recognize().await.recognize(request).await.unwrap();
        assert_eq!(response.into_inner().text.trim(), "Just one");
    };
    let mut meanwhile = 0;
    tokio::pin!(modest);
    loop {
        tokio::select! {
            () = &mut modest => break,
            answer = answers.next() => {
                answer.expect("more").unwrap();
                meanwhile += 1;
            }
        }
    }
    assert!(meanwhile <= 10, "{meanwhile} of the many went first");
}

#[tokio::test]
async fn an_answer_too_large_for_a_reply_is_not_charged() {
    let server = Server::with([("ocr.reply_bytes_max", "1200")]);
    let mut request = recognize_request("42", picture::line("A few words"));
    let mut client = server.recognize().await;
    client.recognize(request.clone()).await.expect("the text alone fits");
    request.options =
        Some(RecognizeOptions { formats: vec![OutputFormat::Alto.into()], ..Default::default() });
    let status = client.recognize(request).await.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange);
    assert_eq!(status.get_error_details().error_info().unwrap().reason, "REPLY_TOO_LARGE");
    assert_eq!(spent(&server.account("42").await), 1);

    // The command line gets it in pieces.
    let path = server.data_dir().join("picture.png");
    std::fs::write(&path, picture::line("A few words")).unwrap();
    let output =
        server.command(["recognize", path.to_str().unwrap(), "--user", "42", "--format", "alto"]);
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with("<?xml") && text.trim_end().ends_with("</alto>"), "{text}");
    assert_eq!(spent(&server.account("42").await), 2);
}

#[tokio::test]
async fn a_page_too_large_in_its_formats_is_not_charged() {
    let server = Server::with([("ocr.page_outputs_bytes_max", "500")]);
    let formats = vec![OutputFormat::Alto.into()];
    let options = Some(RecognizeOptions { formats, ..Default::default() });
    let header = DocumentHeader { options, ..header("42") };
    let answers = document(&server, header, &picture::line("A few words")).await.unwrap();
    let [RecognizeDocumentResponse { result: Some(PageResult::Error(status)), .. }] = &answers[..]
    else {
        panic!("{answers:?}")
    };
    assert_eq!(Code::from(status.code), Code::OutOfRange);
    assert_eq!(spent(&server.account("42").await), 0);
}

#[tokio::test]
async fn a_worn_worker_is_replaced_and_no_call_notices() {
    let server = Server::with([("ocr.workers", "1"), ("ocr.worker_pages_max", "2")]);
    server.redis_cli(&["HSET", "sub:user:42", "extra_remaining", "100"]);
    let first = server.children(" worker ");
    assert_eq!(first.len(), 1, "{first:?}");
    let mut client = server.recognize().await;
    for _ in 0..5 {
        let request = recognize_request("42", picture::line("Again and again"));
        let text = client.recognize(request).await.unwrap().into_inner().text;
        assert_eq!(text.trim(), "Again and again");
    }
    wait_until("another worker is there", || {
        let now = server.children(" worker ");
        now.len() == 1 && now != first
    });
}

#[tokio::test]
async fn the_languages_are_listed() {
    let server = Server::start();
    let listed = server.recognize().await.list_languages(ListLanguagesRequest {}).await.unwrap();
    let listed = listed.into_inner();
    assert_eq!(listed.default_languages, ["eng", "rus"]);
    assert!(listed.languages.contains(&"eng".into()) && listed.languages.contains(&"rus".into()));
    assert!(!listed.languages.contains(&"osd".into()), "that is not a language");
}
