//! One app as the waker keeps it.

use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::app::AppWake;
use super::docker::watch::View;
use super::docker::{Container, Health, Snapshot, State};
use super::observed::{EngineState, Observed, Selector};
use crate::domain::lifecycle::{Failure, Phase};

/// What an operator who ordered something is told in the end.
pub(super) type Reply = oneshot::Sender<Result<(), Failure>>;

/// One app, and what is being done to it.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) app: Arc<AppWake>,
    pub(super) selector: Selector,
    pub(super) doing: Doing,
    /// Somebody asked for it when nothing could be done yet.
    pub(super) wanted: bool,
    /// What the last attempt came to, where that is worth telling.
    pub(super) after: Option<Phase>,
    pub(super) failures: u32,
    /// Whether the last attempt failed for want of the engine.
    pub(super) lacks_engine: bool,
    /// Whether it was ever looked at.
    pub(super) was_seen: bool,
    /// No attempt is made before.
    pub(super) not_before: Option<Instant>,
    pub(super) attempted: Option<Instant>,
    /// What it was last seen to do while nothing was done to it.
    pub(super) seen: Option<EngineState>,
    /// The state whose status was written to the store last.
    pub(super) written: Option<EngineState>,
    /// The apps that share containers with it, while it is being put to sleep.
    pub(super) partners: Vec<Arc<str>>,
    /// As what it is shown although its containers sleep less deep, all of them for other
    /// apps.
    pub(super) dormant: Option<Phase>,
    /// Of operators who ordered that it be woken.
    pub(super) replies: Vec<Reply>,
    /// Whether the attempt under way has started something: then its time is what a start
    /// takes.
    pub(super) is_start: bool,
}

/// One thing at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Doing {
    Nothing,
    /// Waits in the queue.
    Queued,
    /// Being woken; until `place_until` it counts among the starts under way.
    Waking {
        place_until: Option<Instant>,
    },
    /// Started by somebody else, and waited for.
    Following,
    /// Being put to sleep.
    Resting,
}

/// What the engine makes of an app that nothing is done to.
pub(super) enum Sight {
    Show(Phase),
    /// Somebody else has started it; it is to be waited for.
    Follow {
        was_paused: bool,
    },
}

impl Slot {
    pub(super) fn new(app: Arc<AppWake>, selector: Selector) -> Self {
        Self {
            selector,
            app,
            doing: Doing::Nothing,
            wanted: false,
            after: None,
            failures: 0,
            lacks_engine: false,
            was_seen: false,
            not_before: None,
            attempted: None,
            seen: None,
            written: None,
            partners: Vec::new(),
            dormant: None,
            replies: Vec::new(),
            is_start: false,
        }
    }

    /// When something is to be done about it without anybody's order; `is_queue` where
    /// others wait for a place.
    pub(super) fn due(&self, now: Instant, is_queue: bool) -> Option<Instant> {
        match self.doing {
            Doing::Nothing if self.wanted => self.not_before,
            // A place that was given up already frees none.
            Doing::Waking { place_until } if is_queue => place_until.filter(|until| *until > now),
            _ => None,
        }
    }

    pub(super) fn observe(&self, view: &View) -> Observed {
        self.observe_in(&view.snapshot())
    }

    pub(super) fn observe_in(&self, snapshot: &Snapshot) -> Observed {
        self.selector.observe(&self.app.facts(), snapshot)
    }

    pub(super) fn show(&self, phase: Phase, view: &View) {
        self.app.show(phase, &self.observe(view).states());
    }

    pub(super) fn reply(&mut self, result: &Result<(), Failure>) {
        for reply in self.replies.drain(..) {
            // Who has gone away needs no answer.
            let _ = reply.send(result.clone());
        }
    }

    /// What is to be shown of it, where `before` is what it was last seen to do, and
    /// `may_start` says that it runs and may not have come up when this process did.
    pub(super) fn sight(
        &mut self,
        observed: &Observed,
        before: Option<EngineState>,
        can_be_made: bool,
        may_start: bool,
    ) -> Sight {
        if let Some(phase) = self.dormant.as_ref().filter(|_| observed.is_kept()) {
            return Sight::Show(phase.clone());
        }
        if observed.state == EngineState::Exited && self.serves_all_the_same(observed) {
            return Sight::Show(Phase::Awake);
        }
        if observed.state != EngineState::Running {
            let asleep = asleep(observed.state, can_be_made);
            return Sight::Show(match (&self.after, asleep) {
                (Some(after), Phase::Stopped | Phase::Paused | Phase::Missing) => after.clone(),
                (_, asleep) => asleep,
            });
        }
        let is_starting = self.has(observed, |container| {
            container.health == Health::Starting && !self.app.serves_unwell(container)
        });
        let came_up = before.is_some_and(|before| before != EngineState::Running);
        if came_up || may_start || (is_starting && self.after.is_none()) {
            let was_paused = before == Some(EngineState::Paused);
            return Sight::Follow { was_paused };
        }
        match &self.after {
            // It runs, and is what it failed for still.
            Some(failed @ Phase::Failed { .. })
                if self.has(observed, |container| {
                    matches!(container.health, Health::Starting | Health::Unhealthy)
                }) =>
            {
                Sight::Show(failed.clone())
            }
            _ => {
                self.after = None;
                for container in observed.needed() {
                    self.app.note_serving(container);
                }
                Sight::Show(Phase::Awake)
            }
        }
    }

    /// Whether a part of it could not be brought up, and what requests are sent to runs
    /// nonetheless: better less of an app than none.
    fn serves_all_the_same(&self, observed: &Observed) -> bool {
        let facts = self.app.facts();
        let serves = |container: &Container| {
            container.state == State::Running
                && (matches!(container.health, Health::Healthy | Health::Unknown)
                    || self.app.serves_unwell(container))
        };
        matches!(self.after, Some(Phase::Failed { .. }))
            && !facts.entrypoints.is_empty()
            && observed.entrypoints(&facts).iter().all(|container| serves(container))
    }

    fn has(&self, observed: &Observed, is_so: impl Fn(&Container) -> bool) -> bool {
        let facts = self.app.facts();
        observed.entrypoints(&facts).iter().any(|container| is_so(container))
    }
}

/// The phase of an app that nothing is done to. One without containers that cannot be
/// made is nothing to wake: whatever answers for it does not run here.
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
    use crate::wake::app::{Facts, Target};
    use std::time::Duration;
    use tokio::sync::mpsc;

    fn container(service: &str, state: State, health: Health) -> Arc<Container> {
        Arc::new(Container { health, exit_code: 1, ..Container::sample("wiki", service, state) })
    }

    /// What is shown of an app whose last attempt has failed.
    fn shown(containers: &[Arc<Container>]) -> Phase {
        let (orders, _taken) = mpsc::unbounded_channel();
        let target = Target { container: "web".into(), port: 80, speaks_http: true };
        let facts = Facts { entrypoints: vec![target], ..Facts::default() };
        let selector = Selector::new(&"wiki".into(), &Arc::default());
        let mut slot = Slot::new(Arc::new(AppWake::new("wiki".into(), facts, orders)), selector);
        let failure = Failure::Exited { container: "sidecar".into(), code: 1 };
        slot.after = Some(Phase::Failed { failure, retry_after: Duration::ZERO });
        let mut snapshot = Snapshot::default();
        let by_id = containers.iter().map(|c| (Arc::clone(&c.id), Arc::clone(c)));
        snapshot.containers.extend(by_id);
        let observed = slot.observe_in(&snapshot);
        assert_eq!(observed.state, EngineState::Exited);
        match slot.sight(&observed, Some(EngineState::Exited), false, false) {
            Sight::Show(phase) => phase,
            Sight::Follow { .. } => panic!("nobody started it"),
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
        let (orders, _taken) = mpsc::unbounded_channel();
        let app = Arc::new(AppWake::new("wiki".into(), Facts::default(), orders));
        let selector = Selector::new(&app.name, &Arc::default());
        let mut slot = Slot::new(app, selector);
        let (now, later) = (Instant::now(), Instant::now() + Duration::from_secs(10));
        slot.doing = Doing::Waking { place_until: Some(later) };
        assert_eq!(slot.due(now, true), Some(later));
        assert_eq!(slot.due(now, false), None, "nobody waits for it");
        assert_eq!(slot.due(later, true), None, "the waker would do nothing but wake up");
        slot.doing = Doing::Nothing;
        slot.not_before = Some(later);
        assert_eq!(slot.due(now, true), None);
        slot.wanted = true;
        assert_eq!(slot.due(now, true), Some(later));
    }
}
