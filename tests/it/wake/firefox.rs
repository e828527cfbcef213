//! Journeys in Firefox, whose refreshes, fragments and news differ from Chromium's.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use serde_json::json;
use tokio::io::AsyncWriteExt as _;

use super::browser::QUICKLY;
use super::{LONG, NO_SLEEP, Stage, order, until_state};
use crate::support::boxes::Store;
use crate::support::docker::apps::Plan;
use crate::support::docker::front::{Errors, Front};
use crate::support::sign::python;

/// What came of a walk.
#[derive(Debug, Deserialize)]
struct Walked {
    url: String,
    /// Titles.
    seen: Vec<String>,
    failure: Option<String>,
}

/// Debian's, or whatever goes by its name in the path.
fn firefox() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .flat_map(|folder| ["firefox-esr", "firefox"].map(|name| folder.join(name)))
        .find(|program| program.exists())
        .expect("firefox-esr; `tests/run` installs it")
}

async fn walk(javascript: bool, steps: &[(&str, &str)]) -> Walked {
    let order = json!({
        "firefox": firefox(), "javascript": javascript, "steps": steps, "seconds": 180,
    });
    let mut browser = tokio::process::Command::new(python())
        .args(["-c", include_str!("browser/firefox.py")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("Python; `tests/run` makes target/venv");
    let mut input = browser.stdin.take().expect("piped");
    input.write_all(format!("{order}\n").as_bytes()).await.expect("read by the script");
    // Of all its steps; it ends by itself, and its browser with it.
    let output = tokio::time::timeout(Duration::from_secs(900), browser.wait_with_output()).await;
    let output = output.expect("in time").expect("runs");
    assert!(output.status.success(), "the browser failed, see above");
    let walked: Walked = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(walked.failure, None, "{walked:#?}");
    walked
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sleeping_app_opens_in_firefox_with_and_without_scripts() {
    let stage = Stage::new(Store::Files).await;
    let app = stage.stopped(Plan::new("fox").env("START_DELAY_MS", 1500)).await;
    let porter = stage.porter(QUICKLY, NO_SLEEP).await;
    let front = Front::before(&stage.sample, &porter, &[&app], Errors::Replaced).await;
    until_state(&porter, &app, "stopped", LONG).await;
    let url = front.url(&app, "/deep/link?a=1&b=%22#part");
    // No refresh keeps a fragment.
    let without = url.split('#').next().expect("an address");
    for (javascript, opened) in [(true, &*url), (false, without)] {
        let walked = walk(javascript, &[("goto", &*url), ("see", "#text"), ("see", "#app")]).await;
        assert_eq!(walked.url, opened, "{walked:#?}");
        let [page, title] = &walked.seen[..] else { panic!("{walked:#?}") };
        assert_eq!(*title, app.name, "{walked:#?}");
        assert!(page.contains(&*app.name) && page != title, "no page: {walked:#?}");
        assert_eq!(order(&porter, &app, "sleep").await.status, 200);
    }
}
