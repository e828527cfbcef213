//! The container engine; nothing else knows its client.
//!
//! [`Engine`] calls it, [`watch`] follows what happens in it. Every call has a time
//! limit; an engine that does not answer is [`EngineError::Away`] and no more.

mod container;
mod ends;
mod exec;
mod service;
pub mod watch;

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use bollard::errors::Error;
use bollard::models::{ContainerStatsResponse, EventMessage};
use bollard::query_parameters::{
    EventsOptionsBuilder, ListContainersOptionsBuilder, ListNetworksOptionsBuilder,
    RemoveContainerOptionsBuilder, StatsOptionsBuilder,
};
use bollard::{ClientVersion, Docker};
use tokio::time::timeout;
use tokio_stream::{Stream, StreamExt};

use crate::config::DockerEndpoint;

pub use container::{APP_LABEL, Belongs, Condition, Container, Dependency, EndedBy, Health, State};
pub use exec::Commands;
pub use service::Service;

/// For calls that only look.
const LOOK_LIMIT: Duration = Duration::from_secs(10);

/// For starting, pausing and unpausing: the engine sets up networks and mounts.
const ACT_LIMIT: Duration = Duration::from_secs(60);

/// For stopping, beside the time that a container has to end.
const STOP_LIMIT: Duration = Duration::from_secs(140);

/// For stopping at most: some containers have as long as they take.
const LONGEST_STOP: Duration = Duration::from_secs(3600);

/// Versions of the API that are tried where the engine, or a proxy before it, does not
/// say which it speaks: Docker 25 and 20.10.
const FALLBACK_VERSIONS: [ClientVersion; 2] = [
    ClientVersion { major_version: 1, minor_version: 44 },
    ClientVersion { major_version: 1, minor_version: 41 },
];

/// All there is in the engine, as last seen.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Whether the engine tells what changes.
    pub live: bool,
    /// Whether it was ever listed.
    pub was_listed: bool,
    pub containers: HashMap<Arc<str>, Arc<Container>>,
    /// Of a swarm that this engine manages; empty otherwise.
    pub services: HashMap<Arc<str>, Arc<Service>>,
}

impl Snapshot {
    /// The container whose network a container is in: its own, or that of another.
    #[must_use]
    pub fn networked<'a>(&'a self, container: &'a Arc<Container>) -> &'a Arc<Container> {
        let joined = container.joins.as_ref().and_then(|id| self.containers.get(id));
        joined.unwrap_or(container)
    }

    /// Whether a service waits for its first task.
    fn is_scaling(&self) -> bool {
        self.services.values().any(|service| service.state() == State::Created)
    }
}

/// Why the engine did not do what it was told.
#[derive(Debug, Clone, thiserror::Error)]
pub enum EngineError {
    #[error("the engine does not answer: {0}")]
    Away(String),
    /// 404.
    #[error("not found: {0}")]
    NotFound(String),
    /// 409: the container is in another state than was thought.
    #[error("in conflict: {0}")]
    Conflict(String),
    #[error("refused with status {status}: {message}")]
    Refused { status: u16, message: String },
}

/// A container engine, of which nothing is known until [`watch`] has found it.
#[derive(Debug)]
pub struct Engine {
    endpoint: DockerEndpoint,
    client: ArcSwapOption<Docker>,
    /// Whether it has refused to pause anything since it was found.
    pauses_nothing: AtomicBool,
}

impl Engine {
    #[must_use]
    pub fn new(endpoint: DockerEndpoint) -> Self {
        Self { endpoint, client: ArcSwapOption::empty(), pauses_nothing: AtomicBool::new(false) }
    }

    /// Finds out which version of the API is spoken.
    async fn connect(&self) -> Result<(), EngineError> {
        let limit = LOOK_LIMIT.as_secs();
        let version = bollard::API_DEFAULT_VERSION;
        let client = match &self.endpoint {
            DockerEndpoint::Unix(path) => {
                Docker::connect_with_unix(&path.display().to_string(), limit, version)
            }
            DockerEndpoint::Tcp(address) => Docker::connect_with_http(address, limit, version),
            DockerEndpoint::Tls { address, certificates } => {
                let file = |name| certificates.join(name);
                let (key, cert, ca) = (file("key.pem"), file("cert.pem"), file("ca.pem"));
                // Fails where it was done before.
                let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
                Docker::connect_with_ssl(address, &key, &cert, &ca, limit, version)
            }
        };
        // The client's own limit is for the answer's head; ours is for all of it.
        let client = client?.with_timeout(LONGEST_STOP);
        let client = match within(LOOK_LIMIT, client.clone().negotiate_version()).await {
            Ok(client) => client,
            Err(away @ EngineError::Away(_)) => return Err(away),
            Err(refused) => self.guess_version(limit, refused).await?,
        };
        self.client.store(Some(Arc::new(client)));
        // It may be another one by now, or a proxy that allows more.
        self.pauses_nothing.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// A proxy before the engine may forbid to ask for the version.
    async fn guess_version(&self, limit: u64, refused: EngineError) -> Result<Docker, EngineError> {
        for version in &FALLBACK_VERSIONS {
            let client = match &self.endpoint {
                DockerEndpoint::Unix(path) => {
                    Docker::connect_with_unix(&path.display().to_string(), limit, version)?
                }
                DockerEndpoint::Tcp(address) => Docker::connect_with_http(address, limit, version)?,
                DockerEndpoint::Tls { .. } => break,
            };
            let options = ListContainersOptionsBuilder::new().limit(1).build();
            if within(LOOK_LIMIT, client.list_containers(Some(options))).await.is_ok() {
                return Ok(client.with_timeout(LONGEST_STOP));
            }
        }
        Err(refused)
    }

    fn client(&self) -> Result<Arc<Docker>, EngineError> {
        self.client.load_full().ok_or_else(|| EngineError::Away("not found yet".into()))
    }

    /// Whether it answers at all.
    async fn probe(&self) -> Result<(), EngineError> {
        match within(LOOK_LIMIT, self.client()?.ping()).await {
            Err(away @ EngineError::Away(_)) => Err(away),
            // A proxy that forbids the question is an answer, too.
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Ids of all containers, stopped ones too.
    async fn list(&self) -> Result<Vec<Arc<str>>, EngineError> {
        let options = ListContainersOptionsBuilder::new().all(true).build();
        let listed = within(LOOK_LIMIT, self.client()?.list_containers(Some(options))).await?;
        Ok(listed.into_iter().filter_map(|container| container.id.map(Arc::from)).collect())
    }

    /// What happens to containers and services from `since` on, in seconds since 1970
    /// on the engine's clock.
    fn events(
        &self,
        since: u64,
    ) -> Result<impl Stream<Item = Result<EventMessage, Error>> + use<>, EngineError> {
        // Without the commands of health checks, which are most of what happens.
        let actions = [
            "create",
            "start",
            "restart",
            "stop",
            "die",
            "died",
            "kill",
            "oom",
            "pause",
            "unpause",
            "destroy",
            "remove",
            "rename",
            "update",
            "health_status",
        ];
        let filters =
            HashMap::from([("type", vec!["container", "service"]), ("event", actions.to_vec())]);
        let options =
            EventsOptionsBuilder::new().since(&since.to_string()).filters(&filters).build();
        Ok(self.client()?.events(Some(options)))
    }

    /// A container as it is now; `None` where it is gone.
    pub async fn inspect(&self, id: &str) -> Result<Option<Container>, EngineError> {
        match within(LOOK_LIMIT, self.client()?.inspect_container(id, None)).await {
            Ok(inspected) => Ok(Container::of(inspected)),
            Err(EngineError::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// No error where it runs already.
    pub async fn start(&self, id: &str) -> Result<(), EngineError> {
        within(ACT_LIMIT, self.client()?.start_container(id, None)).await
    }

    pub async fn pause(&self, id: &str) -> Result<(), EngineError> {
        let paused = within(ACT_LIMIT, self.client()?.pause_container(id)).await;
        match &paused {
            Ok(()) => self.pauses_nothing.store(false, Ordering::Relaxed),
            Err(error) if error.is_of_all() => self.gives_up_pausing(),
            Err(_) => {}
        }
        paused
    }

    /// Whether it is known to pause no container, so that apps can only be stopped.
    pub fn pauses_nothing(&self) -> bool {
        self.pauses_nothing.load(Ordering::Relaxed)
    }

    /// Remembers that what is paused could not be brought back, or paused at all.
    pub fn gives_up_pausing(&self) {
        self.pauses_nothing.store(true, Ordering::Relaxed);
    }

    pub async fn unpause(&self, id: &str) -> Result<(), EngineError> {
        within(ACT_LIMIT, self.client()?.unpause_container(id)).await
    }

    /// No error where it does not run.
    pub async fn stop(&self, container: &Container) -> Result<(), EngineError> {
        let limit = stop_limit(container.stop_grace);
        within(limit, self.client()?.stop_container(&container.id, None)).await
    }

    /// The id that an image's name leads to; `None` where there is none, or nobody says.
    pub async fn image_id(&self, name: &str) -> Option<String> {
        let client = self.client().ok()?;
        within(LOOK_LIMIT, client.inspect_image(name)).await.ok()?.id
    }

    /// Removes the containers and networks of a Compose project; its volumes stay.
    pub async fn remove_project(&self, project: &str) -> Result<(), EngineError> {
        let client = self.client()?;
        let filters = HashMap::from([("label", vec![format!("{}={project}", container::PROJECT)])]);
        let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
        let containers = within(LOOK_LIMIT, client.list_containers(Some(options))).await?;
        for id in containers.iter().filter_map(|container| container.id.as_deref()) {
            let options = RemoveContainerOptionsBuilder::new().force(true).build();
            match within(STOP_LIMIT, client.remove_container(id, Some(options))).await {
                // Somebody else is removing it.
                Ok(()) | Err(EngineError::NotFound(_) | EngineError::Conflict(_)) => {}
                Err(error) => return Err(error),
            }
        }
        let options = ListNetworksOptionsBuilder::new().filters(&filters).build();
        let networks = within(LOOK_LIMIT, client.list_networks(Some(options))).await?;
        for id in networks.iter().filter_map(|network| network.id.as_deref()) {
            // One that others still use stays.
            let _ = within(LOOK_LIMIT, client.remove_network(id)).await;
        }
        Ok(())
    }

    /// What a container has used since it started; the engine is told not to wait for a
    /// second sample.
    pub async fn usage(&self, id: &str) -> Result<Usage, EngineError> {
        let options = StatsOptionsBuilder::new().stream(false).one_shot(true).build();
        let client = self.client()?;
        let stats = client.stats(id, Some(options));
        let first = async {
            let mut stats = std::pin::pin!(stats);
            stats.next().await.unwrap_or_else(|| Ok(ContainerStatsResponse::default()))
        };
        let stats = within(LOOK_LIMIT, first).await?;
        let cpu = stats.cpu_stats.and_then(|cpu| cpu.cpu_usage?.total_usage);
        let mut usage = Usage { cpu: cpu.unwrap_or_default(), ..Usage::default() };
        for network in stats.networks.unwrap_or_default().values() {
            usage.received += network.rx_bytes.unwrap_or_default();
            usage.sent += network.tx_bytes.unwrap_or_default();
        }
        Ok(usage)
    }
}

/// What a container has used since it started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Bytes over all its networks.
    pub received: u64,
    pub sent: u64,
    /// Processor time in nanoseconds.
    pub cpu: u64,
}

impl EngineError {
    /// Whether a refusal to pause is about all containers: that of a proxy which forbids
    /// the call, or of an engine whose kernel or rights have no freezer for it.
    fn is_of_all(&self) -> bool {
        const WORDS: [&str; 5] =
            ["freezer", "cgroup", "rootless", "not supported", "not implemented"];
        let Self::Refused { status, message } = self else { return false };
        let message = message.to_lowercase();
        matches!(status, 401 | 403 | 405 | 501) || WORDS.iter().any(|word| message.contains(word))
    }
}

/// How long the engine may take to stop a container that has so long to end.
fn stop_limit(grace: Option<Duration>) -> Duration {
    grace.map_or(LONGEST_STOP, |grace| grace.saturating_add(STOP_LIMIT)).min(LONGEST_STOP)
}

/// A call with its time limit.
async fn within<T>(
    limit: Duration,
    call: impl Future<Output = Result<T, Error>>,
) -> Result<T, EngineError> {
    match timeout(limit, call).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(EngineError::Away(format!("no answer within {limit:?}"))),
    }
}

impl From<Error> for EngineError {
    fn from(error: Error) -> Self {
        match error {
            Error::DockerResponseServerError { status_code: 404, message } => {
                Self::NotFound(message)
            }
            Error::DockerResponseServerError { status_code: 409, message } => {
                Self::Conflict(message)
            }
            Error::DockerResponseServerError { status_code: status, message } => {
                Self::Refused { status, message }
            }
            Error::JsonDataError { message, .. } => Self::Refused { status: 200, message },
            // A connection that failed says why in its sources only.
            other => {
                let mut text = other.to_string();
                let mut source = std::error::Error::source(&other);
                while let Some(cause) = source {
                    text = format!("{text}: {cause}");
                    source = cause.source();
                }
                Self::Away(text)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_may_take_its_time_to_stop() {
        for (grace, limit) in [
            (Some(0), 140),
            (Some(10), 150),
            (Some(600), 740),
            (Some(u64::MAX), 3600),
            (None, 3600),
        ] {
            let limit = Duration::from_secs(limit);
            assert_eq!(stop_limit(grace.map(Duration::from_secs)), limit, "{grace:?}");
        }
    }

    #[test]
    fn a_refusal_to_pause_is_of_one_container_or_of_all() {
        let refused = |status, message: &str| {
            EngineError::Refused { status, message: message.into() }.is_of_all()
        };
        assert!(refused(403, "Forbidden"));
        assert!(refused(500, "cannot pause: freezer cgroup is not available"));
        assert!(refused(500, "can not pause containers on rootless with cgroup V1"));
        assert!(!refused(500, "ttrpc: closed"));
        assert!(!EngineError::Conflict("it is paused".into()).is_of_all());
    }
}
