//! A network that a test can break.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What the network does with the bytes that pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    Pass,
    /// Every connection is reset, new ones too.
    Cut,
    /// Connections stay open, and nothing passes in either direction; bytes that are sent
    /// meanwhile arrive later.
    Stall,
    /// Bytes that the server sends are lost.
    LoseAnswers,
    /// Bytes that the client sends are lost.
    LoseQuestions,
    /// The server's answer to bytes that contain this text is lost, and the connection is
    /// reset then.
    CutAnswerTo(&'static str),
    /// Everything arrives this much later.
    Delay(Duration),
}

/// A proxy between a client and a server.
#[derive(Debug)]
pub struct ChaosProxy {
    pub address: SocketAddr,
    network: watch::Sender<Network>,
    /// Incremented to reset the existing connections.
    resets: watch::Sender<u64>,
    accepted: Arc<AtomicU64>,
    acceptor: tokio::task::JoinHandle<()>,
}

impl ChaosProxy {
    pub async fn before(server: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let network = watch::Sender::new(Network::Pass);
        let resets = watch::Sender::new(0);
        let accepted = Arc::new(AtomicU64::new(0));
        let acceptor = tokio::spawn(accept(
            listener,
            server,
            network.clone(),
            resets.clone(),
            Arc::clone(&accepted),
        ));
        Self { address, network, resets, accepted, acceptor }
    }

    pub fn set(&self, network: Network) {
        self.network.send_replace(network);
    }

    /// Resets the existing connections; new ones are let through.
    pub fn reset(&self) {
        self.resets.send_modify(|resets| *resets += 1);
    }

    /// Connections accepted since the start.
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }
}

impl Drop for ChaosProxy {
    fn drop(&mut self) {
        self.acceptor.abort();
        self.network.send_replace(Network::Cut);
    }
}

async fn accept(
    listener: TcpListener,
    server: SocketAddr,
    network: watch::Sender<Network>,
    resets: watch::Sender<u64>,
    accepted: Arc<AtomicU64>,
) {
    loop {
        let Ok((client, _)) = listener.accept().await else { continue };
        accepted.fetch_add(1, Ordering::Relaxed);
        tokio::spawn(relay(client, server, network.subscribe(), resets.subscribe()));
    }
}

/// Relays one connection until it ends or the network ends it.
async fn relay(
    mut client: TcpStream,
    server: SocketAddr,
    mut network: watch::Receiver<Network>,
    mut resets: watch::Receiver<u64>,
) {
    resets.mark_unchanged();
    client.set_nodelay(true).ok();
    if *network.borrow() == Network::Cut {
        client.set_zero_linger().ok();
        return;
    }
    let Ok(mut server) = TcpStream::connect(server).await else { return };
    server.set_nodelay(true).ok();
    let ended_by_itself = {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        let is_asked = &AtomicBool::new(false);
        let questions = Direction::Questions(is_asked);
        let questions = pump(from_client, to_server, network.clone(), questions);
        let answers = pump(from_server, to_client, network.clone(), Direction::Answers(is_asked));
        tokio::select! {
            // Nothing passes from the moment at which the network is cut.
            biased;
            _ = network.wait_for(|network| *network == Network::Cut) => false,
            _ = resets.changed() => false,
            lost = questions => !lost,
            lost = answers => !lost,
        }
    };
    if !ended_by_itself {
        // Closing then sends a reset, as the next packet after a cut would cause.
        client.set_zero_linger().ok();
        server.set_zero_linger().ok();
    }
}

/// A direction, and whether the question of [`Network::CutAnswerTo`] has been asked.
#[derive(Clone, Copy)]
enum Direction<'a> {
    Questions(&'a AtomicBool),
    Answers(&'a AtomicBool),
}

impl Direction<'_> {
    fn is_lost_in(self, network: Network) -> bool {
        match self {
            Self::Questions(_) => network == Network::LoseQuestions,
            Self::Answers(_) => network == Network::LoseAnswers,
        }
    }

    /// Returns whether the connection is to be reset in place of passing these bytes on.
    fn cuts(self, network: Network, bytes: &[u8]) -> bool {
        let Network::CutAnswerTo(text) = network else { return false };
        match self {
            Self::Questions(is_asked) => {
                if bytes.windows(text.len()).any(|window| window == text.as_bytes()) {
                    is_asked.store(true, Ordering::Relaxed);
                }
                false
            }
            Self::Answers(is_asked) => is_asked.load(Ordering::Relaxed),
        }
    }
}

/// Relays one direction. Ends with the connection, or with `true` when bytes
/// were lost and the network works again: a stream with a gap must not continue.
async fn pump(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    mut network: watch::Receiver<Network>,
    direction: Direction<'_>,
) -> bool {
    let mut buffer = vec![0; 64 * 1024];
    let mut lost = false;
    loop {
        if network.wait_for(|network| *network != Network::Stall).await.is_err() {
            return false;
        }
        if lost && !direction.is_lost_in(*network.borrow()) {
            return true;
        }
        let read = tokio::select! {
            read = from.read(&mut buffer) => read,
            _ = network.changed() => continue,
        };
        let Ok(length @ 1..) = read else { return false };
        // The network may have changed during the wait.
        if network.wait_for(|network| *network != Network::Stall).await.is_err() {
            return false;
        }
        let now = *network.borrow();
        if direction.is_lost_in(now) {
            lost = true;
            continue;
        }
        if direction.cuts(now, &buffer[..length]) {
            return true;
        }
        if let Network::Delay(delay) = now {
            tokio::time::sleep(delay).await;
        }
        if to.write_all(&buffer[..length]).await.is_err() {
            return false;
        }
    }
}
