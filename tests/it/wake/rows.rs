//! The row of an app says what its containers do, and nothing where something else is
//! being done to the app.

use super::{LONG, NO_SLEEP, Stage, order, program, state, until_granted, until_state};
use crate::support::boxes::Store;
use crate::support::client::poll;
use crate::support::docker::apps::{App, Plan};

async fn status(stage: &Stage, app: &App) -> String {
    let sql = "SELECT status FROM installed_apps WHERE name = $1";
    let row = stage.sample.database().client.query_one(sql, &[&app.name]).await;
    row.expect("a row").get(0)
}

async fn until_status(stage: &Stage, app: &App, expected: &str) {
    poll(&format!("the row says {expected}"), LONG, async || status(stage, app).await == expected)
        .await;
}

#[tokio::test]
async fn the_row_follows_what_is_done_here_and_by_hand() {
    let stage = Stage::new(Store::Postgres).await;
    // It says running, and its container was never started.
    let app = stage.stopped(Plan::new("row")).await;
    let porter = stage.porter("throttle = \"1ms\"\n", NO_SLEEP).await;
    until_status(&stage, &app, "stopped").await;
    until_granted(&porter, &program(&app)).await;
    until_status(&stage, &app, "running").await;
    for (operation, expected) in [("pause", "paused"), ("sleep", "stopped"), ("wake", "running")] {
        assert_eq!(order(&porter, &app, operation).await.status, 200);
        until_status(&stage, &app, expected).await;
    }
    for (verb, expected) in [
        ("pause", "paused"),
        ("unpause", "running"),
        ("kill", "stopped"),
        ("start", "running"),
        ("stop", "stopped"),
    ] {
        app.all(verb).await;
        until_status(&stage, &app, expected).await;
    }
    app.remove().await;
    until_status(&stage, &app, "down").await;
    until_granted(&porter, &program(&app)).await;
    until_status(&stage, &app, "running").await;
}

#[tokio::test]
async fn the_row_of_an_app_that_comes_or_goes_is_left_alone() {
    let stage = Stage::new(Store::Postgres).await;
    let mut apps = Vec::new();
    for busy in ["installing", "error", "uninstalling", "reinstalling"] {
        apps.push((stage.stopped(Plan::new("busy").status(busy)).await, busy));
    }
    // Its row is written after all others': when it follows, they would have.
    let last = stage.stopped(Plan::new("last")).await;
    let porter = stage.porter("throttle = \"1ms\"\n", NO_SLEEP).await;
    for (app, _) in &apps {
        until_state(&porter, app, "stopped", LONG).await;
        let ordered = order(&porter, app, "wake").await;
        assert_eq!(ordered.status, 409, "{ordered:?}");
        assert_eq!(state(&porter, app).await, "unavailable");
        assert_eq!(app.state().await, "created", "it was started");
    }
    for (verb, expected, followed) in [
        ("start", "awake", "running"),
        ("pause", "paused", "paused"),
        ("kill", "stopped", "stopped"),
    ] {
        for (app, _) in &apps {
            app.all(verb).await;
            let seen = async || match state(&porter, app).await.as_str() {
                "unavailable" => expected != "awake",
                state => state == expected,
            };
            poll(&format!("it is seen to be {expected}"), LONG, seen).await;
        }
        last.all(verb).await;
        until_status(&stage, &last, followed).await;
        for (app, busy) in &apps {
            assert_eq!(status(&stage, app).await, *busy, "after {verb}");
        }
    }
    // Nor is it put to sleep.
    for (app, busy) in &apps {
        app.all("start").await;
        until_state(&porter, app, "awake", LONG).await;
        let calls = stage.proxy.calls("POST", "/stop").len();
        order(&porter, app, "sleep").await;
        assert_eq!(stage.proxy.calls("POST", "/stop").len(), calls);
        assert_eq!(app.state().await, "running");
        assert_eq!(status(&stage, app).await, *busy);
    }
}
