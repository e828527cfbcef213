//! One decided subrequest: the verdict, what it was decided from, and how long that took.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, Response};

use super::caches::AppLookup;
use super::client::Identified;
use super::verdict::{AsleepResponse, Verdict};
use super::{Gate, Now};
use crate::domain::client::Client;
use crate::domain::endpoint::{Endpoint, VerdictKind};
use crate::domain::identity::Identity;
use crate::domain::observation::{Observation, Timings};
use crate::domain::trace::SpanContext;
use crate::store::Freshness;
use crate::store::cache::Handle;
use crate::store::freshness::Moment;

/// A verdict and its basis. It is told to every
/// [`Observer`](crate::domain::observation::Observer).
#[derive(Debug)]
pub struct Decision {
    pub verdict: Verdict,
    basis: Basis,
    /// When the request was received.
    at: SystemTime,
    timings: Timings,
    /// How long the origin of a denied request has to wait, after too many wrong credentials.
    wait: Option<Duration>,
}

/// The cache entries that a verdict was reached from, and the rule that governed.
#[derive(Debug, Default)]
pub(super) struct Basis {
    pub(super) lookup: Option<AppLookup>,
    /// Index of the governing rule in the app's `paths`.
    pub(super) rule: Option<usize>,
    pub(super) identified: Option<Identified>,
    pub(super) identity: Option<Handle<Option<Identity>>>,
    /// When the attempt to decide began, and when its steps ended.
    pub(super) began: Option<Moment>,
    pub(super) rule_found: Option<Moment>,
    pub(super) client_known: Option<Moment>,
    pub(super) ended: Option<Moment>,
    /// How long it took to answer a granted request whose app was not awake.
    pub(super) waited: Duration,
    /// The ids of the request's span, if it has asked for a wake.
    pub(super) span: Option<SpanContext>,
}

impl Basis {
    /// Returns whether all entries are still usable: neither a notification nor time has
    /// outdated any of them.
    pub(super) fn is_usable(&self, freshness: &Freshness, now: Moment) -> bool {
        // Taken apart in full: an entry that is added must be checked here, too.
        let Self {
            lookup,
            rule: _,
            identified,
            identity,
            began: _,
            rule_found: _,
            client_known: _,
            ended: _,
            waited: _,
            span: _,
        } = self;
        lookup.as_ref().is_none_or(|lookup| lookup.is_usable(freshness, now))
            && identified.as_ref().is_none_or(|identified| identified.is_usable(freshness, now))
            && identity.as_ref().is_none_or(|identity| identity.is_usable(freshness, now))
    }
}

impl Decision {
    /// Adds how long the request's origin has to wait, which only a denial says.
    pub(super) fn with_wait(self, wait: Option<Duration>) -> Self {
        let wait = wait.filter(|_| matches!(self.verdict, Verdict::Deny(_)));
        Self { wait, ..self }
    }

    /// Returns how long the origin of a denied request has to wait, if it has to.
    pub(crate) fn wait(&self) -> Option<Duration> {
        self.wait
    }

    /// Describes the decision and the response to it, for observers.
    pub(crate) fn observed<'a, B>(
        &'a self,
        endpoint: Endpoint,
        request: &'a HeaderMap,
        response: &'a Response<B>,
    ) -> Observation<'a> {
        let Basis { lookup, rule, identified, .. } = &self.basis;
        let app = lookup.as_ref().and_then(AppLookup::app);
        let description = app.and_then(|app| app.description.as_ref().ok());
        let rule = rule.and_then(|rule| description?.paths.written.get(rule));
        Observation {
            endpoint,
            verdict: self.verdict.kind(),
            app: app.map(|app| &*app.row.name),
            rule: rule.map(|rule| &*rule.prefix),
            client: identified.as_ref().map_or(Client::Anonymous, Identified::client),
            at: self.at,
            timings: self.timings,
            span: self.basis.span,
            request,
            status: response.status(),
            response: response.headers(),
        }
    }
}

impl Verdict {
    pub(crate) fn kind(&self) -> VerdictKind {
        match self {
            Self::Grant(_) => VerdictKind::Grant,
            Self::Asleep(asleep) if asleep.form == AsleepResponse::KeptAsleep => {
                VerdictKind::KeptAsleep
            }
            Self::Asleep(_) => VerdictKind::Asleep,
            Self::Deny(reason) => VerdictKind::Deny(*reason),
        }
    }
}

impl Gate {
    /// Completes a decision that began at `began`.
    pub(super) fn decided(&self, verdict: Verdict, basis: Basis, began: Now) -> Decision {
        let ended = basis.ended.unwrap_or_else(|| self.freshness.now());
        let attempt = basis.began.unwrap_or(began.moment);
        let rule_found = basis.rule_found.unwrap_or(attempt);
        let client_known = basis.client_known.unwrap_or(rule_found);
        let timings = Timings {
            app: rule_found.since(attempt),
            client: client_known.since(rule_found),
            waited: basis.waited,
            total: ended.since(began.moment),
        };
        Decision { verdict, basis, at: began.wall, timings, wait: None }
    }
}
