//! What was done to apps is on record: why, what came of it, and how long each step took.

use serde_json::{Value, json};

use super::idle::SLEEP;
use super::{LONG, NO_SLEEP, Stage, order, program, served, until_granted, until_state};
use crate::support::boxes::Store;
use crate::support::client::{Request, ask, poll};
use crate::support::docker::apps::{App, Plan};
use crate::support::server::Nightporter;

async fn get(porter: &Nightporter, path: &str) -> Value {
    let response = ask(porter.ops, &Request::new("GET", path)).await;
    assert_eq!(response.status, 200, "{path}: {}", response.body());
    serde_json::from_slice(&response.body).expect("JSON")
}

/// Waits for the only record of this kind and cause, and returns it with its steps.
async fn recorded(porter: &Nightporter, app: &App, kind: &str, reason: &str) -> Value {
    only(porter, &format!("/v1/requests?app={}&kind={kind}&reason={reason}", app.name)).await
}

/// Waits for the only record that a query selects, and returns it with its steps.
async fn only(porter: &Nightporter, query: &str) -> Value {
    let mut records = Vec::new();
    poll(query, LONG, async || {
        let page = get(porter, query).await;
        page["requests"].as_array().expect("a list").clone_into(&mut records);
        !records.is_empty()
    })
    .await;
    assert_eq!(records.len(), 1, "{records:#?}");
    get(porter, &format!("/v1/requests/{}", records[0]["id"].as_str().expect("an id"))).await
}

fn steps(record: &Value) -> Vec<&str> {
    let steps = record["steps"].as_array().expect("steps").iter();
    steps.map(|step| step["name"].as_str().expect("a name")).collect()
}

#[tokio::test]
async fn wakes_and_sleeps_are_on_record_with_their_causes_and_steps() {
    let stage = Stage::new(Store::Files).await;
    let app = stage.stopped(Plan::new("recorded")).await;
    let porter = stage.porter("throttle = \"1ms\"\n", NO_SLEEP).await;
    until_state(&porter, &app, "stopped", LONG).await;
    until_granted(&porter, &program(&app)).await;
    let woken = recorded(&porter, &app, "wake", "request").await;
    assert_eq!((&woken["verdict"], woken.get("client")), (&json!("done"), None), "{woken}");
    let names = steps(&woken);
    assert_eq!(names[..3], ["queued", "lock", "starting"], "{woken}");
    let of_steps: i64 = woken["steps"].as_array().expect("steps").iter().fold(0, |sum, step| {
        assert_eq!(step["outcome"], "ok", "{woken}");
        sum + step["duration_us"].as_i64().expect("a number")
    });
    let whole = woken["duration_us"].as_i64().expect("a number");
    assert!(of_steps <= whole && whole - of_steps < 100_000, "{woken}");

    for (operation, kind, step) in [("pause", "sleep", "pause"), ("wake", "wake", "unpausing")] {
        assert_eq!(order(&porter, &app, operation).await.status, 200);
        let done = recorded(&porter, &app, kind, "operator").await;
        assert_eq!((&done["verdict"], &done["client"]), (&json!("done"), &json!("operator")));
        assert!(steps(&done).contains(&step), "{done}");
        for verdict in ["accepted", "done"] {
            let act = format!("kind=act&reason={operation}&verdict={verdict}");
            only(&porter, &format!("/v1/requests?app={}&{act}", app.name)).await;
        }
    }
    app.all("stop").await;
    until_state(&porter, &app, "stopped", LONG).await;
    app.all("start").await;
    let followed = recorded(&porter, &app, "wake", "other_program").await;
    assert_eq!(followed["verdict"], "done", "{followed}");
}

#[tokio::test]
async fn a_sleep_for_want_of_use_is_on_record() {
    let stage = Stage::new(Store::Files).await;
    let lifecycle = json!({"always_on": false, "skip_pause": true, "idle_for_stop": 5});
    let app = stage.running(Plan::new("idles").meta("lifecycle", lifecycle)).await;
    let porter = stage.porter("throttle = \"1ms\"\n", SLEEP).await;
    let slept = recorded(&porter, &app, "sleep", "idle").await;
    assert_eq!((&slept["verdict"], steps(&slept)), (&json!("done"), vec!["stop"]), "{slept}");
}

#[tokio::test]
async fn a_wake_that_fails_is_on_record_with_its_reason() {
    let stage = Stage::new(Store::Files).await;
    let app = stage.stopped(Plan::new("ends").env("FAIL_STARTS", 1)).await;
    let once = "throttle = \"1h\"\nlongest_backoff = \"1h\"\n";
    let porter = stage.porter(once, NO_SLEEP).await;
    until_state(&porter, &app, "stopped", LONG).await;
    assert_eq!(served(&porter, &program(&app)).await.status, 503);
    let failed = recorded(&porter, &app, "wake", "request").await;
    assert_eq!(failed["verdict"], "failed", "{failed}");
    let text = format!("container {} exited with code 3", app.name);
    assert_eq!(failed["notes"], json!([{"topic": "wake", "text": text}]));
    let last = failed["steps"].as_array().and_then(|steps| steps.last()).expect("a step");
    assert_eq!(last["outcome"], "failed", "{failed}");
}
