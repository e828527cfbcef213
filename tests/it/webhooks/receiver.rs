//! A receiver of messages that notes what it gets and answers as it is told.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// One message.
#[derive(Debug, Clone)]
pub struct Received {
    /// `POST /path HTTP/1.1`
    pub line: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Received {
    pub fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(other, _)| other == name);
        found.map_or("", |(_, value)| value)
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }
}

/// How a message is answered.
#[derive(Debug, Clone)]
pub enum Reply {
    Bytes(String),
    /// Nothing is answered, and the connection stays.
    Hang,
}

impl Reply {
    pub fn status(status: u16) -> Self {
        Self::with(status, "", "")
    }

    /// `headers` are whole lines.
    pub fn with(status: u16, headers: &str, body: &str) -> Self {
        let length = body.len();
        Self::Bytes(format!(
            "HTTP/1.1 {status} Said\r\n{headers}content-length: {length}\r\n\r\n{body}"
        ))
    }
}

#[derive(Debug, Default)]
struct State {
    received: Mutex<Vec<Received>>,
    /// The next answers; the last one is repeated.
    replies: Mutex<VecDeque<Reply>>,
}

/// It ends when it is dropped.
#[derive(Debug)]
pub struct Receiver {
    pub address: SocketAddr,
    state: Arc<State>,
    task: JoinHandle<()>,
}

impl Receiver {
    /// Answers 204 until it is told otherwise.
    pub async fn start() -> Self {
        Self::on("127.0.0.1:0".parse().expect("an address")).await
    }

    pub async fn on(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream, Arc::clone(&shared)));
            }
        });
        Self { address, state, task }
    }

    pub fn reply(&self, replies: impl IntoIterator<Item = Reply>) {
        *self.state.replies.lock().expect("no panic") = replies.into_iter().collect();
    }

    pub fn received(&self) -> Vec<Received> {
        self.state.received.lock().expect("no panic").clone()
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Ends it, and frees its port.
    pub async fn stop(self) -> Vec<Received> {
        self.task.abort();
        while !self.task.is_finished() {
            tokio::task::yield_now().await;
        }
        self.received()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(mut stream: TcpStream, state: Arc<State>) {
    let Some(received) = read(&mut stream).await else { return };
    state.received.lock().expect("no panic").push(received);
    let reply = {
        let mut replies = state.replies.lock().expect("no panic");
        let next = if replies.len() > 1 { replies.pop_front() } else { replies.front().cloned() };
        next.unwrap_or(Reply::Bytes("HTTP/1.1 204 No Content\r\n\r\n".to_owned()))
    };
    match reply {
        Reply::Bytes(bytes) => {
            stream.write_all(bytes.as_bytes()).await.ok();
            stream.shutdown().await.ok();
        }
        Reply::Hang => std::future::pending().await,
    }
}

async fn read(stream: &mut TcpStream) -> Option<Received> {
    let (mut bytes, mut chunk) = (Vec::new(), [0; 4096]);
    let head = loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break end;
        }
        match stream.read(&mut chunk).await {
            Ok(read @ 1..) => bytes.extend_from_slice(&chunk[..read]),
            _ => return None,
        }
    };
    let text = String::from_utf8(bytes[..head].to_vec()).expect("ASCII");
    let (line, rest) = text.split_once("\r\n").expect("headers");
    let header = |line: &str| {
        let (name, value) = line.split_once(':').expect("a header");
        (name.to_lowercase(), value.trim().to_owned())
    };
    let headers: Vec<_> = rest.split("\r\n").map(header).collect();
    let length = headers.iter().find(|(name, _)| name == "content-length");
    let length: usize = length.map_or(0, |(_, value)| value.parse().expect("a number"));
    let mut body = bytes[head + 4..].to_vec();
    while body.len() < length {
        match stream.read(&mut chunk).await {
            Ok(read @ 1..) => body.extend_from_slice(&chunk[..read]),
            _ => return None,
        }
    }
    Some(Received { line: line.to_owned(), headers, body })
}
