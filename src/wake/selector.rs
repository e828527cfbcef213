//! Which containers and services belong to an app.

use std::collections::HashMap;
use std::sync::Arc;

use super::docker::{Container, Labels, Service, Snapshot, State};
use super::observed::Observed;
use super::ownership::Ownership;
use super::spec::AppSpec;
use crate::domain::lifecycle::project_of;

/// Selects the containers that belong to an app.
///
/// They are the containers whose label names the app; those without a label in the Compose
/// project of the app's name; and, if an entrypoint is none of these, the container without
/// a label that has the entrypoint's name, or else the only service that has it. The last
/// two may be in any project that does not belong to another app.
#[derive(Debug, Clone)]
pub struct Selector {
    name: Arc<str>,
    project: Project,
    ownership: Arc<Ownership>,
}

/// The name of an app's Compose project.
#[derive(Debug, Clone)]
enum Project {
    /// The app's name allows none.
    None,
    SameAsApp,
    Other(Box<str>),
}

impl Selector {
    pub(super) fn new(name: &Arc<str>, ownership: &Arc<Ownership>) -> Self {
        let (name, ownership) = (Arc::clone(name), Arc::clone(ownership));
        let project = match project_of(&name) {
            None => Project::None,
            Some(project) if *project == *name => Project::SameAsApp,
            Some(project) => Project::Other(project.into()),
        };
        Self { name, project, ownership }
    }

    /// The name of the app's Compose project, if the app's name allows one.
    #[must_use]
    pub fn project(&self) -> Option<&str> {
        match &self.project {
            Project::None => None,
            Project::SameAsApp => Some(&self.name),
            Project::Other(project) => Some(project),
        }
    }

    /// Whether a label assigns the container to this app, or else its project does.
    fn claims(&self, labels: &Labels) -> bool {
        match (&*labels.apps, &labels.project) {
            ([], Some(project)) => self.project() == Some(project),
            ([], None) => false,
            (labels, _) => labels.iter().any(|label| label.eq_ignore_ascii_case(&self.name)),
        }
    }

    /// Whether no other app has a stronger claim than an app whose entrypoint names it.
    fn is_unclaimed(&self, labels: &Labels) -> bool {
        labels.apps.is_empty() && self.ownership.is_unclaimed(labels.project.as_deref(), &self.name)
    }

    /// Returns the app's services, and those that its entrypoints name.
    fn services(&self, spec: &AppSpec, snapshot: &Snapshot) -> Vec<Arc<Service>> {
        let all = || snapshot.services.values();
        let mut ours: Vec<_> = all().filter(|s| self.claims(&s.labels)).cloned().collect();
        for target in &spec.entrypoints {
            let name = &target.container;
            if !ours.iter().any(|service| service.is_called(name)) {
                let named = |s: &&Arc<Service>| s.name == *name && self.is_unclaimed(&s.labels);
                ours.extend(all().filter(named).cloned());
            }
        }
        ours
    }

    fn containers(&self, targets: &[String], snapshot: &Snapshot) -> Vec<Arc<Container>> {
        let all = || {
            snapshot.containers.values().filter(|container| {
                let labels = &container.labels;
                // A container that is dead or being removed cannot be started again.
                let can_run = container.state != State::Gone;
                labels.swarm_service.is_none() && can_run && !labels.one_off
            })
        };
        let mut ours: Vec<_> = all().filter(|c| self.claims(&c.labels)).cloned().collect();
        for name in targets {
            if ours.iter().any(|container| container.is_called(name)) {
                continue;
            }
            let open = || all().filter(|container| self.is_unclaimed(&container.labels));
            if let Some(named) = open().find(|container| container.name == *name) {
                ours.push(Arc::clone(named));
                continue;
            }
            let is_service = |container: &&Arc<Container>| {
                container.labels.service.as_deref() == Some(name)
                    && !self.ownership.is_named_by_another(&container.name, &self.name)
            };
            let serving: Vec<_> = open().filter(is_service).collect();
            // The same service in two projects cannot be assigned, and an app with a compose
            // file of its own waits until its containers are created from that.
            let is_one = serving.windows(2).all(|c| c[0].labels.project == c[1].labels.project);
            if is_one && !serving.is_empty() && !self.ownership.has_own_file(&self.name) {
                ours.extend(serving.into_iter().cloned());
            }
        }
        ours
    }

    /// Returns the other apps that share some of these containers, by container id.
    fn shared(
        &self,
        containers: &[Arc<Container>],
        snapshot: &Snapshot,
    ) -> HashMap<Arc<str>, Vec<Arc<str>>> {
        let mut shared = HashMap::new();
        for container in containers {
            let mut apps = self.ownership.others(container, &self.name);
            if container.labels.apps.is_empty() {
                apps.retain(|app| {
                    let targets = self.ownership.targets(app);
                    let theirs = Self::new(app, &self.ownership).containers(&targets, snapshot);
                    theirs.iter().any(|other| other.id == container.id)
                });
            }
            if !apps.is_empty() {
                shared.insert(Arc::clone(&container.id), apps);
            }
        }
        shared
    }

    /// Finds the app's containers and services in the snapshot, and their combined state.
    #[must_use]
    pub fn observe(&self, spec: &AppSpec, snapshot: &Snapshot) -> Observed {
        let services = self.services(spec, snapshot);
        let targets: Vec<_> = spec.entrypoints.iter().map(|t| t.container.clone()).collect();
        let containers = self.containers(&targets, snapshot);
        let shared = self.shared(&containers, snapshot);
        Observed::new(spec, containers, services, shared)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wake::spec::Target;

    #[test]
    fn a_container_is_an_apps_by_label_then_project_then_name() {
        let of = |app: Option<&str>, project: Option<&str>, name: &str| {
            let mut container = Container::sample("wiki", "x", State::Running);
            container.name = name.into();
            container.labels = Labels {
                apps: app.map(Into::into).into_iter().collect(),
                project: project.map(Into::into),
                ..Labels::default()
            };
            let mut snapshot = Snapshot::default();
            snapshot.containers.insert(Arc::clone(&container.id), Arc::new(container));
            let selector = Selector::new(&"wiki".into(), &Arc::default());
            !selector.observe(&spec_of("web"), &snapshot).containers.is_empty()
        };
        assert!(of(Some("wiki"), Some("other"), "y"));
        assert!(!of(Some("other"), Some("wiki"), "web"));
        assert!(of(None, Some("wiki"), "y"));
        assert!(of(None, Some("other"), "web"), "requests are sent to it");
        assert!(!of(None, Some("core"), "web"), "it belongs to the box itself");
        assert!(of(None, None, "web"));
        assert!(!of(None, None, "y"));
        assert!(of(Some("notes"), None, "web") == of(Some("notes, blog"), None, "web"));
    }

    fn spec_of(entrypoint: &str) -> AppSpec {
        let target = Target { container: entrypoint.into(), port: 80, speaks_http: true };
        AppSpec { entrypoints: vec![target], ..AppSpec::default() }
    }

    #[test]
    fn in_one_big_project_an_app_is_found_by_its_containers_or_its_services_name() {
        let ownership = Arc::new(Ownership::default());
        let spec = [("wiki", "wiki-web"), ("notes", "notes"), ("media", "media")];
        for (app, entrypoint) in spec {
            ownership.insert(&app.into(), &spec_of(entrypoint).into());
        }
        let part = |id: &str, name: &str, project: &str, service: &str, apps: &[&str]| {
            let mut container = Container::sample("wiki", service, State::Running);
            container.id = id.into();
            container.name = name.into();
            container.labels.project = Some(project.into());
            container.labels.apps = apps.iter().map(|app| (*app).to_owned()).collect();
            container
        };
        let found = |app: &str, entrypoint: &str, containers: &[Container]| {
            let mut snapshot = Snapshot::default();
            for container in containers {
                snapshot.containers.insert(Arc::clone(&container.id), Arc::new(container.clone()));
            }
            let selector = Selector::new(&app.into(), &ownership);
            let observed = selector.observe(&spec_of(entrypoint), &snapshot);
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
        assert_eq!(found("notes", "notes", &twice), "", "the service is ambiguous");
        let claimed = [part("6", "wiki-web", "media", "web", &[])];
        assert_eq!(found("wiki", "wiki-web", &claimed), "", "it belongs to the app media");
        assert_eq!(found("media", "media", &claimed), "6");
        let labelled = [part("7", "notes", "stack", "notes", &["Notes"]), service];
        assert_eq!(found("notes", "notes", &labelled), "7", "a label takes precedence over a name");
        let anothers = [part("8", "wiki-web", "stack", "notes", &[])];
        assert_eq!(found("notes", "notes", &anothers), "", "it is the entrypoint of another app");
        ownership.forget(&"wiki".into());
        assert_eq!(found("notes", "notes", &anothers), "8");
        let gone = part("9", "wiki-web", "stack", "web", &["another"]);
        assert_eq!(found("wiki", "wiki-web", &[gone]), "");
    }
}
