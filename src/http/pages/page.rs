//! The page: one template, one script.

use std::fmt::{self, Display, Formatter, Write};
use std::sync::LazyLock;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::{HeaderValue, StatusCode};
use serde::Serialize;

use super::icon::initials;
use super::notice::{Follow, Notice, STEPS, Tone};
use super::template::{escaped, fill};
use super::words::Words;
use crate::gate::PageApp;
use crate::wake::ContainerState;

const TEMPLATE: &str = include_str!("page.html");
const SCRIPT: &str = include_str!("page.js");

/// The page brings all it needs; whatever an app's name or icon may hold, it
/// runs no script and fetches nothing. An SVG in an `img` runs none either.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'self'";

static WITHOUT_SCRIPT: HeaderValue = HeaderValue::from_static(POLICY);

/// Of a page that asks: its own script alone, which speaks to the page's own origin.
static WITH_SCRIPT: LazyLock<HeaderValue> = LazyLock::new(|| {
    let hash = BASE64_STANDARD.encode(digest(&SHA256, SCRIPT.as_bytes()));
    let policy = format!("{POLICY}; script-src 'sha256-{hash}'; connect-src 'self'");
    // Without leave for its script the page is loaded again from time to time.
    HeaderValue::from_str(&policy).unwrap_or_else(|_| WITHOUT_SCRIPT.clone())
});

/// Longest time in seconds after which a page without a script is loaded again.
const LONGEST_RELOAD: u64 = 60;

/// As long, where a script is expected to ask and take that back; for browsers that
/// run scripts but not this one, whatever a proxy or a person has set up.
const WITHOUT_NEWS: u64 = 15;

/// A page about an app.
#[derive(Debug)]
pub(super) struct Page<'a> {
    pub status: StatusCode,
    pub app: &'a PageApp,
    pub containers: &'a [ContainerState],
    /// As a `data:` address.
    pub icon: Option<&'a str>,
    pub notice: &'a Notice,
    pub words: &'a Words,
}

/// A line of the page's table.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Row<'a> {
    name: &'a str,
    text: String,
}

/// The containers in words, or where none is known the app's state in the store's.
pub(super) fn rows<'a>(
    app: &'a PageApp,
    containers: &'a [ContainerState],
    words: &'a Words,
) -> Vec<Row<'a>> {
    if containers.is_empty() {
        return vec![Row { name: words.container, text: words.state(&app.status).into() }];
    }
    let is_only = containers.len() == 1;
    let row = |container: &'a ContainerState| {
        let state = words.state(container.state);
        let text = match container.exit_code {
            Some(code) => format!("{state} ({code})"),
            None => state.into(),
        };
        Row { name: if is_only { words.container } else { &container.name }, text }
    };
    containers.iter().map(row).collect()
}

impl Page<'_> {
    pub fn policy(&self) -> HeaderValue {
        match self.notice.follow {
            Follow::Poll => WITH_SCRIPT.clone(),
            Follow::Reload | Follow::Stay => WITHOUT_SCRIPT.clone(),
        }
    }

    fn name(&self) -> &str {
        let PageApp { name, pretty_name, .. } = self.app;
        if pretty_name.trim().is_empty() { name } else { pretty_name }
    }

    /// How the browser itself loads the page again.
    fn reload(&self) -> String {
        let refresh = |after: u64| {
            format!(r#"<meta http-equiv="refresh" content="{}">"#, after.min(LONGEST_RELOAD))
        };
        let Notice { follow, is_final, retry_after, .. } = self.notice;
        match (follow, retry_after) {
            (Follow::Stay, _) | (_, None) => String::new(),
            _ if *is_final => String::new(),
            (Follow::Reload, Some(after)) => refresh(*after),
            (Follow::Poll, Some(after)) => {
                format!(
                    "<noscript>{}</noscript>{}",
                    refresh(*after),
                    refresh((*after).clamp(WITHOUT_NEWS, LONGEST_RELOAD))
                )
            }
        }
    }

    fn picture(&self) -> String {
        match self.icon {
            Some(uri) => format!(r#"<img class="icon" src="{}" alt="">"#, escaped(uri)),
            None => format!(
                r#"<div class="icon" aria-hidden="true">{}</div>"#,
                escaped(&initials(self.name()))
            ),
        }
    }

    fn rows(&self) -> String {
        let mut html = String::new();
        for Row { name, text } in rows(self.app, self.containers, self.words) {
            let (name, text) = (escaped(name), escaped(&text));
            // Writing to a String does not fail.
            write!(html, "<div><dt>{name}</dt><dd>{text}</dd></div>").ok();
        }
        html
    }
}

impl Display for Page<'_> {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        let Self { status, app, notice, words, .. } = self;
        let html = fill(TEMPLATE, |hole| match hole {
            "lang" => words.lang.into(),
            "reload" => self.reload(),
            "name" => escaped(self.name()),
            "tone" => tone(notice.tone).into(),
            "state" => notice.state.into(),
            "final" => notice.is_final.to_string(),
            "version" => app.shown.version.to_string(),
            "retry_after" => notice.retry_after.unwrap_or_default().to_string(),
            "step" => notice.step.to_string(),
            "steps" => "<i></i>".repeat(STEPS.into()),
            "icon" => self.picture(),
            "text" => escaped(&notice.text),
            "detail" => escaped(&notice.detail),
            "opens_itself" => escaped(words.opens_itself),
            "try_again" => escaped(words.try_again),
            "status" => escaped(words.status),
            "code" => status.as_str().into(),
            "rows" => self.rows(),
            "script" if notice.follow == Follow::Poll => format!("<script>{SCRIPT}</script>"),
            _ => String::new(),
        });
        formatter.write_str(&html)
    }
}

fn tone(tone: Tone) -> &'static str {
    match tone {
        Tone::Busy => "busy",
        Tone::Ready => "ready",
        Tone::Trouble => "trouble",
        Tone::Closed => "closed",
    }
}
