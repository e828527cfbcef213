//! Connections over HTTP/2: their limits, and what ends them.

use super::*;

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
    let server = Running::new(LONG);
    let (mut sender, _connection) = http2(server.addr).await;
    assert_eq!(ask_http2(&mut sender, "/x", 10).await, (200, "null".into()));
    assert_eq!(ask_http2(&mut sender, "/x", 64 * 1024).await.0, 200);
    assert_eq!(ask_http2(&mut sender, "/x", 100 * 1024).await.0, 431);
    assert_eq!(ask_http2(&mut sender, "/panic", 10).await.0, 500);

    let server = Running::new(SHORT);
    let (mut sender, connection) = http2(server.addr).await;
    assert_eq!(ask_http2(&mut sender, "/x", 10).await.0, 200);
    // Bytes that arrive between requests are not a slow head.
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

/// The beginning of a head of more than two frames.
const UNFINISHED: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\
    \0\0\x05\x01\0\0\0\0\x01\x40\x01a\x01b\0\0\x05\x09\0\0\0\0\x01\x40\x01c\x01d";

#[tokio::test]
async fn unfinished_heads_of_http2_end_their_connection_in_time_and_when_they_are_too_many() {
    let server = Running::new(SHORT);
    let mut slow = server.connect().await;
    slow.write_all(UNFINISHED).await.expect("sends");
    timeout(PATIENCE, slow.read_to_end(&mut Vec::new())).await.expect("cut in time").ok();

    let server = Running::new(Limits { head: Duration::from_secs(3600), ..LONG });
    let (most, more) = (64, 20);
    let mut connections = tokio::task::JoinSet::new();
    for _ in 0..most + more {
        let mut stream = server.connect().await;
        stream.write_all(UNFINISHED).await.expect("sends");
        connections.spawn(async move { stream.read_to_end(&mut Vec::new()).await.ok() });
    }
    for _ in 0..more {
        let ended = timeout(PATIENCE, connections.join_next()).await.expect("one too many");
        assert!(ended.is_some_and(|ended| ended.is_ok()));
    }
    // Other connections are served meanwhile if their heads are small.
    let (mut sender, _connection) = http2(server.addr).await;
    assert_eq!(ask_http2(&mut sender, "/x", 10 * 1024).await.0, 200);
    assert!(ask(&mut server.connect().await, GET).await.starts_with("HTTP/1.1 200 OK\r\n"));
    assert!(connections.join_next().now_or_never().is_none(), "the first ones stay open");
    drop(connections);
    let asking = async {
        loop {
            let (mut sender, _connection) = http2(server.addr).await;
            let request = Request::get("http://gate/x").header("cookie", "c".repeat(64 * 1024));
            let request = request.body(Empty::<Bytes>::new()).expect("a request");
            if sender.send_request(request).await.is_ok_and(|answer| answer.status() == 200) {
                return;
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, asking).await.expect("their slots become free");
}

#[tokio::test]
async fn a_connection_that_asks_for_nothing_there_is_comes_to_an_end() {
    let server = Running::new(LONG);
    let (mut sender, connection) = http2(server.addr).await;
    // Rejected requests between others do not end the connection.
    for _ in 0..300 {
        assert_eq!(ask_http2(&mut sender, "/nothing", 1).await.0, 404);
        assert_eq!(ask_http2(&mut sender, "/x", 1).await.0, 200);
    }
    for _ in 0..100 {
        assert_eq!(ask_http2(&mut sender, "/nothing", 1).await.0, 404, "answered nonetheless");
    }
    timeout(PATIENCE, connection).await.expect("ends").expect("no panic");

    let mut stream = server.connect().await;
    for asked in 1..=100 {
        let answer = ask(&mut stream, b"GET /nothing HTTP/1.1\r\nhost: gate\r\n\r\n").await;
        assert_eq!(answer.contains("connection: close"), asked == 100, "{asked}: {answer}");
    }
    closes(&mut stream).await;
}

#[tokio::test]
async fn a_flood_of_frames_that_ask_for_nothing_ends_its_connection() {
    let server = Running::new(LONG);
    // PRIORITY, PING, and a frame of an unknown type.
    for (kind, length) in [(2, 5), (6, 8), (0xbe, 100)] {
        let mut stream = server.connect().await;
        let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.expect("sends");
        stream.write_all(&settings).await.expect("sends");
        let stream_id = u8::from(kind == 2);
        let mut frame = vec![0, 0, length, kind, 0, 0, 0, 0, stream_id];
        frame.resize(frame.len() + usize::from(length), 0);
        let (mut reader, mut writer) = stream.into_split();
        let flood = frame.repeat(100);
        let sending = tokio::spawn(async move { while writer.write_all(&flood).await.is_ok() {} });
        let mut answers = Vec::new();
        let end = timeout(PATIENCE, reader.read_to_end(&mut answers)).await;
        assert!(end.is_ok(), "frames of type {kind} do not end the connection");
        timeout(PATIENCE, sending).await.expect("closed both ways").expect("no panic");
    }
}
