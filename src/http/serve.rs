//! The accept loop: accept, admit and spawn, nothing between.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use ipnet::IpNet;
use metrics::{Counter, Gauge};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, error, info, warn};

use super::admission::{Admission, Bounds, Place, Refusal};
use super::connection::{self, Activity, Limits, Phase, Protocol, Protocols, Pulse};
use super::listener::{Accepting, Peer};
use super::tls::Tls;
use super::{Handler, Listener};
use crate::telemetry::meters;
use crate::throttle::Throttle;

/// Pauses after an accept that failed for want of resources.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// What happens to every other connection (no descriptor is left, a peer is not
/// trusted) is said once in this time.
const SAID_EVERY: Duration = Duration::from_secs(60);

/// One listener with all it needs to answer.
pub(crate) struct Server<H> {
    name: &'static str,
    handler: Arc<H>,
    /// Networks that may connect; `None` lets in everyone.
    trusted: Option<Vec<IpNet>>,
    bounds: Bounds,
    tls: Option<Arc<Tls>>,
    protocols: Protocols,
    limits: Limits,
    pulse: Arc<Pulse>,
    open: Gauge,
    accepted: Counter,
    /// By [`Refusal`].
    refused: [Refused; Refusal::ALL.len()],
}

/// Connections that were closed for one reason.
struct Refused {
    count: Counter,
    said: Throttle,
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
    pub(crate) fn new(name: &'static str, handler: Arc<H>, limits: Limits, bounds: Bounds) -> Self {
        let (open, accepted) = meters::connections(name);
        Self {
            name,
            handler,
            trusted: None,
            bounds,
            tls: None,
            protocols: Protocols::new(),
            limits,
            pulse: Arc::new(Pulse::new()),
            open,
            accepted,
            refused: Refusal::ALL.map(|refusal| Refused {
                count: meters::refused(name, refusal.as_str()),
                said: Throttle::default(),
            }),
        }
    }

    /// Closes connections from outside these networks, unread.
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
        let admission = Arc::new(Admission::new(self.trusted.clone(), self.bounds));
        let (alive, gone) = mpsc::channel(1);
        let drain = Drain { pulse: Arc::clone(&self.pulse), gone };
        info!("{} listening on {addr}", self.name);
        Ok((Arc::new(self).accept(accepting, admission, alive), drain))
    }

    async fn accept(
        self: Arc<Self>,
        mut accepting: Accepting,
        admission: Arc<Admission>,
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
        let cannot_accept = Throttle::default();
        loop {
            let accepted = tokio::select! {
                accepted = accepting.accept() => accepted,
                () = accepting.lost() => {
                    self.bind_again(&mut accepting, &admission, &alive).await;
                    continue;
                }
            };
            match accepted {
                Ok(peer) => {
                    pause = FIRST_PAUSE;
                    self.take(peer, &admission, &alive);
                }
                Err(error) if is_the_peers(&error) => debug!(%error, "a peer left before accept"),
                Err(error) => {
                    if cannot_accept.admit(Instant::now(), SAID_EVERY).is_some() {
                        error!(%error, "{}: cannot accept; trying on, with pauses", self.name);
                    }
                    sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    /// Serves a peer, or closes its connection before a byte of it is read.
    fn take(
        self: &Arc<Self>,
        peer: Peer,
        admission: &Arc<Admission>,
        alive: &mpsc::Sender<Infallible>,
    ) {
        self.accepted.increment(1);
        let ip = peer.ip();
        match admission.admit(ip) {
            Ok(place) => {
                let activity = Activity::new(Arc::clone(&self.pulse), Arc::clone(admission));
                let connection = Arc::clone(self).connection(peer, Arc::new(activity), place);
                let alive = alive.clone();
                tokio::spawn(async move {
                    connection.await;
                    drop(alive);
                });
            }
            Err(refusal) => {
                peer.reset();
                let Refused { count, said } = &self.refused[refusal as usize];
                count.increment(1);
                if let Some(more) = said.admit(Instant::now(), SAID_EVERY) {
                    let peer = ip.map(tracing::field::display);
                    warn!(peer, more_since_last = more, "{}: {}", self.name, refusal.explanation());
                }
            }
        }
    }

    /// Puts a socket file back in its place, for as long as that takes.
    async fn bind_again(
        self: &Arc<Self>,
        accepting: &mut Accepting,
        admission: &Arc<Admission>,
        alive: &mpsc::Sender<Infallible>,
    ) {
        let cannot_bind = Throttle::default();
        loop {
            match accepting.bind_again() {
                Ok(former) => {
                    warn!("{}: the socket's file was gone; it is bound anew", self.name);
                    if let Some(former) = former {
                        while let Some(Ok(peer)) = former.accept().now_or_never() {
                            self.take(peer, admission, alive);
                        }
                    }
                    return;
                }
                Err(error) => {
                    if cannot_bind.admit(Instant::now(), SAID_EVERY).is_some() {
                        let name = self.name;
                        error!(%error, "{name}: the socket's file is gone and cannot be bound anew");
                    }
                    sleep(LONGEST_PAUSE).await;
                }
            }
        }
    }

    async fn connection(self: Arc<Self>, peer: Peer, activity: Arc<Activity>, place: Place) {
        let open = Open::new(self.open.clone());
        match peer {
            Peer::Tcp(stream, _) => self.secured(stream, &activity).await,
            Peer::Unix(stream) => self.secured(stream, &activity).await,
        }
        drop((open, place));
    }

    async fn secured<IO>(&self, stream: IO, activity: &Arc<Activity>)
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Some(tls) = &self.tls else {
            return self.drive(stream, None, activity).await;
        };
        let handshake = timeout(self.limits.handshake, tls.acceptor().accept(stream));
        match connection::supervise(handshake, |_| {}, activity, &self.limits).await {
            Some(Ok(Ok(stream))) => {
                let agreed = match stream.get_ref().1.alpn_protocol() {
                    Some(b"h2") => Some(Protocol::Http2),
                    Some(_) => Some(Protocol::Http1),
                    None => None,
                };
                meters::handshake(agreed == Some(Protocol::Http2)).increment(1);
                self.drive(stream, agreed, activity).await;
            }
            Some(Ok(Err(error))) => debug!(%error, "TLS handshake failed"),
            Some(Err(_)) => debug!("TLS handshake took too long"),
            None => {}
        }
    }

    async fn drive<IO>(&self, stream: IO, agreed: Option<Protocol>, activity: &Arc<Activity>)
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Self { handler, protocols, limits, .. } = self;
        connection::drive(stream, agreed, protocols, handler, activity, limits).await;
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

#[cfg(test)]
#[path = "serve_tests.rs"]
pub(crate) mod tests;
