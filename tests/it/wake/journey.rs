//! A person opens a sleeping app in a browser, through Traefik, and clicks nothing.

use std::time::Duration;

use super::{LONG, NO_SLEEP, Stage, order, until_state};
use crate::support::boxes::Store;
use crate::support::docker::apps::{App, Plan};
use crate::support::docker::browser::Visit;
use crate::support::docker::front::{Errors, Front};

/// From the app's readiness until its document is there: the benchmark has the number,
/// and the rest is for the machine.
const OPENS_WITHIN: Duration = Duration::from_secs(60);

/// Opens the app as it is: first a page that waits, then the app.
async fn journey(front: &Front, app: &App) {
    let seen = Visit::to(&front.url(app, "/deep/link?a=1"), "#app").go().await;
    assert!(seen.failure.is_none(), "{seen:?}");
    let found = seen.found.unwrap_or_else(|| panic!("never opened: {seen:#?}"));
    let first = &seen.documents[0];
    assert!(!first.text.contains("began") && first.title != app.name, "no page: {seen:#?}");
    assert!(first.painted.is_some_and(|painted| painted < found), "nothing was shown: {seen:#?}");
    assert_eq!(seen.last().title, app.name);
    assert!(seen.last().url.ends_with("/deep/link?a=1"), "{seen:#?}");

    let ready = app.listens_since().await;
    let opened = Duration::from_nanos(u64::try_from(found.saturating_sub(ready)).expect("soon"));
    assert!(opened < OPENS_WITHIN, "{opened:?} after it was ready: {seen:#?}");

    let navigations: Vec<_> = seen.requests.iter().filter(|request| request.navigation).collect();
    assert_eq!(navigations.first().map(|request| request.status), Some(503), "{seen:#?}");
    assert_eq!(navigations.last().map(|request| request.status), Some(200), "{seen:#?}");
    // The page's questions are its only other requests, and none of them is the app's.
    for request in seen.requests.iter().filter(|request| !request.navigation) {
        assert!(request.poll.is_some() && request.status != 200, "{seen:#?}");
    }
    // The console tells of the page alone, which is an error on purpose, and once.
    let on_purpose = |text: &String| text.contains("status of 503");
    assert_eq!(seen.console.iter().filter(|text| on_purpose(text)).count(), 1, "{seen:#?}");
    let complaints: Vec<_> = seen.console.iter().filter(|text| !on_purpose(text)).collect();
    assert!(complaints.is_empty(), "{complaints:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sleeping_app_opens_without_a_click() {
    for errors in [Errors::Replaced, Errors::All] {
        let stage = Stage::new(Store::Postgres).await;
        let app = stage.stopped(Plan::new("journey").env("START_DELAY_MS", 1500)).await;
        let porter = stage.porter("throttle = \"100ms\"\n", NO_SLEEP).await;
        let front = Front::before(&stage.sample, &porter, &[&app], errors).await;
        until_state(&porter, &app, "stopped", LONG).await;
        journey(&front, &app).await;

        assert_eq!(order(&porter, &app, "sleep").await.status, 200);
        journey(&front, &app).await;

        // Nothing is left of it but its compose file.
        app.remove().await;
        until_state(&porter, &app, "missing", LONG).await;
        journey(&front, &app).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_app_opens_without_a_click() {
    let stage = Stage::new(Store::Files).await;
    let app = stage.running(Plan::new("paused")).await;
    let porter = stage.porter("throttle = \"100ms\"\n", NO_SLEEP).await;
    let front = Front::before(&stage.sample, &porter, &[&app], Errors::Replaced).await;
    until_state(&porter, &app, "awake", LONG).await;
    let awake = Visit::to(&front.url(&app, "/"), "#app").go().await;
    assert_eq!(awake.documents.len(), 1, "no page before an app that is awake: {awake:#?}");

    assert_eq!(order(&porter, &app, "pause").await.status, 200);
    let seen = Visit::to(&front.url(&app, "/"), "#app").go().await;
    assert!(seen.found.is_some(), "{seen:#?}");
    assert_eq!(seen.last().title, app.name, "{seen:#?}");
    assert_eq!(app.starts().await, 1, "unpaused, not started");
}
