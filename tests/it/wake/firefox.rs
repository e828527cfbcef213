//! Journeys in Firefox, whose refreshes, fragments, redirects, downloads and frames are
//! not Chromium's.

use std::path::PathBuf;

use serde_json::json;

use super::browser::{STEP, Walked, end_of_walk, nothing};
use super::{LONG, NO_SLEEP, Stage, order, scripts, until_state};
use crate::support::boxes::Store;
use crate::support::docker::apps::{App, Plan};
use crate::support::docker::front::{Errors, Front};
use crate::support::docker::script::Script;
use crate::support::server::Nightporter;

const FAILURES: u32 = 8;

/// Debian's, or whatever goes by its name in the path.
fn program() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .flat_map(|folder| ["firefox-esr", "firefox"].map(|name| folder.join(name)))
        .find(|program| program.exists())
        .expect("firefox-esr; `tests/run` installs it")
}

/// One browser for several walks: it takes as long to start as most of them.
struct Firefox(Script);

impl Firefox {
    async fn start() -> Self {
        let order = json!({"firefox": program(), "seconds": STEP});
        Self(Script::start(include_str!("browser/firefox.py"), &order).await)
    }

    /// Walks in a tab of its own; `told` does what a line of a step asks for.
    async fn walk<F: AsyncFnMut(&str)>(
        &mut self,
        javascript: bool,
        steps: &[(&str, &str)],
        told: F,
    ) -> Walked {
        let order = json!({"javascript": javascript, "steps": steps});
        self.0.tell(&order.to_string()).await;
        end_of_walk(&mut self.0, told).await
    }
}

async fn sleeps(porter: &Nightporter, app: &App) {
    let response = order(porter, app, "sleep").await;
    assert_eq!(response.status, 200, "{response:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_asks_for_a_sleeping_app_in_firefox_ends_where_its_user_wanted_to_be() {
    let stage = Stage::new(Store::Files).await;
    let dashboard = stage.running(Plan::new("dashboard")).await;
    // Each start outlasts a hold.
    let app = stage.stopped(Plan::new("fox").env("START_DELAY_MS", 2200)).await;
    let failing = stage.stopped(Plan::new("again").env("FAIL_STARTS", FAILURES)).await;
    let blocked = stage.stopped(Plan::new("blocked")).await;
    let wake = "hold_timeout = \"2s\"\nmax_redirects = 15\nthrottle = \"1s\"\n\
        longest_backoff = \"1h\"\nstart_timeout = \"5m\"\n[wake.streams]\nwake = \"all\"\n";
    let porter = stage.porter(wake, NO_SLEEP).await;
    let apps = [&dashboard, &app, &failing, &blocked];
    let front = Front::before(&stage.sample, &porter, &apps, Errors::Replaced).await;
    until_state(&porter, &dashboard, "awake", LONG).await;
    for app in [&app, &failing, &blocked] {
        until_state(&porter, app, "stopped", LONG).await;
    }
    let mut firefox = Firefox::start().await;
    fragments(&mut firefox, &porter, &front, &app).await;
    downloads(&mut firefox, &porter, &front, &app).await;
    requests(&mut firefox, &porter, &front, &app).await;
    frames(&mut firefox, &porter, &front, [&dashboard, &app]).await;
    without_news(&mut firefox, &front, &blocked).await;
    again(&mut firefox, &front, &failing).await;
    firefox.0.end().await;
}

/// An address with a fragment, with and without scripts; without them no refresh keeps it.
async fn fragments(firefox: &mut Firefox, porter: &Nightporter, front: &Front, app: &App) {
    let url = front.url(app, "/deep/link?a=1&b=%22#part");
    let without = url.split('#').next().expect("an address");
    for (javascript, opened) in [(true, &*url), (false, without)] {
        let steps = [("goto", &*url), ("see", "#text"), ("see", "#app")];
        let walked = firefox.walk(javascript, &steps, nothing).await;
        assert_eq!(walked.url, opened, "{walked:#?}");
        let statuses = walked.statuses("GET", "/deep/link");
        assert_eq!(statuses.first(), Some(&503), "no page: {walked:#?}");
        assert_eq!(statuses.last(), Some(&200), "{walked:#?}");
        sleeps(porter, app).await;
    }
}

/// What its page's address leads to is delivered, and its visitor led back.
async fn downloads(firefox: &mut Firefox, porter: &Nightporter, front: &Front, app: &App) {
    let from = front.url(app, "/from?here");
    let link = scripts::follow_link("/report");
    let steps = [
        ("goto", &*from),
        ("see", "#app"),
        ("tell", "sleep"),
        ("eval", &*link),
        ("see", "main[data-state=delivered] .back a"),
        ("read", "Your download should have begun"),
        ("click", ".back a"),
        ("see", "#app"),
    ];
    let walked = firefox.walk(true, &steps, async |_: &str| sleeps(porter, app).await).await;
    assert_eq!(walked.url, from, "{walked:#?}");
    assert_eq!(walked.downloads, ["report.csv"], "once: {walked:#?}");
    sleeps(porter, app).await;
}

/// A stream, scripts' requests and a form's POST, each for an app that takes several holds
/// to start: sent again unasked, and delivered once.
async fn requests(firefox: &mut Firefox, porter: &Nightporter, front: &Front, app: &App) {
    let own = front.url(app, "/");
    let question = "fetch('/echo?question').then((response) => response.json())
        .then((echo) => echo.method)";
    let (upload, submit) = (scripts::upload("/echo?upload"), scripts::submit("/submitted"));
    let steps = [
        ("goto", &*own),
        ("see", "#app"),
        ("tell", "sleep"),
        ("eval", scripts::STREAM),
        ("tell", "sleep"),
        ("eval", question),
        ("tell", "sleep"),
        ("eval", &*upload),
        ("tell", "sleep"),
        ("eval", "void (document.documentElement.id = 'before')"),
        ("eval", &*submit),
        ("see", "html:not(#before) #app"),
    ];
    let walked = firefox.walk(true, &steps, async |_: &str| sleeps(porter, app).await).await;
    assert_eq!(walked.values[0], "hello", "{walked:#?}");
    assert_eq!(walked.values[1], "GET", "{walked:#?}");
    assert_eq!(walked.values[2], json!(["POST", 1 << 20]), "{walked:#?}");
    assert!(walked.url.ends_with("/submitted"), "{walked:#?}");
    for (method, path) in
        [("GET", "/events"), ("GET", "/echo"), ("POST", "/echo"), ("POST", "/submitted")]
    {
        let statuses = walked.statuses(method, path);
        let (last, before) = statuses.split_last().unwrap_or_else(|| panic!("{walked:#?}"));
        assert_eq!(*last, 200, "{method} {path}: {walked:#?}");
        assert!(!before.is_empty() && before.iter().all(|s| *s == 307), "{walked:#?}");
    }
    sleeps(porter, app).await;
}

/// A dashboard of the box may show a waking app, and nobody else may.
async fn frames(
    firefox: &mut Firefox,
    porter: &Nightporter,
    front: &Front,
    [dashboard, app]: [&App; 2],
) {
    let frame = scripts::show_frame(&front.url(app, "/"));
    let own = front.url(dashboard, "/");
    let steps =
        [("goto", &*own), ("see", "#app"), ("eval", &frame), ("frame", "#text"), ("frame", "#app")];
    firefox.walk(true, &steps, nothing).await;
    sleeps(porter, app).await;
    let other = front.elsewhere();
    let steps = [("goto", &*other), ("read", "live"), ("eval", &frame), ("no-frame", "the app")];
    firefox.walk(true, &steps, nothing).await;
}

/// The page's questions do not come through.
async fn without_news(firefox: &mut Firefox, front: &Front, app: &App) {
    let url = front.url(app, "/deep?a=1#part");
    let steps = [
        ("block", "x-nightporter-poll"),
        ("goto", &*url),
        ("read", "This page is loaded again in"),
        ("see", "#app"),
    ];
    let walked = firefox.walk(true, &steps, nothing).await;
    assert_eq!(walked.url, url, "{walked:#?}");
}

/// "Try again" has one attempt made now, and the history gets no entry for it. Left alone,
/// the last attempt would come four minutes after the first.
async fn again(firefox: &mut Firefox, front: &Front, app: &App) {
    let url = front.url(app, "/deep?a=1#part");
    let steps = [
        ("goto", &*url),
        ("see", "main[data-state=failed] .again a"),
        ("eval", "history.length"),
        ("eval", scripts::IMPATIENCE),
        ("see", "#app"),
    ];
    let walked = firefox.walk(true, &steps, nothing).await;
    assert_eq!(walked.url, url, "{walked:#?}");
    assert_eq!(json!(walked.history), walked.values[0], "{walked:#?}");
    assert_eq!(app.starts().await, FAILURES + 1);
}
