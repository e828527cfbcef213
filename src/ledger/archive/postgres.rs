//! The archive in a schema of a Postgres database, which several boxes may share.
//!
//! Writes and jobs have one pool and reads another, so that slow reads take no connection
//! from a write. [`schema`] creates the tables before their first use, [`listen`] learns of
//! other processes' writes.

mod holdings;
mod isolation;
mod listen;
mod page;
mod read;
mod rows;
mod schema;
mod transaction;
mod write;

use std::sync::Arc;
use std::time::Duration;

use tokio_postgres::types::Type;
use tracing::debug;

use self::isolation::Isolation;
use self::listen::Listener;
pub use self::read::Snapshot;
pub(crate) use self::rows::get;
use self::schema::Schema;
pub use self::transaction::Transaction;
use super::{ArchiveError, Changes, Page, PageRequest, Record, RecordId, Stored};
use crate::config;
use crate::postgres::{
    Access, ConfigError, Error, Locks, MigrationReport, Namespace, Pool, PoolLimits, Problems,
    Server,
};

/// The locks of jobs: "ledgerjo" read as a number.
const LOCKS: Namespace = Namespace::new(0x6c65_6467_6572_6a6f);

/// As many connections as the jobs and the writer use, and reads of a page or two at once.
const WRITE_CONNECTIONS: u32 = 8;
const READ_CONNECTIONS: u32 = 8;

/// By how much a dead connection outlives a statement that is merely slow.
const GRACE: Duration = Duration::from_secs(1);

/// How long a transaction may wait for its process: longer for one that only reads, which may
/// wait for a person who pages through an export.
const IDLE_WRITE: Duration = Duration::from_secs(60);
const IDLE_READ: Duration = Duration::from_secs(600);

/// A read is short, and compiling it takes some 100 ms. What is read in the order of an index
/// need not be collected and sorted; the planner believes otherwise while its statistics are
/// older than the records.
const READ_SETTINGS: [&str; 3] = ["jit = off", "enable_seqscan = off", "enable_bitmapscan = off"];

/// What a problem concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum ProblemKind {
    Writes,
    Reads,
    Listening,
}

/// An archive in a Postgres database.
#[derive(Debug)]
pub struct Postgres {
    schema: Schema,
    isolation: Isolation,
    writes: Pool,
    reads: Pool,
    server: Arc<Server>,
    limit: Duration,
    listener: Listener,
    problems: Arc<Problems<ProblemKind>>,
}

impl From<Error> for ArchiveError {
    fn from(error: Error) -> Self {
        let text = error.to_string().into();
        // 22: data exception; 23: integrity constraint violation.
        let is_content = |code: &str| code.starts_with("22") || code.starts_with("23");
        match error.sqlstate() {
            Some(state) if is_content(state.code()) => Self::Content(text),
            _ => Self::Unavailable(text),
        }
    }
}

impl Postgres {
    /// The most connections at one time: those of the pools, one that listens for
    /// notifications, and one that holds locks.
    pub const CONNECTIONS: usize = (WRITE_CONNECTIONS + READ_CONNECTIONS) as usize + 2;

    /// Parses the connection string; does not connect yet.
    ///
    /// # Errors
    /// What is wrong with the connection string, worded for the operator.
    pub fn new(config: &config::Postgres) -> Result<Self, ConfigError> {
        let limit = config.query_timeout;
        let server = Server::parse(config.url.expose(), config.connect_timeout, limit)?;
        let server = Arc::new(server);
        let problems = Arc::default();
        let limits = PoolLimits {
            connections: config.pool_size.min(WRITE_CONNECTIONS),
            wait: config.pool_timeout,
            query: limit + GRACE,
            statement: Some(limit),
            idle: Some(IDLE_WRITE),
            access: Access::ReadWrite,
            settings: &[],
        };
        let read_limits = PoolLimits {
            connections: config.pool_size.min(READ_CONNECTIONS),
            idle: Some(IDLE_READ),
            access: Access::ReadOnly,
            settings: &READ_SETTINGS,
            ..limits
        };
        Ok(Self {
            schema: Schema::new(Arc::clone(&server)),
            isolation: Isolation::default(),
            writes: Pool::new(limits, Arc::clone(&server)),
            reads: Pool::new(read_limits, Arc::clone(&server)),
            listener: Listener::new(Arc::clone(&server), Arc::clone(&problems), limit),
            server,
            limit,
            problems,
        })
    }

    pub async fn prepare(&self) -> Result<(), ArchiveError> {
        self.noting(ProblemKind::Writes, self.schema.prepare()).await?;
        // Records are written whatever comes of this, and tokens look again.
        // Boxed, as it is rarely needed and large.
        if let Err(error) = Box::pin(self.check_isolation()).await {
            debug!(%error, "whether tenants are kept apart is not known");
        }
        Ok(())
    }

    /// Applies migrations, and puts in place again what keeps tenants apart.
    pub async fn migrate(&self) -> Result<MigrationReport, ArchiveError> {
        let report = self.noting(ProblemKind::Writes, self.schema.migrate(true)).await?;
        self.check_isolation().await?;
        Ok(report)
    }

    /// Looks whether the database keeps tenants apart; [`Self::isolation_problem`] says what
    /// was found.
    pub async fn check_isolation(&self) -> Result<(), ArchiveError> {
        let work = async {
            self.schema.ready().await?;
            Box::pin(self.isolation.check(&self.reads)).await
        };
        self.noting(ProblemKind::Reads, work).await
    }

    /// Returns why the database does not keep tenants apart, worded for the operator; `None`
    /// if it does.
    pub fn isolation_problem(&self) -> Option<Arc<str>> {
        self.isolation.problem()
    }

    pub async fn write(&self, records: &[Record]) -> Result<(), ArchiveError> {
        let work = async {
            self.schema.ready().await?;
            let mut transaction = self.writes.transaction().await?;
            write::insert(&mut transaction, records).await?;
            Ok(transaction.commit().await?)
        };
        self.noting(ProblemKind::Writes, work).await?;
        self.listener.wake();
        Ok(())
    }

    pub async fn page(&self, request: &PageRequest) -> Result<Page, ArchiveError> {
        let work = async {
            self.schema.ready().await?;
            page::page(&self.reads, self.isolation.reader(&request.tenant).as_ref(), request).await
        };
        self.noting(ProblemKind::Reads, work).await
    }

    pub async fn find(&self, tenant: &str, id: RecordId) -> Result<Option<Stored>, ArchiveError> {
        let work = async {
            self.schema.ready().await?;
            read::find(&self.reads, self.isolation.reader(tenant).as_ref(), tenant, id).await
        };
        self.noting(ProblemKind::Reads, work).await
    }

    pub async fn begin(&self) -> Result<Transaction<'_>, ArchiveError> {
        let work = async {
            self.schema.ready().await?;
            Ok(Transaction { inner: self.writes.transaction().await?, archive: self })
        };
        self.noting(ProblemKind::Writes, work).await
    }

    pub async fn snapshot(&self) -> Result<Snapshot<'_>, ArchiveError> {
        let work = async {
            self.schema.ready().await?;
            Ok(Snapshot(self.reads.snapshot().await?))
        };
        self.noting(ProblemKind::Reads, work).await
    }

    pub async fn snapshot_of(&self, tenant: &str) -> Result<Snapshot<'_>, ArchiveError> {
        let work = async {
            self.schema.ready().await?;
            let reader = self.isolation.reader(tenant);
            Ok(Snapshot(self.reads.snapshot_as(reader.as_ref()).await?))
        };
        self.noting(ProblemKind::Reads, work).await
    }

    pub fn problem(&self) -> Option<String> {
        let problems = self.problems.list();
        (!problems.is_empty()).then(|| problems.join("; "))
    }

    pub fn changes(&self) -> Changes {
        Changes { told: self.listener.subscribe(), longest: None }
    }

    pub async fn size(&self) -> Result<u64, ArchiveError> {
        let work = async {
            self.schema.ready().await?;
            let sql = "SELECT coalesce(sum(pg_total_relation_size(oid)), 0)::int8 FROM pg_class
                       WHERE relnamespace = 'nightporter_ledger'::regnamespace AND relkind = 'r'";
            let rows = self.reads.query(sql, &[]).await?;
            let bytes: i64 = rows.first().map_or(Ok(0), |row| rows::get(row, 0))?;
            Ok(u64::try_from(bytes).unwrap_or(0))
        };
        self.noting(ProblemKind::Reads, work).await
    }

    /// Returns locks for jobs that commit their work piecemeal. They exclude, and are
    /// excluded by, those of [`Transaction::try_lock`].
    pub fn session_locks(&self) -> Locks {
        Locks::new(LOCKS, Arc::clone(&self.server), self.limit)
    }

    /// Returns who holds the lock of that name, worded for the operator.
    pub async fn lock_holder(&self, name: &str) -> Result<Option<String>, ArchiveError> {
        // A key of 64 bits is shown in two halves. A transaction holds its lock since it
        // began; a session that only holds locks last took one.
        let sql = "SELECT concat_ws(', ', 'process ' || l.pid, nullif(a.application_name, ''),
                       host(a.client_addr),
                       to_char(coalesce(a.xact_start, a.state_change) AT TIME ZONE 'UTC',
                           '\"since\" YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'))
                   FROM hashtextextended($1, $2) AS k (key)
                   JOIN pg_locks AS l ON l.locktype = 'advisory' AND l.objsubid = 1 AND l.granted
                       AND l.classid::int8 = (k.key >> 32) & 4294967295
                       AND l.objid::int8 = k.key & 4294967295
                   JOIN pg_database AS d ON d.oid = l.database AND d.datname = current_database()
                   LEFT JOIN pg_stat_activity AS a ON a.pid = l.pid";
        let seed = LOCKS.seed();
        let rows = self.reads.query(sql, &[(&name, Type::TEXT), (&seed, Type::INT8)]).await?;
        rows.first().map(|row| rows::get(row, 0)).transpose()
    }

    /// Keeps what is wrong for [`Self::problem`].
    async fn noting<T>(
        &self,
        kind: ProblemKind,
        work: impl Future<Output = Result<T, ArchiveError>>,
    ) -> Result<T, ArchiveError> {
        let result = work.await;
        match &result {
            Err(ArchiveError::Unavailable(text)) => {
                self.schema.doubt();
                self.problems.set(kind, text.to_string());
            }
            Ok(_) | Err(ArchiveError::Content(_)) => self.problems.clear(kind),
        }
        result
    }
}
