//! One container, as far as waking needs to know it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use bollard::models::{
    ContainerInspectResponse, ContainerStateStatusEnum, HealthStatusEnum, RestartPolicyNameEnum,
};

/// Names the app that a container or a service belongs to, where neither its Compose
/// project nor its name does.
pub const APP_LABEL: &str = "nightporter.app";

pub(super) const PROJECT: &str = "com.docker.compose.project";
const SERVICE: &str = "com.docker.compose.service";
const ONE_OFF: &str = "com.docker.compose.oneoff";
const DEPENDS_ON: &str = "com.docker.compose.depends_on";
pub(super) const SWARM_SERVICE: &str = "com.docker.swarm.service.id";

/// What was last seen of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    pub id: Arc<str>,
    /// Without the slash that the engine puts in front.
    pub name: String,
    pub image: String,
    /// When it was made; as the engine writes it, which sorts.
    pub created: String,
    pub belongs: Belongs,
    pub state: State,
    pub health: Health,
    /// Of the last run that ended.
    pub exit_code: i64,
    pub out_of_memory: bool,
    /// Restarts by the engine itself since somebody started it.
    pub restarts: i64,
    /// Whether the engine brings it up again whenever it ends.
    pub restarts_always: bool,
    /// Where it can be reached, while it runs.
    pub addresses: Vec<IpAddr>,
    /// Its first process, while it runs.
    pub pid: Option<u32>,
}

/// What its labels say of its place.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Belongs {
    pub app: Option<String>,
    pub project: Option<String>,
    pub service: Option<String>,
    pub depends_on: Vec<Dependency>,
    /// Of `compose run`: not part of what is up.
    pub one_off: bool,
    /// The swarm service it is a task of; the swarm alone starts and stops it.
    pub swarm_service: Option<String>,
}

/// A service that must have come so far before this one is started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dependency {
    pub service: String,
    pub condition: Condition,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    Started,
    Healthy,
    Completed,
}

/// The engine's states; `dead` and `removing` are both [`State::Gone`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Created,
    Running,
    Paused,
    Restarting,
    Exited,
    Gone,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// There is no health check.
    Unknown,
    Starting,
    Healthy,
    Unhealthy,
}

impl State {
    /// The engine's word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Restarting => "restarting",
            Self::Exited => "exited",
            Self::Gone => "removing",
        }
    }
}

impl Container {
    /// Reads what the engine says of a container; `None` without an id.
    pub(super) fn of(inspected: ContainerInspectResponse) -> Option<Self> {
        let id = inspected.id?;
        let config = inspected.config.unwrap_or_default();
        let state = inspected.state.unwrap_or_default();
        let policy = inspected.host_config.and_then(|host| host.restart_policy);
        let networks = inspected.network_settings.and_then(|settings| settings.networks);
        let addresses = networks.unwrap_or_default().into_values().flat_map(|endpoint| {
            [endpoint.ip_address, endpoint.global_ipv6_address].into_iter().flatten()
        });
        let mut addresses: Vec<IpAddr> = addresses.filter_map(|text| text.parse().ok()).collect();
        addresses.sort_unstable();
        Some(Self {
            id: id.into(),
            name: inspected.name.unwrap_or_default().trim_start_matches('/').to_owned(),
            image: config.image.unwrap_or_default(),
            created: inspected.created.unwrap_or_default(),
            belongs: Belongs::of(&config.labels.unwrap_or_default()),
            health: health(state.health.and_then(|health| health.status)),
            exit_code: state.exit_code.unwrap_or_default(),
            out_of_memory: state.oom_killed.unwrap_or_default(),
            restarts: inspected.restart_count.unwrap_or_default(),
            restarts_always: matches!(
                policy.and_then(|policy| policy.name),
                Some(RestartPolicyNameEnum::ALWAYS | RestartPolicyNameEnum::UNLESS_STOPPED)
            ),
            pid: state.pid.and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid > 0),
            state: state_of(state.status),
            addresses,
        })
    }

    /// A service's container in a project, as tests need one.
    #[cfg(test)]
    pub(in crate::wake) fn sample(project: &str, service: &str, state: State) -> Self {
        Self {
            id: service.into(),
            name: format!("{project}_{service}_1"),
            image: "image".into(),
            created: "2026-01-01T00:00:00Z".into(),
            belongs: Belongs {
                project: Some(project.into()),
                service: Some(service.into()),
                ..Belongs::default()
            },
            state,
            health: Health::Unknown,
            exit_code: 0,
            out_of_memory: false,
            restarts: 0,
            restarts_always: false,
            addresses: Vec::new(),
            pid: None,
        }
    }

    /// Whether a proxy's entrypoint of that name means this container.
    #[must_use]
    pub fn is_called(&self, name: &str) -> bool {
        self.name == name || self.belongs.service.as_deref() == Some(name)
    }
}

impl Belongs {
    pub(super) fn of(labels: &HashMap<String, String>) -> Self {
        let label = |name: &str| labels.get(name).filter(|text| !text.is_empty()).cloned();
        Self {
            app: label(APP_LABEL),
            project: label(PROJECT),
            service: label(SERVICE),
            depends_on: dependencies(labels.get(DEPENDS_ON).map_or("", String::as_str)),
            one_off: label(ONE_OFF).is_some_and(|text| text.eq_ignore_ascii_case("true")),
            swarm_service: label(SWARM_SERVICE),
        }
    }
}

/// `db:service_healthy:true,init:service_completed_successfully:false`, as Compose
/// writes it; the last part says whether a restart is passed on.
fn dependencies(text: &str) -> Vec<Dependency> {
    let entries = text.split(',').map(str::trim).filter(|entry| !entry.is_empty());
    entries
        .map(|entry| {
            let mut parts = entry.split(':');
            let service = parts.next().unwrap_or_default().to_owned();
            let condition = match parts.next() {
                Some("service_healthy") => Condition::Healthy,
                Some("service_completed_successfully") => Condition::Completed,
                _ => Condition::Started,
            };
            Dependency { service, condition }
        })
        .collect()
}

fn state_of(status: Option<ContainerStateStatusEnum>) -> State {
    use ContainerStateStatusEnum as Word;
    match status {
        Some(Word::RUNNING) => State::Running,
        Some(Word::PAUSED) => State::Paused,
        Some(Word::RESTARTING) => State::Restarting,
        Some(Word::CREATED) => State::Created,
        Some(Word::REMOVING | Word::DEAD) => State::Gone,
        // On its way there, as far as a request is concerned.
        Some(Word::EXITED | Word::STOPPING | Word::EMPTY) | None => State::Exited,
    }
}

fn health(status: Option<HealthStatusEnum>) -> Health {
    match status {
        Some(HealthStatusEnum::STARTING) => Health::Starting,
        Some(HealthStatusEnum::HEALTHY) => Health::Healthy,
        Some(HealthStatusEnum::UNHEALTHY) => Health::Unhealthy,
        Some(HealthStatusEnum::NONE | HealthStatusEnum::EMPTY) | None => Health::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_say_where_a_container_belongs() {
        let labels = [
            (PROJECT, "wiki"),
            (SERVICE, "web"),
            (ONE_OFF, "False"),
            (DEPENDS_ON, "db:service_healthy:true, init:service_completed_successfully,log"),
        ];
        let labels = labels.map(|(name, text)| (name.to_owned(), text.to_owned())).into();
        let belongs = Belongs::of(&labels);
        assert_eq!(belongs.project.as_deref(), Some("wiki"));
        assert!(!belongs.one_off && belongs.swarm_service.is_none());
        let conditions: Vec<_> = belongs
            .depends_on
            .iter()
            .map(|dependency| (dependency.service.as_str(), dependency.condition))
            .collect();
        assert_eq!(
            conditions,
            [
                ("db", Condition::Healthy),
                ("init", Condition::Completed),
                ("log", Condition::Started)
            ]
        );
    }
}
