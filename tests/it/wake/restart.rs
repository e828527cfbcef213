//! What comes back: the engine, and nightporter itself.

use super::{
    LONG, NO_SLEEP, Stage, known, person, program, served, state, until_granted, until_state,
};
use crate::support::boxes::Store;
use crate::support::client::poll;
use crate::support::docker::apps::Plan;

#[tokio::test]
async fn what_failed_for_want_of_the_engine_is_tried_at_once_when_it_is_back() {
    let stage = Stage::new(Store::Files).await;
    let app = stage.stopped(Plan::new("away")).await;
    // Longer than the test waits, should anything of it count.
    let porter = stage.porter("throttle = \"1h\"\nlongest_backoff = \"1h\"\n", NO_SLEEP).await;
    until_state(&porter, &app, "stopped", LONG).await;
    stage.proxy.vanish();
    stage.proxy.cut(true);
    poll("the wake has failed", LONG, async || {
        porter.ask(&person(&app)).await;
        state(&porter, &app).await == "failed"
    })
    .await;
    let known = known(&porter, &app.name).await;
    assert_eq!(known["reason"], "the engine does not answer", "{known}");
    stage.proxy.cut(false);
    stage.proxy.appear();
    until_granted(&porter, &program(&app)).await;
    assert!(app.answers().await);
}

#[tokio::test]
async fn an_app_that_starts_while_nightporter_does_is_waited_for() {
    let stage = Stage::new(Store::Files).await;
    let app = stage.stopped(Plan::new("slow").env("START_DELAY_MS", 5000)).await;
    let up = stage.running(Plan::new("up")).await;
    let porter = stage.porter("", NO_SLEEP).await;
    until_state(&porter, &app, "stopped", LONG).await;
    assert_eq!(porter.ask(&person(&app)).await.status, 503);
    poll("it runs", LONG, async || app.state().await == "running").await;
    drop(porter);
    let porter = stage.porter("", NO_SLEEP).await;
    // Until the engine was listed, every app counts as awake.
    poll("the engine is listed", LONG, async || {
        !known(&porter, &app.name).await["containers"].to_string().contains("[]")
    })
    .await;
    // One that answers is not kept waiting by one that does not.
    assert_eq!(served(&porter, &program(&up)).await.status, 200);
    assert_eq!(served(&porter, &program(&app)).await.status, 200);
    assert!(app.answers().await, "let through before it listens");
    assert_eq!(app.starts().await, 1);
}
