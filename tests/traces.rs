//! A trace shows where the time of a call went, in the trace that its caller began.

use std::collections::HashMap;

use img2text::grpc::proto::recognize_document_request::Piece;
use img2text::grpc::proto::{DocumentHeader, RecognizeDocumentRequest};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use tonic::Request;

use crate::support::collector::Collector;
use crate::support::picture;
use crate::support::server::{Server, recognize_request, wait_until};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";

fn attribute(span: &Span, name: &str) -> Option<String> {
    let value = &span.attributes.iter().find(|attribute| attribute.key == name)?.value;
    match value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some(text.clone()),
        Value::IntValue(number) => Some(number.to_string()),
        other => panic!("{name} is {other:?}"),
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The spans of one trace, and who is in whom.
struct Trace(HashMap<String, Span>);

impl Trace {
    fn span(&self, name: &str) -> &Span {
        let mut found = self.0.values().filter(|span| span.name == name);
        let span = found.next().unwrap_or_else(|| panic!("no span {name} in {:?}", self.names()));
        assert!(found.next().is_none(), "{name} is there twice");
        span
    }

    fn names(&self) -> Vec<&str> {
        self.0.values().map(|span| span.name.as_str()).collect()
    }

    fn parent(&self, name: &str) -> &str {
        let parent = hexadecimal(&self.span(name).parent_span_id);
        self.0.get(&parent).map_or("", |span| &span.name)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_shows_the_whole_call() {
    let collector = Collector::start().await;
    let server = Server::with([
        ("telemetry.otlp_endpoint", collector.endpoint()),
        ("telemetry.hash_user_ids", "true"),
    ]);
    let mut request = Request::new(recognize_request("somebody", picture::line("Follow me")));
    // Not sampled by its caller: that is not for the caller to say.
    let parent = format!("00-{TRACE}-{CALLER}-00");
    request.metadata_mut().insert("traceparent", parent.parse().unwrap());
    server.recognize().await.recognize(request).await.unwrap();

    let name = "img2text.v1.RecognizeService/Recognize";
    let arrived = || collector.spans().iter().any(|span| span.name == name);
    wait_until("the call's span has arrived", arrived);
    let spans = collector.spans().into_iter();
    let spans = spans.filter(|span| hexadecimal(&span.trace_id) == TRACE);
    let trace = Trace(spans.map(|span| (hexadecimal(&span.span_id), span)).collect());

    let call = trace.span(name);
    assert_eq!(hexadecimal(&call.parent_span_id), CALLER);
    assert_eq!(call.kind(), SpanKind::Server);
    assert_eq!(attribute(call, "rpc.system.name").as_deref(), Some("grpc"));
    assert_eq!(attribute(call, "rpc.method").as_deref(), Some(name));
    assert_eq!(attribute(call, "rpc.response.status_code").as_deref(), Some("OK"));
    assert_eq!(attribute(call, "network.peer.address").as_deref(), Some("127.0.0.1"));
    assert_eq!(attribute(call, "user.id"), None);
    assert!(attribute(call, "user.hash").is_some());
    for (child, parent) in [
        ("admit", name),
        ("reserve", name),
        ("EVALSHA reserve", "reserve"),
        ("queue", name),
        ("work", name),
        ("decode", "work"),
        ("prepare", "work"),
        ("recognize", "work"),
        ("commit", name),
        ("EVALSHA commit", "commit"),
    ] {
        assert_eq!(trace.parent(child), parent, "the parent of {child}");
        let span = trace.span(child);
        assert!(span.start_time_unix_nano >= call.start_time_unix_nano, "{child} began before");
        assert!(span.end_time_unix_nano >= span.start_time_unix_nano, "{child} ended before");
    }
    let redis = trace.span("EVALSHA reserve");
    assert_eq!(attribute(redis, "db.system.name").as_deref(), Some("redis"));
    assert_eq!(redis.kind(), SpanKind::Client);
    let begun = |name| trace.span(name).start_time_unix_nano;
    let order = ["reserve", "queue", "decode", "prepare", "recognize", "commit"].map(begun);
    assert!(order.is_sorted(), "{order:?}");
    // The log names the trace.
    assert!(server.log().contains(TRACE), "{}", server.log());
    // Nothing of what was read or of who asked is anywhere in it.
    let everything = format!("{:?}", collector.spans());
    assert!(!everything.contains("somebody") && !everything.contains("Follow"), "{everything}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pages_of_a_document_are_in_the_trace_of_its_call() {
    let collector = Collector::start().await;
    let server = Server::with([("telemetry.otlp_endpoint", collector.endpoint())]);
    let pages = vec![picture::text(&["A page"], 30); 2];
    let header = DocumentHeader { user_id: "42".into(), ..Default::default() };
    let pieces = [Piece::Header(header), Piece::Chunk(picture::tiff(&pages).into())];
    let pieces = pieces.map(|piece| RecognizeDocumentRequest { piece: Some(piece) });
    let request = tokio_stream::iter(pieces);
    let mut answers =
        server.recognize().await.recognize_document(request).await.unwrap().into_inner();
    while answers.message().await.unwrap().is_some() {}
    let name = "img2text.v1.RecognizeService/RecognizeDocument";
    wait_until("the call's span has arrived", || {
        collector.spans().iter().any(|span| span.name == name)
    });
    let spans = collector.spans();
    let call = spans.iter().find(|span| span.name == name).expect("waited for");
    for part in ["reserve", "commit"] {
        let parts: Vec<_> = spans.iter().filter(|span| span.name == part).collect();
        assert_eq!(parts.len(), pages.len(), "{part}");
        assert!(parts.iter().all(|span| span.parent_span_id == call.span_id), "{parts:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_call_says_why_in_its_span() {
    let collector = Collector::start().await;
    let server = Server::with([("telemetry.otlp_endpoint", collector.endpoint())]);
    let request = recognize_request("42", b"no picture".to_vec());
    server.recognize().await.recognize(request).await.unwrap_err();
    wait_until("the span has arrived", || !collector.spans().is_empty());
    let spans = collector.spans();
    let call = &spans[0];
    assert_eq!(attribute(call, "rpc.response.status_code").as_deref(), Some("INVALID_ARGUMENT"));
    assert!(attribute(call, "error.type").is_some(), "{call:?}");
    assert_eq!(attribute(call, "user.id").as_deref(), Some("42"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_cannot_make_the_server_record() {
    let collector = Collector::start().await;
    let mut server = Server::with([
        ("telemetry.otlp_endpoint", collector.endpoint()),
        ("telemetry.trace_sampling_ratio", "0"),
    ]);
    let mut request = Request::new(recognize_request("42", picture::line("Record me")));
    let parent = format!("00-{TRACE}-{CALLER}-01");
    request.metadata_mut().insert("traceparent", parent.parse().unwrap());
    server.recognize().await.recognize(request).await.unwrap();
    // What there was to send has been sent when the server has ended.
    server.terminate();
    assert!(server.wait().success(), "{}", server.log());
    assert_eq!(collector.spans().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_away_costs_no_call() {
    // Nobody listens there: the port was free a moment ago, and is not privileged.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let endpoint = format!("http://{free}");
    let mut server = Server::with([("telemetry.otlp_endpoint", endpoint.as_str())]);
    for _ in 0..3 {
        let request = recognize_request("42", picture::line("No collector"));
        server.recognize().await.recognize(request).await.unwrap();
    }
    server.terminate();
    assert!(server.wait().success(), "{}", server.log());
}
