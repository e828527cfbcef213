//! The link over which the database tells of changes.
//!
//! It has a connection of its own, since a pool's connections drop
//! notifications. It is believed only while heartbeats sent through the pool
//! come back over it: that tells a live link from a half-open one, and from a
//! proxy that swallows LISTEN. Whatever goes wrong has one answer: the link is
//! made anew, triggers and all, and what may have been missed is read again.

use std::convert::Infallible;
use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::Deserialize;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};
use tokio_postgres::types::Type;
use tokio_postgres::{AsyncMessage, Client, Connection, Socket};
use tracing::info;

use super::super::{Freshness, Table};
use super::migrate::{INSPECT, MigrateError, Triggers, inspect, migrate};
use super::problems::Subject;
use super::server::{ConnectError, explain};
use super::{Postgres, random_name};
use crate::backoff::jittered;

const CHANNEL: &str = "nightporter";

/// Waits between attempts: doubled from the first to the longest, and each
/// shortened by up to half at random, so that many processes do not knock at once.
const FIRST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// Why the link is no more, in words for the operator.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("{}", explain(.0))]
    Database(#[from] tokio_postgres::Error),
    #[error("preparing the database: {0}")]
    Migrate(#[from] MigrateError),
    #[error("the server closed the connection")]
    Closed,
    #[error("LISTEN was not answered within {0:?}")]
    Silent(Duration),
    #[error("a notification that cannot be read")]
    Unreadable,
    #[error("triggers are missing, switched off or were replaced")]
    Triggers,
    #[error("sending a heartbeat: {0}")]
    Heartbeat(super::Unavailable),
    #[error("a heartbeat did not come back within {0:?}")]
    Missed(Duration),
    #[error(
        "the first heartbeat did not come back within {0:?}; where a transaction-pooling proxy \
         stands in between, give `store.url` the address of the server itself"
    )]
    NeverHeard(Duration),
}

/// What comes over [`CHANNEL`].
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Payload<'a> {
    Heartbeat { heartbeat: &'a str, beat: u64 },
    Change { table: Watched, op: Operation, key: Option<String> },
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Watched {
    InstalledApps,
    Identities,
    Terminals,
    Peers,
    KvStore,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Operation {
    Insert,
    Update,
    Delete,
    /// Any number of keys.
    Reset,
}

impl Postgres {
    /// Keeps the link, through every fault, for as long as the process lives.
    pub async fn watch(&self) -> Infallible {
        let mut wait = FIRST_WAIT;
        loop {
            let proven = AtomicBool::new(false);
            let Err(lost) = self.follow(&proven).await;
            self.freshness.degrade();
            if proven.into_inner() {
                wait = FIRST_WAIT;
            }
            self.problems.set(Subject::Link, format!("no word of changes from Postgres: {lost}"));
            sleep(jittered(wait)).await;
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    }

    /// One life of the link.
    async fn follow(&self, proven: &AtomicBool) -> Result<Infallible, Lost> {
        let connect = async |config: tokio_postgres::Config, tls| config.connect(tls).await;
        let (client, connection) = self.server.connect(connect).await?;
        let (heard, echoes) = watch::channel(0);
        let name = random_name();
        tokio::select! {
            // Notifications first: a heartbeat must not overtake them.
            biased;
            lost = self.hear(connection, &name, &heard) => lost,
            lost = self.prove(client, &name, echoes, proven) => lost,
        }
    }

    /// Applies notifications the moment they arrive; also drives the connection.
    async fn hear<T>(
        &self,
        mut connection: Connection<Socket, T>,
        name: &str,
        heard: &watch::Sender<u64>,
    ) -> Result<Infallible, Lost>
    where
        T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    {
        loop {
            let message = poll_fn(|context| connection.poll_message(context)).await;
            let Some(message) = message.transpose()? else {
                return Err(Lost::Closed);
            };
            let AsyncMessage::Notification(notification) = message else {
                continue;
            };
            if notification.channel() != CHANNEL {
                continue;
            }
            match serde_json::from_str(notification.payload()) {
                Ok(Payload::Heartbeat { heartbeat, beat }) if heartbeat == name => {
                    heard.send_replace(beat);
                }
                // Another process's.
                Ok(Payload::Heartbeat { .. }) => {}
                Ok(Payload::Change { table, op, key }) => {
                    apply(&self.freshness, table, op, key.as_deref());
                }
                Err(_) => return Err(Lost::Unreadable),
            }
        }
    }

    /// Sets the link up, then proves it again and again.
    async fn prove(
        &self,
        mut client: Client,
        name: &str,
        mut echoes: watch::Receiver<u64>,
        proven: &AtomicBool,
    ) -> Result<Infallible, Lost> {
        let limit = self.query_timeout;
        let listen = timeout(limit, client.batch_execute(LISTEN)).await;
        listen.map_err(|_| Lost::Silent(limit))??;
        for applied in migrate(&mut client, self.create_tables).await? {
            info!(migration = applied, "migration applied");
        }
        let installed = timeout(limit, inspect(&client)).await;
        let installed = installed.map_err(|_| Lost::Silent(limit))??;
        self.freshness.reset();
        let period = self.freshness.times().heartbeat;
        for beat in 1.. {
            let (sent, next) = (self.freshness.now(), Instant::now() + period);
            let round = async {
                let triggers = self.beat(name, beat).await?;
                // This one and no later: a stranger may send any number.
                let _outlived_by_its_sender = echoes.wait_for(|echo| *echo == beat).await;
                Ok::<_, Lost>(triggers)
            };
            let Ok(triggers) = timeout_at(next, round).await else {
                // The pool's connections went the same way.
                self.pool.suspect_all();
                return Err(if beat == 1 {
                    Lost::NeverHeard(period)
                } else {
                    Lost::Missed(period)
                });
            };
            let triggers = triggers?;
            if triggers != installed || !triggers.are_complete() {
                // A search path that was changed holds for new connections only.
                self.pool.suspect_all();
                return Err(Lost::Triggers);
            }
            self.freshness.verify(sent);
            if !proven.swap(true, Ordering::Relaxed) {
                self.problems.clear(Subject::Link);
                info!("changes in Postgres are heard");
            }
            sleep_until(next).await;
        }
        Err(Lost::Closed)
    }

    /// Sends a heartbeat and, in the same statement, looks at the triggers.
    async fn beat(&self, name: &str, beat: u64) -> Result<Triggers, Lost> {
        let payload = serde_json::json!({ "heartbeat": name, "beat": beat }).to_string();
        let sql = format!("SELECT t.*, pg_notify('{CHANNEL}', $1) FROM ({INSPECT}) AS t");
        let rows =
            self.pool.query(&sql, &[(&payload, Type::TEXT)]).await.map_err(Lost::Heartbeat)?;
        let row = rows.first().ok_or(Lost::Triggers)?;
        Ok(Triggers::of(row)?)
    }
}

const LISTEN: &str = "LISTEN nightporter";

/// Outdates what a change has changed.
fn apply(freshness: &Freshness, table: Watched, op: Operation, key: Option<&str>) {
    let key = key.filter(|_| op != Operation::Reset);
    let outdate = |table| match key {
        Some(key) => freshness.outdate(table, key),
        None => freshness.outdate_table(table),
    };
    match table {
        Watched::InstalledApps => {
            outdate(Table::Apps);
            if op != Operation::Update {
                freshness.outdate_table(Table::AppNames);
            }
        }
        Watched::Terminals => outdate(Table::Terminals),
        Watched::Identities => freshness.outdate_table(Table::Identity),
        Watched::Peers => freshness.outdate_table(Table::Peers),
        Watched::KvStore => match key {
            Some("terminal_jwt_secret") => freshness.outdate_table(Table::TerminalSecret),
            Some("freeshard_controller_shared_key") => {
                freshness.outdate_table(Table::ManagementSecret);
            }
            // `profile`: the gate keeps nothing of it.
            Some(_) => {}
            None => {
                freshness.outdate_table(Table::TerminalSecret);
                freshness.outdate_table(Table::ManagementSecret);
            }
        },
    }
}

/// Takes a payload as the link does, for the fuzz targets.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn fuzz_payload(text: &str) {
    if let Ok(Payload::Change { table, op, key }) = serde_json::from_str(text) {
        let times = crate::config::Cache {
            capacity: 1,
            ttl: Duration::from_secs(1),
            degraded_ttl: Duration::from_secs(1),
            max_stale: Duration::from_secs(1),
            heartbeat: Duration::from_secs(1),
        };
        apply(&Freshness::new(times), table, op, key.as_deref());
    }
}
