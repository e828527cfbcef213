//! Tests of the listener on real sockets, with a handler that the tests control.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
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
use crate::http::body::ReadError;
use crate::http::{Body, Response, answer, body};

mod bodies;
mod over_http2;

const PATIENCE: Duration = Duration::from_secs(60);

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

const ROOMY: Bounds = Bounds { total: 1000, per_address: 1000 };

/// A handler that answers, panics, or waits until it is released.
#[derive(Debug, Default)]
pub(crate) struct TestHandler {
    waiting: Notify,
    go: Notify,
    /// How many bodies were read in full.
    bodies_read: AtomicUsize,
}

impl TestHandler {
    pub(crate) fn release(&self) {
        self.go.notify_one();
    }
}

impl Handler for TestHandler {
    async fn handle(&self, request: Request<Body>) -> Response {
        let (head, sent) = request.into_parts();
        match head.uri.path() {
            "/read" => {
                self.waiting.notify_one();
                let read = body::read(sent, bodies::LIMIT, bodies::DEADLINE).await;
                self.bodies_read.fetch_add(usize::from(read.is_ok()), Ordering::Relaxed);
                return match read {
                    Ok(whole) => answer::json(StatusCode::OK, Bytes::copy_from_slice(&whole)),
                    Err(error) => not_read(error),
                };
            }
            "/panic" => panic!("asked to"),
            "/nothing" => return answer::not_found(),
            "/wait" => {
                self.waiting.notify_one();
                self.go.notified().await;
            }
            _ => {}
        }
        answer::fixed(StatusCode::OK, "null")
    }
}

fn not_read(error: ReadError) -> Response {
    let status = match error {
        ReadError::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        ReadError::TooSlow => StatusCode::REQUEST_TIMEOUT,
        ReadError::CutOff => StatusCode::BAD_REQUEST,
        ReadError::Busy => StatusCode::SERVICE_UNAVAILABLE,
    };
    answer::fixed(status, "null")
}

struct Running {
    addr: SocketAddr,
    handler: Arc<TestHandler>,
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
        adapt: impl FnOnce(Server<TestHandler>) -> Server<TestHandler>,
    ) -> Self {
        let listener = Listener::bind(&addr.parse().expect("an address")).expect("binds");
        let ListenAddr::Tcp(addr) = *listener.addr() else { panic!("not TCP") };
        let handler = Arc::new(TestHandler::default());
        let server =
            adapt(Server::new("test", Arc::clone(&handler), limits, ROOMY).with_threads(2));
        let (accept, drain) = server.start(listener).expect("starts");
        Self { addr, handler, accepting: tokio::spawn(accept), drain }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.addr).await.expect("connects")
    }
}

/// A server with one request that runs until it is released.
pub(crate) struct Busy {
    pub(crate) handler: Arc<TestHandler>,
    pub(crate) drain: Drain,
    _client: TcpStream,
}

pub(crate) async fn busy() -> Busy {
    let server = Running::new(LONG);
    let mut client = server.connect().await;
    client.write_all(b"GET /wait HTTP/1.1\r\nhost: gate\r\n\r\n").await.expect("sends");
    server.handler.waiting.notified().await;
    server.accepting.abort();
    Busy { handler: server.handler, drain: server.drain, _client: client }
}

const GET: &[u8] = b"GET /x HTTP/1.1\r\nhost: gate\r\n\r\n";

/// Reads one complete response as text.
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
            assert_ne!(read, 0, "closed in the middle of {text:?}");
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
    // A reset closes the connection, too.
    let end = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await;
    assert!(end.is_ok(), "still open");
    assert!(rest.is_empty(), "{}", String::from_utf8_lossy(&rest));
}

/// Whether the connection stays open and silent for this time.
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
    // Single bytes must not extend the limit.
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
    server.handler.waiting.notified().await;
    assert!(stays_open(&mut stream, Duration::from_millis(800)).await);
    server.handler.release();
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
    // Repeated, since a reset loses the response only sometimes.
    for length in [100 * 1024, 500 * 1024] {
        for _ in 0..20 {
            let mut stream = server.connect().await;
            stream.write_all(&with_cookie(length)).await.expect("the bytes are read and dropped");
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

/// A connection from another address of this machine.
async fn connect_from(source: &str, server: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(format!("{source}:0").parse().expect("an address")).expect("another source");
    socket.connect(server).await
}

/// Waits until a refused connection is closed: its reset may arrive before `connect`
/// returns.
async fn is_refused(connected: io::Result<TcpStream>, says: &[u8]) {
    match connected {
        Ok(mut stream) => {
            // It may be closed already.
            stream.write_all(says).await.ok();
            closes(&mut stream).await;
        }
        Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset),
    }
}

#[tokio::test]
async fn peers_outside_the_trusted_networks_are_closed_before_they_say_a_word() {
    let trusted = vec!["127.0.0.1/32".parse().expect("a network")];
    let server = Running::with(LONG, "127.0.0.1:0", |server| server.with_trusted(trusted));
    is_refused(connect_from("127.0.0.2", server.addr).await, b"").await;
    is_refused(connect_from("127.0.0.2", server.addr).await, GET).await;
    assert!(ask(&mut server.connect().await, GET).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn an_ipv4_peer_of_an_ipv6_socket_is_known_by_its_ipv4_address() {
    let trusted = vec!["127.0.0.0/8".parse().expect("a network")];
    let server = Running::with(LONG, "[::]:0", |server| server.with_trusted(trusted));
    let port = server.addr.port();
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.expect("connects");
    assert!(ask(&mut stream, GET).await.starts_with("HTTP/1.1 200"));
    is_refused(TcpStream::connect(("::1", port)).await, b"").await;
}

#[tokio::test]
async fn one_address_cannot_take_the_places_of_another() {
    let bounds = Bounds { total: 8, per_address: 6 };
    let server = Running::with(LONG, "127.0.0.1:0", |server| Server { bounds, ..server });
    let mut kept = Vec::new();
    for _ in 0..6 {
        let mut stream = server.connect().await;
        ask(&mut stream, GET).await;
        kept.push(stream);
    }
    is_refused(TcpStream::connect(server.addr).await, b"").await;
    for _ in 0..2 {
        let mut stream = connect_from("127.0.0.2", server.addr).await.expect("has its share");
        assert!(ask(&mut stream, GET).await.starts_with("HTTP/1.1 200"));
        kept.push(stream);
    }
    is_refused(connect_from("127.0.0.3", server.addr).await, b"").await;
    assert!(ask(&mut kept[0], GET).await.starts_with("HTTP/1.1 200"));

    kept.clear();
    let again = async {
        loop {
            let Ok(mut stream) = TcpStream::connect(server.addr).await else { continue };
            stream.write_all(GET).await.ok();
            if stream.read_u8().await.is_ok() {
                return;
            }
        }
    };
    timeout(PATIENCE, again).await.expect("places come back");
}

#[tokio::test]
async fn idle_connections_make_room_when_half_of_all_are_open() {
    let bounds = Bounds { total: 8, per_address: 8 };
    let server = Running::with(SHORT, "127.0.0.1:0", |server| Server { bounds, ..server });
    let mut few: Vec<_> = futures_util::future::join_all((0..4).map(|_| server.connect())).await;
    for stream in &mut few {
        ask(stream, GET).await;
    }
    assert!(stays_open(&mut few[0], SHORT.head * 4).await, "there is room");
    let mut more: Vec<_> = futures_util::future::join_all((0..3).map(|_| server.connect())).await;
    // Connections without any request are closed, too.
    let mut closed = 0;
    for stream in few.iter_mut().chain(&mut more) {
        closed += usize::from(!stays_open(stream, SHORT.head * 4).await);
    }
    assert!(closed >= 3, "{closed} of 7");
}

const TWO_HOSTS: &str = "GET /x HTTP/1.1\r\nhost: gate\r\nhost: gate\r\n\r\n";

#[tokio::test]
async fn a_request_names_one_host() {
    let server = Running::new(LONG);
    for refused in [
        TWO_HOSTS,
        "GET /x HTTP/1.1\r\nHost: gate\r\nx: y\r\nhOST: other\r\n\r\n",
        "GET /x HTTP/1.1\r\n\r\n",
        "GET http://gate/x HTTP/1.1\r\n\r\n",
        "GET /x HTTP/1.1\r\nhost: a b\r\n\r\n",
        "GET /x HTTP/1.1\r\nhost: user@gate\r\n\r\n",
        "GET /x HTTP/1.1\r\nhost: gate/path\r\n\r\n",
        "GET /x HTTP/1.1\r\nhost: g\u{e4}te\r\n\r\n",
        "GET /x HTTP/1.0\r\nhost: gate\r\nhost: gate\r\n\r\n",
    ] {
        let mut stream = server.connect().await;
        let answer = ask(&mut stream, refused.as_bytes()).await;
        assert!(
            answer.starts_with("HTTP/1.1 400") || answer.starts_with("HTTP/1.0 400"),
            "{answer}"
        );
        closes(&mut stream).await;
    }
    for answered in [
        "GET /x HTTP/1.1\r\nhost:\r\n\r\n",
        "GET /x HTTP/1.1\r\nhost: [::1]:8400\r\n\r\n",
        "GET /x HTTP/1.1\r\nhost: shard_core:80\r\n\r\n",
        "GET /x HTTP/1.0\r\n\r\n",
    ] {
        let answer = ask(&mut server.connect().await, answered.as_bytes()).await;
        assert!(answer.contains(" 200 OK\r\n"), "{answered}: {answer}");
    }
}

#[tokio::test]
async fn half_closed_clients_get_all_their_answers() {
    let server = Running::new(LONG);
    for requests in [1, 20] {
        let mut stream = server.connect().await;
        stream.write_all(b"GET /wait HTTP/1.1\r\nhost: gate\r\n\r\n").await.expect("sends");
        stream.write_all(&GET.repeat(requests)).await.expect("sends");
        stream.shutdown().await.expect("our end");
        server.handler.waiting.notified().await;
        server.handler.release();
        let mut answers = String::new();
        let reading = stream.read_to_string(&mut answers);
        timeout(PATIENCE, reading).await.expect("in time").expect("no reset");
        assert_eq!(answers.matches("HTTP/1.1 200 OK\r\n").count(), requests + 1, "{answers}");
    }
}

#[tokio::test]
async fn a_drain_waits_for_no_head_and_no_silent_client() {
    let mut server = Running::new(LONG);
    let mut answered = server.connect().await;
    ask(&mut answered, GET).await;
    answered.write_all(b"GET /x HT").await.expect("sends");
    let (silent, mut begun) = (server.connect().await, server.connect().await);
    begun.write_all(b"PRI").await.expect("sends");
    let (_http2, connection) = http2(server.addr).await;
    let (mut sender, answering) = http2(server.addr).await;
    assert_eq!(ask_http2(&mut sender, "/x", 10).await.0, 200);
    server.accepting.abort();
    timeout(PATIENCE, server.drain.drain()).await.expect("long before any limit");
    drop((silent, connection, answering));
}

#[tokio::test]
async fn a_drain_waits_for_an_answer_that_is_being_taken() {
    let mut server = Running::new(LONG);
    let mut busy = server.connect().await;
    busy.write_all(b"GET /wait HTTP/1.1\r\nhost: gate\r\n\r\n").await.expect("sends");
    server.handler.waiting.notified().await;
    let (mut sender, _connection) = http2(server.addr).await;
    let asking = tokio::spawn(async move { ask_http2(&mut sender, "/wait", 10).await });
    server.handler.waiting.notified().await;
    server.accepting.abort();
    let handler = Arc::clone(&server.handler);
    let mut draining = tokio::spawn(async move { server.drain.drain().await });
    assert!(timeout(TWICE_CLOSE_GRACE, &mut draining).await.is_err(), "requests are running");
    let letting_go = tokio::spawn(async move {
        loop {
            handler.release();
            sleep(Duration::from_millis(1)).await;
        }
    });
    assert_eq!(asking.await.expect("no panic"), (200, "null".into()));
    assert!(answer_on(&mut busy).await.starts_with("HTTP/1.1 200"));
    timeout(PATIENCE, draining).await.expect("in time").expect("no panic");
    letting_go.abort();
}

/// Longer than the grace period of a peer without requests in a drain.
const TWICE_CLOSE_GRACE: Duration = Duration::from_secs(1);

#[tokio::test]
async fn a_drain_lets_running_requests_finish_and_closes_the_rest() {
    let mut server = Running::new(LONG);
    let (mut idle, mut busy) = (server.connect().await, server.connect().await);
    ask(&mut idle, GET).await;
    busy.write_all(b"GET /wait HTTP/1.1\r\nhost: gate\r\n\r\n").await.expect("sends");
    server.handler.waiting.notified().await;

    server.accepting.abort();
    let handler = Arc::clone(&server.handler);
    let addr = server.addr;
    let draining = tokio::spawn(async move { server.drain.drain().await });
    closes(&mut idle).await;
    // The listener is closed by its own thread.
    let refused = async {
        while TcpStream::connect(addr).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, refused).await.expect("new connections are not accepted");
    assert!(!draining.is_finished(), "a request is still running");
    handler.release();
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
    server.handler.waiting.notified().await;
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
