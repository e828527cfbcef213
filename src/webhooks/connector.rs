//! Connections to receivers, each to an address that was judged.
//!
//! A name is resolved once for each attempt. If one of its addresses may not be sent to, none
//! is; else exactly one of the judged addresses is connected to, so that a name server that
//! answers differently the second time changes nothing. No proxy of the environment is used,
//! and no redirect is followed.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::address::{Allowed, Refusal, is_allowed, judge};
use super::authorities::{Authorities, NoAuthorities, explain as explain_handshake};
use super::target::Target;

/// How long one address may take to accept a connection: a name may have several.
const CONNECT: Duration = Duration::from_secs(4);

/// A name with more addresses is a mistake, or an attack.
const MOST_ADDRESSES: usize = 32;

/// How many names the process looks up at once: each look-up holds a thread, for a minute and
/// more if no name server answers.
static LOOK_UPS: Semaphore = Semaphore::const_new(8);

/// Looks up the addresses of a name.
pub trait Resolve: fmt::Debug + Send + Sync {
    fn resolve<'a>(&'a self, host: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>>;
}

/// The system's resolver: `/etc/hosts`, name servers, and whatever else it is told to use.
#[derive(Debug, Clone, Copy)]
pub struct System;

impl Resolve for System {
    fn resolve<'a>(&'a self, host: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>> {
        let host = host.to_owned();
        Box::pin(async move {
            let place = LOOK_UPS.acquire().await.map_err(io::Error::other)?;
            // The call cannot be stopped, so its thread keeps the place until it returns,
            // whether somebody still waits for it or not.
            let look_up = spawn_blocking(move || {
                let _place = place;
                Ok((host, 0).to_socket_addrs()?.map(|found| found.ip()).collect())
            });
            look_up.await.map_err(io::Error::other)?
        })
    }
}

/// Where the operator allows an endpoint further addresses: explanations name that section.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AllowedBy {
    /// `allow` of the endpoint's own `[[endpoint]]`.
    Endpoint,
    /// `allow` of `[webhooks]`.
    Webhooks,
}

/// Which hosts and networks an endpoint may have besides public ones.
#[derive(Debug, Clone, Copy)]
pub struct Rules<'a> {
    pub allow: &'a [Allowed],
    pub allowed_by: AllowedBy,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("{0}")]
    Refused(String),
    #[error("`{host}` cannot be resolved: {error}")]
    Unresolvable { host: String, error: io::Error },
    #[error("{address} cannot be reached: {error}")]
    Unreachable { address: SocketAddr, error: io::Error },
    #[error("TLS with `{host}` failed: {problem}")]
    Tls { host: String, problem: String },
    #[error(transparent)]
    NoAuthorities(#[from] NoAuthorities),
}

impl ConnectError {
    /// Returns its name, as the log shows it.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Refused(_) => "refused",
            Self::Unresolvable { .. } => "unresolvable",
            Self::Unreachable { .. } => "unreachable",
            Self::Tls { .. } | Self::NoAuthorities(_) => "tls",
        }
    }
}

/// A connection, with or without TLS.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Connects to receivers.
#[derive(Debug)]
pub struct Connector {
    resolver: Arc<dyn Resolve>,
    authorities: Authorities,
}

impl Connector {
    /// `ca_file` names a PEM file of authorities that are trusted besides the system's.
    #[must_use]
    pub fn new(resolver: Arc<dyn Resolve>, ca_file: Option<PathBuf>) -> Self {
        Self { resolver, authorities: Authorities::new(ca_file) }
    }

    /// Connects to the host of a URL. The caller sets the time limit.
    ///
    /// # Errors
    /// Why not, worded for the operator.
    pub(super) async fn connect(
        &self,
        target: &Target,
        rules: Rules<'_>,
    ) -> Result<Box<dyn Stream>, ConnectError> {
        let host = target.host();
        let addresses = match target.address() {
            Some(address) => vec![address],
            None => self.resolve(&host).await?,
        };
        permit(target, &host, &addresses, rules).map_err(ConnectError::Refused)?;
        let tcp = open(&addresses, target.port()).await?;
        if !target.is_https() {
            return Ok(Box::new(tcp));
        }
        let failed = |problem| ConnectError::Tls { host: host.clone(), problem };
        let name = ServerName::try_from(host.clone()).map_err(|error| failed(error.to_string()))?;
        let config = self.authorities.client_config().await?;
        let tls = TlsConnector::from(config).connect(name, tcp).await;
        Ok(Box::new(tls.map_err(|error| failed(explain_handshake(&error)))?))
    }

    async fn resolve(&self, host: &str) -> Result<Vec<IpAddr>, ConnectError> {
        let failed = |error| ConnectError::Unresolvable { host: host.to_owned(), error };
        let mut addresses = self.resolver.resolve(host).await.map_err(failed)?;
        let mut seen = Vec::new();
        addresses.retain(|address| {
            let is_new = !seen.contains(address);
            seen.push(*address);
            is_new
        });
        match addresses.len() {
            0 => Err(failed(io::Error::new(io::ErrorKind::NotFound, "it has no address"))),
            1..=MOST_ADDRESSES => Ok(addresses),
            _ => Err(failed(io::Error::other("it has too many addresses"))),
        }
    }
}

/// Judges all addresses of a host.
///
/// # Errors
/// Why nothing is sent there, and what would allow it.
pub fn permit(
    target: &Target,
    host: &str,
    addresses: &[IpAddr],
    rules: Rules<'_>,
) -> Result<(), String> {
    for &address in addresses {
        judge(host, address, rules.allow).map_err(|refusal| explain(target, &refusal, rules))?;
        if !target.is_https() && !is_allowed(host, address, rules.allow) {
            let line = line(host, rules.allowed_by);
            return Err(format!(
                "refused: messages to `{host}` would not be encrypted; use https, or {line}"
            ));
        }
    }
    Ok(())
}

fn explain(target: &Target, refusal: &Refusal, rules: Rules<'_>) -> String {
    let host = target.host();
    let of_name = match target.address() {
        Some(_) => String::new(),
        None => format!("`{host}`: "),
    };
    if refusal.may_be_allowed {
        let line = line(&host, rules.allowed_by);
        format!("refused: {of_name}{refusal}; to send there all the same, {line}")
    } else {
        format!("refused: {of_name}{refusal}, which is never sent to, whatever is allowed")
    }
}

fn line(host: &str, allowed_by: AllowedBy) -> String {
    match allowed_by {
        AllowedBy::Endpoint => format!("add `allow = [\"{host}\"]` to its `[[endpoint]]`"),
        AllowedBy::Webhooks => format!("add `allow = [\"{host}\"]` to `[webhooks]`"),
    }
}

/// Opens a connection to the first address that accepts one.
async fn open(addresses: &[IpAddr], port: u16) -> Result<TcpStream, ConnectError> {
    let mut failed = None;
    for &address in addresses {
        let address = SocketAddr::new(address, port);
        let connected = timeout(CONNECT, TcpStream::connect(address)).await;
        let too_slow = || io::Error::new(io::ErrorKind::TimedOut, "no connection within 4 s");
        match connected.unwrap_or_else(|_| Err(too_slow())) {
            Ok(stream) => {
                // A message is one write; nothing waits for more.
                stream.set_nodelay(true).ok();
                return Ok(stream);
            }
            Err(error) => failed = Some(ConnectError::Unreachable { address, error }),
        }
    }
    Err(failed.unwrap_or_else(|| ConnectError::Refused("refused: no address".to_owned())))
}
