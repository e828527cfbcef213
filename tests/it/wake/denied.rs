//! A visitor who is denied, and signs in elsewhere.

use serde_json::json;

use super::browser::{QUICKLY, nothing, walk};
use super::{LONG, NO_SLEEP, Stage, until_state};
use crate::support::boxes::{Store, token};
use crate::support::docker::apps::Plan;
use crate::support::docker::front::{Errors, Front};

/// Chromium without a screen hides no tab, and restores none with an error's status, so the
/// events are sent by hand.
const SHOWN: &str = "document.dispatchEvent(new Event('visibilitychange'))";
const RESTORED: &str = "dispatchEvent(new PageTransitionEvent('pageshow', { persisted: true }))";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_denied_page_looks_again_when_its_tab_is_shown_or_restored() {
    let paths = json!({"": {"access": "private"}});
    let stage = Stage::new(Store::Files).await;
    let app = stage.running(Plan::new("elsewhere").paths(paths)).await;
    let porter = stage.porter(QUICKLY, NO_SLEEP).await;
    let sign_in = format!("document.cookie = 'authorization={}; path=/'", token());
    for (errors, event) in [
        (Errors::Replaced, SHOWN),
        (Errors::Replaced, RESTORED),
        (Errors::All, SHOWN),
        (Errors::All, RESTORED),
    ] {
        // The status of the question that the page asks then.
        let looks = format!(
            "new Promise((done, failed) => {{
                setTimeout(() => failed('it does not look'), 80000);
                const original = window.fetch;
                window.fetch = async (...question) => {{
                    window.fetch = original;
                    const response = await original(...question);
                    setTimeout(() => done(response.status), 100);
                    return response;
                }};
                {event};
            }})"
        );
        let front = Front::before(&stage.sample, &porter, &[&app], errors).await;
        until_state(&porter, &app, "awake", LONG).await;
        let url = front.url(&app, "/x?y#part");
        let steps = [
            ("goto", &*url),
            ("see", "main[data-state=denied]"),
            ("eval", "window.mark = 'the same document'"),
            ("eval", &looks),
            ("eval", "window.mark"),
            ("eval", &sign_in),
            ("eval", event),
            ("see", "#app"),
        ];
        let walked = walk(true, &steps, nothing).await;
        assert_eq!(walked.url, url, "{walked:#?}");
        assert_eq!(walked.values[1..3], [json!(401), json!("the same document")], "{walked:#?}");
        let statuses = walked.statuses("GET", "/x");
        assert_eq!(statuses.first(), Some(&401), "{walked:#?}");
        assert_eq!(statuses.last(), Some(&200), "{walked:#?}");
    }
}
