//! Removes alerts that were resolved long ago, and old changes of the others.

use std::sync::Arc;
use std::time::Duration;

use super::{Done, JobError, Plan, Run, ShortJob};
use crate::alerts::table;
use crate::ledger::archive::Transaction;
use crate::ledger::record::{Micros, micros};

/// How many rows of each table one run removes.
const BATCH: i64 = 1000;

const LIMIT: Duration = Duration::from_secs(30);

/// Removes old alerts.
#[derive(Debug)]
pub struct Alerts {
    keep: Duration,
    interval: Duration,
}

impl Alerts {
    /// Alerts are kept for `keep` after they have resolved.
    #[must_use]
    pub fn new(keep: Duration, interval: Duration) -> Self {
        Self { keep, interval }
    }

    async fn remove(
        &self,
        tenant: &str,
        transaction: &mut Transaction<'_>,
    ) -> Result<Done, JobError> {
        let now = transaction.now().await?;
        let before = Micros(now.0.saturating_sub(micros(self.keep)));
        let removed = table::remove_before(transaction, tenant, before, now, BATCH).await?;
        let what = if removed == 0 { String::new() } else { format!("removed {removed} rows") };
        let (is_more, is_idle) = (removed >= BATCH.unsigned_abs(), removed == 0);
        Ok(Done { is_more, is_idle, ..Done::new(what) })
    }
}

impl ShortJob for Alerts {
    fn plan(&self) -> Plan {
        Plan::new("alerts", self.interval, LIMIT)
    }

    fn run<'a>(&'a self, tenant: &'a Arc<str>, transaction: &'a mut Transaction<'_>) -> Run<'a> {
        Box::pin(self.remove(tenant, transaction))
    }
}
