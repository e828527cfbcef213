//! Parts of an app that end, and parts that somebody has ended. The table itself is in
//! `src/wake/parts.rs`.

use super::{
    LONG, NO_SLEEP, Stage, known, order, person, program, served, state, until_granted, until_state,
};
use crate::support::boxes::Store;
use crate::support::client::poll;
use crate::support::docker::apps::{App, Plan, Service};
use crate::support::docker::engine::Engine;
use crate::support::server::Nightporter;

const QUICK: &str = "throttle = \"1ms\"\n";

/// Fails unless nightporter comes to know that its n-th container has ended.
async fn until_known_ended(porter: &Nightporter, app: &App, n: usize) {
    poll("its end is known", LONG, async || {
        let known = known(porter, &app.name).await;
        let containers = known["containers"].as_array().expect("a list").iter();
        let mut ours = containers.filter(|container| container["name"] == app.container(n));
        ours.any(|container| container["state"] == "exited")
    })
    .await;
}

/// Fails unless five navigations go to the app, and start nothing.
async fn is_awake_throughout(stage: &Stage, porter: &Nightporter, app: &App) {
    let before = stage.proxy.calls("POST", "/start").len();
    for _ in 0..5 {
        assert_eq!(porter.ask(&person(app)).await.status, 200);
        assert_eq!(state(porter, app).await, "awake");
    }
    assert_eq!(stage.proxy.calls("POST", "/start").len(), before);
}

#[tokio::test]
async fn a_helper_that_ends_by_itself_is_no_reason_to_close_the_app() {
    let stage = Stage::new(Store::Postgres).await;
    let helper = Service::new("helper").env("EXIT_CODE", 145).env("EXIT_AFTER_MS", 300);
    let app = stage.stopped(Plan::of("helped", vec![Service::new("web"), helper])).await;
    let porter = stage.porter(QUICK, NO_SLEEP).await;
    until_state(&porter, &app, "stopped", LONG).await;
    for starts in 1..=2 {
        assert_eq!(served(&porter, &program(&app)).await.status, 200);
        until_known_ended(&porter, &app, 1).await;
        is_awake_throughout(&stage, &porter, &app).await;
        // It has its chance with each start of the app, and no more.
        assert_eq!(stage.proxy.calls("POST", "/start").len(), 2 * starts);
        assert_eq!(app.starts().await, u32::try_from(starts).expect("few"));
        let known = known(&porter, &app.name).await;
        assert!(known["last_failure"].is_null(), "{known}");
        assert_eq!(order(&porter, &app, "sleep").await.status, 200);
    }
}

#[tokio::test]
async fn a_part_that_somebody_has_stopped_stays_as_it_is() {
    let stage = Stage::new(Store::Files).await;
    let services = ["web", "tool", "other"].map(Service::new);
    let app = stage.running(Plan::of("tools", services.into())).await;
    let porter = stage.porter(QUICK, NO_SLEEP).await;
    until_state(&porter, &app, "awake", LONG).await;
    stage.apps.engine.docker(["stop", app.container(1)]).await;
    stage.apps.engine.docker(["kill", app.container(2)]).await;
    for n in [1, 2] {
        until_known_ended(&porter, &app, n).await;
    }
    is_awake_throughout(&stage, &porter, &app).await;
    // Nor does a night's sleep change anybody's mind.
    for operation in ["sleep", "pause"] {
        assert_eq!(order(&porter, &app, operation).await.status, 200);
        until_granted(&porter, &program(&app)).await;
        assert_eq!(app.state_of(0).await, "running");
        assert_eq!(
            (app.state_of(1).await, app.state_of(2).await),
            ("exited".into(), "exited".into())
        );
    }
    // What requests go to is another matter.
    app.all("stop").await;
    until_state(&porter, &app, "stopped", LONG).await;
    until_granted(&porter, &program(&app)).await;
    assert!(app.answers().await);
}

#[tokio::test]
async fn what_stays_down_after_the_engine_came_back_is_started_again() {
    let engine = Engine::own().await;
    let stage = Stage::on(&engine, Store::Files).await;
    let web = Service::new("web").with("restart", "always");
    let services = vec![web.clone(), Service::new("db")];
    let plain = stage.running(Plan::of("plain", services)).await;
    let services = vec![web.after("db", "service_started"), Service::new("db")];
    let depends = stage.running(Plan::of("depends", services)).await;
    let mut porter = stage.porter(QUICK, NO_SLEEP).await;
    for is_restarted_with_it in [false, true] {
        for app in [&plain, &depends] {
            until_state(&porter, app, "awake", LONG).await;
        }
        if is_restarted_with_it {
            drop(porter);
            engine.restart().await;
            porter = stage.porter(QUICK, NO_SLEEP).await;
        } else {
            engine.restart().await;
        }
        for app in [&plain, &depends] {
            poll("web is up again", LONG, async || app.state_of(0).await == "running").await;
            assert_eq!(app.state_of(1).await, "exited", "nobody has started it");
            until_state(&porter, app, "stopped", LONG).await;
            until_granted(&porter, &program(app)).await;
            assert_eq!(app.state_of(1).await, "running");
            is_awake_throughout(&stage, &porter, app).await;
        }
    }
}
