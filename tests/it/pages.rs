//! Every state of the waiting page in Chromium: nothing keeps its readers from it.

use nightporter::PageSample;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::support::docker::browser::chromium;
use crate::support::docker::script::Script;

/// What was found; see `pages/look.py`.
#[derive(Debug, Deserialize)]
struct Found {
    violations: Vec<Value>,
    clipped: Vec<Value>,
    refreshes: Vec<String>,
    passes: usize,
}

/// Looks at pages of those names, and fails where anything is found.
async fn look(views: &[&str], is_wanted: impl Fn(&str) -> bool) {
    let samples = nightporter::page_samples().await;
    let names = samples.iter().map(|page| &*page.name).chain(["delivered", "no-news"]);
    let names: Vec<_> = names.filter(|name| is_wanted(name)).collect();
    assert!(names.len() >= 10, "{names:?}");
    let pages = samples.iter().map(|page| {
        let PageSample { name, html, policy } = page;
        json!({"name": name, "html": html, "policy": policy})
    });
    let pages: Vec<_> = pages.collect();
    let order = json!({"chromium": chromium(), "pages": pages, "views": views, "names": names});
    let mut browser = Script::start(include_str!("pages/look.py"), &order).await;
    let Found { violations, clipped, refreshes, passes } = browser.report().await;
    browser.end().await;
    let least = names.len() * views.len() * 10;
    assert!(passes > least, "{passes} rules kept by {names:?}: nothing was examined");
    assert!(violations.is_empty(), "{violations:#?}");
    assert!(clipped.is_empty(), "{clipped:#?}");
    assert!(refreshes.is_empty(), "{refreshes:?}");
}

/// One of each look: what differs otherwise is the words.
const LOOKS: [&str; 13] = [
    "starting-usual-en",
    "awake-en",
    "failed-interrupted-en",
    "denied-de",
    "low-disk-de",
    "too-small-en",
    "long-name-de",
    "unanswered-de",
    "withheld-de",
    "installing-en",
    "delivered",
    "no-news",
    "standby",
];

#[tokio::test]
async fn axe_finds_nothing_on_any_page_and_nothing_is_clipped() {
    look(&["phone"], |name| !name.ends_with("-de") || name == "long-name-de").await;
    let views = ["phone-dark", "landscape", "zoom-200", "zoom-400", "more-contrast", "print"];
    look(&views, |name| LOOKS.contains(&name)).await;
}
