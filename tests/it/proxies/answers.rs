//! What reaches the client is the app's wherever the app answers, and is decided for the
//! app that answers.

use std::net::SocketAddr;

use super::echo::{OWN, Seen};
use super::{navigating, notes, passes, with_cookie};
use crate::support::client::{Connection, Request, ask};

pub(super) async fn prove(proxy: SocketAddr) {
    every_answer_of_an_app_is_the_apps(proxy).await;
    whoever_is_routed_to_is_decided_on(proxy).await;
    uploads_are_of_any_size(proxy).await;
}

pub(super) async fn every_answer_of_an_app_is_the_apps(proxy: SocketAddr) {
    for status in [400, 401, 403, 404, 407, 409, 418, 429, 500, 501, 503, 505, 507] {
        let path = format!("/answer/{status}");
        for request in [
            notes(&format!("/shared{path}")),
            navigating(notes(&format!("/shared{path}"))),
            with_cookie(notes(&path)),
        ] {
            let response = ask(proxy, &request).await;
            assert_eq!((response.status, response.body()), (status, OWN), "{request:?}");
            for (name, value) in [
                ("content-type", "application/json"),
                ("www-authenticate", "Basic realm=\"app\""),
                ("retry-after", "120"),
                ("dav", "1"),
            ] {
                assert_eq!(response.text(name), Some(value), "{status} {response:?}");
            }
        }
    }
}

/// Of a request line with a whole URL its host counts (RFC 9112 section 3.2.2).
async fn whoever_is_routed_to_is_decided_on(proxy: SocketAddr) {
    let whole =
        |url: &str, host: &str| Request::new("GET", url).without("Host").header("Host", host);
    let (notes, wiki) = ("notes.box.example", "wiki.box.example");
    let private = whole(&format!("http://{notes}/"), wiki);
    assert_eq!(ask(proxy, &private).await.status, 401, "{private:?}");
    let seen = passes(proxy, &whole(&format!("http://{wiki}/x?y"), notes)).await;
    assert!(seen.line.starts_with("GET /x?y "), "{seen:?}");
    assert_eq!(seen.header("host"), Some(wiki), "{seen:?}");
}

async fn uploads_are_of_any_size(proxy: SocketAddr) {
    const SIZE: usize = 3 << 20;
    let post = Request::new("POST", "/shared/").without("Host");
    let post = post.header("Host", "notes.box.example").header("Content-Length", SIZE.to_string());
    let bytes = [post.bytes(), vec![b'x'; SIZE]].concat();
    let mut connection = Connection::open(proxy).await.expect("the proxy listens");
    let response = connection.ask_bytes(&bytes).await.expect("an answer");
    assert_eq!(response.status, 200);
    let seen: Seen = serde_json::from_slice(&response.body).expect("the app's answer");
    assert_eq!(seen.body.len(), SIZE);
}
