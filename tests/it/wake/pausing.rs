//! Engines, and proxies before them, that do not pause; and what an order answers.

use http::StatusCode;
use serde_json::{Value, json};

use super::idle::SLEEP;
use super::{LONG, NO_SLEEP, Stage, order, program, until_granted, until_state};
use crate::support::boxes::Store;
use crate::support::client::poll;
use crate::support::docker::apps::{Plan, Service};

fn all_but_pause(_: &str, path: &str) -> bool {
    !path.ends_with("/pause")
}

fn all_but_unpause(_: &str, path: &str) -> bool {
    !path.ends_with("/unpause")
}

fn all(_: &str, _: &str) -> bool {
    true
}

#[tokio::test]
async fn where_pausing_is_forbidden_apps_are_stopped_at_their_time() {
    let stage = Stage::new(Store::Postgres).await;
    let lifecycle = json!({"always_on": false, "idle_for_pause": 5, "idle_for_stop": 7});
    let mut apps = Vec::new();
    for label in ["one", "two"] {
        apps.push(stage.running(Plan::new(label).meta("lifecycle", lifecycle.clone())).await);
    }
    stage.proxy.allow_only(all_but_pause);
    let porter = stage.porter("throttle = \"1ms\"\n", SLEEP).await;
    for app in &apps {
        until_state(&porter, app, "stopped", LONG).await;
        poll("it is stopped", LONG, async || app.state().await == "exited").await;
    }
    // Both may have been due at one time; it is never tried again.
    let refused = stage.proxy.calls("POST", "/pause").len();
    assert!((1..=2).contains(&refused), "{refused}");
    let (app, other) = (&apps[0], &apps[1]);
    until_granted(&porter, &program(app)).await;
    until_state(&porter, app, "stopped", LONG).await;
    assert_eq!(stage.proxy.calls("POST", "/pause").len(), refused);
    // Ordered, it is tried.
    until_granted(&porter, &program(app)).await;
    let done = order(&porter, app, "pause").await;
    assert_eq!(done.status, 409, "{done:?}");
    assert!(done.body().contains("does not pause"), "{done:?}");
    assert_eq!(app.state().await, "running");
    // A proxy that allows it by now is believed.
    stage.proxy.allow_only(all);
    let done = order(&porter, app, "pause").await;
    assert_eq!(done.status, 200, "{done:?}");
    until_granted(&porter, &program(other)).await;
    until_state(&porter, other, "paused", LONG).await;
}

#[tokio::test]
async fn a_busy_machine_and_an_earlier_proxy_do_not_end_pausing() {
    let stage = Stage::new(Store::Files).await;
    let lifecycle = json!({"always_on": false, "idle_for_pause": 5, "idle_for_stop": 3600});
    let plan = |label| Plan::new(label).meta("lifecycle", lifecycle.clone());
    // The other is not running yet, so it is not due while pausing is refused.
    let (app, other) = (stage.running(plan("busy")).await, stage.stopped(plan("other")).await);
    let (app, other) = (&app, &other);
    stage.proxy.refuse_with(
        StatusCode::INTERNAL_SERVER_ERROR,
        r#"{"message":"Cannot pause container 8e6b: OCI runtime pause failed: unable to freeze: unknown"}"#,
    );
    stage.proxy.allow_only(all_but_pause);
    let porter = stage.porter("throttle = \"1ms\"\n", SLEEP).await;
    // nightporter may answer before it has connected to the engine.
    until_state(&porter, app, "awake", LONG).await;
    let done = order(&porter, app, "pause").await;
    assert_eq!(done.status, 409, "{done:?}");
    stage.proxy.allow_only(all);
    until_granted(&porter, &program(other)).await;
    until_state(&porter, other, "paused", LONG).await;
    // What is forbidden is not tried again, until the engine's events come from a new
    // connection.
    stage.proxy.refuse_with(StatusCode::FORBIDDEN, "Forbidden\n");
    stage.proxy.allow_only(all_but_pause);
    until_granted(&porter, &program(other)).await;
    let done = order(&porter, other, "pause").await;
    assert_eq!(done.status, 409, "{done:?}");
    stage.proxy.allow_only(all);
    stage.proxy.reset();
    until_state(&porter, other, "paused", LONG).await;
}

#[tokio::test]
async fn what_may_not_be_unpaused_is_started_anew() {
    let stage = Stage::new(Store::Files).await;
    let app = stage.running(Plan::new("stuck")).await;
    let folder = stage.sample.folder().join("installed_apps").join(&app.name);
    std::fs::remove_file(folder.join("docker-compose.yml")).expect("it was there");
    let porter = stage.porter("throttle = \"1ms\"\n", NO_SLEEP).await;
    until_state(&porter, &app, "awake", LONG).await;
    let done = order(&porter, &app, "pause").await;
    assert_eq!(done.status, 200, "{done:?}");
    stage.proxy.allow_only(all_but_unpause);
    until_granted(&porter, &program(&app)).await;
    assert!(app.answers().await);
    // Stopped is what it can be.
    stage.apps.engine.docker(["pause", &app.name]).await;
    until_state(&porter, &app, "paused", LONG).await;
    let done = order(&porter, &app, "sleep").await;
    assert_eq!(done.status, 200, "{done:?}");
    assert_eq!(app.state().await, "exited");
}

#[tokio::test]
async fn an_order_answers_with_what_the_engine_shows() {
    let stage = Stage::new(Store::Files).await;
    let plan = Plan::of("shown", vec![Service::new("web"), Service::new("db")]);
    let app = stage.running(plan).await;
    let porter = stage.porter("throttle = \"1ms\"\n", NO_SLEEP).await;
    until_state(&porter, &app, "awake", LONG).await;
    for _ in 0..10 {
        for (operation, state, containers) in
            [("pause", "paused", "paused"), ("wake", "awake", "running")]
        {
            let done = order(&porter, &app, operation).await;
            assert_eq!(done.status, 200, "{done:?}");
            let shown: Value = serde_json::from_slice(&done.body).expect("JSON");
            assert_eq!(shown["state"], state, "{shown}");
            for container in shown["containers"].as_array().expect("an array") {
                assert_eq!(container["state"], containers, "{shown}");
            }
        }
    }
}
