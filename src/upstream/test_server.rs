//! An upstream for tests: records the requests it receives and sends prepared replies.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

const TIMEOUT: Duration = Duration::from_secs(20);

/// How the server replies to a request.
#[derive(Debug, Clone)]
pub enum Reply {
    Answer {
        status: u16,
        headers: Vec<(String, Vec<u8>)>,
        body: Vec<u8>,
    },
    /// Never answers.
    Hang,
    /// Closes the connection in the middle of a reply with status 200.
    BrokenOff,
    /// Replies with bytes that are not HTTP.
    NoHttp,
}

impl Reply {
    pub fn status(status: u16) -> Self {
        Self::Answer { status, headers: Vec::new(), body: b"null".to_vec() }
    }

    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        if let Self::Answer { headers, .. } = &mut self {
            headers.push((name.to_owned(), value.as_ref().to_vec()));
        }
        self
    }

    pub fn body(mut self, bytes: &[u8]) -> Self {
        if let Self::Answer { body, .. } = &mut self {
            *body = bytes.to_vec();
        }
        self
    }

    /// Returns the bytes that are sent; `None` if nothing is.
    fn bytes(&self) -> Option<Vec<u8>> {
        match self {
            Self::Answer { status, headers, body } => {
                let mut bytes = format!("HTTP/1.1 {status} Reply\r\n").into_bytes();
                for (name, value) in headers {
                    bytes.extend([name.as_bytes(), b": ", value, b"\r\n"].concat());
                }
                bytes.extend(format!("content-length: {}\r\n\r\n", body.len()).as_bytes());
                bytes.extend(body);
                Some(bytes)
            }
            Self::Hang => None,
            Self::BrokenOff => Some(b"HTTP/1.1 200 Reply\r\ncontent-length: 4\r\n\r\nnul".to_vec()),
            Self::NoHttp => Some(b"SSH-2.0-none\r\n\r\n".to_vec()),
        }
    }
}

type ReplyFn = Arc<dyn Fn(&str) -> Reply + Send + Sync>;

pub struct TestServer {
    pub address: SocketAddr,
    reply_fn: Arc<Mutex<ReplyFn>>,
    requests: Arc<Mutex<Vec<String>>>,
    acceptor: JoinHandle<()>,
}

impl TestServer {
    /// Starts a server that replies 200 `null` until another reply is set.
    pub async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let reply_fn: ReplyFn = Arc::new(|_| Reply::status(200));
        let reply_fn = Arc::new(Mutex::new(reply_fn));
        let requests = Arc::new(Mutex::new(Vec::new()));
        let acceptor = tokio::spawn({
            let (reply_fn, requests) = (Arc::clone(&reply_fn), Arc::clone(&requests));
            async move {
                let mut connections = JoinSet::new();
                while let Ok((stream, _)) = listener.accept().await {
                    connections.spawn(serve(stream, Arc::clone(&reply_fn), Arc::clone(&requests)));
                }
            }
        });
        Self { address, reply_fn, requests, acceptor }
    }

    pub fn url(&self) -> http::Uri {
        format!("http://{}", self.address).parse().expect("a URL")
    }

    pub fn reply_with(&self, reply: Reply) {
        self.reply_by(move |_| reply.clone());
    }

    /// Computes each reply from the head of the request.
    pub fn reply_by(&self, reply_fn: impl Fn(&str) -> Reply + Send + Sync + 'static) {
        *self.reply_fn.lock().expect("no panic") = Arc::new(reply_fn);
    }

    /// Returns when the server has stopped and connections are refused.
    pub async fn stop(mut self) {
        self.acceptor.abort();
        (&mut self.acceptor).await.ok();
    }

    /// Returns the heads of all requests so far, in the order of their arrival.
    pub fn requests(&self) -> Vec<String> {
        self.requests.lock().expect("no panic").clone()
    }

    /// Waits for this many requests, without advancing a paused clock.
    pub async fn wait_for_requests(&self, times: usize) {
        let start = Instant::now();
        while self.requests().len() < times {
            assert!(start.elapsed() < TIMEOUT, "not {times} requests: {:?}", self.requests());
            tokio::task::yield_now().await;
        }
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.acceptor.abort();
    }
}

async fn serve(
    mut stream: TcpStream,
    reply_fn: Arc<Mutex<ReplyFn>>,
    requests: Arc<Mutex<Vec<String>>>,
) {
    let mut buffer = Vec::new();
    while stream.read_buf(&mut buffer).await.is_ok_and(|read| read > 0) {
        let end = buffer.windows(4).position(|window| window == b"\r\n\r\n");
        let Some(end) = end else { continue };
        let head = String::from_utf8_lossy(&buffer[..end + 4]).into_owned();
        buffer.drain(..end + 4);
        requests.lock().expect("no panic").push(head.clone());
        let reply_fn = Arc::clone(&reply_fn.lock().expect("no panic"));
        let reply = reply_fn(&head);
        let Some(bytes) = reply.bytes() else { continue };
        if stream.write_all(&bytes).await.is_err() || !matches!(reply, Reply::Answer { .. }) {
            return;
        }
    }
}
