//! An OTLP collector: a real gRPC server of OpenTelemetry's own protocol, which keeps what it is
//! sent.

use std::sync::{Arc, Mutex};

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::trace::v1::Span;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

/// Ends with the runtime of the test.
pub struct Collector {
    endpoint: String,
    spans: Kept,
}

#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<Span>>>);

impl Collector {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
        let spans = Kept::default();
        let server = tonic::transport::Server::builder()
            .add_service(TraceServiceServer::new(spans.clone()))
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(server);
        Self { endpoint, spans }
    }

    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// What has arrived.
    pub fn spans(&self) -> Vec<Span> {
        self.spans.0.lock().expect("nobody panicked").clone()
    }
}

#[tonic::async_trait]
impl TraceService for Kept {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let spans = request.into_inner().resource_spans.into_iter();
        let spans = spans.flat_map(|resource| resource.scope_spans).flat_map(|scope| scope.spans);
        self.0.lock().expect("nobody panicked").extend(spans);
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}
