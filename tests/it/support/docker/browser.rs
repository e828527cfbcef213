//! Chromium, driven by `browse.py`, for what only a browser can show.
#![allow(dead_code, reason = "tests and benchmarks take what is theirs")]

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use super::script::Script;

/// What a person does: opens a page, and waits.
#[derive(Debug, Clone)]
pub struct Visit {
    pub url: String,
    /// A selector whose appearance is what is waited for.
    pub until: String,
    pub patience: Duration,
    /// Cookies for that URL.
    pub cookies: Vec<(String, String)>,
}

/// What was seen; times in Unix nanoseconds.
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
    /// When something of it was first on the screen.
    pub painted: Option<u128>,
    /// When the browser began with it.
    pub began: u128,
    pub url: String,
    pub title: String,
    pub text: String,
}

#[derive(Debug, Deserialize)]
pub struct Asked {
    pub status: u16,
    pub navigation: bool,
    /// The mark of a waiting page's question.
    pub poll: Option<String>,
    pub answered: Option<u128>,
}

impl Visit {
    pub fn to(url: &str, until: &str) -> Self {
        let patience = Duration::from_secs(180);
        Self { url: url.into(), until: until.into(), patience, cookies: Vec::new() }
    }

    /// Opens it; all names lead to this machine.
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
    /// The document that came last.
    pub fn last(&self) -> &Document {
        self.documents.last().unwrap_or_else(|| panic!("nothing was shown: {self:?}"))
    }
}

/// Debian's, or whatever goes by its name in the path.
pub fn chromium() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .flat_map(|folder| ["chromium", "chromium-browser"].map(|name| folder.join(name)))
        .find(|program| program.exists())
        .expect("chromium; `tests/run` installs it")
}
