//! What somebody learns, and sets off, who may not use an app.

use serde_json::json;

use super::{LONG, NO_SLEEP, Stage, in_background, person, program, served, state, until_state};
use crate::support::boxes::{Store, TERMINAL, token};
use crate::support::client::{Request, Response, ask, poll};
use crate::support::docker::apps::{App, Plan};
use crate::support::server::Nightporter;

/// Nothing of what containers do.
fn assert_tells_nothing(app: &App, response: &Response) {
    // What a page looks like and does is the same for everybody, and whoever asks has
    // named the app, which its container is named after.
    let shown = response.body().split("</style>").last().expect("a part");
    let shown = shown.split("<script>").next().expect("a part").replace(&app.name, "");
    for secret in ["137", "exit", "Container", "running", "failed", "attempt"] {
        assert!(!shown.contains(secret), "{secret}: {shown}");
    }
}

/// An app's page as Traefik asks for it in place of an error.
fn page(app: &App, status: u16, uri: Option<&str>) -> Request {
    let query = uri.map_or_else(String::new, |uri| format!("?url={uri}"));
    Request::new("GET", &format!("/internal/app_error/{status}{query}"))
        .without("Host")
        .header("Host", format!("{}.box.example", app.name))
}

#[tokio::test]
async fn whoever_is_denied_learns_nothing_of_containers_on_any_route() {
    let paths = json!({"": {"access": "private"}, "/pub": {"access": "public"}});
    let stage = Stage::new(Store::Files).await;
    let plan = Plan::new("broken").paths(paths).env("EXIT_CODE", 137);
    let app = stage.stopped(plan).await;
    let once = "throttle = \"1h\"\nlongest_backoff = \"1h\"\n";
    let porter = stage.porter(once, NO_SLEEP).await;
    until_state(&porter, &app, "stopped", LONG).await;
    let granted = served(&porter, &program(&app).cookie(token())).await;
    assert_eq!(granted.status, 503, "{granted:?}");
    assert!(granted.body().contains("\"exit_code\":137"), "{granted:?}");

    let polls = |request: Request| request.header("X-Nightporter-Poll", "0");
    let json = |request: Request| request.header("Accept", "application/json");
    for status in [400, 401, 403, 404, 409, 503] {
        for uri in [None, Some("%2F"), Some("%2Fpub%2F..%2Fx")] {
            let asked = || page(&app, status, uri);
            for request in [asked(), polls(asked()), json(asked())] {
                assert_tells_nothing(&app, &porter.ask(&request).await);
            }
        }
    }
    for request in [program(&app), person(&app), polls(program(&app)), polls(person(&app))] {
        let response = porter.ask(&request).await;
        assert_eq!(response.status, 401, "{response:?}");
        assert_tells_nothing(&app, &response);
    }
    // Whoever may use it is told by the same routes, and anyone of what is public.
    for request in [
        page(&app, 503, None).cookie(token()),
        page(&app, 503, Some("%2F")).cookie(token()),
        page(&app, 503, Some("%2Fpub%2Fx")),
    ] {
        let response = porter.ask(&request).await;
        assert!(response.body().contains("137"), "{request:?} {response:?}");
    }
}

#[tokio::test]
async fn the_question_of_a_page_that_is_denied_holds_no_place() {
    let stage = Stage::new(Store::Files).await;
    let app = stage.stopped(Plan::new("held").paths(json!({"": {"access": "private"}}))).await;
    let porter = stage.porter("max_held = 1\n", NO_SLEEP).await;
    until_state(&porter, &app, "stopped", LONG).await;
    let starts = stage.proxy.hold("POST", "/start");
    let questions: Vec<_> = [401, 403, 404, 409, 503]
        .into_iter()
        .map(|status| page(&app, status, None))
        .chain([program(&app)])
        .map(|request| in_background(&porter, &request.header("X-Nightporter-Poll", "0")))
        .collect();
    let (gate, request) = (porter.gate, program(&app).cookie(token()));
    let held = tokio::spawn(async move { ask(gate, &request).await });
    starts.reached(1).await;
    for question in questions {
        // None waits for what is not about to happen.
        let answered = tokio::time::timeout(LONG, question).await;
        answered.expect("at once").expect("no panic").expect("an answer");
    }
    starts.release();
    let response = held.await.expect("no panic");
    assert_eq!(response.status, 200, "its place was taken: {response:?}");
}

#[tokio::test]
async fn a_poll_is_denied_if_its_terminal_was_revoked_while_it_waited() {
    let stage = Stage::new(Store::Files).await;
    let app = stage.stopped(Plan::new("watched").paths(json!({"": {"access": "private"}}))).await;
    let porter = stage.porter("", NO_SLEEP).await;
    until_state(&porter, &app, "stopped", LONG).await;
    let starts = stage.proxy.hold("POST", "/start");
    let poll_with =
        |version: &str| program(&app).cookie(token()).header("X-Nightporter-Poll", version);
    porter.ask(&poll_with("0")).await;
    starts.reached(1).await;
    // Nothing changes until the start is released, so this one waits.
    let state = porter.ask(&poll_with("0")).await;
    let state: serde_json::Value = serde_json::from_str(state.body()).expect("a state");
    let waiting = in_background(&porter, &poll_with(&state["version"].to_string()));
    stage.sample.remove_terminal(TERMINAL).await;
    poll("it is revoked", LONG, async || porter.ask(&poll_with("0")).await.status == 401).await;
    assert!(!waiting.is_finished(), "it waits for a change");
    starts.release();
    let answered = waiting.await.expect("no panic").expect("an answer");
    assert_eq!(answered.status, 401, "{answered:?}");
    assert_tells_nothing(&app, &answered);
}

fn preflight(app: &App) -> Request {
    Request::unforwarded()
        .header("X-Forwarded-Method", "OPTIONS")
        .header("X-Forwarded-Proto", "https")
        .header("X-Forwarded-Host", format!("{}.box.example", app.name))
        .header("X-Forwarded-Uri", "/api")
        .header("Origin", "https://elsewhere.example")
        .header("Access-Control-Request-Method", "PUT")
}

#[tokio::test]
async fn a_preflight_passes_where_it_is_wanted_and_wakes_nothing() {
    let headers = json!({"X-Ptl-Client-Type": "{{ auth.client_type }}"});
    let paths = json!({"": {"access": "private", "headers": headers}});
    let stage = Stage::new(Store::Files).await;
    let own = Plan::new("own").paths(paths.clone()).meta("cors_preflight", true);
    let own = stage.stopped(own).await;
    let listed = stage.stopped(Plan::new("listed").paths(paths.clone())).await;
    let strict = stage.stopped(Plan::new("strict").paths(paths)).await;
    let gate = format!("[gate]\ncors_preflight = [\"{}\"]\n", listed.name);
    let config = format!("{}{gate}", stage.config("", NO_SLEEP));
    let porter = Nightporter::with(&stage.sample, &config).await;
    for app in [&own, &listed, &strict] {
        until_state(&porter, app, "stopped", LONG).await;
    }
    for app in [&own, &listed] {
        let response = porter.ask(&preflight(app)).await;
        assert_eq!((response.status, response.body()), (200, "null"), "{response:?}");
        assert_eq!(response.text("x-ptl-client-type"), None, "{response:?}");
        // Nothing else passes by it.
        for other in [
            preflight(app).without("Origin"),
            preflight(app).without("Access-Control-Request-Method"),
            preflight(app).without("X-Forwarded-Method").header("X-Forwarded-Method", "PUT"),
        ] {
            assert_eq!(porter.ask(&other).await.status, 401, "{other:?}");
        }
        assert_eq!(state(&porter, app).await, "stopped");
    }
    assert_eq!(porter.ask(&preflight(&strict)).await.status, 401);
    // Whatever was ordered before comes before what is ordered now.
    assert_eq!(served(&porter, &program(&strict).cookie(token())).await.status, 200);
    assert_eq!(stage.proxy.calls("POST", "/start").len(), 1, "a preflight woke an app");
}
