//! What the box itself forbids: too little disk, too small a machine.

use serde_json::{Value, json};

use super::{LONG, NO_SLEEP, Stage, known, order, person, program, state, until_state};
use crate::support::boxes::{SampleBox, Store};
use crate::support::client::poll;
use crate::support::docker::apps::Plan;

const MORE_THAN_THERE_IS: &str = "min_free_disk = \"1000000 GiB\"\n";

#[tokio::test]
async fn a_full_disk_starts_nothing_and_stops_what_runs() {
    for store in Store::BOTH {
        let stage = Stage::new(store).await;
        let asleep = stage.stopped(Plan::new("asleep")).await;
        let running = stage.running(Plan::new("running")).await;
        let paused = stage.running(Plan::new("paused")).await;
        paused.all("pause").await;
        let always = json!({"always_on": true});
        let always = stage.running(Plan::new("always").meta("lifecycle", always)).await;

        // Nobody is put to sleep where that is not wanted, and nobody is woken.
        let porter = stage.porter(MORE_THAN_THERE_IS, NO_SLEEP).await;
        until_state(&porter, &asleep, "stopped", LONG).await;
        let response = porter.ask(&program(&asleep)).await;
        assert_eq!(response.status, 503, "{response:?}");
        let problem: Value = serde_json::from_slice(&response.body).expect("JSON");
        assert_eq!(problem["state"], "low_disk", "{problem}");
        let page = porter.ask(&person(&asleep)).await;
        assert!(page.body().contains("Low Disk Space"), "{page:?}");
        assert_eq!(state(&porter, &asleep).await, "low_disk");
        let refused = order(&porter, &asleep, "wake").await;
        assert_eq!(refused.status, 409, "{refused:?}");
        assert_eq!(porter.ask(&program(&running)).await.status, 200);
        assert_eq!(running.state().await, "running");
        drop(porter);

        let sleep = "interval = \"1s\"\nhold_off = \"1h\"\n";
        let porter = stage.porter(MORE_THAN_THERE_IS, sleep).await;
        for app in [&running, &paused, &always] {
            poll("it is stopped", LONG, async || app.state().await == "exited").await;
            assert_eq!(porter.ask(&program(app)).await.status, 503);
            assert_eq!(state(&porter, app).await, "low_disk");
        }
        assert!(stage.proxy.calls("POST", "/start").is_empty());
        assert!(stage.proxy.calls("POST", "/unpause").len() <= 1, "only to be stopped");
    }
}

/// The size of the machine, as its owner's console writes it; `None` where it never did.
async fn set_size(sample: &SampleBox, size: Option<&str>) {
    sample.database().execute("DELETE FROM kv_store WHERE key = 'profile'", &[]).await;
    if let Some(size) = size {
        let profile = json!({"vm_size": size});
        let sql = format!("INSERT INTO kv_store VALUES ('profile', '{profile}')");
        sample.database().execute(&sql, &[]).await;
    }
}

#[tokio::test]
async fn a_machine_that_is_too_small_starts_nothing() {
    let stage = Stage::new(Store::Postgres).await;
    let plan = || Plan::new("large").meta("minimum_portal_size", "m");
    let app = stage.stopped(plan()).await;
    set_size(&stage.sample, Some("xs")).await;
    let porter = stage.porter("throttle = \"1ms\"\n", NO_SLEEP).await;
    until_state(&porter, &app, "stopped", LONG).await;
    let response = porter.ask(&program(&app)).await;
    assert_eq!(response.status, 503, "{response:?}");
    let problem: Value = serde_json::from_slice(&response.body).expect("JSON");
    assert_eq!(problem["state"], "too_small", "{problem}");
    let page = porter.ask(&person(&app)).await;
    assert!(page.body().contains("VM too small, need at least M"), "{page:?}");
    assert_eq!(known(&porter, &app.name).await["state"], "too_small");
    assert_eq!(app.state().await, "created");
    assert!(stage.proxy.calls("POST", "/start").is_empty());

    // It grew, just enough.
    set_size(&stage.sample, Some("m")).await;
    poll("it wakes", LONG, async || porter.ask(&program(&app)).await.status == 200).await;
    assert!(app.answers().await);

    // Nobody can say that it is too small.
    set_size(&stage.sample, None).await;
    let other = stage.stopped(plan()).await;
    porter.until(200, &program(&other)).await;
    assert!(other.answers().await);
}
