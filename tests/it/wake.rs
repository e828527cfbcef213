//! Sleep and waking: real containers, and every word that nightporter has with
//! their engine.

mod activity;
mod alerts;
mod answers;
pub mod browser;
mod burst;
mod clock;
mod denied;
mod ended;
mod faults;
mod firefox;
mod gone;
mod habits;
mod health;
mod held;
mod hung_mount;
mod idle;
mod interrupted;
mod journey;
mod limits;
mod monitoring;
mod naming;
mod page;
mod pausing;
mod podman;
mod probes;
mod processes;
mod proxies;
mod quiet;
mod races;
mod reasons;
mod recorded;
mod recreate;
mod redirects;
mod restart;
mod rows;
mod scripts;
mod selection;
mod shared;
mod strangers;
mod strategies;
mod streams;
mod swarm;
mod tls;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use crate::support::boxes::{SampleBox, Store};
use crate::support::client::{Connection, Request, Response, ask, poll};
use crate::support::docker::apps::{App, Apps, Plan};
use crate::support::docker::engine::Engine;
use crate::support::docker::proxy::EngineProxy;
use crate::support::server::Nightporter;

/// What anything may take on a busy machine. Less than the five minutes after which the
/// engine is listed anew unasked: what is known within it is known by an event.
const LONG: Duration = Duration::from_secs(200);

/// As long as a request may be held: a start may take longer on a busy machine, and then
/// the request is sent again by [`served`].
const PATIENT: &str = "start_timeout = \"5m\"\n";

/// `[sleep]` where nothing is to be put to sleep.
const NO_SLEEP: &str = "enabled = false\n";

/// A box whose apps are containers, and a watched door to their engine.
struct Stage {
    sample: SampleBox,
    apps: Apps,
    proxy: EngineProxy,
}

impl Stage {
    async fn new(store: Store) -> Self {
        Self::on(&Engine::shared(), store).await
    }

    async fn on(engine: &Arc<Engine>, store: Store) -> Self {
        let sample = SampleBox::new(store).await;
        if store == Store::Postgres {
            // As its owner's console writes it: a box that is large enough for all.
            let sql = r#"INSERT INTO kv_store VALUES ('profile', '{"vm_size": "xl"}')"#;
            sample.database().execute(sql, &[]).await;
        }
        let apps = Apps::on(engine).await;
        Self { sample, apps, proxy: EngineProxy::before(engine).await }
    }

    /// A stopped app: its container was made, and never started. Made without Compose
    /// where that makes no difference: it takes more of a processor than all else.
    async fn stopped(&self, plan: Plan) -> App {
        let app = self.apps.install(&self.sample, plan).await;
        if app.is_simple() {
            app.create_quickly().await;
        } else {
            app.create().await;
        }
        app
    }

    async fn running(&self, plan: Plan) -> App {
        let app = self.apps.install(&self.sample, plan).await;
        if app.is_simple() {
            app.create_quickly().await;
            app.all("start").await;
        } else {
            app.up().await;
        }
        app.until_it_answers().await;
        app
    }

    /// nightporter, with these lines of `[wake]` and `[sleep]`.
    async fn porter(&self, wake: &str, sleep: &str) -> Nightporter {
        Nightporter::with(&self.sample, &self.config(wake, sleep)).await
    }

    fn config(&self, wake: &str, sleep: &str) -> String {
        Self::config_at(&self.proxy.host(), wake, sleep)
    }

    /// The same by way of another door to the engine.
    fn config_at(docker: &str, wake: &str, sleep: &str) -> String {
        // What is held in vain is told so, where a test does not want it sent round.
        let told = if wake.contains("max_redirects") { "" } else { "max_redirects = 0\n" };
        let patient = if wake.contains("start_timeout") { "" } else { PATIENT };
        format!(
            "[wake]\nenabled = true\ndocker = \"{docker}\"\n{told}{patient}{wake}[sleep]\n{sleep}"
        )
    }
}

/// A program's question for an app's page: held while it sleeps.
fn program(app: &App) -> Request {
    Request::auth(format!("{}.box.example", app.name), "/").header("Sec-Fetch-Mode", "cors")
}

/// A person's: answered by a page while it sleeps.
fn person(app: &App) -> Request {
    Request::auth(format!("{}.box.example", app.name), "/")
        .header("Sec-Fetch-Mode", "navigate")
        .header("Accept", "text/html")
}

/// What is known of an app.
async fn known(porter: &Nightporter, name: &str) -> Value {
    let response = ask(porter.ops, &Request::new("GET", "/v1/apps")).await;
    assert_eq!(response.status, 200, "{response:?}");
    let apps: Value = serde_json::from_slice(&response.body).expect("JSON");
    let mut apps = apps.as_array().expect("an array").iter();
    apps.find(|app| app["name"] == name).cloned().unwrap_or_default()
}

async fn state(porter: &Nightporter, app: &App) -> String {
    known(porter, &app.name).await["state"].as_str().unwrap_or("unknown").to_owned()
}

/// Fails unless the app is known to be in that state within that time; awake by what its
/// containers do, and not since the engine was not listed yet.
async fn until_state(porter: &Nightporter, app: &App, expected: &str, within: Duration) {
    let began = std::time::Instant::now();
    loop {
        let known = known(porter, &app.name).await;
        let is_listed = known["containers"].as_array().is_some_and(|all| !all.is_empty());
        if known["state"] == expected && (is_listed || expected != "awake") {
            return;
        }
        assert!(began.elapsed() < within, "not {expected} within {within:?}: {known}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// An operator's order: `wake`, `sleep` or `pause`.
async fn order(porter: &Nightporter, app: &App, operation: &str) -> Response {
    let path = format!("/v1/apps/{}/{operation}", app.name);
    ask(porter.ops, &Request::new("POST", &path)).await
}

/// Asks once, and once more for as long as what is told is that the app still starts.
async fn served(porter: &Nightporter, request: &Request) -> Response {
    poll_served(porter.gate, request).await.expect("an answer")
}

async fn poll_served(gate: SocketAddr, request: &Request) -> std::io::Result<Response> {
    let began = std::time::Instant::now();
    loop {
        let response = Connection::open(gate).await?.ask(request).await?;
        if !is_held_in_vain(&response) || began.elapsed() > LONG {
            return Ok(response);
        }
    }
}

/// Whether a request was held for as long as one may be, and the app comes up yet.
fn is_held_in_vain(response: &Response) -> bool {
    let problem: Value = serde_json::from_slice(&response.body).unwrap_or_default();
    let under_way =
        ["queued", "starting", "unpausing", "awaiting_port", "awaiting_health", "stopped"];
    response.status == 503 && under_way.iter().any(|state| problem["state"] == *state)
}

/// Asks until it is granted.
async fn until_granted(porter: &Nightporter, request: &Request) {
    poll("it is granted", LONG, async || porter.ask(request).await.status == 200).await;
}

/// Asks over a connection of its own, in a task of its own; as [`served`] does.
fn in_background(
    porter: &Nightporter,
    request: &Request,
) -> tokio::task::JoinHandle<std::io::Result<Response>> {
    let (gate, request) = (porter.gate, request.clone());
    tokio::spawn(async move { poll_served(gate, &request).await })
}
