//! Journeys in Chromium through real Traefik that end where their visitor wanted to be:
//! with a fragment, without scripts, by a form, by a stream, by a click.

use serde::Deserialize;
use serde_json::{Value, json};

use super::{LONG, NO_SLEEP, Stage, order, scripts, until_state};
use crate::support::boxes::Store;
use crate::support::docker::apps::Plan;
use crate::support::docker::browser::chromium;
use crate::support::docker::front::{Errors, Front};
use crate::support::docker::script::Script;
use crate::support::server::Nightporter;
use crate::support::soak;

/// What came of a walk.
#[derive(Debug, Deserialize)]
pub struct Walked {
    pub url: String,
    pub history: u32,
    pub values: Vec<Value>,
    pub answers: Vec<(String, String, u16)>,
    pub downloads: Vec<String>,
    failure: Option<String>,
    #[expect(dead_code, reason = "shown where a walk fails")]
    text: String,
}

impl Walked {
    /// The statuses of the answers to such requests, in order.
    pub fn statuses(&self, method: &str, path: &str) -> Vec<u16> {
        let alike = self.answers.iter().filter(|(m, p, _)| m == method && p == path);
        alike.map(|(_, _, status)| *status).collect()
    }
}

/// Walks; `told` does what a line of a step asks for.
pub async fn walk<F: AsyncFnMut(&str)>(
    javascript: bool,
    steps: &[(&str, &str)],
    told: F,
) -> Walked {
    walk_trusting(None, javascript, steps, told).await
}

/// The same where one origin is trusted as if it were encrypted.
pub async fn walk_trusting<F: AsyncFnMut(&str)>(
    origin: Option<&str>,
    javascript: bool,
    steps: &[(&str, &str)],
    told: F,
) -> Walked {
    let order = json!({
        "chromium": chromium(), "javascript": javascript, "steps": steps, "seconds": STEP,
        "secure": origin,
    });
    let mut browser = Script::start(include_str!("browser/steps.py"), &order).await;
    let walked = end_of_walk(&mut browser, told).await;
    browser.end().await;
    walked
}

/// Seconds that a step may take.
pub(super) const STEP: u32 = 180;

/// What came of the walk that a script is on.
pub(super) async fn end_of_walk<F: AsyncFnMut(&str)>(browser: &mut Script, mut told: F) -> Walked {
    loop {
        let line = browser.line().await;
        if line.starts_with('{') {
            let walked: Walked = serde_json::from_str(&line).expect("JSON");
            assert_eq!(walked.failure, None, "{walked:#?}");
            return walked;
        }
        told(&line).await;
        browser.tell("").await;
    }
}

pub async fn nothing(line: &str) {
    panic!("told {line}");
}

/// The address that is opened in the end. No refresh keeps a fragment (HTML, section
/// 4.2.5.3): without scripts the app opens without it.
fn kept(url: &str, javascript: bool) -> &str {
    if javascript { url } else { url.split('#').next().unwrap_or(url) }
}

pub(super) const QUICKLY: &str = "throttle = \"100ms\"\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_with_a_fragment_opens_with_and_without_scripts() {
    let stage = Stage::new(Store::Files).await;
    let app = stage.stopped(Plan::new("fragment").env("START_DELAY_MS", 1500)).await;
    let porter = stage.porter(QUICKLY, NO_SLEEP).await;
    let front = Front::before(&stage.sample, &porter, &[&app], Errors::Replaced).await;
    until_state(&porter, &app, "stopped", LONG).await;
    for javascript in [true, false] {
        for path in ["/deep/link?a=1&b=%22#part", "/?x=y", "/"] {
            let url = front.url(&app, path);
            let steps = [("goto", &*url), ("see", "#text"), ("see", "#app")];
            let walked = walk(javascript, &steps, nothing).await;
            assert_eq!(walked.url, kept(&url, javascript), "{walked:#?}");
            let navigations = walked.answers.iter().map(|(_, _, status)| *status);
            assert_eq!(navigations.clone().next(), Some(503), "no page: {walked:#?}");
            if javascript {
                assert_eq!(walked.history, 2, "about:blank and the app: {walked:#?}");
            }
            assert_eq!(order(&porter, &app, "sleep").await.status, 200);
        }
    }
}

/// A form's POST and a stream, sent while the app sleeps, to one that takes several holds
/// to start.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_form_and_a_stream_outlast_a_hold() {
    let stage = Stage::new(Store::Files).await;
    let start = soak::SLOW_START.count() * 1000;
    let app = stage.stopped(Plan::new("form").env("START_DELAY_MS", start)).await;
    let hold = soak::HOLD.count();
    let all = "[wake.streams]\nwake = \"all\"\n";
    let wake = format!(
        "{QUICKLY}hold_timeout = \"{hold}s\"\nmax_redirects = 15\nstart_timeout = \"5m\"\n{all}"
    );
    let porter = stage.porter(&wake, NO_SLEEP).await;
    let front = Front::before(&stage.sample, &porter, &[&app], Errors::Replaced).await;
    until_state(&porter, &app, "stopped", LONG).await;
    let url = front.url(&app, "/");
    let (upload, submit) = (scripts::upload("/echo"), scripts::submit("/echo"));
    let steps = [
        ("goto", &*url),
        ("see", "#app"),
        ("tell", "sleep"),
        ("eval", scripts::STREAM),
        ("tell", "sleep"),
        ("eval", &*upload),
        ("tell", "sleep"),
        ("eval", &*submit),
        ("read", "\"method\":\"POST\""),
    ];
    let walked = walk(true, &steps, async |_: &str| {
        assert_eq!(order(&porter, &app, "sleep").await.status, 200);
    })
    .await;
    assert_eq!(walked.values[0], "hello", "{walked:#?}");
    assert_eq!(walked.values[1], json!(["POST", 1 << 20]), "{walked:#?}");
    // Each delivered once, after it was sent on its way again.
    for (method, path, sent) in [("GET", "/events", 1), ("POST", "/echo", 2)] {
        let statuses = walked.statuses(method, path);
        let mut rounds: Vec<_> = statuses.split(|status| *status == 200).collect();
        assert_eq!(rounds.pop(), Some(&[][..]), "{walked:#?}");
        assert_eq!(rounds.len(), sent, "{walked:#?}");
        for before in rounds {
            assert!(!before.is_empty() && before.iter().all(|s| *s == 307), "{walked:#?}");
        }
    }
    assert!(walked.url.ends_with("/echo"), "{walked:#?}");
}

/// Left alone, the app would be tried for the last time seven minutes after the first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn try_again_keeps_the_fragment_and_has_one_attempt_made_now() {
    const FAILURES: u32 = 12;
    let stage = Stage::new(Store::Files).await;
    let app = stage.stopped(Plan::new("again").env("FAIL_STARTS", FAILURES)).await;
    let wake = format!("{QUICKLY}longest_backoff = \"1h\"\n");
    let porter = stage.porter(&wake, NO_SLEEP).await;
    let front = Front::before(&stage.sample, &porter, &[&app], Errors::Replaced).await;
    until_state(&porter, &app, "stopped", LONG).await;
    let url = front.url(&app, "/deep?a=1#part");
    let steps = [
        ("goto", &*url),
        ("see", "main[data-state=failed] .again a"),
        ("eval", scripts::IMPATIENCE),
        ("see", "#app"),
    ];
    let walked = walk(true, &steps, nothing).await;
    assert_eq!((&walked.url, walked.history), (&url, 2), "{walked:#?}");
    assert_eq!(app.starts().await, FAILURES + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_denied_page_stays_and_looks_again_only_when_it_is_told_to() {
    let paths = json!({"": {"access": "private"}, "/pub": {"access": "public"}});
    let stage = Stage::new(Store::Files).await;
    let app = stage.running(Plan::new("closed").paths(paths)).await;
    let porter = stage.porter(QUICKLY, NO_SLEEP).await;
    for errors in [Errors::Replaced, Errors::All] {
        let front = Front::before(&stage.sample, &porter, &[&app], errors).await;
        until_state(&porter, &app, "awake", LONG).await;
        let url = front.url(&app, "/x?y#part");
        let steps = [
            ("goto", &*url),
            ("see", "main[data-state=denied] .again a"),
            // It goes on by itself as little as time does here.
            ("eval", "new Promise((done) => setTimeout(done, 3000))"),
            ("follow", ".again a"),
            ("see", "main[data-state=denied] .again a"),
        ];
        let walked = walk(true, &steps, nothing).await;
        assert_eq!((&walked.url, walked.history), (&url, 2), "{walked:#?}");
        assert_eq!(walked.statuses("GET", "/x"), [401, 401], "{walked:#?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dashboard_of_the_box_may_frame_an_app_that_wakes_and_nobody_elses_may() {
    let stage = Stage::new(Store::Files).await;
    let dashboard = stage.running(Plan::new("dashboard")).await;
    let app = stage.stopped(Plan::new("framed").env("START_DELAY_MS", 2000)).await;
    let porter = stage.porter(QUICKLY, NO_SLEEP).await;
    let apps = [&dashboard, &app];
    let front = Front::before(&stage.sample, &porter, &apps, Errors::Replaced).await;
    until_state(&porter, &app, "stopped", LONG).await;
    until_state(&porter, &dashboard, "awake", LONG).await;
    let frame = scripts::show_frame(&front.url(&app, "/"));
    let own = front.url(&dashboard, "/");
    let steps = [("goto", &*own), ("eval", &frame), ("frame", "#text"), ("frame", "#app")];
    walk(true, &steps, nothing).await;

    assert_eq!(order(&porter, &app, "sleep").await.status, 200);
    let other = front.elsewhere();
    let steps = [("goto", &*other), ("eval", &frame), ("no-frame", "the app")];
    walk(true, &steps, nothing).await;
}

/// The gate counts it as awake, and Traefik makes the error that the page stands for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_app_that_the_proxy_does_not_reach_yet_opens_by_itself() {
    let stage = Stage::new(Store::Files).await;
    let app = stage.stopped(Plan::new("late")).await;
    let porter = Nightporter::of(&stage.sample).await;
    let front = Front::before(&stage.sample, &porter, &[&app], Errors::Replaced).await;
    let url = front.url(&app, "/deep?a=1#part");
    for javascript in [true, false] {
        let steps = [
            ("goto", &*url),
            ("see", "main[data-follow=reload] #text"),
            ("tell", "start"),
            ("see", "#app"),
        ];
        let walked = walk(javascript, &steps, async |_: &str| app.all("start").await).await;
        assert_eq!(walked.url, kept(&url, javascript), "{walked:#?}");
        assert_eq!(walked.statuses("GET", "/deep").first(), Some(&502), "{walked:#?}");
        app.all("kill").await;
    }
}
