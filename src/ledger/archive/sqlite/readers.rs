//! The connections that read: one a read, a bounded number, each under a time limit.

use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use rusqlite::Connection;
use rustix::process::setpriority_process;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::timeout;

use super::Limits;
use super::fault::Fault;
use super::file::{self, Files, Opened};
use super::idle::{Idle, lock};
use super::writer::{Writer, on_thread};
use crate::ledger::archive::ArchiveError;

/// Connections that stay open for later reads.
const MAX_IDLE: usize = 4;

/// How many instructions of SQLite's machine run between two looks at the clock: some 12 µs.
const INSTRUCTIONS: i32 = 1_000;

/// By how much less urgent than a request a long read is for the scheduler (nice(2)): four scans
/// kept both cores of a small machine from the gate for milliseconds (measured). A short read is
/// as urgent as all else, so that it ends on a busy machine, too.
const NICENESS: i32 = 19;
const LONG: Duration = Duration::from_millis(5);

/// How much later than its limit a read may end: a call that hangs in the file system is
/// waited for no longer.
const GRACE: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Readers {
    path: Arc<Path>,
    limits: Limits,
    permits: Arc<Semaphore>,
    idle: Idle,
}

/// A connection for one read, or for several in one transaction.
#[derive(Debug)]
pub(super) struct Reader {
    path: Arc<Path>,
    limit: Duration,
    /// `None` while a call runs, and after one that failed.
    opened: Option<Opened>,
    idle: Idle,
    /// Goes with the connection to the thread of a call: a call that hangs stays counted.
    permit: Option<OwnedSemaphorePermit>,
}

impl Readers {
    pub(super) fn new(path: Arc<Path>, limits: Limits) -> Self {
        Self {
            path,
            limits,
            permits: Arc::new(Semaphore::new(limits.readers)),
            idle: Arc::default(),
        }
    }

    pub(super) fn idle(&self) -> Idle {
        Arc::clone(&self.idle)
    }

    /// Waits until one more read may run.
    pub(super) async fn permit(&self) -> Result<OwnedSemaphorePermit, ArchiveError> {
        let limit = self.limits.read;
        // The semaphore is never closed, so what fails is the wait.
        let permit = timeout(limit, Arc::clone(&self.permits).acquire_owned()).await;
        permit.ok().and_then(Result::ok).ok_or_else(|| {
            let text = format!("other reads took longer than {limit:?}");
            ArchiveError::Unavailable(text.into())
        })
    }

    /// Returns whether a file is missing or replaced, or not known to have the right schema.
    pub(super) async fn needs_preparation(
        &self,
        writer: &Arc<Writer>,
    ) -> Result<bool, ArchiveError> {
        let (path, writer) = (Arc::clone(&self.path), Arc::clone(writer));
        on_thread(move || !Files::read(&path).is_ok_and(|files| writer.is_prepared(files))).await
    }

    pub(super) async fn open(&self, permit: OwnedSemaphorePermit) -> Result<Reader, ArchiveError> {
        let (path, idle) = (Arc::clone(&self.path), Arc::clone(&self.idle));
        let limit = self.limits.read;
        let opening = on_thread(move || {
            let kept = {
                let mut idle = lock(&idle);
                // One on files that were removed keeps others from making new ones.
                idle.retain(|kept| kept.is_current(&path));
                idle.pop()
            };
            let opened = match kept.map_or_else(|| file::open_reader(&path, limit), Ok) {
                Ok(opened) => Some(opened),
                Err(fault) => return Err(fault.at(&path)),
            };
            Ok(Reader { path, limit, opened, idle, permit: Some(permit) })
        });
        in_time(limit, &self.path, opening).await?
    }
}

impl Reader {
    /// Runs `work` on a thread that may block, until the time limit. If the caller goes
    /// away, `work` ends as well.
    pub(super) async fn run<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&Connection) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, ArchiveError> {
        let (Some(mut opened), permit) = (self.opened.take(), self.permit.take()) else {
            let text = format!("`{}`: an earlier read failed", self.path.display());
            return Err(ArchiveError::Unavailable(text.into()));
        };
        let limit = self.limit;
        let path = Arc::clone(&self.path);
        let caller = Arc::new(());
        let waits = Arc::downgrade(&caller);
        let call = on_own_thread(move || match limited(&mut opened, limit, waits, work) {
            Ok(done) => Ok((done, opened, permit)),
            Err(fault) => Err(fault.at(&path)),
        });
        let (done, opened, permit) = in_time(limit, &self.path, call).await??;
        drop(caller);
        (self.opened, self.permit) = (Some(opened), permit);
        Ok(done)
    }

    /// Keeps the connection for a later read.
    pub(super) fn give_back(mut self) {
        if let Some(opened) = self.opened.take() {
            keep(&self.idle, opened);
        }
    }

    /// Ends the transaction that [`Self::run`] has begun, and keeps the connection for a later
    /// read: to open one costs more than most reads.
    pub(super) fn end_transaction(&mut self) {
        let (Some(opened), permit) = (self.opened.take(), self.permit.take()) else { return };
        let idle = Arc::clone(&self.idle);
        let end = move || {
            if opened.connection.execute_batch("ROLLBACK").is_ok() {
                keep(&idle, opened);
            }
            drop(permit);
        };
        match Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(end)),
            Err(_) => end(),
        }
    }
}

/// Runs `work`; SQLite asks now and then whether it may go on.
fn limited<T>(
    opened: &mut Opened,
    limit: Duration,
    caller: Weak<()>,
    work: impl FnOnce(&Connection) -> Result<T, Fault>,
) -> Result<T, Fault> {
    let begin = Instant::now();
    let mut is_long = false;
    let must_end = move || {
        let elapsed = begin.elapsed();
        if elapsed > LONG {
            if !is_long {
                is_long = true;
                // Of the calling thread, on Linux. If the system refuses, it stays as urgent.
                let _ = setpriority_process(None, NICENESS);
            }
            // A task that waits for the core goes first, such as a request to the gate.
            std::thread::yield_now();
        }
        elapsed > limit || caller.strong_count() == 0
    };
    opened.connection.progress_handler(INSTRUCTIONS, Some(must_end))?;
    let result = work(&opened.connection);
    opened.connection.progress_handler(0, None::<fn() -> bool>)?;
    result.map_err(|fault| if fault.is_interrupted() { Fault::TooSlow(limit) } else { fault })
}

/// Runs `work` on a thread of its own, whose priority [`limited`] may lower: a thread that others
/// use would keep it, since only a privileged process may raise one again.
async fn on_own_thread<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ArchiveError> {
    let failed = |error: &dyn std::fmt::Display| {
        ArchiveError::Unavailable(format!("a read of SQLite: {error}").into())
    };
    let (done, result) = oneshot::channel();
    let read = move || {
        let _ = done.send(work());
    };
    std::thread::Builder::new()
        .name("ledger-read".to_owned())
        .spawn(read)
        .map_err(|error| failed(&error))?;
    result.await.map_err(|_| failed(&"it has panicked"))
}

async fn in_time<T>(
    limit: Duration,
    path: &Path,
    call: impl Future<Output = Result<T, ArchiveError>>,
) -> Result<T, ArchiveError> {
    timeout(limit + GRACE, call).await.unwrap_or_else(|_| {
        let text = format!("`{}`: the file system did not answer within {limit:?}", path.display());
        Err(ArchiveError::Unavailable(text.into()))
    })
}

fn keep(idle: &Idle, opened: Opened) {
    let mut idle = lock(idle);
    if idle.len() < MAX_IDLE {
        idle.push(opened);
    }
}

#[cfg(test)]
mod tests;
