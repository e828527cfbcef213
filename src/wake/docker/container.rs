//! One container, with the properties that waking needs.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bollard::models::{
    ContainerInspectResponse, ContainerStateStatusEnum, HealthConfig, HealthStatusEnum,
    RestartPolicyNameEnum,
};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::domain::app::labels::{Labelled, app_names};

/// The label that names the app a container or a service belongs to, if neither its
/// Compose project nor its name does. Several apps that share it are separated by commas.
pub const APP_LABEL: &str = "nightporter.app";

/// How long the engine gives a container to end if nothing is configured.
const STOP_GRACE: Duration = Duration::from_secs(10);

/// Prefix of the network mode of a container that joins another one's network.
const JOINS: &str = "container:";

/// The engine's own interval between health checks.
const FIRST_CHECK: Duration = Duration::from_secs(30);

pub(super) const PROJECT: &str = "com.docker.compose.project";
const SERVICE: &str = "com.docker.compose.service";
const ONE_OFF: &str = "com.docker.compose.oneoff";
const CONFIG_HASH: &str = "com.docker.compose.config-hash";
const CONFIG_FILES: &str = "com.docker.compose.project.config_files";
const WORKING_DIR: &str = "com.docker.compose.project.working_dir";
const DEPENDS_ON: &str = "com.docker.compose.depends_on";
pub(super) const SWARM_SERVICE: &str = "com.docker.swarm.service.id";

/// The state of a container, as last seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    pub id: Arc<str>,
    /// Without the slash that the engine puts before it.
    pub name: String,
    pub image: String,
    /// The id that the image's name referred to when the container was created.
    pub image_id: String,
    /// When it was created, in the engine's notation, which sorts by time.
    pub created: String,
    /// When it was created, when it was last started, and when its last run ended, all in
    /// milliseconds since 1970 by the engine's clock.
    pub made: Option<i64>,
    pub started: Option<i64>,
    pub finished: Option<i64>,
    pub labels: Labels,
    pub state: State,
    pub health: Health,
    /// The command of its health check.
    pub check: String,
    /// Time from a start to the first run of that check.
    pub first_check: Duration,
    /// Whether a run of that check has finished since the start, whatever its result.
    pub was_checked: bool,
    /// Exit code of the last run that ended.
    pub exit_code: i64,
    /// Who ended that run.
    pub ended: EndedBy,
    /// Whether it was seen to end by itself with exit code 0.
    pub has_finished: bool,
    pub out_of_memory: bool,
    /// Restarts by the engine itself since the last explicit start.
    pub restarts: i64,
    /// Whether the engine restarts it whenever it ends.
    pub restarts_always: bool,
    /// Whether the engine removes it when it ends, as after `docker run --rm`.
    pub is_removed_at_end: bool,
    /// How long it has to end before it is killed; `None` if that is unlimited.
    pub stop_grace: Option<Duration>,
    /// The addresses at which it can be reached, while it runs.
    pub addresses: Vec<IpAddr>,
    /// The id of the container whose network, and therefore addresses, it uses.
    pub joins: Option<Arc<str>>,
    /// Its fixed addresses, configured for every run.
    pub fixed_addresses: Vec<IpAddr>,
    /// Ports of the host that are published to it, while it runs.
    pub ports: Vec<u16>,
    /// The id of its first process, while it runs.
    pub pid: Option<u32>,
    /// What describes the app that it belongs to; `None` if no label does.
    pub labelled: Option<Arc<Labelled>>,
}

/// What its labels say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Labels {
    /// The apps named by [`APP_LABEL`]; more than one if apps share it.
    pub apps: Vec<String>,
    pub project: Option<String>,
    pub service: Option<String>,
    pub depends_on: Vec<Dependency>,
    /// The hash of the configuration that Compose created it from.
    pub config_hash: Option<String>,
    /// The compose files that it was created from, relative to the project's folder if
    /// they are in it.
    pub config_files: Vec<PathBuf>,
    /// Created by `compose run`: not a part of the running project.
    pub one_off: bool,
    /// The swarm service it is a task of; only the swarm starts and stops it.
    pub swarm_service: Option<String>,
}

/// A service that must meet a condition before this one is started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dependency {
    pub service: String,
    pub condition: DependencyCondition,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DependencyCondition {
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
    /// The container has no health check.
    Unknown,
    Starting,
    Healthy,
    Unhealthy,
}

/// Who ended the last run of a container, as far as the events have shown it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EndedBy {
    /// It has not ended yet, or its end was not observed.
    #[default]
    Unknown,
    /// It ended without a signal that was sent through the engine.
    Itself,
    /// nightporter, to put the app to sleep.
    Nightporter,
    /// The engine has refused to start it again.
    Refused,
    OtherClient,
}

impl State {
    /// Returns the engine's word for it.
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
    /// Converts the engine's description of a container; `None` if it has no id.
    pub(super) fn from_inspection(inspected: ContainerInspectResponse) -> Option<Self> {
        let id = inspected.id?;
        let config = inspected.config.unwrap_or_default();
        let state = inspected.state.unwrap_or_default();
        let name = inspected.name.unwrap_or_default().trim_start_matches('/').to_owned();
        let raw_labels = config.labels.unwrap_or_default();
        let labels = Labels::new(&raw_labels);
        let exposed = config.exposed_ports.unwrap_or_default();
        let labelled = labels.describing(&name, raw_labels, tcp_ports(&exposed));
        let check = config.healthcheck.unwrap_or_default();
        let started = state.started_at.as_deref().and_then(parse_time);
        let checks = state.health.as_ref().and_then(|health| health.log.as_ref());
        let host = inspected.host_config.unwrap_or_default();
        let joined = host.network_mode.as_deref().and_then(|mode| mode.strip_prefix(JOINS));
        let policy = host.restart_policy;
        let settings = inspected.network_settings.unwrap_or_default();
        let bound = settings.ports.into_iter().flat_map(HashMap::into_values).flatten().flatten();
        let ports = bound.filter_map(|port| port.host_port?.parse().ok()).collect();
        let endpoints = || settings.networks.iter().flat_map(HashMap::values);
        let addresses = sorted(endpoints().flat_map(|endpoint| {
            [endpoint.ip_address.as_deref(), endpoint.global_ipv6_address.as_deref()]
        }));
        let ipam = endpoints().filter_map(|endpoint| endpoint.ipam_config.as_ref());
        let fixed_addresses = sorted(
            ipam.flat_map(|ipam| [ipam.ipv4_address.as_deref(), ipam.ipv6_address.as_deref()]),
        );
        Some(Self {
            id: id.into(),
            name,
            image: config.image.unwrap_or_default(),
            made: inspected.created.as_deref().and_then(parse_time),
            image_id: inspected.image.unwrap_or_default(),
            ports,
            created: inspected.created.unwrap_or_default(),
            started,
            finished: state.finished_at.as_deref().and_then(parse_time),
            ended: EndedBy::default(),
            has_finished: false,
            labels,
            labelled,
            first_check: first_check(&check),
            check: check.test.unwrap_or_default().join(" "),
            was_checked: checks
                .into_iter()
                .flatten()
                .any(|check| check.start.as_deref().and_then(parse_time) >= started),
            health: health(state.health.and_then(|health| health.status)),
            exit_code: state.exit_code.unwrap_or_default(),
            out_of_memory: state.oom_killed.unwrap_or_default(),
            restarts: inspected.restart_count.unwrap_or_default(),
            restarts_always: matches!(
                policy.and_then(|policy| policy.name),
                Some(RestartPolicyNameEnum::ALWAYS | RestartPolicyNameEnum::UNLESS_STOPPED)
            ),
            is_removed_at_end: host.auto_remove.unwrap_or_default(),
            // The engine writes an unlimited time as -1.
            stop_grace: config.stop_timeout.map_or(Some(STOP_GRACE), |seconds| {
                u64::try_from(seconds).ok().map(Duration::from_secs)
            }),
            joins: joined.map(Arc::from),
            pid: state.pid.and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid > 0),
            state: state_of(state.status),
            addresses,
            fixed_addresses,
        })
    }

    /// Returns a sample container of a service in a project, for tests.
    #[cfg(test)]
    pub(in crate::wake) fn sample(project: &str, service: &str, state: State) -> Self {
        Self {
            id: service.into(),
            name: format!("{project}_{service}_1"),
            image: "image".into(),
            image_id: "sha256:0".into(),
            ports: Vec::new(),
            created: "2026-01-01T00:00:00Z".into(),
            made: None,
            started: None,
            finished: None,
            ended: EndedBy::default(),
            has_finished: false,
            labels: Labels {
                project: Some(project.into()),
                service: Some(service.into()),
                ..Labels::default()
            },
            state,
            health: Health::Unknown,
            check: String::new(),
            first_check: FIRST_CHECK,
            was_checked: false,
            exit_code: 0,
            out_of_memory: false,
            restarts: 0,
            restarts_always: false,
            is_removed_at_end: false,
            stop_grace: Some(STOP_GRACE),
            joins: None,
            addresses: Vec::new(),
            fixed_addresses: Vec::new(),
            pid: None,
            labelled: None,
        }
    }

    /// Returns whether a proxy's entrypoint of that name refers to this container.
    #[must_use]
    pub fn is_called(&self, name: &str) -> bool {
        self.name == name || self.labels.service.as_deref() == Some(name)
    }
}

impl Labels {
    pub(super) fn new(labels: &HashMap<String, String>) -> Self {
        let label = |name: &str| labels.get(name).filter(|text| !text.is_empty()).cloned();
        Self {
            apps: app_names(labels.get(APP_LABEL).map_or("", String::as_str)),
            project: label(PROJECT),
            service: label(SERVICE),
            depends_on: dependencies(labels.get(DEPENDS_ON).map_or("", String::as_str)),
            config_hash: label(CONFIG_HASH),
            config_files: config_files(
                labels.get(CONFIG_FILES).map_or("", String::as_str),
                labels.get(WORKING_DIR).map_or("", String::as_str),
            ),
            one_off: label(ONE_OFF).is_some_and(|text| text.eq_ignore_ascii_case("true")),
            swarm_service: label(SWARM_SERVICE),
        }
    }

    /// Returns what describes the app of a container or service with these labels. Those of a
    /// task are its service's, and `compose run` copies those of the service that it runs.
    pub(super) fn describing(
        &self,
        name: &str,
        all: HashMap<String, String>,
        exposed: Vec<u16>,
    ) -> Option<Arc<Labelled>> {
        if self.one_off || self.swarm_service.is_some() {
            return None;
        }
        let service = self.project.clone().zip(self.service.clone());
        let all = all.into_iter().collect();
        let labelled = Labelled::new(name.to_owned(), service, &all, exposed);
        (!labelled.labels.is_empty()).then(|| Arc::new(labelled))
    }
}

fn sorted<'a>(texts: impl Iterator<Item = Option<&'a str>>) -> Vec<IpAddr> {
    let mut addresses: Vec<_> = texts.flatten().filter_map(|text| text.parse().ok()).collect();
    addresses.sort_unstable();
    addresses
}

/// Parses `compose.yaml,compose.override.yaml`; newer Compose writes absolute paths.
fn config_files(text: &str, folder: &str) -> Vec<PathBuf> {
    let files = text.split(',').filter(|file| !file.is_empty()).map(Path::new);
    files.map(|file| file.strip_prefix(folder).unwrap_or(file).to_owned()).collect()
}

/// Returns the ports of `80/tcp`, in order.
fn tcp_ports(exposed: &[String]) -> Vec<u16> {
    let mut ports: Vec<_> =
        exposed.iter().filter_map(|port| port.strip_suffix("/tcp")?.parse().ok()).collect();
    ports.sort_unstable();
    ports
}

/// Parses `db:service_healthy:true,init:service_completed_successfully:false`, as Compose
/// writes it; the last part says whether a restart is propagated.
fn dependencies(text: &str) -> Vec<Dependency> {
    let entries = text.split(',').map(str::trim).filter(|entry| !entry.is_empty());
    entries
        .map(|entry| {
            let mut parts = entry.split(':');
            let service = parts.next().unwrap_or_default().to_owned();
            let condition = match parts.next() {
                Some("service_healthy") => DependencyCondition::Healthy,
                Some("service_completed_successfully") => DependencyCondition::Completed,
                _ => DependencyCondition::Started,
            };
            Dependency { service, condition }
        })
        .collect()
}

/// Returns the time from a start to the first check; a start period has its own interval.
fn first_check(check: &HealthConfig) -> Duration {
    let set = |nanos: Option<i64>| u64::try_from(nanos?).ok().filter(|nanos| *nanos > 0);
    let interval = set(check.interval).map_or(FIRST_CHECK, Duration::from_nanos);
    match set(check.start_period).and(set(check.start_interval)) {
        Some(first) => Duration::from_nanos(first).min(interval),
        None => interval,
    }
}

/// Parses a time to milliseconds since 1970; `None` for the year 1, the engine's notation
/// of never.
fn parse_time(text: &str) -> Option<i64> {
    let at = OffsetDateTime::parse(text, &Rfc3339).ok()?;
    i64::try_from(at.unix_timestamp_nanos() / 1_000_000).ok().filter(|at| *at > 0)
}

fn state_of(status: Option<ContainerStateStatusEnum>) -> State {
    use ContainerStateStatusEnum as Status;
    match status {
        Some(Status::RUNNING) => State::Running,
        Some(Status::PAUSED) => State::Paused,
        Some(Status::RESTARTING) => State::Restarting,
        Some(Status::CREATED) => State::Created,
        Some(Status::REMOVING | Status::DEAD) => State::Gone,
        // For a request, a stopping container is as good as stopped.
        Some(Status::EXITED | Status::STOPPING | Status::EMPTY) | None => State::Exited,
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
    fn the_first_check_is_made_when_the_engine_makes_it() {
        let check = |interval, start_period, start_interval| {
            let second = |seconds: i64| Some(seconds * 1_000_000_000);
            let config = HealthConfig {
                interval: second(interval),
                start_period: second(start_period),
                start_interval: second(start_interval),
                ..HealthConfig::default()
            };
            first_check(&config).as_secs()
        };
        assert_eq!(check(120, 0, 0), 120);
        assert_eq!(check(0, 0, 0), 30);
        assert_eq!(check(120, 60, 2), 2);
        assert_eq!(check(120, 0, 2), 120, "without a start period");
    }

    #[test]
    fn times_are_read_in_any_zone_and_never_is_none() {
        assert_eq!(parse_time("1970-01-01T00:00:01.5Z"), Some(1500));
        assert_eq!(parse_time("1970-01-01T02:00:01.123456789+02:00"), Some(1123));
        assert_eq!(parse_time("0001-01-01T00:00:00Z"), None);
        assert_eq!(parse_time(""), None);
    }

    #[test]
    fn labels_say_where_a_container_belongs() {
        let labels = [
            (PROJECT, "wiki"),
            (SERVICE, "web"),
            (ONE_OFF, "False"),
            (DEPENDS_ON, "db:service_healthy:true, init:service_completed_successfully,log"),
        ];
        let labels = labels.map(|(name, text)| (name.to_owned(), text.to_owned())).into();
        let labels = Labels::new(&labels);
        assert_eq!(labels.project.as_deref(), Some("wiki"));
        assert!(!labels.one_off && labels.swarm_service.is_none());
        let conditions: Vec<_> = labels
            .depends_on
            .iter()
            .map(|dependency| (dependency.service.as_str(), dependency.condition))
            .collect();
        assert_eq!(
            conditions,
            [
                ("db", DependencyCondition::Healthy),
                ("init", DependencyCondition::Completed),
                ("log", DependencyCondition::Started)
            ]
        );
    }
}
