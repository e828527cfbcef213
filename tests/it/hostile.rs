//! Requests that mean harm: each gets its status, none a grant, and the server
//! is as well afterwards as before.

mod exhaustive;
mod framing;
mod paths;
mod targets;
mod tokens;

use serde_json::json;

use crate::support::boxes::{self, SampleBox, Store};
use crate::support::client::{Connection, Request};
use crate::support::server::Nightporter;

/// One request and the answer it must get.
struct Case {
    what: String,
    bytes: Vec<u8>,
    expected: u16,
}

impl Case {
    fn new(what: impl Into<String>, request: &Request, expected: u16) -> Self {
        Self::raw(what, request.bytes(), expected)
    }

    fn raw(what: impl Into<String>, bytes: impl Into<Vec<u8>>, expected: u16) -> Self {
        Self { what: what.into(), bytes: bytes.into(), expected }
    }
}

const HOST: &str = "notes.box.example";

/// Asks for a private path of the app that is there.
fn private() -> Request {
    Request::auth(HOST, "/admin")
}

#[tokio::test]
async fn three_hundred_hostile_requests_get_nothing() {
    for store in Store::BOTH {
        let sample = SampleBox::new(store).await;
        let paths = json!({
            "": {"access": "private"}, "/pub": {"access": "public"}, "/peer": {"access": "peer"},
        });
        sample.add_app("notes", &paths).await;
        let server = Nightporter::of(&sample).await;
        let cases: Vec<Case> =
            [targets::cases(), tokens::cases(), framing::cases()].into_iter().flatten().collect();
        assert!(cases.len() >= 300, "{}", cases.len());
        let mut wrong = Vec::new();
        for case in &cases {
            assert_ne!(case.expected, 200, "{}", case.what);
            let mut connection = server.connect().await;
            match connection.ask_bytes(&case.bytes).await {
                Ok(response) if response.status == case.expected => {}
                Ok(response) => {
                    wrong
                        .push(format!("{}: {}, not {}", case.what, response.status, case.expected));
                }
                Err(error) => wrong.push(format!("{}: {error}", case.what)),
            }
        }
        assert!(
            wrong.is_empty(),
            "{store:?}: {} of {}\n{}",
            wrong.len(),
            cases.len(),
            wrong.join("\n")
        );
        is_well(&server).await;
    }
}

async fn is_well(server: &Nightporter) {
    assert_eq!(server.auth(HOST, "/pub").await.status, 200);
    assert_eq!(server.ask(&private().cookie(boxes::token())).await.status, 200);
    assert_eq!(server.state().await, "live");
    let mut connection = Connection::open(server.ops).await.expect("listens");
    let metrics = connection.ask(&Request::new("GET", "/metrics")).await.expect("answers");
    let panics = metrics.body().lines().find(|line| line.starts_with("nightporter_panics"));
    assert!(panics.is_none_or(|line| line.ends_with(" 0")), "{panics:?}");
}
