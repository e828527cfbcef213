//! Whatever happens to containers, engine and socket: what is known is right as soon as
//! events tell, and not when all is listed anew.

use std::time::Duration;

use super::{LONG, NO_SLEEP, Stage, known, program, served, state, until_granted, until_state};
use crate::support::boxes::Store;
use crate::support::client::poll;
use crate::support::docker::apps::{App, Plan, Service};
use crate::support::docker::engine::Engine;
use crate::support::server::Nightporter;

async fn asleep_then_woken(porter: &Nightporter, app: &App) {
    until_granted(porter, &program(app)).await;
    assert!(app.answers().await);
    assert_eq!(state(porter, app).await, "awake");
}

#[tokio::test]
async fn what_is_done_by_hand_is_seen() {
    for store in Store::BOTH {
        let stage = Stage::new(store).await;
        let app = stage.running(Plan::new("hand")).await;
        let porter = stage.porter("throttle = \"100ms\"\n", NO_SLEEP).await;
        until_state(&porter, &app, "awake", LONG).await;

        app.all("kill").await;
        until_state(&porter, &app, "stopped", LONG).await;
        asleep_then_woken(&porter, &app).await;
        app.all("pause").await;
        until_state(&porter, &app, "paused", LONG).await;
        app.all("unpause").await;
        until_state(&porter, &app, "awake", LONG).await;
        app.all("stop").await;
        until_state(&porter, &app, "stopped", LONG).await;
        app.all("start").await;
        until_state(&porter, &app, "awake", LONG).await;

        let renamed = format!("{}-renamed", app.name);
        stage.apps.engine.docker(["rename", &app.name, &renamed]).await;
        poll("the new name is known", LONG, async || {
            known(&porter, &app.name).await["containers"].to_string().contains(&renamed)
        })
        .await;
        assert_eq!(state(&porter, &app).await, "awake");
        stage.apps.engine.docker(["kill", &renamed]).await;
        until_state(&porter, &app, "stopped", LONG).await;
        stage.apps.engine.docker(["rename", &renamed, &app.name]).await;

        app.remove().await;
        until_state(&porter, &app, "missing", LONG).await;
        asleep_then_woken(&porter, &app).await;
    }
}

#[tokio::test]
async fn a_container_killed_for_want_of_memory_is_seen_and_named() {
    let stage = Stage::new(Store::Files).await;
    let hungry = Service::new("web").env("EAT_MB", 200).with("mem_limit", "32m");
    let later = Plan::of("eats", vec![hungry.clone().env("EAT_AFTER_MS", 1500)]);
    let later = stage.stopped(later).await;
    later.all("start").await;
    let at_once = stage.stopped(Plan::of("hungry", vec![hungry])).await;
    let porter = stage.porter("", NO_SLEEP).await;
    poll("it is killed", LONG, async || later.state().await == "exited").await;
    // It may be before the engine was listed for the first time.
    until_state(&porter, &later, "stopped", LONG).await;

    until_state(&porter, &at_once, "stopped", LONG).await;
    let response = served(&porter, &program(&at_once)).await;
    assert_eq!(response.status, 503, "{response:?}");
    poll("the reason is known", LONG, async || {
        let known = known(&porter, &at_once.name).await;
        known["state"] == "failed" && known["reason"].to_string().contains("memory")
    })
    .await;
}

/// Runs until events are followed anew, on a connection made after so many were.
async fn followed_again(stage: &Stage, before: usize) {
    poll("events are followed again", LONG, async || {
        let calls = stage.proxy.calls("GET", "/events");
        calls[before.min(calls.len())..]
            .iter()
            .any(|call| call.answered.is_some_and(|(_, status)| status == 200))
    })
    .await;
}

#[tokio::test]
async fn an_engine_that_restarts_or_dies_is_found_again() {
    let engine = Engine::own().await;
    let stage = Stage::on(&engine, Store::Postgres).await;
    let plain = stage.running(Plan::new("plain")).await;
    let always = Service::new("web").with("restart", "always");
    let always = stage.running(Plan::of("always", vec![always])).await;
    let porter = stage.porter("throttle = \"100ms\"\n", NO_SLEEP).await;
    until_state(&porter, &plain, "awake", LONG).await;
    for kill in [false, true] {
        let before = stage.proxy.calls("GET", "/events").len();
        if kill {
            engine.kill().await;
        } else {
            engine.stop().await;
        }
        engine.start().await;
        followed_again(&stage, before).await;
        until_state(&porter, &plain, "stopped", LONG).await;
        until_state(&porter, &always, "awake", LONG).await;
        until_granted(&porter, &program(&plain)).await;
        assert!(plain.answers().await);
    }
}

#[tokio::test]
async fn what_happened_while_events_were_cut_is_caught_up() {
    let stage = Stage::new(Store::Files).await;
    let app = stage.running(Plan::new("cut")).await;
    let porter = stage.porter("throttle = \"100ms\"\n", NO_SLEEP).await;
    until_state(&porter, &app, "awake", LONG).await;
    for round in 0..10 {
        let before = stage.proxy.calls("GET", "/events").len();
        // Nothing of the events is let through before it has happened.
        let hold = stage.proxy.hold("GET", "/events");
        stage.proxy.cut_events();
        hold.reached(1).await;
        let (verb, expected) =
            if round % 2 == 0 { ("pause", "paused") } else { ("unpause", "awake") };
        app.all(verb).await;
        hold.release();
        followed_again(&stage, before).await;
        until_state(&porter, &app, expected, LONG).await;
    }
    let before = stage.proxy.calls("GET", "/events").len();
    stage.proxy.cut(true);
    app.all("kill").await;
    stage.proxy.cut(false);
    followed_again(&stage, before).await;
    until_state(&porter, &app, "stopped", LONG).await;
}

#[tokio::test]
async fn a_slow_engine_is_waited_for() {
    let stage = Stage::new(Store::Files).await;
    let app = stage.stopped(Plan::new("slow")).await;
    stage.proxy.delay(Duration::from_millis(200));
    let porter = stage.porter("throttle = \"100ms\"\n", NO_SLEEP).await;
    until_state(&porter, &app, "stopped", LONG).await;
    asleep_then_woken(&porter, &app).await;
    app.all("pause").await;
    until_state(&porter, &app, "paused", LONG).await;
    asleep_then_woken(&porter, &app).await;
    app.all("kill").await;
    until_state(&porter, &app, "stopped", LONG).await;
}

#[tokio::test]
async fn an_engine_that_comes_later_is_found() {
    let stage = Stage::new(Store::Files).await;
    let app = stage.stopped(Plan::new("later")).await;
    stage.proxy.vanish();
    let porter = stage.porter("", NO_SLEEP).await;
    let response = porter.ask(&program(&app)).await;
    assert_eq!(response.status, 200, "where no engine answers, every app counts as awake");
    let done = super::order(&porter, &app, "sleep").await;
    assert_eq!(done.status, 503, "{done:?}");
    let response = porter.ask(&program(&app)).await;
    assert_eq!(response.status, 200, "as before: it was not put to sleep");
    stage.proxy.appear();
    followed_again(&stage, 0).await;
    until_state(&porter, &app, "stopped", LONG).await;
    asleep_then_woken(&porter, &app).await;
}

#[tokio::test]
async fn a_socket_proxy_that_allows_the_least_is_enough() {
    let stage = Stage::new(Store::Files).await;
    let app = stage.stopped(Plan::new("least")).await;
    stage.proxy.allow_only(crate::support::docker::proxy::least);
    let porter = stage.porter("throttle = \"100ms\"\n", NO_SLEEP).await;
    until_state(&porter, &app, "stopped", LONG).await;
    asleep_then_woken(&porter, &app).await;
    for (operation, expected) in [("pause", "paused"), ("sleep", "stopped")] {
        let done = super::order(&porter, &app, operation).await;
        assert_eq!(done.status, 200, "{done:?}");
        assert_eq!(state(&porter, &app).await, expected);
    }
    asleep_then_woken(&porter, &app).await;
}
