//! The record as the operator reads it over HTTP.

mod acts;
mod dead_letters;
mod events;
mod identity;

use std::time::Duration;

use nightporter::ledger::key::{SigningKey, VerifierKey};
use nightporter::ledger::proof::Proof;
use serde_json::{Value, json};

use crate::support::boxes::{SampleBox, Store, TERMINAL, TERMINAL_NAME, id_of, token};
use crate::support::client::{Request, Response, ask, poll};
use crate::support::server::{Nightporter, config};
use crate::support::sign::BOX_KEY;

pub const PATIENCE: Duration = Duration::from_secs(120);

/// A box that records, and its record.
pub struct Recorded {
    sample: SampleBox,
    pub porter: Nightporter,
}

impl Recorded {
    /// With more configuration for `[ledger]`, and for all else.
    async fn with(store: Store, ledger: &str, further: &str) -> Self {
        let sample = SampleBox::new(store).await;
        let paths = json!({"": {"access": "private"}, "/pub/": {"access": "public"}});
        sample.add_app("notes", &paths).await;
        Self::of(sample, ledger, further).await
    }

    pub async fn of(sample: SampleBox, ledger: &str, further: &str) -> Self {
        let toml = sample.store_config().replace("[ledger]\n", &format!("[ledger]\n{ledger}"));
        let porter = Nightporter::start(config(&format!("{toml}{further}")));
        porter.ready().await;
        Self { sample, porter }
    }

    pub async fn new(store: Store) -> Self {
        let jobs = "[jobs]\nintegrity = \"500ms\"\n";
        Self::with(store, "checkpoint_interval = \"1s\"\n", jobs).await
    }

    async fn get(&self, path: &str) -> Response {
        ask(self.porter.ops, &Request::new("GET", path)).await
    }

    async fn post(&self, path: &str) -> Response {
        ask(self.porter.ops, &Request::new("POST", path)).await
    }

    pub async fn json(&self, path: &str) -> Value {
        let response = self.get(path).await;
        assert_eq!(response.status, 200, "{path}: {}", response.body());
        serde_json::from_slice(&response.body).expect("JSON")
    }

    /// Returns the records that a query selects.
    pub async fn records(&self, query: &str) -> Vec<Value> {
        let page = self.json(&format!("/v1/requests?limit=500&{query}")).await;
        page["requests"].as_array().expect("a list").clone()
    }

    /// Waits until a query selects so many records.
    pub async fn until(&self, count: usize, query: &str) -> Vec<Value> {
        let mut records = Vec::new();
        poll(query, PATIENCE, async || {
            records = self.records(query).await;
            records.len() >= count
        })
        .await;
        assert_eq!(records.len(), count, "{records:#?}");
        records
    }

    /// Asks for a page of the app without a credential.
    pub async fn is_denied(&self, path: &str) {
        let request = Request::auth("notes.localhost", path).header("X-Forwarded-For", "192.0.2.7");
        assert_eq!(self.porter.ask(&request).await.status, 401);
    }

    /// Returns the key that verifies the checkpoints of this box.
    fn key(&self) -> VerifierKey {
        let key = SigningKey::load(&self.sample.ledger().join("ledger.key"));
        key.expect("a key").verifier(&id_of(&BOX_KEY))
    }
}

#[track_caller]
fn problem(response: &Response, status: u16) -> Value {
    assert_eq!(response.status, status, "{}", response.body());
    assert_eq!(response.text("content-type"), Some("application/problem+json"));
    let problem: Value = serde_json::from_slice(&response.body).expect("JSON");
    assert_eq!(problem["status"], status);
    problem
}

#[tokio::test(flavor = "multi_thread")]
async fn who_came_is_listed_by_what_is_known_of_them() {
    for store in Store::BOTH {
        let recorded = Recorded::with(store, "grants = \"all\"\n", "").await;
        recorded.is_denied("/secret?token=abc").await;
        recorded.is_denied("/other").await;
        let stranger = Request::auth("nothere.localhost", "/");
        assert_eq!(recorded.porter.ask(&stranger).await.status, 404);
        let own = Request::auth("notes.localhost", "/home").cookie(token());
        assert_eq!(recorded.porter.ask(&own).await.status, 200);

        recorded.until(4, "kind=visit").await;
        let granted = recorded.until(1, &format!("client={TERMINAL}")).await.remove(0);
        for (field, value) in [
            ("kind", "visit"),
            ("app", "notes"),
            ("host", "notes.localhost"),
            ("path", "/home"),
            ("verdict", "grant"),
            ("client", "terminal"),
            ("client_id", TERMINAL),
            ("client_name", TERMINAL_NAME),
        ] {
            assert_eq!(granted[field], value, "{granted}");
        }
        let denied = recorded.until(2, "app=notes&verdict=deny&reason=terminal_required").await;
        let paths: Vec<_> = denied.iter().map(|record| record["path"].as_str()).collect();
        assert_eq!(paths, [Some("/other"), Some("/secret")], "newest first, without queries");
        assert_eq!(denied[0]["address"], "192.0.2.7");
        assert_eq!(denied[0].get("client_id"), None);
        recorded.until(1, "reason=unknown_app").await;
        for (query, count) in
            [("from=0", 4), ("to=1970-01-02T00:00:00Z", 0), ("from=4000000000", 0)]
        {
            assert_eq!(recorded.records(query).await.len(), count, "{query}");
        }

        let id = denied[1]["id"].as_str().expect("an id");
        let whole = recorded.json(&format!("/v1/requests/{id}")).await;
        assert_eq!(whole["id"], id);
        let steps = whole["steps"].as_array().expect("steps");
        assert_eq!(steps.last().expect("some")["outcome"], "terminal_required", "{whole}");
        assert!(!recorded.get("/v1/requests").await.body().contains("abc"), "no query is kept");
        assert_eq!(whole.get("salt"), None);

        let missing = recorded.get("/v1/requests/00000000000000ff-1").await;
        problem(&missing, 404);
        for (path, parameter) in [
            ("/v1/requests/x", "id"),
            ("/v1/requests?limit=501", "limit"),
            ("/v1/requests?kind=visits", "kind"),
            ("/v1/requests?when=now", "when"),
            ("/v1/events?from=soon", "from"),
            ("/v1/audit/x", "id"),
            ("/v1/deadletter?limit=0", "limit"),
        ] {
            let refused = problem(&recorded.get(path).await, 400);
            assert_eq!(refused["parameter"], parameter, "{path}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_follow_each_other_and_say_what_they_leave_out() {
    for store in Store::BOTH {
        let recorded = Recorded::new(store).await;
        for n in 0..7 {
            recorded.is_denied(&format!("/{n}")).await;
        }
        for _ in 0..5 {
            assert_eq!(recorded.porter.auth("notes.localhost", "/pub/x").await.status, 200);
        }
        recorded.until(7, "verdict=deny").await;
        let counted = recorded.until(1, "kind=grants").await;
        assert_eq!((&counted[0]["count"], &counted[0]["rule"]), (&json!(5), &json!("/pub/")));
        let page = recorded.json("/v1/requests?kind=grants").await;
        let left_out = json!({"rolled_up": 5, "dropped": 0, "in_spool": 0});
        assert_eq!((&page["left_out"], &page["next"]), (&left_out, &Value::Null));

        // Meanwhile they get their positions.
        let mut orders = Vec::new();
        for order in ["desc", "asc"] {
            let (mut paths, mut after) = (Vec::new(), String::new());
            loop {
                let path = format!("/v1/requests?verdict=deny&limit=2&order={order}{after}");
                let page = recorded.json(&path).await;
                let records = page["requests"].as_array().expect("a list");
                paths.extend(records.iter().map(|record| record["path"].to_string()));
                let Some(next) = page["next"].as_str() else { break };
                after = format!("&after={next}");
            }
            orders.push(paths);
        }
        orders[1].reverse();
        assert_eq!(orders[0], orders[1]);
        assert_eq!(orders[0].len(), 7);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_is_proved_by_the_public_key_alone_once_a_checkpoint_covers_it() {
    for store in Store::BOTH {
        let recorded = Recorded::new(store).await;
        recorded.is_denied("/").await;
        let denied = recorded.until(1, "kind=visit").await.remove(0);
        let path = format!("/v1/audit/{}", denied["id"].as_str().expect("an id"));
        let mut proof = None;
        poll("a proof", PATIENCE, async || {
            let response = recorded.get(&path).await;
            match response.status {
                202 => assert_eq!(response.text("retry-after"), Some("1")),
                200 => proof = Some(response.body().to_owned()),
                status => panic!("{status}: {}", response.body()),
            }
            proof.is_some()
        })
        .await;
        let (proof, key) = (proof.expect("polled for"), recorded.key());
        let proved = Proof::parse(&proof).expect("a proof").verify(&key).expect("valid");
        assert_eq!(proved.record.id.to_string(), denied["id"].as_str().expect("an id"));
        let altered = proof.replace("192.0.2.7", "192.0.2.8");
        assert_ne!(altered, proof);
        assert!(Proof::parse(&altered).expect("a proof").verify(&key).is_err());

        let masked = recorded.get(&format!("{path}?masked=true")).await;
        assert!(!masked.body().contains("192.0.2.7"), "{}", masked.body());
        Proof::parse(masked.body()).expect("a proof").verify(&key).expect("valid");

        let checkpoint = recorded.get("/v1/audit/checkpoint").await;
        assert_eq!(checkpoint.text("content-type"), Some("text/plain; charset=utf-8"));
        assert!(checkpoint.body().starts_with(key.name()), "{}", checkpoint.body());
        problem(&recorded.get("/v1/audit/00000000000000ff-1").await, 404);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_record_there_is_nothing_to_read_and_acts_are_done() {
    let recorded = Recorded::with(Store::Files, "enabled = false\n", "").await;
    recorded.is_denied("/").await;
    for path in ["/v1/requests", "/v1/events", "/v1/audit/checkpoint", "/v1/deadletter/stats"] {
        let refused = problem(&recorded.get(path).await, 404);
        assert!(refused["detail"].as_str().is_some_and(|text| text.contains("ledger.enabled")));
    }
    // It is declined for another reason: wake.enabled is false.
    assert_eq!(recorded.post("/v1/apps/notes/wake").await.status, 409);
    assert!(!recorded.sample.ledger().exists());
}
