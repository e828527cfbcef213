//! Several nightporters on one box and one engine.
#![allow(clippy::print_stdout, reason = "figures are part of what a test says")]

use std::time::Duration;

use super::{LONG, NO_SLEEP, Stage, in_background, order, program, served, state, until_state};
use crate::support::boxes::Store;
use crate::support::client::poll;
use crate::support::docker::apps::{App, Plan};
use crate::support::docker::proxy::EngineProxy;
use crate::support::server::Nightporter;
use crate::support::soak;

const QUICKLY: &str = "throttle = \"1ms\"\nlongest_backoff = \"10ms\"\n";

/// A second one, with a door to the engine of its own.
pub(super) async fn beside(stage: &Stage, wake: &str) -> (Nightporter, EngineProxy) {
    let proxy = EngineProxy::before(&stage.apps.engine).await;
    let config = Stage::config_at(&proxy.host(), wake, NO_SLEEP);
    (Nightporter::with(&stage.sample, &config).await, proxy)
}

/// Waits until both know what is, whatever that is.
async fn until_agreed(both: [&Nightporter; 2], app: &App) -> String {
    let mut agreed = String::new();
    poll("both know what is", LONG, async || {
        let (one, other) = (state(both[0], app).await, state(both[1], app).await);
        let expected = match &*one {
            "awake" => "running",
            "paused" => "paused",
            "stopped" => "exited",
            _ => return false,
        };
        let holds = one == other && app.state().await == expected;
        agreed = one;
        holds
    })
    .await;
    agreed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_app_asked_for_at_two_is_started_once() {
    let stage = Stage::new(Store::Postgres).await;
    let app = stage.stopped(Plan::new("two")).await;
    let first = stage.porter(QUICKLY, NO_SLEEP).await;
    let (second, other) = beside(&stage, QUICKLY).await;
    for round in 1..=soak::TWO_PROCESSES.count() {
        for porter in [&first, &second] {
            until_state(porter, &app, "stopped", LONG).await;
        }
        let began = stage.proxy.calls("POST", "/start").len() + other.calls("POST", "/start").len();
        let request = program(&app);
        let (one, two) = tokio::join!(served(&first, &request), served(&second, &request));
        assert_eq!((one.status, two.status), (200, 200), "round {round}: {one:?} {two:?}");
        assert!(app.answers().await, "granted, and nobody there: round {round}");
        // Counted by the container itself: whoever came second found it running.
        assert_eq!(app.starts().await, round);
        let orders =
            stage.proxy.calls("POST", "/start").len() + other.calls("POST", "/start").len();
        assert!((1..=2).contains(&(orders - began)), "{} orders", orders - began);
        let sleeper = if round % 2 == 0 { &first } else { &second };
        poll("it may be put to sleep", LONG, async || {
            order(sleeper, &app, "sleep").await.status == 200
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_wakes_while_the_other_pauses_it_is_known_to_both() {
    let stage = Stage::new(Store::Postgres).await;
    let app = stage.running(Plan::new("torn")).await;
    let first = stage.porter(QUICKLY, NO_SLEEP).await;
    let (second, _other) = beside(&stage, QUICKLY).await;
    let (mut awake, mut paused) = (0, 0);
    for round in 0..soak::TWO_PROCESSES.count() {
        let (reconciler, sleeper) =
            if round % 2 == 0 { (&first, &second) } else { (&second, &first) };
        // Half of the rounds begin with an app that sleeps: there is something to wake.
        let before = if round / 2 % 2 == 0 { "pause" } else { "wake" };
        poll("it begins so", LONG, async || order(reconciler, &app, before).await.status == 200)
            .await;
        until_agreed([&first, &second], &app).await;
        let asker = in_background(reconciler, &program(&app));
        tokio::time::sleep(Duration::from_millis(u64::from(round % 16))).await;
        let rest = order(sleeper, &app, "pause").await;
        assert!(matches!(rest.status, 200 | 409), "round {round}: {rest:?}");
        let answer = asker.await.expect("no panic").expect("an answer");
        assert_eq!(answer.status, 200, "round {round}: {answer:?}");
        match &*until_agreed([&first, &second], &app).await {
            "awake" => awake += 1,
            _ => paused += 1,
        }
        for porter in [&first, &second] {
            assert_eq!(served(porter, &program(&app)).await.status, 200, "round {round}");
            assert!(app.answers().await, "granted, and nobody there: round {round}");
        }
    }
    println!("{awake} awake, {paused} paused in the end");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_ends_in_mid_wake_leaves_no_lock() {
    let stage = Stage::new(Store::Postgres).await;
    let app = stage.stopped(Plan::new("orphan")).await;
    let first = stage.porter(QUICKLY, NO_SLEEP).await;
    let (second, other) = beside(&stage, QUICKLY).await;
    for porter in [&first, &second] {
        until_state(porter, &app, "stopped", LONG).await;
    }
    let starts = stage.proxy.hold("POST", "/start");
    let lost = in_background(&first, &program(&app));
    starts.reached(1).await;
    let waiting = in_background(&second, &program(&app));
    let sql = "SELECT count(*) FROM pg_stat_activity
               WHERE datname = current_database() AND query LIKE '%pg_try_advisory_lock%'
               AND pid <> pg_backend_pid()";
    poll("both have asked for the lock", LONG, async || {
        stage.sample.database().client.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) >= 2
    })
    .await;
    assert!(other.calls("POST", "/start").is_empty(), "the first one has the lock");
    drop(first);
    // Cut off, or told that the app did not come up.
    assert!(!lost.await.expect("no panic").is_ok_and(|answer| answer.status == 200));
    let answer = waiting.await.expect("no panic").expect("an answer");
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(app.answers().await);
    assert_eq!(app.starts().await, 1);
    starts.release();
    let sql = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'
               AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    poll("no lock is left", LONG, async || {
        let row = stage.sample.database().client.query_one(sql, &[]).await.expect("it answers");
        row.get::<_, i64>(0) == 0
    })
    .await;
}
