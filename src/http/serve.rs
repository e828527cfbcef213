//! The accept loop: it accepts, admits and spawns, and does nothing else in between.

use std::any::Any;
use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use ipnet::IpNet;
use metrics::{Counter, Gauge};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, error, info, warn};

use super::admission::{Admission, Bounds, Permit, Refusal};
use super::connection::{self, Activity, Limits, Phase, Protocol, Protocols, Pulse};
use super::listener::{AsyncListener, RemotePeer, Stream};
use super::tls::ServerTls;
use super::workers::Workers;
use super::{Handler, Listener};
use crate::telemetry::meters;
use crate::throttle::Throttle;

/// The pauses after an accept that failed because resources ran out.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// An event that may happen with every connection (no descriptor is left, a peer is not
/// trusted) is logged at most once in this time.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// One listener with everything that its connections need.
pub(crate) struct Server<H> {
    name: &'static str,
    handler: Arc<H>,
    /// Networks that may connect; `None` admits all.
    trusted: Option<Vec<IpNet>>,
    bounds: Bounds,
    tls: Option<Arc<ServerTls>>,
    /// How many dedicated threads serve connections; `None` serves them on the runtime
    /// that accepts.
    threads: Option<usize>,
    protocols: Protocols,
    limits: Limits,
    pulse: Arc<Pulse>,
    open: Gauge,
    accepted: Counter,
    /// Indexed by [`Refusal`].
    refusals: [RefusalCounter; Refusal::ALL.len()],
}

/// Counts and logs the connections that were refused for one reason.
struct RefusalCounter {
    count: Counter,
    log_throttle: Throttle,
}

/// Ends a [`Server`]'s connections.
#[derive(Debug)]
pub(crate) struct Drain {
    pulse: Arc<Pulse>,
    /// Each connection holds a sender; when the last one is dropped, the channel closes.
    closed: mpsc::Receiver<Infallible>,
    /// The threads end when their last owner is dropped.
    _threads: Option<Arc<dyn Any + Send + Sync>>,
}

impl Drain {
    /// Lets running requests finish and closes idle connections; returns when the
    /// last connection is closed. The accept loop must have ended.
    pub(crate) async fn drain(&mut self) {
        self.pulse.enter(Phase::Draining);
        while self.closed.recv().await.is_some() {}
    }

    /// Drops every connection immediately.
    pub(crate) async fn abort(&mut self) {
        self.pulse.enter(Phase::Aborting);
        while self.closed.recv().await.is_some() {}
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
            refusals: Refusal::ALL.map(|refusal| RefusalCounter {
                count: meters::connections_refused(name, refusal.as_str()),
                log_throttle: Throttle::default(),
            }),
        }
    }

    /// Closes connections from outside these networks without reading from them.
    #[must_use]
    pub(crate) fn with_trusted(mut self, networks: Vec<IpNet>) -> Self {
        self.trusted = Some(networks);
        self
    }

    #[must_use]
    pub(crate) fn with_tls(mut self, tls: Option<Arc<ServerTls>>) -> Self {
        self.tls = tls;
        self
    }

    /// Serves connections on `count` dedicated threads.
    #[must_use]
    pub(crate) fn with_threads(mut self, count: usize) -> Self {
        self.threads = Some(count);
        self
    }

    /// Splits into the endless accept loop and the [`Drain`] that ends its connections.
    pub(crate) fn start(
        self,
        listener: Listener,
    ) -> io::Result<(impl Future<Output = Infallible> + Send + use<H>, Drain)> {
        let addr = listener.addr().clone();
        let admission = Arc::new(Admission::new(self.trusted.clone(), self.bounds));
        let (alive, closed) = mpsc::channel(1);
        let threads = match self.threads {
            Some(count) => Some(Arc::new(Workers::start(self.name, count, Connection::serve)?)),
            None => None,
        };
        let runtime = match threads.as_deref().and_then(Workers::first_runtime) {
            Some(first) => first.clone(),
            None => Handle::current(),
        };
        let listener = {
            let _entered = runtime.enter();
            listener.into_async()?
        };
        let owned = threads.clone().map(|threads| threads as Arc<dyn Any + Send + Sync>);
        let drain = Drain { pulse: Arc::clone(&self.pulse), closed, _threads: owned };
        info!("{} listening on {addr}", self.name);
        let acceptor = Acceptor { server: Arc::new(self), admission, threads, alive };
        Ok((run_on(runtime, acceptor.run(listener)), drain))
    }
}

/// Runs an endless task on a runtime until this is dropped.
async fn run_on(
    runtime: Handle,
    endless: impl Future<Output = Infallible> + Send + 'static,
) -> Infallible {
    let mut task = JoinSet::new();
    task.spawn_on(endless, &runtime);
    loop {
        match task.join_next().await {
            Some(Err(ended)) if ended.is_panic() => std::panic::resume_unwind(ended.into_panic()),
            Some(Ok(never)) => match never {},
            // The runtime has ended, and the process is about to.
            Some(Err(_)) | None => std::future::pending().await,
        }
    }
}

/// The state of an accept loop.
struct Acceptor<H> {
    server: Arc<Server<H>>,
    admission: Arc<Admission>,
    threads: Option<Arc<Workers<Connection<H>>>>,
    alive: mpsc::Sender<Infallible>,
}

/// A connection on its way to the thread that serves it.
struct Connection<H> {
    server: Arc<Server<H>>,
    peer: RemotePeer,
    activity: Arc<Activity>,
    permit: Permit,
    alive: mpsc::Sender<Infallible>,
}

impl<H: Handler> Acceptor<H> {
    async fn run(self, mut listener: AsyncListener) -> Infallible {
        let Self { server, alive, .. } = &self;
        tokio::spawn({
            let (pulse, limits) = (Arc::clone(&server.pulse), &server.limits);
            let period = connection::beat_period(limits);
            // The beat goes on while connections drain: their limits still apply.
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
                accepted = listener.accept() => accepted,
                () = listener.lost() => {
                    self.bind_again(&mut listener).await;
                    continue;
                }
            };
            match accepted {
                Ok(peer) => {
                    pause = FIRST_PAUSE;
                    self.admit(peer);
                }
                Err(error) if is_peer_error(&error) => {
                    debug!(%error, "a peer disconnected before it was accepted");
                }
                Err(error) => {
                    if cannot_accept.admit(Instant::now(), LOG_INTERVAL).is_some() {
                        let name = server.name;
                        error!(%error, "{name}: cannot accept connections; retrying with pauses");
                    }
                    sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    /// Serves a peer, or closes its connection without reading from it.
    fn admit(&self, peer: RemotePeer) {
        let Self { server, admission, threads, alive } = self;
        server.accepted.increment(1);
        let ip = peer.ip();
        match admission.admit(ip) {
            Ok(permit) => {
                let activity = Activity::new(Arc::clone(&server.pulse), Arc::clone(admission));
                let activity = activity.of_client(ip);
                let (server, activity) = (Arc::clone(server), Arc::new(activity));
                let alive = alive.clone();
                let connection = Connection { server, peer, activity, permit, alive };
                let not_taken = match threads {
                    Some(threads) => threads.serve(connection).err(),
                    None => Some(connection),
                };
                if let Some(connection) = not_taken {
                    tokio::spawn(connection.serve());
                }
            }
            Err(refusal) => {
                peer.reset();
                let RefusalCounter { count, log_throttle } = &server.refusals[refusal as usize];
                count.increment(1);
                if let Some(more) = log_throttle.admit(Instant::now(), LOG_INTERVAL) {
                    let peer = ip.map(tracing::field::display);
                    let name = server.name;
                    warn!(peer, more_since_last = more, "{name}: {}", refusal.explanation());
                }
            }
        }
    }

    /// Binds a removed socket file again, and retries until that succeeds.
    async fn bind_again(&self, listener: &mut AsyncListener) {
        let name = self.server.name;
        let cannot_bind = Throttle::default();
        loop {
            match listener.bind_again() {
                Ok(previous) => {
                    warn!("{name}: the socket file was gone and has been bound again");
                    if let Some(previous) = previous {
                        while let Some(Ok(peer)) = previous.accept().now_or_never() {
                            self.admit(peer);
                        }
                    }
                    return;
                }
                Err(error) => {
                    if cannot_bind.admit(Instant::now(), LOG_INTERVAL).is_some() {
                        error!(%error, "{name}: the socket file is gone and cannot be bound again");
                    }
                    sleep(LONGEST_PAUSE).await;
                }
            }
        }
    }
}

impl<H: Handler> Connection<H> {
    async fn serve(self) {
        let Self { server, peer, activity, permit, alive } = self;
        let open = OpenGuard::new(server.open.clone());
        match peer.stream() {
            Ok(Stream::Tcp(stream)) => server.secured(stream, &activity).await,
            Ok(Stream::Unix(stream)) => server.secured(stream, &activity).await,
            Err(error) => debug!(%error, "cannot register a connection with the runtime"),
        }
        drop((open, permit, alive));
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
                let negotiated = match stream.get_ref().1.alpn_protocol() {
                    Some(b"h2") => Some(Protocol::Http2),
                    Some(_) => Some(Protocol::Http1),
                    None => None,
                };
                meters::handshake(negotiated == Some(Protocol::Http2)).increment(1);
                self.drive(stream, negotiated, activity).await;
            }
            Some(Ok(Err(error))) => debug!(%error, "TLS handshake failed"),
            Some(Err(_)) => debug!("TLS handshake took too long"),
            None => {}
        }
    }

    async fn drive<IO>(&self, stream: IO, negotiated: Option<Protocol>, activity: &Arc<Activity>)
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Self { handler, protocols, limits, .. } = self;
        connection::drive(stream, negotiated, protocols, handler, activity, limits).await;
    }
}

/// Whether an accept failed for this one connection only (accept(2): treat network
/// errors of the new socket as `EAGAIN`).
fn is_peer_error(error: &io::Error) -> bool {
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

/// Counts a connection as open until it is dropped.
struct OpenGuard(Gauge);

impl OpenGuard {
    fn new(gauge: Gauge) -> Self {
        gauge.increment(1.0);
        Self(gauge)
    }
}

impl Drop for OpenGuard {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}

#[cfg(test)]
pub(crate) mod tests;
