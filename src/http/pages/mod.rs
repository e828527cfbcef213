//! What is shown and said in place of an app: one self-contained page for people,
//! which fetches nothing but news of the app, and the same in JSON for programs.

mod asleep;
mod clock;
mod icon;
mod notice;
mod page;
mod problem;
mod samples;
pub(crate) mod standby;
mod template;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod truth_tests;
mod words;

use std::path::PathBuf;

use http::header::{
    ACCEPT, CONTENT_LANGUAGE, CONTENT_SECURITY_POLICY, CONTENT_TYPE, LOCATION, RETRY_AFTER, VARY,
};
use http::{HeaderMap, HeaderValue, StatusCode};

use super::{Response, answer};
use crate::gate::PageApp;
use crate::gate::asker::{accepts_html, poll_version};
use crate::gate::verdict::{ASLEEP, Asleep, Form};
use crate::wake::ContainerState;

use notice::Notice;
use page::Page;
use problem::{News, Problem};
use words::Words;

pub use samples::{Sample, samples};

const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");

/// Nothing that a client can know of says whether it would be answered the same again: no
/// cache may keep it, not even one that a service worker of the app fills without asking
/// (Service Workers, section 5.4.5: it refuses what varies by `*`).
const BY_EVERYTHING: HeaderValue = HeaderValue::from_static("*");

/// The answer to a waiting page. Of all statuses that a forwardAuth relays this is
/// one that never means a grant, that no `errors` middleware replaces, and that browsers
/// do not list among the errors in their console. Without a `Location` they do not follow
/// it either (RFC 9110 section 15.4.1).
const NEWS: StatusCode = StatusCode::MULTIPLE_CHOICES;

/// Statuses that have no body (RFC 9110 section 6.4.1); their pages are sent as 200.
fn sendable(status: StatusCode) -> StatusCode {
    let bodiless = status.is_informational()
        || matches!(status, StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT)
        || status == StatusCode::NOT_MODIFIED;
    if bodiless { StatusCode::OK } else { status }
}

/// Where a page is shown.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Place<'a> {
    /// Path and query of the request that it answers, where they are known.
    pub uri: Option<&'a str>,
    /// The box's domain: its hosts may show the page in a frame.
    pub domain: Option<&'a str>,
}

/// Renders pages; reads icons from the folder of installed apps.
#[derive(Debug)]
pub(crate) struct Pages {
    installed_apps_dir: PathBuf,
}

impl Pages {
    pub(crate) fn new(installed_apps_dir: PathBuf) -> Self {
        Self { installed_apps_dir }
    }

    /// What a visitor sees in place of an app that answered with an error, or of the
    /// gate's own answer where the proxy has replaced it by this.
    pub(crate) async fn app_error(
        &self,
        status: Option<u16>,
        app: Option<PageApp>,
        headers: &HeaderMap,
        place: Place<'_>,
    ) -> Response {
        let status = status
            .filter(|status| (100..=599).contains(status))
            .and_then(|status| StatusCode::from_u16(status).ok());
        let (Some(status), Some(app)) = (status, app) else {
            return answer::not_found();
        };
        // Replaced by the proxy: a forwardAuth takes every 2xx for a grant.
        if status.as_u16() == ASLEEP {
            return asleep::answer(StatusCode::OK, &app.name);
        }
        let words = Words::for_client(headers);
        if poll_version(headers).is_some() {
            return news(status, &app, words);
        }
        let notice = Notice::of_error(status, &app, place.domain, words);
        if accepts_json_only(headers) {
            problem(status, &app, &notice, words)
        } else {
            self.page(status, &app, &notice, words, place).await
        }
    }

    /// What a person sees who may not use an app, or not as it is.
    pub(crate) async fn denied(
        &self,
        status: StatusCode,
        app: &PageApp,
        headers: &HeaderMap,
        place: Place<'_>,
    ) -> Response {
        let words = Words::for_client(headers);
        let notice = Notice::withheld(status, place.domain, words);
        self.page(status, app, &notice, words, place).await
    }

    /// What is answered in place of an app that is not awake.
    pub(crate) async fn asleep(
        &self,
        asleep: &Asleep,
        headers: &HeaderMap,
        place: Place<'_>,
    ) -> Response {
        let Asleep { app, form } = asleep;
        let words = Words::for_client(headers);
        let notice = || Notice::of_phase(app, words);
        let status = StatusCode::SERVICE_UNAVAILABLE;
        match form {
            Form::Page => self.page(status, app, &notice(), words, place).await,
            Form::Problem => problem(status, app, &notice(), words),
            Form::Poll => news(NEWS, app, words),
            Form::Again(location) => again(location.clone()),
            Form::Ignored(status) => asleep::answer(*status, &app.name),
            Form::KeptAsleep => asleep::refused(&app.name),
        }
    }

    async fn page(
        &self,
        status: StatusCode,
        app: &PageApp,
        notice: &Notice,
        words: &Words,
        place: Place<'_>,
    ) -> Response {
        let icon = icon::of(&self.installed_apps_dir, app).await;
        let containers = containers(status, app);
        let icon = icon.as_deref();
        let page = Page { status, app, containers, icon, notice, words, place };
        let mut response = answer::typed(sendable(status), HTML, page.to_string().into());
        response.headers_mut().insert(CONTENT_SECURITY_POLICY, page.policy());
        described(response, status, notice, words)
    }
}

fn problem(status: StatusCode, app: &PageApp, notice: &Notice, words: &Words) -> Response {
    let problem = Problem::of(status, app, containers(status, app), notice);
    let mut response = answer::json(sendable(status), problem.to_json().into());
    response.headers_mut().insert(CONTENT_TYPE, Problem::TYPE);
    described(response, status, notice, words)
}

/// Has a client send the same request again.
fn again(location: HeaderValue) -> Response {
    let mut response = answer::fixed(StatusCode::TEMPORARY_REDIRECT, "null");
    response.headers_mut().insert(LOCATION, location);
    response
}

/// The answer to a waiting page that asks how things stand.
fn news(status: StatusCode, app: &PageApp, words: &Words) -> Response {
    let (sent, notice) = if status == StatusCode::UNAUTHORIZED || !app.is_granted {
        (sendable(status), Notice::withheld(status, None, words))
    } else {
        (NEWS, Notice::of_phase(app, words))
    };
    let news = News::of(app, containers(status, app), &notice, words);
    let mut response = answer::json(sent, news.to_json().into());
    response.headers_mut().insert(VARY, BY_EVERYTHING);
    response
}

/// The containers of an app as far as they are shown: whoever may use it sees them all
/// where it does not answer.
fn containers(status: StatusCode, app: &PageApp) -> &[ContainerState] {
    let is_shown = app.is_granted && (status.is_server_error() || status == NEWS);
    if is_shown { &app.shown.containers } else { &[] }
}

/// With what all forms but the news have in common.
fn described(
    mut response: Response,
    status: StatusCode,
    notice: &Notice,
    words: &Words,
) -> Response {
    let headers = response.headers_mut();
    headers.insert(VARY, BY_EVERYTHING);
    headers.insert(CONTENT_LANGUAGE, HeaderValue::from_static(words.lang));
    if let Some(seconds) = notice.retry_after.filter(|_| status.is_server_error()) {
        headers.insert(RETRY_AFTER, seconds.into());
    }
    response
}

/// Whether a program asks that can read a problem, and no page.
fn accepts_json_only(headers: &HeaderMap) -> bool {
    let names_json = headers.get_all(ACCEPT).iter().any(|value| {
        let value = value.as_bytes().to_ascii_lowercase();
        value.split(|byte| *byte == b',').any(|range| {
            let media_type = range.split(|byte| *byte == b';').next().unwrap_or_default();
            matches!(media_type.trim_ascii(), b"application/json" | b"application/problem+json")
        })
    });
    names_json && !accepts_html(headers)
}
