//! Statuses written back, so that what other programs show of an app is so.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::sleep;
use tracing::warn;

use super::observed::EngineState;
use crate::store::Source;

/// How long a status that could not be written waits.
const RETRY: Duration = Duration::from_secs(5);

/// Takes statuses to be written; never waits.
#[derive(Debug, Clone)]
pub(super) struct Statuses(mpsc::UnboundedSender<(Arc<str>, EngineState)>);

/// Writes them, one after the other and the last one of each app.
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
        // The writer is gone only when the process ends.
        let _ = self.0.send((Arc::clone(app), state));
    }
}

impl StatusWriter {
    pub(super) async fn run(mut self) -> Infallible {
        let mut waiting = HashMap::new();
        loop {
            if waiting.is_empty() {
                let Some((app, state)) = self.changes.recv().await else {
                    std::future::pending().await
                };
                waiting.insert(app, state);
            }
            while let Ok((app, state)) = self.changes.try_recv() {
                waiting.insert(app, state);
            }
            // One that cannot be written keeps no other from it.
            let mut refused = HashMap::new();
            let mut reason = None;
            for (app, state) in waiting.drain() {
                if let Err(error) = self.source.write_status(&app, word(state)).await {
                    refused.insert(app, state);
                    reason = Some(error);
                }
            }
            waiting = refused;
            if let Some(error) = reason {
                warn!(%error, count = waiting.len(), "statuses of apps not written; they wait");
                sleep(RETRY).await;
            }
        }
    }
}

/// The contract's word.
fn word(state: EngineState) -> &'static str {
    match state {
        EngineState::Running => "running",
        EngineState::Paused => "paused",
        EngineState::Exited => "stopped",
        EngineState::Missing => "down",
    }
}
