//! The page where its address leads to a file, and where its questions do not come through:
//! in Chromium, through real Traefik.

use std::time::Duration;

use super::browser::{nothing, walk, walk_trusting};
use super::{LONG, NO_SLEEP, Stage, order, scripts, until_state};
use crate::support::boxes::Store;
use crate::support::docker::apps::Plan;
use crate::support::docker::front::{Errors, Front};

const QUICKLY: &str = "throttle = \"100ms\"\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_download_says_that_it_was_delivered_and_leads_back() {
    let stage = Stage::new(Store::Files).await;
    let app = stage.running(Plan::new("report")).await;
    let porter = stage.porter(QUICKLY, NO_SLEEP).await;
    let front = Front::before(&stage.sample, &porter, &[&app], Errors::Replaced).await;
    until_state(&porter, &app, "awake", LONG).await;
    let (root, from) = (front.url(&app, "/"), front.url(&app, "/from?here"));
    let file = front.url(&app, "/report");
    let link = scripts::follow_link("/report");
    let steps = [
        // Typed: there is nothing to go back to but the app.
        ("tell", "sleep"),
        ("goto", &*file),
        ("see", "main[data-state=delivered] .back a"),
        ("read", "Your download should have begun"),
        ("follow", ".back a"),
        ("see", "#app"),
        // By a link.
        ("goto", &*from),
        ("see", "#app"),
        ("tell", "sleep"),
        ("eval", &*link),
        ("see", "main[data-state=delivered] .back a"),
        ("click", ".back a"),
        ("see", "#app"),
    ];
    let walked = walk(true, &steps, async |_: &str| {
        assert_eq!(order(&porter, &app, "sleep").await.status, 200);
    })
    .await;
    assert_eq!(walked.url, from, "{walked:#?}");
    assert_eq!(walked.downloads, ["report.csv", "report.csv"], "each once: {walked:#?}");
    assert!(walked.answers.iter().any(|(_, path, _)| path == "/"), "{root}: {walked:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_app_opens_although_no_question_of_its_page_comes_through() {
    let stage = Stage::new(Store::Files).await;
    let app = stage.stopped(Plan::new("blocked").meta("icon", "icon.svg")).await;
    let icon = stage.sample.folder().join("installed_apps").join(&app.name).join("icon.svg");
    std::fs::write(icon, "<svg xmlns=").expect("writable");
    let porter = stage.porter(QUICKLY, NO_SLEEP).await;
    let front = Front::before(&stage.sample, &porter, &[&app], Errors::Replaced).await;
    until_state(&porter, &app, "stopped", LONG).await;
    let url = front.url(&app, "/deep?a=1#part");
    let steps = [
        ("block", "x-nightporter-poll"),
        ("goto", &*url),
        // Initials in place of a picture that is none.
        ("see", "div.icon"),
        ("read", "This page is loaded again in"),
        ("see", "#app"),
    ];
    let walked = walk(true, &steps, nothing).await;
    assert_eq!(walked.url, url, "{walked:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_worker_that_keeps_everything_does_not_keep_the_page() {
    let stage = Stage::new(Store::Files).await;
    let app = stage.running(Plan::new("worker").env("START_DELAY_MS", 1500)).await;
    let porter = stage.porter(QUICKLY, NO_SLEEP).await;
    let front = Front::before(&stage.sample, &porter, &[&app], Errors::Replaced).await;
    until_state(&porter, &app, "awake", LONG).await;
    app.until_it_answers().await;
    let (first, second) = (front.url(&app, "/first"), front.url(&app, "/second"));
    let register = "navigator.serviceWorker.register('/worker.js').then(() => new Promise(
        (done) => {
            if (navigator.serviceWorker.controller) return done();
            navigator.serviceWorker.addEventListener('controllerchange', () => done());
        },
    ))";
    let kept = "(async () => {
        await fetch('/kept');
        const cache = await caches.open('all');
        for (;;) {
            const all = await cache.keys();
            if (all.length > 0) return all.length;
            await new Promise((done) => setTimeout(done, 50));
        }
    })()";
    let steps = [
        ("goto", &*first),
        ("see", "#app"),
        ("eval", register),
        ("tell", "sleep"),
        ("goto", &*second),
        ("see", "#text"),
        ("see", "#app"),
        // What the app itself says it does keep.
        ("eval", kept),
    ];
    let origin = first.trim_end_matches("/first");
    let walked = walk_trusting(Some(origin), true, &steps, async |_: &str| {
        assert_eq!(order(&porter, &app, "sleep").await.status, 200);
    })
    .await;
    assert_eq!(walked.url, second, "{walked:#?}");
    assert!(walked.values[1].as_u64() > Some(0), "the worker was not asked: {walked:#?}");
}

/// No storage at all: every use of it throws, as where a browser blocks it for a site.
const NO_STORAGE: &str = "for (const name of ['localStorage', 'sessionStorage', 'indexedDB']) {
    Object.defineProperty(window, name, {
        get() { throw new DOMException('denied', 'SecurityError'); },
    });
}";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_app_and_a_download_open_once_where_nothing_can_be_stored() {
    let stage = Stage::new(Store::Files).await;
    let app = stage.stopped(Plan::new("nothing-stored").env("START_DELAY_MS", 1500)).await;
    let porter = stage.porter(QUICKLY, NO_SLEEP).await;
    let front = Front::before(&stage.sample, &porter, &[&app], Errors::Replaced).await;
    until_state(&porter, &app, "stopped", LONG).await;
    let (url, file) = (front.url(&app, "/deep?a=1#part"), front.url(&app, "/report"));
    let steps = [
        ("init", NO_STORAGE),
        ("goto", &*url),
        ("see", "#text"),
        ("see", "#app"),
        ("eval", "location.href"),
        ("tell", "sleep"),
        ("goto", &*file),
        ("see", "main[data-state=delivered] .back a"),
        // Time for a second one.
        ("eval", "new Promise((done) => setTimeout(done, 3000))"),
    ];
    let walked = walk(true, &steps, async |_: &str| {
        assert_eq!(order(&porter, &app, "sleep").await.status, 200);
    })
    .await;
    assert_eq!(walked.values[0], *url, "{walked:#?}");
    assert_eq!(walked.statuses("GET", "/deep").last(), Some(&200), "{walked:#?}");
    assert_eq!(walked.downloads, ["report.csv"], "{walked:#?}");
}

/// What an app answers itself right after its start is what its visitor sees: its own page
/// of an error, and where it leads to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_answer_of_an_app_is_shown_whatever_it_is() {
    let stage = Stage::new(Store::Files).await;
    let busy = stage
        .stopped(Plan::new("busy").env("BUSY_MS", 3_600_000).env("START_DELAY_MS", 1500))
        .await;
    let turning = stage.stopped(Plan::new("turning").env("START_DELAY_MS", 1500)).await;
    let porter = stage.porter(QUICKLY, NO_SLEEP).await;
    let apps = [&busy, &turning];
    let front = Front::before(&stage.sample, &porter, &apps, Errors::Replaced).await;
    for app in apps {
        until_state(&porter, app, "stopped", LONG).await;
    }
    let url = front.url(&busy, "/deep?a=1#part");
    let steps = [
        ("goto", &*url),
        ("see", "main[data-state]"),
        ("see", "#busy"),
        ("eval", "window.seen = true"),
        // Longer than any page of nightporter waits before it reloads.
        ("eval", "new Promise((done) => setTimeout(() => done(window.seen), 6000))"),
    ];
    let walked = walk(true, &steps, nothing).await;
    assert_eq!((&walked.url, walked.history), (&url, 2), "{walked:#?}");
    assert_eq!(walked.values[1], true, "loaded again: {walked:#?}");

    let url = front.url(&turning, "/turn");
    let steps = [("goto", &*url), ("see", "#text"), ("see", "#app")];
    let walked = walk(true, &steps, nothing).await;
    assert_eq!((&walked.url, walked.history), (&url, 2), "{walked:#?}");
    let statuses = walked.statuses("GET", "/turn");
    assert!(statuses.ends_with(&[302, 200]), "{walked:#?}");
}

/// An app that redirects to itself without end. Its visitor sees what the browser says of
/// it, as of an app that never slept: no page of nightporter is in the round, or follows it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_app_that_redirects_without_end_is_left_to_the_browser() {
    // Longer than any page of nightporter waits before it loads again.
    const LONGER: Duration = Duration::from_secs(8);
    const TOLD: &str = "ERR_TOO_MANY_REDIRECTS";
    let stage = Stage::new(Store::Files).await;
    let app = stage.stopped(Plan::new("round").env("START_DELAY_MS", 1500)).await;
    let porter = stage.porter(QUICKLY, NO_SLEEP).await;
    let front = Front::before(&stage.sample, &porter, &[&app], Errors::Replaced).await;
    until_state(&porter, &app, "stopped", LONG).await;
    let url = front.url(&app, "/round");
    let steps =
        [("goto", &*url), ("see", "#text"), ("read", TOLD), ("tell", "wait"), ("read", TOLD)];
    let walked = walk(true, &steps, async |_: &str| tokio::time::sleep(LONGER).await).await;
    let statuses = walked.statuses("GET", "/round");
    let began = statuses.iter().position(|status| *status == 302).expect("a redirect");
    let (before, round) = statuses.split_at(began);
    assert_eq!(before.iter().filter(|status| **status == 503).count(), 1, "{walked:#?}");
    // Chromium loads its own error page again after 1 s, 5 s and 30 s.
    assert!(round.iter().all(|status| *status == 302), "{walked:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_tab_is_told_in_its_own_language() {
    let stage = Stage::new(Store::Files).await;
    let app = stage.stopped(Plan::new("languages").env("START_DELAY_MS", 20_000)).await;
    let porter = stage.porter(QUICKLY, NO_SLEEP).await;
    let front = Front::before(&stage.sample, &porter, &[&app], Errors::Replaced).await;
    until_state(&porter, &app, "stopped", LONG).await;
    let url = front.url(&app, "/");
    let steps = |language, word| {
        [
            ("language", language),
            ("goto", &*url),
            // What comes with a later answer, and not with the page.
            ("read", word),
            ("see", "#app"),
        ]
    };
    let (german, english) = (steps("de", "Fast bereit"), steps("en", "Almost ready"));
    let tabs = tokio::join!(walk(true, &german, nothing), walk(true, &english, nothing));
    assert_eq!((&tabs.0.url, &tabs.1.url), (&url, &url));
}
