//! The load generator: a number of connections, each with one request at a time.

use std::borrow::Cow;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::sample;

pub type Headers = Vec<(String, String)>;

/// Where a proxy asks.
pub const AUTH: &str = "/internal/auth";

/// How requests are transported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Transport {
    KeepAlive,
    /// A new connection for each request.
    Fresh,
    /// HTTP/2 over TLS with [`STREAMS`] concurrent requests on each connection.
    Http2,
}

/// The number of concurrent requests on one HTTP/2 connection.
pub const STREAMS: usize = 16;

/// The requests to send.
#[derive(Serialize, Deserialize)]
pub enum Requests {
    /// These requests in rotation.
    Listed(Vec<Headers>),
    /// Each pair of an app and a cookie once, before pairs repeat.
    Pairs { apps: usize, cookies: Vec<String> },
}

/// The settings of the load generator.
#[derive(Serialize, Deserialize)]
pub struct Settings {
    pub transport: Transport,
    /// The number of concurrent requests.
    pub concurrency: usize,
    pub path: String,
    pub requests: Requests,
    /// The expected answer.
    pub status: u16,
    pub body: String,
    /// PEM of the certificate to trust.
    pub certificate: Option<String>,
}

/// The input for each slice.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub struct Slice {
    pub target: SocketAddr,
    pub longest: Duration,
    pub most: usize,
}

/// The result of a slice.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Load {
    pub requests: usize,
    pub seconds: f64,
    /// Nanoseconds.
    pub p50: u64,
    pub p99: u64,
}

/// Prints a [`Load`] for each [`Slice`] it reads.
pub fn run(settings: &Path) {
    let settings = std::fs::read(settings).expect("settings");
    let settings = Arc::new(Prepared::new(serde_json::from_slice(&settings).expect("settings")));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("one");
    for line in io::stdin().lines() {
        let slice = serde_json::from_str(&line.expect("text")).expect("a slice");
        let load = runtime.block_on(load(&settings, slice));
        println!("{}", serde_json::to_string(&load).expect("JSON"));
    }
}

/// The settings, and the requests that can be encoded in advance.
struct Prepared {
    settings: Settings,
    bytes: Vec<Vec<u8>>,
    tls: Option<TlsConnector>,
    status: [u8; 3],
    ending: Vec<u8>,
}

impl Prepared {
    fn new(settings: Settings) -> Self {
        let bytes = match &settings.requests {
            Requests::Listed(listed) => listed
                .iter()
                .map(|headers| head(&settings.path, headers, settings.transport))
                .collect(),
            Requests::Pairs { .. } => Vec::new(),
        };
        let status = settings.status.to_string().into_bytes().try_into().expect("three digits");
        let ending = format!("\r\n\r\n{}", settings.body).into_bytes();
        let tls = settings.certificate.as_deref().map(connector);
        Self { settings, bytes, tls, status, ending }
    }

    fn request(&self, index: usize) -> Cow<'_, [u8]> {
        match &self.settings.requests {
            Requests::Listed(_) => Cow::Borrowed(&self.bytes[index % self.bytes.len()]),
            Requests::Pairs { apps, cookies } => {
                let cookie = &cookies[(index + index / apps) % cookies.len()];
                let mut headers = sample::forwarded(&sample::host(index % apps), "/page");
                headers.push(("cookie".into(), cookie.clone()));
                Cow::Owned(head(&self.settings.path, &headers, self.settings.transport))
            }
        }
    }

    /// Whether the bytes are a complete response. Panics if it is not the expected one.
    fn is_whole(&self, answer: &[u8]) -> bool {
        if !answer.ends_with(&self.ending) {
            return false;
        }
        assert_eq!(answer.get(9..12), Some(&self.status[..]), "{}", answer.escape_ascii());
        true
    }
}

fn head(path: &str, headers: &Headers, transport: Transport) -> Vec<u8> {
    let mut head = format!("GET {path} HTTP/1.1\r\n").into_bytes();
    for (name, value) in headers {
        head.extend(format!("{name}: {value}\r\n").bytes());
    }
    if transport == Transport::Fresh {
        head.extend(b"connection: close\r\n");
    }
    head.extend(b"\r\n");
    head
}

/// The state that the clients of a slice share.
struct Shared {
    prepared: Arc<Prepared>,
    slice: Slice,
    began: Instant,
    next: AtomicUsize,
}

impl Shared {
    /// Returns the number of the next request, if there is one.
    fn next(&self) -> Option<usize> {
        let next = self.next.fetch_add(1, Ordering::Relaxed);
        (next < self.slice.most && self.began.elapsed() < self.slice.longest).then_some(next)
    }
}

async fn load(prepared: &Arc<Prepared>, slice: Slice) -> Load {
    let mut connections = Vec::new();
    let count = match prepared.settings.transport {
        Transport::Http2 => prepared.settings.concurrency.div_ceil(STREAMS),
        Transport::KeepAlive => prepared.settings.concurrency,
        Transport::Fresh => 0,
    };
    for _ in 0..count {
        connections.push(connect(slice.target).await.expect("a listener"));
    }
    let (mut clients, mut senders) = (tokio::task::JoinSet::new(), Vec::new());
    if let Some(tls) = &prepared.tls {
        for stream in connections.drain(..) {
            senders.push(handshake(tls, stream).await);
        }
    }
    let (next, began) = (AtomicUsize::new(0), Instant::now());
    let shared = Arc::new(Shared { prepared: Arc::clone(prepared), slice, began, next });
    for _ in 0..prepared.settings.concurrency {
        let shared = Arc::clone(&shared);
        match prepared.settings.transport {
            Transport::KeepAlive => {
                let stream = connections.pop().expect("one each");
                clients.spawn(async move { kept_alive(&shared, stream).await.expect("answers") });
            }
            Transport::Fresh => {
                clients.spawn(async move { fresh(&shared).await.expect("answers") });
            }
            Transport::Http2 => {
                let sender = senders[clients.len() / STREAMS].clone();
                clients.spawn(async move { streams(&shared, sender).await });
            }
        }
    }
    let mut latencies: Vec<u64> = clients.join_all().await.into_iter().flatten().collect();
    let seconds = began.elapsed().as_secs_f64();
    latencies.sort_unstable();
    let at = |percent: usize| latencies[(latencies.len() * percent / 100).min(latencies.len() - 1)];
    Load { requests: latencies.len(), seconds, p50: at(50), p99: at(99) }
}

async fn connect(target: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(target).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn exchange(
    prepared: &Prepared,
    stream: &mut TcpStream,
    request: &[u8],
    answer: &mut Vec<u8>,
) -> io::Result<()> {
    answer.clear();
    stream.write_all(request).await?;
    while !prepared.is_whole(answer) {
        if stream.read_buf(answer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(())
}

async fn kept_alive(shared: &Shared, mut stream: TcpStream) -> io::Result<Vec<u64>> {
    let (mut latencies, mut answer) = (Vec::new(), Vec::with_capacity(1024));
    while let Some(index) = shared.next() {
        let request = shared.prepared.request(index);
        let began = Instant::now();
        exchange(&shared.prepared, &mut stream, &request, &mut answer).await?;
        latencies.push(nanoseconds(began));
    }
    Ok(latencies)
}

async fn fresh(shared: &Shared) -> io::Result<Vec<u64>> {
    let (mut latencies, mut answer) = (Vec::new(), Vec::with_capacity(1024));
    while let Some(index) = shared.next() {
        let request = shared.prepared.request(index);
        let began = Instant::now();
        let mut stream = connect(shared.slice.target).await?;
        exchange(&shared.prepared, &mut stream, &request, &mut answer).await?;
        latencies.push(nanoseconds(began));
        // The server closes first, so that the TIME-WAIT state is on its side.
        while stream.read_buf(&mut answer).await? > 0 {}
    }
    Ok(latencies)
}

async fn streams(shared: &Shared, mut sender: SendRequest<Empty<Bytes>>) -> Vec<u64> {
    let Requests::Listed(listed) = &shared.prepared.settings.requests else {
        panic!("pairs are supported over HTTP/1.1 only");
    };
    let mut latencies = Vec::new();
    while let Some(index) = shared.next() {
        let mut request = http::Request::get("https://localhost/internal/auth");
        for (name, value) in listed[index % listed.len()].iter().filter(|(name, _)| name != "host")
        {
            request = request.header(name, value);
        }
        let request = request.body(Empty::new()).expect("a request");
        let began = Instant::now();
        sender.ready().await.expect("a connection");
        let answer = sender.send_request(request).await.expect("an answer");
        assert_eq!(answer.status().as_u16(), shared.prepared.settings.status);
        let body = answer.into_body().collect().await.expect("a body").to_bytes();
        assert_eq!(body, shared.prepared.settings.body);
        latencies.push(nanoseconds(began));
    }
    latencies
}

async fn handshake(tls: &TlsConnector, stream: TcpStream) -> SendRequest<Empty<Bytes>> {
    let name = ServerName::try_from("localhost").expect("a name");
    let stream = tls.connect(name, stream).await.expect("TLS");
    let (sender, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("HTTP/2");
    tokio::spawn(connection);
    sender
}

fn connector(certificate: &str) -> TlsConnector {
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(certificate.as_bytes()).expect("PEM"))
        .expect("a certificate");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    TlsConnector::from(Arc::new(config))
}

fn nanoseconds(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX)
}
