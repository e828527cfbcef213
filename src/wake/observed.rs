//! What an app's containers mean together: their order, their combined state, and what has to
//! be started.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use super::app_view::ContainerState;
use super::docker::{Container, Service, State};
use super::roles::{self, ContainerRole, Need, Role, is_entrypoint};
use super::spec::{AppSpec, Target};

/// The combined state of an app's containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineState {
    /// There are no containers.
    Missing,
    /// Some are not running.
    Exited,
    /// Some are paused.
    Paused,
    Running,
}

/// One app as last observed in the engine.
#[derive(Debug, Clone)]
pub struct Observed {
    /// The app's containers, in the order in which they are started.
    pub containers: Vec<Arc<Container>>,
    /// The role of each container, in the same order.
    pub(super) roles: Vec<ContainerRole>,
    pub services: Vec<Arc<Service>>,
    pub state: EngineState,
    /// The other apps that share a container, by its id. Containers of one app alone are
    /// not listed.
    pub shared: HashMap<Arc<str>, Vec<Arc<str>>>,
}

/// Corrects the combined state: a shared container that is paused for another app does not
/// make this app paused if all of its own containers have ended.
fn without_shared_pause(
    shared: &HashMap<Arc<str>, Vec<Arc<str>>>,
    containers: &[Arc<Container>],
    state: EngineState,
) -> EngineState {
    let is_up = |c: &Arc<Container>| matches!(c.state, State::Running | State::Paused);
    let mut own = containers.iter().filter(|c| !shared.contains_key(&c.id)).peekable();
    let have_ended = own.peek().is_some() && !own.any(is_up);
    if state == EngineState::Paused && have_ended { EngineState::Exited } else { state }
}

impl Observed {
    /// Orders the containers, and finds their roles and their combined state.
    pub(super) fn new(
        spec: &AppSpec,
        mut containers: Vec<Arc<Container>>,
        services: Vec<Arc<Service>>,
        shared: HashMap<Arc<str>, Vec<Arc<str>>>,
    ) -> Self {
        containers.sort_by(|a, b| (&a.created, &a.name).cmp(&(&b.created, &b.name)));
        let containers = in_start_order(containers);
        let roles = roles::classify(&containers, spec);
        let state = if services.is_empty() {
            combined_state(&containers, &roles)
        } else {
            services_state(&services)
        };
        let state = without_shared_pause(&shared, &containers, state);
        Self { containers, roles, services, state, shared }
    }

    /// Returns the containers that no other app shares.
    pub(super) fn own(&self) -> impl Iterator<Item = &Arc<Container>> {
        self.containers.iter().filter(|container| !self.shared.contains_key(&container.id))
    }

    /// Whether the app has containers and shares every one of them.
    pub(super) fn is_all_shared(&self) -> bool {
        !self.containers.is_empty() && self.own().next().is_none() && self.services.is_empty()
    }

    /// Whether all containers are shared and are running or paused, possibly for other apps
    /// only.
    pub(super) fn is_kept_by_others(&self) -> bool {
        self.is_all_shared() && matches!(self.state, EngineState::Running | EngineState::Paused)
    }

    /// Returns the other apps that share containers with this one, each once.
    pub(super) fn partners(&self) -> Vec<Arc<str>> {
        let mut partners: Vec<_> = self.shared.values().flatten().cloned().collect();
        partners.sort_unstable();
        partners.dedup();
        partners
    }

    /// Returns the containers that requests are sent to, except replicas that the app does
    /// not need; or all containers, if no entrypoint can be identified.
    pub fn entrypoints<'a>(&'a self, spec: &'a AppSpec) -> Vec<&'a Arc<Container>> {
        let needed = self.needed().filter(|c| is_entrypoint(c, spec));
        let needed: Vec<_> = needed.collect();
        if needed.is_empty() { self.containers.iter().collect() } else { needed }
    }

    /// Returns the first of the app's ports whose container is known by its name.
    pub(super) fn named_entrypoint<'a>(
        &'a self,
        spec: &'a AppSpec,
    ) -> Option<(&'a Target, &'a Arc<Container>)> {
        let entrypoints = self.entrypoints(spec);
        spec.entrypoints.iter().find_map(|target| {
            let container = entrypoints.iter().find(|c| c.is_called(&target.container))?;
            Some((target, *container))
        })
    }

    /// Returns the containers that must run for the app to be awake.
    pub(super) fn needed(&self) -> impl Iterator<Item = &Arc<Container>> {
        needed(&self.containers, &self.roles)
    }

    /// Returns the containers that a wake starts, required ones first. `chosen` are the ids
    /// that were selected earlier in the same attempt.
    pub(super) fn to_start(
        &self,
        chosen: &HashSet<Arc<str>>,
    ) -> Vec<(Arc<Container>, ContainerRole)> {
        let idle = |state| matches!(state, State::Exited | State::Created);
        let is_chosen =
            |c: &Container, role: &ContainerRole| role.starts_on_wake || chosen.contains(&c.id);
        let pairs = self.containers.iter().cloned().zip(self.roles.iter().copied());
        let mut all: Vec<_> =
            pairs.filter(|(c, role)| idle(c.state) && is_chosen(c, role)).collect();
        all.sort_by_key(|(_, role)| role.role == Role::Other && role.need != Need::Required);
        all
    }

    /// Whether an entrypoint was started less than `within` before `now`, in milliseconds
    /// since 1970, so that it may not be listening yet.
    pub(super) fn is_recently_started(&self, spec: &AppSpec, now: i64, within: Duration) -> bool {
        let within = i64::try_from(within.as_millis()).unwrap_or(i64::MAX);
        let is_recently_started = |at: i64| now.saturating_sub(at) < within;
        self.state == EngineState::Running
            && self.entrypoints(spec).iter().any(|c| c.started.is_some_and(is_recently_started))
    }

    /// Whether a container is known to be missing although others exist: one that requests
    /// are sent to, or one that another container depends on.
    #[must_use]
    pub fn is_incomplete(&self, spec: &AppSpec) -> bool {
        let is_compose = self.containers.iter().any(|c| c.labels.project.is_some());
        let is_there = |name: &str| self.containers.iter().any(|c| c.is_called(name));
        let mut wanted = self.containers.iter().flat_map(|c| &c.labels.depends_on);
        is_compose
            && (wanted.any(|dependency| !is_there(&dependency.service))
                || spec.entrypoints.first().is_some_and(|target| !is_there(&target.container)))
    }

    /// Returns the state of each container and service, to be shown.
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

/// Sorts containers so that dependencies come first. Others keep the order of their
/// creation, which Compose also derives from the dependencies. Containers in a dependency
/// cycle come last, in their original order.
fn in_start_order(mut waiting: Vec<Arc<Container>>) -> Vec<Arc<Container>> {
    let mut ordered: Vec<Arc<Container>> = Vec::with_capacity(waiting.len());
    while !waiting.is_empty() {
        let is_free = |container: &Arc<Container>| {
            let mut dependencies = container.labels.depends_on.iter();
            dependencies.all(|dependency| {
                !waiting.iter().any(|other| {
                    other.id != container.id
                        && other.labels.service.as_deref() == Some(&dependency.service)
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
    roles: &'a [ContainerRole],
) -> impl Iterator<Item = &'a Arc<Container>> {
    let pairs = containers.iter().zip(roles);
    pairs.filter(|(_, role)| role.need == Need::Required).map(|(container, _)| container)
}

/// The contract's rule: any paused → paused; all running → running; else exited;
/// none → missing. Containers that the app does not need are not counted.
fn combined_state(containers: &[Arc<Container>], roles: &[ContainerRole]) -> EngineState {
    let mut counted: Vec<_> = needed(containers, roles).collect();
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

/// Returns the combined state of services: each must have a running task.
fn services_state(services: &[Arc<Service>]) -> EngineState {
    if services.iter().all(|service| service.state() == State::Running) {
        EngineState::Running
    } else {
        EngineState::Exited
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wake::docker::{Dependency, DependencyCondition};
    use crate::wake::spec::Target;

    fn container(service: &str, state: State) -> Container {
        Container::sample("wiki", service, state)
    }

    fn observe(containers: &[Container]) -> Observed {
        let spec = AppSpec {
            entrypoints: vec![Target { container: "web".into(), port: 80, speaks_http: true }],
            ..AppSpec::default()
        };
        let containers = containers.iter().cloned().map(Arc::new).collect();
        Observed::new(&spec, containers, Vec::new(), HashMap::new())
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
            // It ran to completion.
            (&[("web", Running), ("init", Exited)], EngineState::Running),
            // Requests are sent to it: it was stopped, whatever its exit code.
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
        assert_eq!(observed.state, EngineState::Exited, "it was stopped from outside");
    }

    #[test]
    fn what_others_depend_on_is_started_first() {
        let depends = |service: &str, on: &[&str]| {
            let mut container = container(service, State::Exited);
            container.labels.depends_on = on
                .iter()
                .map(|service| Dependency {
                    service: (*service).into(),
                    condition: DependencyCondition::Started,
                })
                .collect();
            container
        };
        let order = |containers: &[Container]| -> Vec<String> {
            let observed = observe(containers);
            observed.containers.iter().map(|c| c.labels.service.clone().unwrap()).collect()
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
        let spec = AppSpec {
            entrypoints: vec![Target { container: "web".into(), port: 80, speaks_http: true }],
            ..AppSpec::default()
        };
        assert!(!observe(&[web.clone()]).is_incomplete(&spec));
        assert!(observe(&[container("db", State::Running)]).is_incomplete(&spec));
        web.labels.depends_on =
            vec![Dependency { service: "db".into(), condition: DependencyCondition::Started }];
        assert!(observe(&[web]).is_incomplete(&spec));
    }
}
