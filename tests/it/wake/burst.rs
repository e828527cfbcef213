//! Many who ask at once, for one app and for many.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::{LONG, NO_SLEEP, Stage, program, state, until_state};
use crate::support::boxes::Store;
use crate::support::client::poll;
use crate::support::docker::apps::Plan;
use crate::support::load::{Shot, drive};

const ASKERS: u64 = 1000;
const APPS: usize = 50;

/// For so long a start has its place in any case: one that takes long gives it up.
const HAS_ITS_PLACE: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_requests_for_a_stopped_app_are_one_start() {
    for store in Store::BOTH {
        let stage = Stage::new(store).await;
        let app = stage.stopped(Plan::new("burst").env("START_DELAY_MS", 500)).await;
        let porter = stage.porter("", NO_SLEEP).await;
        until_state(&porter, &app, "stopped", LONG).await;
        let shots: Arc<[Shot]> = [Shot::new(&program(&app), 200)].into();
        let connections = usize::try_from(ASKERS).expect("64 bits");
        drive(porter.gate, &shots, connections, ASKERS).await.is_as_expected(ASKERS);
        let starts = stage.proxy.calls("POST", "/start");
        assert_eq!(starts.len(), 1, "{store:?} {starts:?}");
        assert_eq!(app.starts().await, 1);
        assert_eq!(state(&porter, &app).await, "awake");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attempts_that_fail_are_made_ever_more_rarely() {
    const THROTTLE: Duration = Duration::from_secs(1);
    /// At most after 0, 1, 3 and 7 s.
    const WATCHED: usize = 4;
    let stage = Stage::new(Store::Files).await;
    let app = stage.stopped(Plan::new("failing").env("EXIT_CODE", 1)).await;
    let porter = stage.porter("throttle = \"1s\"\nhold_timeout = \"2s\"\n", NO_SLEEP).await;
    until_state(&porter, &app, "stopped", LONG).await;

    let mut askers = JoinSet::new();
    let over = Arc::new(AtomicBool::new(false));
    for _ in 0..100 {
        let (gate, request, over) = (porter.gate, program(&app), Arc::clone(&over));
        askers.spawn(async move {
            while !over.load(Ordering::Relaxed) {
                let response = crate::support::client::ask(gate, &request).await;
                assert_eq!(response.status, 503, "{response:?}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
    }
    poll("it is tried again", LONG, async || stage.proxy.calls("POST", "/start").len() >= WATCHED)
        .await;
    over.store(true, Ordering::Relaxed);
    while let Some(asker) = askers.join_next().await {
        asker.expect("every answer was 503");
    }

    // However many asked: each attempt after the wait that the failures before it cost.
    let starts = stage.proxy.calls("POST", "/start");
    for (n, pair) in starts.windows(2).enumerate() {
        let shortest = THROTTLE * (1 << n) / 2;
        let gap = pair[1].at - pair[0].at;
        assert!(gap >= shortest, "{gap:?} before attempt {}, not {shortest:?}", n + 2);
    }
    let known = super::known(&porter, &app.name).await;
    assert!(known["last_failure"]["reason"].to_string().contains("code 1"), "{known}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_apps_asked_for_at_once_start_two_at_a_time() {
    let stage = Stage::new(Store::Postgres).await;
    let mut apps = Vec::new();
    for _ in 0..APPS {
        let plan = Plan::new("many").env("START_DELAY_MS", 200);
        let app = stage.apps.install(&stage.sample, plan).await;
        app.create_quickly().await;
        apps.push(app);
    }
    let porter = Arc::new(stage.porter("max_concurrent = 2\n", NO_SLEEP).await);
    for app in &apps {
        until_state(&porter, app, "stopped", LONG).await;
    }
    let mut askers = JoinSet::new();
    for app in &apps {
        let (porter, request) = (Arc::clone(&porter), program(app));
        askers.spawn(tokio::time::timeout(LONG, async move {
            // Held for as long as any is, and perhaps not long enough.
            while porter.ask(&request).await.status != 200 {}
        }));
    }
    let (began, mut queued) = (Instant::now(), 0);
    while queued <= APPS / 2 {
        queued = 0;
        for app in &apps {
            queued += usize::from(state(&porter, app).await == "queued");
        }
        assert!(began.elapsed() < LONG, "no queue");
    }
    while let Some(asker) = askers.join_next().await {
        asker.expect("no panic").expect("all are granted in the end");
    }
    let starts = stage.proxy.calls("POST", "/start");
    assert_eq!(starts.len(), APPS);
    // From the order until it listens: a place is not free before.
    let longest = HAS_ITS_PLACE.as_nanos();
    let mut under_way = Vec::new();
    for app in &apps {
        assert_eq!(app.starts().await, 1);
        let id = stage.apps.engine.inspect(&app.name, "{{.Id}}").await.expect("it is there");
        let path = |name: &str| format!("/containers/{name}/start");
        let start = starts.iter().find(|call| [path(&id), path(&app.name)].contains(&call.path));
        let start = start.expect("it was started").unix;
        under_way.push((start, app.listens_since().await.min(start + longest)));
    }
    for (began, _) in &under_way {
        let at_once = under_way.iter().filter(|(from, to)| from <= began && began < to).count();
        assert!(at_once <= 2, "{at_once} at once");
    }
}
