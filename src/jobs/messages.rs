//! Queues messages about new records, and removes old deliveries.
//!
//! The cursor over the records moves in the transaction that queues, so each record is told
//! once, whatever the number of processes.

use std::sync::Arc;
use std::time::Duration;

use super::{Done, JobError, Plan, Run, ShortJob};
use crate::ledger::archive::Transaction;
use crate::webhooks::records::{Queued, queue};

const LIMIT: Duration = Duration::from_secs(30);

/// Tells endpoints what the ledger records.
#[derive(Debug)]
pub struct Messages {
    interval: Duration,
    keep: Duration,
}

impl Messages {
    /// `keep` is how long deliveries are kept after their end.
    #[must_use]
    pub fn new(interval: Duration, keep: Duration) -> Self {
        Self { interval, keep }
    }

    async fn queue(
        &self,
        tenant: &str,
        transaction: &mut Transaction<'_>,
    ) -> Result<Done, JobError> {
        let queued = queue(transaction, tenant, self.keep).await?;
        let Queued { events, removed, is_more, has_moved } = queued;
        let is_idle = removed == 0 && !has_moved;
        let what = match (events, removed) {
            (0, 0) => String::new(),
            (events, 0) => format!("events queued: {events}"),
            (events, removed) => format!("events queued: {events}, deliveries removed: {removed}"),
        };
        Ok(Done { is_more, is_idle, ..Done::new(what) })
    }
}

impl ShortJob for Messages {
    fn plan(&self) -> Plan {
        Plan::new("messages", self.interval, LIMIT)
    }

    fn run<'a>(&'a self, tenant: &'a Arc<str>, transaction: &'a mut Transaction<'_>) -> Run<'a> {
        Box::pin(self.queue(tenant, transaction))
    }
}
