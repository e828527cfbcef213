//! Acts that a subcommand does itself: recorded before they are done.

use std::time::Duration;

use super::{CliError, wall_clock};
use crate::config::Config;
use crate::ledger::Ledger;
use crate::ledger::acts::Act;
use crate::store::Source;

/// How long writing that an act was refused may take.
const LAST_WRITE: Duration = Duration::from_secs(2);

/// Commits the record of an act. If this fails, the act must not be done.
pub(super) async fn commit(config: &Config, source: &Source, act: Act) -> Result<(), CliError> {
    if !config.ledger.enabled {
        return Ok(());
    }
    let ledger = Ledger::new(&config.ledger)
        .map_err(|error| CliError::Message(format!("ledger.url: {error}")))?;
    if let Some(identity) = source.identity().await? {
        ledger.tenant.set(&identity.id);
    }
    let entry = act.entry(wall_clock().into());
    let committed = tokio::select! {
        committed = ledger.recorder.commit(entry) => committed,
        never = ledger.writer.run() => match never {},
    };
    ledger.writer.finish(LAST_WRITE).await;
    committed.map(drop).map_err(|error| {
        CliError::Message(format!("not done, because it cannot be recorded: {error}"))
    })
}
