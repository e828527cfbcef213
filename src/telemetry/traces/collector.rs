//! Sends batches to the collector, which may be slow, hostile or gone.

use std::convert::Infallible;
use std::error::Error;
use std::future::pending;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    CONNECTION, CONTENT_TYPE, HOST, HeaderMap, HeaderValue, RETRY_AFTER, USER_AGENT,
};
use http::uri::PathAndQuery;
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::otlp;
use crate::error_chain::Chain;

/// From resolving the collector's name to the end of its answer: the default of OTLP's
/// exporters.
pub(super) const DEADLINE: Duration = Duration::from_secs(10);

/// The maximum size of an answer's head, and of its body, in bytes.
const MAX_ANSWER: usize = 64 * 1024;

/// The path of traces below the collector's base (OTLP, section "OTLP/HTTP Request").
const TRACES: &str = "/v1/traces";

/// Why there cannot be a collector.
#[derive(Debug, thiserror::Error)]
pub enum CollectorError {
    #[error("no certificates are trusted on this machine: {0}")]
    NoRoots(String),
    #[error("{0}")]
    Tls(#[from] rustls::Error),
    #[error("invalid address: {0}")]
    Address(String),
}

/// Why a batch was not accepted.
#[derive(Debug, thiserror::Error)]
pub(super) enum ExportError {
    #[error("no answer within {DEADLINE:?}")]
    TimedOut,
    #[error("cannot connect: {0}")]
    Unreachable(#[from] io::Error),
    #[error("{}", Chain(.0))]
    Unanswered(#[from] hyper::Error),
    #[error("the answer was cut off or is too long: {0}")]
    Body(Box<dyn Error + Send + Sync>),
    #[error("invalid request: {0}")]
    Request(#[from] http::Error),
    #[error("the collector answered {status}")]
    Refused { status: StatusCode, retry_after: Option<Duration> },
}

impl ExportError {
    /// Returns whether the same batch may be accepted later (OTLP, section "Failures").
    pub(super) fn is_transient(&self) -> bool {
        match self {
            Self::TimedOut | Self::Unreachable(_) | Self::Unanswered(_) => true,
            // The batch may have been taken.
            Self::Body(_) | Self::Request(_) => false,
            Self::Refused { status, .. } => matches!(status.as_u16(), 429 | 502 | 503 | 504),
        }
    }

    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

/// Where spans are sent.
#[derive(Debug)]
pub(super) struct Collector {
    host: String,
    port: u16,
    /// The value of `Host`.
    authority: HeaderValue,
    path: PathAndQuery,
    tls: Option<Tls>,
    /// What the operator has configured, credentials among it.
    headers: HeaderMap,
}

struct Tls {
    connector: TlsConnector,
    name: ServerName<'static>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Collector {
    /// Returns the collector at a base URL, to which `/v1/traces` is added unless it ends so.
    pub(super) fn new(endpoint: &Uri, headers: HeaderMap) -> Result<Self, CollectorError> {
        let invalid = || CollectorError::Address(endpoint.to_string());
        let authority = endpoint.authority().ok_or_else(invalid)?;
        let is_tls = endpoint.scheme_str() == Some("https");
        let port = authority.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let base = endpoint.path().trim_end_matches('/');
        let path = if base.ends_with(TRACES) { base.to_owned() } else { format!("{base}{TRACES}") };
        let tls = if is_tls {
            let name = ServerName::try_from(host.clone()).map_err(|_| invalid())?;
            Some(Tls { connector: TlsConnector::from(Arc::new(client_config()?)), name })
        } else {
            None
        };
        Ok(Self {
            host,
            port,
            authority: authority.as_str().parse().map_err(|_| invalid())?,
            path: path.parse().map_err(|_| invalid())?,
            tls,
            headers,
        })
    }

    /// Sends a batch on a connection of its own, of which there is at most one a second.
    /// Returns how many spans of it the collector has rejected.
    pub(super) async fn send(&self, body: Bytes) -> Result<u64, ExportError> {
        timeout(DEADLINE, self.connect_and_send(body)).await.unwrap_or(Err(ExportError::TimedOut))
    }

    async fn connect_and_send(&self, body: Bytes) -> Result<u64, ExportError> {
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await?;
        match &self.tls {
            Some(Tls { connector, name }) => {
                self.exchange(connector.connect(name.clone(), stream).await?, body).await
            }
            None => self.exchange(stream, body).await,
        }
    }

    async fn exchange<IO>(&self, io: IO, body: Bytes) -> Result<u64, ExportError>
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let mut builder = http1::Builder::new();
        builder.max_buf_size(MAX_ANSWER);
        let (mut sender, connection) = builder.handshake(TokioIo::new(io)).await?;
        let mut request = Request::post(self.path.as_str()).body(Full::new(body))?;
        let headers = request.headers_mut();
        headers.extend(self.headers.clone());
        headers.insert(HOST, self.authority.clone());
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
        let agent = concat!("nightporter/", env!("CARGO_PKG_VERSION"));
        headers.insert(USER_AGENT, HeaderValue::from_static(agent));
        let exchange = async {
            let (head, body) = sender.send_request(request).await?.into_parts();
            // A redirect is a refusal, too: spans go where the operator said.
            if !head.status.is_success() {
                let retry_after = head.headers.get(RETRY_AFTER).and_then(seconds);
                return Err(ExportError::Refused { status: head.status, retry_after });
            }
            let body = Limited::new(body, MAX_ANSWER).collect().await.map_err(ExportError::Body)?;
            Ok(otlp::rejected(&body.to_bytes()))
        };
        // What the connection's own end means, the exchange learns from it.
        let driven = async {
            let _ended = connection.await;
            pending::<Infallible>().await
        };
        tokio::select! {
            biased;
            outcome = exchange => outcome,
            never = driven => match never {},
        }
    }
}

/// Reads a number of seconds; a date is not worth the clock that it needs.
fn seconds(value: &HeaderValue) -> Option<Duration> {
    value.to_str().ok()?.parse().ok().map(Duration::from_secs)
}

fn client_config() -> Result<ClientConfig, CollectorError> {
    let loaded = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(loaded.certs);
    if added == 0 {
        let why = loaded.errors.first().map_or_else(|| "none found".into(), ToString::to_string);
        return Err(CollectorError::NoRoots(why));
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(config)
}
