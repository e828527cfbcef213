//! Responses in place of an app: one self-contained page for people, which fetches nothing
//! but the app's state, and the same information in JSON for programs.

mod asleep;
mod clock;
mod icon;
mod notice;
mod page;
pub(crate) mod pairing;
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
use crate::gate::request_kind::{accepts_html, poll_version};
use crate::gate::verdict::{ASLEEP, Asleep, AsleepResponse};
use crate::wake::ContainerState;

use notice::Notice;
use page::Page;
use problem::{PageState, Problem};
use words::Words;

pub use samples::{Sample, samples};

const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");

/// The response does not depend on request headers alone: no cache may keep it, not even
/// one that a service worker of the app fills unconditionally (Service Workers, section
/// 5.4.5: a cache refuses responses that vary by `*`).
const VARY_ANY: HeaderValue = HeaderValue::from_static("*");

/// The status of a response to a polling page. Among the statuses that a forwardAuth
/// relays, this one never means a grant, no `errors` middleware replaces it, and browsers
/// do not log it as an error in their console. Without a `Location` they do not follow it
/// either (RFC 9110 section 15.4.1).
const POLL_STATUS: StatusCode = StatusCode::MULTIPLE_CHOICES;

/// Returns 200 for a status that must not have a body (RFC 9110 section 6.4.1), and any
/// other status unchanged.
fn sendable(status: StatusCode) -> StatusCode {
    let bodiless = status.is_informational()
        || matches!(status, StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT)
        || status == StatusCode::NOT_MODIFIED;
    if bodiless { StatusCode::OK } else { status }
}

/// The request and the box that a page is shown for.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct PageContext<'a> {
    /// The path and query of the request that the page answers, if they are known.
    pub uri: Option<&'a str>,
    /// The domain of the box; hosts in it may show the page in a frame.
    pub domain: Option<&'a str>,
    pub pairs: Pairs,
}

/// Where a visitor can pair a device, so that it may use a private app.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Pairs {
    /// At a page of another program.
    #[default]
    Elsewhere,
    /// At [`pairing::PATH`] of the app's host.
    Here,
    /// Nowhere: the host is outside of the box's domain, so that no paired device is known there.
    Nowhere,
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

    /// Answers in place of an app that responded with an error, or in place of the gate's
    /// own response if the proxy has replaced that.
    pub(crate) async fn app_error(
        &self,
        status: Option<u16>,
        app: Option<PageApp>,
        headers: &HeaderMap,
        context: PageContext<'_>,
    ) -> Response {
        let status = status
            .filter(|status| (100..=599).contains(status))
            .and_then(|status| StatusCode::from_u16(status).ok());
        let (Some(status), Some(app)) = (status, app) else {
            return answer::not_found();
        };
        // The proxy replaces this status: a forwardAuth treats every 2xx as a grant.
        if status.as_u16() == ASLEEP {
            return asleep::answer(StatusCode::OK, &app.name);
        }
        let words = Words::for_client(headers);
        if poll_version(headers).is_some() {
            return poll_response(status, &app, words);
        }
        let notice = Notice::of_error(status, &app, context, words);
        if accepts_json_only(headers) {
            problem(status, &app, &notice, words)
        } else {
            self.page(status, &app, &notice, words, context).await
        }
    }

    /// Answers a person who may not use an app, or not in its current state.
    pub(crate) async fn denied(
        &self,
        status: StatusCode,
        app: &PageApp,
        headers: &HeaderMap,
        context: PageContext<'_>,
    ) -> Response {
        let words = Words::for_client(headers);
        let notice = Notice::withheld(status, context, words);
        self.page(status, app, &notice, words, context).await
    }

    /// Answers in place of an app that is not awake.
    pub(crate) async fn asleep(
        &self,
        asleep: &Asleep,
        headers: &HeaderMap,
        context: PageContext<'_>,
    ) -> Response {
        let Asleep { app, form } = asleep;
        let words = Words::for_client(headers);
        let notice = || Notice::of_phase(app, words);
        let status = StatusCode::SERVICE_UNAVAILABLE;
        match form {
            AsleepResponse::Page => self.page(status, app, &notice(), words, context).await,
            AsleepResponse::Problem => problem(status, app, &notice(), words),
            AsleepResponse::Poll => poll_response(POLL_STATUS, app, words),
            AsleepResponse::Redirect(location) => redirect(location.clone()),
            AsleepResponse::Ignored(status) => asleep::answer(*status, &app.name),
            AsleepResponse::KeptAsleep => asleep::kept_asleep(&app.name),
        }
    }

    async fn page(
        &self,
        status: StatusCode,
        app: &PageApp,
        notice: &Notice,
        words: &Words,
        context: PageContext<'_>,
    ) -> Response {
        let icon = icon::load(&self.installed_apps_dir, app).await;
        let containers = containers(status, app);
        let icon = icon.as_deref();
        let page = Page { status, app, containers, icon, notice, words, context };
        let mut response = answer::typed(sendable(status), HTML, page.to_string().into());
        response.headers_mut().insert(CONTENT_SECURITY_POLICY, page.policy());
        with_common_headers(response, status, notice, words)
    }
}

fn problem(status: StatusCode, app: &PageApp, notice: &Notice, words: &Words) -> Response {
    let problem = Problem::new(status, app, containers(status, app), notice);
    let mut response = answer::json(sendable(status), problem.to_json().into());
    response.headers_mut().insert(CONTENT_TYPE, Problem::TYPE);
    with_common_headers(response, status, notice, words)
}

/// Makes the client send the same request again.
fn redirect(location: HeaderValue) -> Response {
    let mut response = answer::fixed(StatusCode::TEMPORARY_REDIRECT, "null");
    response.headers_mut().insert(LOCATION, location);
    response
}

/// Answers a waiting page that polls for the app's state.
fn poll_response(status: StatusCode, app: &PageApp, words: &Words) -> Response {
    let (sent, notice) = if status == StatusCode::UNAUTHORIZED || !app.is_granted {
        (sendable(status), Notice::withheld(status, PageContext::default(), words))
    } else {
        (POLL_STATUS, Notice::of_phase(app, words))
    };
    let state = PageState::new(app, containers(status, app), &notice, words);
    let mut response = answer::json(sent, state.to_json().into());
    response.headers_mut().insert(VARY, VARY_ANY);
    response
}

/// Returns the containers of an app that are shown: all of them, if the client may use the
/// app and the app does not answer; otherwise none.
fn containers(status: StatusCode, app: &PageApp) -> &[ContainerState] {
    let is_shown = app.is_granted && (status.is_server_error() || status == POLL_STATUS);
    if is_shown { &app.shown.containers } else { &[] }
}

/// Adds the headers that pages and problems have in common.
fn with_common_headers(
    mut response: Response,
    status: StatusCode,
    notice: &Notice,
    words: &Words,
) -> Response {
    let headers = response.headers_mut();
    headers.insert(VARY, VARY_ANY);
    headers.insert(CONTENT_LANGUAGE, HeaderValue::from_static(words.lang));
    if let Some(seconds) = notice.retry_after.filter(|_| status.is_server_error()) {
        headers.insert(RETRY_AFTER, seconds.into());
    }
    response
}

/// Whether the client is a program that accepts a JSON problem and no page.
pub(crate) fn accepts_json_only(headers: &HeaderMap) -> bool {
    let names_json = headers.get_all(ACCEPT).iter().any(|value| {
        let value = value.as_bytes().to_ascii_lowercase();
        value.split(|byte| *byte == b',').any(|range| {
            let media_type = range.split(|byte| *byte == b';').next().unwrap_or_default();
            matches!(media_type.trim_ascii(), b"application/json" | b"application/problem+json")
        })
    });
    names_json && !accepts_html(headers)
}
