//! Request bodies on real connections: read in full, or not, by a handler that wants them.

use http_body_util::{Full, StreamBody};
use hyper::body::Frame;
use tokio_stream::StreamExt as _;

use super::*;

/// Larger than the HTTP/2 window.
pub(super) const LIMIT: usize = 200 * 1024;
/// Long enough for a busy machine, and short enough to wait for.
pub(super) const DEADLINE: Duration = Duration::from_secs(2);

fn post(head: &str, body: &str) -> Vec<u8> {
    format!("POST /read HTTP/1.1\r\nhost: gate\r\n{head}\r\n\r\n{body}").into_bytes()
}

fn body_of(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").map_or("", |(_, body)| body)
}

#[tokio::test]
async fn a_body_is_read_in_full_and_its_connection_goes_on() {
    let server = Running::new(LONG);
    let mut stream = server.connect().await;
    for length in [0, 1, 17 * 1024, LIMIT] {
        let body = "b".repeat(length);
        let request = post(&format!("content-length: {length}"), &body);
        let answer = ask(&mut stream, &request).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{length}: {answer}");
        assert!(!answer.contains("connection: close"), "{length}");
        assert_eq!(body_of(&answer).len(), length);
    }
    for body in ["5\r\nhello\r\n0\r\n\r\n", "5;x=y\r\nhello\r\n0\r\nt: r\r\n\r\n", "0\r\n\r\n"] {
        let answer = ask(&mut stream, &post("transfer-encoding: chunked", body)).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert_eq!(body_of(&answer).is_empty(), body.starts_with('0'), "{answer}");
    }
    // A body in single bytes, then two requests at once.
    let (head, body) = (post("content-length: 5", ""), b"hello");
    stream.write_all(&head).await.expect("sends");
    for byte in body {
        sleep(Duration::from_millis(5)).await;
        stream.write_all(&[*byte]).await.expect("sends");
    }
    assert_eq!(body_of(&answer_on(&mut stream).await), "hello");
    stream.write_all(&[&post("content-length: 3", "one"), GET].concat()).await.expect("sends");
    let mut answers = String::new();
    while !answers.ends_with("null") {
        let mut read = [0; 4096];
        let count = timeout(PATIENCE, stream.read(&mut read)).await.expect("in time");
        answers.push_str(&String::from_utf8_lossy(&read[..count.expect("no reset")]));
    }
    assert!(answers.contains("\r\n\r\noneHTTP/1.1 200"), "{answers}");
}

#[tokio::test]
async fn a_client_that_waits_to_be_asked_for_its_body_is_asked() {
    let server = Running::new(LONG);
    let mut stream = server.connect().await;
    stream.write_all(&post("content-length: 5\r\nexpect: 100-continue", "")).await.expect("sends");
    let asked = answer_on(&mut stream).await;
    assert!(asked.starts_with("HTTP/1.1 100"), "{asked}");
    assert_eq!(body_of(&ask(&mut stream, b"hello").await), "hello");

    let mut stream = server.connect().await;
    let request = String::from_utf8(post("content-length: 5\r\nexpect: 100-continue", ""));
    let request = request.expect("ASCII").replace("/read", "/x");
    let answer = ask(&mut stream, request.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "not asked by who does not read it: {answer}");
    assert!(answer.contains("connection: close"), "{answer}");
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_before_or_while_it_comes() {
    let server = Running::new(LONG);
    let announced = post(&format!("content-length: {}", LIMIT + 1), "");
    let chunk = "c".repeat(0x8000);
    let chunked = format!("8000\r\n{chunk}\r\n").repeat(LIMIT / 0x8000 + 1);
    let chunked = post("transfer-encoding: chunked", &chunked);
    for request in [announced, chunked] {
        let mut stream = server.connect().await;
        let answer = ask(&mut stream, &request).await;
        assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
        assert!(answer.contains("connection: close"), "{answer}");
        stream.shutdown().await.ok();
        closes(&mut stream).await;
    }
}

#[tokio::test]
async fn a_body_that_does_not_come_is_not_waited_for_forever() {
    let server = Running::new(LONG);
    for begun in [post("content-length: 5", ""), post("transfer-encoding: chunked", "5\r\nhel")] {
        let mut stream = server.connect().await;
        let began = Instant::now();
        let answer = ask(&mut stream, &begun).await;
        assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
        assert!(answer.contains("connection: close"), "{answer}");
        assert!(began.elapsed() >= DEADLINE);
        stream.shutdown().await.ok();
        closes(&mut stream).await;
    }
}

#[tokio::test]
async fn a_body_that_is_cut_off_or_malformed_is_not_taken_for_a_whole_one() {
    let server = Running::new(LONG);
    for cut in [
        post("content-length: 5", "hel"),
        post("transfer-encoding: chunked", "5\r\nhello\r\n"),
        post("transfer-encoding: chunked", "x\r\n"),
    ] {
        let mut stream = server.connect().await;
        stream.write_all(&cut).await.expect("sends");
        stream.shutdown().await.expect("our end");
        let mut answer = String::new();
        let reading = stream.read_to_string(&mut answer);
        timeout(PATIENCE, reading).await.expect("in time").ok();
        assert!(!answer.contains(" 200 "), "{answer}");
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400"), "{answer}");
    }
    // Others are served meanwhile.
    let mut stream = server.connect().await;
    assert!(ask(&mut stream, GET).await.starts_with("HTTP/1.1 200"));
}

type Sender<B> = http2::SendRequest<B>;
type Stream =
    std::pin::Pin<Box<dyn tokio_stream::Stream<Item = Result<Frame<Bytes>, io::Error>> + Send>>;

async fn http2_with<B>(addr: SocketAddr) -> (Sender<B>, JoinHandle<()>)
where
    B: hyper::body::Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let io = TokioIo::new(TcpStream::connect(addr).await.expect("connects"));
    let (sender, connection) =
        http2::handshake(TokioExecutor::new(), io).await.expect("prior knowledge is enough");
    (sender, tokio::spawn(async move { connection.await.unwrap_or_default() }))
}

async fn post_http2<B>(sender: &mut Sender<B>, path: &str, body: B) -> (u16, Bytes)
where
    B: hyper::body::Body + Send + 'static,
{
    let request = Request::post(format!("http://gate{path}")).body(body).expect("a request");
    let asking = async {
        let answer = sender.send_request(request).await.expect("an answer");
        let status = answer.status().as_u16();
        (status, answer.into_body().collect().await.expect("a body").to_bytes())
    };
    timeout(PATIENCE, asking).await.expect("in time")
}

#[tokio::test]
async fn http2_bodies_larger_than_the_window_are_read_one_after_another_and_at_once() {
    let server = Running::new(LONG);
    let (mut sender, _connection) = http2_with::<StreamBody<Stream>>(server.addr).await;
    // So many frames that they would end the connection if nobody read them.
    for _ in 0..50 {
        let frame = || Ok(Frame::data(Bytes::from_static(&[b'b'; 2048])));
        let frames: Stream = Box::pin(tokio_stream::iter((0..LIMIT / 2048).map(move |_| frame())));
        let (status, echoed) = post_http2(&mut sender, "/read", StreamBody::new(frames)).await;
        assert_eq!((status, echoed.len()), (200, LIMIT));
    }

    let (mut sender, _connection) = http2_with::<Full<Bytes>>(server.addr).await;
    let body = Bytes::from(vec![b'b'; LIMIT]);
    let many = (0..20).map(|_| {
        let (mut sender, body) = (sender.clone(), Full::new(body.clone()));
        async move { post_http2(&mut sender, "/read", body).await.0 }
    });
    assert_eq!(futures_util::future::join_all(many).await, [200; 20]);
    let large = Full::new(Bytes::from(vec![b'b'; LIMIT + 1]));
    assert_eq!(post_http2(&mut sender, "/read", large).await.0, 413);
    // A handler that does not read a body does not keep it from being dropped.
    assert_eq!(post_http2(&mut sender, "/x", Full::new(body.clone())).await.0, 200);
    assert_eq!(post_http2(&mut sender, "/read", Full::new(body)).await.0, 200);
}

#[tokio::test]
async fn http2_bodies_that_do_not_come_or_are_cut_off_end_their_request_alone() {
    let server = Running::new(LONG);
    let (mut sender, _connection) = http2_with::<StreamBody<Stream>>(server.addr).await;
    let part = || tokio_stream::iter([Ok(Frame::data(Bytes::from_static(b"hel")))]);
    let silent: Stream = Box::pin(part().chain(tokio_stream::pending()));
    assert_eq!(post_http2(&mut sender, "/read", StreamBody::new(silent)).await.0, 408);

    let failing = tokio_stream::iter([Err(io::Error::other("cut"))]);
    let cut: Stream = Box::pin(part().chain(failing));
    let request = Request::post("http://gate/read").body(StreamBody::new(cut)).expect("a request");
    let answer = timeout(PATIENCE, sender.send_request(request)).await.expect("in time");
    assert!(answer.is_err() || answer.is_ok_and(|answer| answer.status() == 400));

    let whole: Stream = Box::pin(part());
    let (status, echoed) = post_http2(&mut sender, "/read", StreamBody::new(whole)).await;
    assert_eq!((status, &echoed[..]), (200, &b"hel"[..]));
}

/// A frame of HTTP/2 (RFC 9113 section 4.1).
fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).expect("short");
    [&[0, 0, length, kind, flags, 0, 0, 0, stream][..], payload].concat()
}

#[tokio::test]
async fn an_http2_body_whose_stream_is_reset_without_an_error_is_not_whole() {
    const POST_READ: &[u8] = b"\x83\x86\x44\x05/read\x41\x04gate";
    let server = Running::new(LONG);
    let mut stream = server.connect().await;
    let begun = [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        frame(4, 0, 0, &[]),
        frame(1, 4, 1, POST_READ),
        frame(0, 0, 1, b"hel"),
    ];
    stream.write_all(&begun.concat()).await.expect("sends");
    server.handler.waiting.notified().await;
    let reset = [frame(3, 0, 1, &[0; 4]), frame(1, 4, 3, POST_READ), frame(0, 1, 3, b"whole")];
    stream.write_all(&reset.concat()).await.expect("sends");
    let mut answers = Vec::new();
    let reading = async {
        while !answers.windows(5).any(|window| window == b"whole") {
            assert_ne!(stream.read_buf(&mut answers).await.expect("no reset"), 0);
        }
    };
    timeout(PATIENCE, reading).await.expect("an answer in time");
    assert_eq!(server.handler.bodies_read.load(Ordering::Relaxed), 1);
}
