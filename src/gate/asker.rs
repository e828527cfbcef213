//! How a request wants to be answered while its app sleeps.

use http::header::{ACCEPT, USER_AGENT};
use http::{HeaderMap, HeaderName};

use super::forwarded::Forwarded;
use crate::config::Ignore;

/// Marks the request by which a waiting page asks how things stand; its value is
/// the version of what the page shows.
pub const POLL: HeaderName = HeaderName::from_static("x-nightporter-poll");

/// Fetch Metadata, section 2.3: what browsers say of the purpose of a request.
const SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");
/// RFC 6455 section 4.1. Proxies take `Upgrade` away and leave this one.
const WEB_SOCKET_KEY: HeaderName = HeaderName::from_static("sec-websocket-key");

/// Whether a browser asks for this to show it to a person.
pub(super) fn is_navigation(headers: &HeaderMap, forwarded: &Forwarded<'_>) -> bool {
    if forwarded.method.is_some_and(|method| method != "GET")
        || headers.contains_key(WEB_SOCKET_KEY)
    {
        return false;
    }
    match headers.get(SEC_FETCH_MODE) {
        Some(mode) => mode == "navigate",
        // Browsers before 2023, and those that ask over plain HTTP, do not say.
        None => accepts_html(headers),
    }
}

/// Whether HTML is asked for by its name; `*/*` is what programs send.
pub fn accepts_html(headers: &HeaderMap) -> bool {
    headers.get_all(ACCEPT).iter().any(|value| {
        let value = value.as_bytes().to_ascii_lowercase();
        value.windows(b"text/html".len()).any(|window| window == b"text/html")
    })
}

/// The version that a page's question names, where this is one.
pub fn poll_version(headers: &HeaderMap) -> Option<u64> {
    let value = headers.get(POLL)?;
    // Whatever it says, it is marked and never reaches the app.
    Some(value.to_str().ok().and_then(|text| text.parse().ok()).unwrap_or(0))
}

impl Ignore {
    /// Whether a request is to wake nothing.
    pub(super) fn covers(&self, headers: &HeaderMap, uri: &str) -> bool {
        let Self { user_agents, paths } = self;
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
mod tests {
    use super::*;
    use http::HeaderValue;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    fn navigates(pairs: &[(&'static str, &'static str)], method: Option<&str>) -> bool {
        let forwarded = Forwarded { host: "a", uri: "/", method, proto: None };
        is_navigation(&headers(pairs), &forwarded)
    }

    #[test]
    fn a_navigation_is_told_from_all_else() {
        let html = ("accept", "text/html,application/xhtml+xml,*/*;q=0.8");
        assert!(navigates(&[("sec-fetch-mode", "navigate")], Some("GET")));
        assert!(navigates(&[html], Some("GET")));
        assert!(navigates(&[("accept", "Text/HTML")], None));
        assert!(!navigates(&[html], Some("POST")));
        assert!(!navigates(&[html], Some("HEAD")));
        assert!(!navigates(&[html, ("sec-fetch-mode", "cors")], Some("GET")));
        assert!(!navigates(&[html, ("sec-websocket-key", "x")], Some("GET")));
        assert!(!navigates(&[("accept", "*/*")], Some("GET")));
        assert!(!navigates(&[], Some("GET")));
    }

    #[test]
    fn health_checkers_are_ignored_by_name_and_path() {
        let ignore =
            Ignore { user_agents: vec!["uptime-kuma".into()], paths: vec!["/health".into()] };
        assert!(ignore.covers(&headers(&[("user-agent", "Uptime-Kuma/2.0")]), "/"));
        assert!(ignore.covers(&headers(&[]), "/healthz?x"));
        assert!(!ignore.covers(&headers(&[("user-agent", "Firefox")]), "/"));
    }

    #[test]
    fn a_marked_request_is_one_whatever_its_mark_says() {
        assert_eq!(poll_version(&headers(&[("x-nightporter-poll", "17")])), Some(17));
        assert_eq!(poll_version(&headers(&[("x-nightporter-poll", "x")])), Some(0));
        assert_eq!(poll_version(&headers(&[])), None);
    }
}
