//! Containers that belong to several apps.

use std::time::{Duration, Instant};

use serde_json::json;

use super::idle::SLEEP;
use super::processes::beside;
use super::selection::{APP, create, state_of};
use super::{
    LONG, NO_SLEEP, Stage, in_background, order, program, served, until_granted, until_state,
};
use crate::support::boxes::Store;
use crate::support::client::poll;
use crate::support::docker::apps::{App, Plan};
use crate::support::server::Nightporter;
use crate::support::soak;

const QUICKLY: &str = "throttle = \"1ms\"\nlongest_backoff = \"10ms\"\n";

/// Two stopped apps with a container each, and the name of the database of both.
async fn family(stage: &Stage, plan: impl Fn(&str) -> Plan) -> (App, App, String) {
    let (one, two) = (stage.stopped(plan("one")).await, stage.stopped(plan("two")).await);
    let database = format!("db-{}", one.name);
    let apps = format!("{}, {}", one.name, two.name);
    create(stage, &database, &[(APP, &apps)], &[], None).await;
    // Without an address of its own, which might be one that an app is to have.
    let network = &stage.apps.membership()[1];
    stage.apps.engine.docker(["network", "disconnect", network, &database]).await;
    (one, two, database)
}

async fn ordered(porter: &Nightporter, app: &App, operation: &str) {
    let done = order(porter, app, operation).await;
    assert_eq!(done.status, 200, "{operation} {}: {done:?}", app.name);
}

#[tokio::test]
async fn a_shared_container_sleeps_when_all_do_and_wakes_with_either() {
    for store in Store::BOTH {
        let stage = Stage::new(store).await;
        let (one, two, database) = family(&stage, Plan::new).await;
        let porter = stage.porter(QUICKLY, NO_SLEEP).await;
        for app in [&one, &two] {
            until_state(&porter, app, "stopped", LONG).await;
        }
        let is = async |first: &str, second: &str, shared: &str| {
            let states = [one.state().await, two.state().await, state_of(&stage, &database).await];
            assert_eq!(states, [first, second, shared]);
        };
        until_granted(&porter, &program(&one)).await;
        is("running", "created", "running").await;
        until_granted(&porter, &program(&two)).await;
        for (app, operation, first, second, shared) in [
            (&one, "pause", "paused", "running", "running"),
            // As deep as the one that sleeps least.
            (&two, "sleep", "paused", "exited", "paused"),
            (&one, "wake", "running", "exited", "running"),
            (&one, "sleep", "exited", "exited", "exited"),
            (&two, "wake", "exited", "running", "running"),
            (&two, "pause", "exited", "paused", "paused"),
            (&one, "wake", "running", "paused", "running"),
            (&one, "sleep", "exited", "paused", "paused"),
            (&two, "sleep", "exited", "exited", "exited"),
        ] {
            ordered(&porter, app, operation).await;
            is(first, second, shared).await;
        }
    }
}

#[tokio::test]
async fn two_apps_of_one_container_sleep_when_both_do() {
    let stage = Stage::new(Store::Files).await;
    let one = stage.apps.install(&stage.sample, Plan::new("host")).await;
    let two = stage.apps.install(&stage.sample, Plan::new("alias")).await;
    let container = format!("both-{}", one.name);
    let apps = format!("{},{}", one.name, two.name);
    create(&stage, &container, &[(APP, &apps)], &[], None).await;
    let porter = stage.porter(QUICKLY, NO_SLEEP).await;
    for app in [&one, &two] {
        until_state(&porter, app, "stopped", LONG).await;
    }
    until_granted(&porter, &program(&one)).await;
    until_state(&porter, &two, "awake", LONG).await;
    for (app, operation, expected, first, second) in [
        (&one, "pause", "running", "paused", "awake"),
        (&two, "pause", "paused", "paused", "paused"),
        (&two, "wake", "running", "paused", "awake"),
        (&two, "sleep", "paused", "paused", "stopped"),
        (&one, "sleep", "exited", "stopped", "stopped"),
    ] {
        ordered(&porter, app, operation).await;
        assert_eq!(state_of(&stage, &container).await, expected, "{operation} {}", app.name);
        until_state(&porter, &one, first, LONG).await;
        until_state(&porter, &two, second, LONG).await;
    }
}

#[tokio::test]
async fn the_idle_loop_leaves_a_shared_container_to_the_app_that_is_used() {
    let stage = Stage::new(Store::Postgres).await;
    let lifecycle = json!({"always_on": false, "idle_for_pause": 5, "idle_for_stop": 3600});
    let (used, idle, database) =
        family(&stage, |label| Plan::new(label).meta("lifecycle", lifecycle.clone())).await;
    let porter = stage.porter(QUICKLY, SLEEP).await;
    for app in [&used, &idle] {
        until_state(&porter, app, "stopped", LONG).await;
        until_granted(&porter, &program(app)).await;
    }
    let began = Instant::now();
    let mut slept = None;
    // For longer than an app may be idle after the other has fallen asleep.
    while slept.is_none_or(|at: Instant| at.elapsed() < Duration::from_secs(6)) {
        assert!(began.elapsed() < LONG, "it does not sleep");
        assert_eq!(served(&porter, &program(&used)).await.status, 200);
        assert_eq!(state_of(&stage, &database).await, "running");
        if slept.is_none() && idle.state().await == "paused" {
            slept = Some(Instant::now());
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    until_state(&porter, &used, "paused", LONG).await;
    poll("all sleep", LONG, async || state_of(&stage, &database).await == "paused").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_process_wakes_is_not_put_to_sleep_with_its_neighbour_by_another() {
    let stage = Stage::new(Store::Postgres).await;
    let (one, two, database) = family(&stage, Plan::new).await;
    let first = stage.porter(QUICKLY, NO_SLEEP).await;
    let (second, _other) = beside(&stage, QUICKLY).await;
    for round in 0..u64::from(soak::NEIGHBOURS.count()) {
        poll("one is awake", LONG, async || order(&first, &one, "wake").await.status == 200).await;
        poll("one sleeps", LONG, async || order(&first, &one, "pause").await.status == 200).await;
        poll("two is awake", LONG, async || order(&first, &two, "wake").await.status == 200).await;
        for porter in [&first, &second] {
            until_state(porter, &one, "paused", LONG).await;
            until_state(porter, &two, "awake", LONG).await;
        }
        let asked = in_background(&second, &program(&one));
        tokio::time::sleep(Duration::from_millis(round % 10)).await;
        let rest = order(&first, &two, "pause").await;
        assert!(matches!(rest.status, 200 | 409), "round {round}: {rest:?}");
        let answer = asked.await.expect("no panic").expect("an answer");
        assert_eq!(answer.status, 200, "round {round}: {answer:?}");
        assert_eq!(state_of(&stage, &database).await, "running", "round {round}");
        assert!(one.answers().await, "round {round}");
    }
}
