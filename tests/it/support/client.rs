//! An HTTP/1.1 client that sends exactly the given bytes, even invalid ones.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// No response of the gate takes this long, not even a held one; a hang becomes
/// an error.
const PATIENCE: Duration = Duration::from_secs(120);

/// A request as bytes, built piece by piece without any check.
#[derive(Clone)]
pub struct Request {
    line: Vec<u8>,
    headers: Vec<(Vec<u8>, Vec<u8>)>,
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.bytes()))
    }
}

impl Request {
    pub fn new(method: &str, target: &str) -> Self {
        Self { line: format!("{method} {target} HTTP/1.1\r\n").into_bytes(), headers: Vec::new() }
            .header("Host", "localhost")
    }

    /// The subrequest of a proxy for a client that requests `https://{host}{uri}`.
    pub fn auth(host: impl AsRef<[u8]>, uri: impl AsRef<[u8]>) -> Self {
        Self::unforwarded()
            .header("X-Forwarded-Method", "GET")
            .header("X-Forwarded-Proto", "https")
            .header("X-Forwarded-Host", host)
            .header("X-Forwarded-Uri", uri)
    }

    /// A subrequest without the headers that describe the client's request.
    pub fn unforwarded() -> Self {
        Self::new("GET", "/internal/auth")
    }

    #[must_use]
    pub fn header(mut self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        self.headers.push((name.as_ref().to_vec(), value.as_ref().to_vec()));
        self
    }

    #[must_use]
    pub fn headers<N: AsRef<[u8]>, V: AsRef<[u8]>>(
        self,
        headers: impl IntoIterator<Item = (N, V)>,
    ) -> Self {
        headers.into_iter().fold(self, |request, (name, value)| request.header(name, value))
    }

    /// Removes every header of that name.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(other, _)| !other.eq_ignore_ascii_case(name.as_bytes()));
        self
    }

    #[must_use]
    pub fn cookie(self, token: impl AsRef<[u8]>) -> Self {
        self.header("Cookie", [b"authorization=", token.as_ref()].concat())
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.line.clone();
        for (name, value) in &self.headers {
            bytes.extend([name, &b": "[..], value, b"\r\n"].concat());
        }
        bytes.extend(b"\r\n");
        bytes
    }
}

/// A complete response.
#[derive(Debug, Clone)]
pub struct Response {
    pub status: u16,
    /// In the order in which they arrived; names in lower case.
    pub headers: Vec<(String, Vec<u8>)>,
    pub body: Vec<u8>,
}

impl Response {
    /// Returns the value of a header that must not occur twice.
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        let mut values = self.headers.iter().filter(|(other, _)| other == name);
        let value = values.next().map(|(_, value)| value.as_slice());
        assert!(values.next().is_none(), "{name} came twice: {self:?}");
        value
    }

    /// The same as text.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.header(name).map(|value| std::str::from_utf8(value).expect("UTF-8"))
    }

    pub fn body(&self) -> &str {
        std::str::from_utf8(&self.body).expect("UTF-8")
    }
}

/// A keep-alive connection.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    /// Bytes that arrived after the last complete response.
    buffer: Vec<u8>,
}

impl Connection {
    pub async fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::new() })
    }

    pub async fn ask(&mut self, request: &Request) -> io::Result<Response> {
        self.ask_bytes(&request.bytes()).await
    }

    pub async fn ask_bytes(&mut self, bytes: &[u8]) -> io::Result<Response> {
        let exchange = async {
            // A server may answer and close before it has read the whole request.
            let sent = self.stream.write_all(bytes).await;
            match self.read_response().await {
                Ok(response) => Ok(response),
                Err(error) => Err(sent.err().unwrap_or(error)),
            }
        };
        timeout(PATIENCE, exchange).await.map_err(|_| io::ErrorKind::TimedOut)?
    }

    /// Sends the same request several times at once (RFC 9112 section 9.3.2, pipelining).
    pub async fn ask_at_once(
        &mut self,
        request: &Request,
        times: usize,
    ) -> io::Result<Vec<Response>> {
        let exchange = async {
            self.stream.write_all(&request.bytes().repeat(times)).await?;
            let mut responses = Vec::with_capacity(times);
            while responses.len() < times {
                responses.push(self.read_response().await?);
            }
            Ok(responses)
        };
        timeout(PATIENCE, exchange).await.map_err(|_| io::ErrorKind::TimedOut)?
    }

    async fn fill(&mut self) -> io::Result<()> {
        match self.stream.read_buf(&mut self.buffer).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    async fn read_response(&mut self) -> io::Result<Response> {
        const END: &[u8] = b"\r\n\r\n";
        let end = loop {
            match self.buffer.windows(END.len()).position(|window| window == END) {
                Some(end) => break end,
                None => self.fill().await?,
            }
        };
        let head = self.buffer.drain(..end + END.len()).collect::<Vec<_>>();
        let mut response = parse_head(&head[..end]).ok_or(io::ErrorKind::InvalidData)?;
        let length = response.text("content-length").and_then(|length| length.parse().ok());
        if response.text("transfer-encoding") == Some("chunked") {
            response.body = self.read_chunks().await?;
        } else if let Some(length) = length {
            response.body = self.take(length).await?;
        } else if response.status != 204 && response.status != 304 {
            while self.fill().await.is_ok() {}
            response.body = std::mem::take(&mut self.buffer);
        }
        Ok(response)
    }

    async fn take(&mut self, length: usize) -> io::Result<Vec<u8>> {
        while self.buffer.len() < length {
            self.fill().await?;
        }
        Ok(self.buffer.drain(..length).collect())
    }

    async fn read_chunks(&mut self) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let end = loop {
                match self.buffer.windows(2).position(|window| window == b"\r\n") {
                    Some(end) => break end,
                    None => self.fill().await?,
                }
            };
            let line = self.take(end + 2).await?;
            let length = std::str::from_utf8(&line[..end])
                .ok()
                .and_then(|length| usize::from_str_radix(length.trim(), 16).ok())
                .ok_or(io::ErrorKind::InvalidData)?;
            body.extend(self.take(length).await?);
            self.take(2).await?;
            if length == 0 {
                return Ok(body);
            }
        }
    }
}

fn parse_head(head: &[u8]) -> Option<Response> {
    let mut lines = head.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    let status = lines.next()?.split(|byte| *byte == b' ').nth(1)?;
    let headers = lines.map(|line| {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let name = String::from_utf8(line[..colon].to_ascii_lowercase()).ok()?;
        Some((name, line[colon + 1..].trim_ascii().to_vec()))
    });
    Some(Response {
        status: std::str::from_utf8(status).ok()?.parse().ok()?,
        headers: headers.collect::<Option<_>>()?,
        body: Vec::new(),
    })
}

/// Sends a request over a connection of its own.
pub async fn ask(address: SocketAddr, request: &Request) -> Response {
    let mut connection = Connection::open(address).await.expect("the gate listens");
    connection.ask(request).await.unwrap_or_else(|error| panic!("{error} for {request:?}"))
}

/// Polls until the condition holds; fails at the deadline.
pub async fn poll<F: AsyncFnMut() -> bool>(what: &str, deadline: Duration, mut holds: F) {
    let start = Instant::now();
    while !holds().await {
        assert!(start.elapsed() < deadline, "not within {deadline:?}: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
