//! Sends every request to shard_core as well, and compares the two verdicts: this shows
//! what a switch-over would change before it is made.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use http::header::VIA;
use http::{HeaderMap, HeaderValue};
use metrics::Counter;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::client::{Client, forwardable};
use super::compare::{ComparedRequest, OurAnswer, Outcome, compare};
use crate::domain::endpoint::{Endpoint, VerdictKind};
use crate::domain::observation::{Observation, Observer};
use crate::telemetry::meters;
use crate::throttle::Throttle;

/// Maximum number of requests in flight; further ones are skipped.
const MAX_IN_FLIGHT: usize = 64;

/// Shortest interval of requests for management secrets that were denied here: each makes
/// the core ask its controller, and anyone may send them.
const SECRET_INTERVAL: Duration = Duration::from_secs(1);

/// Shortest interval of log lines about differences.
const LOG_INTERVAL: Duration = Duration::from_secs(1);

/// Compares verdicts.
#[derive(Debug)]
pub(crate) struct Shadow {
    client: Arc<Client>,
    /// `gate.domain`.
    domain: Option<String>,
    /// Marks our requests (RFC 9110 section 7.6.3). Without it, an upstream that leads
    /// back here would cause an endless loop. Random for each process, so that no client
    /// can forge it.
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

impl std::fmt::Debug for Outcomes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outcomes").finish_non_exhaustive()
    }
}

impl Outcomes {
    fn new(endpoint: Endpoint) -> Self {
        let counter = |outcome| meters::shadowed(endpoint, outcome);
        Self {
            same: counter("same"),
            expected: counter("expected"),
            status: counter("status"),
            headers: counter("headers"),
            skipped: counter("skipped"),
            failed: counter("failed"),
        }
    }
}

impl Observer for Arc<Shadow> {
    fn observe(&self, observation: &Observation<'_>) {
        self.compare_later(observation);
    }
}

impl Shadow {
    pub(super) fn new(client: Arc<Client>, domain: Option<String>) -> Self {
        let random = RandomState::new().build_hasher().finish();
        let via = HeaderValue::from_str(&format!("1.1 nightporter-{random:016x}"));
        Self {
            client,
            domain,
            via: via.unwrap_or(HeaderValue::from_static("1.1 nightporter")),
            permits: Arc::new(Semaphore::new(MAX_IN_FLIGHT)),
            outcomes: Endpoint::ALL.map(Outcomes::new),
            secrets: Throttle::default(),
            differences: Throttle::default(),
            loops: Throttle::default(),
        }
    }

    /// Sends a request to the upstream after it was answered here, and compares the
    /// answers.
    fn compare_later(self: &Arc<Self>, observation: &Observation<'_>) {
        let &Observation { endpoint, verdict, request, status, response: answer, .. } = observation;
        let skipped = || self.outcomes[endpoint as usize].skipped.increment(1);
        if request.get_all(VIA).iter().any(|via| *via == self.via) {
            if self.loops.admit(Instant::now(), Duration::from_secs(60)).is_some() {
                tracing::warn!("upstream.url leads back to this process, not to shard_core");
            }
            return skipped();
        }
        if matches!((endpoint, verdict), (Endpoint::Management, VerdictKind::Deny(_)))
            && self.secrets.admit(Instant::now(), SECRET_INTERVAL).is_none()
        {
            return skipped();
        }
        let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() else {
            return skipped();
        };
        let headers = match verdict {
            VerdictKind::Grant => answer.clone(),
            VerdictKind::Asleep | VerdictKind::KeptAsleep | VerdictKind::Deny(_) => {
                HeaderMap::new()
            }
        };
        let ours = OurAnswer { verdict, status, headers };
        let (shadow, request) = (Arc::clone(self), forwardable(request));
        self.client.spawn(async move {
            shadow.send(endpoint, request, &ours).await;
            drop(permit);
        });
    }

    async fn send(&self, endpoint: Endpoint, request: HeaderMap, ours: &OurAnswer) {
        let outcomes = &self.outcomes[endpoint as usize];
        let mut marked = request.clone();
        marked.append(VIA, self.via.clone());
        // The client logs that the upstream does not answer.
        let Ok(theirs) = self.client.ask(endpoint, marked).await else {
            return outcomes.failed.increment(1);
        };
        let request =
            ComparedRequest { endpoint, headers: &request, domain: self.domain.as_deref() };
        let outcome = compare(request, ours, &theirs);
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
        if let Some(suppressed) = self.differences.admit(Instant::now(), LOG_INTERVAL) {
            let names: Vec<_> = names.iter().map(http::HeaderName::as_str).collect();
            tracing::info!(
                endpoint = endpoint.as_str(),
                ours = ours.verdict.as_str(),
                theirs = theirs.status.as_u16(),
                headers = names.join(", "),
                suppressed,
                "shard_core's verdict differs"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_server::{Reply, TestServer};
    use http::StatusCode;

    use super::*;
    use crate::domain;
    use crate::domain::observation::Timings;
    use crate::domain::reason::Reason;

    async fn shadow() -> (TestServer, Arc<Shadow>) {
        let core = TestServer::start().await;
        let client = Client::new(&core.url()).unwrap();
        (core, Arc::new(Shadow::new(Arc::new(client), None)))
    }

    fn observe(
        shadow: &Arc<Shadow>,
        endpoint: Endpoint,
        verdict: VerdictKind,
        request: &HeaderMap,
    ) {
        shadow.observe(&Observation {
            endpoint,
            verdict,
            app: None,
            rule: None,
            client: domain::client::Client::Anonymous,
            at: std::time::UNIX_EPOCH,
            timings: Timings::default(),
            span: None,
            request,
            status: StatusCode::OK,
            response: &HeaderMap::new(),
        });
    }

    fn follow(shadow: &Arc<Shadow>, request: &HeaderMap) {
        observe(shadow, Endpoint::Auth, VerdictKind::Grant, request);
    }

    #[tokio::test]
    async fn questions_under_way_are_bounded() {
        let (core, shadow) = shadow().await;
        core.reply_with(Reply::Hang);
        for _ in 0..10 * MAX_IN_FLIGHT {
            follow(&shadow, &HeaderMap::new());
        }
        core.wait_for_requests(MAX_IN_FLIGHT).await;
        tokio::time::pause();
        tokio::time::advance(super::super::client::TIMEOUT).await;
        while shadow.permits.available_permits() < MAX_IN_FLIGHT {
            tokio::task::yield_now().await;
        }
        assert_eq!(core.requests().len(), MAX_IN_FLIGHT);
    }

    #[tokio::test]
    async fn secrets_that_anybody_may_send_are_no_flood() {
        let (core, shadow) = shadow().await;
        let (none, denied) = (HeaderMap::new(), VerdictKind::Deny(Reason::ManagementSecret));
        for _ in 0..50 {
            observe(&shadow, Endpoint::Management, denied, &none);
        }
        core.wait_for_requests(1).await;
        while shadow.permits.available_permits() < MAX_IN_FLIGHT {
            tokio::task::yield_now().await;
        }
        observe(&shadow, Endpoint::Management, VerdictKind::Grant, &none);
        core.wait_for_requests(2).await;
        assert_eq!(core.requests().len(), 2);
    }

    #[tokio::test]
    async fn our_own_question_is_not_asked_again() {
        let (core, shadow) = shadow().await;
        let with = |via: HeaderValue| HeaderMap::from_iter([(VIA, via)]);
        follow(&shadow, &with(shadow.via.clone()));
        assert_eq!(shadow.permits.available_permits(), MAX_IN_FLIGHT);
        follow(&shadow, &with(HeaderValue::from_static("1.1 nightporter-0123456789abcdef")));
        core.wait_for_requests(1).await;
        assert!(core.requests()[0].contains(shadow.via.to_str().unwrap()));
    }
}
