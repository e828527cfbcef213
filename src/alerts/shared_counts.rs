//! What the processes of a box count together: each writes its counts, and reads the sum of
//! the others'.
//!
//! A process that counts next to nothing writes nothing and asks for nothing. What one writes
//! is bounded, whatever strangers do: a number of subjects, once in a while.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::timeout;
use tracing::debug;

use super::evaluator::TenantSource;
use super::subject::Subject;
use super::table::{Observer, counts};
use crate::ledger::archive::{Archive, ArchiveError};
use crate::ledger::record::{Micros, WriterId, micros};

/// How many subjects one process writes: those with the highest counts.
const MOST: usize = 64;

/// How often at most the counts are exchanged, and how long that may take.
const EVERY: Duration = Duration::from_secs(10);
const PATIENCE: Duration = Duration::from_secs(5);

/// How long a count that was written is good for.
const LEASE: Duration = Duration::from_secs(60);

/// The counts of one process and of the others.
pub struct SharedCounts {
    archive: Arc<Archive>,
    tenant: TenantSource,
    writer: WriterId,
    every: Duration,
    lease: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// When the counts were last exchanged, or that was tried.
    tried: Option<Duration>,
    /// When that succeeded last, and what the others had counted then.
    read: Option<(Duration, BTreeMap<Subject, u64>)>,
    has_written: bool,
}

impl fmt::Debug for SharedCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { writer, every, lease, state, .. } = self;
        f.debug_struct("SharedCounts")
            .field("writer", writer)
            .field("every", every)
            .field("lease", lease)
            .field("state", state)
            .finish_non_exhaustive()
    }
}

impl SharedCounts {
    /// What is counted is forgotten within two windows of this length.
    #[must_use]
    pub fn new(
        archive: Arc<Archive>,
        tenant: TenantSource,
        writer: WriterId,
        window: Duration,
    ) -> Self {
        let every = (window / 10).clamp(Duration::from_secs(1), EVERY);
        let lease = LEASE.min(window * 2 + every);
        Self { archive, tenant, writer, every, lease, state: Mutex::default() }
    }

    /// Returns what the other processes have counted, as far as that is known. `own` is what
    /// this one has counted that is worth being told.
    pub(super) async fn others(
        &self,
        now: Duration,
        mut own: Vec<(Subject, u64)>,
    ) -> BTreeMap<Subject, u64> {
        let is_due = {
            let mut state = self.state();
            let elapsed = |at: &Duration| now.saturating_sub(*at);
            if state.read.as_ref().is_some_and(|(at, _)| elapsed(at) >= self.lease) {
                state.read = None;
            }
            let is_due = state.tried.is_none_or(|at| elapsed(&at) >= self.every)
                && (!own.is_empty() || state.has_written);
            if is_due {
                state.tried = Some(now);
            }
            is_due
        };
        if is_due {
            own.sort_by(|a, b| (b.1, &a.0).cmp(&(a.1, &b.0)));
            own.truncate(MOST);
            match timeout(PATIENCE, self.exchange(&own)).await {
                Ok(Ok(others)) => {
                    let mut state = self.state();
                    state.has_written = !own.is_empty();
                    state.read = Some((now, others));
                }
                Ok(Err(error)) => debug!(%error, "counts of denials are not exchanged"),
                Err(_) => debug!("counts of denials are not exchanged within {PATIENCE:?}"),
            }
        }
        self.state().read.as_ref().map(|(_, others)| others.clone()).unwrap_or_default()
    }

    async fn exchange(
        &self,
        own: &[(Subject, u64)],
    ) -> Result<BTreeMap<Subject, u64>, ArchiveError> {
        let tenant = (self.tenant)();
        if tenant.is_empty() {
            return Ok(BTreeMap::new());
        }
        let mut transaction = self.archive.begin().await?;
        let now = transaction.now().await?;
        let expires_at = Micros(now.0.saturating_add(micros(self.lease)));
        let observer = Observer { writer: self.writer, expires_at };
        let others = counts::exchange(&mut transaction, &tenant, observer, own).await?;
        transaction.commit().await?;
        Ok(others)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
