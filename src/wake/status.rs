//! Writes the status of apps back to the store, so that other programs show it correctly.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::sleep;
use tracing::warn;

use super::observed::EngineState;
use crate::store::Source;

/// How long to wait before writing a status again that could not be written.
const RETRY: Duration = Duration::from_secs(5);

/// Accepts statuses to be written; never waits.
#[derive(Debug, Clone)]
pub(super) struct Statuses(mpsc::UnboundedSender<(Arc<str>, EngineState)>);

/// Writes the statuses one after the other, only the latest of each app.
#[derive(Debug)]
pub(super) struct StatusWriter {
    source: Arc<Source>,
    changes: mpsc::UnboundedReceiver<(Arc<str>, EngineState)>,
}

impl Statuses {
    pub(super) fn new(source: Arc<Source>) -> (Self, StatusWriter) {
        let (sender, changes) = mpsc::unbounded_channel();
        (Self(sender), StatusWriter { source, changes })
    }

    pub(super) fn write(&self, app: &Arc<str>, state: EngineState) {
        // The writer stops only when the process ends.
        let _ = self.0.send((Arc::clone(app), state));
    }
}

impl StatusWriter {
    pub(super) async fn run(mut self) -> Infallible {
        let mut pending = HashMap::new();
        loop {
            if pending.is_empty() {
                let Some((app, state)) = self.changes.recv().await else {
                    std::future::pending().await
                };
                pending.insert(app, state);
            }
            while let Ok((app, state)) = self.changes.try_recv() {
                pending.insert(app, state);
            }
            // A status that cannot be written does not keep the others from being written.
            let mut failed = HashMap::new();
            let mut reason = None;
            for (app, state) in pending.drain() {
                if let Err(error) = self.source.write_status(&app, word(state)).await {
                    failed.insert(app, state);
                    reason = Some(error);
                }
            }
            pending = failed;
            if let Some(error) = reason {
                let count = pending.len();
                warn!(%error, count, "cannot write the statuses of apps; will retry");
                sleep(RETRY).await;
            }
        }
    }
}

/// Returns the contract's word for a state.
fn word(state: EngineState) -> &'static str {
    match state {
        EngineState::Running => "running",
        EngineState::Paused => "paused",
        EngineState::Exited => "stopped",
        EngineState::Missing => "down",
    }
}
