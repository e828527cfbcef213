//! What a client of the API sees.

use nightporter::idempotency::fingerprint::{Payload, Scope};
use nightporter::idempotency::key::Key;
use nightporter::idempotency::table::{Caller, Claim, KeyedRequest, Keys};
use nightporter::ledger::archive::Archive;
use nightporter::ledger::archive::sqlite::{Limits, Sqlite};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

use crate::ledger::archive::Database as _;
use crate::support::boxes::{SampleBox, Store, id_of};
use crate::support::client::{Connection, Request, Response, ask, poll};
use crate::support::server::Nightporter;
use crate::support::sign::BOX_KEY;

const PATIENCE: Duration = Duration::from_secs(120);

async fn started(store: Store) -> (SampleBox, Nightporter) {
    let sample = SampleBox::new(store).await;
    for app in ["notes", "wiki"] {
        sample.add_app(app, &json!({"": {"access": "private"}})).await;
    }
    let porter = Nightporter::of(&sample).await;
    for app in ["notes", "wiki"] {
        // An app is known when it has been asked for.
        assert_eq!(porter.auth(&format!("{app}.localhost"), "/").await.status, 401);
    }
    (sample, porter)
}

fn post(path: &str, key: &str) -> Request {
    Request::new("POST", path).header("Idempotency-Key", key)
}

async fn acts(porter: &Nightporter) -> usize {
    let page =
        ask(porter.ops, &Request::new("GET", "/v1/requests?kind=act&verdict=accepted&limit=500"))
            .await;
    let page: Value = serde_json::from_slice(&page.body).expect("JSON");
    page["requests"].as_array().expect("a list").len()
}

#[track_caller]
fn problem(response: &Response, status: u16, name: &str) -> Value {
    assert_eq!(response.status, status, "{}", response.body());
    assert_eq!(response.text("content-type"), Some("application/problem+json"));
    let problem: Value = serde_json::from_slice(&response.body).expect("JSON");
    assert_eq!(problem["type"], format!("/problems/{name}"), "{problem}");
    problem
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_request_is_done_once_and_answered_as_before() {
    for store in Store::BOTH {
        let (_sample, porter) = started(store).await;
        // Nothing is woken: wake.enabled is false, and the final answer is a 409.
        let first = ask(porter.ops, &post("/v1/apps/notes/wake", "\"a\"")).await;
        problem(&first, 409, "app-failed");
        assert_eq!(first.text("idempotency-replayed"), None);
        for _ in 0..3 {
            let again = ask(porter.ops, &post("/v1/apps/notes/wake", "\"a\"")).await;
            assert_eq!(again.text("idempotency-replayed"), Some("true"));
            assert_eq!((again.status, &again.body), (first.status, &first.body));
            for name in ["content-type", "cache-control"] {
                assert_eq!(again.text(name), first.text(name), "{name}");
            }
        }
        assert_eq!(acts(&porter).await, 1);
        // Without a key, each is a request of its own.
        for _ in 0..2 {
            let without = ask(porter.ops, &Request::new("POST", "/v1/apps/notes/wake")).await;
            assert_eq!((without.status, without.text("idempotency-replayed")), (409, None));
        }
        assert_eq!(acts(&porter).await, 3);

        // The key is that of one request; on another route it is another one.
        let other = ask(porter.ops, &post("/v1/apps/wiki/wake", "\"a\"")).await;
        problem(&other, 422, "idempotency-key-reused");
        let query = ask(porter.ops, &post("/v1/apps/notes/wake?x=1", "\"a\"")).await;
        problem(&query, 422, "idempotency-key-reused");
        let mut connection = Connection::open(porter.ops).await.expect("it listens");
        let with_body = post("/v1/apps/notes/wake", "\"a\"").header("Content-Length", "2");
        let body = connection.ask_bytes(&[with_body.bytes(), b"{}".to_vec()].concat()).await;
        problem(&body.expect("answers"), 422, "idempotency-key-reused");
        assert_eq!(acts(&porter).await, 3);
        let other_route = ask(porter.ops, &post("/v1/apps/notes/sleep", "\"a\"")).await;
        assert_eq!(other_route.text("idempotency-replayed"), None);
        assert_eq!(acts(&porter).await, 4);
        // What was not found stays so for whoever repeats the request.
        for replayed in [None, Some("true")] {
            let missing = ask(porter.ops, &post("/v1/jobs/nothing/run", "\"a\"")).await;
            problem(&missing, 404, "not-found");
            assert_eq!(missing.text("idempotency-replayed"), replayed);
        }
        // A request that only reads has no use for a key.
        let get = Request::new("GET", "/v1/apps").header("Idempotency-Key", "anything");
        assert_eq!(ask(porter.ops, &get).await.status, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_that_is_no_key_is_refused_with_how_to_write_one() {
    let (_sample, porter) = started(Store::Files).await;
    let long = format!("\"{}\"", "x".repeat(256));
    for key in ["abc", "8e03978e-40d5-43e8-bc93-6894a57f9324", "", "\"\"", "\"a", "\"é\"", &long] {
        let answer = ask(porter.ops, &post("/v1/apps/notes/wake", key)).await;
        let refused = problem(&answer, 400, "invalid-idempotency-key");
        assert_eq!(refused["parameter"], "idempotency-key", "{key}");
        let detail = refused["detail"].as_str().expect("a text");
        assert!(detail.starts_with("invalid Idempotency-Key: "), "{detail}");
    }
    let twice = post("/v1/apps/notes/wake", "\"a\"").header("Idempotency-Key", "\"a\"");
    problem(&ask(porter.ops, &twice).await, 400, "invalid-idempotency-key");
    assert_eq!(acts(&porter).await, 0);
}

fn archive(sample: &SampleBox, store: Store) -> Arc<Archive> {
    Arc::new(match store {
        Store::Files => {
            let file = sample.ledger().join("ledger.db");
            Archive::Sqlite(Sqlite::new(file, Limits::default()))
        }
        Store::Postgres => sample.database().archive(),
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_another_process_does_is_answered_at_once() {
    for store in Store::BOTH {
        let (sample, porter) = started(store).await;
        let keys = Keys::new(archive(&sample, store));
        let mut headers = http::HeaderMap::new();
        headers.insert("idempotency-key", http::HeaderValue::from_static("\"a\""));
        let (tenant, route) = (id_of(&BOX_KEY), "POST /v1/apps/{name}/wake");
        let keyed = KeyedRequest::new(
            &tenant.as_str().into(),
            Caller { token: &"root".into(), secret: None },
            Scope::new(&tenant, "root", route).expect("no separator"),
            &Key::from_headers(&headers).expect("valid").expect("there"),
            Payload::new("POST", "/v1/apps/notes/wake", b""),
        );
        let execution = keys.claim(keyed.expect("derives")).await;
        let Ok(Claim::Claimed(execution)) = execution else { panic!("{execution:?}") };
        let running = ask(porter.ops, &post("/v1/apps/notes/wake", "\"a\"")).await;
        problem(&running, 409, "idempotency-key-in-use");
        assert_eq!(running.text("retry-after"), Some("1"));
        keys.release(&execution).await.expect("writes");
        let done = ask(porter.ops, &post("/v1/apps/notes/wake", "\"a\"")).await;
        problem(&done, 409, "app-failed");
        assert_eq!(done.text("retry-after"), None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_of_another_shape_refuses_keys_and_nothing_else() {
    let sample = SampleBox::new(Store::Postgres).await;
    sample.add_app("notes", &json!({"": {"access": "public"}})).await;
    // The process that comes next finds a table that another one has made.
    sample.database().archive().prepare().await.expect("made");
    let table = "nightporter_ledger.idempotency_keys";
    let change = format!("ALTER TABLE {table} ALTER key TYPE text COLLATE \"en-x-icu\"");
    sample.database().batch(&change).await;
    let porter = Nightporter::of(&sample).await;
    assert_eq!(porter.auth("notes.localhost", "/").await.status, 200, "the gate goes on");
    let refused = ask(porter.ops, &post("/v1/apps/notes/wake", "\"a\"")).await;
    let refused = problem(&refused, 503, "idempotency-keys-unusable");
    let text = "the column key is text, expected text COLLATE \"C\"";
    let detail = refused["detail"].as_str().expect("a text");
    assert!(detail.ends_with("`/healthz` tells the operator what differs"), "{detail}");
    let health = ask(porter.ops, &Request::new("GET", "/healthz")).await;
    assert_eq!(health.status, 200);
    let health: Value = serde_json::from_slice(&health.body).expect("JSON");
    let shown = health["idempotency"]["problems"][0].as_str().expect("a text");
    assert!(shown.contains(text), "{shown}");
    assert_eq!(ask(porter.ops, &Request::new("POST", "/v1/apps/notes/wake")).await.status, 409);
    // It is used again when it is repaired.
    let repair = format!("ALTER TABLE {table} ALTER key TYPE text COLLATE \"C\"");
    sample.database().batch(&repair).await;
    poll("keys are kept", PATIENCE, async || {
        ask(porter.ops, &post("/v1/apps/notes/wake", "\"a\"")).await.status == 409
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_ledger_no_key_is_kept_and_the_client_is_told() {
    let sample = SampleBox::new(Store::Files).await;
    sample.add_app("notes", &json!({"": {"access": "public"}})).await;
    let toml = sample.store_config().replace("[ledger]\n", "[ledger]\nenabled = false\n");
    let porter = Nightporter::start(crate::support::server::config(&toml));
    porter.ready().await;
    assert_eq!(porter.auth("notes.localhost", "/").await.status, 200);
    let refused = ask(porter.ops, &post("/v1/apps/notes/wake", "\"a\"")).await;
    problem(&refused, 501, "ledger-disabled");
    assert_eq!(ask(porter.ops, &Request::new("POST", "/v1/apps/notes/wake")).await.status, 409);
}
