//! Containers that several apps share, as one database of two apps.
//!
//! Such a container is woken with each of its apps and sleeps as deep as the one of them
//! that sleeps least. Whoever puts an app to sleep keeps the others from being woken
//! meanwhile: in one process the waker does, across processes the locks of all of them,
//! which are tried and never waited for, so that their order is of no matter.

use std::sync::Arc;

use super::Wakes;
use super::docker::{Container, Snapshot, State};
use super::observed::Observed;
use crate::domain::lifecycle::Phase;

/// What the other apps of a container need of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Need {
    /// Nothing: all of them are stopped.
    Nothing,
    /// One of them is paused, and is to find it as it left it.
    Paused,
    Running,
}

impl Wakes {
    /// What the apps that share a container of `observed` need of it.
    pub(super) fn need(
        &self,
        container: &Container,
        observed: &Observed,
        snapshot: &Snapshot,
    ) -> Need {
        let apps = observed.shared.get(&container.id).into_iter().flatten();
        apps.map(|app| self.need_of(app, snapshot)).max().unwrap_or(Need::Nothing)
    }

    fn need_of(&self, app: &Arc<str>, snapshot: &Snapshot) -> Need {
        let Some(app) = self.get(app) else { return Need::Nothing };
        let observed = self.selector(&app.name).observe(&app.facts(), snapshot);
        let has = |states: &[State]| observed.own().any(|c| states.contains(&c.state));
        // Another process may have woken it a moment ago.
        if app.is_awake() || has(&[State::Running, State::Restarting]) {
            Need::Running
        } else if app.shown().phase == Phase::Paused || has(&[State::Paused]) {
            Need::Paused
        } else {
            Need::Nothing
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wake::app::{Facts, Target};

    /// Two apps, each with a container of its own, and the database of both.
    fn scene(notes: State, wiki: State, database: State) -> Snapshot {
        let mut snapshot = Snapshot::default();
        for (project, service, state) in
            [("notes", "a", notes), ("wiki", "b", wiki), ("stack", "db", database)]
        {
            let mut container = Container::sample(project, service, state);
            if service == "db" {
                container.belongs.apps = vec!["notes".into(), "wiki".into()];
            }
            snapshot.containers.insert(Arc::clone(&container.id), Arc::new(container));
        }
        snapshot
    }

    #[test]
    fn a_shared_container_sleeps_as_deep_as_the_app_that_sleeps_least() {
        use State::{Exited, Paused, Running};
        let (wakes, _orders) = Wakes::new();
        let target = |name: &str| Target { container: name.into(), port: 80, speaks_http: true };
        let facts = |name| Facts { entrypoints: vec![target(name)], ..Facts::default() };
        let notes = wakes.of(&"notes".into(), Some(facts("a")));
        let wiki = wakes.of(&"wiki".into(), Some(facts("b")));
        for (phase, own, expected) in [
            (Phase::Awake, Running, Need::Running),
            // Let through although a part of it has ended.
            (Phase::Awake, Exited, Need::Running),
            // Another process has started it.
            (Phase::Stopped, Running, Need::Running),
            (Phase::Paused, Paused, Need::Paused),
            (Phase::Starting, Paused, Need::Paused),
            (Phase::Stopped, Exited, Need::Nothing),
        ] {
            wiki.show(phase.clone(), &Arc::default());
            let snapshot = scene(Running, own, Running);
            let observed = wakes.selector(&notes.name).observe(&notes.facts(), &snapshot);
            let need = |id: &str| wakes.need(&snapshot.containers[id], &observed, &snapshot);
            assert_eq!(need("db"), expected, "{phase:?} {own:?}");
            assert_eq!(need("a"), Need::Nothing, "nobody else's");
            assert_eq!(observed.partners(), [Arc::from("wiki")]);
        }
    }

    #[test]
    fn what_another_app_paused_does_not_make_a_stopped_app_paused() {
        use crate::wake::observed::EngineState;
        use State::{Exited, Paused, Running};
        let (wakes, _orders) = Wakes::new();
        let target = Target { container: "a".into(), port: 80, speaks_http: true };
        let facts = Facts { entrypoints: vec![target], ..Facts::default() };
        let notes = wakes.of(&"notes".into(), Some(facts));
        let _wiki = wakes.of(&"wiki".into(), Some(Facts::default()));
        for (own, database, expected) in [
            (Running, Running, EngineState::Running),
            (Running, Paused, EngineState::Paused),
            (Paused, Running, EngineState::Paused),
            (Exited, Paused, EngineState::Exited),
            (Exited, Running, EngineState::Exited),
        ] {
            let snapshot = scene(own, Paused, database);
            let observed = wakes.selector(&notes.name).observe(&notes.facts(), &snapshot);
            assert_eq!(observed.state, expected, "{own:?} {database:?}");
        }
    }
}
