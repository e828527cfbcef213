//! Requests that outlast one hold: sent to their own address again, a bounded number of
//! times.
//!
//! A proxy gives an auth request up after 30 s, and many an app takes longer to start.
//! 307 (RFC 9110 section 15.4.8) has the client send the same request again, body and
//! all, so what was not delivered is delivered later and once.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use foldhash::fast::RandomState;
use http::header::USER_AGENT;
use http::uri::Authority;
use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::time::Instant;

use super::asker::is_web_socket;
use super::forwarded::Forwarded;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Clients that are remembered; where there are more, further ones are told at once.
const MOST_REMEMBERED: usize = 65_536;

/// How often each request was sent on its way again.
///
/// It is counted here and not by the client: a cookie is lost on programs, and a query
/// would show in the app's address.
#[derive(Debug)]
pub(super) struct Redirects {
    most: u32,
    hold: Duration,
    hasher: RandomState,
    rounds: Mutex<HashMap<u64, Rounds>>,
}

/// The same request of the same client, as far as that can be told.
#[derive(Debug, Clone, Copy)]
struct Rounds {
    first: Instant,
    last: Instant,
}

impl Redirects {
    /// At most so many for one request, each after a hold of that time.
    pub(super) fn new(most: u32, hold: Duration) -> Self {
        Self { most, hold, hasher: RandomState::default(), rounds: Mutex::default() }
    }

    /// Where a request that was held in vain is sent; `None` where it is told instead.
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
        let Forwarded { host, uri, method, proto } = forwarded;
        let mut hasher = self.hasher.build_hasher();
        (host, uri, method, proto).hash(&mut hasher);
        for name in [FORWARDED_FOR, USER_AGENT] {
            headers.get(name).map(HeaderValue::as_bytes).hash(&mut hasher);
        }
        hasher.finish()
    }

    /// Requests that cannot be told apart, such as those of two tabs, are counted by
    /// their time and so do not shorten each other's.
    fn admit(&self, key: u64, now: Instant) -> bool {
        let forgotten_after = self.hold * 2 + Duration::from_secs(30);
        let is_old = |rounds: &Rounds| now.duration_since(rounds.last) > forgotten_after;
        let mut all = self.rounds.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= MOST_REMEMBERED && !all.contains_key(&key) {
            all.retain(|_, rounds| !is_old(rounds));
            if all.len() >= MOST_REMEMBERED {
                return false;
            }
        }
        let new = Rounds { first: now, last: now };
        let rounds = all.entry(key).or_insert(new);
        if is_old(rounds) {
            *rounds = new;
        }
        rounds.last = now;
        // The n-th comes n - 1 holds after the first.
        let is_admitted = match self.most.checked_sub(1) {
            None => false,
            Some(rest) => now.duration_since(rounds.first) <= self.hold * rest + self.hold / 2,
        };
        if !is_admitted {
            all.remove(&key);
        }
        is_admitted
    }
}

/// The request's own address as its client wrote it. A relative one would be read by
/// the proxy as relative to the gate.
fn location(forwarded: &Forwarded<'_>) -> Option<HeaderValue> {
    let Forwarded { host, uri, method: _, proto } = forwarded;
    let proto = proto.filter(|proto| matches!(*proto, "http" | "https"))?;
    // Nothing before an `@` is a host.
    let is_host = host.parse::<Authority>().is_ok() && !host.contains('@');
    if !is_host || !uri.starts_with('/') {
        return None;
    }
    HeaderValue::from_bytes(format!("{proto}://{host}{uri}").as_bytes()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOLD: Duration = Duration::from_secs(25);

    fn forwarded<'a>(proto: &'a str, host: &'a str, uri: &'a str) -> Forwarded<'a> {
        Forwarded { host, uri, method: Some("POST"), proto: Some(proto) }
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
        for most in 0..5 {
            let redirects = Redirects::new(most, HOLD);
            for _again in 0..2 {
                for _ in 0..most {
                    assert!(ask(&redirects, "/"));
                    // Another tab's.
                    assert!(ask(&redirects, "/"));
                    tokio::time::advance(HOLD + Duration::from_millis(10)).await;
                }
                assert!(!ask(&redirects, "/"), "{most}");
                assert_eq!(ask(&redirects, "/other"), most > 0, "another request is another");
                tokio::time::advance(HOLD * 4).await;
            }
        }
        let redirects = Redirects::new(2, HOLD);
        assert!(ask(&redirects, "/"));
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert!(ask(&redirects, "/") && ask(&redirects, "/"), "that was long ago");
    }
}
