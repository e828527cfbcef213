//! `nightporter healthcheck`: a probe for a container that has no curl.

use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::{Answer, Failure, NO, wait};
use crate::config::{Config, ListenAddr, Secret};

/// Longest answer that is looked at, in bytes.
const LONGEST_ANSWER: u64 = 64 * 1024;

#[derive(Debug, Args)]
pub(super) struct Options {
    /// Ask whether requests can be answered, and not only whether the process lives
    #[arg(long)]
    ready: bool,
    /// The listener to ask; the gate's answers only where this machine is a
    /// trusted proxy and no client certificate is asked for
    #[arg(long, value_enum, default_value = "ops")]
    listener: Listener,
    /// How long the answer may take
    #[arg(long, default_value = "3s", value_parser = humantime::parse_duration)]
    timeout: Duration,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Listener {
    Gate,
    Ops,
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

pub(super) fn run(options: &Options, config: &Config, out: &mut dyn Write) -> Answer {
    let (addr, over_tls, token) = match options.listener {
        Listener::Gate => (&config.gate.listen, config.gate.tls.is_some(), None),
        Listener::Ops => (&config.ops.listen, false, config.ops.token.as_ref()),
    };
    if matches!(addr, ListenAddr::Tcp(addr) if addr.port() == 0) {
        let problem = format!("{addr} has no port that could be asked; give the listener one");
        return Err(Failure::Told(problem));
    }
    let path = if options.ready { "/readyz" } else { "/livez" };
    let asked = wait(async {
        let asked = timeout(options.timeout, ask(addr, over_tls, &request(path, token))).await;
        Ok(asked.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())))
    })?;
    match asked {
        Ok(status @ 200..300) => {
            writeln!(out, "{addr}{path}: {status}")?;
            Ok(ExitCode::SUCCESS)
        }
        Ok(status) => {
            writeln!(out, "{addr}{path}: {status}")?;
            Ok(NO.into())
        }
        Err(error) => {
            writeln!(out, "{addr}{path}: {error}")?;
            Ok(NO.into())
        }
    }
}

fn request(path: &str, token: Option<&Secret>) -> String {
    let authorization = token
        .map(|token| format!("Authorization: Bearer {}\r\n", token.expose()))
        .unwrap_or_default();
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{authorization}Connection: close\r\n\r\n")
}

/// The status of the answer.
async fn ask(addr: &ListenAddr, over_tls: bool, request: &str) -> io::Result<u16> {
    let stream: Box<dyn Stream> = match addr {
        ListenAddr::Tcp(addr) => Box::new(TcpStream::connect(reachable(*addr)).await?),
        ListenAddr::Unix(path) => Box::new(UnixStream::connect(path).await?),
    };
    if !over_tls {
        return send(stream, request).await;
    }
    let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
    let connector = TlsConnector::from(Arc::new(trusting_own_address()?));
    send(connector.connect(name, stream).await?, request).await
}

async fn send(mut stream: impl Stream, request: &str) -> io::Result<u16> {
    stream.write_all(request.as_bytes()).await?;
    stream.flush().await?;
    let mut answer = Vec::new();
    let read = stream.take(LONGEST_ANSWER).read_to_end(&mut answer).await;
    // A server may end the connection harder than politeness asks for.
    status(&answer)
        .ok_or_else(|| read.err().unwrap_or_else(|| io::Error::other("the answer is not HTTP")))
}

/// The status of `HTTP/1.1 200 ...`.
fn status(answer: &[u8]) -> Option<u16> {
    let rest = answer.strip_prefix(b"HTTP/1.")?;
    let code = rest.get(2..5)?;
    std::str::from_utf8(code).ok()?.parse().ok()
}

/// Where a listener of all addresses can be asked.
fn reachable(addr: SocketAddr) -> SocketAddr {
    let ip = match addr.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, addr.port())
}

/// The certificate is good for the name that proxies use, which is not this
/// one; the probe asks this machine's own address and tells nothing.
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
    fn only_http_has_a_status() {
        for (answer, expected) in [
            (&b"HTTP/1.1 200 OK\r\n"[..], Some(200)),
            (b"HTTP/1.0 503 Service Unavailable\r\n", Some(503)),
            (b"HTTP/1.1 2", None),
            (b"SSH-2.0-OpenSSH\r\n", None),
            (b"\x15\x03\x01\x00\x02\x02\x46", None),
            (b"", None),
        ] {
            assert_eq!(status(answer), expected, "{}", answer.escape_ascii());
        }
    }

    #[test]
    fn a_listener_of_all_addresses_is_asked_on_loopback() {
        for (listens, asked) in [
            ("0.0.0.0:8400", "127.0.0.1:8400"),
            ("[::]:8400", "[::1]:8400"),
            ("10.1.2.3:8400", "10.1.2.3:8400"),
        ] {
            let addr = listens.parse().expect("address");
            assert_eq!(reachable(addr).to_string(), asked);
        }
    }
}
