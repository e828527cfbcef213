//! Gives new records their places in the tree, and signs its head.

use std::sync::Arc;
use std::time::Duration;

use tracing::error;

use super::{Done, JobError, Plan, Run, ShortJob};
use crate::ledger::Ledger;
use crate::ledger::archive::Transaction;
use crate::ledger::integrity::{Extended, IntegrityError};

/// 5,000 records take some tenths of a second.
const LIMIT: Duration = Duration::from_secs(30);

/// How many altered records are named.
const NAMED: usize = 5;

/// Extends the tree over the records.
#[derive(Debug)]
pub struct Integrity {
    ledger: Arc<Ledger>,
    interval: Duration,
}

impl Integrity {
    #[must_use]
    pub fn new(ledger: Arc<Ledger>, interval: Duration) -> Self {
        Self { ledger, interval }
    }

    async fn extend(
        &self,
        tenant: &Arc<str>,
        transaction: &mut Transaction<'_>,
    ) -> Result<Done, JobError> {
        let tree = self.ledger.integrity().await.map_err(JobError::Failed)?;
        let extended = tree.extend(transaction, tenant).await?;
        let (what, problem) = (what(&extended), problem(&extended));
        if let Some(problem) = &problem {
            error!(altered = extended.altered.len(), "{problem}");
        }
        let is_more = extended.is_more;
        Ok(Done { what, problem, is_more, then: Some(Box::new(move || tree.settle(&extended))) })
    }
}

impl ShortJob for Integrity {
    fn plan(&self) -> Plan {
        Plan::new("integrity", self.interval, LIMIT)
    }

    fn run<'a>(&'a self, tenant: &'a Arc<str>, transaction: &'a mut Transaction<'_>) -> Run<'a> {
        Box::pin(self.extend(tenant, transaction))
    }
}

impl From<IntegrityError> for JobError {
    fn from(error: IntegrityError) -> Self {
        match error {
            IntegrityError::Archive(error) => Self::Archive(error),
            error => Self::Failed(error.to_string()),
        }
    }
}

fn what(extended: &Extended) -> String {
    match (extended.placed, extended.is_new) {
        (0, false) => String::new(),
        (0, true) => format!("signed a checkpoint of {} records", extended.size()),
        (placed, false) => format!("placed {placed} records"),
        (placed, true) => {
            format!("placed {placed} records, signed a checkpoint of {}", extended.size())
        }
    }
}

fn problem(extended: &Extended) -> Option<String> {
    let altered = &extended.altered;
    let named: Vec<_> = altered.iter().take(NAMED).map(ToString::to_string).collect();
    let more = altered.len() - named.len();
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    (!altered.is_empty()).then(|| {
        format!(
            "records in the ledger were altered before a checkpoint covered them: {}{more}",
            named.join(", ")
        )
    })
}
