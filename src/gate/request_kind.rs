//! Classifies a request by its own headers, to decide how it should be answered.

use http::header::{ACCEPT, ORIGIN, RANGE, SEC_WEBSOCKET_VERSION, UPGRADE, USER_AGENT};
use http::header::{ACCESS_CONTROL_REQUEST_METHOD, UPGRADE_INSECURE_REQUESTS};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::config::Ignore;

/// Marks a status poll of a waiting page; its value is the version of the state that the
/// page shows.
pub const POLL: HeaderName = HeaderName::from_static("x-nightporter-poll");

/// Marks a status poll whose visitor asks for another attempt now.
const RETRY: HeaderName = HeaderName::from_static("x-nightporter-retry");

/// Headers by which browsers mark a prefetch: the standard one (Fetch section 2.2.6) and
/// those of older browsers.
pub(super) const PREFETCH_HEADERS: [HeaderName; 4] = [
    HeaderName::from_static("sec-purpose"),
    HeaderName::from_static("purpose"),
    HeaderName::from_static("x-purpose"),
    HeaderName::from_static("x-moz"),
];

/// Fetch Metadata, sections 2.1 and 2.3: the purpose of a request, sent by browsers.
const SEC_FETCH_DEST: HeaderName = HeaderName::from_static("sec-fetch-dest");
const SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");
/// RFC 6455 section 4.1. Proxies remove `Upgrade` and keep this header.
const WEB_SOCKET_KEY: HeaderName = HeaderName::from_static("sec-websocket-key");

/// Headers of scripts that request a part of a document, which replaces an element of a
/// page that stays open.
const SCRIPT_HEADERS: [HeaderName; 7] = [
    HeaderName::from_static("x-requested-with"),
    HeaderName::from_static("hx-request"),
    HeaderName::from_static("turbo-frame"),
    HeaderName::from_static("x-turbo-request-id"),
    HeaderName::from_static("x-pjax"),
    HeaderName::from_static("x-up-version"),
    HeaderName::from_static("x-alpine-request"),
];

/// Returns whether a browser requests this to show it to a person as a document of its own.
///
/// A request wrongly taken for a navigation gets a page instead of a file, an image or a
/// part of a document; any other request is held. So a request that is not clearly a
/// navigation does not count as one.
pub fn is_navigation(headers: &HeaderMap, method: Option<&str>) -> bool {
    if method.is_some_and(|method| method != "GET")
        || headers.contains_key(WEB_SOCKET_KEY)
        // A resumed download, or a part of a video or of a PDF.
        || headers.contains_key(RANGE)
        || SCRIPT_HEADERS.iter().any(|name| headers.contains_key(name))
    {
        return false;
    }
    match (headers.get(SEC_FETCH_DEST), headers.get(SEC_FETCH_MODE)) {
        // A link with `download` navigates, and its destination is empty.
        (Some(dest), _) => [&b"document"[..], b"iframe", b"frame"].contains(&dest.as_bytes()),
        (None, Some(mode)) => mode == "navigate" && accepts_html(headers),
        // Browsers before 2023 do not send these, and none does over plain HTTP. Scripts
        // may accept HTML too, but browsers add this header only to navigations (Upgrade
        // Insecure Requests, section 3.2.1).
        (None, None) => headers.contains_key(UPGRADE_INSECURE_REQUESTS) && accepts_html(headers),
    }
}

/// Returns whether the request accepts HTML by name; `*/*` does not count, because
/// programs send it.
pub fn accepts_html(headers: &HeaderMap) -> bool {
    accepts(headers, b"text/html")
}

fn accepts(headers: &HeaderMap, media_type: &[u8]) -> bool {
    headers.get_all(ACCEPT).iter().any(|value| {
        let value = value.as_bytes().to_ascii_lowercase();
        value.windows(media_type.len()).any(|window| window == media_type)
    })
}

/// Returns whether this is a CORS preflight: a browser asks whether a page of another site
/// may send its next request (Fetch, section 3.3.2). It carries no credentials, even if
/// that request will.
pub(super) fn is_preflight(headers: &HeaderMap, method: Option<&str>) -> bool {
    method == Some("OPTIONS")
        && headers.contains_key(ORIGIN)
        && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
}

/// Returns whether this opens a WebSocket, which does not follow redirects.
pub(super) fn is_web_socket(headers: &HeaderMap) -> bool {
    headers.contains_key(WEB_SOCKET_KEY)
}

/// Returns whether this opens a stream that a script reopens whenever it is closed: an
/// `EventSource` (HTML, section 9.2) or a WebSocket, over HTTP/2 too (RFC 8441).
pub(super) fn is_stream(headers: &HeaderMap, method: Option<&str>) -> bool {
    let is_upgrade = || {
        let mut values = headers.get_all(UPGRADE).iter();
        values.any(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
    };
    if is_web_socket(headers) || headers.contains_key(SEC_WEBSOCKET_VERSION) || is_upgrade() {
        return true;
    }
    let is_empty = headers.get(SEC_FETCH_DEST).is_none_or(|dest| dest.as_bytes() == b"empty");
    is_empty
        && method.is_none_or(|method| method == "GET")
        && accepts(headers, b"text/event-stream")
}

/// Returns whether the request comes from a page in a browser, as far as that can be known:
/// over plain HTTP, and for WebSockets, by the word that every browser's `User-Agent` begins
/// with.
pub(super) fn is_from_browser(headers: &HeaderMap) -> bool {
    let is_browser_name = |agent: &HeaderValue| agent.as_bytes().starts_with(b"Mozilla/");
    headers.contains_key(SEC_FETCH_DEST)
        || headers.contains_key(SEC_FETCH_MODE)
        || headers.get(USER_AGENT).is_some_and(is_browser_name)
}

/// Returns the version that a status poll names, if this is a status poll.
pub fn poll_version(headers: &HeaderMap) -> Option<u64> {
    let value = headers.get(POLL)?;
    // A marked request never reaches the app, even if its value is invalid.
    Some(value.to_str().ok().and_then(|text| text.parse().ok()).unwrap_or(0))
}

/// Returns whether a status poll asks for another attempt.
pub(super) fn wants_retry(headers: &HeaderMap) -> bool {
    headers.contains_key(RETRY)
}

/// Returns whether a browser prefetches this without a person's request.
pub fn is_prefetch(headers: &HeaderMap) -> bool {
    let mut values = PREFETCH_HEADERS.into_iter().flat_map(|name| headers.get_all(name));
    values.any(|value| {
        let value = value.as_bytes().trim_ascii_start();
        let word = value.get(.."prefetch".len());
        word.is_some_and(|word| word.eq_ignore_ascii_case(b"prefetch"))
    })
}

impl Ignore {
    /// Returns whether a request must not wake an app.
    pub(super) fn covers(&self, headers: &HeaderMap, uri: &str) -> bool {
        let Self { user_agents, paths, status: _ } = self;
        if paths.iter().any(|path| uri.starts_with(path.as_str())) {
            return true;
        }
        if user_agents.is_empty() {
            return false;
        }
        let agent = headers.get(USER_AGENT).map(|agent| agent.as_bytes().to_ascii_lowercase());
        agent.is_some_and(|agent| {
            let agent = String::from_utf8_lossy(&agent);
            user_agents.iter().any(|part| agent.contains(part.as_str()))
        })
    }
}

#[cfg(test)]
mod tests;
