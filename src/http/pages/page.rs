//! The page about an app, made of one template and one script.

use std::fmt::{self, Display, Formatter, Write};
use std::sync::LazyLock;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::{HeaderValue, StatusCode};
use serde::Serialize;
use serde_json::json;

use super::clock::Clock;
use super::icon::{favicon, initials, is_visible};
use super::notice::{Follow, Notice, STEPS};
use super::template::{escaped, fill};
use super::words::Words;
use super::{PageContext, Pairs};
use crate::gate::PageApp;
use crate::http::pairing::link;
use crate::wake::ContainerState;

const TEMPLATE: &str = include_str!("page.html");
const SCRIPT: &str = include_str!("page.js");

/// The page's Content-Security-Policy. The page contains everything it needs. Whatever an
/// app's name or icon contains, it runs no script but its own, which may only contact its
/// own origin. An SVG in an `img` element runs no scripts either.
pub(super) const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; \
                      base-uri 'none'; form-action 'none'; connect-src 'self'";

/// The same policy with permission for the page's script. Without the script the page is
/// reloaded periodically.
static WITH_SCRIPT: LazyLock<String> = LazyLock::new(|| {
    let hash = BASE64_STANDARD.encode(digest(&SHA256, SCRIPT.as_bytes()));
    format!("{POLICY}; script-src 'sha256-{hash}'")
});

/// The longest time in seconds after which a page without a script is reloaded.
const LONGEST_RELOAD: u64 = 60;

/// The shortest time in seconds for the reload that the script cancels. It serves browsers
/// that run scripts but not this one, whatever the reason.
const FALLBACK_RELOAD: u64 = 15;

/// A page about an app.
#[derive(Debug)]
pub(super) struct Page<'a> {
    pub status: StatusCode,
    pub app: &'a PageApp,
    pub containers: &'a [ContainerState],
    /// As a `data:` URL.
    pub icon: Option<&'a str>,
    pub notice: &'a Notice,
    pub words: &'a Words,
    pub context: PageContext<'a>,
}

/// A line of the page's table.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Row<'a> {
    name: &'a str,
    text: String,
}

/// Returns the containers' states in words if the notice has details.
pub(super) fn rows<'a>(
    containers: &'a [ContainerState],
    notice: &Notice,
    words: &'a Words,
) -> Vec<Row<'a>> {
    let containers = if notice.has_details { containers } else { &[] };
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
    /// Returns the page's Content-Security-Policy. A dashboard of the box itself may show
    /// the page in a frame; other sites may not, since they could trick a visitor into
    /// clicking in it.
    pub fn policy(&self) -> HeaderValue {
        let domain = self.context.domain.filter(|domain| is_host_name(domain));
        let hosts = domain.map_or_else(String::new, |domain| format!(" {domain}:* *.{domain}:*"));
        let policy = format!("{}; frame-ancestors 'self'{hosts}", *WITH_SCRIPT);
        HeaderValue::from_str(&policy).unwrap_or(HeaderValue::from_static(POLICY))
    }

    fn name(&self) -> &str {
        let PageApp { name, pretty_name, .. } = self.app;
        if pretty_name.chars().any(is_visible) { pretty_name } else { name }
    }

    /// Returns the `meta` elements that make the browser reload the page.
    fn reload(&self) -> String {
        let target =
            self.context.uri.map_or_else(String::new, |uri| format!(";url={}", reload_url(uri)));
        let refresh = |after: u64| {
            let after = after.min(LONGEST_RELOAD);
            format!(r#"<meta http-equiv="refresh" content="{after}{}">"#, escaped(&target))
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
                    refresh((*after).clamp(FALLBACK_RELOAD, LONGEST_RELOAD))
                )
            }
        }
    }

    /// Returns the link to the page that pairs a device, for a visitor who may not use the app.
    fn pair(&self) -> String {
        if self.context.pairs != Pairs::Here || self.status != StatusCode::UNAUTHORIZED {
            return String::new();
        }
        let (link, title) = (link(self.context.uri), self.words.pairing.title);
        format!(r#"<p class="pair"><a href="{}">{}</a></p>"#, escaped(&link), escaped(title))
    }

    fn picture(&self) -> String {
        let initials = escaped(&initials(self.name()));
        match self.icon {
            Some(uri) => format!(
                r#"<img class="icon" src="{}" alt="" data-initials="{initials}">"#,
                escaped(uri)
            ),
            None => format!(r#"<div class="icon" aria-hidden="true">{initials}</div>"#),
        }
    }

    fn rows(&self) -> String {
        let mut html = String::new();
        for Row { name, text } in rows(self.containers, self.notice, self.words) {
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
            "long" => long(self.name()).into(),
            "favicon" => favicon(self.name()),
            "tone" => word(&notice.tone),
            "sign" => word(&notice.sign),
            "state" => notice.state.into(),
            "final" => notice.is_final.to_string(),
            "version" => app.shown.version.to_string(),
            "retry_after" => notice.retry_after.unwrap_or_default().to_string(),
            "follow" => follow(notice.follow).into(),
            "step" => notice.step.to_string(),
            "steps" => "<i></i>".repeat(STEPS.into()),
            "icon" => self.picture(),
            "text" => escaped(&notice.text),
            "detail" => escaped(&notice.detail),
            "clock" => escaped(&notice.clock.as_ref().map_or_else(String::new, Clock::to_json)),
            "time" => escaped(&notice.clock.as_ref().map_or_else(String::new, Clock::now)),
            "units" => escaped(&json!([words.seconds, words.minutes]).to_string()),
            "no_news" => escaped(words.no_news),
            "offline" => escaped(words.offline),
            "delivered" => escaped(words.delivered.text),
            "delivered_detail" => escaped(words.delivered.detail),
            "may_be_download" => escaped(words.may_be_download),
            "go_back" => escaped(words.go_back),
            "details" => escaped(words.details),
            "no_details" => if notice.has_details { "" } else { " hidden" }.into(),
            "pair" => self.pair(),
            "opens_itself" => escaped(words.opens_itself),
            "own" => escaped(&self.context.uri.map_or_else(String::new, reload_url)),
            "try_again" => escaped(words.try_again),
            "status" => escaped(words.status),
            "code" => status.as_str().into(),
            "rows" => self.rows(),
            "script" => format!("<script>{SCRIPT}</script>"),
            _ => String::new(),
        });
        formatter.write_str(&html)
    }
}

/// Returns a request's path and query as a relative URL: loading it reloads the page even
/// if the current URL has a fragment; a refresh without a URL does not. A path that begins
/// with two slashes would otherwise name a host.
pub(super) fn reload_url(uri: &str) -> String {
    let is_host = uri.starts_with("//") || uri.starts_with("/\\");
    if is_host { format!("/.{uri}") } else { uri.to_owned() }
}

/// Whether a name can be used in a policy unchanged.
fn is_host_name(name: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"-.".contains(&byte);
    !name.is_empty() && name.bytes().all(is_part)
}

fn follow(follow: Follow) -> &'static str {
    match follow {
        Follow::Poll => "poll",
        Follow::Reload => "reload",
        Follow::Stay => "stay",
    }
}

/// Returns the word that represents a value in JSON.
fn word(value: &impl Serialize) -> String {
    let word = serde_json::to_value(value).unwrap_or_default();
    word.as_str().unwrap_or_default().to_owned()
}

/// Returns the class that keeps a heading within three lines.
fn long(name: &str) -> &'static str {
    match name.chars().count() {
        0..=36 => "",
        37..=72 => r#" class="long""#,
        _ => r#" class="longer""#,
    }
}
