//! What is shown of an app.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::domain::lifecycle::{Phase, WakeError};

/// The state of one container, as shown to waiting visitors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerState {
    pub name: String,
    /// The engine's name for the state: `running`, `exited`, …
    pub state: &'static str,
    /// Its last exit code, if it is not running.
    pub exit_code: Option<i64>,
}

/// What is shown of an app at a given moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppView {
    /// Increases with every change.
    pub version: u64,
    pub phase: Phase,
    /// When that phase began to be shown.
    pub since: Instant,
    pub containers: Arc<[ContainerState]>,
    /// When the attempt under way began.
    pub began: Option<Instant>,
    /// How long the app's last start took.
    pub usual: Option<Duration>,
    /// Why the last attempt failed, until one succeeds.
    pub last_failure: Option<WakeError>,
}

impl AppView {
    /// Shows these from now on.
    pub(super) fn change(&mut self, phase: Phase, containers: &Arc<[ContainerState]>) {
        self.version += 1;
        if self.phase != phase {
            self.since = Instant::now();
        }
        if phase.is_under_way() {
            self.began.get_or_insert_with(Instant::now);
        } else {
            self.began = None;
        }
        match &phase {
            Phase::Awake => self.last_failure = None,
            Phase::Failed { failure, .. } => self.last_failure = Some(failure.clone()),
            _ => {}
        }
        self.phase = phase;
        self.containers = Arc::clone(containers);
    }
}
