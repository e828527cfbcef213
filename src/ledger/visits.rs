//! Takes note of decided requests: denials and what is out of the ordinary one by one, grants
//! by their number.

mod bucket;
mod fields;

use std::sync::Arc;
use std::time::Duration;

use super::record::{Entry, Kind, Micros, Step, Word, micros};
use super::recorder::Recorder;
use super::rollup::{Counted, Rollup};
use crate::config::Grants;
use crate::domain::endpoint::VerdictKind;
use crate::domain::observation::{Observation, Observer};
use crate::domain::origin::address;
use crate::domain::reason::Reason;
use crate::domain::trace::TraceParent;
use bucket::Bucket;

/// The observer that hands decided requests to the recorder.
#[derive(Debug)]
pub struct Visits {
    recorder: Arc<Recorder>,
    rollup: Arc<Rollup>,
    grants: Grants,
    /// Bounds what strangers can have recorded; requests beyond it are counted.
    bucket: Bucket,
}

impl Visits {
    #[must_use]
    pub fn new(recorder: Arc<Recorder>, rollup: Arc<Rollup>, grants: Grants) -> Self {
        Self { recorder, rollup, grants, bucket: Bucket::default() }
    }

    /// Returns whether a request gets a record of its own.
    fn is_recorded(&self, observation: &Observation<'_>, at: Micros) -> bool {
        match observation.verdict {
            VerdictKind::Grant if self.grants == Grants::All => true,
            VerdictKind::Grant => !observation.is_ordinary() && self.bucket.admit(at),
            VerdictKind::Asleep if observation.is_poll() => false,
            VerdictKind::Asleep | VerdictKind::KeptAsleep | VerdictKind::Deny(_) => {
                self.bucket.admit(at)
            }
        }
    }
}

impl Observer for Visits {
    fn observe(&self, observation: &Observation<'_>) {
        let &Observation { verdict, app, rule, client, .. } = observation;
        if verdict == VerdictKind::Grant && self.grants == Grants::Off {
            return;
        }
        let at = Micros::from(observation.at);
        if self.is_recorded(observation, at) {
            self.recorder.record(visit(observation, at));
            return;
        }
        let counted = Counted { verdict, at, app, rule, client: Some(client) };
        self.rollup.count(match verdict {
            // A stranger decides which of these there are.
            VerdictKind::Deny(_) => Counted { rule: None, client: None, ..counted },
            _ => counted,
        });
    }
}

/// Describes a request by itself.
fn visit(observation: &Observation<'_>, at: Micros) -> Entry {
    let &Observation { verdict, app, rule, client, timings, request, .. } = observation;
    let known = client.known();
    let (word, reason) = match verdict {
        VerdictKind::Deny(reason) => ("deny", Some(reason)),
        granted => (granted.as_str(), None),
    };
    let outcome = reason.map_or(word, Reason::as_str);
    let is_ordinary = observation.is_ordinary();
    Entry {
        app: app.map(Arc::from),
        host: fields::host(request),
        path: fields::path(request),
        rule: rule.map(Arc::from),
        client: Some(client.kind().into()),
        client_id: known.map(|known| Arc::clone(&known.id)),
        client_name: known.map(|known| Arc::clone(&known.name)),
        address: address(request),
        verdict: Some(word.into()),
        reason: reason.map(|reason| reason.as_str().into()),
        trace: TraceParent::from_headers(request).map(|parent| parent.trace.to_string().into()),
        duration: Micros(micros(timings.total)),
        steps: if is_ordinary { Vec::new() } else { steps(observation, outcome) },
        ..Entry::new(Kind::Visit, at)
    }
}

/// Returns the steps that were reached; the last one has the outcome.
fn steps(observation: &Observation<'_>, outcome: &'static str) -> Vec<Step> {
    let reached = observation.steps();
    let last = reached.len().saturating_sub(1);
    let step = |(index, &(name, took)): (usize, &(&'static str, Duration))| Step {
        name: Word::Borrowed(name),
        duration: Micros(micros(took)),
        outcome: Word::Borrowed(if index == last { outcome } else { "ok" }),
    };
    reached.iter().enumerate().map(step).collect()
}

/// Reads what is kept of a request's headers, and checks that it is bounded and clean.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn fuzz_fields(headers: &http::HeaderMap) {
    for text in [fields::host(headers), fields::path(headers)].into_iter().flatten() {
        assert!(!text.is_empty() && text.len() <= 1024 && !text.chars().any(char::is_control));
    }
    if let Some(path) = fields::path(headers) {
        assert!(!path.contains(['?', '#']), "{path}");
    }
    if let Some(parent) = TraceParent::from_headers(headers) {
        let trace = parent.trace.to_string();
        assert!(trace.len() == 32 && trace.bytes().all(|byte| byte.is_ascii_hexdigit()));
    }
    let _ = address(headers);
}

#[cfg(test)]
mod tests;
