//! Readiness probes: whether an app answers, found out by connecting to it.
//!
//! Whatever comes back is an answer: a TLS alert, an HTTP/2 preface, a greeting, a
//! connection that is closed or reset at once. The app does not answer only if the
//! connection is refused or nothing comes back at all.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::spec::Target;

/// How long a connection within one machine may take. If a network drops the packets, the
/// probe waits this long.
const CONNECT_LIMIT: Duration = Duration::from_millis(500);

/// How long an app that was unpaused may take to send its first byte.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);

/// The result of a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probe {
    Answers,
    /// No process listens on the port yet.
    Refused,
    /// It accepts the connection but sends nothing.
    Silent,
    /// It cannot be reached from here.
    Unreachable,
}

impl Probe {
    /// Returns its name, as it is recorded and shown.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Answers => "answers",
            Self::Refused => "refused",
            Self::Silent => "silent",
            Self::Unreachable => "unreachable",
        }
    }
}

/// Probes whether a process listens on the port of one of the addresses.
pub(super) async fn listens(addresses: &[IpAddr], port: u16) -> Probe {
    match connect(addresses, port).await {
        Ok(_) => Probe::Answers,
        Err(probe) => probe,
    }
}

/// Probes whether the app itself answers. The port of a paused app still accepts
/// connections, because the kernel accepts them.
///
/// The request carries `host`, as the requests of its users do: a server of several hosts
/// may close connections for any other host.
pub(super) async fn answers(addresses: &[IpAddr], target: &Target, host: Option<&str>) -> Probe {
    let mut stream = match connect(addresses, target.port).await {
        Ok(stream) => stream,
        Err(probe) => return probe,
    };
    // A reset ends the exchange at once. An orderly end would leave it to the app when it
    // answers for the last time, and traffic after a probe counts as use.
    let _ = stream.set_zero_linger();
    if !target.speaks_http {
        return Probe::Answers;
    }
    // HEAD has no side effects (RFC 9110 section 9.3.2), and any answer is sufficient.
    let own = || stream.peer_addr().map_or_else(|_| String::new(), |own| own.to_string());
    let host = host.map_or_else(own, str::to_owned);
    let request = format!(
        "HEAD / HTTP/1.1\r\nHost: {host}\r\nUser-Agent: nightporter\r\n\
         Connection: close\r\n\r\n"
    );
    let exchange = async {
        stream.write_all(request.as_bytes()).await?;
        stream.read_u8().await
    };
    match timeout(ANSWER_LIMIT, exchange).await {
        // Even a connection that is closed or reset was answered.
        Ok(Ok(_) | Err(_)) => Probe::Answers,
        Err(_) => Probe::Silent,
    }
}

async fn connect(addresses: &[IpAddr], port: u16) -> Result<TcpStream, Probe> {
    let mut outcome = Probe::Unreachable;
    for address in addresses {
        match timeout(CONNECT_LIMIT, TcpStream::connect((*address, port))).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => match error.kind() {
                io::ErrorKind::ConnectionRefused => outcome = Probe::Refused,
                io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted => {
                    return Err(Probe::Answers);
                }
                _ => {}
            },
            Err(_) => {}
        }
    }
    Err(outcome)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn target(port: u16, speaks_http: bool) -> Target {
        Target { container: "a".into(), port, speaks_http }
    }

    #[tokio::test]
    async fn a_port_that_accepts_is_no_answer() {
        let listener = TcpListener::bind((HERE, 0)).await.expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        // The kernel accepts, but no process reads, as in a paused container.
        assert_eq!(listens(&[HERE], port).await, Probe::Answers);
        assert_eq!(answers(&[HERE], &target(port, false), None).await, Probe::Answers);
        assert_eq!(answers(&[HERE], &target(port, true), None).await, Probe::Silent);
        drop(listener);
        assert_eq!(listens(&[HERE], port).await, Probe::Refused);
        assert_eq!(listens(&[], port).await, Probe::Unreachable);
    }

    /// Probes a server with `host`; returns the result and the server's port.
    async fn probed(
        host: Option<&str>,
        serve: impl AsyncFnOnce(TcpStream) + Send + 'static,
    ) -> (Probe, u16) {
        let listener = TcpListener::bind((HERE, 0)).await.expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        let serving = async {
            let (stream, _) = listener.accept().await.expect("a connection");
            serve(stream).await;
        };
        let (target, addresses) = (target(port, true), [HERE]);
        let (probe, ()) = tokio::join!(answers(&addresses, &target, host), serving);
        (probe, port)
    }

    #[tokio::test]
    async fn whatever_comes_back_is_an_answer() {
        for answer in [
            &b"HTTP/1.1 503 Busy\r\n\r\n"[..],
            // A TLS alert, the settings of HTTP/2, a greeting.
            b"\x15\x03\x01\x00\x02\x02\x46",
            b"\x00\x00\x00\x04\x00\x00\x00\x00\x00",
            b"220 mail.example ESMTP\r\n",
        ] {
            let serve = async move |mut stream: TcpStream| {
                stream.write_all(answer).await.expect("sent");
            };
            assert_eq!(probed(None, serve).await.0, Probe::Answers, "{answer:?}");
        }
        // Accepted and closed, also with the request still unread, which resets the connection.
        let close = async |stream: TcpStream| drop(stream);
        assert_eq!(probed(None, close).await.0, Probe::Answers);
        let reset = async |stream: TcpStream| {
            stream.readable().await.expect("asked");
            drop(stream);
        };
        assert_eq!(probed(None, reset).await.0, Probe::Answers);
    }

    #[tokio::test]
    async fn an_app_is_asked_by_its_own_host() {
        for host in [Some("wiki.box.example"), None] {
            let (sender, receiver) = tokio::sync::oneshot::channel();
            let serve = async move |mut stream: TcpStream| {
                let mut head = [0; 512];
                let length = stream.read(&mut head).await.expect("asked");
                sender
                    .send(String::from_utf8_lossy(&head[..length]).into_owned())
                    .expect("a receiver");
            };
            let (_, port) = probed(host, serve).await;
            let head = receiver.await.expect("a request");
            let expected = host.map_or(format!("{HERE}:{port}"), str::to_owned);
            assert!(head.contains(&format!("\r\nHost: {expected}\r\n")), "{head}");
        }
    }
}
