//! A box whose process is killed while a write of it is held.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use rusqlite::{Connection as File, ErrorCode};
use serde_json::{Value, json};
use tokio_postgres::Client;

use super::act::Write;
use crate::support::boxes::{SampleBox, Store, id_of};
use crate::support::client::{Connection, Request, Response, ask, poll};
use crate::support::program::Program;
use crate::support::sign::BOX_KEY;

pub const PATIENCE: Duration = Duration::from_secs(120);
const OPEN_FILES: u32 = 1024;

/// The lock on which a held write waits.
const LOCK: i64 = 7_405_926_535_897;

/// The times of the databases, in microseconds.
const NOW_POSTGRES: &str = "(extract(epoch FROM clock_timestamp()) * 1000000)::int8";
const NOW_SQLITE: &str = "(CAST(unixepoch('now', 'subsec') * 1000 AS INTEGER) * 1000)";

/// One box; in Postgres with two processes.
pub struct Site {
    store: Store,
    sample: SampleBox,
    config: PathBuf,
    victim: Option<Program>,
    survivor: Option<Program>,
    /// Holds the lock, in Postgres.
    holder: Option<Client>,
}

impl Site {
    pub async fn new(store: Store) -> Self {
        let sample = SampleBox::new(store).await;
        sample.add_app("notes", &json!({"": {"access": "private"}})).await;
        // A write is held for longer than a statement usually may take.
        let limit = if store == Store::Postgres { "query_timeout = \"60s\"\n" } else { "" };
        let stored = sample.store_config().replace("[store]\n", &format!("[store]\n{limit}"));
        let further = "[gate]\nlisten = \"127.0.0.1:0\"\n[ops]\nlisten = \"127.0.0.1:0\"\n\
                       [wake]\nenabled = false\n[webhooks]\nallow = [\"127.0.0.0/8\"]\n\
                       [jobs]\ndead_letters = \"1h\"\n";
        let config = sample.folder().join("nightporter.toml");
        std::fs::write(&config, format!("{stored}{further}")).expect("written");
        let mut site = Self { store, sample, config, victim: None, survivor: None, holder: None };
        if store == Store::Postgres {
            site.survivor = Some(site.started().await);
            site.prepare_lock().await;
        }
        site
    }

    pub fn tenant() -> String {
        id_of(&BOX_KEY)
    }

    pub fn spool(&self) -> PathBuf {
        self.sample.ledger().join("spool")
    }

    async fn started(&self) -> Program {
        let program = Program::start(&self.config, OPEN_FILES);
        let request = Request::auth("notes.localhost", "/");
        poll("the app is known", PATIENCE, async || {
            ask(program.gate, &request).await.status == 401
        })
        .await;
        program
    }

    /// Starts the process that is killed in this round, unless it runs.
    pub async fn start(&mut self) {
        if self.victim.is_none() {
            self.victim = Some(self.started().await);
        }
        // Its row is written, and the tables are made.
        let jobs = Request::new("GET", "/v1/jobs");
        poll("jobs were run", PATIENCE, async || {
            let answer = ask(self.victim().ops, &jobs).await;
            let jobs: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
            let is_run = |job: &Value| job["name"] == "retention" && !job["last_run"].is_null();
            jobs["jobs"].as_array().is_some_and(|jobs| jobs.iter().any(is_run))
        })
        .await;
    }

    pub fn victim(&self) -> &Program {
        self.victim.as_ref().expect("started")
    }

    /// Returns where the box is served: by one process or by two.
    pub fn replicas(&self) -> Vec<SocketAddr> {
        let programs = [self.survivor.as_ref(), self.victim.as_ref()];
        programs.into_iter().flatten().map(|program| program.ops).collect()
    }

    /// Kills the process. In Postgres the other one goes on.
    pub async fn kill(&mut self) {
        let mut victim = self.victim.take().expect("started");
        victim.signal("KILL");
        victim.ended().await;
    }

    /// Starts the killed process anew if there is no other one.
    pub async fn recover(&mut self) {
        if self.survivor.is_none() {
            self.victim = Some(self.started().await);
        }
    }

    pub async fn send(&self, to: SocketAddr, bytes: &[u8]) -> std::io::Result<Response> {
        Connection::open(to).await?.ask_bytes(bytes).await
    }

    fn sql(&self, sql: &str) -> String {
        match self.store {
            Store::Files => sql.replace("{s}", "").replace("{now}", NOW_SQLITE),
            Store::Postgres => {
                sql.replace("{s}", "nightporter_ledger.").replace("{now}", NOW_POSTGRES)
            }
        }
    }

    fn file(&self) -> File {
        let file = File::open(self.sample.ledger().join("ledger.db")).expect("opens");
        file.busy_timeout(Duration::from_secs(30)).expect("set");
        file
    }

    /// Returns the number that a query selects.
    pub async fn number(&self, sql: &str) -> i64 {
        let sql = self.sql(sql);
        match self.store {
            Store::Files => self.file().query_row(&sql, [], |row| row.get(0)).expect(&sql),
            Store::Postgres => {
                let row = self.sample.database().connect().await.query_one(&sql, &[]).await;
                row.expect(&sql).get(0)
            }
        }
    }

    pub async fn execute(&self, sql: &str) {
        let sql = self.sql(sql);
        match self.store {
            Store::Files => self.file().execute_batch(&sql).expect(&sql),
            Store::Postgres => self.sample.database().batch(&sql).await,
        }
    }

    /// In Postgres, a held write waits for a lock that another session has.
    async fn prepare_lock(&self) {
        let function = format!(
            "CREATE FUNCTION wait_for_lock() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN
                 PERFORM pg_advisory_xact_lock_shared({LOCK});
                 RETURN CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END;
             END $$"
        );
        self.sample.database().batch(&function).await;
    }

    /// Has a write not end, whoever makes it.
    pub async fn hold(&mut self, Write { event, table, of }: &Write) {
        match self.store {
            // What takes for ever, since SQLite's triggers cannot wait.
            Store::Files => {
                let trigger = format!(
                    "CREATE VIEW endless AS
                         WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)
                         SELECT count(*) AS number FROM n;
                     CREATE TRIGGER held BEFORE {event} ON {table} WHEN {of}
                     BEGIN SELECT number FROM endless; END"
                );
                self.execute(&trigger).await;
            }
            Store::Postgres => {
                let holder = self.sample.database().connect().await;
                let lock = format!("SELECT pg_advisory_lock({LOCK})");
                holder.batch_execute(&lock).await.expect("locked");
                self.holder = Some(holder);
                let trigger = format!(
                    "CREATE TRIGGER held BEFORE {event} ON {{s}}{table} FOR EACH ROW WHEN ({of})
                     EXECUTE FUNCTION wait_for_lock()"
                );
                self.execute(&trigger).await;
            }
        }
    }

    /// Returns whether a request is being done and its write is held.
    pub async fn is_held(&self) -> bool {
        let running = "SELECT count(*) FROM {s}idempotency_keys WHERE state = 'running'";
        if self.number(running).await != 1 {
            return false;
        }
        match self.store {
            Store::Files => {
                // Another write ends long before this.
                let file = self.file();
                file.busy_timeout(Duration::from_millis(500)).expect("set");
                match file.execute_batch("BEGIN IMMEDIATE; ROLLBACK") {
                    Ok(()) => false,
                    Err(error) => error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy),
                }
            }
            Store::Postgres => {
                let waiting = "SELECT count(*) FROM pg_locks AS l
                     JOIN pg_database AS d ON d.oid = l.database AND d.datname = current_database()
                     WHERE l.locktype = 'advisory' AND l.mode = 'ShareLock' AND NOT l.granted";
                self.number(waiting).await == 1
            }
        }
    }

    /// Lets go. What the killed process has begun ends without effect.
    pub async fn release(&mut self, Write { table, .. }: &Write) {
        drop(self.holder.take());
        let trigger = match self.store {
            Store::Files => "DROP TRIGGER held; DROP VIEW endless".to_owned(),
            Store::Postgres => format!("DROP TRIGGER held ON {{s}}{table}"),
        };
        self.execute(&trigger).await;
    }
}
