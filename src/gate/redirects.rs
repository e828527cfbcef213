//! Redirects requests that have been held for too long to their own address, a bounded
//! number of times.
//!
//! A proxy gives up on an auth request after 30 s, and many apps take longer to start.
//! 307 (RFC 9110 section 15.4.8) makes the client send the same request again with its
//! body, so a request that was not delivered is delivered later, and only once.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use foldhash::fast::RandomState;
use http::header::USER_AGENT;
use http::uri::Authority;
use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::time::Instant;

use super::forwarded::Forwarded;
use super::request_kind::is_web_socket;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Largest number of requests that are tracked. Further ones are not redirected.
const MAX_TRACKED: usize = 65_536;

/// Limits how often each request is redirected.
///
/// The count is kept here and not by the client: programs ignore cookies, and a query
/// parameter would be visible in the app's address.
#[derive(Debug)]
pub(super) struct Redirects {
    max: u32,
    hold: Duration,
    hasher: RandomState,
    histories: Mutex<HashMap<u64, History>>,
}

/// When the same request of the same client was redirected, as far as requests can be
/// told apart.
#[derive(Debug, Clone, Copy)]
struct History {
    first: Instant,
    last: Instant,
}

impl Redirects {
    /// Allows at most `max` redirects for one request, each after a hold of the given time.
    pub(super) fn new(max: u32, hold: Duration) -> Self {
        Self { max, hold, hasher: RandomState::default(), histories: Mutex::default() }
    }

    /// Returns the address to redirect a request to, or `None` if it gets an error
    /// instead.
    pub(super) fn next(
        &self,
        headers: &HeaderMap,
        forwarded: &Forwarded<'_>,
        now: Instant,
    ) -> Option<HeaderValue> {
        if is_web_socket(headers) {
            return None;
        }
        let location = location(forwarded)?;
        self.admit(self.key(headers, forwarded), now).then_some(location)
    }

    fn key(&self, headers: &HeaderMap, forwarded: &Forwarded<'_>) -> u64 {
        let Forwarded { host, uri, method, proto, .. } = forwarded;
        let mut hasher = self.hasher.build_hasher();
        (host, uri, method, proto).hash(&mut hasher);
        for name in [FORWARDED_FOR, USER_AGENT] {
            headers.get(name).map(HeaderValue::as_bytes).hash(&mut hasher);
        }
        hasher.finish()
    }

    /// Returns whether a request may be redirected. Requests that cannot be told apart, such
    /// as those of two tabs, are limited by the time since the first one, so they do not use
    /// up each other's redirects.
    fn admit(&self, key: u64, now: Instant) -> bool {
        let expires_after = self.hold * 2 + Duration::from_secs(30);
        let is_old = |history: &History| now.duration_since(history.last) > expires_after;
        let mut all = self.histories.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= MAX_TRACKED && !all.contains_key(&key) {
            all.retain(|_, history| !is_old(history));
            if all.len() >= MAX_TRACKED {
                return false;
            }
        }
        let new = History { first: now, last: now };
        let history = all.entry(key).or_insert(new);
        if is_old(history) {
            *history = new;
        }
        history.last = now;
        // The n-th redirect comes n - 1 holds after the first.
        let is_admitted = match self.max.checked_sub(1) {
            None => false,
            Some(rest) => now.duration_since(history.first) <= self.hold * rest + self.hold / 2,
        };
        if !is_admitted {
            all.remove(&key);
        }
        is_admitted
    }
}

/// Returns the request's own address as the client wrote it. The proxy would resolve a
/// relative address against the gate's own.
fn location(forwarded: &Forwarded<'_>) -> Option<HeaderValue> {
    let Forwarded { host, uri, proto, .. } = forwarded;
    let proto = proto.filter(|proto| matches!(*proto, "http" | "https"))?;
    // The part before an `@` is not a host.
    let is_host = host.parse::<Authority>().is_ok() && !host.contains('@');
    if !is_host || !uri.starts_with('/') {
        return None;
    }
    HeaderValue::from_bytes(format!("{proto}://{host}{uri}").as_bytes()).ok()
}

#[cfg(test)]
mod tests {
    use super::super::forwarded::PresentHeaders;
    use super::*;

    const HOLD: Duration = Duration::from_secs(25);

    fn forwarded<'a>(proto: &'a str, host: &'a str, uri: &'a str) -> Forwarded<'a> {
        Forwarded {
            host,
            uri,
            method: Some("POST"),
            proto: Some(proto),
            present: PresentHeaders::default(),
        }
    }

    #[test]
    fn a_request_is_sent_to_the_very_address_it_came_for() {
        for (proto, host, uri, expected) in [
            (
                "https",
                "notes.box.example",
                "/a?b=c%20d",
                Some("https://notes.box.example/a?b=c%20d"),
            ),
            ("http", "Notes.box:8080", "//x/../y?", Some("http://Notes.box:8080//x/../y?")),
            ("wss", "notes.box", "/", None),
            ("javascript", "notes.box", "/", None),
            ("https", "notes.box@evil.example", "/", None),
            ("https", "notes.box/x", "/", None),
            ("https", "notes.box", "@evil.example/", None),
            ("https", "notes.box", "", None),
            ("https", "notes.box", "/a\nb", None),
        ] {
            let location = location(&forwarded(proto, host, uri));
            let text = location.as_ref().and_then(|value| value.to_str().ok());
            assert_eq!(text, expected, "{proto} {host} {uri}");
        }
        let socket = HeaderName::from_static("sec-websocket-key");
        let headers: HeaderMap = [(socket, HeaderValue::from_static("x"))].into_iter().collect();
        let redirects = Redirects::new(8, HOLD);
        let sent = redirects.next(&headers, &forwarded("https", "a.b", "/"), Instant::now());
        assert_eq!(sent, None, "a WebSocket follows no redirect");
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_is_sent_round_for_ever() {
        let ask = |redirects: &Redirects, uri| {
            let headers = HeaderMap::new();
            let sent = redirects.next(&headers, &forwarded("https", "a.b", uri), Instant::now());
            sent.is_some()
        };
        for max in 0..5 {
            let redirects = Redirects::new(max, HOLD);
            for _again in 0..2 {
                for _ in 0..max {
                    assert!(ask(&redirects, "/"));
                    // The same request of another tab.
                    assert!(ask(&redirects, "/"));
                    tokio::time::advance(HOLD + Duration::from_millis(10)).await;
                }
                assert!(!ask(&redirects, "/"), "{max}");
                assert_eq!(
                    ask(&redirects, "/other"),
                    max > 0,
                    "another request is counted separately"
                );
                tokio::time::advance(HOLD * 4).await;
            }
        }
        let redirects = Redirects::new(2, HOLD);
        assert!(ask(&redirects, "/"));
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert!(ask(&redirects, "/") && ask(&redirects, "/"), "old redirects do not count");
    }
}
