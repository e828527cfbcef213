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
use crate::domain::client::Client;
use crate::domain::endpoint::VerdictKind;
use crate::domain::observation::{Observation, Observer, Timings};
use crate::domain::reason::Reason;
use bucket::Bucket;

/// A granted request that takes longer is recorded by itself, with its steps.
const SLOW: Duration = Duration::from_millis(100);

/// The mark of a waiting page's status polls, of which an open page sends three a minute.
const POLL: &str = "x-nightporter-poll";

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
        let is_slow = observation.timings.total > SLOW;
        match observation.verdict {
            VerdictKind::Grant if self.grants == Grants::All => true,
            VerdictKind::Grant => is_slow && self.bucket.admit(at),
            VerdictKind::Asleep if observation.request.contains_key(POLL) => false,
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
    let is_ordinary = verdict == VerdictKind::Grant && timings.total <= SLOW;
    Entry {
        app: app.map(Arc::from),
        host: fields::host(request),
        path: fields::path(request),
        rule: rule.map(Arc::from),
        client: Some(client.kind().into()),
        client_id: known.map(|known| Arc::clone(&known.id)),
        client_name: known.map(|known| Arc::clone(&known.name)),
        address: fields::address(request),
        verdict: Some(word.into()),
        reason: reason.map(|reason| reason.as_str().into()),
        trace: fields::trace(request),
        duration: Micros(micros(timings.total)),
        steps: if is_ordinary { Vec::new() } else { steps(timings, word, reason, client) },
        ..Entry::new(Kind::Visit, at)
    }
}

/// Returns the steps that were reached; the last one has the outcome.
fn steps(
    timings: Timings,
    verdict: &'static str,
    reason: Option<Reason>,
    client: Client<'_>,
) -> Vec<Step> {
    let Timings { app, client: to_identify, waited, total } = timings;
    let decide = total.saturating_sub(app + to_identify + waited);
    let of_app = matches!(
        reason,
        Some(
            Reason::MalformedRequest
                | Reason::AmbiguousPath
                | Reason::UnknownApp
                | Reason::NoMatchingRule
        )
    );
    let is_identified = !to_identify.is_zero() || client != Client::Anonymous;
    let reached: &[(&'static str, Duration)] = if of_app {
        &[("app", total)]
    } else if !waited.is_zero() {
        &[("app", app), ("client", to_identify), ("decide", decide), ("wake", waited)]
    } else if is_identified {
        &[("app", app), ("client", to_identify), ("decide", decide)]
    } else {
        &[("app", app), ("decide", decide)]
    };
    let outcome = reason.map_or(verdict, Reason::as_str);
    let last = reached.len() - 1;
    let step = |(index, &(name, took)): (usize, &(&'static str, Duration))| Step {
        name: Word::Borrowed(name),
        duration: Micros(micros(took)),
        outcome: Word::Borrowed(if index == last { outcome } else { "ok" }),
    };
    reached.iter().enumerate().map(step).collect()
}

#[cfg(test)]
mod tests;
