//! The connection that writes.

use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, TransactionBehavior};
use tokio::sync::{Mutex, OwnedMutexGuard, watch};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::Limits;
use super::fault::Fault;
use super::file::{self, Files, Opened};
use super::idle::{self, Idle};
use crate::ledger::archive::ArchiveError;

/// The right to use the connection; it is opened by the first use.
pub(super) type Turn = OwnedMutexGuard<Option<Opened>>;

#[derive(Debug)]
pub(super) struct Writer {
    pub(super) path: Arc<Path>,
    pub(super) limits: Limits,
    connection: Arc<Mutex<Option<Opened>>>,
    /// The connections of the readers that rest.
    idle: Idle,
    state: std::sync::Mutex<State>,
    /// Tells those who wait for new records.
    pub(super) written: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct State {
    /// The files whose schema is known to be up to date.
    prepared: Option<Files>,
    problem: Option<Arc<str>>,
}

impl Writer {
    pub(super) fn new(path: Arc<Path>, limits: Limits, idle: Idle) -> Arc<Self> {
        Arc::new(Self {
            path,
            limits,
            connection: Arc::default(),
            idle,
            state: std::sync::Mutex::default(),
            written: watch::Sender::new(()),
        })
    }

    /// Runs `work` when it is its turn.
    pub(super) async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&mut Connection) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, ArchiveError> {
        let mut turn = self.turn(self.limits.write).await.ok_or_else(|| self.busy())?;
        let writer = Arc::clone(self);
        on_thread(move || {
            writer.use_connection(&mut turn, work).map_err(|fault| writer.error(&fault))
        })
        .await?
    }

    /// Waits for a turn.
    pub(super) async fn turn(&self, limit: Duration) -> Option<Turn> {
        timeout(limit, Arc::clone(&self.connection).lock_owned()).await.ok()
    }

    /// Runs `work` on the connection, which is opened if there is none.
    pub(super) fn use_connection<T>(
        &self,
        turn: &mut Turn,
        work: impl FnOnce(&mut Connection) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let result = self.opened(turn).and_then(|opened| work(&mut opened.connection));
        if let Err(fault) = &result
            && !fault.spares_connection()
        {
            **turn = None;
        }
        self.note(&result);
        result
    }

    fn opened<'a>(&self, turn: &'a mut Turn) -> Result<&'a mut Opened, Fault> {
        // A transaction is open if the thread that was to roll it back never ran.
        if turn.as_ref().is_some_and(|opened| !opened.connection.is_autocommit()) {
            roll_back(turn);
        }
        if let Some(opened) = &**turn
            && !opened.is_current(&self.path)
        {
            opened.save_log(&self.path)?;
            **turn = None;
        }
        if turn.is_none() {
            // As long as one connection is open, the others use its index of the log: one that
            // was removed, or that could not be written then.
            idle::close_all(&self.idle);
            let opened = file::open_writer(&self.path, self.limits.write)?;
            self.state().prepared = Some(opened.files);
            **turn = Some(opened);
        }
        turn.as_mut().ok_or_else(|| Fault::Unusable("not open".to_owned()))
    }

    /// Tells those who wait that something was written.
    pub(super) fn tell(&self) {
        self.written.send_replace(());
    }

    /// Keeps what is wrong with the archive, which bad content is not.
    pub(super) fn note<T>(&self, result: &Result<T, Fault>) {
        match result {
            Ok(_) => self.state().problem = None,
            Err(fault) => {
                if let ArchiveError::Unavailable(problem) = self.error(fault) {
                    self.state().problem = Some(problem);
                }
            }
        }
    }

    pub(super) fn problem(&self) -> Option<String> {
        self.state().problem.as_deref().map(str::to_owned)
    }

    pub(super) fn is_prepared(&self, files: Files) -> bool {
        self.state().prepared == Some(files)
    }

    pub(super) fn error(&self, fault: &Fault) -> ArchiveError {
        fault.at(&self.path)
    }

    pub(super) fn busy(&self) -> ArchiveError {
        let limit = self.limits.write;
        let text = format!("`{}`: other writes took longer than {limit:?}", self.path.display());
        ArchiveError::Unavailable(text.into())
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Rolls back the open transaction; if that fails, the connection is closed, which does so, too.
pub(super) fn roll_back(turn: &mut Turn) {
    let rolled_back =
        turn.as_ref().is_some_and(|opened| opened.connection.execute_batch("ROLLBACK").is_ok());
    if !rolled_back {
        **turn = None;
    }
}

/// Begins a transaction that holds the write lock, so that no later statement can find the
/// database changed or locked.
pub(super) fn begin(connection: &mut Connection) -> Result<rusqlite::Transaction<'_>, Fault> {
    Ok(connection.transaction_with_behavior(TransactionBehavior::Immediate)?)
}

/// Runs `work` on a thread that may block.
pub(super) async fn on_thread<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ArchiveError> {
    spawn_blocking(work)
        .await
        .map_err(|error| ArchiveError::Unavailable(format!("a call of SQLite: {error}").into()))
}
