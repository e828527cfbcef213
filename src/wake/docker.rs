//! The container engine; no other module uses its client.
//!
//! [`Engine`] calls it, [`watch`] follows its events. Every call has a time limit; an
//! engine that does not answer results in [`EngineError::Away`].

mod container;
mod ends;
mod exec;
mod pausing;
mod service;
pub mod watch;

use std::collections::{BTreeSet, HashMap};
use std::future::Future;
use std::sync::Arc;
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
use crate::error_chain::Chain;

pub use container::{
    APP_LABEL, Container, Dependency, DependencyCondition, EndedBy, Health, Labels, State,
};
pub use exec::Commands;
pub use service::Service;

/// For calls that only read.
const READ_TIMEOUT: Duration = Duration::from_secs(10);

/// For starting, pausing and unpausing: the engine sets up networks and mounts.
const ACT_TIMEOUT: Duration = Duration::from_secs(60);

/// For stopping, in addition to the time that a container has to end.
const STOP_TIMEOUT: Duration = Duration::from_secs(140);

/// Upper limit for stopping, since some containers have unlimited time to end.
const MAX_STOP_TIMEOUT: Duration = Duration::from_secs(3600);

/// Versions of the API that are tried if the engine, or a proxy in front of it, does not
/// report its version: Docker 25 and 20.10.
const FALLBACK_VERSIONS: [ClientVersion; 2] = [
    ClientVersion { major_version: 1, minor_version: 44 },
    ClientVersion { major_version: 1, minor_version: 41 },
];

/// The containers and services of the engine, as last seen.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Whether the engine's events are being received.
    pub live: bool,
    /// Whether it was ever listed.
    pub was_listed: bool,
    pub containers: HashMap<Arc<str>, Arc<Container>>,
    /// The ids of containers that the engine has listed and does not describe. If one was
    /// described before, that counts.
    pub unread: BTreeSet<Arc<str>>,
    /// Of a swarm that this engine manages; empty otherwise.
    pub services: HashMap<Arc<str>, Arc<Service>>,
}

impl Snapshot {
    /// Returns the container whose network a container uses: itself, or the one whose
    /// network it joins.
    #[must_use]
    pub fn network_owner<'a>(&'a self, container: &'a Arc<Container>) -> &'a Arc<Container> {
        let joined = container.joins.as_ref().and_then(|id| self.containers.get(id));
        joined.unwrap_or(container)
    }

    /// Returns whether a service waits for its first task.
    fn is_scaling(&self) -> bool {
        self.services.values().any(|service| service.state() == State::Created)
    }
}

/// Why a call to the engine failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum EngineError {
    #[error("the engine does not answer: {0}")]
    Away(String),
    /// 404.
    #[error("not found: {0}")]
    NotFound(String),
    /// 409: the container is not in the expected state.
    #[error("conflict: {0}")]
    Conflict(String),
    #[error("refused with status {status}: {message}")]
    Refused { status: u16, message: String },
}

/// A container engine; it cannot be called until [`watch`] has connected to it.
#[derive(Debug)]
pub struct Engine {
    endpoint: DockerEndpoint,
    client: ArcSwapOption<Docker>,
    pausing: pausing::Pausing,
}

impl Engine {
    #[must_use]
    pub fn new(endpoint: DockerEndpoint) -> Self {
        Self { endpoint, client: ArcSwapOption::empty(), pausing: pausing::Pausing::default() }
    }

    /// Connects, and negotiates the version of the API.
    async fn connect(&self) -> Result<(), EngineError> {
        let limit = READ_TIMEOUT.as_secs();
        let version = bollard::API_DEFAULT_VERSION;
        let client = match &self.endpoint {
            DockerEndpoint::Unix(path) => {
                Docker::connect_with_unix(&path.display().to_string(), limit, version)
            }
            DockerEndpoint::Tcp(address) => Docker::connect_with_http(address, limit, version),
            DockerEndpoint::Tls { address, certificates } => {
                let file = |name| certificates.join(name);
                let (key, cert, ca) = (file("key.pem"), file("cert.pem"), file("ca.pem"));
                // Fails if a provider was installed before.
                let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
                Docker::connect_with_ssl(address, &key, &cert, &ca, limit, version)
            }
        };
        // The client's own limit covers only the head of the answer; ours covers all of
        // it.
        let client = client?.with_timeout(MAX_STOP_TIMEOUT);
        let client = match with_timeout(READ_TIMEOUT, client.clone().negotiate_version()).await {
            Ok(client) => client,
            Err(away @ EngineError::Away(_)) => return Err(away),
            Err(refused) => self.try_versions(limit, refused).await?,
        };
        self.client.store(Some(Arc::new(client)));
        self.pausing.reset();
        Ok(())
    }

    /// Tries known versions, for a proxy in front of the engine that forbids the version
    /// call.
    async fn try_versions(&self, limit: u64, refused: EngineError) -> Result<Docker, EngineError> {
        for version in &FALLBACK_VERSIONS {
            let client = match &self.endpoint {
                DockerEndpoint::Unix(path) => {
                    Docker::connect_with_unix(&path.display().to_string(), limit, version)?
                }
                DockerEndpoint::Tcp(address) => Docker::connect_with_http(address, limit, version)?,
                DockerEndpoint::Tls { .. } => break,
            };
            let options = ListContainersOptionsBuilder::new().limit(1).build();
            if with_timeout(READ_TIMEOUT, client.list_containers(Some(options))).await.is_ok() {
                return Ok(client.with_timeout(MAX_STOP_TIMEOUT));
            }
        }
        Err(refused)
    }

    fn client(&self) -> Result<Arc<Docker>, EngineError> {
        self.client.load_full().ok_or_else(|| EngineError::Away("not connected yet".into()))
    }

    /// Checks whether the engine answers at all.
    async fn probe(&self) -> Result<(), EngineError> {
        match with_timeout(READ_TIMEOUT, self.client()?.ping()).await {
            Err(away @ EngineError::Away(_)) => Err(away),
            // A refusal by a proxy is an answer, too.
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Returns the ids of all containers, including stopped ones.
    async fn list(&self) -> Result<Vec<Arc<str>>, EngineError> {
        let options = ListContainersOptionsBuilder::new().all(true).build();
        let listed =
            with_timeout(READ_TIMEOUT, self.client()?.list_containers(Some(options))).await?;
        Ok(listed.into_iter().filter_map(|container| container.id.map(Arc::from)).collect())
    }

    /// Streams the events of containers and services from `since` on, in seconds since
    /// 1970 on the engine's clock.
    fn events(
        &self,
        since: u64,
    ) -> Result<impl Stream<Item = Result<EventMessage, Error>> + use<>, EngineError> {
        // Leaves out the commands of health checks, which are most of all events.
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

    /// Returns the current state of a container; `None` if it does not exist.
    pub async fn inspect(&self, id: &str) -> Result<Option<Container>, EngineError> {
        match with_timeout(READ_TIMEOUT, self.client()?.inspect_container(id, None)).await {
            Ok(inspected) => Ok(Container::from_inspection(inspected)),
            Err(EngineError::NotFound(_)) => Ok(None),
            // The engine holds a container's lock while it is stuck, as on a mount whose server
            // is gone. If all else is answered, only this one cannot be inspected.
            Err(EngineError::Away(reason)) => match self.probe().await {
                Ok(()) => Err(EngineError::Refused { status: 0, message: reason }),
                Err(away) => Err(away),
            },
            Err(error) => Err(error),
        }
    }

    /// Starts a container. Not an error if it is running already.
    pub async fn start(&self, id: &str) -> Result<(), EngineError> {
        with_timeout(ACT_TIMEOUT, self.client()?.start_container(id, None)).await
    }

    /// Stops a container. Not an error if it is not running.
    pub async fn stop(&self, container: &Container) -> Result<(), EngineError> {
        let limit = stop_timeout(container.stop_grace);
        with_timeout(limit, self.client()?.stop_container(&container.id, None)).await
    }

    /// Returns the id that an image's name refers to; `None` if there is no such image or
    /// the call fails.
    pub async fn image_id(&self, name: &str) -> Option<String> {
        let client = self.client().ok()?;
        with_timeout(READ_TIMEOUT, client.inspect_image(name)).await.ok()?.id
    }

    /// Removes the containers and networks of a Compose project; its volumes stay.
    pub async fn remove_project(&self, project: &str) -> Result<(), EngineError> {
        let client = self.client()?;
        let filters = HashMap::from([("label", vec![format!("{}={project}", container::PROJECT)])]);
        let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
        let containers = with_timeout(READ_TIMEOUT, client.list_containers(Some(options))).await?;
        for id in containers.iter().filter_map(|container| container.id.as_deref()) {
            let options = RemoveContainerOptionsBuilder::new().force(true).build();
            match with_timeout(STOP_TIMEOUT, client.remove_container(id, Some(options))).await {
                // Another client is removing it.
                Ok(()) | Err(EngineError::NotFound(_) | EngineError::Conflict(_)) => {}
                Err(error) => return Err(error),
            }
        }
        let options = ListNetworksOptionsBuilder::new().filters(&filters).build();
        let networks = with_timeout(READ_TIMEOUT, client.list_networks(Some(options))).await?;
        for id in networks.iter().filter_map(|network| network.id.as_deref()) {
            // A network that is still in use by other containers stays.
            let _ = with_timeout(READ_TIMEOUT, client.remove_network(id)).await;
        }
        Ok(())
    }

    /// Returns what a container has used since it started, without the engine's wait for
    /// a second sample.
    pub async fn usage(&self, id: &str) -> Result<Usage, EngineError> {
        let options = StatsOptionsBuilder::new().stream(false).one_shot(true).build();
        let client = self.client()?;
        let stats = client.stats(id, Some(options));
        let first = async {
            let mut stats = std::pin::pin!(stats);
            stats.next().await.unwrap_or_else(|| Ok(ContainerStatsResponse::default()))
        };
        let stats = with_timeout(READ_TIMEOUT, first).await?;
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

/// Returns how long the engine may take to stop a container with this time to end.
fn stop_timeout(grace: Option<Duration>) -> Duration {
    grace.map_or(MAX_STOP_TIMEOUT, |grace| grace.saturating_add(STOP_TIMEOUT)).min(MAX_STOP_TIMEOUT)
}

/// Runs a call with a time limit.
async fn with_timeout<T>(
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
            // The cause of a failed connection is only in the error's sources.
            other => Self::Away(Chain(&other).to_string()),
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
            assert_eq!(stop_timeout(grace.map(Duration::from_secs)), limit, "{grace:?}");
        }
    }
}
