//! Whether an app answers, asked of the app itself.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::app::Target;

/// How long a connection within one machine may take; a network that drops what
/// comes from here takes all of it.
const CONNECT_LIMIT: Duration = Duration::from_millis(500);

/// How long an app that was unpaused has for its first byte.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);

/// What a probe found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Probe {
    Answers,
    /// Nobody listens there yet.
    Refused,
    /// It accepts, but says nothing.
    Silent,
    /// There is no way from here to there.
    Unreachable,
}

/// Whether somebody listens at one of the addresses.
pub(super) async fn listens(addresses: &[IpAddr], port: u16) -> Probe {
    match connect(addresses, port).await {
        Ok(_) => Probe::Answers,
        Err(probe) => probe,
    }
}

/// Whether the app itself answers: a paused one's port accepts connections still,
/// since it is the kernel that does.
pub(super) async fn answers(addresses: &[IpAddr], target: &Target) -> Probe {
    let mut stream = match connect(addresses, target.port).await {
        Ok(stream) => stream,
        Err(probe) => return probe,
    };
    if !target.speaks_http {
        return Probe::Answers;
    }
    // HEAD has no side effects (RFC 9110 section 9.3.2), and any answer will do.
    let question = "HEAD / HTTP/1.1\r\nHost: localhost\r\nUser-Agent: nightporter\r\n\
                    Connection: close\r\n\r\n";
    let exchange = async {
        stream.write_all(question.as_bytes()).await?;
        stream.read_u8().await
    };
    match timeout(ANSWER_LIMIT, exchange).await {
        Ok(Ok(_)) => Probe::Answers,
        Ok(Err(_)) => Probe::Refused,
        Err(_) => Probe::Silent,
    }
}

async fn connect(addresses: &[IpAddr], port: u16) -> Result<TcpStream, Probe> {
    let mut outcome = Probe::Unreachable;
    for address in addresses {
        match timeout(CONNECT_LIMIT, TcpStream::connect((*address, port))).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
                outcome = Probe::Refused;
            }
            Ok(Err(_)) | Err(_) => {}
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
        // The kernel accepts; nobody reads, as in a paused container.
        assert_eq!(listens(&[HERE], port).await, Probe::Answers);
        assert_eq!(answers(&[HERE], &target(port, false)).await, Probe::Answers);
        assert_eq!(answers(&[HERE], &target(port, true)).await, Probe::Silent);
        drop(listener);
        assert_eq!(listens(&[HERE], port).await, Probe::Refused);
        assert_eq!(listens(&[], port).await, Probe::Unreachable);
    }

    #[tokio::test]
    async fn any_first_byte_is_an_answer() {
        let listener = TcpListener::bind((HERE, 0)).await.expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            stream.write_all(b"HTTP/1.1 503 Busy\r\n\r\n").await.expect("sent");
        });
        assert_eq!(answers(&[HERE], &target(port, true)).await, Probe::Answers);
    }
}
