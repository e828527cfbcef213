//! The accept loop: accept, admit and spawn, nothing between.

use std::any::Any;
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
use super::listener::{Accepting, Peer, Stream};
use super::tls::Tls;
use super::workers::Workers;
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
    /// Threads of its own; `None` serves on the runtime that accepts.
    threads: Option<usize>,
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
    /// They end with the last who has them.
    _threads: Option<Arc<dyn Any + Send + Sync>>,
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
            threads: None,
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

    /// Serves connections on so many threads of its own.
    #[must_use]
    pub(crate) fn on_threads(mut self, count: usize) -> Self {
        self.threads = Some(count);
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
        let threads = match self.threads {
            Some(count) => Some(Arc::new(Workers::start(self.name, count, Connection::serve)?)),
            None => None,
        };
        let owned = threads.clone().map(|threads| threads as Arc<dyn Any + Send + Sync>);
        let drain = Drain { pulse: Arc::clone(&self.pulse), gone, _threads: owned };
        info!("{} listening on {addr}", self.name);
        let door = Door { server: Arc::new(self), admission, threads, alive };
        Ok((door.accept(accepting), drain))
    }
}

/// What an accept loop needs.
struct Door<H> {
    server: Arc<Server<H>>,
    admission: Arc<Admission>,
    threads: Option<Arc<Workers<Connection<H>>>>,
    alive: mpsc::Sender<Infallible>,
}

/// A connection on its way to the thread that serves it.
struct Connection<H> {
    server: Arc<Server<H>>,
    peer: Peer,
    activity: Arc<Activity>,
    place: Place,
    alive: mpsc::Sender<Infallible>,
}

impl<H: Handler> Door<H> {
    async fn accept(self, mut accepting: Accepting) -> Infallible {
        let Self { server, alive, .. } = &self;
        tokio::spawn({
            let (pulse, limits) = (Arc::clone(&server.pulse), &server.limits);
            let period = connection::beat_period(limits);
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
                    self.bind_again(&mut accepting).await;
                    continue;
                }
            };
            match accepted {
                Ok(peer) => {
                    pause = FIRST_PAUSE;
                    self.take(peer);
                }
                Err(error) if is_the_peers(&error) => debug!(%error, "a peer left before accept"),
                Err(error) => {
                    if cannot_accept.admit(Instant::now(), SAID_EVERY).is_some() {
                        error!(%error, "{}: cannot accept; trying on, with pauses", server.name);
                    }
                    sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    /// Serves a peer, or closes its connection before a byte of it is read.
    fn take(&self, peer: Peer) {
        let Self { server, admission, threads, alive } = self;
        server.accepted.increment(1);
        let ip = peer.ip();
        match admission.admit(ip) {
            Ok(place) => {
                let activity = Activity::new(Arc::clone(&server.pulse), Arc::clone(admission));
                let (server, activity) = (Arc::clone(server), Arc::new(activity));
                let connection = Connection { server, peer, activity, place, alive: alive.clone() };
                let left = match threads {
                    Some(threads) => threads.serve(connection).err(),
                    None => Some(connection),
                };
                if let Some(connection) = left {
                    tokio::spawn(connection.serve());
                }
            }
            Err(refusal) => {
                peer.reset();
                let Refused { count, said } = &server.refused[refusal as usize];
                count.increment(1);
                if let Some(more) = said.admit(Instant::now(), SAID_EVERY) {
                    let peer = ip.map(tracing::field::display);
                    let name = server.name;
                    warn!(peer, more_since_last = more, "{name}: {}", refusal.explanation());
                }
            }
        }
    }

    /// Puts a socket file back in its place, for as long as that takes.
    async fn bind_again(&self, accepting: &mut Accepting) {
        let name = self.server.name;
        let cannot_bind = Throttle::default();
        loop {
            match accepting.bind_again() {
                Ok(former) => {
                    warn!("{name}: the socket's file was gone; it is bound anew");
                    if let Some(former) = former {
                        while let Some(Ok(peer)) = former.accept().now_or_never() {
                            self.take(peer);
                        }
                    }
                    return;
                }
                Err(error) => {
                    if cannot_bind.admit(Instant::now(), SAID_EVERY).is_some() {
                        error!(%error, "{name}: the socket's file is gone and cannot be bound anew");
                    }
                    sleep(LONGEST_PAUSE).await;
                }
            }
        }
    }
}

impl<H: Handler> Connection<H> {
    async fn serve(self) {
        let Self { server, peer, activity, place, alive } = self;
        let open = Open::new(server.open.clone());
        match peer.stream() {
            Ok(Stream::Tcp(stream)) => server.secured(stream, &activity).await,
            Ok(Stream::Unix(stream)) => server.secured(stream, &activity).await,
            Err(error) => debug!(%error, "a connection could not be taken into a runtime"),
        }
        drop((open, place, alive));
    }
}

impl<H: Handler> Server<H> {
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
