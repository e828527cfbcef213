//! Transactions of jobs.

use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, params};
use tokio::runtime::Handle;

use super::fault::Fault;
use super::rows::{self, count};
use super::writer::{Turn, Writer, on_thread, roll_back};
use super::{jobs, tree, write};
use crate::ledger::archive::{
    ArchiveError, JobRow, Placed, StoredCheckpoint, TileKey, Unplaced, UnplacedFilter,
};
use crate::ledger::record::{Kind, Micros, Record, RecordId, Stored, WriterId};

/// Pages that one removal gives back at most.
const VACUUM: u32 = 5_000;

/// A write transaction, which begins with its first call. If a call fails, nothing of the
/// transaction takes effect, as in Postgres.
#[derive(Debug)]
pub struct Transaction {
    writer: Arc<Writer>,
    state: State,
}

#[derive(Debug)]
enum State {
    New,
    Open(Open),
    /// A call failed, or was dropped before it returned.
    Failed,
}

/// An open transaction; it is rolled back when this is dropped.
#[derive(Debug)]
struct Open(Option<Turn>);

impl Open {
    /// Runs `work` in the transaction, which is rolled back if it fails. May block.
    fn run<T>(
        mut self,
        writer: &Writer,
        work: impl FnOnce(&Connection) -> Result<T, Fault>,
    ) -> Result<(T, Self), ArchiveError> {
        let result = match self.0.as_deref() {
            Some(Some(opened)) => work(&opened.connection),
            _ => Err(Fault::Unusable("the transaction's connection is closed".to_owned())),
        };
        writer.note(&result);
        match result {
            Ok(done) => Ok((done, self)),
            Err(fault) => {
                if let Some(mut turn) = self.0.take() {
                    if fault.spares_connection() {
                        roll_back(&mut turn);
                    } else {
                        *turn = None;
                    }
                }
                Err(writer.error(&fault))
            }
        }
    }

    /// Ends the transaction by this statement. May block.
    fn end(self, writer: &Writer, sql: &str) -> Result<(), ArchiveError> {
        let ((), mut ended) = self.run(writer, |connection| Ok(connection.execute_batch(sql)?))?;
        ended.0 = None;
        Ok(())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let Some(mut turn) = self.0.take() else { return };
        match Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(move || roll_back(&mut turn))),
            Err(_) => roll_back(&mut turn),
        }
    }
}

/// Gives pages back to the file system. Each step of the statement frees one.
fn vacuum(connection: &Connection) -> rusqlite::Result<()> {
    let mut statement = connection.prepare(&format!("PRAGMA incremental_vacuum({VACUUM})"))?;
    let mut pages = statement.query([])?;
    while pages.next()?.is_some() {}
    Ok(())
}

impl Transaction {
    pub(super) fn new(writer: Arc<Writer>) -> Self {
        Self { writer, state: State::New }
    }

    /// The lock is the database's write lock, whatever the name.
    pub async fn try_lock(&mut self, _name: &str) -> Result<bool, ArchiveError> {
        match self.state {
            State::Open(_) => Ok(true),
            State::Failed => Err(self.failed()),
            State::New => match self.begin(self.writer.limits.lock).await? {
                Some(open) => {
                    self.state = State::Open(open);
                    Ok(true)
                }
                None => Ok(false),
            },
        }
    }

    pub async fn now(&mut self) -> Result<Micros, ArchiveError> {
        self.run(|connection| Ok(jobs::now(connection)?)).await
    }

    pub async fn job(&mut self, tenant: &str, name: &str) -> Result<Option<JobRow>, ArchiveError> {
        let (tenant, name) = (tenant.to_owned(), name.to_owned());
        self.run(move |connection| Ok(jobs::get(connection, &tenant, &name)?)).await
    }

    pub async fn put_job(&mut self, tenant: &str, row: &JobRow) -> Result<(), ArchiveError> {
        let (tenant, row) = (tenant.to_owned(), row.clone());
        self.run(move |connection| Ok(jobs::put(connection, &tenant, &row)?)).await
    }

    pub async fn log_run(&mut self, tenant: &str, row: &JobRow) -> Result<(), ArchiveError> {
        let (tenant, row) = (tenant.to_owned(), row.clone());
        self.run(move |connection| Ok(jobs::log(connection, &tenant, &row)?)).await
    }

    pub async fn unplaced_of(
        &mut self,
        tenant: &str,
        filter: UnplacedFilter,
        limit: usize,
    ) -> Result<Vec<Unplaced>, ArchiveError> {
        let (tenant, limit) = (tenant.to_owned(), count(limit));
        let UnplacedFilter { kind, before, after } = filter;
        let (kind, before) = (kind.map(Kind::as_str), before.map(|before| before.0));
        // Writers and their numbers are positive: nothing is before the first of these.
        let first = (Micros(i64::MIN), RecordId { writer: WriterId(0), seq: 0 });
        let (after, RecordId { writer: WriterId(writer), seq }) = after.unwrap_or(first);
        self.run(move |connection| {
            let sql = "SELECT writer, seq, leaf, seal, at FROM requests
                       INDEXED BY requests_unplaced_by_time
                       WHERE tenant = (SELECT id FROM tenants WHERE name = ?1)
                       AND position IS NULL AND (?2 IS NULL OR kind = ?2)
                       AND (?3 IS NULL OR at < ?3) AND (at, writer, seq) > (?4, ?5, ?6)
                       ORDER BY at, writer, seq LIMIT ?7";
            let mut statement = connection.prepare(sql)?;
            let params = params![tenant, kind, before, after.0, writer, seq, limit];
            let rows = statement.query_map(params, |row| {
                let id = RecordId { writer: WriterId(row.get(0)?), seq: row.get(1)? };
                let at = Micros(row.get(4)?);
                // A value of another length was altered. Nothing is sealed with zeros, so the
                // record gets no position, and is no reason for others to get none.
                let (leaf, seal) = (row.get(2).unwrap_or_default(), row.get(3).unwrap_or_default());
                Ok(Unplaced { id, at, leaf, seal })
            })?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
        .await
    }

    pub async fn place(
        &mut self,
        tenant: &str,
        first: i64,
        ids: &[RecordId],
    ) -> Result<(), ArchiveError> {
        let (tenant, ids) = (tenant.to_owned(), ids.to_vec());
        self.run(move |connection| {
            let sql = "UPDATE requests SET position = ?
                       WHERE writer = ? AND seq = ? AND position IS NULL
                       AND tenant = (SELECT id FROM tenants WHERE name = ?)";
            let mut statement = connection.prepare(sql)?;
            for (position, id) in (first..).zip(ids) {
                if statement.execute(params![position, id.writer.0, id.seq, tenant])? == 0 {
                    let problem = format!("the record {id} is missing or has a position");
                    return Err(Fault::Content(problem));
                }
            }
            Ok(())
        })
        .await
    }

    pub async fn tree_size(&mut self, tenant: &str) -> Result<i64, ArchiveError> {
        let tenant = tenant.to_owned();
        self.run(move |connection| Ok(tree::size(connection, &tenant)?)).await
    }

    pub async fn set_tree_size(&mut self, tenant: &str, size: i64) -> Result<(), ArchiveError> {
        let tenant = tenant.to_owned();
        self.run(move |connection| Ok(tree::set_size(connection, &tenant, size)?)).await
    }

    pub async fn tiles(
        &mut self,
        tenant: &str,
        keys: &[TileKey],
    ) -> Result<Vec<(TileKey, Vec<u8>)>, ArchiveError> {
        let (tenant, keys) = (tenant.to_owned(), keys.to_vec());
        self.run(move |connection| Ok(tree::tiles(connection, &tenant, &keys)?)).await
    }

    pub async fn put_tiles(
        &mut self,
        tenant: &str,
        tiles: &[(TileKey, Vec<u8>)],
    ) -> Result<(), ArchiveError> {
        let (tenant, tiles) = (tenant.to_owned(), tiles.to_vec());
        self.run(move |connection| Ok(tree::put_tiles(connection, &tenant, &tiles)?)).await
    }

    pub async fn checkpoint(
        &mut self,
        tenant: &str,
    ) -> Result<Option<StoredCheckpoint>, ArchiveError> {
        let tenant = tenant.to_owned();
        self.run(move |connection| Ok(tree::checkpoint(connection, &tenant)?)).await
    }

    pub async fn put_checkpoint(
        &mut self,
        tenant: &str,
        checkpoint: &StoredCheckpoint,
    ) -> Result<(), ArchiveError> {
        let (tenant, checkpoint) = (tenant.to_owned(), checkpoint.clone());
        self.run(move |connection| Ok(tree::put_checkpoint(connection, &tenant, &checkpoint)?))
            .await
    }

    pub async fn oldest_after(
        &mut self,
        tenant: &str,
        kind: Kind,
        before: Micros,
        below: i64,
        after: Option<(Micros, i64)>,
        limit: usize,
    ) -> Result<Vec<Placed>, ArchiveError> {
        let (tenant, limit) = (tenant.to_owned(), count(limit));
        // No position is negative.
        let (after, position) = after.unwrap_or((Micros(i64::MIN), -1));
        self.run(move |connection| {
            let sql = "SELECT writer, seq, position, at FROM requests INDEXED BY requests_by_kind
                       WHERE tenant = (SELECT id FROM tenants WHERE name = ?)
                       AND kind = ? AND at < ? AND position < ? AND (at, position) > (?, ?)
                       ORDER BY at, position LIMIT ?";
            let mut statement = connection.prepare(sql)?;
            let params = params![tenant, kind.as_str(), before.0, below, after.0, position, limit];
            let rows = statement.query_map(params, |row| {
                let id = RecordId { writer: WriterId(row.get(0)?), seq: row.get(1)? };
                Ok(Placed { id, position: row.get(2)?, at: Micros(row.get(3)?) })
            })?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
        .await
    }

    pub async fn remove(&mut self, tenant: &str, ids: &[RecordId]) -> Result<(), ArchiveError> {
        let (tenant, ids) = (tenant.to_owned(), ids.to_vec());
        self.run(move |connection| {
            let sql = "DELETE FROM requests WHERE writer = ? AND seq = ?
                       AND tenant = (SELECT id FROM tenants WHERE name = ?)";
            let mut statement = connection.prepare(sql)?;
            for id in ids {
                statement.execute(params![id.writer.0, id.seq, tenant])?;
            }
            Ok(vacuum(connection)?)
        })
        .await
    }

    pub async fn find_all(
        &mut self,
        tenant: &str,
        ids: &[RecordId],
    ) -> Result<Vec<Stored>, ArchiveError> {
        let (tenant, mut ids): (Arc<str>, _) = (tenant.into(), ids.to_vec());
        ids.sort_unstable();
        self.run(move |connection| {
            let find = |id: &RecordId| match rows::find(connection, &tenant, *id) {
                Err(Fault::Content(_)) => None,
                found => found.transpose(),
            };
            ids.iter().filter_map(find).collect()
        })
        .await
    }

    pub async fn adopt(&mut self, records: &[Record]) -> Result<(), ArchiveError> {
        let records = records.to_vec();
        self.run(move |connection| write::adopt(connection, &records)).await
    }

    pub async fn checkpoint_times(
        &mut self,
        tenant: &str,
    ) -> Result<Vec<(i64, Micros)>, ArchiveError> {
        let tenant = tenant.to_owned();
        self.run(move |connection| Ok(tree::checkpoint_times(connection, &tenant)?)).await
    }

    pub async fn remove_checkpoints(
        &mut self,
        tenant: &str,
        sizes: &[i64],
    ) -> Result<(), ArchiveError> {
        let (tenant, sizes) = (tenant.to_owned(), sizes.to_vec());
        self.run(move |connection| Ok(tree::remove_checkpoints(connection, &tenant, &sizes)?)).await
    }

    pub async fn write(&mut self, records: &[Record]) -> Result<(), ArchiveError> {
        let records = records.to_vec();
        self.run(move |connection| write::records(connection, &records)).await
    }

    pub async fn commit(mut self) -> Result<(), ArchiveError> {
        let writer = Arc::clone(&self.writer);
        match std::mem::replace(&mut self.state, State::Failed) {
            State::New => Ok(()),
            State::Failed => Err(self.failed()),
            State::Open(open) => {
                on_thread(move || {
                    open.end(&writer, "COMMIT")?;
                    writer.tell();
                    Ok(())
                })
                .await?
            }
        }
    }

    pub async fn roll_back(mut self) -> Result<(), ArchiveError> {
        if let State::Open(open) = std::mem::replace(&mut self.state, State::Failed) {
            let writer = Arc::clone(&self.writer);
            return on_thread(move || open.end(&writer, "ROLLBACK")).await?;
        }
        Ok(())
    }

    /// Runs `work` in the transaction.
    pub(crate) async fn run<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&Connection) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, ArchiveError> {
        let open = match std::mem::replace(&mut self.state, State::Failed) {
            State::Open(open) => open,
            State::New => {
                let begun = self.begin(self.writer.limits.write).await?;
                begun.ok_or_else(|| self.writer.busy())?
            }
            State::Failed => return Err(self.failed()),
        };
        let writer = Arc::clone(&self.writer);
        let (done, open) = on_thread(move || open.run(&writer, work)).await??;
        self.state = State::Open(open);
        Ok(done)
    }

    /// Returns `None` if other writes took longer than `limit`.
    async fn begin(&mut self, limit: Duration) -> Result<Option<Open>, ArchiveError> {
        let Some(mut turn) = self.writer.turn(limit).await else { return Ok(None) };
        let writer = Arc::clone(&self.writer);
        on_thread(move || {
            let begun = writer.use_connection(&mut turn, |connection| {
                connection.busy_timeout(limit)?;
                let begun = connection.execute_batch("BEGIN IMMEDIATE");
                connection.busy_timeout(writer.limits.write)?;
                match begun.map_err(Fault::from) {
                    Ok(()) => Ok(true),
                    Err(fault) if fault.is_busy() => Ok(false),
                    Err(fault) => Err(fault),
                }
            });
            match begun {
                Ok(begun) => Ok(begun.then(|| Open(Some(turn)))),
                Err(fault) => Err(writer.error(&fault)),
            }
        })
        .await?
    }

    fn failed(&self) -> ArchiveError {
        let path = self.writer.path.display();
        let text = format!("`{path}`: an earlier statement of the transaction failed");
        ArchiveError::Unavailable(text.into())
    }
}
