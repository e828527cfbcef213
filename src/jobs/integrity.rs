//! Gives new records their places in the tree, and signs its head.

use std::sync::Arc;
use std::time::Duration;

use tracing::error;

use super::{AfterCommit, Done, JobError, Plan, Run, ShortJob};
use crate::ledger::Ledger;
use crate::ledger::archive::Transaction;
use crate::ledger::integrity::{Extended, IntegrityError};

/// 5,000 records take some tenths of a second.
const LIMIT: Duration = Duration::from_secs(30);

/// The name of the job.
pub const INTEGRITY: &str = "integrity";

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
        if tenant.is_empty() {
            // What a box without an identity records gets its place once it has one.
            return Ok(Done { is_idle: true, ..Done::default() });
        }
        let tree = self.ledger.integrity().await.map_err(JobError::Failed)?;
        let extended = tree.extend(transaction, tenant).await?;
        let (what, problem) = (what(&extended), problem(&extended));
        if let Some(problem) = &problem {
            error!(altered = extended.altered.len(), "{problem}");
        }
        let (is_more, is_idle) = (extended.is_more, extended.is_idle());
        let after_commit = Some::<AfterCommit>(Box::new(move || tree.settle(&extended)));
        Ok(Done { what, problem, is_more, is_idle, after_commit })
    }
}

impl ShortJob for Integrity {
    fn plan(&self) -> Plan {
        Plan::new(INTEGRITY, self.interval, LIMIT)
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
    let mut parts = Vec::new();
    if extended.adopted > 0 {
        parts.push(format!("adopted {} records of no tenant", extended.adopted));
    }
    if extended.placed > 0 {
        parts.push(format!("placed {} records", extended.placed));
    }
    if extended.is_new {
        parts.push(format!("signed a checkpoint of {} records", extended.size()));
    }
    parts.join(", ")
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
