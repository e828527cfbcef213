//! The listener itself, on real sockets, with a handler the tests control.

use std::net::SocketAddr;
use std::time::Instant;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::*;
use crate::config::ListenAddr;

const PATIENCE: Duration = Duration::from_secs(10);

/// Limits that a test can wait for.
const SHORT: Limits = Limits {
    head: Duration::from_millis(200),
    idle: Duration::from_secs(60),
    handshake: Duration::from_secs(1),
};

const LONG: Limits = Limits {
    head: Duration::from_secs(60),
    idle: Duration::from_secs(60),
    handshake: Duration::from_secs(60),
};

/// Answers, panics, or waits until it is let go.
#[derive(Debug, Default)]
pub(crate) struct Puppet {
    waiting: Notify,
    go: Notify,
}

impl Puppet {
    pub(crate) fn let_go(&self) {
        self.go.notify_one();
    }
}

impl Handler for Puppet {
    async fn handle(&self, head: Parts) -> Response {
        match head.uri.path() {
            "/panic" => panic!("asked to"),
            "/wait" => {
                self.waiting.notify_one();
                self.go.notified().await;
            }
            _ => {}
        }
        answer::fixed(StatusCode::OK, "null")
    }
}

struct Running {
    addr: SocketAddr,
    puppet: Arc<Puppet>,
    accepting: JoinHandle<Infallible>,
    drain: Drain,
}

impl Running {
    fn new(limits: Limits) -> Self {
        Self::with(limits, "127.0.0.1:0", |server| server)
    }

    fn with(
        limits: Limits,
        addr: &str,
        adapt: impl FnOnce(Server<Puppet>) -> Server<Puppet>,
    ) -> Self {
        let listener = Listener::bind(&addr.parse().expect("an address")).expect("binds");
        let ListenAddr::Tcp(addr) = *listener.addr() else { panic!("not TCP") };
        let puppet = Arc::new(Puppet::default());
        let server = adapt(Server::new("test", Arc::clone(&puppet), limits));
        let (accept, drain) = server.start(listener).expect("starts");
        Self { addr, puppet, accepting: tokio::spawn(accept), drain }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.addr).await.expect("connects")
    }
}

/// A server with one request that runs until it is let go.
pub(crate) struct Busy {
    pub(crate) puppet: Arc<Puppet>,
    pub(crate) drain: Drain,
    _client: TcpStream,
}

pub(crate) async fn busy() -> Busy {
    let server = Running::new(LONG);
    let mut client = server.connect().await;
    client.write_all(b"GET /wait HTTP/1.1\r\nhost: gate\r\n\r\n").await.expect("sends");
    server.puppet.waiting.notified().await;
    server.accepting.abort();
    Busy { puppet: server.puppet, drain: server.drain, _client: client }
}

const GET: &[u8] = b"GET /x HTTP/1.1\r\nhost: gate\r\n\r\n";

/// One answer, whole, as text.
async fn answer_on(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let reading = async {
        loop {
            let text = String::from_utf8_lossy(&answer).into_owned();
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
                let length = length.map_or(0, |length| length.parse().expect("a number"));
                if body.len() >= length {
                    return text;
                }
            }
            let read = stream.read_buf(&mut answer).await.expect("no reset");
            assert_ne!(read, 0, "closed in the midst of {text:?}");
        }
    };
    tokio::time::timeout(PATIENCE, reading).await.expect("an answer in time")
}

async fn ask(stream: &mut TcpStream, request: &[u8]) -> String {
    stream.write_all(request).await.expect("sends");
    answer_on(stream).await
}

/// Waits until the server closes the connection.
async fn closes(stream: &mut TcpStream) {
    let mut rest = Vec::new();
    // A reset is as good an end.
    let end = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await;
    assert!(end.is_ok(), "still open");
    assert!(rest.is_empty(), "{}", String::from_utf8_lossy(&rest));
}

/// Whether the connection stays open and silent for that long.
async fn stays_open(stream: &mut TcpStream, time: Duration) -> bool {
    tokio::time::timeout(time, stream.read_u8()).await.is_err()
}

#[tokio::test]
async fn keep_alive_outlives_the_head_limit() {
    let server = Running::new(SHORT);
    let mut stream = server.connect().await;
    for _ in 0..2 {
        let answer = ask(&mut stream, GET).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(answer.ends_with("\r\n\r\nnull"), "{answer}");
        assert!(stays_open(&mut stream, SHORT.head * 4).await);
    }
}

#[tokio::test]
async fn a_head_that_comes_too_slowly_is_cut_off() {
    let server = Running::new(SHORT);
    let mut stream = server.connect().await;
    ask(&mut stream, GET).await;
    let began = Instant::now();
    // A byte now and then must not put it off.
    let (mut reader, mut writer) = stream.into_split();
    let dripping = tokio::spawn(async move {
        for byte in b"GET /x HTTP/1.1\r\nx: ".iter().chain(std::iter::repeat(&b'x')) {
            if writer.write_all(&[*byte]).await.is_err() {
                return;
            }
            sleep(SHORT.head / 10).await;
        }
    });
    let end = tokio::time::timeout(PATIENCE, reader.read_u8()).await.expect("cut in time");
    assert!(end.is_err());
    assert!(began.elapsed() >= SHORT.head, "after {:?}", began.elapsed());
    dripping.abort();
}

#[tokio::test]
async fn an_idle_connection_is_closed_in_the_end() {
    let limits = Limits { idle: Duration::from_millis(400), ..SHORT };
    let server = Running::new(limits);
    let (mut silent, mut used) = (server.connect().await, server.connect().await);
    let began = Instant::now();
    ask(&mut used, GET).await;
    closes(&mut silent).await;
    closes(&mut used).await;
    assert!(began.elapsed() >= limits.idle, "after {:?}", began.elapsed());
}

#[tokio::test]
async fn a_running_request_is_not_idle() {
    let server = Running::new(Limits { idle: Duration::from_millis(200), ..SHORT });
    let mut stream = server.connect().await;
    stream.write_all(b"GET /wait HTTP/1.1\r\nhost: gate\r\n\r\n").await.expect("sends");
    server.puppet.waiting.notified().await;
    assert!(stays_open(&mut stream, Duration::from_millis(800)).await);
    server.puppet.let_go();
    assert!(answer_on(&mut stream).await.starts_with("HTTP/1.1 200"));
}

fn with_cookie(length: usize) -> Vec<u8> {
    format!("GET /x HTTP/1.1\r\nhost: gate\r\ncookie: {}\r\n\r\n", "c".repeat(length)).into_bytes()
}

#[tokio::test]
async fn large_cookies_are_accepted_and_larger_ones_get_their_answer() {
    let server = Running::new(LONG);
    let mut stream = server.connect().await;
    for _ in 0..2 {
        let answer = ask(&mut stream, &with_cookie(64 * 1024)).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    // Many times: an answer lost to a reset is lost by chance.
    for length in [100 * 1024, 500 * 1024] {
        for _ in 0..20 {
            let mut stream = server.connect().await;
            stream.write_all(&with_cookie(length)).await.expect("is read, if only to be dropped");
            let answer = answer_on(&mut stream).await;
            assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
            stream.shutdown().await.ok();
            closes(&mut stream).await;
        }
    }
}

#[tokio::test]
async fn a_body_is_never_read_and_never_taken_for_a_request() {
    let server = Running::new(LONG);
    let mut stream = server.connect().await;
    let hidden = String::from_utf8_lossy(GET);
    let request = format!(
        "GET /x HTTP/1.1\r\nhost: gate\r\ncontent-length: {}\r\n\r\n{hidden}",
        hidden.len() + 1_000_000,
    );
    let answer = ask(&mut stream, request.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "answered before the body is there: {answer}");
    assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
    stream.shutdown().await.expect("our end");
    closes(&mut stream).await;

    let mut stream = server.connect().await;
    let small = "POST /x HTTP/1.1\r\nhost: gate\r\ncontent-length: 5\r\n\r\nhello";
    let answer = ask(&mut stream, small.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    stream.shutdown().await.expect("our end");
    closes(&mut stream).await;
}

#[tokio::test]
async fn a_panic_is_500_for_its_request_alone() {
    let server = Running::new(LONG);
    let mut stream = server.connect().await;
    let answer = ask(&mut stream, b"GET /panic HTTP/1.1\r\nhost: gate\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 500"), "{answer}");
    assert!(answer.ends_with(r#"{"detail":"Internal Server Error"}"#), "{answer}");
    assert!(ask(&mut stream, GET).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn peers_outside_the_trusted_networks_are_refused_whatever_they_ask() {
    let trusted = vec!["127.0.0.1/32".parse().expect("a network")];
    let server = Running::with(LONG, "127.0.0.1:0", |server| server.trusting(trusted));
    assert!(ask(&mut server.connect().await, GET).await.starts_with("HTTP/1.1 200"));
    for path in ["/internal/auth", "/livez", "/panic", "*"] {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind("127.0.0.2:0".parse().expect("an address")).expect("another source");
        let mut stream = socket.connect(server.addr).await.expect("connects");
        let request = format!("OPTIONS {path} HTTP/1.1\r\nhost: gate\r\n\r\n");
        let answer = ask(&mut stream, request.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 403"), "{path}: {answer}");
        assert!(answer.contains("\r\nconnection: close\r\n"), "{path}: {answer}");
        assert!(answer.ends_with(r#"{"detail":"Forbidden"}"#), "{path}: {answer}");
        closes(&mut stream).await;
    }
}

#[tokio::test]
async fn an_ipv4_peer_of_an_ipv6_socket_is_known_by_its_ipv4_address() {
    let trusted = vec!["127.0.0.0/8".parse().expect("a network")];
    let server = Running::with(LONG, "[::]:0", |server| server.trusting(trusted));
    let port = server.addr.port();
    for (addr, status) in [(format!("127.0.0.1:{port}"), "200"), (format!("[::1]:{port}"), "403")] {
        let mut stream = TcpStream::connect(&addr).await.expect("connects");
        let answer = ask(&mut stream, GET).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{addr}: {answer}");
    }
}

#[tokio::test]
async fn a_drain_lets_running_requests_finish_and_closes_the_rest() {
    let mut server = Running::new(LONG);
    let (mut idle, mut busy) = (server.connect().await, server.connect().await);
    ask(&mut idle, GET).await;
    busy.write_all(b"GET /wait HTTP/1.1\r\nhost: gate\r\n\r\n").await.expect("sends");
    server.puppet.waiting.notified().await;

    server.accepting.abort();
    let puppet = Arc::clone(&server.puppet);
    let addr = server.addr;
    let draining = tokio::spawn(async move { server.drain.drain().await });
    closes(&mut idle).await;
    assert!(TcpStream::connect(addr).await.is_err(), "nobody accepts any more");
    assert!(!draining.is_finished(), "a request is still running");
    puppet.let_go();
    let answer = answer_on(&mut busy).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    closes(&mut busy).await;
    tokio::time::timeout(PATIENCE, draining).await.expect("in time").expect("no panic");
}

#[tokio::test]
async fn an_abort_waits_for_nobody() {
    let mut server = Running::new(LONG);
    let mut busy = server.connect().await;
    busy.write_all(b"GET /wait HTTP/1.1\r\nhost: gate\r\n\r\n").await.expect("sends");
    server.puppet.waiting.notified().await;
    server.accepting.abort();
    tokio::time::timeout(PATIENCE, server.drain.abort()).await.expect("in time");
    closes(&mut busy).await;
}

type Http2 = http2::SendRequest<Empty<Bytes>>;

async fn http2(addr: SocketAddr) -> (Http2, JoinHandle<()>) {
    let io = TokioIo::new(TcpStream::connect(addr).await.expect("connects"));
    let handshake = http2::handshake(TokioExecutor::new(), io).await;
    let (sender, connection) = handshake.expect("prior knowledge is enough");
    (sender, tokio::spawn(async move { connection.await.unwrap_or_default() }))
}

async fn ask_http2(sender: &mut Http2, path: &str, cookie: usize) -> (u16, Bytes) {
    let request = Request::get(format!("http://gate{path}"))
        .header("cookie", "c".repeat(cookie))
        .body(Empty::new())
        .expect("a request");
    let asking = async {
        let answer = sender.send_request(request).await.expect("an answer");
        let status = answer.status().as_u16();
        (status, answer.into_body().collect().await.expect("a body").to_bytes())
    };
    tokio::time::timeout(PATIENCE, asking).await.expect("in time")
}

#[tokio::test]
async fn pings_alone_do_not_keep_a_connection() {
    let server = Running::new(Limits { idle: Duration::from_millis(400), ..SHORT });
    let io = TokioIo::new(server.connect().await);
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(hyper_util::rt::TokioTimer::new())
        .keep_alive_interval(Duration::from_millis(50))
        .keep_alive_while_idle(true);
    let (mut sender, connection) = builder.handshake(io).await.expect("HTTP/2");
    let connection = tokio::spawn(connection);
    assert_eq!(ask_http2(&mut sender, "/x", 10).await.0, 200);
    let ended = timeout(Duration::from_secs(10), connection).await;
    assert!(ended.is_ok(), "still open");
}

#[tokio::test]
async fn http2_works_without_tls_and_within_the_same_bounds() {
    let server = Running::new(SHORT);
    let (mut sender, connection) = http2(server.addr).await;
    assert_eq!(ask_http2(&mut sender, "/x", 10).await, (200, "null".into()));
    assert_eq!(ask_http2(&mut sender, "/x", 64 * 1024).await.0, 200);
    assert_eq!(ask_http2(&mut sender, "/x", 100 * 1024).await.0, 431);
    assert_eq!(ask_http2(&mut sender, "/panic", 10).await.0, 500);

    // Bytes that come between requests are no slow head.
    let end = tokio::time::timeout(SHORT.head * 4, connection).await;
    assert!(end.is_err(), "the connection was closed");
    assert_eq!(ask_http2(&mut sender, "/x", 10).await.0, 200);
}

#[tokio::test]
async fn an_http2_connection_without_a_request_yet_is_not_a_slow_head() {
    let server = Running::new(SHORT);
    let (mut sender, connection) = http2(server.addr).await;
    let end = tokio::time::timeout(SHORT.head * 4, connection).await;
    assert!(end.is_err(), "the connection was closed");
    assert_eq!(ask_http2(&mut sender, "/x", 10).await.0, 200);
}
