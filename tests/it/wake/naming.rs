//! Apps that live in one big compose file, whose project is nobody's name.

use std::io::Write as _;
use std::process::Command;

use super::selection::{APP, PROJECT, SERVICE, create, state_of};
use super::{LONG, NO_SLEEP, Stage, known, order, program, until_granted, until_state};
use crate::support::boxes::Store;
use crate::support::client::poll;
use crate::support::docker::apps::Plan;
use crate::support::server::Nightporter;

/// An app without a compose file of its own.
async fn installed(stage: &Stage, label: &str) -> crate::support::docker::apps::App {
    let app = stage.apps.install(&stage.sample, Plan::new(label)).await;
    let folder = stage.sample.folder().join("installed_apps").join(&app.name);
    std::fs::remove_file(folder.join("docker-compose.yml")).expect("it was there");
    app
}

#[tokio::test]
async fn apps_of_one_big_compose_file_are_found_by_container_or_service() {
    for store in Store::BOTH {
        let stage = Stage::new(store).await;
        let (named, served) = (installed(&stage, "named").await, installed(&stage, "served").await);
        let stack = format!("stack{}", named.name);
        create(&stage, &named.name, &[(PROJECT, &stack), (SERVICE, "web")], &[], None).await;
        let container = format!("{stack}_1");
        create(&stage, &container, &[(PROJECT, &stack), (SERVICE, &served.name)], &[], None).await;
        let database = format!("{stack}_db_1");
        create(&stage, &database, &[(PROJECT, &stack), (SERVICE, "db")], &[], None).await;
        stage.apps.engine.docker(["start", &database]).await;

        let porter = stage.porter("throttle = \"1ms\"\n", NO_SLEEP).await;
        for (app, container) in [(&named, &named.name), (&served, &container)] {
            until_state(&porter, app, "stopped", LONG).await;
            until_granted(&porter, &program(app)).await;
            assert_eq!(state_of(&stage, container).await, "running");
            for (operation, expected) in [("pause", "paused"), ("sleep", "exited")] {
                let done = order(&porter, app, operation).await;
                assert_eq!(done.status, 200, "{done:?}");
                assert_eq!(state_of(&stage, container).await, expected);
            }
        }
        assert_eq!(state_of(&stage, &database).await, "running", "it is no app's");
    }
}

/// What `nightporter check` and `nightporter apps` print.
fn printed(stage: &Stage, porter: &Nightporter, command: &str) -> String {
    let mut file = tempfile::Builder::new().suffix(".toml").tempfile().expect("a file");
    let ops = format!("[ops]\nlisten = \"{}\"\n", porter.ops);
    let config = stage.config("", NO_SLEEP);
    write!(file, "{}{ops}{config}", stage.sample.store_config()).expect("writable");
    let mut nightporter = Command::new(env!("CARGO_BIN_EXE_nightporter"));
    let output = nightporter.env_clear().arg("--config").arg(file.path()).arg(command).output();
    String::from_utf8(output.expect("it runs").stdout).expect("UTF-8")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_app_that_matches_nothing_is_told_of_with_the_label_that_mends_it() {
    let stage = Stage::new(Store::Files).await;
    let lost = installed(&stage, "lost").await;
    let made = stage.apps.install(&stage.sample, Plan::new("made")).await;
    let found = stage.stopped(Plan::new("found")).await;
    let stray = format!("stray-{}", lost.name);
    create(&stage, &stray, &[(APP, "nobody")], &[], None).await;
    let porter = stage.porter("", NO_SLEEP).await;
    until_state(&porter, &found, "stopped", LONG).await;
    poll("it is known", LONG, async || super::state(&porter, &lost).await == "awake").await;
    let label = format!("{APP}={}", lost.name);
    let hint = known(&porter, &lost.name).await["hint"].to_string();
    assert!(hint.contains(&label), "{hint}");
    assert!(known(&porter, &found.name).await["hint"].is_null());
    for command in ["check", "apps"] {
        let text = printed(&stage, &porter, command);
        let warnings = text.matches("no container belongs to this app").count();
        assert_eq!(warnings, 1, "{command}: {text}");
        assert!(text.contains(&label), "{command}: {text}");
        assert!(text.contains(&stray) == (command == "check"), "{command}: {text}");
    }
    assert_eq!(super::state(&porter, &made).await, "missing", "it can be made");
    // The label mends it.
    let container = format!("any-{}", lost.name);
    create(&stage, &container, &[(APP, &lost.name)], &[], None).await;
    until_state(&porter, &lost, "stopped", LONG).await;
    poll("nothing is left to say", LONG, async || {
        !printed(&stage, &porter, "check").contains("no container belongs to this app")
    })
    .await;
}
