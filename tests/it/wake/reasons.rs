//! An app that does not come up says why: to the operator in full, to who asked for it
//! as much as a visitor may know.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Instant;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpListener;

use super::{
    LONG, NO_SLEEP, Stage, in_background, known, person, program, served, state, until_granted,
    until_state,
};
use crate::support::boxes::Store;
use crate::support::docker::apps::{App, Plan, Service};
use crate::support::programs::free_address;
use crate::support::server::Nightporter;

/// Long enough for no second attempt to be made meanwhile.
const ONCE: &str = "throttle = \"1h\"\nlongest_backoff = \"1h\"\n";

/// Asks for an app that cannot be woken: what the operator is told, and what who asked.
async fn failed(porter: &Nightporter, app: &App) -> (String, String) {
    let response = served(porter, &program(app)).await;
    assert_eq!(response.status, 503, "{response:?}");
    assert_eq!(response.text("content-type"), Some("application/problem+json"));
    let problem: Value = serde_json::from_slice(&response.body).expect("JSON");
    assert_eq!((&problem["state"], &problem["status"]), (&json!("failed"), &json!(503)));
    let known = known(porter, &app.name).await;
    assert_eq!(known["state"], "failed", "{known}");
    assert_eq!(known["last_failure"]["reason"], known["reason"], "{known}");
    assert!(known["last_failure"]["at"].is_string(), "{known}");
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    (text(&known["reason"]), text(&problem["detail"]))
}

#[tokio::test]
async fn a_health_check_that_never_passes_is_named() {
    let stage = Stage::new(Store::Files).await;
    // Nobody listens either: one that does is let through.
    let sick = Service::new("web").health_check().env("START_DELAY_MS", 3_600_000);
    let app = stage.stopped(Plan::of("sick", vec![sick])).await;
    let porter = stage.porter(&format!("{ONCE}start_timeout = \"30s\"\n"), NO_SLEEP).await;
    until_state(&porter, &app, "stopped", LONG).await;
    let (reason, detail) = failed(&porter, &app).await;
    assert_eq!(reason, format!("the health check of container {} fails", app.name));
    assert!(detail.contains("health check"), "{detail}");
    // It runs, and is not let through all the same.
    assert_eq!(app.state().await, "running");
    assert_eq!(porter.ask(&person(&app)).await.status, 503);
}

#[tokio::test]
async fn an_app_is_let_through_when_its_health_check_passes() {
    let stage = Stage::new(Store::Postgres).await;
    let late = Service::new("web").health_check().env("HEALTH_AFTER_MS", 2500);
    let held = stage.stopped(Plan::of("held", vec![late.clone()])).await;
    let paged = stage.stopped(Plan::of("paged", vec![late])).await;
    let porter = stage.porter(ONCE, NO_SLEEP).await;
    until_state(&porter, &held, "stopped", LONG).await;
    until_state(&porter, &paged, "stopped", LONG).await;

    let page = porter.ask(&person(&paged)).await;
    assert_eq!(page.status, 503, "{page:?}");
    let asking = in_background(&porter, &program(&held));
    until_state(&porter, &held, "awaiting_health", LONG).await;
    let response = asking.await.expect("no panic").expect("an answer");
    assert_eq!(response.status, 200, "{response:?}");
    let health = "{{.State.Health.Status}}";
    let is = stage.apps.engine.inspect(&held.name, health).await;
    assert_eq!(is.as_deref(), Some("healthy"), "let through before it was well");

    // A page's question is answered by the same event.
    let version = async || {
        let asked = program(&paged).header("X-Nightporter-Poll", "0");
        let answer = porter.ask(&asked).await;
        (answer.status, answer.body().to_owned())
    };
    let began = Instant::now();
    while state(&porter, &paged).await != "awake" {
        let _news = version().await;
        assert!(began.elapsed() < LONG);
    }
    let is = stage.apps.engine.inspect(&paged.name, health).await;
    assert_eq!(is.as_deref(), Some("healthy"));
    until_granted(&porter, &person(&paged)).await;
}

/// A registry that has nothing: the distribution interface's words for it.
async fn empty_registry() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut stream = BufReader::new(stream);
                let (mut first, mut line) = (String::new(), String::from("x"));
                stream.read_line(&mut first).await?;
                while !line.trim().is_empty() {
                    line.clear();
                    stream.read_line(&mut line).await?;
                }
                let body =
                    r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#;
                let (status, body) = match first.split(' ').nth(1) {
                    Some("/v2/") => ("200 OK", "{}"),
                    _ => ("404 Not Found", body),
                };
                let head = format!(
                    "HTTP/1.1 {status}\r\nContent-Type: application/json\r\n\
                     Content-Length: {}\r\nConnection: close\r\n\r\n",
                    body.len()
                );
                let body = if first.starts_with("HEAD") { "" } else { body };
                stream.write_all([&head, body].concat().as_bytes()).await
            });
        }
    });
    address
}

#[tokio::test]
async fn a_missing_image_is_named() {
    let stage = Stage::new(Store::Postgres).await;
    let registry = empty_registry().await;
    let nobody = free_address();
    let mut apps = Vec::new();
    for address in [registry, nobody] {
        let image = format!("{address}/nightporter-test/absent:1");
        let service = Service::new("web").with("image", image.clone());
        let plan = Plan::of("absent", vec![service]);
        apps.push((stage.apps.install(&stage.sample, plan).await, image));
    }
    let porter = stage.porter(ONCE, NO_SLEEP).await;
    for (app, image) in &apps {
        until_state(&porter, app, "missing", LONG).await;
        let (reason, detail) = failed(&porter, app).await;
        assert!(reason.contains(image), "{reason}");
        assert!(!detail.contains(image), "its registry is the box's own affair: {detail}");
        if image.starts_with(&registry.to_string()) {
            assert_eq!(reason, format!("image {image} is missing"));
            assert!(detail.contains("There is no image nightporter-test/absent:1"), "{detail}");
        } else {
            assert!(reason.contains("cannot be fetched"), "{reason}");
            assert!(detail.contains("image nightporter-test/absent:1 could not"), "{detail}");
        }
        assert_eq!(app.state().await, "missing");
    }
}

#[tokio::test]
async fn a_compose_that_is_not_there_is_named() {
    let stage = Stage::new(Store::Postgres).await;
    let app = stage.apps.install(&stage.sample, Plan::new("uncomposed")).await;
    let wake = format!("{ONCE}compose_command = \"/nonexistent/compose --quietly\"\n");
    let porter = stage.porter(&wake, NO_SLEEP).await;
    until_state(&porter, &app, "missing", LONG).await;
    let (reason, detail) = failed(&porter, &app).await;
    assert!(reason.starts_with("compose: /nonexistent/compose: "), "{reason}");
    assert!(!detail.contains("/nonexistent"), "not for every visitor: {detail}");

    // The engine needs no Compose for an app whose container is there.
    let app = stage.stopped(Plan::new("made")).await;
    // Asked for before that is known, it would be missing, and wait an hour after that.
    until_state(&porter, &app, "stopped", LONG).await;
    until_granted(&porter, &program(&app)).await;
    assert!(app.answers().await);
}

#[tokio::test]
async fn an_exit_code_is_named_and_forgotten_when_it_comes_up() {
    let stage = Stage::new(Store::Files).await;
    let app = stage.stopped(Plan::new("twice").env("FAIL_STARTS", 1)).await;
    let porter = stage.porter(ONCE, NO_SLEEP).await;
    until_state(&porter, &app, "stopped", LONG).await;
    let (reason, detail) = failed(&porter, &app).await;
    assert_eq!(reason, format!("container {} exited with code 3", app.name));
    assert!(detail.contains("ended by itself"), "{detail}");
    // An operator's order does not wait.
    let done = super::order(&porter, &app, "wake").await;
    assert_eq!(done.status, 200, "{done:?}");
    let known = known(&porter, &app.name).await;
    assert_eq!((&known["state"], &known["reason"]), (&json!("awake"), &Value::Null), "{known}");
    // What was is kept for the operator.
    assert_eq!(known["last_failure"]["reason"], reason, "{known}");
    // It is awake, whatever the backoff: that is an hour.
    assert_eq!(porter.ask(&program(&app)).await.status, 200);
}
