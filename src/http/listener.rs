//! Listening sockets, which are bound before anything else starts.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use crate::config::{Config, ListenAddr};

/// How many connections may wait to be accepted; the kernel caps the number at
/// `net.core.somaxconn`, which is 4096 on Linux since 5.4.
const BACKLOG: i32 = 4096;

/// How often a socket file is checked: without it no client can connect.
const FILE_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// The mode of a socket file: its owner and group may open it, so that a proxy can be
/// admitted by its group.
const SOCKET_MODE: u32 = 0o660;

/// A listener that could not be bound.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {addr}: {source}")]
pub struct BindError {
    pub addr: ListenAddr,
    pub source: io::Error,
}

/// The process's listeners. The caller of [`crate::run`] binds them, so that a
/// test can bind port 0 and ask which port it got.
#[derive(Debug)]
pub struct Listeners {
    pub gate: Listener,
    pub ops: Listener,
}

impl Listeners {
    pub fn bind(config: &Config) -> Result<Self, BindError> {
        Ok(Self {
            gate: Listener::bind(&config.gate.listen)?,
            ops: Listener::bind(&config.ops.listen)?,
        })
    }
}

/// A bound socket. Its file, if it has one, is removed when a serving listener is dropped.
#[derive(Debug)]
pub struct Listener {
    socket: Bound,
    addr: ListenAddr,
}

#[derive(Debug)]
enum Bound {
    Tcp(std::net::TcpListener),
    Unix(std::os::unix::net::UnixListener),
}

impl Listener {
    pub fn bind(addr: &ListenAddr) -> Result<Self, BindError> {
        let bound = match addr {
            ListenAddr::Tcp(addr) => bind_tcp(*addr),
            ListenAddr::Unix(path) => bind_unix(path),
        };
        let (socket, addr) = bound.map_err(|source| BindError { addr: addr.clone(), source })?;
        Ok(Self { socket, addr })
    }

    /// Returns the bound address, with the actual port if port 0 was requested.
    #[must_use]
    pub fn addr(&self) -> &ListenAddr {
        &self.addr
    }

    /// Registers the socket with the current runtime.
    pub(super) fn into_async(self) -> io::Result<AsyncListener> {
        Ok(match (self.socket, self.addr) {
            (Bound::Unix(socket), ListenAddr::Unix(path)) => {
                AsyncListener::Unix(UnixListener::from_std(socket)?, SocketFile::new(path)?)
            }
            (Bound::Tcp(socket), _) => AsyncListener::Tcp(TcpListener::from_std(socket)?),
            (Bound::Unix(_), ListenAddr::Tcp(_)) => return Err(io::ErrorKind::InvalidInput.into()),
        })
    }
}

fn bind_tcp(addr: SocketAddr) -> io::Result<(Bound, ListenAddr)> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    // Accepted sockets inherit the option, which saves a system call for each.
    socket.set_tcp_nodelay(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    let listener = std::net::TcpListener::from(socket);
    let addr = listener.local_addr()?;
    Ok((Bound::Tcp(listener), ListenAddr::Tcp(addr)))
}

fn bind_unix(path: &Path) -> io::Result<(Bound, ListenAddr)> {
    remove_stale(path)?;
    let listener = std::os::unix::net::UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(SOCKET_MODE))?;
    listener.set_nonblocking(true)?;
    Ok((Bound::Unix(listener), ListenAddr::Unix(path.into())))
}

/// Removes the socket file of a process that has ended, and no other file.
fn remove_stale(path: &Path) -> io::Result<()> {
    let kind = match std::fs::symlink_metadata(path) {
        Ok(metadata) => metadata.file_type(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !kind.is_socket() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "the file is not a socket"));
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Ok(_) => Err(io::ErrorKind::AddrInUse.into()),
        Err(error) => Err(error),
    }
}

/// A listener that is registered with the runtime.
#[derive(Debug)]
pub(super) enum AsyncListener {
    Tcp(TcpListener),
    Unix(UnixListener, SocketFile),
}

/// A peer that connected. Its socket belongs to no runtime yet: the thread that serves it
/// registers it with its own.
#[derive(Debug)]
pub(super) enum RemotePeer {
    Tcp(std::net::TcpStream, SocketAddr),
    Unix(std::os::unix::net::UnixStream),
}

/// A peer's socket, registered with the runtime of the thread that serves it.
#[derive(Debug)]
pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl RemotePeer {
    /// Returns the peer's address; peers of a socket file have none.
    pub(super) fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::Tcp(_, addr) => Some(addr.ip()),
            Self::Unix(_) => None,
        }
    }

    /// Closes the connection with a reset, so that the kernel need not keep state for it
    /// either.
    pub(super) fn reset(self) {
        if let Self::Tcp(stream, _) = self {
            // If this fails, the connection is closed without a reset.
            SockRef::from(&stream).set_linger(Some(Duration::ZERO)).ok();
        }
    }

    /// Registers the socket with this thread's runtime.
    pub(super) fn stream(self) -> io::Result<Stream> {
        Ok(match self {
            Self::Tcp(stream, _) => Stream::Tcp(TcpStream::from_std(stream)?),
            Self::Unix(stream) => Stream::Unix(UnixStream::from_std(stream)?),
        })
    }
}

impl AsyncListener {
    pub(super) async fn accept(&self) -> io::Result<RemotePeer> {
        match self {
            Self::Tcp(listener) => {
                let (stream, addr) = listener.accept().await?;
                Ok(RemotePeer::Tcp(stream.into_std()?, addr))
            }
            Self::Unix(listener, _) => Ok(RemotePeer::Unix(listener.accept().await?.0.into_std()?)),
        }
    }
}

impl AsyncListener {
    /// Returns when no client can connect any more, because the socket file was removed or
    /// replaced. Never returns for a TCP listener.
    pub(super) async fn lost(&self) {
        let Self::Unix(_, file) = self else { return std::future::pending().await };
        loop {
            sleep(FILE_CHECK_INTERVAL).await;
            let path = file.path.clone();
            let found = spawn_blocking(move || inode(&path)).await;
            let Ok(found) = found else { continue };
            if found.ok() != Some(file.inode) {
                return;
            }
        }
    }

    /// Binds a socket file again. Returns the previous listener, from which the caller
    /// still has to accept the connections that were made before.
    pub(super) fn bind_again(&mut self) -> io::Result<Option<Self>> {
        let Self::Unix(_, file) = self else { return Ok(None) };
        let bound = Listener::bind(&ListenAddr::Unix(file.path.clone()));
        let bound = bound.map_err(|error| error.source)?.into_async()?;
        Ok(Some(std::mem::replace(self, bound)))
    }
}

/// Removes a socket file when its listener is dropped, unless another process has
/// replaced the file by its own.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    inode: (u64, u64),
}

impl SocketFile {
    fn new(path: PathBuf) -> io::Result<Self> {
        let inode = inode(&path)?;
        Ok(Self { path, inode })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if inode(&self.path).is_ok_and(|inode| inode == self.inode) {
            // A failure does no harm: the next start removes a stale file, too.
            std::fs::remove_file(&self.path).ok();
        }
    }
}

fn inode(path: &Path) -> io::Result<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    std::fs::symlink_metadata(path).map(|metadata| (metadata.dev(), metadata.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_0_reports_the_port_it_got() {
        let listener =
            Listener::bind(&"127.0.0.1:0".parse().expect("address")).expect("a free port");
        let ListenAddr::Tcp(addr) = listener.addr() else { panic!("not TCP") };
        assert_ne!(addr.port(), 0);
    }

    #[tokio::test]
    async fn accepted_sockets_do_not_delay() {
        let listener =
            Listener::bind(&"127.0.0.1:0".parse().expect("address")).expect("a free port");
        let ListenAddr::Tcp(addr) = *listener.addr() else { panic!("not TCP") };
        let listener = listener.into_async().expect("a runtime");
        let _client = TcpStream::connect(addr).await.expect("connects");
        let RemotePeer::Tcp(stream, _) = listener.accept().await.expect("accepts") else {
            panic!("not TCP")
        };
        assert!(stream.nodelay().expect("an option of TCP"));
        assert!(SockRef::from(&stream).nonblocking().expect("an option of all"));
    }

    #[tokio::test]
    async fn only_a_dead_socket_file_is_replaced() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("gate.sock");
        let addr = ListenAddr::Unix(path.clone());

        let first = Listener::bind(&addr).expect("binds");
        let mode = std::fs::metadata(&path).expect("a file").permissions().mode();
        assert_eq!(mode & 0o777, SOCKET_MODE);
        let in_use = Listener::bind(&addr).expect_err("another listener answers there");
        assert_eq!(in_use.source.kind(), io::ErrorKind::AddrInUse);

        drop(first);
        assert!(path.exists(), "left behind, as by a process that was killed");
        let second = Listener::bind(&addr).expect("replaces the stale file");
        drop(second.into_async().expect("a runtime"));
        assert!(!path.exists(), "removed when a serving listener is dropped");

        std::fs::write(&path, "precious").expect("writes");
        let refused = Listener::bind(&addr).expect_err("not a socket");
        assert_eq!(refused.source.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read_to_string(&path).expect("still there"), "precious");
    }
}
