//! Apps that are services of a swarm: scaled instead of started and stopped.

use serde_json::json;

use super::{LONG, Stage, known, order, program, state, until_granted, until_state};
use crate::support::boxes::Store;
use crate::support::client::poll;
use crate::support::docker::apps::{App, Plan};
use crate::support::docker::engine::Engine;
use crate::support::programs::free_address;

/// A service that belongs to an app by its label.
async fn service(stage: &Stage, app: &App, replicas: u32, labels: &[&str]) {
    let label = format!("nightporter.app={}", app.name);
    let mut args = vec![
        "service".to_owned(),
        "create".into(),
        "--detach".into(),
        "--no-resolve-image".into(),
        // Several on one machine's network, none of which comes to listen there: what is
        // asked of them here is whether they run.
        "--network=host".into(),
        "--env=START_DELAY_MS=3600000".into(),
        "--restart-condition=any".into(),
        "--stop-grace-period=2s".into(),
        format!("--name={}", app.name),
        format!("--replicas={replicas}"),
        format!("--label={label}"),
    ];
    args.extend(labels.iter().map(|label| format!("--label={label}")));
    args.push(stage.apps.engine.image().await.to_owned());
    stage.apps.engine.docker(args).await;
}

/// How many tasks run of how many there are to be, as the engine's client shows it.
async fn replicas(stage: &Stage, app: &App) -> String {
    let filter = format!("name={}", app.name);
    let args = ["service", "ls", "--filter", &filter, "--format", "{{.Replicas}}"];
    stage.apps.engine.docker(args).await
}

async fn until_replicas(stage: &Stage, app: &App, expected: &str) {
    poll(&format!("{expected} replicas"), LONG, async || replicas(stage, app).await == expected)
        .await;
}

#[tokio::test]
async fn a_service_is_scaled_to_none_and_back_to_what_it_was() {
    let engine = Engine::own().await;
    let listen = format!("--listen-addr={}", free_address());
    engine.docker(["swarm", "init", "--advertise-addr=127.0.0.1", &listen]).await;
    let stage = Stage::on(&engine, Store::Postgres).await;

    let twice = stage.apps.install(&stage.sample, Plan::new("twice")).await;
    service(&stage, &twice, 2, &[]).await;
    let told = stage.apps.install(&stage.sample, Plan::new("told")).await;
    service(&stage, &told, 0, &["nightporter.replicas=3"]).await;
    let never = stage.apps.install(&stage.sample, Plan::new("never")).await;
    service(&stage, &never, 0, &[]).await;
    let short = json!({"always_on": false, "skip_pause": false, "idle_for_pause": 5,
                       "idle_for_stop": 6});
    let idle = Plan::new("idle").meta("lifecycle", short);
    let idle = stage.apps.install(&stage.sample, idle).await;
    service(&stage, &idle, 1, &[]).await;
    until_replicas(&stage, &twice, "2/2").await;
    until_replicas(&stage, &idle, "1/1").await;

    let sleep = "interval = \"1s\"\nhold_off = \"1s\"\n";
    let porter = stage.porter("throttle = \"1ms\"\n", sleep).await;
    until_state(&porter, &twice, "awake", LONG).await;
    until_state(&porter, &told, "stopped", LONG).await;
    until_state(&porter, &never, "stopped", LONG).await;

    // Down, up to the number it had, and the same again: it is not forgotten.
    for _ in 0..2 {
        let done = order(&porter, &twice, "sleep").await;
        assert_eq!(done.status, 200, "{done:?}");
        assert_eq!(state(&porter, &twice).await, "stopped");
        assert!(replicas(&stage, &twice).await.ends_with("/0"));
        until_replicas(&stage, &twice, "0/0").await;
        until_granted(&porter, &program(&twice)).await;
        assert_eq!(state(&porter, &twice).await, "awake");
        let now = replicas(&stage, &twice).await;
        assert!(["1/2", "2/2"].contains(&&*now), "granted with {now}");
        until_replicas(&stage, &twice, "2/2").await;
    }
    // A service cannot be paused: it is put to sleep as far as it can be.
    assert_eq!(order(&porter, &twice, "pause").await.status, 200);
    assert_eq!(state(&porter, &twice).await, "stopped");

    // To what its label says, and to one where nothing says how many.
    for (app, expected) in [(&told, "3/3"), (&never, "1/1")] {
        until_granted(&porter, &program(app)).await;
        until_replicas(&stage, app, expected).await;
        let known = known(&porter, &app.name).await;
        assert_eq!(known["containers"][0]["state"], "running", "{known}");
    }
    assert_eq!(order(&porter, &told, "sleep").await.status, 200);
    until_granted(&porter, &program(&told)).await;
    until_replicas(&stage, &told, "3/3").await;

    // By hand, too.
    engine.docker(["service", "scale", "--detach", &format!("{}=0", never.name)]).await;
    until_state(&porter, &never, "stopped", LONG).await;
    engine.docker(["service", "scale", "--detach", &format!("{}=1", never.name)]).await;
    until_state(&porter, &never, "awake", LONG).await;

    // Nobody has asked for this one.
    until_state(&porter, &idle, "stopped", LONG).await;
    until_replicas(&stage, &idle, "0/0").await;
}
