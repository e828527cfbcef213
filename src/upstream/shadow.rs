//! Every question asked of shard_core as well, and the two verdicts compared: what a
//! switch-over would change is known before it is made.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use http::header::VIA;
use http::{HeaderMap, HeaderValue, StatusCode};
use metrics::Counter;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::client::{Client, forwardable};
use super::compare::{Outcome, Question, compare};
use crate::domain::endpoint::{Endpoint, Said};
use crate::telemetry::meters;
use crate::throttle::Throttle;

/// Questions under way; further ones are skipped.
const MAX_UNDER_WAY: usize = 64;

/// Management secrets that were denied here are asked about at most this often: each
/// makes the core ask its controller, and anybody may send them.
const SECRET_EVERY: Duration = Duration::from_secs(1);

/// Differences are logged at most this often.
const LOG_EVERY: Duration = Duration::from_secs(1);

/// Compares verdicts.
#[derive(Debug)]
pub(crate) struct Shadow {
    client: Arc<Client>,
    /// `gate.domain`.
    domain: Option<String>,
    /// Marks our questions (RFC 9110 section 7.6.3). An upstream that leads back here
    /// would otherwise be asked about its own questions for ever. Drawn at the start,
    /// so that no client can write it.
    via: HeaderValue,
    permits: Arc<Semaphore>,
    outcomes: [Outcomes; Endpoint::ALL.len()],
    secrets: Throttle,
    differences: Throttle,
    loops: Throttle,
}

struct Outcomes {
    same: Counter,
    expected: Counter,
    status: Counter,
    headers: Counter,
    skipped: Counter,
    failed: Counter,
}

/// Our answer.
#[derive(Debug)]
pub(super) struct Ours {
    pub(super) said: Said,
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
}

impl std::fmt::Debug for Outcomes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outcomes").finish_non_exhaustive()
    }
}

impl Outcomes {
    fn new(endpoint: Endpoint) -> Self {
        let counted = |outcome| meters::shadowed(endpoint, outcome);
        Self {
            same: counted("same"),
            expected: counted("expected"),
            status: counted("status"),
            headers: counted("headers"),
            skipped: counted("skipped"),
            failed: counted("failed"),
        }
    }
}

impl Shadow {
    pub(super) fn new(client: Arc<Client>, domain: Option<String>) -> Self {
        let drawn = RandomState::new().build_hasher().finish();
        let via = HeaderValue::from_str(&format!("1.1 nightporter-{drawn:016x}"));
        Self {
            client,
            domain,
            via: via.unwrap_or(HeaderValue::from_static("1.1 nightporter")),
            permits: Arc::new(Semaphore::new(MAX_UNDER_WAY)),
            outcomes: Endpoint::ALL.map(Outcomes::new),
            secrets: Throttle::default(),
            differences: Throttle::default(),
            loops: Throttle::default(),
        }
    }

    /// Asks the upstream what was asked here, behind our answer, and compares.
    pub(crate) fn follow(
        self: &Arc<Self>,
        endpoint: Endpoint,
        question: &HeaderMap,
        said: Said,
        status: StatusCode,
        answer: &HeaderMap,
    ) {
        let skipped = || self.outcomes[endpoint as usize].skipped.increment(1);
        if question.get_all(VIA).iter().any(|via| *via == self.via) {
            if self.loops.admit(Instant::now(), Duration::from_secs(60)).is_some() {
                tracing::warn!("upstream.url leads back to this process, not to shard_core");
            }
            return skipped();
        }
        if matches!((endpoint, said), (Endpoint::Management, Said::Deny(_)))
            && self.secrets.admit(Instant::now(), SECRET_EVERY).is_none()
        {
            return skipped();
        }
        let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() else {
            return skipped();
        };
        let headers = match said {
            Said::Grant => answer.clone(),
            Said::Asleep | Said::KeptAsleep | Said::Deny(_) => HeaderMap::new(),
        };
        let ours = Ours { said, status, headers };
        let (shadow, question) = (Arc::clone(self), forwardable(question));
        self.client.spawn(async move {
            shadow.ask(endpoint, question, &ours).await;
            drop(permit);
        });
    }

    async fn ask(&self, endpoint: Endpoint, question: HeaderMap, ours: &Ours) {
        let outcomes = &self.outcomes[endpoint as usize];
        let mut marked = question.clone();
        marked.append(VIA, self.via.clone());
        // The client says when nobody answers at all.
        let Ok(theirs) = self.client.ask(endpoint, marked).await else {
            return outcomes.failed.increment(1);
        };
        let question = Question { endpoint, headers: &question, domain: self.domain.as_deref() };
        let outcome = compare(question, ours, &theirs);
        let (counter, names) = match &outcome {
            Outcome::Same => return outcomes.same.increment(1),
            Outcome::Expected => (&outcomes.expected, &[][..]),
            Outcome::Status => (&outcomes.status, &[][..]),
            Outcome::Headers(names) => (&outcomes.headers, &names[..]),
        };
        counter.increment(1);
        if matches!(outcome, Outcome::Expected) {
            return;
        }
        if let Some(kept_back) = self.differences.admit(Instant::now(), LOG_EVERY) {
            let names: Vec<_> = names.iter().map(http::HeaderName::as_str).collect();
            tracing::info!(
                endpoint = endpoint.as_str(),
                ours = ours.said.as_str(),
                theirs = theirs.status.as_u16(),
                headers = names.join(", "),
                kept_back,
                "shard_core answers otherwise"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::stand_in::{StandIn, Told};
    use super::*;
    use crate::domain::reason::Reason;

    async fn shadow() -> (StandIn, Arc<Shadow>) {
        let core = StandIn::start().await;
        let client = Client::new(&core.url()).unwrap();
        (core, Arc::new(Shadow::new(Arc::new(client), None)))
    }

    fn follow(shadow: &Arc<Shadow>, question: &HeaderMap) {
        let answer = HeaderMap::new();
        shadow.follow(Endpoint::Auth, question, Said::Grant, StatusCode::OK, &answer);
    }

    #[tokio::test]
    async fn questions_under_way_are_bounded() {
        let (core, shadow) = shadow().await;
        core.tell(Told::Hang);
        for _ in 0..10 * MAX_UNDER_WAY {
            follow(&shadow, &HeaderMap::new());
        }
        core.was_asked(MAX_UNDER_WAY).await;
        tokio::time::pause();
        tokio::time::advance(super::super::client::TIMEOUT).await;
        while shadow.permits.available_permits() < MAX_UNDER_WAY {
            tokio::task::yield_now().await;
        }
        assert_eq!(core.asked().len(), MAX_UNDER_WAY);
    }

    #[tokio::test]
    async fn secrets_that_anybody_may_send_are_no_flood() {
        let (core, shadow) = shadow().await;
        let (none, denied) = (HeaderMap::new(), Said::Deny(Reason::ManagementSecret));
        for _ in 0..50 {
            let status = StatusCode::UNAUTHORIZED;
            shadow.follow(Endpoint::Management, &none, denied, status, &none);
        }
        core.was_asked(1).await;
        while shadow.permits.available_permits() < MAX_UNDER_WAY {
            tokio::task::yield_now().await;
        }
        shadow.follow(Endpoint::Management, &none, Said::Grant, StatusCode::OK, &none);
        core.was_asked(2).await;
        assert_eq!(core.asked().len(), 2);
    }

    #[tokio::test]
    async fn our_own_question_is_not_asked_again() {
        let (core, shadow) = shadow().await;
        let with = |via: HeaderValue| HeaderMap::from_iter([(VIA, via)]);
        follow(&shadow, &with(shadow.via.clone()));
        assert_eq!(shadow.permits.available_permits(), MAX_UNDER_WAY);
        follow(&shadow, &with(HeaderValue::from_static("1.1 nightporter-0123456789abcdef")));
        core.was_asked(1).await;
        assert!(core.asked()[0].contains(shadow.via.to_str().unwrap()));
    }
}
