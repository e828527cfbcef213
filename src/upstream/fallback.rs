//! Management secrets that are not the stored one, asked of shard_core.
//!
//! The core then fetches the key anew from its controller, stores it, and compares.
//! Whoever knows the path can send secrets, so questions are rationed: one under way,
//! one begun in a second, and none in a minute for a secret that was refused. What an
//! attacker gains is one fetch a second, where the core alone would make one for each
//! request.
//!
//! Nor does taking every turn lock a controller out that has a new key: it is not the
//! controller's own question that makes the core fetch the key, but anybody's. Once it
//! is stored, the controller's next request matches and asks nothing.

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

/// Shortest time from one question to the next.
const EVERY: Duration = Duration::from_secs(1);

/// For so long a refused secret is not asked about again.
const REFUSED_FOR: Duration = Duration::from_secs(60);

/// As many as can be refused in that time.
const MAX_REFUSED: usize = 64;

/// Bytes a secret may have to be asked about: the core refuses shorter ones unseen,
/// and its own have 64 at most.
const LENGTHS: std::ops::RangeInclusive<usize> = 8..=1024;

/// Asks about secrets.
#[derive(Debug)]
pub(super) struct Fallback {
    client: Arc<Client>,
    ration: Mutex<Ration>,
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

/// Never the secret itself.
type Digest = [u8; 32];

/// Who may ask when.
#[derive(Debug, Default)]
struct Ration {
    is_under_way: bool,
    begun: Option<Instant>,
    /// Oldest first.
    refused: VecDeque<(Instant, Digest)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    Ask,
    /// Refused lately.
    Remembered,
    Throttled,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Word {
    Granted,
    Refused,
    Failed,
}

impl Ration {
    fn turn(&mut self, digest: &Digest, now: Instant) -> Turn {
        while self.refused.front().is_some_and(|(at, _)| now.duration_since(*at) >= REFUSED_FOR) {
            self.refused.pop_front();
        }
        if self.refused.iter().any(|(_, refused)| refused == digest) {
            return Turn::Remembered;
        }
        if self.is_under_way || self.begun.is_some_and(|begun| now.duration_since(begun) < EVERY) {
            return Turn::Throttled;
        }
        self.is_under_way = true;
        self.begun = Some(now);
        Turn::Ask
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
        Self { client, ration: Mutex::default(), outcomes }
    }

    /// Whether shard_core accepts the secret of this one request. Whatever is no
    /// clear word of its own is `false`.
    pub(super) async fn vouches_for(self: &Arc<Self>, headers: &HeaderMap) -> bool {
        let Some(digest) = digest_of_secret(headers) else { return false };
        let turn = self.ration().turn(&digest, Instant::now());
        match turn {
            Turn::Ask => {}
            Turn::Remembered => {
                self.outcomes.remembered.increment(1);
                return false;
            }
            Turn::Throttled => {
                self.outcomes.throttled.increment(1);
                return false;
            }
        }
        let (fallback, headers) = (Arc::clone(self), forwardable(headers));
        // A caller that goes away must not make the refusal forgotten.
        let asking = self.client.spawn(async move { fallback.ask(headers, digest).await });
        matches!(asking.await, Ok(Word::Granted))
    }

    async fn ask(&self, headers: HeaderMap, digest: Digest) -> Word {
        let _under_way = UnderWay(self);
        let answer = self.client.ask(Endpoint::Management, headers).await;
        let word = answer.as_ref().map_or(Word::Failed, word);
        let Outcomes { granted, refused, failed, .. } = &self.outcomes;
        match word {
            Word::Granted => {
                tracing::info!("shard_core accepts a management secret that is not the stored one");
                granted.increment(1);
            }
            Word::Refused => {
                self.ration().remember(digest, Instant::now());
                refused.increment(1);
            }
            Word::Failed => failed.increment(1),
        }
        word
    }

    fn ration(&self) -> MutexGuard<'_, Ration> {
        self.ration.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The question that is under way; ended when dropped, by a panic too.
struct UnderWay<'a>(&'a Fallback);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.ration().is_under_way = false;
    }
}

/// The core grants with 200 and `null`; a web server that answers every path with 200
/// and a page, because the URL is wrong, grants nothing.
fn word(answer: &Answer) -> Word {
    match answer.status {
        StatusCode::OK if answer.body.trim_ascii() == b"null" => Word::Granted,
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Word::Refused,
        _ => Word::Failed,
    }
}

/// Of two secrets nobody knows which one the core would look at.
fn digest_of_secret(headers: &HeaderMap) -> Option<Digest> {
    let mut offered = headers.get_all(AUTHORIZATION).iter();
    let (secret, None) = (offered.next()?, offered.next()) else { return None };
    if !LENGTHS.contains(&secret.len()) {
        return None;
    }
    digest(&SHA256, secret.as_bytes()).as_ref().try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::super::client::TIMEOUT;
    use super::super::stand_in::{StandIn, Told};
    use super::*;
    use http::HeaderValue;

    fn with(secret: &str) -> HeaderMap {
        HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_str(secret).unwrap())])
    }

    async fn fallback() -> (StandIn, Arc<Fallback>) {
        let core = StandIn::start().await;
        let client = Client::new(&core.url()).unwrap();
        (core, Arc::new(Fallback::new(Arc::new(client))))
    }

    #[test]
    fn questions_are_rationed() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut ration = Ration::default();
        let (one, other) = ([1; 32], [2; 32]);
        assert_eq!(ration.turn(&one, at(0)), Turn::Ask);
        assert_eq!(ration.turn(&other, at(5000)), Turn::Throttled, "one is under way");
        ration.is_under_way = false;
        ration.remember(one, at(5000));
        assert_eq!(ration.turn(&other, at(5000)), Turn::Ask);
        ration.is_under_way = false;
        assert_eq!(ration.turn(&other, at(5999)), Turn::Throttled, "one began within a second");
        assert_eq!(ration.turn(&one, at(64_999)), Turn::Remembered);
        assert_eq!(ration.turn(&one, at(65_000)), Turn::Ask, "a minute has passed");
    }

    #[test]
    fn what_is_remembered_is_bounded_and_the_latest() {
        let now = Instant::now();
        let mut ration = Ration::default();
        for refused in 0..=255 {
            ration.remember([refused; 32], now);
        }
        assert_eq!(ration.refused.len(), MAX_REFUSED);
        assert_eq!(ration.turn(&[255; 32], now), Turn::Remembered);
        assert_eq!(ration.turn(&[0; 32], now), Turn::Ask);
    }

    #[test]
    fn only_a_clear_word_is_one() {
        let answer = |status: u16, body: &'static str| Answer {
            status: StatusCode::from_u16(status).unwrap(),
            body: body.into(),
            ..Answer::default()
        };
        assert_eq!(word(&answer(200, "null")), Word::Granted);
        for status in [401, 403] {
            assert_eq!(word(&answer(status, "null")), Word::Refused);
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
            assert_eq!(word(&answer(status, body)), Word::Failed, "{status} {body}");
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
        core.tell(Told::status(401));
        let headers = with("wrong-secret");
        {
            let mut asking = std::pin::pin!(fallback.vouches_for(&headers));
            assert!(futures_util::poll!(asking.as_mut()).is_pending());
        }
        core.was_asked(1).await;
        while fallback.ration().is_under_way {
            tokio::task::yield_now().await;
        }
        assert_eq!(fallback.ration().refused.len(), 1);
    }

    #[tokio::test]
    async fn a_question_that_hangs_is_a_denial_and_remembers_nothing() {
        let (core, fallback) = fallback().await;
        core.tell(Told::Hang);
        let headers = with("new-secret-of-the-controller");
        let hanging = tokio::spawn({
            let (fallback, headers) = (Arc::clone(&fallback), headers.clone());
            async move { fallback.vouches_for(&headers).await }
        });
        core.was_asked(1).await;
        tokio::time::pause();
        tokio::time::advance(EVERY * 2).await;
        assert!(!fallback.vouches_for(&headers).await, "another is under way");
        tokio::time::advance(TIMEOUT).await;
        assert!(!hanging.await.unwrap());
        tokio::time::resume();
        core.tell(Told::status(200));
        assert!(fallback.vouches_for(&headers).await, "the next one is asked at once");
        assert_eq!(core.asked().len(), 2);
    }
}
