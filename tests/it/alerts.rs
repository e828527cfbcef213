//! Alerts: each from a real cause, told once when it begins and once when it ends.

mod api;
mod causes;
mod killed;
mod replicas;
mod storms;

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::boxes::{SampleBox, Store};
use crate::support::client::{Request, Response, ask, poll};
use crate::support::server::{Nightporter, config};

/// What anything may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A box with a private app, as the operator sees its alerts.
struct Watched {
    sample: SampleBox,
    porter: Nightporter,
}

impl Watched {
    /// With these lines of `[alerts]`.
    async fn new(store: Store, alerts: &str) -> Self {
        let sample = SampleBox::new(store).await;
        add_app(&sample).await;
        let porter = Nightporter::with(&sample, &section(alerts)).await;
        Self { sample, porter }
    }

    /// With a whole configuration.
    async fn of(sample: SampleBox, toml: &str) -> Self {
        let porter = Nightporter::start(config(toml));
        porter.ready().await;
        Self { sample, porter }
    }

    /// Asks for a page of the app without a credential.
    async fn is_denied(&self, address: &str) {
        let request = Request::auth("notes.localhost", "/").header("X-Forwarded-For", address);
        assert_eq!(self.porter.ask(&request).await.status, 401);
    }

    async fn alerts(&self, query: &str) -> Vec<Value> {
        alerts(&self.porter, query).await
    }

    /// Waits until the only alert of a rule fires, and returns it.
    async fn fires(&self, rule: &str) -> Value {
        fires(&self.porter, rule).await
    }

    /// Waits until no alert of the rule fires.
    async fn resolves(&self, rule: &str) {
        resolves(&self.porter, rule).await;
    }

    /// Returns the states in the history of an alert, the oldest first.
    async fn history(&self, alert: &Value) -> Vec<Value> {
        let path = format!("/v1/alerts/{}/history", id(alert));
        let body = get(&self.porter, &path).await;
        let changes = body["changes"].as_array().expect("a list").iter().rev();
        changes.map(|change| change["state"].clone()).collect()
    }

    async fn post(&self, path: &str, body: &str) -> Response {
        let request = Request::new("POST", path)
            .header("Content-Type", "application/json")
            .header("Content-Length", body.len().to_string());
        let bytes = [request.bytes(), body.as_bytes().to_vec()].concat();
        let connection = crate::support::client::Connection::open(self.porter.ops).await;
        connection.expect("it listens").ask_bytes(&bytes).await.expect("an answer")
    }
}

/// Returns `[alerts]` with these lines, and short times where they give none.
fn section(alerts: &str) -> String {
    let calm = if alerts.contains("calm") { "" } else { "calm = \"100ms\"\n" };
    // The disk of this machine is no test's concern.
    let disk = if alerts.contains("disk_low") { "" } else { "disk_low = \"1 B\"\n" };
    format!("[alerts]\n{calm}{disk}{alerts}")
}

async fn add_app(sample: &SampleBox) {
    let paths = json!({"": {"access": "private"}, "/pub/": {"access": "public"},
                       "/peer/": {"access": "peer"}});
    sample.add_app("notes", &paths).await;
}

fn id(alert: &Value) -> &str {
    alert["id"].as_str().expect("an id")
}

async fn get(porter: &Nightporter, path: &str) -> Value {
    let response = ask(porter.ops, &Request::new("GET", path)).await;
    assert_eq!(response.status, 200, "{path}: {}", response.body());
    serde_json::from_slice(&response.body).expect("JSON")
}

async fn alerts(porter: &Nightporter, query: &str) -> Vec<Value> {
    let page = get(porter, &format!("/v1/alerts?limit=500&{query}")).await;
    page["alerts"].as_array().expect("a list").clone()
}

pub async fn fires(porter: &Nightporter, rule: &str) -> Value {
    let mut found = Vec::new();
    poll(&format!("{rule} fires"), PATIENCE, async || {
        found = alerts(porter, &format!("state=firing&rule={rule}")).await;
        !found.is_empty()
    })
    .await;
    assert_eq!(found.len(), 1, "{found:#?}");
    let alert = found.remove(0);
    for field in ["title", "help", "since"] {
        assert!(alert[field].as_str().is_some_and(|text| !text.is_empty()), "{alert}");
    }
    // Another process may have written it: this one shows what it has seen itself.
    poll(&format!("{rule} is shown"), PATIENCE, async || {
        let health = get(porter, "/healthz").await;
        let shown = health["alerts"].as_array().expect("a list");
        shown.iter().any(|shown| shown["rule"] == rule) && metric(porter, rule).await >= 1
    })
    .await;
    alert
}

pub async fn resolves(porter: &Nightporter, rule: &str) {
    poll(&format!("{rule} resolves"), PATIENCE, async || {
        alerts(porter, &format!("state=firing&rule={rule}")).await.is_empty()
    })
    .await;
    poll(&format!("the metric of {rule} falls"), PATIENCE, async || {
        metric(porter, rule).await == 0
    })
    .await;
}

async fn metric(porter: &Nightporter, rule: &str) -> u64 {
    let metrics = ask(porter.ops, &Request::new("GET", "/metrics")).await;
    let name = format!("nightporter_alerts_firing{{rule=\"{rule}\"}} ");
    let line = metrics.body().lines().find_map(|line| line.strip_prefix(&name));
    line.expect("there is one for each rule").parse().expect("a number")
}
