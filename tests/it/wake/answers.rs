//! Whatever answers has answered: apps that nobody can talk HTTP to.

use super::{LONG, NO_SLEEP, Stage, order, program, state, until_granted, until_state};
use crate::support::boxes::Store;
use crate::support::docker::apps::Plan;

/// Longer than any test waits: who runs into it has failed.
const NEVER: &str = "start_timeout = \"1h\"\nthrottle = \"1ms\"\n";

#[tokio::test]
async fn an_app_that_hangs_up_at_once_is_there_all_the_same() {
    let stage = Stage::new(Store::Files).await;
    let app = stage.stopped(Plan::new("curt").env("HANGS_UP", "always")).await;
    let porter = stage.porter(NEVER, NO_SLEEP).await;
    until_state(&porter, &app, "stopped", LONG).await;
    for operation in ["sleep", "pause", "pause"] {
        until_granted(&porter, &program(&app)).await;
        assert_eq!(state(&porter, &app).await, "awake");
        let done = order(&porter, &app, operation).await;
        assert_eq!(done.status, 200, "{done:?}");
    }
}
