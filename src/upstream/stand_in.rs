//! An upstream for tests: writes down what it is asked and answers as told.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

const PATIENCE: Duration = Duration::from_secs(20);

/// What it does when asked.
#[derive(Debug, Clone)]
pub enum Told {
    Answer {
        status: u16,
        headers: Vec<(String, Vec<u8>)>,
        body: Vec<u8>,
    },
    /// Never answers.
    Hang,
    /// Closes the connection in the middle of an answer with status 200.
    BrokenOff,
    /// Answers in no protocol at all.
    NoHttp,
}

impl Told {
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

    /// The bytes it sends; `None` where it keeps still.
    fn bytes(&self) -> Option<Vec<u8>> {
        match self {
            Self::Answer { status, headers, body } => {
                let mut bytes = format!("HTTP/1.1 {status} Told\r\n").into_bytes();
                for (name, value) in headers {
                    bytes.extend([name.as_bytes(), b": ", value, b"\r\n"].concat());
                }
                bytes.extend(format!("content-length: {}\r\n\r\n", body.len()).as_bytes());
                bytes.extend(body);
                Some(bytes)
            }
            Self::Hang => None,
            Self::BrokenOff => Some(b"HTTP/1.1 200 Told\r\ncontent-length: 4\r\n\r\nnul".to_vec()),
            Self::NoHttp => Some(b"SSH-2.0-none\r\n\r\n".to_vec()),
        }
    }
}

type Answering = Arc<dyn Fn(&str) -> Told + Send + Sync>;

pub struct StandIn {
    pub address: SocketAddr,
    answering: Arc<Mutex<Answering>>,
    asked: Arc<Mutex<Vec<String>>>,
    acceptor: JoinHandle<()>,
}

impl StandIn {
    /// Answers 200 `null` until told otherwise.
    pub async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let answering: Answering = Arc::new(|_| Told::status(200));
        let answering = Arc::new(Mutex::new(answering));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let acceptor = tokio::spawn({
            let (answering, asked) = (Arc::clone(&answering), Arc::clone(&asked));
            async move {
                let mut connections = JoinSet::new();
                while let Ok((stream, _)) = listener.accept().await {
                    connections.spawn(serve(stream, Arc::clone(&answering), Arc::clone(&asked)));
                }
            }
        });
        Self { address, answering, asked, acceptor }
    }

    pub fn url(&self) -> http::Uri {
        format!("http://{}", self.address).parse().expect("a URL")
    }

    pub fn tell(&self, told: Told) {
        self.tell_by(move |_| told.clone());
    }

    /// Answers by the head of the question.
    pub fn tell_by(&self, answering: impl Fn(&str) -> Told + Send + Sync + 'static) {
        *self.answering.lock().expect("no panic") = Arc::new(answering);
    }

    /// Returns when it is gone and connections are refused.
    pub async fn stop(mut self) {
        self.acceptor.abort();
        (&mut self.acceptor).await.ok();
    }

    /// The heads of all questions so far, as they came.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().expect("no panic").clone()
    }

    /// Waits for so many questions, without letting a paused clock go on.
    pub async fn was_asked(&self, times: usize) {
        let start = Instant::now();
        while self.asked().len() < times {
            assert!(start.elapsed() < PATIENCE, "not {times} questions: {:?}", self.asked());
            tokio::task::yield_now().await;
        }
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.acceptor.abort();
    }
}

async fn serve(
    mut stream: TcpStream,
    answering: Arc<Mutex<Answering>>,
    asked: Arc<Mutex<Vec<String>>>,
) {
    let mut buffer = Vec::new();
    while stream.read_buf(&mut buffer).await.is_ok_and(|read| read > 0) {
        let end = buffer.windows(4).position(|window| window == b"\r\n\r\n");
        let Some(end) = end else { continue };
        let head = String::from_utf8_lossy(&buffer[..end + 4]).into_owned();
        buffer.drain(..end + 4);
        asked.lock().expect("no panic").push(head.clone());
        let answering = Arc::clone(&answering.lock().expect("no panic"));
        let told = answering(&head);
        let Some(bytes) = told.bytes() else { continue };
        if stream.write_all(&bytes).await.is_err() || !matches!(told, Told::Answer { .. }) {
            return;
        }
    }
}
