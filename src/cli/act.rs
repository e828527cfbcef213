//! Acts that a subcommand does itself: recorded before they are done, and what came of them
//! afterwards.

use std::time::Duration;

use super::{CliError, wall_clock};
use crate::config::Config;
use crate::ledger::Ledger;
use crate::ledger::acts::Act;
use crate::ledger::record::{Entry, RecordId};
use crate::store::Source;

/// How long writing what came of an act, or that it was refused, may take.
const LAST_WRITE: Duration = Duration::from_secs(2);

/// An act whose record is committed; `None` if nothing is recorded.
#[must_use = "what came of the act is recorded by `conclude`"]
pub(super) struct Committed(Option<(Ledger, RecordId, Entry)>);

/// Commits the record of an act. If this fails, the act must not be done.
pub(super) async fn commit(
    config: &Config,
    source: &Source,
    act: Act,
) -> Result<Committed, CliError> {
    if !config.ledger.enabled {
        return Ok(Committed(None));
    }
    let ledger = Ledger::new(&config.ledger)
        .map_err(|error| CliError::Message(format!("ledger.url: {error}")))?;
    if let Some(identity) = source.identity().await? {
        ledger.tenant.set(&identity.id);
    }
    let entry = act.entry(wall_clock().into());
    let committed = tokio::select! {
        committed = ledger.recorder.commit(entry.clone()) => committed,
        never = ledger.writer.run() => match never {},
    };
    match committed {
        Ok(id) => Ok(Committed(Some((ledger, id, entry)))),
        Err(error) => {
            ledger.writer.finish(LAST_WRITE).await;
            let problem = format!("not done, because it cannot be recorded: {error}");
            Err(CliError::Message(problem))
        }
    }
}

impl Committed {
    /// Records whether the act has succeeded.
    pub(super) async fn conclude_with<T, E: std::fmt::Display>(self, outcome: &Result<T, E>) {
        let failure = outcome.as_ref().err().map(ToString::to_string);
        self.conclude(failure.as_deref().map_or(Ok(()), Err)).await;
    }

    /// Records what came of the act. If that is not possible, it is spooled.
    pub(super) async fn conclude(self, outcome: Result<(), &str>) {
        if let Some((ledger, id, entry)) = self.0 {
            ledger.recorder.conclude(id, entry, outcome);
            ledger.writer.finish(LAST_WRITE).await;
        }
    }
}
