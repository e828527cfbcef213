//! Endpoints over the API and on the command line, and what records tell.

use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use super::receiver::{Receiver, Reply};
use super::site::PATIENCE;
use crate::support::boxes::{SampleBox, Store};
use crate::support::client::{Connection, Request, Response, poll};
use crate::support::server::{Nightporter, config};

/// A box that serves its API.
pub struct Served {
    sample: SampleBox,
    porter: Nightporter,
}

impl Served {
    pub async fn new(store: Store, toml: &str) -> Self {
        let sample = SampleBox::new(store).await;
        let config = config(&format!("{}{toml}", sample.store_config()));
        let porter = Nightporter::start(config);
        porter.ready().await;
        let served = Self { sample, porter };
        poll("the archive is there", PATIENCE, async || {
            served.ask("GET", "/v1/webhooks", None).await.status == 200
        })
        .await;
        served
    }

    pub async fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Response {
        let body = body.map(Value::to_string).unwrap_or_default();
        let request = Request::new(method, path).header("Content-Length", body.len().to_string());
        self.send(request, &body).await
    }

    /// Sends a request that says how long its body is.
    pub async fn send(&self, request: Request, body: &str) -> Response {
        let mut connection = Connection::open(self.porter.ops).await.expect("it listens");
        let bytes = [request.bytes(), body.as_bytes().to_vec()].concat();
        connection.ask_bytes(&bytes).await.expect("a response")
    }

    pub async fn json(&self, method: &str, path: &str, body: Option<&Value>, status: u16) -> Value {
        let response = self.ask(method, path, body).await;
        assert_eq!(response.status, status, "{method} {path}: {}", response.body());
        serde_json::from_slice(&response.body).expect("JSON")
    }

    /// Runs a command of the program; returns its exit code and what it printed.
    async fn run(&self, arguments: &[&str]) -> (i32, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nightporter"));
        command.args(arguments).stdin(Stdio::null());
        command.env("NIGHTPORTER_OPS__LISTEN", self.porter.ops.to_string());
        command.env("NIGHTPORTER_STORE__PATH", self.sample.folder());
        let output = tokio::task::spawn_blocking(move || command.output().expect("runs"));
        let Output { status, stdout, stderr } = output.await.expect("no panic");
        let text = String::from_utf8([stdout, stderr].concat()).expect("text");
        (status.code().expect("no signal"), text)
    }
}

pub const ALLOW: &str = "[webhooks]\nallow = [\"127.0.0.1\"]\n[jobs]\nintegrity = \"300ms\"\n\
                     messages = \"300ms\"\n";

async fn lifecycle_on(store: Store) {
    let served = Served::new(store, ALLOW).await;
    let receiver = Receiver::start().await;
    let draft = json!({"name": "hook", "kind": "webhook", "url": receiver.url("/in?key=SECRET"),
                       "events": ["*"]});
    let created = served.json("POST", "/v1/webhooks", Some(&draft), 201).await;
    let secret = created["secret"].as_str().expect("shown once").to_owned();
    assert!(secret.starts_with("whsec_"), "{created}");
    assert_eq!(created["origin"], "api");
    // Afterwards neither the secret nor what may be one in the URL is shown.
    for path in ["/v1/webhooks", "/v1/webhooks/hook"] {
        let shown = served.json("GET", path, None, 200).await.to_string();
        assert!(!shown.contains("SECRET") && !shown.contains(&secret), "{shown}");
        assert!(shown.contains(&receiver.url("")), "{shown}");
    }
    served.json("POST", "/v1/webhooks", Some(&draft), 409).await;

    let tested = served.json("POST", "/v1/webhooks/hook/test", None, 202).await;
    let event = tested["event"].as_str().expect("an id").to_owned();
    let mut log = Value::Null;
    poll("the test is delivered", PATIENCE, async || {
        let path = format!("/v1/webhooks/hook/logs?event={}", event.replace(':', "%3A"));
        log = served.json("GET", &path, None, 200).await;
        log["attempts"][0]["outcome"] == "delivered"
    })
    .await;
    assert_eq!(log["attempts"][0]["status"], 204);
    assert_eq!(receiver.received()[0].header("webhook-id"), event);

    let rotated = served.json("POST", "/v1/webhooks/hook/rotate", None, 200).await;
    assert_ne!(rotated["secret"], secret.as_str());
    assert!(rotated["former_secret_until"].is_string(), "{rotated}");
    served.json("POST", "/v1/webhooks/hook/test", None, 202).await;
    poll("two signatures", PATIENCE, async || receiver.received().len() == 2).await;
    let signatures = receiver.received()[1].header("webhook-signature").to_owned();
    assert_eq!(signatures.split(' ').count(), 2, "{signatures}");

    // The receiver is gone, and comes back.
    receiver.reply([Reply::status(410)]);
    served.json("POST", "/v1/webhooks/hook/test", None, 202).await;
    poll("it is disabled", PATIENCE, async || {
        let shown = served.json("GET", "/v1/webhooks/hook", None, 200).await;
        shown["disabled"]["reason"].as_str().is_some_and(|reason| reason.contains("410"))
    })
    .await;
    served.json("POST", "/v1/webhooks/hook/test", None, 409).await;
    let enabled = served.json("POST", "/v1/webhooks/hook/enable", None, 200).await;
    assert_eq!(enabled["disabled"], Value::Null);

    // Pages of the log, the newest first.
    let first = served.json("GET", "/v1/webhooks/hook/logs?limit=2", None, 200).await;
    let next = first["next"].as_str().expect("more").replace(':', "%3A");
    let path = format!("/v1/webhooks/hook/logs?limit=2&after={next}");
    let second = served.json("GET", &path, None, 200).await;
    assert_eq!(first["attempts"].as_array().map(Vec::len), Some(2));
    assert_eq!(second["attempts"].as_array().map(Vec::len), Some(1));
    assert_eq!(second["next"], Value::Null);

    served.json("DELETE", "/v1/webhooks/hook", None, 200).await;
    for (method, path) in [
        ("GET", "/v1/webhooks/hook"),
        ("GET", "/v1/webhooks/hook/logs"),
        ("DELETE", "/v1/webhooks/hook"),
        ("POST", "/v1/webhooks/hook/test"),
        ("POST", "/v1/webhooks/hook/enable"),
        ("POST", "/v1/webhooks/hook/rotate"),
    ] {
        served.json(method, path, None, 404).await;
    }
    // What was done is in the record.
    let acts = served.json("GET", "/v1/requests?kind=act&order=asc", None, 200).await;
    let acts: Vec<_> = acts["requests"].as_array().expect("records").clone();
    let reasons: Vec<_> = acts.iter().filter_map(|act| act["reason"].as_str()).collect();
    for reason in ["add_endpoint", "rotate_endpoint", "enable_endpoint", "remove_endpoint"] {
        assert_eq!(reasons.iter().filter(|other| **other == reason).count(), 1, "{reasons:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_is_created_tested_rotated_enabled_and_removed_sqlite() {
    lifecycle_on(Store::Files).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_is_created_tested_rotated_enabled_and_removed_postgres() {
    lifecycle_on(Store::Postgres).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_with_a_mistake_is_not_created_and_the_problem_names_the_field() {
    let served = Served::new(Store::Files, "").await;
    let of = |field: &str, value: Value| {
        let mut draft = json!({"name": "a", "kind": "webhook", "url": "https://hooks.example/"});
        draft[field] = value;
        draft
    };
    for (draft, parameter, said) in [
        (of("url", json!("http://127.0.0.1/")), "url", "[webhooks]"),
        (of("url", json!("http://0x7f.1/")), "url", "add `allow = [\"127.0.0.1\"]`"),
        (of("url", json!("https://169.254.169.254/")), "url", "never sent to"),
        (of("url", json!("https://a:b@hooks.example/")), "url", "user name"),
        (of("url", json!("nowhere")), "url", "expected `https://"),
        (of("name", json!("a b")), "name", "64 letters"),
        (of("secret", json!("whsec_x")), "secret", "24 to 64 bytes"),
        (of("token", json!("t")), "token", "no token"),
        (of("events", json!([])), "events", "gets no messages"),
        (of("kind", json!("gotify")), "token", "application"),
    ] {
        let problem = served.json("POST", "/v1/webhooks", Some(&draft), 400).await;
        assert_eq!(problem["parameter"], parameter, "{draft}: {problem}");
        assert!(problem["detail"].as_str().expect("text").contains(said), "{problem}");
    }
    for draft in [
        of("kind", json!("email")),
        of("events", json!(["alert.unknown"])),
        of("quiet", json!("22-7")),
        of("allow", json!(["127.0.0.1"])),
        json!([]),
        json!(["a", "webhook", "https://hooks.example/", null, null, null, [], null, false]),
        json!({}),
    ] {
        served.json("POST", "/v1/webhooks", Some(&draft), 400).await;
    }
    let list = served.json("GET", "/v1/webhooks", None, 200).await;
    assert_eq!(list["endpoints"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_does_what_the_api_does() {
    let receiver = Receiver::start().await;
    let configured = format!(
        "[[endpoint]]\nname = \"phone\"\nkind = \"ntfy\"\nurl = \"{}\"\nallow = [\"127.0.0.1\"]\n",
        receiver.url("/my-topic")
    );
    let served = Served::new(Store::Files, &format!("{ALLOW}{configured}")).await;
    poll("the configured endpoint is known", PATIENCE, async || {
        served.run(&["webhook", "list"]).await.1.contains("phone")
    })
    .await;
    let (code, text) = served.run(&["webhook", "test", "phone"]).await;
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("delivered 204"), "{text}");
    let (code, text) =
        served.run(&["webhook", "add", "hook", &receiver.url("/"), "--events", "app.*"]).await;
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("whsec_"), "{text}");
    let (code, text) = served.run(&["webhook", "list"]).await;
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("phone") && text.contains("configuration"), "{text}");
    assert!(text.contains("app.*") && !text.contains("my-topic"), "{text}");
    receiver.reply([Reply::status(500)]);
    let (code, text) = served.run(&["webhook", "test", "hook", "--json"]).await;
    assert_eq!(code, 1, "{text}");
    let attempt: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(attempt["status"], 500);
    let (code, text) = served.run(&["webhook", "logs", "hook", "--json"]).await;
    assert_eq!((code, text.contains("answered 500")), (0, true), "{text}");
    let (code, text) = served.run(&["webhook", "disable", "hook"]).await;
    assert_eq!((code, text.contains("hook: disabled")), (0, true), "{text}");
    let (_, text) = served.run(&["webhook", "list"]).await;
    assert!(text.lines().any(|line| line.contains("hook") && line.contains("disabled")), "{text}");
    assert_eq!(served.run(&["webhook", "enable", "hook"]).await.0, 0);
    assert_eq!(served.run(&["webhook", "disable", "phone"]).await.0, 2);
    let (code, text) = served.run(&["webhook", "remove", "phone"]).await;
    assert_eq!((code, text.contains("belongs to the configuration")), (2, true), "{text}");
    assert_eq!(served.run(&["webhook", "remove", "hook"]).await.0, 0);
    assert_eq!(served.run(&["webhook", "test", "hook"]).await.0, 1);
}
