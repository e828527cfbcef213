//! What only Compose mends: containers that cannot start as they are, and such as are
//! not what the compose file says any more.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::selection::{PROJECT, SERVICE};
use super::{LONG, NO_SLEEP, Stage, known, program, until_granted, until_state};
use crate::support::boxes::Store;
use crate::support::docker::apps::{App, Plan, Service};
use crate::support::programs::free_address;

pub(super) const QUICKLY: &str = "throttle = \"1ms\"\nlongest_backoff = \"10ms\"\n";

fn file_of(stage: &Stage, app: &App) -> PathBuf {
    stage.sample.folder().join("installed_apps").join(&app.name).join("docker-compose.yml")
}

/// Writes an app's compose file anew.
pub(super) fn change(stage: &Stage, app: &App, change: impl FnOnce(&mut Value)) {
    let file = file_of(stage, app);
    let mut text: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).expect("JSON");
    change(&mut text);
    std::fs::write(file, text.to_string()).expect("writable");
}

async fn id_of(stage: &Stage, container: &str) -> String {
    stage.apps.engine.inspect(container, "{{.Id}}").await.expect("it is there")
}

/// An app whose first container joins the network of its second.
async fn behind_vpn(stage: &Stage) -> App {
    let services = vec![Service::new("web").env("PORT", 81), Service::new("vpn")];
    let app = stage.apps.install(&stage.sample, Plan::of("behind", services)).await;
    change(stage, &app, |file| {
        let web = file["services"]["web"].as_object_mut().expect("a service");
        web.remove("networks");
        web.insert("network_mode".into(), json!("service:vpn"));
    });
    app
}

#[tokio::test]
async fn a_container_whose_network_was_anothers_that_is_gone_is_made_anew() {
    let stage = Stage::new(Store::Postgres).await;
    let app = behind_vpn(&stage).await;
    app.up().await;
    app.all("kill").await;
    let before = id_of(&stage, app.container(1)).await;
    stage.apps.engine.docker(["rm", "--force", app.container(1)]).await;
    app.try_compose(&["up", "--no-start", "vpn"]).await.expect("it is made");
    let replaced = id_of(&stage, app.container(1)).await;
    assert_ne!(before, replaced);
    let porter = stage.porter(QUICKLY, NO_SLEEP).await;
    until_state(&porter, &app, "stopped", LONG).await;
    until_granted(&porter, &program(&app)).await;
    for n in 0..2 {
        assert_eq!(app.state_of(n).await, "running");
    }
    let mode = stage.apps.engine.inspect(app.container(0), "{{.HostConfig.NetworkMode}}").await;
    let joined = format!("container:{}", id_of(&stage, app.container(1)).await);
    assert_eq!(mode.as_deref(), Some(&*joined));
}

#[tokio::test]
async fn without_compose_it_is_said_what_to_do() {
    let stage = Stage::new(Store::Files).await;
    let app = behind_vpn(&stage).await;
    app.up().await;
    app.all("kill").await;
    stage.apps.engine.docker(["rm", "--force", app.container(1)]).await;
    app.try_compose(&["up", "--no-start", "vpn"]).await.expect("it is made");
    std::fs::remove_file(file_of(&stage, &app)).expect("it was there");
    let porter = stage.porter(QUICKLY, NO_SLEEP).await;
    until_state(&porter, &app, "stopped", LONG).await;
    let done = super::order(&porter, &app, "wake").await;
    assert_eq!(done.status, 503, "{done:?}");
    assert!(done.body().contains("docker compose up -d --force-recreate"), "{done:?}");
    let reason = known(&porter, &app.name).await["last_failure"]["reason"].to_string();
    assert!(reason.contains(app.container(0)), "{reason}");
}

#[tokio::test]
async fn a_network_that_was_removed_is_made_anew() {
    let stage = Stage::new(Store::Files).await;
    let app = stage.apps.install(&stage.sample, Plan::new("network")).await;
    change(&stage, &app, |file| {
        file["networks"] = json!({});
        file["services"]["web"].as_object_mut().expect("a service").remove("networks");
    });
    app.up().await;
    app.all("kill").await;
    let project: String = app.name.chars().filter(|c| c.is_alphanumeric() || *c == '-').collect();
    let network = format!("{project}_default");
    stage.apps.engine.docker(["network", "rm", &network]).await;
    let porter = stage.porter(QUICKLY, NO_SLEEP).await;
    until_state(&porter, &app, "stopped", LONG).await;
    until_granted(&porter, &program(&app)).await;
    assert_eq!(app.state().await, "running");
    app.down().await;
}

#[tokio::test]
async fn a_wake_applies_what_has_changed_in_the_compose_file_and_nothing_else() {
    let stage = Stage::new(Store::Postgres).await;
    // By Compose, whose hash of its file is compared.
    let app = stage.apps.install(&stage.sample, Plan::new("changed")).await;
    app.create().await;
    let porter = stage.porter(QUICKLY, NO_SLEEP).await;
    until_state(&porter, &app, "stopped", LONG).await;
    let asleep = async || {
        assert_eq!(super::order(&porter, &app, "sleep").await.status, 200);
        until_state(&porter, &app, "stopped", LONG).await;
    };
    let first = id_of(&stage, &app.name).await;
    // Written anew, and the same: as shard_core does at each start.
    change(&stage, &app, |_| {});
    for _ in 0..2 {
        until_granted(&porter, &program(&app)).await;
        assert_eq!(id_of(&stage, &app.name).await, first);
        asleep().await;
    }
    change(&stage, &app, |file| file["services"]["web"]["environment"]["NAME"] = "anew".into());
    until_granted(&porter, &program(&app)).await;
    let second = id_of(&stage, &app.name).await;
    assert_ne!(second, first);
    app.until_it_answers().await;
    assert!(app.get("/").await.expect("it answers").body().contains("anew"));
    asleep().await;
    // What Compose cannot read keeps nobody from the app.
    std::fs::write(file_of(&stage, &app), "services: [").expect("writable");
    until_granted(&porter, &program(&app)).await;
    assert_eq!(id_of(&stage, &app.name).await, second);
    assert_eq!(app.state().await, "running");
}

#[tokio::test]
async fn a_wake_applies_what_has_changed_in_files_that_the_compose_file_names() {
    let stage = Stage::new(Store::Files).await;
    let app = stage.apps.install(&stage.sample, Plan::new("named")).await;
    let folder = stage.sample.folder().join("installed_apps").join(&app.name);
    let write = |name: &str, text: &str| {
        let file = folder.join(name);
        std::fs::create_dir_all(file.parent().expect("a folder")).expect("writable");
        std::fs::write(file, text).expect("writable");
    };
    let base = |value: &str| {
        json!({"services": {"any": {"image": "none", "environment": {"BASE": value}}}}).to_string()
    };
    write("conf-1/vars", "VARS=one\n");
    write("conf-2/vars", "VARS=other\n");
    write("base/base.yml", &base("one"));
    std::os::unix::fs::symlink("conf-1", folder.join("conf")).expect("writable");
    change(&stage, &app, |file| {
        file["services"]["web"]["env_file"] = "conf/vars".into();
        file["services"]["web"]["extends"] = json!({"file": "base/base.yml", "service": "any"});
    });
    app.create().await;
    let porter = stage.porter(QUICKLY, NO_SLEEP).await;
    until_state(&porter, &app, "stopped", LONG).await;
    let engine = &stage.apps.engine;
    let woken = async || {
        until_granted(&porter, &program(&app)).await;
        let variables = engine.inspect(&app.name, "{{.Config.Env}}").await.expect("it is there");
        let id = id_of(&stage, &app.name).await;
        assert_eq!(super::order(&porter, &app, "sleep").await.status, 200);
        until_state(&porter, &app, "stopped", LONG).await;
        (id, variables)
    };
    let (mut id, variables) = woken().await;
    assert!(variables.contains("VARS=one") && variables.contains("BASE=one"), "{variables}");
    assert_eq!(woken().await, (id.clone(), variables));
    let link = || {
        std::fs::remove_file(folder.join("conf")).expect("it was there");
        std::os::unix::fs::symlink("conf-2", folder.join("conf")).expect("writable");
    };
    let changes: [(&dyn Fn(), &str); 3] = [
        (&|| write("conf-1/vars", "VARS=two\n"), "VARS=two"),
        (&|| write("base/base.yml", &base("two")), "BASE=two"),
        // The other file is older than the containers.
        (&link, "VARS=other"),
    ];
    for (change, expected) in changes {
        change();
        let (changed, variables) = woken().await;
        assert!(changed != id && variables.contains(expected), "{expected}: {variables}");
        assert_eq!(woken().await, (changed.clone(), variables));
        id = changed;
    }
}

#[tokio::test]
async fn a_wake_takes_the_image_that_the_name_leads_to_now() {
    let stage = Stage::new(Store::Files).await;
    let engine = &stage.apps.engine;
    let tag = format!("{}:test", stage.apps.membership()[1]);
    engine.docker(["tag", engine.image().await, &tag]).await;
    let service = Service::new("web").with("image", tag.clone());
    let app = stage.stopped(Plan::of("image", vec![service])).await;
    let porter = stage.porter(QUICKLY, NO_SLEEP).await;
    until_state(&porter, &app, "stopped", LONG).await;
    let first = id_of(&stage, &app.name).await;
    let change = "LABEL nightporter.version=2";
    engine.docker(["commit", "--change", change, &*app.name, &*tag]).await;
    until_granted(&porter, &program(&app)).await;
    assert_ne!(id_of(&stage, &app.name).await, first);
    app.until_it_answers().await;
    app.remove().await;
    engine.docker(["rmi", &tag]).await;
}

#[tokio::test]
async fn a_port_that_an_old_container_of_the_app_has_is_freed_and_anothers_is_named() {
    let stage = Stage::new(Store::Files).await;
    let engine = &stage.apps.engine;
    for is_own in [true, false] {
        let address = free_address();
        let published = format!("{address}:80");
        let service = Service::new("web").with("ports", json!([published]));
        let app = stage.apps.install(&stage.sample, Plan::of("port", vec![service])).await;
        app.create().await;
        // For the address that it would have: the engine might give it the app's.
        let spare = stage.apps.install(&stage.sample, Plan::new("spare")).await;
        let ip = spare.address().ip().to_string();
        let old = format!("old-{}", app.name);
        let project = format!("{PROJECT}={}", if is_own { &*app.name } else { "foreign" });
        let service = format!("{SERVICE}=gone");
        let one_off = "com.docker.compose.oneoff=False";
        let mut args: Vec<&str> =
            ["run", "--detach", "--name", &old, "--publish", &published].into();
        let membership = stage.apps.membership();
        args.extend(membership.iter().map(String::as_str));
        args.extend(["--ip", &ip]);
        args.extend(["--label", &project, "--label", &service, "--label", one_off]);
        args.push(engine.image().await);
        engine.docker(args).await;
        let porter = stage.porter(QUICKLY, NO_SLEEP).await;
        until_state(&porter, &app, "stopped", LONG).await;
        if is_own {
            until_granted(&porter, &program(&app)).await;
            assert!(app.answers().await);
            assert!(engine.inspect(&old, "{{.Id}}").await.is_none(), "it is in the way");
        } else {
            let done = super::order(&porter, &app, "wake").await;
            assert_eq!(done.status, 503, "{done:?}");
            assert!(done.body().contains(&old), "{done:?}");
            assert!(engine.inspect(&old, "{{.Id}}").await.is_some(), "it is not ours");
        }
    }
}
