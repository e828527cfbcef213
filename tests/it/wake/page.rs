//! The page where its address leads to a file, and where its questions do not come through:
//! in Chromium, through real Traefik.

use super::browser::{nothing, walk, walk_trusting};
use super::{LONG, NO_SLEEP, Stage, order, until_state};
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
    let link = "{
        const link = document.body.appendChild(document.createElement('a'));
        link.href = '/report';
        link.click();
    }";
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
        ("eval", link),
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
