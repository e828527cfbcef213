//! An app whose start somebody else has cut off.

use super::{LONG, NO_SLEEP, Stage, in_background, known, program, until_state};
use crate::support::boxes::Store;
use crate::support::client::poll;
use crate::support::docker::apps::Plan;
use crate::support::docker::engine::Engine;

#[tokio::test]
async fn an_engine_that_restarts_is_not_told_as_a_failing_of_the_app() {
    let engine = Engine::own().await;
    let stage = Stage::on(&engine, Store::Files).await;
    // It would listen in an hour.
    let app = stage.stopped(Plan::new("cut").env("START_DELAY_MS", 3_600_000)).await;
    let wake = "throttle = \"1h\"\nlongest_backoff = \"1h\"\nstart_timeout = \"10m\"\n";
    let porter = stage.porter(wake, NO_SLEEP).await;
    until_state(&porter, &app, "stopped", LONG).await;
    let asked = in_background(&porter, &program(&app));
    until_state(&porter, &app, "awaiting_port", LONG).await;
    engine.restart().await;
    // Where it is told while the engine is away, another attempt is made when it is back.
    let last = async || known(&porter, &app.name).await["last_failure"]["reason"].clone();
    poll("its end is told", LONG, async || last().await.is_string()).await;
    let reason = last().await.to_string();
    assert!(reason.contains("was stopped while it was starting"), "{reason}");
    let response = asked.await.expect("no panic").expect("an answer");
    assert_ne!(response.status, 200, "{response:?}");
    assert!(!response.body().contains("ended by itself"), "{response:?}");
}
