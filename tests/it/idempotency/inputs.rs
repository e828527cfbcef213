//! What clients send by mistake, and what those send who may not.

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::boxes::{SampleBox, Store};
use crate::support::client::{Connection, Request, Response, ask};
use crate::support::server::{Nightporter, config};

const WAKE: &str = "/v1/apps/notes/wake";

async fn started(further: &str) -> (SampleBox, Nightporter) {
    let sample = SampleBox::new(Store::Files).await;
    sample.add_app("notes", &json!({"": {"access": "private"}})).await;
    let porter = Nightporter::start(config(&format!("{}{further}", sample.store_config())));
    // The gate needs no token, unlike the probes.
    porter.until(401, &Request::auth("notes.localhost", "/")).await;
    (sample, porter)
}

/// How many keys are in the table.
fn keys(sample: &SampleBox) -> i64 {
    let file = rusqlite::Connection::open(sample.ledger().join("ledger.db")).expect("opens");
    let sql = "SELECT count(*) FROM idempotency_keys";
    file.query_row(sql, [], |row| row.get(0)).expect("reads")
}

async fn send(porter: &Nightporter, bytes: &[u8]) -> Response {
    let mut connection = Connection::open(porter.ops).await.expect("it listens");
    connection.ask_bytes(bytes).await.expect("it answers")
}

fn kind(response: &Response) -> String {
    let problem: Value = serde_json::from_slice(&response.body).expect("JSON");
    problem["type"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_request_is_the_same_however_it_is_written() {
    let (sample, porter) = started("").await;
    let post = |key: &str| Request::new("POST", WAKE).header("Idempotency-Key", key);
    let with_body =
        |key: &str| [post(key).header("Content-Length", "2").bytes(), b"{}".to_vec()].concat();
    let first = send(&porter, &with_body("\"a\"")).await;
    assert_eq!((first.status, first.text("idempotency-replayed")), (409, None));
    // Parameters mean nothing, and how a body is framed is no part of it.
    let chunked = |key: &str, body: &str| {
        let head = post(key).header("Transfer-Encoding", "chunked").bytes();
        [head, body.as_bytes().to_vec()].concat()
    };
    for same in [
        with_body("\"a\";version=1"),
        with_body("\"a\";a;b=?0;c=\"d\""),
        with_body("  \"a\"  "),
        chunked("\"a\"", "2\r\n{}\r\n0\r\n\r\n"),
        chunked("\"a\"", "1\r\n{\r\n1;x=y\r\n}\r\n0\r\n\r\n"),
    ] {
        let again = send(&porter, &same).await;
        assert_eq!(again.text("idempotency-replayed"), Some("true"), "{}", again.body());
        assert_eq!(again.body, first.body);
    }
    for other in [
        chunked("\"a\"", "0\r\n\r\n"),
        chunked("\"a\"", "3\r\n{} \r\n0\r\n\r\n"),
        post("\"a\"").bytes(),
        [post("\"a\"").header("Content-Length", "1").bytes(), b"{".to_vec()].concat(),
    ] {
        let refused = send(&porter, &other).await;
        assert_eq!(refused.status, 422, "{}", refused.body());
        assert_eq!(kind(&refused), "/problems/idempotency-key-reused");
    }
    assert_eq!(keys(&sample), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_key_or_no_whole_request_leaves_nothing_behind() {
    let (sample, porter) = started("").await;
    let post = |key: &[u8]| Request::new("POST", WAKE).header("Idempotency-Key", key);
    let long = format!("\"{}\"", "x".repeat(256));
    assert_eq!(send(&porter, &post(b"\"first\"").bytes()).await.status, 409);
    assert_eq!(keys(&sample), 1);
    for key in [
        &b""[..],
        b"a",
        b"\"\"",
        b"\"a",
        b"\"a\"; ",
        b"\"a\";A=1",
        b"\"a\", \"a\"",
        b"\"a\" \"a\"",
        b"\"\xc3\xa9\"",
        b"\"\xff\"",
        b"\"a\tb\"",
        b":YWJj:",
        b"%\"f%c3%bc\"",
        b"@1659578233",
        long.as_bytes(),
    ] {
        let answer = send(&porter, &post(key).bytes()).await;
        let shown = String::from_utf8_lossy(key);
        assert_eq!(answer.status, 400, "{shown}: {}", answer.body());
        assert_eq!(kind(&answer), "/problems/invalid-idempotency-key", "{shown}");
    }
    // Control characters are in no header at all.
    for key in [&b"\"a\x1eb\""[..], b"\"a\x00b\"", b"\"a\x7fb\""] {
        assert_eq!(send(&porter, &post(key).bytes()).await.status, 400);
    }
    let twice = post(b"\"a\"").header("idempotency-key", "\"b\"");
    assert_eq!(kind(&ask(porter.ops, &twice).await), "/problems/invalid-idempotency-key");
    // A tenant that could be mistaken for another scope.
    let body = r#"{"name": "phone", "rights": ["read"]}"#;
    let request = Request::new("POST", "/v1/tokens?tenant=a%1Eroot%1EPOST")
        .header("Idempotency-Key", "\"a\"")
        .header("Content-Length", body.len().to_string());
    let refused = send(&porter, &[request.bytes(), body.as_bytes().to_vec()].concat()).await;
    assert_eq!(refused.status, 400, "{}", refused.body());
    // A body that is too large.
    let request = post(b"\"a\"").header("Content-Length", (64 * 1024 + 1).to_string());
    let large = [request.bytes(), vec![b' '; 64 * 1024 + 1]].concat();
    assert_eq!(send(&porter, &large).await.status, 413);
    // A path that is none, and methods that only read.
    for (method, path, status) in
        [("POST", "/v1/nothing", 404), ("PATCH", WAKE, 405), ("GET", "/v1/apps", 200)]
    {
        let request = Request::new(method, path).header("Idempotency-Key", "\"a\"");
        assert_eq!(ask(porter.ops, &request).await.status, status, "{method} {path}");
    }
    let head = Request::new("HEAD", "/v1/apps").header("Idempotency-Key", "a");
    let mut stream = TcpStream::connect(porter.ops).await.expect("it listens");
    stream.write_all(&head.header("Connection", "close").bytes()).await.expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("read");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert_eq!(keys(&sample), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_do_a_request_keeps_no_key() {
    let root = "a-root-token-of-some-length";
    let (sample, porter) = started(&format!("[ops]\ntoken = \"{root}\"\n")).await;
    let body = r#"{"name": "reader", "rights": ["read", "pii"]}"#;
    let request = Request::new("POST", "/v1/tokens")
        .header("Authorization", format!("Bearer {root}"))
        .header("Content-Length", body.len().to_string());
    let made = send(&porter, &[request.bytes(), body.as_bytes().to_vec()].concat()).await;
    let made: Value = serde_json::from_slice(&made.body).expect("JSON");
    let reader = made["token"].as_str().expect("a token");
    let key =
        |method: &str, path: &str| Request::new(method, path).header("Idempotency-Key", "\"a\"");
    for (method, path) in nightporter::operator_routes() {
        if matches!(method, "GET" | "HEAD") {
            continue;
        }
        let path = path.replace("{name}", "notes").replace("{id}", "x");
        let request = key(method, &path).header("Authorization", format!("Bearer {reader}"));
        assert_eq!(ask(porter.ops, &request).await.status, 403, "{method} {path}");
        assert_eq!(ask(porter.ops, &key(method, &path)).await.status, 401, "{method} {path}");
    }
    assert_eq!(keys(&sample), 0);
}
