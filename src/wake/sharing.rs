//! Containers that several apps share, such as one database of two apps.
//!
//! Such a container is woken with each of its apps, and sleeps only as deeply as the app
//! that sleeps least. While an app is put to sleep, the apps that share containers with it
//! are not woken: within one process the reconciler ensures that, across processes the
//! locks of all these apps do. The locks are tried and never waited for, so their order
//! does not matter.

use std::sync::Arc;

use super::docker::{Container, Snapshot, State};
use super::observed::Observed;
use super::registry::Registry;
use crate::domain::lifecycle::Phase;

/// The state in which the other apps of a container need it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum SharedNeed {
    /// None of them needs it: all are stopped.
    Nothing,
    /// One of them is paused, and must find it unchanged.
    Paused,
    Running,
}

impl Registry {
    /// Returns what the other apps that share a container of `observed` need.
    pub(super) fn need(
        &self,
        container: &Container,
        observed: &Observed,
        snapshot: &Snapshot,
    ) -> SharedNeed {
        let apps = observed.shared.get(&container.id).into_iter().flatten();
        apps.map(|app| self.need_of(app, snapshot)).max().unwrap_or(SharedNeed::Nothing)
    }

    fn need_of(&self, app: &Arc<str>, snapshot: &Snapshot) -> SharedNeed {
        let Some(app) = self.get(app) else { return SharedNeed::Nothing };
        let observed = self.selector(&app.name).observe(&app.spec(), snapshot);
        let has = |states: &[State]| observed.own().any(|c| states.contains(&c.state));
        // Another process may have woken it a moment ago.
        if app.is_awake() || has(&[State::Running, State::Restarting]) {
            SharedNeed::Running
        } else if app.shown().phase == Phase::Paused || has(&[State::Paused]) {
            SharedNeed::Paused
        } else {
            SharedNeed::Nothing
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wake::spec::{AppSpec, Target};

    /// Two apps, each with a container of its own, and a database that they share.
    fn scene(notes: State, wiki: State, database: State) -> Snapshot {
        let mut snapshot = Snapshot::default();
        for (project, service, state) in
            [("notes", "a", notes), ("wiki", "b", wiki), ("stack", "db", database)]
        {
            let mut container = Container::sample(project, service, state);
            if service == "db" {
                container.labels.apps = vec!["notes".into(), "wiki".into()];
            }
            snapshot.containers.insert(Arc::clone(&container.id), Arc::new(container));
        }
        snapshot
    }

    #[test]
    fn a_shared_container_sleeps_as_deep_as_the_app_that_sleeps_least() {
        use State::{Exited, Paused, Running};
        let (registry, _commands) = Registry::new();
        let target = |name: &str| Target { container: name.into(), port: 80, speaks_http: true };
        let spec = |name| AppSpec { entrypoints: vec![target(name)], ..AppSpec::default() };
        let notes = registry.handle(&"notes".into(), Some(spec("a").into()));
        let wiki = registry.handle(&"wiki".into(), Some(spec("b").into()));
        for (phase, own, expected) in [
            (Phase::Awake, Running, SharedNeed::Running),
            // Awake although one of its containers has ended.
            (Phase::Awake, Exited, SharedNeed::Running),
            // Another process has started it.
            (Phase::Stopped, Running, SharedNeed::Running),
            (Phase::Paused, Paused, SharedNeed::Paused),
            (Phase::Starting, Paused, SharedNeed::Paused),
            (Phase::Stopped, Exited, SharedNeed::Nothing),
        ] {
            wiki.show(phase.clone(), &Arc::default());
            let snapshot = scene(Running, own, Running);
            let observed = registry.selector(&notes.name).observe(&notes.spec(), &snapshot);
            let need = |id: &str| registry.need(&snapshot.containers[id], &observed, &snapshot);
            assert_eq!(need("db"), expected, "{phase:?} {own:?}");
            assert_eq!(need("a"), SharedNeed::Nothing, "no other app shares it");
            assert_eq!(observed.partners(), [Arc::from("wiki")]);
        }
    }

    #[test]
    fn what_another_app_paused_does_not_make_a_stopped_app_paused() {
        use crate::wake::observed::EngineState;
        use State::{Exited, Paused, Running};
        let (registry, _commands) = Registry::new();
        let target = Target { container: "a".into(), port: 80, speaks_http: true };
        let spec = AppSpec { entrypoints: vec![target], ..AppSpec::default() };
        let notes = registry.handle(&"notes".into(), Some(spec.into()));
        let _wiki = registry.handle(&"wiki".into(), Some(Arc::default()));
        for (own, database, expected) in [
            (Running, Running, EngineState::Running),
            (Running, Paused, EngineState::Paused),
            (Paused, Running, EngineState::Paused),
            (Exited, Paused, EngineState::Exited),
            (Exited, Running, EngineState::Exited),
        ] {
            let snapshot = scene(own, Paused, database);
            let observed = registry.selector(&notes.name).observe(&notes.spec(), &snapshot);
            assert_eq!(observed.state, expected, "{own:?} {database:?}");
        }
    }
}
