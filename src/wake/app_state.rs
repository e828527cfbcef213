//! The reconciler's state of one app.

use std::sync::Arc;

use super::command::Reply;
use tokio::time::Instant;

use super::docker::watch::View;
use super::docker::{Container, Health, Snapshot, State};
use super::handle::AppHandle;
use super::observed::{EngineState, Observed};
use super::selector::Selector;
use crate::domain::lifecycle::{Phase, WakeError};
use crate::domain::observation::Cause;

/// One app, and the action in progress on it.
#[derive(Debug)]
pub(super) struct AppState {
    pub(super) app: Arc<AppHandle>,
    pub(super) selector: Selector,
    pub(super) in_progress: InProgress,
    /// Whether a wake has been requested and not attempted yet.
    pub(super) wanted: bool,
    /// Why it has been requested.
    pub(super) cause: Cause,
    /// Since when it has been waiting for a start slot.
    pub(super) queued: Option<Instant>,
    /// The phase that the last attempt ended in, if it has to be shown.
    pub(super) outcome_phase: Option<Box<Phase>>,
    pub(super) failures: u32,
    /// Whether the last attempt failed because the engine was away.
    pub(super) failed_without_engine: bool,
    /// Whether the app's containers have ever been observed.
    pub(super) was_observed: bool,
    /// No attempt is made before this time.
    pub(super) not_before: Option<Instant>,
    pub(super) last_attempt: Option<Instant>,
    /// The state last observed while no action was in progress.
    pub(super) last_state: Option<EngineState>,
    /// The state whose status was last written to the store.
    pub(super) written: Option<EngineState>,
    /// The apps that share containers with it; filled while it is being put to sleep.
    pub(super) partners: Vec<Arc<str>>,
    /// The phase shown for an app that was put to sleep while all its containers were kept
    /// running or paused for other apps.
    pub(super) dormant: Option<Box<Phase>>,
    /// Where to send the result of the wake, for operators who wait for it.
    pub(super) replies: Vec<Reply>,
    /// Whether the attempt under way has started a container: only then does its duration
    /// say how long a start takes.
    pub(super) has_started: bool,
}

/// The action in progress on an app; there is at most one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum InProgress {
    Nothing,
    /// Waits in the queue.
    Queued,
    /// Being woken; holds a start slot until `slot_until`.
    Waking {
        slot_until: Option<Instant>,
    },
    /// Started by another program; the reconciler waits until it is ready.
    Following,
    /// Being put to sleep.
    Sleeping,
}

/// What follows from the observed state of an app without an action in progress.
pub(super) enum Assessment {
    Show(Phase),
    /// Another program has started it; the reconciler has to wait until it is ready.
    Follow {
        was_paused: bool,
    },
}

impl AppState {
    pub(super) fn new(app: Arc<AppHandle>, selector: Selector) -> Self {
        Self {
            selector,
            app,
            in_progress: InProgress::Nothing,
            wanted: false,
            cause: Cause::Request,
            queued: None,
            outcome_phase: None,
            failures: 0,
            failed_without_engine: false,
            was_observed: false,
            not_before: None,
            last_attempt: None,
            last_state: None,
            written: None,
            partners: Vec::new(),
            dormant: None,
            replies: Vec::new(),
            has_started: false,
        }
    }

    /// Returns when the app needs attention without a command; `is_queue` says whether
    /// other apps wait for a start slot.
    pub(super) fn due(&self, now: Instant, is_queue: bool) -> Option<Instant> {
        match self.in_progress {
            InProgress::Nothing if self.wanted => self.not_before,
            // A slot that has already been released frees no further one.
            InProgress::Waking { slot_until } if is_queue => {
                slot_until.filter(|until| *until > now)
            }
            _ => None,
        }
    }

    pub(super) fn observe(&self, view: &View) -> Observed {
        self.observe_in(&view.snapshot())
    }

    pub(super) fn observe_in(&self, snapshot: &Snapshot) -> Observed {
        self.selector.observe(&self.app.spec(), snapshot)
    }

    pub(super) fn show(&self, phase: Phase, view: &View) {
        self.app.show(phase, &self.observe(view).states());
    }

    pub(super) fn reply(&mut self, result: &Result<(), WakeError>) {
        for reply in self.replies.drain(..) {
            // A caller that has gone away needs no answer.
            let _ = reply.send(result.clone());
        }
    }

    /// Returns what is to be shown. `before` is the state last observed; `may_start` says
    /// that the app runs but may still be starting, as when this process has just begun.
    pub(super) fn assess(
        &mut self,
        observed: &Observed,
        before: Option<EngineState>,
        can_be_made: bool,
        may_start: bool,
    ) -> Assessment {
        if let Some(phase) = self.dormant.as_ref().filter(|_| observed.is_kept_by_others()) {
            return Assessment::Show(Phase::clone(phase));
        }
        if observed.state == EngineState::Exited && self.serves_partially(observed) {
            return Assessment::Show(Phase::Awake);
        }
        if observed.state != EngineState::Running {
            let asleep = asleep(observed.state, can_be_made);
            return Assessment::Show(match (self.outcome_phase.as_deref(), asleep) {
                (Some(outcome), Phase::Stopped | Phase::Paused | Phase::Missing) => outcome.clone(),
                (_, asleep) => asleep,
            });
        }
        let is_starting = self.any_entrypoint(observed, |container| {
            container.health == Health::Starting && !self.app.serves_unhealthy(container)
        });
        let came_up = before.is_some_and(|before| before != EngineState::Running);
        if came_up || may_start || (is_starting && self.outcome_phase.is_none()) {
            let was_paused = before == Some(EngineState::Paused);
            return Assessment::Follow { was_paused };
        }
        match self.outcome_phase.as_deref() {
            // It runs, and the cause of the failure persists.
            Some(failed @ Phase::Failed { .. })
                if self.any_entrypoint(observed, |container| {
                    matches!(container.health, Health::Starting | Health::Unhealthy)
                }) =>
            {
                Assessment::Show(failed.clone())
            }
            _ => {
                self.outcome_phase = None;
                for container in observed.needed() {
                    self.app.note_serving(container);
                }
                Assessment::Show(Phase::Awake)
            }
        }
    }

    /// Whether the entrypoints run although another container could not be started: a
    /// partially running app is better than none.
    fn serves_partially(&self, observed: &Observed) -> bool {
        let spec = self.app.spec();
        let serves = |container: &Container| {
            container.state == State::Running
                && (matches!(container.health, Health::Healthy | Health::Unknown)
                    || self.app.serves_unhealthy(container))
        };
        matches!(self.outcome_phase.as_deref(), Some(Phase::Failed { .. }))
            && !spec.entrypoints.is_empty()
            && observed.entrypoints(&spec).iter().all(|container| serves(container))
    }

    fn any_entrypoint(&self, observed: &Observed, predicate: impl Fn(&Container) -> bool) -> bool {
        let spec = self.app.spec();
        observed.entrypoints(&spec).iter().any(|container| predicate(container))
    }
}

/// Returns the phase of an app without an action in progress. An app whose containers are
/// missing and cannot be created counts as awake: if it answers, it runs elsewhere.
pub(super) fn asleep(state: EngineState, can_be_made: bool) -> Phase {
    match state {
        EngineState::Running => Phase::Awake,
        EngineState::Missing if !can_be_made => Phase::Awake,
        EngineState::Missing => Phase::Missing,
        EngineState::Paused => Phase::Paused,
        EngineState::Exited => Phase::Stopped,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wake::spec::{AppSpec, Target};
    use std::time::Duration;

    fn container(service: &str, state: State, health: Health) -> Arc<Container> {
        Arc::new(Container { health, exit_code: 1, ..Container::sample("wiki", service, state) })
    }

    /// Returns the phase shown of an app whose last attempt has failed.
    fn shown(containers: &[Arc<Container>]) -> Phase {
        let (commands, _receiver) = super::super::command::channel();
        let target = Target { container: "web".into(), port: 80, speaks_http: true };
        let spec = AppSpec { entrypoints: vec![target], ..AppSpec::default() };
        let selector = Selector::new(&"wiki".into(), &Arc::default());
        let mut app_state =
            AppState::new(Arc::new(AppHandle::new("wiki".into(), spec.into(), commands)), selector);
        let failure = WakeError::Exited { container: "sidecar".into(), code: 1 };
        let failed = Phase::Failed { failure, retry_after: Duration::ZERO };
        app_state.outcome_phase = Some(failed.into());
        let mut snapshot = Snapshot::default();
        let by_id = containers.iter().map(|c| (Arc::clone(&c.id), Arc::clone(c)));
        snapshot.containers.extend(by_id);
        let observed = app_state.observe_in(&snapshot);
        assert_eq!(observed.state, EngineState::Exited);
        match app_state.assess(&observed, Some(EngineState::Exited), false, false) {
            Assessment::Show(phase) => phase,
            Assessment::Follow { .. } => panic!("no other program has started it"),
        }
    }

    #[test]
    fn a_part_that_fails_does_not_keep_the_rest_from_serving() {
        use Health::{Healthy, Unhealthy, Unknown};
        use State::{Exited, Running};
        let sidecar = container("sidecar", Exited, Unknown);
        for health in [Healthy, Unknown] {
            let web = container("web", Running, health);
            assert_eq!(shown(&[web, Arc::clone(&sidecar)]), Phase::Awake);
        }
        let web = container("web", Running, Unhealthy);
        assert_eq!(shown(&[web, Arc::clone(&sidecar)]).as_str(), "failed");
        let web = container("web", Exited, Unknown);
        assert_eq!(shown(&[web, sidecar]).as_str(), "failed");
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_that_was_given_up_is_due_no_more() {
        let (commands, _receiver) = super::super::command::channel();
        let app = Arc::new(AppHandle::new("wiki".into(), Arc::default(), commands));
        let selector = Selector::new(&app.name, &Arc::default());
        let mut app_state = AppState::new(app, selector);
        let (now, later) = (Instant::now(), Instant::now() + Duration::from_secs(10));
        app_state.in_progress = InProgress::Waking { slot_until: Some(later) };
        assert_eq!(app_state.due(now, true), Some(later));
        assert_eq!(app_state.due(now, false), None, "no other app waits for the slot");
        assert_eq!(app_state.due(later, true), None, "the reconciler would spin");
        app_state.in_progress = InProgress::Nothing;
        app_state.not_before = Some(later);
        assert_eq!(app_state.due(now, true), None);
        app_state.wanted = true;
        assert_eq!(app_state.due(now, true), Some(later));
    }
}
