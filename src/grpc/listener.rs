//! Connections: how many there may be, how long they may be silent, and TLS.
//!
//! A connection costs a file descriptor and some kilobytes from its first byte on, so all of them
//! are counted, and one that does not say anything is closed.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use arc_swap::ArcSwap;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Instant, Sleep};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected;

use crate::config;

/// What a client has sent when it has begun to speak HTTP/2: the preface and the head of its
/// settings.
const GREETING_BYTES: usize = 24 + 9;
/// How often the certificates are looked at.
const RELOAD_INTERVAL: Duration = Duration::from_secs(1);
/// How many files a server has open at most beside its connections: its children's pipes, Redis.
const OTHER_FILES_MAX: u64 = 256;
/// How long to wait when the system is out of file descriptors.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(100);

/// Who is at the other end of a connection.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    pub(super) address: SocketAddr,
    /// The DNS names and URIs in the certificate that it has proved to own.
    pub(super) certificate_names: Arc<[String]>,
}

/// Accepts connections until `stop`, and greets those that use TLS.
pub(super) fn accept(
    listener: TcpListener,
    settings: &config::Server,
    tls: Option<Arc<Tls>>,
    stop: CancellationToken,
) -> ReceiverStream<io::Result<Connection>> {
    let (greeted, connections) = mpsc::channel(64);
    let limits = Limits {
        greeting: Duration::from_millis(settings.handshake_ms_max),
        idle: Duration::from_millis(settings.idle_ms_max),
        life: age_max(settings) + Duration::from_millis(settings.connection_grace_ms_max),
    };
    let places = Arc::new(Semaphore::new(settings.connections_max));
    tokio::spawn(async move {
        while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
            let (stream, address) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "a connection cannot be accepted");
                    tokio::time::sleep(ACCEPT_RETRY_DELAY).await;
                    continue;
                }
            };
            let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                // Closed at once: a client sees that sooner than a connection that never answers.
                metrics::counter!("img2text_connections_refused_total").increment(1);
                continue;
            };
            let (tls, greeted) = (tls.clone(), greeted.clone());
            tokio::spawn(async move {
                let place = Place::new(place);
                match greet(stream, address, tls, limits, place).await {
                    Ok(connection) => drop(greeted.send(Ok(connection)).await),
                    Err(error) => tracing::debug!(%address, %error, "a handshake failed"),
                }
            });
        }
    });
    ReceiverStream::new(connections)
}

/// Asks the system for as many open files as there may be connections: what is usual at first is
/// less than what the system gives to those who ask.
pub(super) fn allow_files(connections_max: usize) {
    let wanted = connections_max as u64 + OTHER_FILES_MAX;
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current.is_none_or(|current| current >= wanted) {
        return;
    }
    let allowed = maximum.map_or(wanted, |maximum| maximum.min(wanted));
    let raised = setrlimit(Resource::Nofile, Rlimit { current: Some(allowed), maximum });
    if allowed < wanted || raised.is_err() {
        tracing::warn!(
            connections_max,
            files_max = allowed,
            "there cannot be as many connections as server.connections_max says: the system does \
             not allow this process as many files"
        );
    }
}

#[derive(Clone, Copy)]
struct Limits {
    /// How long a client may take to begin.
    greeting: Duration,
    /// How long it may be silent later. Keep-alive makes every living client speak.
    idle: Duration,
    /// How long a connection may be there at all.
    life: Duration,
}

/// How old a connection gets before its client is asked to make a new one: up to a tenth more than
/// is set, another part of it in every server, so that the clients of many servers that were started
/// together do not all come back at once.
pub(super) fn age_max(settings: &config::Server) -> Duration {
    static PART: LazyLock<u64> = LazyLock::new(|| uuid::Uuid::new_v4().as_bytes()[0].into());
    let age_ms = settings.connection_age_ms_max;
    Duration::from_millis(age_ms + age_ms / 10 * *PART / 255)
}

/// A connection's place among those that there may be.
struct Place {
    _permit: OwnedSemaphorePermit,
}

impl Place {
    fn new(permit: OwnedSemaphorePermit) -> Self {
        metrics::gauge!("img2text_connections").increment(1);
        Self { _permit: permit }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        metrics::gauge!("img2text_connections").decrement(1);
    }
}

async fn greet(
    stream: TcpStream,
    address: SocketAddr,
    tls: Option<Arc<Tls>>,
    limits: Limits,
    place: Place,
) -> io::Result<Connection> {
    // Answers are small and awaited: they are not held back to be sent with others.
    stream.set_nodelay(true)?;
    let deadline = Instant::now() + limits.greeting;
    let (stream, certificate_names): (Box<dyn Stream>, _) = match tls {
        None => (Box::new(stream), Arc::default()),
        Some(tls) => {
            let stream = tokio::time::timeout_at(deadline, tls.acceptor().accept(stream)).await??;
            let names = names(&stream);
            (Box::new(stream), names)
        }
    };
    Ok(Connection {
        stream,
        peer: Peer { address, certificate_names },
        silence: Box::pin(tokio::time::sleep_until(deadline)),
        end: Box::pin(tokio::time::sleep(limits.life)),
        limits,
        greeting_left: GREETING_BYTES,
        _place: place,
    })
}

/// What the certificate of the client is for.
fn names(stream: &TlsStream<TcpStream>) -> Arc<[String]> {
    let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let Some(first) = certificates.first() else { return Arc::default() };
    let Ok(certificate) = webpki::EndEntityCert::try_from(first) else { return Arc::default() };
    certificate.valid_dns_names().chain(certificate.valid_uri_names()).map(String::from).collect()
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl Stream for TcpStream {}
impl Stream for TlsStream<TcpStream> {}

/// A connection that ends when its client is silent for too long, or it has been there for too long.
pub(super) struct Connection {
    stream: Box<dyn Stream>,
    peer: Peer,
    /// Over when the client has been silent for too long.
    silence: Pin<Box<Sleep>>,
    /// Over when the calls that run on it have had their time to come to an end.
    end: Pin<Box<Sleep>>,
    limits: Limits,
    /// How much of its greeting the client still owes.
    greeting_left: usize,
    _place: Place,
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.end.as_mut().poll(context).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        let before = buffer.filled().len();
        match Pin::new(&mut self.stream).poll_read(context, buffer) {
            Poll::Ready(outcome) => {
                let bytes = buffer.filled().len() - before;
                // During the greeting a byte now and then buys no time.
                self.greeting_left = self.greeting_left.saturating_sub(bytes);
                if self.greeting_left == 0 {
                    let deadline = Instant::now() + self.limits.idle;
                    self.silence.as_mut().reset(deadline);
                }
                Poll::Ready(outcome)
            }
            Poll::Pending => {
                ready!(self.silence.as_mut().poll(context));
                metrics::counter!("img2text_connections_silent_total").increment(1);
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// Why TLS cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be used.
    #[error("{}: {message}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why not.
        message: String,
    },
    /// The files do not fit together.
    #[error("server.tls_certificate, server.tls_key and server.tls_client_ca: {0}")]
    Unfit(String),
}

/// The certificates, read again when they change.
pub(super) struct Tls {
    files: Files,
    config: ArcSwap<ServerConfig>,
}

#[derive(Clone)]
struct Files {
    certificate: PathBuf,
    key: PathBuf,
    client_ca: PathBuf,
}

impl Tls {
    /// TLS as the settings say; nothing if they name no certificate.
    pub(super) fn load(settings: &config::Server) -> Result<Option<Arc<Self>>, TlsError> {
        let named = |path: &Path| !path.as_os_str().is_empty();
        if !named(&settings.tls_certificate) {
            return Ok(None);
        }
        let files = Files {
            certificate: settings.tls_certificate.clone(),
            key: settings.tls_key.clone(),
            client_ca: settings.tls_client_ca.clone(),
        };
        let config = ArcSwap::from(files.read()?);
        Ok(Some(Arc::new(Self { files, config })))
    }

    fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.config.load_full())
    }

    /// Reads the files again whenever they have changed. Connections that are there stay as they
    /// are; files that are wrong change nothing.
    pub(super) async fn watch(self: Arc<Self>) {
        let mut before = self.files.bytes();
        loop {
            tokio::time::sleep(RELOAD_INTERVAL).await;
            let now = self.files.bytes();
            if now == before {
                continue;
            }
            before = now;
            match self.files.read() {
                Ok(config) => {
                    self.config.store(config);
                    tracing::info!("the certificates were read again");
                }
                Err(error) => {
                    tracing::error!(%error, "the certificates cannot be read: the old ones stay");
                }
            }
        }
    }
}

impl Files {
    fn bytes(&self) -> [Option<Vec<u8>>; 3] {
        [&self.certificate, &self.key, &self.client_ca].map(|path| std::fs::read(path).ok())
    }

    fn read(&self) -> Result<Arc<ServerConfig>, TlsError> {
        let unfit = |error: &dyn std::fmt::Display| TlsError::Unfit(error.to_string());
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| unfit(&error))?;
        let builder = if self.client_ca.as_os_str().is_empty() {
            builder.with_no_client_auth()
        } else {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(&self.client_ca)? {
                roots.add(certificate).map_err(|error| unfit(&error))?;
            }
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.map_err(|error| unfit(&error))?)
        };
        let key = PrivateKeyDer::from_pem_file(&self.key).map_err(|error| TlsError::File {
            path: self.key.clone(),
            message: error.to_string(),
        })?;
        let mut config = builder
            .with_single_cert(certificates(&self.certificate)?, key)
            .map_err(|error| unfit(&error))?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Arc::new(config))
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let error = |message| TlsError::File { path: path.into(), message };
    let read = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|e| error(e.to_string()))?;
    if read.is_empty() {
        return Err(error("holds no certificate".into()));
    }
    Ok(read)
}
