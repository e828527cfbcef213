//! Makes spans of decided requests, of wakes and sleeps, and of jobs.
//!
//! A request that names its trace is traced if the trace's `sampled` flag says so. Of the
//! others a share is, and every one that asked for a wake. Wakes, sleeps and jobs are few,
//! and all of them are traced.

use super::SpanSender;
use super::span::{Origin, Span, Value};
use crate::backoff::random;
use crate::domain::endpoint::VerdictKind;
use crate::domain::lifecycle::WakeError;
use crate::domain::observation::{
    Action, ActionKind, ActionObserver, JobObserver, JobRun, Observation, Observer,
};
use crate::domain::trace::{self, TraceParent};

/// The observer of decided requests.
#[derive(Debug)]
pub(super) struct RequestSpans {
    sender: SpanSender,
    /// A percentage.
    sample: u8,
}

impl RequestSpans {
    pub(super) fn new(sender: SpanSender, sample: u8) -> Self {
        Self { sender, sample }
    }

    fn is_sampled(&self, observation: &Observation<'_>, remote: Option<TraceParent>) -> bool {
        match remote {
            Some(parent) => parent.sampled,
            // An open waiting page asks again and again.
            None if observation.is_poll() => false,
            None if observation.span.is_some() => true,
            None => match self.sample {
                0 => false,
                100.. => true,
                share => random() % 100 < u32::from(share),
            },
        }
    }
}

impl Observer for RequestSpans {
    fn observe(&self, observation: &Observation<'_>) {
        let remote = TraceParent::from_headers(observation.request);
        if self.is_sampled(observation, remote) && self.sender.has_room() {
            self.sender.send(visit(observation, remote));
        }
    }
}

fn visit(observation: &Observation<'_>, remote: Option<TraceParent>) -> Span {
    let &Observation { endpoint, verdict, app, rule, client, request, status, .. } = observation;
    let (word, reason) = match verdict {
        VerdictKind::Deny(reason) => ("deny", Some(reason.as_str())),
        granted => (granted.as_str(), None),
    };
    let mut attributes = Vec::with_capacity(7);
    attributes.push(("http.response.status_code", Value::Number(status.as_u16().into())));
    attributes.push(("nightporter.endpoint", Value::Word(endpoint.as_str())));
    attributes.push(("nightporter.verdict", Value::Word(word)));
    attributes.push(("nightporter.client", Value::Word(client.kind())));
    attributes.extend(reason.map(|reason| ("nightporter.reason", Value::Word(reason))));
    attributes.extend(app.map(|app| ("nightporter.app", Value::text(app))));
    attributes.extend(rule.map(|rule| ("nightporter.rule", Value::text(rule))));
    let state = remote.and_then(|_| trace::state(request)).map(String::into_boxed_str);
    Span {
        name: "visit",
        is_server: true,
        origin: Origin { context: observation.span, remote, state, local: None },
        began: observation.at,
        took: observation.timings.total,
        has_failed: status.is_server_error(),
        attributes,
        steps: if observation.is_ordinary() { Vec::new() } else { observation.steps() },
    }
}

/// The observer of actions and of jobs.
#[derive(Debug)]
pub(super) struct WorkSpans(pub(super) SpanSender);

impl ActionObserver for WorkSpans {
    fn observe_action(&self, action: &Action<'_>) {
        self.0.send(of_action(action));
    }
}

fn of_action(action: &Action<'_>) -> Span {
    let &Action { app, kind, cause, began, took, outcome, steps, asked_by } = action;
    let name = match kind {
        ActionKind::Wake => "wake",
        ActionKind::Sleep(_) => "sleep",
    };
    let verdict = match outcome {
        Ok(()) => "done",
        Err(WakeError::Declined(_)) => "refused",
        Err(_) => "failed",
    };
    let mut attributes = vec![
        ("nightporter.app", Value::text(app)),
        ("nightporter.cause", Value::Word(cause.as_str())),
        ("nightporter.outcome", Value::Word(verdict)),
    ];
    if let ActionKind::Sleep(mode) = kind {
        attributes.push(("nightporter.sleep_mode", Value::Word(mode.as_str())));
    }
    // Its text may name files and addresses.
    attributes.extend(outcome.err().map(|error| ("error.type", Value::Word(error.name()))));
    Span {
        name,
        is_server: false,
        origin: Origin { local: asked_by, ..Origin::default() },
        began,
        took,
        has_failed: verdict == "failed",
        attributes,
        steps: steps.iter().map(|step| (step.name, step.took)).collect(),
    }
}

impl JobObserver for WorkSpans {
    fn observe_run(&self, run: &JobRun<'_>) {
        let &JobRun { job, began, took, has_failed } = run;
        let outcome = if has_failed { "failed" } else { "done" };
        self.0.send(Span {
            name: "job",
            is_server: false,
            origin: Origin::default(),
            began,
            took,
            has_failed,
            attributes: vec![
                ("nightporter.job", Value::text(job)),
                ("nightporter.outcome", Value::Word(outcome)),
            ],
            steps: Vec::new(),
        });
    }
}

#[cfg(test)]
mod tests;
