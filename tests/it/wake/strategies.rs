//! Who gets what while an app sleeps.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{
    LONG, NO_SLEEP, Stage, in_background, order, person, program, served, state, until_state,
};
use crate::support::boxes::{Store, token};
use crate::support::client::{Request, ask, poll};
use crate::support::docker::apps::Plan;
use crate::support::docker::front::{Errors, Front};

#[tokio::test]
async fn a_person_gets_a_page_and_a_program_the_app() {
    for store in Store::BOTH {
        let stage = Stage::new(store).await;
        let app = stage.stopped(Plan::new("auto").env("START_DELAY_MS", 500)).await;
        let porter = stage.porter("throttle = \"100ms\"\n", NO_SLEEP).await;
        until_state(&porter, &app, "stopped", LONG).await;

        // It waits for nothing: the engine is not allowed to start it yet.
        let starts = stage.proxy.hold("POST", "/start");
        let page = porter.ask(&person(&app)).await;
        assert_eq!(app.state().await, "created");
        starts.release();
        assert_eq!(page.status, 503, "{page:?}");
        assert!(page.text("content-type").is_some_and(|kind| kind.starts_with("text/html")));
        let seconds = page.text("retry-after").expect("Retry-After");
        assert!(seconds.parse::<u32>().is_ok_and(|seconds| seconds > 0), "{page:?}");
        assert_eq!(page.text("cache-control"), Some("no-store"), "{page:?}");
        until_state(&porter, &app, "awake", LONG).await;
        assert_eq!(porter.ask(&person(&app)).await.status, 200);

        let host = format!("{}.box.example", app.name);
        let navigation = |request: Request| {
            request.header("Sec-Fetch-Mode", "navigate").header("Accept", "text/html")
        };
        let post = Request::unforwarded()
            .header("X-Forwarded-Method", "POST")
            .header("X-Forwarded-Proto", "https")
            .header("X-Forwarded-Host", &host)
            .header("X-Forwarded-Uri", "/");
        let web_socket = Request::auth(&host, "/ws").header("Sec-WebSocket-Key", "x");
        for held in [navigation(post), web_socket, Request::auth(&host, "/"), program(&app)] {
            assert_eq!(order(&porter, &app, "sleep").await.status, 200);
            assert_eq!(state(&porter, &app).await, "stopped");
            let response = served(&porter, &held).await;
            assert_eq!(response.status, 200, "{held:?} {response:?}");
            assert!(app.answers().await, "held until it was ready: {held:?}");
        }
    }
}

#[tokio::test]
async fn the_choice_is_the_apps_or_the_owners() {
    let stage = Stage::new(Store::Files).await;
    let pass = stage.stopped(Plan::new("pass").meta("wake", "pass")).await;
    let hold = stage.stopped(Plan::new("hold").meta("wake", "pass")).await;
    let apps = format!("apps = [\"{}=hold\"]\n", hold.name);
    let porter = stage.porter(&apps, NO_SLEEP).await;
    until_state(&porter, &pass, "stopped", LONG).await;
    until_state(&porter, &hold, "stopped", LONG).await;

    // Whoever passes at once has not waited for the engine.
    let starts = stage.proxy.hold("POST", "/start");
    assert_eq!(porter.ask(&program(&pass)).await.status, 200);
    assert_eq!(porter.ask(&person(&pass)).await.status, 200);
    starts.reached(1).await;
    assert_eq!(pass.state().await, "created");
    starts.release();
    until_state(&porter, &pass, "awake", LONG).await;

    assert_eq!(served(&porter, &person(&hold)).await.status, 200);
    assert!(hold.answers().await);
}

#[tokio::test]
async fn what_is_held_too_long_is_told_why() {
    let stage = Stage::new(Store::Files).await;
    let slow = stage.stopped(Plan::new("slow")).await;
    let porter = stage.porter("hold_timeout = \"1s\"\n", NO_SLEEP).await;
    until_state(&porter, &slow, "stopped", LONG).await;
    let starts = stage.proxy.hold("POST", "/start");
    let began = Instant::now();
    let response = porter.ask(&program(&slow)).await;
    assert!(began.elapsed() >= Duration::from_secs(1), "{:?}", began.elapsed());
    assert_eq!(response.status, 503, "{response:?}");
    assert_eq!(response.text("content-type"), Some("application/problem+json"));
    assert!(response.text("retry-after").is_some(), "{response:?}");
    let body: serde_json::Value = serde_json::from_slice(&response.body).expect("JSON");
    assert!(body.to_string().contains("created"), "it names the container's state: {body}");
    starts.release();
    until_state(&porter, &slow, "awake", LONG).await;
}

#[tokio::test]
async fn nobody_who_is_denied_wakes_anything() {
    let paths = json!({"": {"access": "private"}, "/peer": {"access": "peer"}});
    for store in Store::BOTH {
        let stage = Stage::new(store).await;
        let app = stage.stopped(Plan::new("denied").paths(paths.clone())).await;
        let ignore = "[wake.ignore]\nuser_agents = [\"Uptime-Kuma\"]\npaths = [\"/healthz\"]\n";
        let porter = stage.porter(ignore, NO_SLEEP).await;
        until_state(&porter, &app, "stopped", LONG).await;
        let host = format!("{}.box.example", app.name);
        for (request, status) in [
            (person(&app), 401),
            (program(&app), 401),
            (program(&app).cookie("forged"), 401),
            (Request::auth(&host, "/peer").cookie(token()), 401),
            (Request::auth("nobody.box.example", "/"), 404),
            (program(&app).cookie(token()).header("User-Agent", "uptime-kuma/1.23"), 489),
            (Request::auth(&host, "/healthz").cookie(token()), 489),
            (person(&app).cookie(token()).header("Sec-Purpose", "prefetch;prerender"), 503),
            (person(&app).cookie(token()).header("Purpose", "prefetch"), 503),
            (person(&app).cookie(token()).header("X-Moz", "prefetch"), 503),
        ] {
            let response = porter.ask(&request).await;
            assert_eq!(response.status, status, "{request:?} {response:?}");
            let page = response.body();
            assert!(!page.contains("data-follow=\"poll\""), "no page that waits: {page}");
        }
        // Whatever was ordered before comes before what is ordered now.
        assert_eq!(served(&porter, &program(&app).cookie(token())).await.status, 200);
        assert_eq!(stage.proxy.calls("POST", "/start").len(), 1);
        assert_eq!(app.starts().await, 1);
        assert_eq!(porter.ask(&person(&app)).await.status, 401);
        let page = porter.ask(&person(&app).cookie(token())).await;
        assert_eq!(page.status, 200);
    }
}

#[tokio::test]
async fn an_app_that_is_coming_or_going_is_left_alone() {
    let stage = Stage::new(Store::Postgres).await;
    let app = stage.stopped(Plan::new("coming").status("installing")).await;
    let porter = stage.porter("hold_timeout = \"2s\"\nthrottle = \"100ms\"\n", NO_SLEEP).await;
    until_state(&porter, &app, "stopped", LONG).await;
    assert_eq!(porter.ask(&program(&app)).await.status, 503);
    assert_eq!(state(&porter, &app).await, "unavailable");
    assert!(stage.proxy.calls("POST", "/start").is_empty());
    app.set_status(&stage.sample, "stopped").await;
    super::until_granted(&porter, &program(&app)).await;
    let status = async || {
        let sql = "SELECT status FROM installed_apps WHERE name = $1";
        let row = stage.sample.database().client.query_one(sql, &[&app.name]).await;
        row.expect("its row").get::<_, String>(0)
    };
    poll("the store is told that it runs", LONG, async || status().await == "running").await;
    assert_eq!(order(&porter, &app, "sleep").await.status, 200);
    poll("the store is told that it stopped", LONG, async || status().await == "stopped").await;
}

#[tokio::test]
async fn a_client_that_goes_away_does_not_take_the_start_with_it() {
    let stage = Stage::new(Store::Files).await;
    let app = stage.stopped(Plan::new("left")).await;
    let porter = stage.porter("", NO_SLEEP).await;
    until_state(&porter, &app, "stopped", LONG).await;
    let starts = stage.proxy.hold("POST", "/start");
    let asking = in_background(&porter, &program(&app));
    starts.reached(1).await;
    asking.abort();
    assert!(asking.await.expect_err("it went away").is_cancelled());
    starts.release();
    until_state(&porter, &app, "awake", LONG).await;
    assert_eq!(app.starts().await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_monitor_is_told_that_an_app_that_sleeps_is_not_down() {
    let stage = Stage::new(Store::Files).await;
    let app = stage.stopped(Plan::new("monitored")).await;
    let other = |status| format!("[wake.ignore]\npaths = [\"/healthz\"]\n{status}");
    let porter = stage.porter(&other(""), NO_SLEEP).await;
    until_state(&porter, &app, "stopped", LONG).await;
    let front = Front::before(&stage.sample, &porter, &[&app], Errors::Replaced).await;
    let response = ask(front.address, &front.request("GET", &app, "/healthz")).await;
    assert_eq!(response.status, 200, "{response:?}");
    assert_eq!(response.text("x-nightporter-state"), Some("asleep"), "{response:?}");
    assert!(response.body().contains("asleep"), "{response:?}");
    assert!(stage.proxy.calls("POST", "/start").is_empty());
    // Awake, it answers itself.
    super::until_granted(&porter, &program(&app)).await;
    let response = ask(front.address, &front.request("GET", &app, "/")).await;
    assert_eq!(response.text("x-nightporter-state"), None, "{response:?}");
    app.all("kill").await;
    let porter = stage.porter(&other("status = 503\n"), NO_SLEEP).await;
    until_state(&porter, &app, "stopped", LONG).await;
    let request = Request::auth(format!("{}.box.example", app.name), "/healthz");
    let response = porter.ask(&request).await;
    assert_eq!(response.status, 503, "{response:?}");
    assert_eq!(response.text("x-nightporter-state"), Some("asleep"), "{response:?}");
}
