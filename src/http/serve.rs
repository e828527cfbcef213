//! The accept loop: accept and spawn, nothing between.

use std::convert::Infallible;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;
use ipnet::IpNet;
use metrics::{Counter, Gauge};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, error, info};

use super::connection::{self, Limits, Phase, Protocol, Protocols, Pulse};
use super::listener::{Accepting, Peer};
use super::tls::Tls;
use super::{Handler, Listener, Response, answer};
use crate::domain::reason::Reason;
use crate::telemetry::meters;

/// Pauses after an accept that failed for want of resources.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// At its limit of open files a process fails at every other accept; that is
/// said once in this time.
const SAID_EVERY: Duration = Duration::from_secs(60);

/// One listener with all it needs to answer.
pub(crate) struct Server<H> {
    name: &'static str,
    handler: Arc<H>,
    refuse: Arc<Refuse>,
    /// Networks whose requests are answered; `None` answers everyone.
    trusted: Option<Vec<IpNet>>,
    tls: Option<Arc<Tls>>,
    protocols: Protocols,
    limits: Limits,
    pulse: Arc<Pulse>,
    open: Gauge,
    accepted: Counter,
}

/// Ends a [`Server`]'s connections.
#[derive(Debug)]
pub(crate) struct Drain {
    pulse: Arc<Pulse>,
    /// Each connection holds a sender; the last one gone closes the channel.
    gone: mpsc::Receiver<Infallible>,
}

impl Drain {
    /// Lets running requests finish and closes what is idle; returns when the
    /// last connection is gone. The accept loop must have ended.
    pub(crate) async fn drain(&mut self) {
        self.pulse.enter(Phase::Draining);
        while self.gone.recv().await.is_some() {}
    }

    /// Drops every connection as it stands.
    pub(crate) async fn abort(&mut self) {
        self.pulse.enter(Phase::Aborting);
        while self.gone.recv().await.is_some() {}
    }
}

impl<H: Handler> Server<H> {
    pub(crate) fn new(name: &'static str, handler: Arc<H>, limits: Limits) -> Self {
        let (open, accepted) = meters::connections(name);
        Self {
            name,
            handler,
            refuse: Arc::new(Refuse),
            trusted: None,
            tls: None,
            protocols: Protocols::new(),
            limits,
            pulse: Arc::new(Pulse::new()),
            open,
            accepted,
        }
    }

    /// Answers 403 to peers outside these networks.
    #[must_use]
    pub(crate) fn trusting(mut self, networks: Vec<IpNet>) -> Self {
        self.trusted = Some(networks);
        self
    }

    #[must_use]
    pub(crate) fn over(mut self, tls: Option<Arc<Tls>>) -> Self {
        self.tls = tls;
        self
    }

    /// Splits into the endless accept loop and what ends its connections.
    pub(crate) fn start(
        self,
        listener: Listener,
    ) -> io::Result<(impl Future<Output = Infallible> + Send + use<H>, Drain)> {
        let addr = listener.addr().clone();
        let accepting = listener.accepting()?;
        let (alive, gone) = mpsc::channel(1);
        let drain = Drain { pulse: Arc::clone(&self.pulse), gone };
        info!("{} listening on {addr}", self.name);
        Ok((Arc::new(self).accept(accepting, alive), drain))
    }

    async fn accept(
        self: Arc<Self>,
        accepting: Accepting,
        alive: mpsc::Sender<Infallible>,
    ) -> Infallible {
        tokio::spawn({
            let (pulse, period) = (Arc::clone(&self.pulse), connection::beat_period(&self.limits));
            // Goes on while connections drain: the limits hold there, too.
            let alive = alive.downgrade();
            async move {
                while alive.upgrade().is_some() {
                    sleep(period).await;
                    pulse.beat();
                }
            }
        });
        let mut pause = FIRST_PAUSE;
        let mut said: Option<Instant> = None;
        loop {
            match accepting.accept().await {
                Ok(accepted) => {
                    pause = FIRST_PAUSE;
                    self.accepted.increment(1);
                    tokio::spawn(Arc::clone(&self).connection(accepted, alive.clone()));
                }
                Err(error) if is_the_peers(&error) => debug!(%error, "a peer left before accept"),
                Err(error) => {
                    if said.is_none_or(|said| said.elapsed() >= SAID_EVERY) {
                        error!(%error, "{}: cannot accept; trying on, with pauses", self.name);
                        said = Some(Instant::now());
                    }
                    sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    async fn connection(self: Arc<Self>, peer: Peer, alive: mpsc::Sender<Infallible>) {
        let open = Open::new(self.open.clone());
        match peer {
            Peer::Tcp(stream, addr) => {
                let trusted = self.trusts(addr.ip());
                self.secured(stream, trusted).await;
            }
            // Who may open the socket file is for its owner to say.
            Peer::Unix(stream) => self.secured(stream, true).await,
        }
        drop((open, alive));
    }

    fn trusts(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        self.trusted.as_ref().is_none_or(|networks| networks.iter().any(|net| net.contains(&ip)))
    }

    async fn secured<IO>(&self, stream: IO, trusted: bool)
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Some(tls) = &self.tls else {
            return self.drive(stream, None, trusted).await;
        };
        match timeout(self.limits.handshake, tls.acceptor().accept(stream)).await {
            Ok(Ok(stream)) => {
                let agreed = match stream.get_ref().1.alpn_protocol() {
                    Some(b"h2") => Some(Protocol::Http2),
                    Some(_) => Some(Protocol::Http1),
                    None => None,
                };
                meters::handshake(agreed == Some(Protocol::Http2)).increment(1);
                self.drive(stream, agreed, trusted).await;
            }
            Ok(Err(error)) => debug!(%error, "TLS handshake failed"),
            Err(_) => debug!("TLS handshake took too long"),
        }
    }

    async fn drive<IO>(&self, stream: IO, agreed: Option<Protocol>, trusted: bool)
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Self { handler, refuse, protocols, pulse, limits, .. } = self;
        if trusted {
            connection::drive(stream, agreed, protocols, handler, pulse, limits).await;
        } else {
            connection::drive(stream, agreed, protocols, refuse, pulse, limits).await;
        }
    }
}

/// Whether an accept failed for this one connection (accept(2): treat network
/// errors of the new socket as `EAGAIN`).
fn is_the_peers(error: &io::Error) -> bool {
    use io::ErrorKind::{
        ConnectionAborted, ConnectionRefused, ConnectionReset, HostUnreachable, Interrupted,
        NetworkDown, NetworkUnreachable,
    };
    matches!(
        error.kind(),
        ConnectionAborted
            | ConnectionRefused
            | ConnectionReset
            | HostUnreachable
            | Interrupted
            | NetworkDown
            | NetworkUnreachable
    )
}

/// Counts a connection as long as it lives.
struct Open(Gauge);

impl Open {
    fn new(gauge: Gauge) -> Self {
        gauge.increment(1.0);
        Self(gauge)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}

/// Answers peers that are not trusted.
struct Refuse;

impl Handler for Refuse {
    async fn handle(&self, _head: Parts) -> Response {
        meters::untrusted().increment(1);
        debug!(reason = Reason::UntrustedProxy.as_str(), "denied");
        answer::deny(Reason::UntrustedProxy)
    }
}

#[cfg(test)]
#[path = "serve_tests.rs"]
pub(crate) mod tests;
