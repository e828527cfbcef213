//! Takes note of what was done to apps: wakes and sleeps.

use std::sync::Arc;

use super::record::{Entry, Kind, Micros, Note, Step, Word, micros};
use super::recorder::Recorder;
use crate::domain::lifecycle::WakeError;
use crate::domain::observation::{Action, ActionKind, ActionObserver, ActionStep, Cause};

/// The observer that hands finished actions to the recorder.
#[derive(Debug)]
pub struct Actions(Arc<Recorder>);

impl Actions {
    #[must_use]
    pub fn new(recorder: Arc<Recorder>) -> Self {
        Self(recorder)
    }
}

impl ActionObserver for Actions {
    fn observe_action(&self, action: &Action<'_>) {
        self.0.record(entry(action));
    }
}

fn entry(action: &Action<'_>) -> Entry {
    let &Action { app, kind, cause, began, took, outcome, steps, asked_by: _ } = action;
    let (kind, topic) = match kind {
        ActionKind::Wake => (Kind::Wake, "wake"),
        ActionKind::Sleep(_) => (Kind::Sleep, "sleep"),
    };
    let verdict = match outcome {
        Ok(()) => "done",
        Err(WakeError::Declined(_)) => "refused",
        Err(_) => "failed",
    };
    let last = steps.len().saturating_sub(1);
    let step = |(index, &ActionStep { name, took }): (usize, &ActionStep)| Step {
        name: name.into(),
        duration: Micros(micros(took)),
        outcome: Word::Borrowed(if index == last && outcome.is_err() { verdict } else { "ok" }),
    };
    let note = |failure: &WakeError| Note { topic: topic.into(), text: failure.to_string().into() };
    Entry {
        app: Some(Arc::clone(app)),
        client: (cause == Cause::Operator).then_some("operator".into()),
        verdict: Some(verdict.into()),
        reason: Some(cause.as_str().into()),
        duration: Micros(micros(took)),
        steps: steps.iter().enumerate().map(step).collect(),
        notes: outcome.err().map(note).into_iter().collect(),
        ..Entry::new(kind, began.into())
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::domain::lifecycle::SleepMode;

    #[test]
    fn an_action_becomes_a_record_that_says_why_and_what_came_of_it() {
        let second = Duration::from_secs(1);
        let steps = [
            ActionStep { name: "lock", took: second },
            ActionStep { name: "starting", took: 2 * second },
        ];
        let failure = WakeError::Exited { container: "web".into(), code: 1 };
        let action = Action {
            app: &"notes".into(),
            kind: ActionKind::Wake,
            cause: Cause::Operator,
            began: UNIX_EPOCH + second,
            took: 3 * second,
            outcome: Err(&failure),
            steps: &steps,
            asked_by: None,
        };
        let step = |name: &'static str, duration, outcome: &'static str| Step {
            name: name.into(),
            duration: Micros(duration),
            outcome: outcome.into(),
        };
        let text = "container web exited with code 1".into();
        let expected = Entry {
            app: Some("notes".into()),
            client: Some("operator".into()),
            verdict: Some("failed".into()),
            reason: Some("operator".into()),
            duration: Micros(3_000_000),
            steps: vec![step("lock", 1_000_000, "ok"), step("starting", 2_000_000, "failed")],
            notes: vec![Note { topic: "wake".into(), text }],
            ..Entry::new(Kind::Wake, Micros(1_000_000))
        };
        assert_eq!(entry(&action), expected);

        let slept = ActionKind::Sleep(SleepMode::Paused);
        let action = Action { kind: slept, cause: Cause::Idle, outcome: Ok(()), ..action };
        let done = entry(&action);
        assert_eq!((done.kind, done.client, done.notes), (Kind::Sleep, None, Vec::new()));
        assert_eq!((done.verdict.as_deref(), done.reason.as_deref()), (Some("done"), Some("idle")));
        assert!(done.steps.iter().all(|step| step.outcome == "ok"));

        let declined = WakeError::Declined("not installed");
        let refused = entry(&Action { outcome: Err(&declined), ..action });
        assert_eq!(refused.verdict.as_deref(), Some("refused"));
        assert_eq!(&*refused.notes[0].text, "not now: not installed");
    }
}
