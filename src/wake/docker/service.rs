//! Services of a swarm: apps that are scaled instead of started.
//!
//! A swarm sends events about changes to a service, but not about its tasks starting and
//! ending, so these have to be polled ([`Engine::services`] is one call for all).

use std::collections::HashMap;
use std::sync::Arc;

use bollard::models::ServiceSpec;
use bollard::query_parameters::{ListServicesOptionsBuilder, UpdateServiceOptionsBuilder};

use crate::domain::app::labels::Labelled;

use super::{Engine, EngineError, Labels, READ_TIMEOUT, State, with_timeout};

/// What an engine outside a swarm, or one that is no manager, answers with status 503 (moby,
/// `daemon/cluster/errors.go`).
const NO_MANAGER: &str = "not a swarm manager";

/// The number of tasks an app has while it is awake.
pub const REPLICAS_LABEL: &str = "nightporter.replicas";

/// The number of tasks a service had before it was put to sleep.
const LAST_REPLICAS_LABEL: &str = "nightporter.last_replicas";

/// The stack a service belongs to: what a Compose project is to containers.
const STACK: &str = "com.docker.stack.namespace";

/// What was last seen of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    pub id: Arc<str>,
    pub name: String,
    pub labels: Labels,
    /// Desired number of tasks.
    pub replicas: u64,
    /// Tasks that run and, if there is a health check, pass it.
    pub running: u64,
    /// Number of tasks it is scaled to when it wakes.
    pub awake_replicas: u64,
    /// What describes the app that it belongs to; `None` if no label does.
    pub labelled: Option<Arc<Labelled>>,
}

impl Service {
    /// Returns the state of a container that corresponds to it.
    #[must_use]
    pub fn state(&self) -> State {
        match (self.replicas, self.running) {
            (0, _) => State::Exited,
            (_, 0) => State::Created,
            _ => State::Running,
        }
    }

    /// Returns whether a proxy's entrypoint of that name refers to this service; in a
    /// stack its own name follows the stack's.
    #[must_use]
    pub fn is_called(&self, name: &str) -> bool {
        self.name == name || self.labels.service.as_deref() == Some(name)
    }

    fn from_inspection(service: bollard::models::Service) -> Option<Self> {
        let spec = service.spec?;
        let name = spec.name.unwrap_or_default();
        let raw_labels = spec.labels.unwrap_or_default();
        // Global services and jobs cannot be scaled.
        let replicas = spec.mode?.replicated?.replicas.unwrap_or(1);
        let number = |label: &str| raw_labels.get(label).and_then(|text| text.parse().ok());
        let mut labels = Labels::new(&raw_labels);
        if let Some(stack) = raw_labels.get(STACK) {
            labels.service = name.strip_prefix(&format!("{stack}_")).map(str::to_owned);
            labels.project = Some(stack.clone());
        }
        let labelled = labels.describing(&name, raw_labels.clone(), Vec::new());
        Some(Self {
            id: service.id?.into(),
            labels,
            replicas: u64::try_from(replicas).unwrap_or_default(),
            running: service.service_status.and_then(|status| status.running_tasks).unwrap_or(0),
            awake_replicas: number(REPLICAS_LABEL)
                .or_else(|| number(LAST_REPLICAS_LABEL))
                .filter(|replicas| *replicas > 0)
                .unwrap_or(1),
            name,
            labelled,
        })
    }
}

impl Engine {
    /// Returns all services that can be scaled; none if the engine manages no swarm.
    ///
    /// # Errors
    /// The engine is away, or cannot list them now.
    pub async fn services(&self) -> Result<HashMap<Arc<str>, Arc<Service>>, EngineError> {
        let options = ListServicesOptionsBuilder::new().status(true).build();
        match with_timeout(READ_TIMEOUT, self.client()?.list_services(Some(options))).await {
            Ok(services) => {
                let services = services.into_iter().filter_map(Service::from_inspection);
                Ok(services.map(|service| (Arc::clone(&service.id), Arc::new(service))).collect())
            }
            Err(away @ EngineError::Away(_)) => Err(away),
            // A manager that cannot answer now, as without a leader.
            Err(EngineError::Refused { status, message })
                if status >= 500 && !message.contains(NO_MANAGER) =>
            {
                Err(EngineError::Refused { status, message })
            }
            // 503 of an engine outside a swarm, 403 of a proxy, 404 of Podman.
            Err(_) => Ok(HashMap::new()),
        }
    }

    /// Sets the number of a service's tasks. When it is scaled to zero, the former number
    /// is stored in a label of the service.
    pub async fn scale(&self, id: &str, replicas: u64) -> Result<(), EngineError> {
        let client = self.client()?;
        let service = with_timeout(READ_TIMEOUT, client.inspect_service(id, None)).await?;
        let version = service.version.and_then(|version| version.index).unwrap_or_default();
        let mut spec = service.spec.unwrap_or_default();
        if !set_replicas(&mut spec, replicas) {
            return Ok(());
        }
        let version = i32::try_from(version).map_err(|_| EngineError::Refused {
            status: 0,
            message: format!("version {version} of the service is beyond the range of the client"),
        })?;
        let options = UpdateServiceOptionsBuilder::new().version(version).build();
        with_timeout(READ_TIMEOUT, client.update_service(id, spec, options, None)).await.map(drop)
    }
}

/// Sets the number of tasks. Returns whether that changes the specification.
fn set_replicas(spec: &mut ServiceSpec, replicas: u64) -> bool {
    let Some(replicated) = spec.mode.as_mut().and_then(|mode| mode.replicated.as_mut()) else {
        return false;
    };
    let before = replicated.replicas.unwrap_or(1);
    let wanted = i64::try_from(replicas).unwrap_or(i64::MAX);
    if before == wanted {
        return false;
    }
    replicated.replicas = Some(wanted);
    if wanted == 0 {
        let labels = spec.labels.get_or_insert_default();
        labels.insert(LAST_REPLICAS_LABEL.into(), before.to_string());
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use bollard::models::{ServiceSpecMode, ServiceSpecModeReplicated};

    #[test]
    fn the_last_number_is_remembered_in_the_service() {
        let mode = ServiceSpecMode {
            replicated: Some(ServiceSpecModeReplicated { replicas: Some(3) }),
            ..ServiceSpecMode::default()
        };
        let mut spec = ServiceSpec { mode: Some(mode), ..ServiceSpec::default() };
        assert!(!set_replicas(&mut spec, 3));
        assert!(set_replicas(&mut spec, 0));
        let service = bollard::models::Service {
            id: Some("id".into()),
            spec: Some(spec.clone()),
            ..bollard::models::Service::default()
        };
        let asleep = Service::from_inspection(service).expect("a service");
        assert_eq!((asleep.state(), asleep.awake_replicas), (State::Exited, 3));
        assert!(!set_replicas(&mut ServiceSpec::default(), 0), "a global service cannot be scaled");
    }
}
