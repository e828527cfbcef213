//! Who asks: what a request's own headers say of how it wants to be answered.

use http::header::{ACCEPT, ORIGIN, RANGE, SEC_WEBSOCKET_VERSION, UPGRADE, USER_AGENT};
use http::header::{ACCESS_CONTROL_REQUEST_METHOD, UPGRADE_INSECURE_REQUESTS};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::config::Ignore;

/// Marks the request by which a waiting page asks how things stand; its value is
/// the version of what the page shows.
pub const POLL: HeaderName = HeaderName::from_static("x-nightporter-poll");

/// On such a request: its visitor wants another attempt made now.
const RETRY: HeaderName = HeaderName::from_static("x-nightporter-retry");

/// Fetch Metadata, sections 2.1 and 2.3: what browsers say of the purpose of a request.
const SEC_FETCH_DEST: HeaderName = HeaderName::from_static("sec-fetch-dest");
const SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");
/// RFC 6455 section 4.1. Proxies take `Upgrade` away and leave this one.
const WEB_SOCKET_KEY: HeaderName = HeaderName::from_static("sec-websocket-key");

/// What scripts send that ask for a part of a document: it takes the place of
/// something in a page that stays.
const OF_SCRIPTS: [HeaderName; 7] = [
    HeaderName::from_static("x-requested-with"),
    HeaderName::from_static("hx-request"),
    HeaderName::from_static("turbo-frame"),
    HeaderName::from_static("x-turbo-request-id"),
    HeaderName::from_static("x-pjax"),
    HeaderName::from_static("x-up-version"),
    HeaderName::from_static("x-alpine-request"),
];

/// Whether a browser asks for this to show it to a person, as a document of its own.
///
/// What is taken for one gets a page where it may have wanted a file, an image or a part
/// of a document; what is not is held. So a request that is not plainly one is none.
pub fn is_navigation(headers: &HeaderMap, method: Option<&str>) -> bool {
    if method.is_some_and(|method| method != "GET")
        || headers.contains_key(WEB_SOCKET_KEY)
        // A download that goes on, or a part of a video or of a PDF.
        || headers.contains_key(RANGE)
        || OF_SCRIPTS.iter().any(|name| headers.contains_key(name))
    {
        return false;
    }
    match (headers.get(SEC_FETCH_DEST), headers.get(SEC_FETCH_MODE)) {
        // A link with `download` navigates, and its destination is empty.
        (Some(dest), _) => [&b"document"[..], b"iframe", b"frame"].contains(&dest.as_bytes()),
        (None, Some(mode)) => mode == "navigate" && accepts_html(headers),
        // Browsers before 2023 do not say, and none does over plain HTTP. Scripts may
        // ask for HTML too; this one browsers add to navigations alone (Upgrade Insecure
        // Requests, section 3.2.1).
        (None, None) => headers.contains_key(UPGRADE_INSECURE_REQUESTS) && accepts_html(headers),
    }
}

/// Whether HTML is asked for by its name; `*/*` is what programs send.
pub fn accepts_html(headers: &HeaderMap) -> bool {
    accepts(headers, b"text/html")
}

fn accepts(headers: &HeaderMap, media_type: &[u8]) -> bool {
    headers.get_all(ACCEPT).iter().any(|value| {
        let value = value.as_bytes().to_ascii_lowercase();
        value.windows(media_type.len()).any(|window| window == media_type)
    })
}

/// Whether a browser asks if another site's page may send what it is about to send
/// (Fetch, section 3.3.2). It carries no credentials, whatever that request will.
pub(super) fn is_preflight(headers: &HeaderMap, method: Option<&str>) -> bool {
    method == Some("OPTIONS")
        && headers.contains_key(ORIGIN)
        && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
}

/// Whether this opens a WebSocket, which follows no redirect.
pub(super) fn is_web_socket(headers: &HeaderMap) -> bool {
    headers.contains_key(WEB_SOCKET_KEY)
}

/// Whether this opens a stream that a script opens anew whenever it is closed: an
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

/// Whether a page in a browser asks, as far as that can be told: over plain HTTP, and for
/// WebSockets, by the word that all browsers begin their names with.
pub(super) fn is_of_browser(headers: &HeaderMap) -> bool {
    let is_named_so = |agent: &HeaderValue| agent.as_bytes().starts_with(b"Mozilla/");
    headers.contains_key(SEC_FETCH_DEST)
        || headers.contains_key(SEC_FETCH_MODE)
        || headers.get(USER_AGENT).is_some_and(is_named_so)
}

/// The version that a page's question names, where this is one.
pub fn poll_version(headers: &HeaderMap) -> Option<u64> {
    let value = headers.get(POLL)?;
    // Whatever it says, it is marked and never reaches the app.
    Some(value.to_str().ok().and_then(|text| text.parse().ok()).unwrap_or(0))
}

/// Whether a page's question asks for another attempt.
pub(super) fn wants_retry(headers: &HeaderMap) -> bool {
    headers.contains_key(RETRY)
}

/// Whether a browser fetches in advance, which no person has asked for: as its makers
/// agreed on (Sec-Purpose, Fetch section 2.2.6), and as older ones say it.
pub(super) fn is_prefetch(headers: &HeaderMap) -> bool {
    let names = ["sec-purpose", "purpose", "x-purpose", "x-moz"];
    let mut values = names.iter().flat_map(|name| headers.get_all(*name));
    values.any(|value| {
        let value = value.as_bytes().trim_ascii_start();
        let word = value.get(.."prefetch".len());
        word.is_some_and(|word| word.eq_ignore_ascii_case(b"prefetch"))
    })
}

impl Ignore {
    /// Whether a request is to wake nothing.
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
#[path = "asker_tests.rs"]
mod tests;
