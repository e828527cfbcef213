//! Asks shard_core about management secrets that differ from the stored one.
//!
//! The core then fetches the key again from its controller, stores it, and compares.
//! Anyone who knows the path can send secrets, so requests are rate-limited: one in
//! flight, one begun per second, and none within a minute for a secret that was refused.
//! An attacker can cause one fetch per second, whereas the core alone would make one for
//! each request.
//!
//! An attacker who uses up the limit does not lock out a controller with a new key
//! either, because any request makes the core fetch the key. Once it is stored, the
//! controller's next request matches it and needs no fallback.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use http::header::AUTHORIZATION;
use http::{HeaderMap, StatusCode};
use metrics::Counter;
use tokio::time::Instant;

use super::client::{Answer, Client, forwardable};
use crate::domain::endpoint::Endpoint;
use crate::telemetry::meters;

/// Shortest interval of requests.
const INTERVAL: Duration = Duration::from_secs(1);

/// How long a refused secret is not asked about again.
const REFUSED_FOR: Duration = Duration::from_secs(60);

/// Maximum number of refused secrets: as many as can be refused in that time.
const MAX_REFUSED: usize = 64;

/// Lengths in bytes of secrets that are asked about: the core refuses shorter ones
/// without a check, and its own have at most 64.
const SECRET_LENGTHS: std::ops::RangeInclusive<usize> = 8..=1024;

/// Asks the upstream about secrets.
#[derive(Debug)]
pub(super) struct Fallback {
    client: Arc<Client>,
    limit: Mutex<RateLimit>,
    outcomes: Outcomes,
}

struct Outcomes {
    granted: Counter,
    refused: Counter,
    failed: Counter,
    throttled: Counter,
    remembered: Counter,
}

impl std::fmt::Debug for Outcomes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outcomes").finish_non_exhaustive()
    }
}

/// The hash of a secret, which is kept instead of the secret itself.
type Digest = [u8; 32];

/// The rate limit of requests.
#[derive(Debug, Default)]
struct RateLimit {
    is_in_flight: bool,
    begun: Option<Instant>,
    /// Oldest first.
    refused: VecDeque<(Instant, Digest)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Admission {
    Ask,
    /// The secret was refused recently.
    Remembered,
    Throttled,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Decision {
    Granted,
    Refused,
    Failed,
}

impl RateLimit {
    fn admit(&mut self, digest: &Digest, now: Instant) -> Admission {
        while self.refused.front().is_some_and(|(at, _)| now.duration_since(*at) >= REFUSED_FOR) {
            self.refused.pop_front();
        }
        if self.refused.iter().any(|(_, refused)| refused == digest) {
            return Admission::Remembered;
        }
        if self.is_in_flight || self.begun.is_some_and(|begun| now.duration_since(begun) < INTERVAL)
        {
            return Admission::Throttled;
        }
        self.is_in_flight = true;
        self.begun = Some(now);
        Admission::Ask
    }

    fn remember(&mut self, digest: Digest, now: Instant) {
        if self.refused.len() == MAX_REFUSED {
            self.refused.pop_front();
        }
        self.refused.push_back((now, digest));
    }
}

impl Fallback {
    pub(super) fn new(client: Arc<Client>) -> Self {
        let outcomes = Outcomes {
            granted: meters::management_fallback("granted"),
            refused: meters::management_fallback("refused"),
            failed: meters::management_fallback("failed"),
            throttled: meters::management_fallback("throttled"),
            remembered: meters::management_fallback("remembered"),
        };
        Self { client, limit: Mutex::default(), outcomes }
    }

    /// Returns whether shard_core accepts the secret of this one request; `false` unless
    /// it clearly does.
    pub(super) async fn accepts_secret(self: &Arc<Self>, headers: &HeaderMap) -> bool {
        let Some(digest) = digest_of_secret(headers) else { return false };
        let admission = self.limit().admit(&digest, Instant::now());
        match admission {
            Admission::Ask => {}
            Admission::Remembered => {
                self.outcomes.remembered.increment(1);
                return false;
            }
            Admission::Throttled => {
                self.outcomes.throttled.increment(1);
                return false;
            }
        }
        let (fallback, headers) = (Arc::clone(self), forwardable(headers));
        // The refusal must be remembered even if the caller goes away.
        let request = self.client.spawn(async move { fallback.ask(headers, digest).await });
        matches!(request.await, Ok(Decision::Granted))
    }

    async fn ask(&self, headers: HeaderMap, digest: Digest) -> Decision {
        let _in_flight = InFlight(self);
        let answer = self.client.ask(Endpoint::Management, headers).await;
        let decision = answer.as_ref().map_or(Decision::Failed, decision_of);
        let Outcomes { granted, refused, failed, .. } = &self.outcomes;
        match decision {
            Decision::Granted => {
                tracing::info!("shard_core accepts a management secret other than the stored one");
                granted.increment(1);
            }
            Decision::Refused => {
                self.limit().remember(digest, Instant::now());
                refused.increment(1);
            }
            Decision::Failed => failed.increment(1),
        }
        decision
    }

    fn limit(&self) -> MutexGuard<'_, RateLimit> {
        self.limit.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Marks the request in flight; ends it when dropped, including by a panic.
struct InFlight<'a>(&'a Fallback);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.limit().is_in_flight = false;
    }
}

/// Interprets an answer. The core grants with 200 and `null`; a web server that answers
/// every path with 200 and a page, because the URL is wrong, must not grant.
fn decision_of(answer: &Answer) -> Decision {
    match answer.status {
        StatusCode::OK if answer.body.trim_ascii() == b"null" => Decision::Granted,
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Decision::Refused,
        _ => Decision::Failed,
    }
}

/// Returns the hash of the secret; `None` for two secrets, since it is unknown which one
/// the core would check.
fn digest_of_secret(headers: &HeaderMap) -> Option<Digest> {
    let mut secrets = headers.get_all(AUTHORIZATION).iter();
    let (secret, None) = (secrets.next()?, secrets.next()) else { return None };
    if !SECRET_LENGTHS.contains(&secret.len()) {
        return None;
    }
    digest(&SHA256, secret.as_bytes()).as_ref().try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::super::client::TIMEOUT;
    use super::super::test_server::{Reply, TestServer};
    use super::*;
    use http::HeaderValue;

    fn with(secret: &str) -> HeaderMap {
        HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_str(secret).unwrap())])
    }

    async fn fallback() -> (TestServer, Arc<Fallback>) {
        let core = TestServer::start().await;
        let client = Client::new(&core.url()).unwrap();
        (core, Arc::new(Fallback::new(Arc::new(client))))
    }

    #[test]
    fn questions_are_rationed() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut limit = RateLimit::default();
        let (one, other) = ([1; 32], [2; 32]);
        assert_eq!(limit.admit(&one, at(0)), Admission::Ask);
        assert_eq!(limit.admit(&other, at(5000)), Admission::Throttled, "one is in flight");
        limit.is_in_flight = false;
        limit.remember(one, at(5000));
        assert_eq!(limit.admit(&other, at(5000)), Admission::Ask);
        limit.is_in_flight = false;
        assert_eq!(
            limit.admit(&other, at(5999)),
            Admission::Throttled,
            "one began within a second"
        );
        assert_eq!(limit.admit(&one, at(64_999)), Admission::Remembered);
        assert_eq!(limit.admit(&one, at(65_000)), Admission::Ask, "a minute has passed");
    }

    #[test]
    fn what_is_remembered_is_bounded_and_the_latest() {
        let now = Instant::now();
        let mut limit = RateLimit::default();
        for refused in 0..=255 {
            limit.remember([refused; 32], now);
        }
        assert_eq!(limit.refused.len(), MAX_REFUSED);
        assert_eq!(limit.admit(&[255; 32], now), Admission::Remembered);
        assert_eq!(limit.admit(&[0; 32], now), Admission::Ask);
    }

    #[test]
    fn only_a_clear_word_is_one() {
        let answer = |status: u16, body: &'static str| Answer {
            status: StatusCode::from_u16(status).unwrap(),
            body: body.into(),
            ..Answer::default()
        };
        assert_eq!(decision_of(&answer(200, "null")), Decision::Granted);
        for status in [401, 403] {
            assert_eq!(decision_of(&answer(status, "null")), Decision::Refused);
        }
        for (status, body) in [
            (200, ""),
            (200, "<!doctype html>"),
            (200, "{\"detail\":\"Unauthorized\"}"),
            (201, "null"),
            (204, ""),
            (206, "null"),
            (302, "null"),
            (404, "null"),
            (500, "null"),
        ] {
            assert_eq!(decision_of(&answer(status, body)), Decision::Failed, "{status} {body}");
        }
    }

    #[test]
    fn only_one_secret_of_a_likely_length_is_asked_about() {
        assert!(digest_of_secret(&with("12345678")).is_some());
        assert_ne!(digest_of_secret(&with("12345678")), digest_of_secret(&with("12345679")));
        assert!(digest_of_secret(&with("1234567")).is_none());
        assert!(digest_of_secret(&with(&"x".repeat(1025))).is_none());
        assert!(digest_of_secret(&HeaderMap::new()).is_none());
        let mut two = with("12345678");
        two.append(AUTHORIZATION, HeaderValue::from_static("12345678"));
        assert!(digest_of_secret(&two).is_none());
    }

    #[tokio::test]
    async fn a_caller_that_goes_away_leaves_its_refusal() {
        let (core, fallback) = fallback().await;
        core.reply_with(Reply::status(401));
        let headers = with("wrong-secret");
        {
            let mut request = std::pin::pin!(fallback.accepts_secret(&headers));
            assert!(futures_util::poll!(request.as_mut()).is_pending());
        }
        core.wait_for_requests(1).await;
        while fallback.limit().is_in_flight {
            tokio::task::yield_now().await;
        }
        assert_eq!(fallback.limit().refused.len(), 1);
    }

    #[tokio::test]
    async fn a_question_that_hangs_is_a_denial_and_remembers_nothing() {
        let (core, fallback) = fallback().await;
        core.reply_with(Reply::Hang);
        let headers = with("new-secret-of-the-controller");
        let hanging = tokio::spawn({
            let (fallback, headers) = (Arc::clone(&fallback), headers.clone());
            async move { fallback.accepts_secret(&headers).await }
        });
        core.wait_for_requests(1).await;
        tokio::time::pause();
        tokio::time::advance(INTERVAL * 2).await;
        assert!(!fallback.accepts_secret(&headers).await, "another is in flight");
        tokio::time::advance(TIMEOUT).await;
        assert!(!hanging.await.unwrap());
        tokio::time::resume();
        core.reply_with(Reply::status(200));
        assert!(fallback.accepts_secret(&headers).await, "the next one is asked at once");
        assert_eq!(core.requests().len(), 2);
    }
}
