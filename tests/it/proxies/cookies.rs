//! The terminal's token stays at the gate, however its cookie is spelled.

use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use super::echo::Seen;
use super::{GRANTED, SECRET, TERMINAL, assert_granted, notes, passes};
use crate::support::sign;

/// Cookies that reach a private path, and what the app gets of them.
const GRANTING: [(&[&str], Option<&str>); 14] = [
    (&["authorization=TOKEN"], None),
    (&["authorization=\"TOKEN\""], None),
    (&["authorization=Bearer TOKEN"], None),
    (&["authorization=\"Bearer TOKEN\""], None),
    (&["authorization = TOKEN"], None),
    (&["authorization\t=\tTOKEN\t"], None),
    (&[";authorization=TOKEN; ;"], None),
    (&["authorization=TOKEN; authorization=TOKEN"], None),
    (&["authorization=old; authorization=TOKEN"], None),
    (&["a=b; authorization=TOKEN; c=\"d e\""], Some("a=b; c=\"d e\"")),
    (&["a=b;authorization=TOKEN;c=d"], Some("a=b; c=d")),
    (&["copy=TOKEN; authorization=TOKEN; a=b"], Some("a=b")),
    (&["Authorization=TOKEN; authorization=TOKEN; x-authorization=1"], Some("x-authorization=1")),
    (&["a=\"b; authorization=TOKEN; c\""], Some("a=\"b; c\"")),
];

/// Cookies that the gate does not take for a token, although an app might.
const NOT_GRANTING: [&str; 16] = [
    "Authorization=TOKEN",
    "AUTHORIZATION=TOKEN",
    "aUTHORIZATION=\"TOKEN\"",
    "\"authorization\"=TOKEN",
    "'authorization'=TOKEN",
    "$authorization=TOKEN",
    "%61uthorization=TOKEN",
    "authorization%3DTOKEN",
    "authorization%20=TOKEN",
    "=authorization=TOKEN",
    "a=b, authorization=TOKEN",
    "a=b,authorization=TOKEN",
    "a=\"b, Authorization=TOKEN\"",
    "a=b authorization=TOKEN",
    "$Version=1, authorization=TOKEN",
    "a=b%3B%20authorization=TOKEN",
];

pub(super) async fn prove(proxy: SocketAddr) {
    let token = sign::token(SECRET, TERMINAL);
    for (lines, expected) in GRANTING {
        let lines = lines.iter().map(|line| ("Cookie", line.replace("TOKEN", &token)));
        let request = notes("/").headers(lines);
        let seen = passes(proxy, &request).await;
        assert_granted(&seen, &GRANTED);
        assert_eq!(seen.header("cookie"), expected, "{request:?}");
        assert_hidden(&seen, &token);
    }
    for line in NOT_GRANTING {
        for line in [line.to_owned(), format!("z=1; {line}"), format!("{line}; z=1")] {
            let request = notes("/shared/").header("Cookie", line.replace("TOKEN", &token));
            let seen = passes(proxy, &request).await;
            assert!(matches!(seen.header("cookie"), None | Some("z=1")), "{request:?} {seen:?}");
            assert_hidden(&seen, &token);
        }
    }
    let seen = passes(proxy, &notes("/shared/").header("Cookie", "a=b; c=\"d\"")).await;
    assert_eq!(seen.header("cookie"), Some("a=b; c=\"d\""), "{seen:?}");
    assert_eq!(passes(proxy, &notes("/shared/")).await.header("cookie"), None);
}

/// No part of the token is in anything that the app saw.
fn assert_hidden(seen: &Seen, token: &str) {
    let text = serde_json::to_string(seen).expect("JSON");
    for part in token.split('.') {
        assert!(!text.contains(part), "{text}");
    }
}

/// HTTP/2 may send each cookie in a line of its own (RFC 9113 section 8.2.3).
pub(super) async fn split_by_http2(proxy: SocketAddr) {
    let token = sign::token(SECRET, TERMINAL);
    let stream = TcpStream::connect(proxy).await.expect("the proxy listens");
    let connecting =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (mut sender, connection) = connecting.await.expect("HTTP/2");
    tokio::spawn(connection);
    for (cookies, expected) in [
        (&["a=b", "authorization=TOKEN", "c=d"][..], Some("a=b; c=d")),
        (&["authorization=TOKEN"], None),
        (&["authorization=TOKEN", "Authorization=TOKEN"], None),
    ] {
        let mut request = http::Request::get("http://notes.box.example/");
        for cookie in cookies {
            request = request.header("cookie", cookie.replace("TOKEN", &token));
        }
        let request = request.body(Empty::<Bytes>::new()).expect("a request");
        let response = sender.send_request(request).await.expect("an answer");
        assert_eq!(response.status(), 200);
        let body = response.into_body().collect().await.expect("a body").to_bytes();
        let seen: Seen = serde_json::from_slice(&body).expect("the app's answer");
        assert_eq!(seen.header("cookie"), expected, "{cookies:?}");
        assert_hidden(&seen, &token);
    }
}
