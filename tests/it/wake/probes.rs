//! Probes of the apps that are awake.

use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use super::idle::SLEEP;
use super::{LONG, NO_SLEEP, Stage, known, until_state};
use crate::support::boxes::{Store, app_meta};
use crate::support::client::{Request, ask, poll};
use crate::support::docker::apps::Plan;
use crate::support::server::Nightporter;

const PROBES: &str = "[jobs]\nprobes = \"1s\"\n";

/// Waits until the last probe of an app had this result.
async fn until_probed(porter: &Nightporter, app: &str, result: &str) {
    poll(result, LONG, async || known(porter, app).await["last_probe"]["result"] == result).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_app_that_is_probed_and_not_used_goes_to_sleep_and_is_left_alone() {
    let stage = Stage::new(Store::Files).await;
    let lifecycle = json!({"always_on": false, "skip_pause": true, "idle_for_stop": 8});
    let app = stage.running(Plan::new("probed").meta("lifecycle", lifecycle)).await;
    let porter = stage.porter("", &format!("{SLEEP}{PROBES}")).await;
    until_probed(&porter, &app.name, "answers").await;
    // A request moves some hundred bytes both ways, and 54 are a use.
    until_state(&porter, &app, "stopped", LONG).await;
    let last = known(&porter, &app.name).await["last_probe"].clone();
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(known(&porter, &app.name).await["last_probe"], last, "it is not asked any more");
    assert_eq!(app.state().await, "exited");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_app_that_does_not_answer_is_shown_and_recorded_once() {
    let stage = Stage::new(Store::Files).await;
    let plan = Plan::new("deaf");
    let app = stage.running(plan).await;
    let mut meta = app_meta(&app.name, &json!({"": {"access": "public"}}));
    meta["entrypoints"][0]["container_port"] = 81.into();
    stage.sample.write_app_meta(&app.name, meta.to_string().as_bytes());
    let wake = "start_timeout = \"1s\"\n";
    let porter = stage.porter(wake, &format!("{NO_SLEEP}{PROBES}")).await;
    until_state(&porter, &app, "awake", LONG).await;
    until_probed(&porter, &app.name, "refused").await;
    let records = async || {
        let path = format!("/v1/requests?kind=job&app={}", app.name);
        let response = ask(porter.ops, &Request::new("GET", &path)).await;
        let page: Value = serde_json::from_slice(&response.body).expect("JSON");
        page["requests"].as_array().cloned().unwrap_or_default()
    };
    poll("it is recorded", LONG, async || !records().await.is_empty()).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let records = records().await;
    assert_eq!(records.len(), 1, "only the change: {records:?}");
    assert_eq!(records[0]["reason"], "refused");

    let listed = Command::new(env!("CARGO_BIN_EXE_nightporter"))
        .arg("apps")
        .env("NIGHTPORTER_OPS__LISTEN", porter.ops.to_string())
        .current_dir(stage.sample.folder())
        .output()
        .expect("it starts");
    let text = String::from_utf8_lossy(&listed.stdout);
    let line = text.lines().find(|line| line.contains("probed")).unwrap_or_default();
    assert!(line.ends_with(": refused"), "{text}");
}
