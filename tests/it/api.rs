//! The operator's listener as a table: methods, unknown paths, and the bodies of requests.

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::boxes::{SampleBox, Store};
use crate::support::client::{Connection, Request, ask};
use crate::support::server::Nightporter;

async fn started() -> (SampleBox, Nightporter) {
    let sample = SampleBox::new(Store::Files).await;
    sample.add_app("notes", &json!({"": {"access": "public"}})).await;
    let porter = Nightporter::of(&sample).await;
    (sample, porter)
}

#[tokio::test]
async fn a_path_with_other_methods_names_them_and_a_path_without_any_is_not_there() {
    let (_sample, porter) = started().await;
    for (method, path, status, allow) in [
        ("GET", "/v1/apps", 200, None),
        ("POST", "/v1/apps", 405, Some("GET, HEAD")),
        ("DELETE", "/v1/apps/notes", 405, Some("GET, HEAD")),
        ("POST", "/livez", 405, Some("GET, HEAD")),
        ("OPTIONS", "/metrics", 405, Some("GET, HEAD")),
        ("GET", "/v1/apps/notes/wake", 405, Some("POST")),
        ("GET", "/v1/apps/nothere", 404, None),
        ("POST", "/v1/apps/nothere/wake", 404, None),
        ("POST", "/v1/apps/notes/delete", 404, None),
        ("GET", "/v1/apps/%ff", 404, None),
        ("GET", "/v1/apps/", 404, None),
        ("GET", "/v2", 404, None),
    ] {
        let answer = ask(porter.ops, &Request::new(method, path)).await;
        assert_eq!((answer.status, answer.text("allow")), (status, allow), "{method} {path}");
        let is_problem = status != 200 && path.starts_with("/v1/");
        let expected = if is_problem { "application/problem+json" } else { "application/json" };
        assert_eq!(answer.text("content-type"), Some(expected), "{method} {path}");
    }
    // The gate's own listener serves none of it.
    for path in ["/v1/apps", "/metrics"] {
        assert_eq!(ask(porter.gate, &Request::new("GET", path)).await.status, 404, "{path}");
    }
}

#[tokio::test]
async fn head_is_get_without_the_body() {
    let (_sample, porter) = started().await;
    let whole = ask(porter.ops, &Request::new("GET", "/v1/apps")).await;
    let mut stream = TcpStream::connect(porter.ops).await.unwrap();
    let requests = "HEAD /v1/apps HTTP/1.1\r\nhost: localhost\r\n\r\n\
                    GET /livez HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    stream.write_all(requests.as_bytes()).await.unwrap();
    let mut answers = String::new();
    stream.read_to_string(&mut answers).await.unwrap();
    let (head, rest) = answers.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert!(head.contains(&format!("content-length: {}", whole.body.len())), "{head}");
    assert!(rest.starts_with("HTTP/1.1 200"), "what follows is no body: {rest}");

    let io = TokioIo::new(TcpStream::connect(porter.ops).await.unwrap());
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    let request = http::Request::head("http://localhost/v1/apps").body(Empty::<Bytes>::new());
    let answer = sender.send_request(request.unwrap()).await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["content-length"], whole.body.len().to_string());
    assert!(answer.into_body().collect().await.unwrap().to_bytes().is_empty());
}

#[tokio::test]
async fn an_order_whose_body_is_too_large_or_cut_off_has_no_effect_and_a_small_one_costs_nothing() {
    let (_sample, porter) = started().await;
    let order = |length: usize, sent: usize| {
        let head = Request::new("POST", "/v1/apps/nothere/wake");
        [head.header("Content-Length", length.to_string()).bytes(), vec![b'x'; sent]].concat()
    };
    let mut connection = Connection::open(porter.ops).await.unwrap();
    for length in [0, 2, 64 * 1024] {
        let answer = connection.ask_bytes(&order(length, length)).await.unwrap();
        assert_eq!((answer.status, answer.text("connection")), (404, None), "{length}");
    }
    let too_large = connection.ask_bytes(&order(64 * 1024 + 1, 0)).await.unwrap();
    assert_eq!(too_large.status, 413);
    assert_eq!(too_large.text("connection"), Some("close"));

    let mut stream = TcpStream::connect(porter.ops).await.unwrap();
    stream.write_all(&order(10, 5)).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok();
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400"), "{answer}");
    assert_eq!(ask(porter.ops, &Request::new("GET", "/livez")).await.status, 200);
}
