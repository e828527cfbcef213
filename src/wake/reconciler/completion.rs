//! What follows when an action has ended: what is shown of the app, when the next attempt is
//! made, and the answers to the operator.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{Id, JoinError};
use tokio::time::Instant;
use tracing::{debug, error, info, warn};

use super::{Reconciler, phase_of};
use crate::backoff::{doubled, jittered};
use crate::domain::lifecycle::{Phase, WakeError};
use crate::domain::observation::Action as Observed;
use crate::telemetry::meters;
use crate::wake::action::{ActionTask, Completion};
use crate::wake::app_state::{AppState, InProgress};
use crate::wake::attempt::{CANNOT_BE_PAUSED, Outcome};
use crate::wake::docker::watch::View;
use crate::wake::handle::wall_clock;

/// How long the idle loop leaves an app alone that could not be put to sleep: every attempt
/// holds its requests back for a moment.
pub(super) const SLEEP_RETRY_DELAY: Duration = Duration::from_secs(60);

impl Reconciler {
    pub(super) fn finish_task(&mut self, ended: Result<(Id, Completion), JoinError>) {
        let (id, ended) = match ended {
            Ok((id, ended)) => (id, Ok(ended)),
            Err(error) => (error.id(), Err(error)),
        };
        self.is_changed = true;
        let Some((task, _)) = self.tasks.remove(&id) else { return };
        let ended = ended.unwrap_or_else(|error| {
            error!(app = %task.app.name, action = ?task.action, %error, "a task has panicked");
            task.action.panicked()
        });
        self.tell_observers(&task, &ended.result());
        let ActionTask { app, reply, .. } = task;
        let name = Arc::clone(&app.name);
        let app_state =
            self.apps.get_mut(&name).filter(|app_state| Arc::ptr_eq(&app_state.app, &app));
        let Some(app_state) = app_state else { return };
        app_state.in_progress = InProgress::Nothing;
        match ended {
            Completion::Woken(outcome) => self.finish_wake(&name, outcome),
            Completion::Followed(outcome) => self.finish_follow(&name, outcome),
            Completion::Slept(mode, done) => {
                // An app need not be left alone because the engine was away, and one that
                // cannot be paused can still be stopped.
                let is_refused = done.as_ref().is_err_and(|failure| {
                    !matches!(failure, WakeError::EngineAway) && *failure != CANNOT_BE_PAUSED
                });
                let no_sleep_before = is_refused.then(|| Instant::now() + SLEEP_RETRY_DELAY);
                app_state.app.note(|history| history.no_sleep_before = no_sleep_before);
                app_state.partners.clear();
                match &done {
                    Ok(()) => {
                        meters::put_to_sleep(mode.as_str());
                        info!(app = %name, to = mode.as_str(), "put to sleep");
                    }
                    Err(failure @ WakeError::Declined(_)) => {
                        debug!(app = %name, ?mode, %failure, "not put to sleep");
                    }
                    Err(failure) => warn!(app = %name, ?mode, %failure, "not put to sleep"),
                }
                let observed = app_state.observe(&self.view);
                app_state.dormant =
                    (done.is_ok() && observed.is_kept_by_others()).then(|| phase_of(mode).into());
                // The previous state does not count: the action may have been done in part.
                app_state.last_state = None;
                // A wake that was requested just before the sleep was dropped by it, and if the
                // same phase is shown as before, nothing makes held requests ask again.
                app_state.wanted |= app_state.app.is_waited_for();
                if let Some(reply) = reply {
                    // The next request must already see the result.
                    self.observe_all();
                    let _ = reply.send(done);
                }
            }
        }
    }

    /// Tells the observers of a finished action. One that panics affects nothing else.
    fn tell_observers(&self, task: &ActionTask, result: &Result<(), WakeError>) {
        let steps = task.steps.taken(Instant::now());
        let action = Observed {
            app: &task.app.name,
            kind: task.action.kind(),
            cause: task.cause,
            began: task.began,
            took: task.steps.began().elapsed(),
            outcome: result.as_ref().copied(),
            steps: &steps,
            asked_by: task.asked_by,
        };
        for observer in &self.observers {
            let observe = AssertUnwindSafe(|| observer.observe_action(&action));
            if catch_unwind(observe).is_err() {
                meters::panics().increment(1);
                error!("an observer panicked; the action is not affected");
            }
        }
    }

    fn finish_wake(&mut self, name: &Arc<str>, outcome: Outcome) {
        let (throttle, longest) =
            (self.context.config.throttle, self.context.config.longest_backoff);
        let Some(app_state) = self.apps.get_mut(name) else { return };
        app_state.last_state = Some(app_state.observe(&self.view).state);
        app_state.not_before = app_state.last_attempt.map(|at| at + throttle);
        app_state.outcome_phase = None;
        app_state.wanted = false;
        let took =
            app_state.last_attempt.map(|at| at.elapsed()).filter(|_| outcome == Outcome::Ready);
        meters::wake_ended(outcome.as_str(), took);
        // A start of an app that did not answer says nothing about the next one.
        if took.is_some() && app_state.has_started && !app_state.app.is_unanswered() {
            app_state.app.note(|history| history.start_took = took);
        }
        let result = outcome.result();
        match outcome {
            Outcome::Ready => app_state.mark_awake(&self.view),
            Outcome::Failed(failure) => {
                app_state.failures = app_state.failures.saturating_add(1);
                app_state.failed_without_engine =
                    failure == WakeError::EngineAway || !self.view.snapshot().live;
                let retry_after = jittered(doubled(throttle, app_state.failures, longest));
                let failures = app_state.failures;
                warn!(app = %name, %failure, failures, ?retry_after, "not woken");
                app_state.not_before = Some(Instant::now() + retry_after);
                let failed = Phase::Failed { failure: failure.clone(), retry_after };
                app_state.outcome_phase = Some(failed.into());
                app_state.app.note(|history| {
                    history.last_failure = Some((wall_clock(), failure));
                });
                // Held requests keep waiting.
                app_state.wanted = app_state.app.is_waited_for();
            }
            Outcome::Declined(Phase::Paused) => {
                app_state.wanted = app_state.app.is_waited_for();
            }
            Outcome::Declined(phase) => {
                info!(app = %name, phase = phase.as_str(), "not woken");
                // An installation may finish while requests are still waiting.
                app_state.wanted = !phase.is_final() && app_state.app.is_waited_for();
                app_state.outcome_phase = Some(phase.into());
            }
            Outcome::Gone => {}
        }
        let replies = std::mem::take(&mut app_state.replies);
        if !replies.is_empty() {
            // The next request must already see the result.
            self.observe_all();
        }
        for reply in replies {
            // A caller that has gone away needs no answer.
            let _ = reply.send(result.clone());
        }
    }

    fn finish_follow(&mut self, name: &Arc<str>, outcome: Outcome) {
        let Some(app_state) = self.apps.get_mut(name) else { return };
        app_state.last_state = Some(app_state.observe(&self.view).state);
        match outcome {
            Outcome::Ready => {
                app_state.mark_awake(&self.view);
                app_state.reply(&Ok(()));
            }
            Outcome::Failed(failure) => {
                debug!(
                    app = %name, %failure,
                    "an app that another program started did not become ready"
                );
                let retry_after = self.context.config.throttle;
                app_state.outcome_phase = Some(Phase::Failed { failure, retry_after }.into());
            }
            Outcome::Declined(_) | Outcome::Gone => {}
        }
    }
}

impl AppState {
    /// Marks the app as ready: requests pass from here on.
    pub(super) fn mark_awake(&mut self, view: &View) {
        debug!(app = %self.app.name, "awake");
        self.failures = 0;
        self.failed_without_engine = false;
        self.outcome_phase = None;
        self.wanted = false;
        self.app.note(|history| history.woken = Some(wall_clock()));
        self.show(Phase::Awake, view);
    }
}
