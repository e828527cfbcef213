//! A client for the running process's own listeners, used by other subcommands.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::sleep;
use tokio_rustls::TlsConnector;

use super::CliError;
use crate::backoff::random;
use crate::config::{Config, ListenAddr, Secret};
use crate::idempotency::key::IDEMPOTENCY_KEY;

/// Longest response that is accepted, in bytes: room for some 10,000 apps.
const MAX_RESPONSE: usize = 16 * 1024 * 1024;

/// How often a request whose answer was lost is sent again, and after which wait.
const TRIES: u32 = 3;
const BETWEEN_TRIES: Duration = Duration::from_millis(500);

/// A listener as it is reached from this machine.
#[derive(Debug)]
pub(super) struct Listener<'a> {
    pub(super) addr: &'a ListenAddr,
    over_tls: bool,
    token: Option<&'a Secret>,
    /// Whether it keeps idempotency keys.
    keeps_keys: bool,
}

/// Status and body of a response.
pub(super) type Response = (u16, Bytes);

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

impl<'a> Listener<'a> {
    pub(super) fn gate(config: &'a Config) -> Result<Self, CliError> {
        Self::new(&config.gate.listen, config.gate.tls.is_some(), None)
    }

    pub(super) fn ops(config: &'a Config) -> Result<Self, CliError> {
        let listener = Self::new(&config.ops.listen, false, config.ops.token.as_ref())?;
        Ok(Self { keeps_keys: config.ledger.enabled, ..listener })
    }

    fn new(
        addr: &'a ListenAddr,
        over_tls: bool,
        token: Option<&'a Secret>,
    ) -> Result<Self, CliError> {
        if matches!(addr, ListenAddr::Tcp(addr) if addr.port() == 0) {
            let problem = format!("{addr} has no fixed port to connect to; give the listener one");
            return Err(CliError::Message(problem));
        }
        Ok(Self { addr, over_tls, token, keeps_keys: false })
    }

    /// Sends a request over a connection of its own and returns the response.
    pub(super) async fn ask(&self, method: Method, path: &str) -> io::Result<Response> {
        let response = self.open(method, path, &[]).await?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), MAX_RESPONSE).collect().await;
        Ok((status, body.map_err(io::Error::other)?.to_bytes()))
    }

    /// The same, with more headers; the body has not been read yet.
    ///
    /// A request that changes something has an idempotency key, so that it can be sent again
    /// if its answer is lost on the way, and is done once.
    pub(super) async fn open(
        &self,
        method: Method,
        path: &str,
        headers: &[(HeaderName, &str)],
    ) -> io::Result<http::Response<Incoming>> {
        self.send(method, path, headers, Bytes::new()).await
    }

    /// The same, of a request with a body.
    pub(super) async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(HeaderName, &str)],
        body: Bytes,
    ) -> io::Result<http::Response<Incoming>> {
        let mut builder =
            Request::builder().method(&method).uri(path).header(header::HOST, "localhost");
        if let Some(token) = self.token {
            let credentials = format!("Bearer {}", token.expose());
            builder = builder.header(header::AUTHORIZATION, credentials);
        }
        for (name, value) in headers {
            builder = builder.header(name, *value);
        }
        let is_keyed = self.keeps_keys && !method.is_safe();
        if is_keyed {
            builder = builder.header(IDEMPOTENCY_KEY, new_key());
        }
        let request = builder.body(Full::new(body)).map_err(io::Error::other)?;
        let mut tries_left = if is_keyed { TRIES } else { 0 };
        let mut was_lost = false;
        loop {
            let stream = self.connect().await?;
            match send(stream, request.clone()).await {
                // The process is still doing what was asked first.
                Ok(response) if was_lost && is_in_progress(&response) => {}
                Err(_) if tries_left > 0 => (was_lost, tries_left) = (true, tries_left - 1),
                sent => return sent,
            }
            sleep(BETWEEN_TRIES).await;
        }
    }

    async fn connect(&self) -> io::Result<Box<dyn Stream>> {
        let stream: Box<dyn Stream> = match self.addr {
            ListenAddr::Tcp(addr) => Box::new(TcpStream::connect(reachable(*addr)).await?),
            ListenAddr::Unix(path) => Box::new(UnixStream::connect(path).await?),
        };
        if !self.over_tls {
            return Ok(stream);
        }
        let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
        let connector = TlsConnector::from(Arc::new(trusting_own_address()?));
        Ok(Box::new(connector.connect(name, stream).await?))
    }
}

/// Whether a request with the same key is being done; other conflicts say no time.
fn is_in_progress(response: &http::Response<Incoming>) -> bool {
    response.status() == StatusCode::CONFLICT
        && response.headers().contains_key(header::RETRY_AFTER)
}

/// Returns an idempotency key that is different from all others by chance.
fn new_key() -> String {
    let [a, b, c, d] = [(); 4].map(|()| random());
    format!("\"{a:08x}{b:08x}{c:08x}{d:08x}\"")
}

async fn send(
    stream: Box<dyn Stream>,
    request: Request<Full<Bytes>>,
) -> io::Result<http::Response<Incoming>> {
    let handshake = http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(io::Error::other)?;
    // The task ends with the response, or with the runtime.
    tokio::spawn(connection);
    sender.send_request(request).await.map_err(|error| {
        if error.is_parse() {
            io::Error::other("the response is not HTTP")
        } else {
            io::Error::other(error)
        }
    })
}

/// Returns the address to connect to: loopback for a listener on all addresses.
fn reachable(addr: SocketAddr) -> SocketAddr {
    let ip = match addr.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, addr.port())
}

/// Returns a configuration that accepts any certificate. The gate's is valid for the name
/// that proxies use, which is not this one; the probe connects to this machine's own address
/// and sends nothing confidential.
fn trusting_own_address() -> io::Result<ClientConfig> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = Arc::new(AnyCertificate(Arc::clone(&provider)));
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?;
    Ok(config.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
}

#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_of_all_addresses_is_asked_on_loopback() {
        for (listens, reached) in [
            ("0.0.0.0:8400", "127.0.0.1:8400"),
            ("[::]:8400", "[::1]:8400"),
            ("10.1.2.3:8400", "10.1.2.3:8400"),
        ] {
            let addr = listens.parse().expect("address");
            assert_eq!(reachable(addr).to_string(), reached);
        }
    }
}
