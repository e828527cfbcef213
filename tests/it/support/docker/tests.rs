//! Tests of the test tools, without nightporter.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::time::timeout;

use super::super::boxes::{SampleBox, Store};
use super::super::client::{Request, ask, poll};
use super::super::server::Nightporter;
use super::apps::{Apps, Plan, Service};
use super::browser::Visit;
use super::engine::Engine;
use super::front::{Errors, Front};
use super::proxy::{EngineProxy, least, most_at_once};

const LONG: Duration = Duration::from_secs(120);

/// The docker client through a proxy.
fn by_way_of(proxy: &EngineProxy, args: &[&str]) -> tokio::process::Command {
    let mut command = tokio::process::Command::new("docker");
    command.env("DOCKER_HOST", proxy.host()).args(args).kill_on_drop(true);
    command
}

async fn output(proxy: &EngineProxy, args: &[&str]) -> Result<String, String> {
    let output = timeout(LONG, by_way_of(proxy, args).output()).await.expect("in time");
    let output = output.expect("the docker client");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

#[tokio::test]
async fn apps_behave_as_they_are_told() {
    let engine = Engine::shared();
    let apps = Apps::on(&engine).await;
    for store in Store::BOTH {
        let sample = SampleBox::new(store).await;
        let slow = Plan::new("slow").env("START_DELAY_MS", 700).env("PORT", 8080);
        let slow = apps.install(&sample, slow).await;
        assert_eq!(slow.state().await, "missing");
        slow.create().await;
        assert_eq!(slow.state().await, "created");
        let began = Instant::now();
        slow.all("start").await;
        slow.until_it_answers().await;
        assert!(began.elapsed() >= Duration::from_millis(700));
        let first = slow.listens_since().await;
        slow.all("pause").await;
        assert_eq!(slow.state().await, "paused");
        assert!(!slow.answers().await);
        slow.all("unpause").await;
        slow.until_it_answers().await;
        assert_eq!(slow.listens_since().await, first, "the same process");
        slow.all("stop").await;
        let code = engine.inspect(&slow.name, "{{.State.ExitCode}}").await;
        assert_eq!(code.as_deref(), Some("0"), "it handles SIGTERM, and is not killed");
        slow.all("start").await;
        slow.until_it_answers().await;
        assert!(slow.listens_since().await > first);
        assert_eq!(slow.starts().await, 2);
        slow.down().await;
        assert_eq!(slow.state().await, "missing");
    }
}

#[tokio::test]
async fn apps_fail_as_they_are_told() {
    let engine = Engine::shared();
    let apps = Apps::on(&engine).await;
    let sample = SampleBox::new(Store::Files).await;
    let ended = async |plan: Plan, expected: &str| {
        let app = apps.install(&sample, plan).await;
        app.create().await;
        app.all("start").await;
        poll("it ended", LONG, async || app.state().await == "exited").await;
        let template = "{{.State.ExitCode}} {{.State.OOMKilled}}";
        assert_eq!(engine.inspect(&app.name, template).await.as_deref(), Some(expected));
    };
    ended(Plan::new("code").env("EXIT_CODE", 7), "7 false").await;
    ended(Plan::new("done").env("EXIT_AFTER_MS", 300), "0 false").await;
    let hungry = Service::new("web").env("EAT_MB", 200).with("mem_limit", "32m");
    ended(Plan::of("hungry", vec![hungry]), "137 true").await;

    let twice = apps.install(&sample, Plan::new("twice").env("FAIL_STARTS", 2)).await;
    twice.create_quickly().await;
    for _ in 0..2 {
        twice.all("start").await;
        poll("it ended", LONG, async || twice.state().await == "exited").await;
        let code = engine.inspect(&twice.name, "{{.State.ExitCode}}").await;
        assert_eq!(code.as_deref(), Some("3"));
    }
    twice.all("start").await;
    twice.until_it_answers().await;
    assert_eq!(twice.starts().await, 3);
}

#[tokio::test]
async fn services_start_in_order_and_become_healthy() {
    let engine = Engine::shared();
    let apps = Apps::on(&engine).await;
    let sample = SampleBox::new(Store::Files).await;
    let services = vec![
        Service::new("web")
            .after("database", "service_healthy")
            .after("migration", "service_completed_successfully"),
        Service::new("database").health_check().env("HEALTH_AFTER_MS", 800),
        Service::new("migration").env("EXIT_AFTER_MS", 200),
        Service::new("sick").health_check().env("HEALTHY", "never"),
    ];
    let app = apps.install(&sample, Plan::of("chain", services)).await;
    app.up().await;
    app.until_it_answers().await;
    let health = async |n: usize| {
        engine.inspect(app.container(n), "{{.State.Health.Status}}").await.expect("it is there")
    };
    assert_eq!(health(1).await, "healthy");
    assert_eq!(app.state_of(2).await, "exited");
    poll("it is found out", LONG, async || health(3).await == "unhealthy").await;
    let mut names: Vec<_> = app.containers().collect();
    names.dedup();
    assert_eq!(names.len(), 4);
}

#[tokio::test]
async fn an_engine_of_ones_own_restarts_and_dies() {
    let (engine, other) = tokio::join!(Engine::own(), Engine::own());
    assert_ne!(engine.socket(), other.socket());
    let apps = Apps::on(&engine).await;
    let sample = SampleBox::new(Store::Files).await;
    let plain = apps.install(&sample, Plan::new("plain")).await;
    let always = Service::new("web").with("restart", "always");
    let always = apps.install(&sample, Plan::of("always", vec![always])).await;
    plain.up().await;
    always.up().await;
    plain.until_it_answers().await;
    assert_eq!(other.docker(["ps", "--quiet"]).await, "", "nothing of the other's");

    engine.restart().await;
    assert_eq!(plain.state().await, "exited");
    always.until_it_answers().await;

    plain.all("start").await;
    plain.until_it_answers().await;
    engine.kill().await;
    assert!(engine.try_docker(["ps"]).await.is_err());
    assert!(plain.answers().await, "containers outlive their engine");
    engine.start().await;
    assert_eq!(plain.state().await, "exited");
    other.docker(["ps"]).await;
}

#[tokio::test]
async fn the_proxy_counts_refuses_delays_and_holds() {
    let engine = Engine::shared();
    let apps = Apps::on(&engine).await;
    let sample = SampleBox::new(Store::Files).await;
    let app = apps.install(&sample, Plan::new("held")).await;
    app.create().await;
    let proxy = EngineProxy::before(&engine).await;

    output(&proxy, &["start", &app.name]).await.unwrap();
    let starts = proxy.calls("POST", "/start");
    assert_eq!(starts.len(), 1, "{:?}", proxy.all_calls());
    assert_eq!(starts[0].path, format!("/containers/{}/start", app.name));
    assert_eq!(starts[0].answered.map(|(_, status)| status), Some(204));
    // Bodies in both directions, and a connection that becomes a stream of bytes.
    let printed = output(&proxy, &["exec", &app.name, "/app", "healthcheck"]).await;
    assert_eq!(printed.as_deref(), Ok(""));
    assert_eq!(proxy.calls("POST", "/start").len(), 2, "that of the exec");

    proxy.allow_only(least);
    output(&proxy, &["stop", &app.name]).await.unwrap();
    let refused = output(&proxy, &["exec", &app.name, "/app", "healthcheck"]).await;
    assert!(refused.unwrap_err().contains("Forbidden"));
    assert!(output(&proxy, &["rm", &app.name]).await.is_err());
    assert_eq!(app.state().await, "exited");

    proxy.forget_calls();
    let hold = proxy.hold("POST", "/start");
    let held = [(); 3].map(|()| by_way_of(&proxy, &["start", &app.name]).spawn().unwrap());
    hold.reached(3).await;
    assert_eq!(app.state().await, "exited");
    hold.release();
    for mut held in held {
        assert!(timeout(LONG, held.wait()).await.expect("in time").unwrap().success());
    }
    assert_eq!(app.state().await, "running");
    assert_eq!(most_at_once(&proxy.calls("POST", "/start")), 3);

    let delay = Duration::from_millis(200);
    proxy.delay(delay);
    proxy.forget_calls();
    output(&proxy, &["ps"]).await.unwrap();
    let calls = proxy.calls("GET", "/containers/json");
    assert!(calls[0].answered.expect("answered").0 - calls[0].at >= delay);
}

#[tokio::test]
async fn the_proxy_cuts_all_or_the_events_alone() {
    let engine = Engine::shared();
    let proxy = EngineProxy::before(&engine).await;
    let follow = async || {
        let mut events = by_way_of(&proxy, &["events", "--format", "{{.Action}}"]);
        let mut events = events.stdout(std::process::Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(events.stdout.take().unwrap()).lines();
        let followed = proxy.calls("GET", "/events").len() + 1;
        poll("it is followed", LONG, async || {
            let calls = proxy.calls("GET", "/events");
            calls.len() == followed && calls[followed - 1].answered.is_some()
        })
        .await;
        (events, lines)
    };
    let (mut events, mut lines) = follow().await;
    let apps = Apps::on(&engine).await;
    let sample = SampleBox::new(Store::Files).await;
    let app = apps.install(&sample, Plan::new("events")).await;
    app.create_quickly().await;
    let mut heard = async || timeout(LONG, lines.next_line()).await.expect("in time").unwrap();
    while heard().await.expect("the stream goes on") != "create" {}

    let hold = proxy.hold("POST", "/start");
    let mut held = by_way_of(&proxy, &["start", &app.name]).spawn().unwrap();
    hold.reached(1).await;
    proxy.cut_events();
    timeout(LONG, events.wait()).await.expect("cut").unwrap();
    hold.release();
    assert!(timeout(LONG, held.wait()).await.expect("in time").unwrap().success(), "not cut");

    for end in [EngineProxy::reset, EngineProxy::vanish] {
        let (mut events, _lines) = follow().await;
        end(&proxy);
        timeout(LONG, events.wait()).await.expect("cut").unwrap();
    }
    assert!(output(&proxy, &["ps"]).await.is_err(), "nothing listens");
    proxy.appear();
    output(&proxy, &["ps"]).await.unwrap();
    proxy.cut(true);
    assert!(output(&proxy, &["ps"]).await.is_err(), "cut at once");
    proxy.cut(false);
    output(&proxy, &["ps"]).await.unwrap();
    let address = proxy.address.to_string();
    let over_tcp = engine.try_docker(["--host", &address, "ps"]).await;
    over_tcp.unwrap();
}

#[tokio::test]
async fn traefik_and_the_browser_reach_an_app_in_a_container() {
    let engine = Engine::shared();
    let apps = Apps::on(&engine).await;
    let sample = SampleBox::new(Store::Files).await;
    let paths = json!({"": {"access": "public"}, "/private": {"access": "private"}});
    let app = apps.install(&sample, Plan::new("shown").paths(paths)).await;
    app.up().await;
    app.until_it_answers().await;
    let porter = Nightporter::of(&sample).await;
    for errors in [Errors::Replaced, Errors::Kept] {
        let front = Front::before(&sample, &porter, &[&app], errors).await;
        let response = ask(front.address, &front.request("GET", &app, "/echo")).await;
        assert_eq!(response.status, 200, "{response:?}");
        let denied = ask(front.address, &front.request("GET", &app, "/private")).await;
        assert_eq!(denied.status, 401);
        // The gate's response reaches the client, whichever middlewares there are.
        assert_eq!(denied.body(), r#"{"detail":"Unauthorized"}"#, "{denied:?}");

        let seen = Visit::to(&front.url(&app, "/"), "#app").go().await;
        assert_eq!(seen.documents.len(), 1, "{seen:?}");
        let shown = seen.last();
        assert!(shown.text.contains(&app.name), "{seen:?}");
        let (found, painted) = (seen.found.expect("found"), shown.painted.expect("painted"));
        assert!(seen.asked <= found && seen.asked <= painted, "{seen:?}");
        let request = seen.requests.iter().find(|request| request.navigation);
        assert_eq!(request.map(|request| request.status), Some(200), "{seen:?}");
        // Every browser requests the icon, and the app answers that like any request.
        assert!(seen.failure.is_none() && seen.console.is_empty(), "{seen:?}");
    }
    // A port without a server behind it.
    let nowhere = super::super::programs::free_address();
    let seen = Visit::to(&format!("http://nowhere.test:{}/", nowhere.port()), "#app").go().await;
    assert!(seen.failure.is_some() && seen.found.is_none(), "{seen:?}");
}

#[tokio::test]
async fn a_quickly_made_container_is_one_of_its_project() {
    let engine = Engine::shared();
    let apps = Apps::on(&engine).await;
    let sample = SampleBox::new(Store::Files).await;
    let app = apps.install(&sample, Plan::new("quick")).await;
    app.create_quickly().await;
    let project = format!("label=com.docker.compose.project={}", app.name);
    let found = engine.docker(["ps", "--all", "--quiet", "--filter", &project]).await;
    assert_eq!(found.lines().count(), 1);
    app.up().await;
    app.until_it_answers().await;
    let response = ask(app.address(), &Request::new("GET", "/echo")).await;
    assert!(response.body().contains("\"method\":\"GET\""), "{response:?}");
}
