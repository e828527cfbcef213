//! A health check is a hint: it may say nothing for minutes, or no for ever.

use serde_json::{Value, json};

use super::idle::SLEEP;
use super::{LONG, NO_SLEEP, Stage, known, order, program, until_granted, until_state};
use crate::support::boxes::Store;
use crate::support::client::poll;
use crate::support::docker::apps::{Plan, Service};

const QUICK: &str = "throttle = \"1ms\"\n";

fn checked(check: Value) -> Service {
    Service::new("web").with("healthcheck", check)
}

async fn health(stage: &Stage, container: &str) -> String {
    let health = "{{with .State.Health}}{{.Status}}{{else}}none{{end}}";
    stage.apps.engine.inspect(container, health).await.expect("it is there")
}

#[tokio::test]
async fn a_check_that_says_nothing_yet_is_not_waited_for() {
    let stage = Stage::new(Store::Files).await;
    let seldom = json!({"test": ["CMD", "/app", "healthcheck"], "interval": "30m"});
    let never = json!({"test": ["NONE"]});
    let porter = stage.porter(QUICK, NO_SLEEP).await;
    for (check, expected) in [(seldom, "starting"), (never, "none")] {
        let app = stage.stopped(Plan::of("seldom", vec![checked(check)])).await;
        until_state(&porter, &app, "stopped", LONG).await;
        until_granted(&porter, &program(&app)).await;
        assert!(app.answers().await);
        assert_eq!(health(&stage, &app.name).await, expected);
        assert_eq!(known(&porter, &app.name).await["last_failure"], Value::Null);
    }
}

#[tokio::test]
async fn a_check_that_never_passes_locks_nobody_out() {
    let stage = Stage::new(Store::Postgres).await;
    let wrong = json!({"test": ["CMD", "/nonexistent"], "interval": "500ms", "retries": 1});
    let plan = |label| Plan::of(label, vec![checked(wrong.clone())]);
    // One that served before nightporter came, and one that it wakes first.
    let before = stage.running(plan("before")).await;
    poll("it fails", LONG, async || health(&stage, &before.name).await == "unhealthy").await;
    let first = stage.stopped(plan("first")).await;
    let porter = stage.porter(QUICK, NO_SLEEP).await;
    until_state(&porter, &before, "awake", LONG).await;
    assert_eq!(order(&porter, &before, "sleep").await.status, 200);
    for app in [&before, &first] {
        until_state(&porter, app, "stopped", LONG).await;
        for operation in ["sleep", "pause"] {
            until_granted(&porter, &program(app)).await;
            assert!(app.answers().await);
            assert_ne!(health(&stage, &app.name).await, "healthy");
            let known = known(&porter, &app.name).await;
            assert_eq!(known["last_failure"], Value::Null, "{known}");
            assert_eq!(order(&porter, app, operation).await.status, 200);
        }
    }
}

#[tokio::test]
async fn a_check_that_gives_up_before_the_app_listens_is_heard_again() {
    let stage = Stage::new(Store::Files).await;
    let check = json!({"test": ["CMD", "/app", "healthcheck"], "interval": "300ms", "retries": 1});
    let slow = checked(check).env("START_DELAY_MS", 2500);
    let app = stage.stopped(Plan::of("early", vec![slow])).await;
    let porter = stage.porter(QUICK, NO_SLEEP).await;
    until_state(&porter, &app, "stopped", LONG).await;
    until_granted(&porter, &program(&app)).await;
    assert!(app.answers().await);
    let known = known(&porter, &app.name).await;
    assert_eq!(known["last_failure"], Value::Null, "{known}");
}

/// Of a check that hangs the engine keeps a command in the container.
#[tokio::test]
async fn a_check_that_hangs_keeps_nobody_out_and_nobody_awake() {
    let stage = Stage::new(Store::Files).await;
    let lifecycle = json!({"always_on": false, "idle_for_pause": 5});
    let hangs = |timeout: &str| {
        let check = json!({
            "test": ["CMD", "/app", "wait"], "interval": "500ms", "timeout": timeout, "retries": 1,
        });
        Plan::of("hangs", vec![checked(check)]).meta("lifecycle", lifecycle.clone())
    };
    // One that the engine gives up, and one that it waits for longer than anybody here.
    let given_up = stage.stopped(hangs("1s")).await;
    let waited_for = stage.stopped(hangs("1h")).await;
    let porter = stage.porter(QUICK, SLEEP).await;
    for app in [&given_up, &waited_for] {
        until_state(&porter, app, "stopped", LONG).await;
    }
    let wakes = async |app: &crate::support::docker::apps::App| {
        until_granted(&porter, &program(app)).await;
        assert!(app.answers().await);
        let known = known(&porter, &app.name).await;
        assert_eq!(known["last_failure"], Value::Null, "{known}");
    };
    tokio::join!(wakes(&given_up), wakes(&waited_for));
    assert_eq!(health(&stage, &waited_for.name).await, "starting");
    for app in [&given_up, &waited_for] {
        poll("it sleeps all the same", LONG, async || app.state().await == "paused").await;
    }
    tokio::join!(wakes(&given_up), wakes(&waited_for));
}
