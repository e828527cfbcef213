//! Removes the idempotency keys that have expired.

use std::sync::Arc;
use std::time::Duration;

use super::{Done, Plan, Run, ShortJob};
use crate::idempotency::table::sweep;
use crate::ledger::archive::Transaction;

/// An expired key is as good as none: it only takes room.
const INTERVAL: Duration = Duration::from_secs(600);
const LIMIT: Duration = Duration::from_secs(30);

/// The most keys that one run removes.
const BATCH: i64 = 1_000;

/// Removes expired keys, some at a time.
#[derive(Debug)]
pub struct IdempotencyKeys;

impl ShortJob for IdempotencyKeys {
    fn plan(&self) -> Plan {
        Plan::new("idempotency", INTERVAL, LIMIT)
    }

    fn run<'a>(&'a self, tenant: &'a Arc<str>, transaction: &'a mut Transaction<'_>) -> Run<'a> {
        Box::pin(async move {
            let removed = sweep(transaction, tenant, BATCH).await?;
            let what = if removed == 0 { String::new() } else { format!("removed {removed} keys") };
            let is_more = i64::try_from(removed).unwrap_or(i64::MAX) >= BATCH;
            Ok(Done { is_more, is_idle: removed == 0, ..Done::new(what) })
        })
    }
}
