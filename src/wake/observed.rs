//! An app's containers, taken together.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use super::app::{ContainerState, Facts};
use super::docker::{Belongs, Container, Service, Snapshot, State};
use super::parts::{self, Need, Part, Role};
use crate::domain::lifecycle::project_of;

/// Which containers are an app's.
#[derive(Debug, Clone)]
pub struct Selector {
    name: Arc<str>,
    project: Option<String>,
}

/// What an app's containers do together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineState {
    /// There are none.
    Missing,
    /// Some do not run.
    Exited,
    /// Some are paused.
    Paused,
    Running,
}

/// What was last seen of one app.
#[derive(Debug, Clone)]
pub struct Observed {
    /// In the order in which they are started.
    pub containers: Vec<Arc<Container>>,
    /// What each of them means for the app.
    pub(super) parts: Vec<Part>,
    pub services: Vec<Arc<Service>>,
    pub state: EngineState,
}

impl Selector {
    #[must_use]
    pub fn new(name: &Arc<str>) -> Self {
        Self { project: project_of(name), name: Arc::clone(name) }
    }

    /// Compose's name of the app, where it can have one.
    #[must_use]
    pub fn project(&self) -> Option<&str> {
        self.project.as_deref()
    }

    /// A label says it; without one, the project; without that, the name that
    /// requests are sent to.
    fn selects(&self, belongs: &Belongs, called: impl Fn(&str) -> bool, facts: &Facts) -> bool {
        match (&belongs.app, &belongs.project) {
            (Some(app), _) => **app == *self.name,
            (None, Some(project)) => self.project() == Some(project),
            (None, None) => facts.entrypoints.iter().any(|target| called(&target.container)),
        }
    }

    /// Looks at all there is for what is this app's.
    #[must_use]
    pub fn observe(&self, facts: &Facts, snapshot: &Snapshot) -> Observed {
        let services: Vec<_> = snapshot
            .services
            .values()
            .filter(|service| self.selects(&service.belongs, |name| service.is_called(name), facts))
            .cloned()
            .collect();
        let containers = snapshot.containers.values().filter(|container| {
            let belongs = &container.belongs;
            belongs.swarm_service.is_none()
                // Dead or being removed, it can be started no more.
                && container.state != State::Gone
                && !belongs.one_off
                && self.selects(belongs, |name| container.is_called(name), facts)
        });
        let mut containers: Vec<_> = containers.cloned().collect();
        containers.sort_by(|a, b| (&a.created, &a.name).cmp(&(&b.created, &b.name)));
        let containers = in_order(containers);
        let parts = parts::judge(&containers, facts);
        let state =
            if services.is_empty() { together(&containers, &parts) } else { scaled(&services) };
        Observed { containers, parts, services, state }
    }
}

impl Observed {
    /// The containers that requests are sent to; all, where none can be told.
    pub fn entrypoints<'a>(&'a self, facts: &'a Facts) -> Vec<&'a Arc<Container>> {
        let named: Vec<_> = self.containers.iter().filter(|c| is_entrypoint(c, facts)).collect();
        if named.is_empty() { self.containers.iter().collect() } else { named }
    }

    /// What the app is not awake without.
    pub(super) fn needed(&self) -> impl Iterator<Item = &Arc<Container>> {
        needed(&self.containers, &self.parts)
    }

    /// What a wake starts, what the app is not awake without first; `chosen` were to be
    /// started before.
    pub(super) fn to_start(&self, chosen: &HashSet<Arc<str>>) -> Vec<(Arc<Container>, Part)> {
        let idle = |state| matches!(state, State::Exited | State::Created);
        let is_chosen = |c: &Container, part: &Part| part.is_started || chosen.contains(&c.id);
        let pairs = self.containers.iter().cloned().zip(self.parts.iter().copied());
        let mut all: Vec<_> =
            pairs.filter(|(c, part)| idle(c.state) && is_chosen(c, part)).collect();
        all.sort_by_key(|(_, part)| part.role == Role::Other && part.need != Need::Required);
        all
    }

    /// Whether what requests are sent to was started so short ago, in milliseconds
    /// since 1970, that it may not listen yet.
    pub(super) fn is_young(&self, facts: &Facts, now: i64, within: Duration) -> bool {
        let within = i64::try_from(within.as_millis()).unwrap_or(i64::MAX);
        let is_young = |at: i64| now.saturating_sub(at) < within;
        self.state == EngineState::Running
            && self.entrypoints(facts).iter().any(|c| c.started.is_some_and(is_young))
    }

    /// Whether a container is known to be missing beside those there are: one that
    /// requests are sent to, or one that another depends on.
    #[must_use]
    pub fn is_incomplete(&self, facts: &Facts) -> bool {
        let is_compose = self.containers.iter().any(|c| c.belongs.project.is_some());
        let is_there = |name: &str| self.containers.iter().any(|c| c.is_called(name));
        let mut wanted = self.containers.iter().flat_map(|c| &c.belongs.depends_on);
        is_compose
            && (wanted.any(|dependency| !is_there(&dependency.service))
                || facts.entrypoints.first().is_some_and(|target| !is_there(&target.container)))
    }

    /// Each container in words.
    #[must_use]
    pub fn states(&self) -> Arc<[ContainerState]> {
        let containers = self.containers.iter().map(|container| ContainerState {
            name: container.name.clone(),
            state: container.state.as_str(),
            exit_code: matches!(container.state, State::Exited | State::Restarting)
                .then_some(container.exit_code),
        });
        let services = self.services.iter().map(|service| ContainerState {
            name: service.name.clone(),
            state: service.state().as_str(),
            exit_code: None,
        });
        containers.chain(services).collect()
    }
}

/// Whether requests are sent to the container.
pub(super) fn is_entrypoint(container: &Container, facts: &Facts) -> bool {
    facts.entrypoints.iter().any(|target| container.is_called(&target.container))
}

/// Dependencies first; among equals in the order they were made in, which for
/// Compose is that of the dependencies too. What depends on itself in a circle comes
/// last, as it was.
fn in_order(mut waiting: Vec<Arc<Container>>) -> Vec<Arc<Container>> {
    let mut ordered: Vec<Arc<Container>> = Vec::with_capacity(waiting.len());
    while !waiting.is_empty() {
        let is_free = |container: &Arc<Container>| {
            let mut dependencies = container.belongs.depends_on.iter();
            dependencies.all(|dependency| {
                !waiting.iter().any(|other| {
                    other.id != container.id
                        && other.belongs.service.as_deref() == Some(&dependency.service)
                })
            })
        };
        let Some(next) = waiting.iter().position(is_free) else {
            ordered.append(&mut waiting);
            break;
        };
        ordered.push(waiting.remove(next));
    }
    ordered
}

fn needed<'a>(
    containers: &'a [Arc<Container>],
    parts: &'a [Part],
) -> impl Iterator<Item = &'a Arc<Container>> {
    let pairs = containers.iter().zip(parts);
    pairs.filter(|(_, part)| part.need == Need::Required).map(|(container, _)| container)
}

/// The contract's rule: any paused → paused; all running → running; else exited;
/// none → missing. What the app is awake without counts for nothing.
fn together(containers: &[Arc<Container>], parts: &[Part]) -> EngineState {
    let mut counted: Vec<_> = needed(containers, parts).collect();
    if counted.is_empty() {
        counted = containers.iter().collect();
    }
    if counted.is_empty() {
        EngineState::Missing
    } else if counted.iter().any(|container| container.state == State::Paused) {
        EngineState::Paused
    } else if counted.iter().all(|container| container.state == State::Running) {
        EngineState::Running
    } else {
        EngineState::Exited
    }
}

/// Of services: each must have a task that runs.
fn scaled(services: &[Arc<Service>]) -> EngineState {
    if services.iter().all(|service| service.state() == State::Running) {
        EngineState::Running
    } else {
        EngineState::Exited
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wake::app::Target;
    use crate::wake::docker::{Condition, Dependency};

    fn container(service: &str, state: State) -> Container {
        Container::sample("wiki", service, state)
    }

    fn observe(containers: &[Container]) -> Observed {
        let facts = Facts {
            entrypoints: vec![Target { container: "web".into(), port: 80, speaks_http: true }],
            ..Facts::default()
        };
        let mut snapshot = Snapshot::default();
        for container in containers {
            snapshot.containers.insert(Arc::clone(&container.id), Arc::new(container.clone()));
        }
        Selector::new(&"wiki".into()).observe(&facts, &snapshot)
    }

    #[test]
    fn the_state_of_many_is_the_contracts() {
        use State::{Created, Exited, Paused, Restarting, Running};
        for (states, expected) in [
            (&[][..], EngineState::Missing),
            (&[("web", Running), ("db", Running)], EngineState::Running),
            (&[("web", Running), ("db", Paused)], EngineState::Paused),
            (&[("web", Exited), ("db", Paused)], EngineState::Paused),
            (&[("web", Running), ("db", Created)], EngineState::Exited),
            (&[("web", Restarting), ("db", Running)], EngineState::Exited),
            // Ran to its end.
            (&[("web", Running), ("init", Exited)], EngineState::Running),
            // Requests are sent to it: it was stopped, whatever its code.
            (&[("web", Exited), ("db", Running)], EngineState::Exited),
            (&[("web", Exited), ("db", Exited)], EngineState::Exited),
        ] {
            let containers: Vec<_> =
                states.iter().map(|(service, state)| container(service, *state)).collect();
            assert_eq!(observe(&containers).state, expected, "{states:?}");
        }
        let mut stopped = container("db", Exited);
        stopped.restarts_always = true;
        let observed = observe(&[container("web", Running), stopped]);
        assert_eq!(observed.state, EngineState::Exited, "somebody stopped it");
    }

    #[test]
    fn a_container_is_an_apps_by_label_then_project_then_name() {
        let of = |app: Option<&str>, project: Option<&str>, name: &str| {
            let mut container = container("x", State::Running);
            container.name = name.into();
            container.belongs = Belongs {
                app: app.map(Into::into),
                project: project.map(Into::into),
                ..Belongs::default()
            };
            !observe(&[container]).containers.is_empty()
        };
        assert!(of(Some("wiki"), Some("other"), "y"));
        assert!(!of(Some("other"), Some("wiki"), "web"));
        assert!(of(None, Some("wiki"), "y"));
        assert!(!of(None, Some("other"), "web"));
        assert!(of(None, None, "web"));
        assert!(!of(None, None, "y"));
    }

    #[test]
    fn what_others_depend_on_is_started_first() {
        let depends = |service: &str, on: &[&str]| {
            let mut container = container(service, State::Exited);
            container.belongs.depends_on = on
                .iter()
                .map(|service| Dependency {
                    service: (*service).into(),
                    condition: Condition::Started,
                })
                .collect();
            container
        };
        let order = |containers: &[Container]| -> Vec<String> {
            let observed = observe(containers);
            observed.containers.iter().map(|c| c.belongs.service.clone().unwrap()).collect()
        };
        assert_eq!(
            order(&[depends("a", &["b", "c"]), depends("b", &["c"]), depends("c", &[])]),
            ["c", "b", "a"]
        );
        let mut circle = order(&[depends("a", &["b"]), depends("b", &["a"]), depends("c", &[])]);
        assert_eq!(circle.remove(0), "c");
        assert_eq!(circle.len(), 2);
        let mut late = container("a", State::Exited);
        late.created = "2026-01-02T00:00:00Z".into();
        assert_eq!(order(&[late, container("b", State::Exited)]), ["b", "a"]);
    }

    #[test]
    fn a_missing_part_is_noticed() {
        let mut web = container("web", State::Running);
        let facts = Facts {
            entrypoints: vec![Target { container: "web".into(), port: 80, speaks_http: true }],
            ..Facts::default()
        };
        assert!(!observe(&[web.clone()]).is_incomplete(&facts));
        assert!(observe(&[container("db", State::Running)]).is_incomplete(&facts));
        web.belongs.depends_on =
            vec![Dependency { service: "db".into(), condition: Condition::Started }];
        assert!(observe(&[web]).is_incomplete(&facts));
    }
}
