//! Wake against sleep, and against removal.

use std::time::Duration;

use super::{LONG, NO_SLEEP, Stage, in_background, known, order, program, until_state};
use crate::support::boxes::Store;
use crate::support::client::{Request, poll};
use crate::support::docker::apps::Plan;

const NAPS: u32 = 200;
const REMOVALS: u32 = 100;
const QUICKLY: &str = "throttle = \"1ms\"\nlongest_backoff = \"10ms\"\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_app_put_to_sleep_while_it_is_woken_is_one_or_the_other() {
    let stage = Stage::new(Store::Postgres).await;
    let app = stage.running(Plan::new("nap")).await;
    let porter = stage.porter(QUICKLY, NO_SLEEP).await;
    until_state(&porter, &app, "awake", LONG).await;
    let (mut rested, mut refused) = (0, 0);
    for round in 0..NAPS {
        // Stopping takes longer, so most of the rounds pause.
        let rest = if round % 10 == 0 { "sleep" } else { "pause" };
        let askers: Vec<_> = (0..4).map(|_| in_background(&porter, &program(&app))).collect();
        // Sooner and later in the course of the wake.
        tokio::time::sleep(Duration::from_millis(u64::from(round % 8))).await;
        match order(&porter, &app, rest).await.status {
            200 => rested += 1,
            409 => refused += 1,
            status => panic!("{status} in round {round}"),
        }
        for asker in askers {
            let response = asker.await.expect("no panic").expect("an answer");
            assert_eq!(response.status, 200, "round {round}: {response:?}");
        }
        poll("what is known is what is", LONG, async || {
            let known = known(&porter, &app.name).await;
            let expected = match known["state"].as_str() {
                Some("awake") => "running",
                Some("paused") => "paused",
                Some("stopped") => "exited",
                _ => return false,
            };
            app.state().await == expected
        })
        .await;
        // Whoever is let in now finds the app.
        let response = porter.ask(&program(&app)).await;
        assert_eq!(response.status, 200, "round {round}: {response:?}");
        assert!(app.answers().await, "granted, and nobody there: round {round}");
    }
    assert!(rested > NAPS / 4, "{rested} rested, {refused} refused");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_app_removed_while_it_is_woken_stays_away() {
    let stage = Stage::new(Store::Postgres).await;
    let porter = stage.porter(&format!("{QUICKLY}hold_timeout = \"5s\"\n"), NO_SLEEP).await;
    let (mut woken, mut late) = (0, 0);
    for round in 0..REMOVALS {
        let app = stage.apps.install(&stage.sample, Plan::new("gone")).await;
        app.create_quickly().await;
        porter.until(200, &Request::auth(format!("{}.box.example", app.name), "/favicon")).await;
        assert_eq!(order(&porter, &app, "sleep").await.status, 200, "round {round}");

        let askers: Vec<_> = (0..4).map(|_| in_background(&porter, &program(&app))).collect();
        tokio::time::sleep(Duration::from_millis(u64::from(round % 40) * 5)).await;
        app.set_status(&stage.sample, "uninstalling").await;
        app.remove().await;
        stage.sample.remove_app(&app.name).await;
        for asker in askers {
            let response = asker.await.expect("no panic").expect("an answer");
            match response.status {
                200 => woken += 1,
                404 | 503 => late += 1,
                status => panic!("{status} in round {round}: {response:?}"),
            }
        }
        let project = format!("label=com.docker.compose.project={}", app.name);
        let filter = ["ps", "--all", "--quiet", "--filter", &project];
        for _ in 0..5 {
            let left = stage.apps.engine.docker(filter).await;
            assert_eq!(left, "", "it came back in round {round}");
            assert_eq!(porter.ask(&program(&app)).await.status, 404);
        }
    }
    // Both ends of the race were seen.
    assert!(woken > 0 && late > 0, "{woken} woken, {late} late");
}

#[tokio::test]
async fn containers_removed_between_order_and_start_are_made_anew() {
    for store in Store::BOTH {
        let stage = Stage::new(store).await;
        let app = stage.stopped(Plan::new("anew")).await;
        let porter = stage.porter("", NO_SLEEP).await;
        until_state(&porter, &app, "stopped", LONG).await;
        let starts = stage.proxy.hold("POST", "/start");
        let asking = in_background(&porter, &program(&app));
        starts.reached(1).await;
        app.remove().await;
        starts.release();
        let response = asking.await.expect("no panic").expect("an answer");
        assert_eq!(response.status, 200, "{response:?}");
        assert!(app.answers().await);
        assert!(stage.proxy.calls("POST", "/start").len() >= 2);

        // Paused in the same moment: the engine answers 409, or does not mind.
        assert_eq!(order(&porter, &app, "pause").await.status, 200);
        let unpausing = stage.proxy.hold("POST", "/unpause");
        let asking = in_background(&porter, &program(&app));
        unpausing.reached(1).await;
        app.all("unpause").await;
        unpausing.release();
        let response = asking.await.expect("no panic").expect("an answer");
        assert_eq!(response.status, 200, "{response:?}");
    }
}

#[tokio::test]
async fn an_order_to_wake_that_comes_during_a_stop_is_answered_by_the_wake() {
    let stage = Stage::new(Store::Files).await;
    let app = stage.running(Plan::new("again")).await;
    let porter = stage.porter(QUICKLY, NO_SLEEP).await;
    until_state(&porter, &app, "awake", LONG).await;
    let stops = stage.proxy.hold("POST", "/stop");
    let resting = async {
        let done = order(&porter, &app, "sleep").await;
        assert_eq!(done.status, 200, "{done:?}");
    };
    let waking = async {
        stops.reached(1).await;
        let (done, ()) = tokio::join!(order(&porter, &app, "wake"), async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            stops.release();
        });
        assert_eq!(done.status, 200, "{done:?}");
        assert!(app.answers().await, "said to be awake, and nobody there");
    };
    tokio::join!(resting, waking);
}

#[tokio::test]
async fn what_somebody_else_unpauses_first_is_no_failure() {
    let stage = Stage::new(Store::Files).await;
    let app = stage.running(Plan::new("first")).await;
    let folder = stage.sample.folder().join("installed_apps").join(&app.name);
    std::fs::remove_file(folder.join("docker-compose.yml")).expect("removed");
    let porter = stage.porter(QUICKLY, NO_SLEEP).await;
    until_state(&porter, &app, "awake", LONG).await;

    assert_eq!(order(&porter, &app, "pause").await.status, 200);
    let unpausing = stage.proxy.hold("POST", "/unpause");
    let asking = in_background(&porter, &program(&app));
    unpausing.reached(1).await;
    app.all("unpause").await;
    unpausing.release();
    let response = asking.await.expect("no panic").expect("an answer");
    assert_eq!(response.status, 200, "{response:?}");
    let known = known(&porter, &app.name).await;
    assert!(known["last_failure"].is_null(), "{known}");

    assert_eq!(order(&porter, &app, "pause").await.status, 200);
    let unpausing = stage.proxy.hold("POST", "/unpause");
    let stopped = async {
        let done = order(&porter, &app, "sleep").await;
        assert_eq!(done.status, 200, "{done:?}");
    };
    let unpaused = async {
        unpausing.reached(1).await;
        app.all("unpause").await;
        unpausing.release();
    };
    tokio::join!(stopped, unpaused);
    assert_eq!(app.state().await, "exited");
}
