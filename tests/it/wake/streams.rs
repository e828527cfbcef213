//! Streams that scripts open again and again, in tabs that nobody looks at: they wake
//! nothing until somebody opens the app.

use super::browser::{QUICKLY, walk};
use super::{LONG, NO_SLEEP, Stage, known, order, person, state, until_granted, until_state};
use crate::support::boxes::Store;
use crate::support::client::{Request, ask};
use crate::support::docker::apps::{App, Plan};
use crate::support::docker::front::{Errors, Front};
use crate::support::server::Nightporter;

/// An `EventSource` over plain HTTP.
fn event_source(app: &App, agent: &str) -> Request {
    Request::auth(format!("{}.box.example", app.name), "/events")
        .header("Accept", "text/event-stream")
        .header("User-Agent", agent)
}

fn web_socket(app: &App, agent: &str) -> Request {
    Request::auth(format!("{}.box.example", app.name), "/ws")
        .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
        .header("User-Agent", agent)
}

const FIREFOX: &str = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0";
const PROGRAM: &str = "okhttp/4.12.0";

/// Streams that were kept from waking an app, in this process.
async fn kept_asleep(porter: &Nightporter) -> u64 {
    let response = ask(porter.ops, &Request::new("GET", "/metrics")).await;
    let metrics = response.body();
    let name = r#"nightporter_verdicts_total{endpoint="auth",reason="kept_asleep"} "#;
    let mut values = metrics.lines().filter_map(|line| line.strip_prefix(name));
    values.next().expect("it is counted").parse().expect("a number")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forgotten_tab_keeps_no_app_from_sleeping_and_a_navigation_wakes_it() {
    let stage = Stage::new(Store::Files).await;
    let app = stage.running(Plan::new("forgotten")).await;
    let porter = stage.porter(QUICKLY, NO_SLEEP).await;
    let front = Front::before(&stage.sample, &porter, &[&app], Errors::Replaced).await;
    until_state(&porter, &app, "awake", LONG).await;
    let url = front.url(&app, "/");
    // As libraries do that mend their connections.
    let streams = "{
        window.lost = { events: 0, sockets: 0 };
        const events = () => {
            const source = new EventSource('/events');
            source.onerror = () => { source.close(); lost.events += 1; setTimeout(events, 100); };
        };
        const sockets = () => {
            const socket = new WebSocket('ws://' + location.host + '/ws');
            socket.onclose = () => { lost.sockets += 1; setTimeout(sockets, 100); };
        };
        events();
        sockets();
    }";
    let several = "new Promise((done, failed) => {
        setTimeout(() => failed('too seldom: ' + JSON.stringify(lost)), 80000);
        const [events, sockets] = [lost.events, lost.sockets];
        // That of an app that is paused stays open, and says nothing.
        const enough = () => lost.events >= events + 5 && lost.sockets >= sockets + SOCKETS;
        const look = () => enough() ? done() : setTimeout(look, 50);
        look();
    })";
    let mut count = 0;
    for (rest, sockets) in [("sleep", "5"), ("pause", "0")] {
        let several = several.replace("SOCKETS", sockets);
        let steps = [
            ("goto", &*url),
            ("see", "#app"),
            ("eval", streams),
            ("tell", rest),
            ("eval", &*several),
            ("tell", "look"),
            ("goto", &*url),
            ("see", "#app"),
        ];
        walk(true, &steps, async |line: &str| {
            if line != "look" {
                count = kept_asleep(&porter).await;
                assert_eq!(order(&porter, &app, line).await.status, 200);
                return;
            }
            let kept = kept_asleep(&porter).await - count;
            assert!(kept >= 4, "{kept} were kept from it");
            let expected = if rest == "pause" { "paused" } else { "stopped" };
            assert_eq!(state(&porter, &app).await, expected);
            for call in ["/start", "/unpause"] {
                let calls = stage.proxy.calls("POST", call);
                let woken = usize::from(rest == "pause" && call == "/start");
                assert_eq!(calls.len(), woken, "{rest}: {calls:?}");
            }
        })
        .await;
    }
}

#[tokio::test]
async fn a_stream_is_let_wake_by_who_opens_it_and_as_its_owner_chooses() {
    let stage = Stage::new(Store::Files).await;
    let app = stage.stopped(Plan::new("programs").env("START_DELAY_MS", 500)).await;
    let all = stage.stopped(Plan::new("all")).await;
    let none = stage.stopped(Plan::new("none")).await;
    let apps = format!("apps = [\"{}=all\", \"{}=none\"]\n", all.name, none.name);
    let wake = format!("{QUICKLY}hold_timeout = \"1s\"\n[wake.streams]\n{apps}");
    let porter = stage.porter(&wake, NO_SLEEP).await;
    for app in [&app, &all, &none] {
        until_state(&porter, app, "stopped", LONG).await;
    }
    let assert_kept = async |app: &App, request: Request| {
        let response = porter.ask(&request).await;
        assert_eq!(response.status, 503, "{response:?}");
        assert_eq!(response.text("retry-after"), Some("30"), "{response:?}");
        assert_eq!(response.text("x-nightporter-state"), Some("asleep"), "{response:?}");
        assert!(!response.body().contains("containers"), "{response:?}");
        let known = known(&porter, &app.name).await;
        assert_eq!(known["state"], "stopped", "{known}");
        assert_eq!(known["last_use"], serde_json::Value::Null, "it is no use: {known}");
    };
    // One that was never seen awake, too.
    assert_kept(&app, event_source(&app, FIREFOX)).await;
    assert_kept(&app, web_socket(&app, FIREFOX).header("Origin", "http://x.box.example")).await;
    assert_kept(&none, web_socket(&none, PROGRAM)).await;
    assert_kept(&none, event_source(&none, PROGRAM)).await;
    for (app, request) in [
        (&app, event_source(&app, PROGRAM)),
        (&app, web_socket(&app, PROGRAM)),
        (&all, event_source(&all, FIREFOX)),
        (&all, web_socket(&all, FIREFOX)),
    ] {
        until_granted(&porter, &request).await;
        assert_eq!(order(&porter, app, "sleep").await.status, 200);
    }

    // Whoever comes while somebody else waits for it is held like all else.
    let starts = stage.proxy.hold("POST", "/start");
    assert_eq!(porter.ask(&person(&app)).await.status, 503);
    starts.reached(1).await;
    let response = porter.ask(&event_source(&app, FIREFOX)).await;
    assert_eq!(response.status, 503, "{response:?}");
    assert_eq!(response.text("x-nightporter-state"), None, "held in vain: {response:?}");
    starts.release();
    until_granted(&porter, &event_source(&app, FIREFOX)).await;
}
