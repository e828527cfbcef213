//! Writes to the archive under a time limit, and remembers how that went.

use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::{Notify, OnceCell};
use tokio::time::{Instant, timeout};

use super::archive::{Archive, ArchiveError};
use super::record::Record;
use crate::backoff::{doubled, jittered};

/// How long a write of new records may take. Meanwhile, the recorder's queue must hold what arrives.
pub(super) const WRITE_LIMIT: Duration = Duration::from_secs(5);

/// Waits between attempts while the archive does not work.
const FIRST_WAIT: Duration = Duration::from_millis(200);
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// What records are written to: the archive, or a stand-in of tests.
pub trait Target: Send + Sync + 'static {
    fn prepare(&self) -> impl Future<Output = Result<(), ArchiveError>> + Send;

    /// As [`Archive::write`].
    fn write(&self, records: &[Record]) -> impl Future<Output = Result<(), ArchiveError>> + Send;

    /// Returns whether a transaction can be begun; writes nothing.
    fn probe(&self) -> impl Future<Output = Result<(), ArchiveError>> + Send;
}

impl Target for Archive {
    async fn prepare(&self) -> Result<(), ArchiveError> {
        self.prepare().await
    }

    async fn write(&self, records: &[Record]) -> Result<(), ArchiveError> {
        self.write(records).await
    }

    async fn probe(&self) -> Result<(), ArchiveError> {
        let mut transaction = self.begin().await?;
        transaction.now().await?;
        transaction.roll_back().await
    }
}

/// The way to the archive.
#[derive(Debug)]
pub struct Link<T> {
    target: Arc<T>,
    prepared: OnceCell<()>,
    state: Mutex<State>,
    writes: AtomicU64,
    records: AtomicU64,
    returned: Notify,
    failed: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// Failures since the last success.
    failures: u32,
    retry_at: Option<Instant>,
    problem: Option<Arc<str>>,
}

impl<T: Target> Link<T> {
    #[must_use]
    pub fn new(target: Arc<T>) -> Self {
        Self {
            target,
            prepared: OnceCell::new(),
            state: Mutex::default(),
            writes: AtomicU64::new(0),
            records: AtomicU64::new(0),
            returned: Notify::new(),
            failed: Notify::new(),
        }
    }

    /// Writes records. An archive that panics, or does not answer in time, is unavailable;
    /// it may have written the records.
    pub(super) async fn write(
        &self,
        records: &[Record],
        limit: Duration,
    ) -> Result<(), ArchiveError> {
        // Boxed: the futures of the archives are large, and deeply nested.
        let write = Box::pin(async {
            self.prepared.get_or_try_init(|| self.target.prepare()).await?;
            self.target.write(records).await
        });
        let outcome = guarded(write, limit).await;
        self.note(&outcome);
        if outcome.is_ok() {
            self.writes.fetch_add(1, Ordering::Relaxed);
            self.records.fetch_add(records.len() as u64, Ordering::Relaxed);
        }
        outcome
    }

    /// Looks whether the archive works again, if it is time to and nothing was written that
    /// would have shown it.
    pub(super) async fn probe_if_due(&self) {
        if self.retry_at().is_none_or(|at| at > Instant::now()) {
            return;
        }
        let probe = Box::pin(async {
            self.prepared.get_or_try_init(|| self.target.prepare()).await?;
            self.target.probe().await
        });
        self.note(&guarded(probe, WRITE_LIMIT).await);
    }

    fn note(&self, outcome: &Result<(), ArchiveError>) {
        let mut state = self.lock();
        if let Err(ArchiveError::Unavailable(problem)) = outcome {
            if state.failures == 0 {
                self.failed.notify_one();
                tracing::warn!(%problem, "the ledger's database takes no records; they are spooled");
            }
            state.failures = state.failures.saturating_add(1);
            let wait = jittered(doubled(FIRST_WAIT, state.failures, LONGEST_WAIT));
            state.retry_at = Some(Instant::now() + wait);
            state.problem = Some(Arc::clone(problem));
            return;
        }
        // A database that refuses content works.
        if state.failures > 0 {
            tracing::info!("the ledger's database takes records again");
            self.returned.notify_one();
        }
        *state = State::default();
    }

    /// Returns when a write is worth an attempt again; `None` while the archive works.
    pub(super) fn retry_at(&self) -> Option<Instant> {
        self.lock().retry_at
    }

    /// Returns whether the last write reached a working archive.
    pub(super) fn works(&self) -> bool {
        self.lock().failures == 0
    }

    /// Returns how many writes have succeeded.
    pub(super) fn writes(&self) -> u64 {
        self.writes.load(Ordering::Relaxed)
    }

    /// Returns how many records have been written.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.records.load(Ordering::Relaxed)
    }

    /// Returns when the archive has begun not to work.
    pub(super) async fn failed(&self) {
        self.failed.notified().await;
    }

    /// Returns when the archive works again after a failure.
    pub(super) async fn returned(&self) {
        self.returned.notified().await;
    }

    /// Returns why the last write did not succeed.
    #[must_use]
    pub fn problem(&self) -> Option<Arc<str>> {
        self.lock().problem.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits for the archive: one that panics, or does not answer in time, is unavailable.
async fn guarded(
    work: impl Future<Output = Result<(), ArchiveError>>,
    limit: Duration,
) -> Result<(), ArchiveError> {
    match timeout(limit, AssertUnwindSafe(work).catch_unwind()).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(_panic)) => Err(ArchiveError::Unavailable("a write panicked".into())),
        Err(_) => {
            let text = format!("no answer within {}", humantime::format_duration(limit));
            Err(ArchiveError::Unavailable(text.into()))
        }
    }
}
