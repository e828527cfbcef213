//! What a container was made with and is not there any more, or has been taken by another.

use std::process::Command;

use serde_json::json;

use super::recreate::{QUICKLY, change};
use super::selection::{PROJECT, SERVICE};
use super::{LONG, NO_SLEEP, Stage, known, order, program, until_granted, until_state};
use crate::support::boxes::Store;
use crate::support::docker::apps::{App, Plan, Service};
use crate::support::docker::engine::Engine;

#[tokio::test]
async fn a_volume_that_is_gone_is_made_anew() {
    let engine = Engine::own().await;
    let stage = Stage::on(&engine, Store::Files).await;
    let service = Service::new("web").with("volumes", json!(["data:/data"]));
    let app = stage.apps.install(&stage.sample, Plan::of("volume", vec![service])).await;
    change(&stage, &app, |file| file["volumes"] = json!({"data": {}}));
    app.up().await;
    app.all("kill").await;
    let template = "{{range .Mounts}}{{.Name}}{{end}}";
    let volume = engine.inspect(&app.name, template).await.expect("it is there");
    engine.stop().await;
    std::fs::remove_dir_all(engine.volume(&volume)).expect("it was there");
    engine.start().await;
    let porter = stage.porter(QUICKLY, NO_SLEEP).await;
    until_state(&porter, &app, "stopped", LONG).await;
    until_granted(&porter, &program(&app)).await;
    assert!(app.answers().await);
    assert!(engine.volume(&volume).exists());
}

/// A node like `/dev/null`'s, as long as this value lives.
struct Device(String);

impl Device {
    fn new(name: &str) -> Self {
        let path = format!("/dev/{name}");
        let made = Command::new("mknod").args([&path, "c", "1", "3"]).status();
        assert!(made.expect("mknod").success(), "{path}");
        Self(path)
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        std::fs::remove_file(&self.0).ok();
    }
}

#[tokio::test]
async fn a_device_that_is_gone_is_named_and_one_that_came_in_its_place_is_taken() {
    let stage = Stage::new(Store::Files).await;
    let name = |n: u32| format!("{}-{n}", stage.apps.membership()[1]);
    let device = Device::new(&name(1));
    let path = device.0.clone();
    let service = Service::new("web").with("devices", json!([format!("{path}:/dev/stick")]));
    let app = stage.stopped(Plan::of("device", vec![service])).await;
    let porter = stage.porter(QUICKLY, NO_SLEEP).await;
    until_state(&porter, &app, "stopped", LONG).await;
    drop(device);
    let failed = order(&porter, &app, "wake").await;
    assert_eq!(failed.status, 503, "{failed:?}");
    assert!(failed.body().contains(&path), "{failed:?}");
    let reason = known(&porter, &app.name).await["last_failure"]["reason"].to_string();
    assert!(reason.contains(&path), "{reason}");

    // It was plugged in again.
    let device = Device::new(&name(1));
    until_granted(&porter, &program(&app)).await;
    assert!(app.answers().await);
    assert_eq!(order(&porter, &app, "sleep").await.status, 200);

    // It has another name by now, and the compose file says so.
    drop(device);
    let other = Device::new(&name(2));
    change(&stage, &app, |file| {
        file["services"]["web"]["devices"] = json!([format!("{}:/dev/stick", other.0)]);
    });
    until_granted(&porter, &program(&app)).await;
    assert!(app.answers().await);
}

/// Starts a container with an address; where it is to be an app's, an old one of it.
async fn occupy(stage: &Stage, name: &str, ip: &str, app: Option<&App>) {
    let mut args: Vec<String> =
        ["run", "--detach", "--name", name, "--ip", ip].map(Into::into).into();
    args.extend(stage.apps.membership());
    if let Some(app) = app {
        let project = format!("{PROJECT}={}", app.name);
        let labels = [project, format!("{SERVICE}=gone"), "com.docker.compose.oneoff=False".into()];
        args.extend(labels.into_iter().flat_map(|label| ["--label".into(), label]));
    }
    args.push(stage.apps.engine.image().await.to_owned());
    stage.apps.engine.docker(args).await;
}

#[tokio::test]
async fn an_address_that_another_container_has_is_named_and_freed_where_it_is_the_apps() {
    let stage = Stage::new(Store::Postgres).await;
    let engine = &stage.apps.engine;
    let porter = stage.porter(QUICKLY, NO_SLEEP).await;
    for is_paused in [false, true] {
        let app = stage.stopped(Plan::new("address")).await;
        let ip = app.address().ip().to_string();
        let other = format!("other-{}", app.name);
        occupy(&stage, &other, &ip, None).await;
        if is_paused {
            engine.docker(["pause", &other]).await;
        }
        until_state(&porter, &app, "stopped", LONG).await;
        let failed = order(&porter, &app, "wake").await;
        assert_eq!(failed.status, 503, "{failed:?}");
        let expected = format!("address {ip} is taken by container {other}");
        assert!(failed.body().contains(&expected), "{failed:?}");
        assert!(engine.inspect(&other, "{{.Id}}").await.is_some(), "it is not ours");
        engine.docker(["rm", "--force", &other]).await;
        until_granted(&porter, &program(&app)).await;
        assert!(app.answers().await);
    }
    let app = stage.stopped(Plan::new("own")).await;
    let ip = app.address().ip().to_string();
    let old = format!("old-{}", app.name);
    occupy(&stage, &old, &ip, Some(&app)).await;
    until_state(&porter, &app, "stopped", LONG).await;
    until_granted(&porter, &program(&app)).await;
    assert!(app.answers().await);
    assert!(engine.inspect(&old, "{{.Id}}").await.is_none(), "it is in the way");
}
