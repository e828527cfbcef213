//! What is use without a request, and what only looks like it.

use std::time::{Duration, Instant};

use serde_json::json;

use super::idle::{SLEEP, talk_to};
use super::{LONG, Stage, program, state, until_state};
use crate::support::boxes::Store;
use crate::support::client::poll;
use crate::support::docker::apps::{App, Plan, Service};
use crate::support::server::Nightporter;

const IDLE: Duration = Duration::from_secs(5);

/// An app of one service, or of two of which the first is asked, that sleeps soon.
fn plan(label: &str, services: &[Service]) -> Plan {
    let lifecycle = json!({"always_on": false, "idle_for_pause": IDLE.as_secs()});
    Plan::of(label, services.to_vec()).meta("lifecycle", lifecycle)
}

/// Fails where one of the apps sleeps within another idle time, after one like it has
/// fallen asleep.
async fn stay_awake(porter: &Nightporter, apps: &[&App]) {
    let began = Instant::now();
    while began.elapsed() < IDLE + Duration::from_secs(1) {
        for app in apps {
            assert_eq!(state(porter, app).await, "awake", "{}", app.name);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_parts_of_an_app_say_to_each_other_is_no_use() {
    let stage = Stage::new(Store::Files).await;
    let parts = [Service::new("web"), Service::new("db")];
    let polling = stage.running(plan("polling", &parts)).await;
    let used = stage.running(plan("used", &parts)).await;
    for app in [&polling, &used] {
        let path = format!("/poll?to={}", app.address_of(1));
        assert_eq!(app.get(&path).await.expect("it answers").status, 200);
    }
    let use_of_it = talk_to(used.address());
    let porter = stage.porter("", SLEEP).await;
    until_state(&porter, &polling, "paused", LONG).await;
    stay_awake(&porter, &[&used]).await;
    drop(use_of_it);
    until_state(&porter, &used, "paused", LONG).await;
}

/// Runs a command in a container for as long as the container runs.
async fn execute(stage: &Stage, container: &str) {
    stage.apps.engine.docker(["exec", "--detach", container, "/app", "wait"]).await;
}

fn no_question_about_commands(_: &str, path: &str) -> bool {
    !path.starts_with("/exec/")
}

#[tokio::test]
async fn a_command_that_runs_in_a_container_is_not_frozen() {
    for may_be_asked in [true, false] {
        let stage = Stage::new(Store::Files).await;
        let parts = [Service::new("web").health_check(), Service::new("db").health_check()];
        let idle = stage.running(plan("idle", &parts)).await;
        let backup = stage.running(plan("backup", &parts)).await;
        if !may_be_asked {
            stage.proxy.allow_only(no_question_about_commands);
        }
        execute(&stage, backup.container(1)).await;
        let porter = stage.porter("", SLEEP).await;
        until_state(&porter, &idle, "paused", LONG).await;
        stay_awake(&porter, &[&backup]).await;
        // The command ends with its container.
        stage.apps.engine.docker(["restart", "--time=0", backup.container(1)]).await;
        until_state(&porter, &backup, "paused", LONG).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_app_says_itself_what_is_use() {
    let stage = Stage::new(Store::Files).await;
    let web = [Service::new("web")];
    let scraped = stage.running(plan("scraped", &web)).await;
    let told = stage.running(plan("told", &web).meta("activity", "none")).await;
    let busy = stage.running(plan("busy", &web).meta("activity", "cpu")).await;
    let talks: Vec<_> = [&scraped, &told, &busy].map(|app| talk_to(app.address())).into();
    execute(&stage, &told.name).await;
    execute(&stage, &scraped.name).await;
    assert_eq!(busy.get("/spin?percent=90").await.expect("it answers").status, 200);
    let sleep = format!("{SLEEP}apps = [\"{}=exec\"]\n", scraped.name);
    let porter = stage.porter("", &sleep).await;
    until_state(&porter, &told, "paused", LONG).await;
    stay_awake(&porter, &[&scraped, &busy]).await;
    drop(talks);
    assert_eq!(busy.get("/spin?percent=0").await.expect("it answers").status, 200);
    until_state(&porter, &busy, "paused", LONG).await;
    // Without its command the one that is scraped sleeps, however much it is asked.
    stage.apps.engine.docker(["restart", "--time=0", &scraped.name]).await;
    scraped.until_it_answers().await;
    let _scraper = talk_to(scraped.address());
    poll("it is granted", LONG, async || porter.ask(&program(&scraped)).await.status == 200).await;
    until_state(&porter, &scraped, "paused", LONG).await;
}
