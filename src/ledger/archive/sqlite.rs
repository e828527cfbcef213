//! The archive in a file: SQLite with a write-ahead log.
//!
//! One connection writes, and each task that needs it waits for the others; each read has a
//! connection of its own, and neither side waits for the other. All calls of SQLite run on
//! threads that may block. Nothing is opened before it is needed, and what fails is opened
//! anew by the next call, so a file that is repaired, moved or replaced needs no restart.

mod fault;
mod file;
mod holdings;
mod idle;
mod jobs;
mod page;
mod readers;
mod rows;
mod schema;
mod snapshot;
mod transaction;
mod tree;
mod write;
mod writer;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::Connection;

use super::{ArchiveError, Changes};
use crate::ledger::history::{Page, PageRequest};
use crate::ledger::record::{Record, RecordId, Stored};
pub(crate) use fault::Fault;
use readers::{Reader, Readers};
pub use snapshot::Snapshot;
pub use transaction::Transaction;
use writer::Writer;

/// Other processes that write to the file are not heard; what they have written is seen
/// after this long.
const OTHERS: Duration = Duration::from_secs(1);

/// Reads at the same time, by default.
const READERS: usize = 16;

/// The time limits of an archive, and how much it does at the same time.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// For a read.
    pub read: Duration,
    /// For the wait of a write for other writes, of this process and of others.
    pub write: Duration,
    /// The same for a job's lock.
    pub lock: Duration,
    /// Reads at the same time.
    pub readers: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            read: Duration::from_secs(10),
            write: Duration::from_secs(5),
            lock: Duration::from_secs(1),
            readers: READERS,
        }
    }
}

/// A database file.
#[derive(Debug)]
pub struct Sqlite {
    writer: Arc<Writer>,
    readers: Readers,
}

impl Sqlite {
    /// The files of one connection: the database, its write-ahead log and the log's index.
    const FILES: usize = 3;

    /// The most files that are open at one time with the default limits: those of the readers
    /// and of the writer.
    pub const DESCRIPTORS: usize = (READERS + 1) * Self::FILES;

    /// Opens nothing.
    #[must_use]
    pub fn new(path: PathBuf, limits: Limits) -> Self {
        let path = Arc::from(path);
        let readers = Readers::new(Arc::clone(&path), limits);
        Self { writer: Writer::new(path, limits, readers.idle()), readers }
    }

    pub async fn prepare(&self) -> Result<(), ArchiveError> {
        self.writer.run(|_| Ok(())).await
    }

    pub async fn write(&self, records: &[Record]) -> Result<(), ArchiveError> {
        if records.is_empty() {
            return Ok(());
        }
        let records = records.to_vec();
        self.writer
            .run(move |connection| {
                let transaction = writer::begin(connection)?;
                write::records(&transaction, &records)?;
                Ok(transaction.commit()?)
            })
            .await?;
        self.writer.tell();
        Ok(())
    }

    pub async fn page(&self, request: &PageRequest) -> Result<Page, ArchiveError> {
        let request = request.clone();
        self.read(move |connection| page::page(connection, &request)).await
    }

    pub async fn find(&self, tenant: &str, id: RecordId) -> Result<Option<Stored>, ArchiveError> {
        let tenant: Arc<str> = tenant.into();
        self.read(move |connection| rows::find(connection, &tenant, id)).await
    }

    #[expect(clippy::unused_async, reason = "as in Postgres, which needs a connection")]
    pub async fn begin(&self) -> Result<Transaction, ArchiveError> {
        Ok(Transaction::new(Arc::clone(&self.writer)))
    }

    pub async fn snapshot(&self) -> Result<Snapshot, ArchiveError> {
        Snapshot::begin(self.reader().await?).await
    }

    pub fn problem(&self) -> Option<String> {
        self.writer.problem()
    }

    pub fn changes(&self) -> Changes {
        Changes { told: self.writer.written.subscribe(), longest: Some(OTHERS) }
    }

    /// Without the write-ahead log, which is bounded and is emptied into the file.
    pub async fn size(&self) -> Result<u64, ArchiveError> {
        self.read(|connection| {
            let number = |sql| connection.query_row(sql, [], |row| row.get::<_, u32>(0));
            Ok(u64::from(number("PRAGMA page_count")?) * u64::from(number("PRAGMA page_size")?))
        })
        .await
    }

    /// Runs `work` in a read transaction of its own.
    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, ArchiveError> {
        let mut reader = self.reader().await?;
        let done = reader
            .run(move |connection| {
                let transaction = connection.unchecked_transaction()?;
                work(&transaction)
            })
            .await?;
        reader.give_back();
        Ok(done)
    }

    /// Returns a connection to a file whose schema is up to date.
    async fn reader(&self) -> Result<Reader, ArchiveError> {
        let permit = self.readers.permit().await?;
        if self.readers.needs_preparation(&self.writer).await? {
            self.prepare().await?;
        }
        self.readers.open(permit).await
    }
}
