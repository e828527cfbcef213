//! What costs nothing: an app that runs.

use std::sync::Arc;

use super::{LONG, Stage, program, until_state};
use crate::support::boxes::Store;
use crate::support::docker::apps::Plan;
use crate::support::load::{Shot, drive};
use crate::support::soak;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_requests_for_a_running_app_ask_the_engine_nothing() {
    let stage = Stage::new(Store::Postgres).await;
    let app = stage.running(Plan::new("quiet")).await;
    let porter = stage.porter("", "interval = \"10m\"\n").await;
    until_state(&porter, &app, "awake", LONG).await;
    let shots: Arc<[Shot]> = [Shot::new(&program(&app), 200)].into();
    drive(porter.gate, &shots, 16, 1000).await.is_as_expected(1000);
    assert!(!stage.proxy.calls("GET", "/events").is_empty(), "it follows the engine");

    // Another test's containers may be looked at: they are on the same engine.
    let of_ours = async || {
        let id = stage.apps.engine.inspect(&app.name, "{{.Id}}").await.expect("it is there");
        let mut calls = stage.proxy.all_calls();
        calls.retain(|call| {
            call.path.contains(&id) || call.path.contains(&app.name) || call.method != "GET"
        });
        calls.len()
    };
    // Every five minutes the engine is listed anew, and each container looked at.
    let listings = || stage.proxy.calls("GET", "/containers/json").len();
    let requests = u64::from(soak::QUIET_REQUESTS.count());
    let listed = listings();
    let before = of_ours().await;
    assert!(before > 0, "it was looked at once");
    drive(porter.gate, &shots, 16, requests).await.is_as_expected(requests);
    let after = of_ours().await;
    let listed = listings() - listed;
    let calls = stage.proxy.all_calls();
    assert!(after - before <= listed, "{before}, {after}, {listed} listings: {calls:#?}");
}
