//! What people do with containers and Compose besides: a network that is another
//! container's, `docker run --rm`, override files, `--scale`.

use std::net::SocketAddr;

use serde_json::json;
use tokio::net::TcpStream;

use super::idle::SLEEP;
use super::recreate::{QUICKLY, change};
use super::{LONG, NO_SLEEP, Stage, order, program, state, until_granted, until_state};
use crate::support::boxes::Store;
use crate::support::client::poll;
use crate::support::docker::apps::{App, Plan, Service};

/// Makes an app's services such as Compose numbers them: without names and addresses.
fn unnamed(stage: &Stage, app: &App) {
    change(stage, app, |file| {
        file["networks"] = json!({});
        let services = file["services"].as_object_mut().expect("services");
        for service in services.values_mut() {
            let service = service.as_object_mut().expect("a service");
            service.remove("networks");
            service.remove("container_name");
        }
    });
}

#[tokio::test]
async fn a_part_in_another_ones_network_is_waited_for_there() {
    let stage = Stage::new(Store::Files).await;
    let web = Service::new("web").env("PORT", 81).env("START_DELAY_MS", 3000);
    let plan = Plan::of("joins", vec![web, Service::new("vpn")]);
    let app = stage.apps.install(&stage.sample, plan).await;
    change(&stage, &app, |file| {
        let web = file["services"]["web"].as_object_mut().expect("a service");
        web.remove("networks");
        web.insert("network_mode".into(), json!("service:vpn"));
    });
    // What is made while the other does not run is given a network of its own by Compose.
    app.up().await;
    app.all("kill").await;
    let porter = stage.porter(QUICKLY, NO_SLEEP).await;
    until_state(&porter, &app, "stopped", LONG).await;
    until_granted(&porter, &program(&app)).await;
    let there = SocketAddr::from((app.address_of(1).ip(), 81));
    TcpStream::connect(there).await.expect("it listens by the time that a request is granted");
}

#[tokio::test]
async fn what_the_engine_would_remove_is_never_stopped() {
    let stage = Stage::new(Store::Files).await;
    let lifecycle = json!({"always_on": false, "skip_pause": true, "idle_for_stop": 5});
    let plan = |label| Plan::new(label).meta("lifecycle", lifecycle.clone());
    let usual = stage.running(plan("usual")).await;
    let passing = stage.apps.install(&stage.sample, plan("passing")).await;
    let folder = stage.sample.folder().join("installed_apps").join(&passing.name);
    std::fs::remove_file(folder.join("docker-compose.yml")).expect("it was there");
    let engine = &stage.apps.engine;
    let ip = passing.address().ip().to_string();
    let mut run: Vec<String> =
        ["run", "--rm", "--detach", "--name", &passing.name, "--ip", &ip].map(Into::into).into();
    run.extend(stage.apps.membership());
    run.push(engine.image().await.to_owned());
    engine.docker(run).await;
    passing.until_it_answers().await;

    let porter = stage.porter("", SLEEP).await;
    until_state(&porter, &passing, "awake", LONG).await;
    // Both are due at the same time, and looked at by name.
    until_state(&porter, &usual, "stopped", LONG).await;
    assert_eq!(state(&porter, &passing).await, "awake");
    let stopped = order(&porter, &passing, "sleep").await;
    assert!(stopped.status >= 400 && stopped.body().contains("--rm"), "{stopped:?}");
    assert_eq!(passing.state().await, "running");
    assert_eq!(order(&porter, &passing, "pause").await.status, 200);
    assert_eq!(passing.state().await, "paused");
    until_granted(&porter, &program(&passing)).await;
    assert_eq!(passing.state().await, "running");
}

#[tokio::test]
async fn what_was_made_with_an_override_is_not_made_without_it() {
    let stage = Stage::new(Store::Files).await;
    let app = stage.apps.install(&stage.sample, Plan::new("overridden")).await;
    let folder = stage.sample.folder().join("installed_apps").join(&app.name);
    let more = json!({"services": {"web": {"environment": {"MORE": "kept"}}}});
    let file = folder.join("docker-compose.override.yml");
    std::fs::write(file, more.to_string()).expect("writable");
    app.create().await;
    let porter = stage.porter(QUICKLY, NO_SLEEP).await;
    until_state(&porter, &app, "stopped", LONG).await;
    let engine = &stage.apps.engine;
    let environment = async || {
        let id = engine.inspect(&app.name, "{{.Id}}").await.expect("it is there");
        let variables = engine.inspect(&app.name, "{{.Config.Env}}").await.unwrap_or_default();
        (id, variables)
    };
    let first = environment().await;
    // Written anew, and the same.
    change(&stage, &app, |_| {});
    until_granted(&porter, &program(&app)).await;
    assert_eq!(environment().await, first);
    assert_eq!(order(&porter, &app, "sleep").await.status, 200);
    until_state(&porter, &app, "stopped", LONG).await;
    change(&stage, &app, |file| file["services"]["web"]["environment"]["NAME"] = "anew".into());
    until_granted(&porter, &program(&app)).await;
    let (id, variables) = environment().await;
    assert_ne!(id, first.0);
    assert!(variables.contains("NAME=anew") && variables.contains("MORE=kept"), "{variables}");
    // Somebody takes it down: it comes back as it was.
    app.down().await;
    until_granted(&porter, &program(&app)).await;
    let (_, variables) = environment().await;
    assert!(variables.contains("NAME=anew") && variables.contains("MORE=kept"), "{variables}");
}

#[tokio::test]
async fn a_replica_that_somebody_stopped_is_left_and_the_others_serve() {
    let stage = Stage::new(Store::Files).await;
    let entrypoints =
        json!([{"container_name": "web", "container_port": 80, "entrypoint_port": "http"}]);
    let plan = Plan::new("scaled").meta("entrypoints", entrypoints);
    let app = stage.apps.install(&stage.sample, plan).await;
    unnamed(&stage, &app);
    app.try_compose(&["up", "--detach", "--scale", "web=3"]).await.expect("it comes up");
    let engine = &stage.apps.engine;
    let numbered = async |number: usize| {
        let filter = format!("label=com.docker.compose.project={}", app.name);
        let number = format!("label=com.docker.compose.container-number={number}");
        let args = ["ps", "--all", "--quiet", "--filter", &filter, "--filter", &number];
        engine.docker(args).await.trim().to_owned()
    };
    let states = async || {
        let mut states = Vec::new();
        for number in 1..=3 {
            let id = numbered(number).await;
            states.push(engine.inspect(&id, "{{.State.Status}}").await.expect("it is there"));
        }
        states
    };
    let porter = stage.porter(QUICKLY, NO_SLEEP).await;
    until_state(&porter, &app, "awake", LONG).await;
    engine.docker(["stop", "--time=0", &numbered(2).await]).await;
    poll("its end is heard of", LONG, async || {
        super::known(&porter, &app.name).await["containers"].to_string().contains("exited")
    })
    .await;
    assert_eq!(state(&porter, &app).await, "awake");
    until_granted(&porter, &program(&app)).await;
    assert_eq!(states().await, ["running", "exited", "running"]);
    assert_eq!(order(&porter, &app, "sleep").await.status, 200);
    until_state(&porter, &app, "stopped", LONG).await;
    until_granted(&porter, &program(&app)).await;
    assert_eq!(states().await, ["running", "exited", "running"]);
    app.down().await;
}
