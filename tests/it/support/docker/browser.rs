//! Chromium, driven by `browse.py`, for behaviour that only a browser shows.
#![allow(dead_code, reason = "tests and benchmarks take what is theirs")]

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use super::script::Script;

/// A visit of a user, who opens a page and waits.
#[derive(Debug, Clone)]
pub struct Visit {
    pub url: String,
    /// The selector that the user waits for.
    pub until: String,
    pub patience: Duration,
    /// Cookies for that URL.
    pub cookies: Vec<(String, String)>,
}

/// What the browser showed; times in Unix nanoseconds.
#[derive(Debug, Deserialize)]
pub struct Seen {
    pub asked: u128,
    pub documents: Vec<Document>,
    pub found: Option<u128>,
    pub console: Vec<String>,
    pub requests: Vec<Asked>,
    pub failure: Option<String>,
}

#[derive(Debug, Deserialize)]
pub struct Document {
    /// When content of it was first painted.
    pub painted: Option<u128>,
    /// When the browser started to load it.
    pub began: u128,
    pub url: String,
    pub title: String,
    pub text: String,
}

#[derive(Debug, Deserialize)]
pub struct Asked {
    pub status: u16,
    pub navigation: bool,
    /// The mark of a waiting page's status request.
    pub poll: Option<String>,
    pub answered: Option<u128>,
}

impl Visit {
    pub fn to(url: &str, until: &str) -> Self {
        let patience = Duration::from_secs(180);
        Self { url: url.into(), until: until.into(), patience, cookies: Vec::new() }
    }

    /// Opens the page; all host names resolve to this machine.
    pub async fn go(&self) -> Seen {
        let Self { url, until, patience, cookies } = self;
        let cookies: Vec<Value> = cookies
            .iter()
            .map(|(name, value)| json!({"name": name, "value": value, "url": url}))
            .collect();
        let order = json!({
            "url": url, "until": until, "seconds": patience.as_secs(), "cookies": cookies,
            "resolve": "127.0.0.1", "chromium": chromium(),
        });
        let mut browser = Script::start(include_str!("browse.py"), &order).await;
        let seen = browser.report().await;
        browser.end().await;
        seen
    }
}

impl Seen {
    /// The last document.
    pub fn last(&self) -> &Document {
        self.documents.last().unwrap_or_else(|| panic!("nothing was shown: {self:?}"))
    }
}

/// Debian's Chromium, or another in the path with this name.
pub fn chromium() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .flat_map(|folder| ["chromium", "chromium-browser"].map(|name| folder.join(name)))
        .find(|program| program.exists())
        .expect("chromium; `tests/run` installs it")
}
