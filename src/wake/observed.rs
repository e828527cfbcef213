//! An app's containers, taken together.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use super::app::{ContainerState, Facts};
use super::docker::{Belongs, Container, Service, Snapshot, State};
use super::parts::{self, Need, Part, Role};
use super::roster::Roster;
use crate::domain::lifecycle::project_of;

/// Which containers are an app's.
///
/// Those that its label names; those without a label in the Compose project of the
/// app's name; and, where requests are sent to none of them, the container without a
/// label that has the entrypoint's name, else the only service that has it. The last
/// two may be in a project of any name that is not another app's own.
#[derive(Debug, Clone)]
pub struct Selector {
    name: Arc<str>,
    project: Option<String>,
    roster: Arc<Roster>,
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
    /// The other apps that have a container too, by its id; those of one app alone are
    /// not in it.
    pub shared: HashMap<Arc<str>, Vec<Arc<str>>>,
}

impl Selector {
    pub(super) fn new(name: &Arc<str>, roster: &Arc<Roster>) -> Self {
        let (name, roster) = (Arc::clone(name), Arc::clone(roster));
        Self { project: project_of(&name), name, roster }
    }

    /// Compose's name of the app, where it can have one.
    #[must_use]
    pub fn project(&self) -> Option<&str> {
        self.project.as_deref()
    }

    /// Whether a label says that it is this app's, or else the project does.
    fn claims(&self, belongs: &Belongs) -> bool {
        match (&*belongs.apps, &belongs.project) {
            ([], Some(project)) => self.project() == Some(project),
            ([], None) => false,
            (labels, _) => labels.iter().any(|label| label.eq_ignore_ascii_case(&self.name)),
        }
    }

    /// Whether nobody else has more right to it than an app whose entrypoint names it.
    fn is_open(&self, belongs: &Belongs) -> bool {
        belongs.apps.is_empty() && self.roster.is_open(belongs.project.as_deref(), &self.name)
    }

    /// The services that the app's entrypoints name.
    fn services(&self, facts: &Facts, snapshot: &Snapshot) -> Vec<Arc<Service>> {
        let all = || snapshot.services.values();
        let mut ours: Vec<_> = all().filter(|s| self.claims(&s.belongs)).cloned().collect();
        for target in &facts.entrypoints {
            let name = &target.container;
            if !ours.iter().any(|service| service.is_called(name)) {
                let named = |s: &&Arc<Service>| s.name == *name && self.is_open(&s.belongs);
                ours.extend(all().filter(named).cloned());
            }
        }
        ours
    }

    fn containers(&self, targets: &[String], snapshot: &Snapshot) -> Vec<Arc<Container>> {
        let all = || {
            snapshot.containers.values().filter(|container| {
                let belongs = &container.belongs;
                // Dead or being removed, it can be started no more.
                let can_run = container.state != State::Gone;
                belongs.swarm_service.is_none() && can_run && !belongs.one_off
            })
        };
        let mut ours: Vec<_> = all().filter(|c| self.claims(&c.belongs)).cloned().collect();
        for name in targets {
            if ours.iter().any(|container| container.is_called(name)) {
                continue;
            }
            let open = || all().filter(|container| self.is_open(&container.belongs));
            if let Some(named) = open().find(|container| container.name == *name) {
                ours.push(Arc::clone(named));
                continue;
            }
            let is_service = |container: &&Arc<Container>| {
                container.belongs.service.as_deref() == Some(name)
                    && !self.roster.is_named_by_another(&container.name, &self.name)
            };
            let serving: Vec<_> = open().filter(is_service).collect();
            // The same service of two projects is nobody's, and whoever has a compose
            // file of its own waits for that to be used.
            let is_one = serving.windows(2).all(|c| c[0].belongs.project == c[1].belongs.project);
            if is_one && !serving.is_empty() && !self.roster.has_own_file(&self.name) {
                ours.extend(serving.into_iter().cloned());
            }
        }
        ours
    }

    /// Which other apps have these containers too.
    fn shared(
        &self,
        containers: &[Arc<Container>],
        snapshot: &Snapshot,
    ) -> HashMap<Arc<str>, Vec<Arc<str>>> {
        let mut shared = HashMap::new();
        for container in containers {
            let mut apps = self.roster.others(container, &self.name);
            if container.belongs.apps.is_empty() {
                apps.retain(|app| {
                    let targets = self.roster.targets(app);
                    let theirs = Self::new(app, &self.roster).containers(&targets, snapshot);
                    theirs.iter().any(|other| other.id == container.id)
                });
            }
            if !apps.is_empty() {
                shared.insert(Arc::clone(&container.id), apps);
            }
        }
        shared
    }

    /// Looks at all there is for what is this app's.
    #[must_use]
    pub fn observe(&self, facts: &Facts, snapshot: &Snapshot) -> Observed {
        let services = self.services(facts, snapshot);
        let targets: Vec<_> = facts.entrypoints.iter().map(|t| t.container.clone()).collect();
        let mut containers = self.containers(&targets, snapshot);
        containers.sort_by(|a, b| (&a.created, &a.name).cmp(&(&b.created, &b.name)));
        let containers = in_order(containers);
        let parts = parts::judge(&containers, facts);
        let state =
            if services.is_empty() { together(&containers, &parts) } else { scaled(&services) };
        let shared = self.shared(&containers, snapshot);
        let state = apart_from(&shared, &containers, state);
        Observed { containers, parts, services, state, shared }
    }
}

/// A container that is paused for another app's sake does not make an app paused whose
/// own have all ended.
fn apart_from(
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
    /// Those that are no other app's.
    pub(super) fn own(&self) -> impl Iterator<Item = &Arc<Container>> {
        self.containers.iter().filter(|container| !self.shared.contains_key(&container.id))
    }

    /// Whether it has containers, and each is another app's too.
    pub(super) fn is_all_shared(&self) -> bool {
        !self.containers.is_empty() && self.own().next().is_none() && self.services.is_empty()
    }

    /// Whether all of it runs, or is paused, and may do so for other apps alone.
    pub(super) fn is_kept(&self) -> bool {
        self.is_all_shared() && matches!(self.state, EngineState::Running | EngineState::Paused)
    }

    /// The other apps that have some of the containers, each once.
    pub(super) fn partners(&self) -> Vec<Arc<str>> {
        let mut partners: Vec<_> = self.shared.values().flatten().cloned().collect();
        partners.sort_unstable();
        partners.dedup();
        partners
    }

    /// The containers that requests are sent to, without replicas that the app does
    /// without; all, where none can be told.
    pub fn entrypoints<'a>(&'a self, facts: &'a Facts) -> Vec<&'a Arc<Container>> {
        let needed = self.needed().filter(|c| is_entrypoint(c, facts));
        let needed: Vec<_> = needed.collect();
        if needed.is_empty() { self.containers.iter().collect() } else { needed }
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
        Selector::new(&"wiki".into(), &Arc::default()).observe(&facts, &snapshot)
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
                apps: app.map(Into::into).into_iter().collect(),
                project: project.map(Into::into),
                ..Belongs::default()
            };
            !observe(&[container]).containers.is_empty()
        };
        assert!(of(Some("wiki"), Some("other"), "y"));
        assert!(!of(Some("other"), Some("wiki"), "web"));
        assert!(of(None, Some("wiki"), "y"));
        assert!(of(None, Some("other"), "web"), "requests are sent to it");
        assert!(!of(None, Some("core"), "web"), "the box's own");
        assert!(of(None, None, "web"));
        assert!(!of(None, None, "y"));
        assert!(of(Some("notes"), None, "web") == of(Some("notes, blog"), None, "web"));
    }

    fn facts_of(entrypoint: &str) -> Facts {
        let target = Target { container: entrypoint.into(), port: 80, speaks_http: true };
        Facts { entrypoints: vec![target], ..Facts::default() }
    }

    #[test]
    fn in_one_big_project_an_app_is_found_by_its_containers_or_its_services_name() {
        let roster = Arc::new(Roster::default());
        let facts = [("wiki", "wiki-web"), ("notes", "notes"), ("media", "media")];
        for (app, entrypoint) in facts {
            roster.note(&app.into(), &facts_of(entrypoint));
        }
        let part = |id: &str, name: &str, project: &str, service: &str, apps: &[&str]| {
            let mut container = container(service, State::Running);
            container.id = id.into();
            container.name = name.into();
            container.belongs.project = Some(project.into());
            container.belongs.apps = apps.iter().map(|app| (*app).to_owned()).collect();
            container
        };
        let found = |app: &str, entrypoint: &str, containers: &[Container]| {
            let mut snapshot = Snapshot::default();
            for container in containers {
                snapshot.containers.insert(Arc::clone(&container.id), Arc::new(container.clone()));
            }
            let selector = Selector::new(&app.into(), &roster);
            let observed = selector.observe(&facts_of(entrypoint), &snapshot);
            let mut ids: Vec<_> = observed.containers.iter().map(|c| c.id.to_string()).collect();
            ids.sort_unstable();
            ids.join(" ")
        };
        let named = part("1", "wiki-web", "stack", "web", &[]);
        let other = part("2", "stack_db_1", "stack", "db", &[]);
        let service = part("3", "stack_notes_1", "stack", "notes", &[]);
        let scaled = part("4", "stack_notes_2", "stack", "notes", &[]);
        let all = [named.clone(), other, service.clone(), scaled.clone()];
        assert_eq!(found("wiki", "wiki-web", &all), "1");
        assert_eq!(found("notes", "notes", &all), "3 4");
        let twice = [service.clone(), part("5", "else_notes_1", "else", "notes", &[])];
        assert_eq!(found("notes", "notes", &twice), "", "nobody can tell which");
        let claimed = [part("6", "wiki-web", "media", "web", &[])];
        assert_eq!(found("wiki", "wiki-web", &claimed), "", "it is the app media's");
        assert_eq!(found("media", "media", &claimed), "6");
        let labelled = [part("7", "notes", "stack", "notes", &["Notes"]), service];
        assert_eq!(found("notes", "notes", &labelled), "7", "a label goes before a name");
        let anothers = [part("8", "wiki-web", "stack", "notes", &[])];
        assert_eq!(found("notes", "notes", &anothers), "", "requests for another go there");
        roster.forget(&"wiki".into());
        assert_eq!(found("notes", "notes", &anothers), "8");
        let gone = part("9", "wiki-web", "stack", "web", &["another"]);
        assert_eq!(found("wiki", "wiki-web", &[gone]), "");
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
