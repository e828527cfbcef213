//! The parts of an app's description that decide how it is woken and put to sleep.

use crate::domain::activity::Activity;
use crate::domain::app::{AppMeta, EntrypointPort, Lifecycle, Size};

/// The parts of an app's description that the reconciler needs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AppSpec {
    /// Containers and ports that the proxy sends requests to, those that speak HTTP first.
    pub entrypoints: Vec<Target>,
    pub lifecycle: Lifecycle,
    pub activity: Option<Activity>,
    pub minimum_size: Size,
}

/// A port of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The name of the container, or of its service in the compose file.
    pub container: String,
    pub port: u16,
    pub speaks_http: bool,
}

impl AppSpec {
    #[must_use]
    pub fn new(meta: &AppMeta) -> Self {
        let mut entrypoints: Vec<_> = meta
            .entrypoints
            .iter()
            .map(|entry| Target {
                container: entry.container_name.clone(),
                port: entry.container_port,
                speaks_http: entry.entrypoint_port == EntrypointPort::Http,
            })
            .collect();
        entrypoints.sort_by_key(|target| !target.speaks_http);
        Self {
            entrypoints,
            lifecycle: meta.lifecycle.clone(),
            activity: meta.activity,
            minimum_size: meta.minimum_portal_size,
        }
    }
}
