//! The link: the connection on which the database notifies of changes.
//!
//! The link has its own connection, since a pool's connections drop
//! notifications. It is trusted only while heartbeats that are sent through the pool
//! come back over it: that distinguishes a live link from a half-open one, and from a
//! proxy that swallows LISTEN. Every fault is handled the same way: the link is
//! re-established, its triggers are repaired (on another connection), and cache entries whose changes may have
//! been missed become stale.
//!
//! Any role may notify on any channel, so notifications are not trusted either. A
//! notification that is not nightporter's is ignored. One that cannot be parsed counts as a
//! missed change, but not more often than entries are read again while the link is degraded.
//! A heartbeat is a random number that no other process knows before it is sent.

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Connection, Socket};
use tokio_stream::StreamExt;
use tracing::{info, warn};

use super::super::{Freshness, Table};
use super::migrate::{Inspection, PrepareError, inspect_all};
use super::triggers::{INSPECT, Triggers, inspect};
use super::{Postgres, ProblemKind, random_number};
use crate::backoff::jittered;
use crate::postgres::{ConnectError, Error, explain, notifications};

const CHANNEL: &str = "nightporter";

/// Backoff between attempts: doubled from the first to the longest, and each wait
/// shortened by up to half at random, so that many processes do not connect at once.
const FIRST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// Why the link was lost, worded for the operator.
#[derive(Debug, thiserror::Error)]
enum LinkError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("{}", explain(.0))]
    Database(#[from] tokio_postgres::Error),
    #[error("preparing the database: {0}")]
    Prepare(#[from] PrepareError),
    #[error("the server closed the connection")]
    Closed,
    #[error("the server did not respond within {0:?}")]
    NoResponse(Duration),
    #[error("triggers are missing, disabled or were replaced")]
    Triggers,
    #[error("sending a heartbeat: {0}")]
    Heartbeat(Error),
    #[error("a heartbeat did not come back within {0:?}")]
    HeartbeatTimeout(Duration),
    #[error(
        "the first heartbeat did not come back within {0:?}; if a transaction-pooling proxy is \
         in between, set `store.url` to the address of the server itself"
    )]
    FirstHeartbeatTimeout(Duration),
}

/// The payload of a notification on [`CHANNEL`].
#[derive(Debug, PartialEq, Eq)]
enum Payload {
    Heartbeat(String),
    Change {
        table: NotifiedTable,
        op: Operation,
        key: Option<String>,
    },
    /// From a table that is not followed, or from another program.
    Foreign,
    /// May have been one of nightporter's.
    Unreadable,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NotifiedTable {
    InstalledApps,
    Identities,
    Terminals,
    Peers,
    KvStore,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operation {
    Update,
    /// A key was added or removed.
    Other,
    /// Any number of keys changed.
    Reset,
}

impl Payload {
    fn parse(text: &str) -> Self {
        let Ok(Value::Object(members)) = serde_json::from_str(text) else {
            return Self::Unreadable;
        };
        let text = |member: &str| members.get(member).and_then(Value::as_str);
        if let Some(heartbeat) = text("heartbeat") {
            return Self::Heartbeat(heartbeat.to_owned());
        }
        let table = match text("table") {
            Some("installed_apps") => NotifiedTable::InstalledApps,
            Some("identities") => NotifiedTable::Identities,
            Some("terminals") => NotifiedTable::Terminals,
            Some("peers") => NotifiedTable::Peers,
            Some("kv_store") => NotifiedTable::KvStore,
            _ => return Self::Foreign,
        };
        let key = text("key").map(str::to_owned);
        let op = match text("op") {
            Some("update") => Operation::Update,
            Some("insert" | "delete") => Operation::Other,
            // An unknown operation changed this table in some way.
            _ => Operation::Reset,
        };
        Self::Change { table, op, key }
    }
}

/// Throttles the resets that notifications with unreadable payloads cause.
#[derive(Debug, Default)]
struct ResetThrottle {
    due: Option<Instant>,
    last_reset: Option<Instant>,
}

impl ResetThrottle {
    /// Schedules a reset: at once, or if the last reset was less than `period` ago, at the
    /// end of that period.
    fn schedule(&mut self, period: Duration) {
        let now = Instant::now();
        let earliest = self.last_reset.map_or(now, |last| last + period);
        self.due.get_or_insert(earliest.max(now));
    }

    /// Returns when a reset is due, and clears it.
    async fn due(&mut self) {
        match self.due {
            Some(due) => sleep_until(due).await,
            None => std::future::pending().await,
        }
        self.due = None;
        self.last_reset = Some(Instant::now());
    }
}

impl Postgres {
    /// Maintains the link for the life of the process and re-establishes it after every
    /// fault.
    pub async fn watch(&self) -> Infallible {
        let mut wait = FIRST_WAIT;
        loop {
            let was_live = AtomicBool::new(false);
            let Err(error) = self.run_link(&was_live).await;
            self.freshness.degrade();
            if was_live.into_inner() {
                wait = FIRST_WAIT;
            }
            let problem = format!("not receiving change notifications from Postgres: {error}");
            self.problems.set(ProblemKind::Link, problem);
            sleep(jittered(wait)).await;
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    }

    /// Establishes the link and runs it until it is lost.
    async fn run_link(&self, was_live: &AtomicBool) -> Result<Infallible, LinkError> {
        let connect = async |config: tokio_postgres::Config, tls| config.connect(tls).await;
        let (client, connection) = self.server.connect(connect).await?;
        let (expected, expectations) = watch::channel(String::new());
        let (received, echoes) = watch::channel(String::new());
        tokio::select! {
            // Notifications first: a heartbeat must not overtake them.
            biased;
            result = self.receive(connection, &expectations, &received) => result,
            result = self.send_heartbeats(client, &expected, echoes, was_live) => result,
        }
    }

    /// Applies notifications as soon as they arrive; also drives the connection.
    async fn receive<T>(
        &self,
        connection: Connection<Socket, T>,
        expected: &watch::Receiver<String>,
        received: &watch::Sender<String>,
    ) -> Result<Infallible, LinkError>
    where
        T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    {
        let mut notifications = notifications(connection, CHANNEL);
        let mut throttle = ResetThrottle::default();
        let mut has_warned = false;
        loop {
            let notification = tokio::select! {
                // Resets first: a flood of notifications must not delay the reset it causes.
                biased;
                () = throttle.due() => {
                    self.freshness.reset();
                    continue;
                }
                notification = notifications.next() => notification,
            };
            let notification = notification.ok_or(LinkError::Closed)??;
            match Payload::parse(notification.payload()) {
                // Any other heartbeat is another process's.
                Payload::Heartbeat(beat) if beat == *expected.borrow() => {
                    received.send_replace(beat);
                }
                Payload::Heartbeat(_) | Payload::Foreign => {}
                Payload::Change { table, op, key } => {
                    apply(&self.freshness, table, op, key.as_deref());
                }
                Payload::Unreadable => {
                    throttle.schedule(self.freshness.times().degraded_ttl);
                    if !std::mem::replace(&mut has_warned, true) {
                        warn!("received a notification on `{CHANNEL}` that cannot be parsed");
                    }
                }
            }
        }
    }

    /// Sets the link up, then sends a heartbeat in every period and waits for it to come
    /// back.
    async fn send_heartbeats(
        &self,
        client: Client,
        expected: &watch::Sender<String>,
        mut echoes: watch::Receiver<String>,
        was_live: &AtomicBool,
    ) -> Result<Infallible, LinkError> {
        let limit = self.query_timeout;
        let listen = timeout(limit, client.batch_execute(LISTEN)).await;
        listen.map_err(|_| LinkError::NoResponse(limit))??;
        let inspected = timeout(limit, inspect_all(&client)).await;
        let Inspection { is_in_place, newer } =
            inspected.map_err(|_| LinkError::NoResponse(limit))??;
        self.tell_of_newer(&newer);
        if !is_in_place {
            for applied in self.prepare().await?.applied {
                info!(migration = applied, "migration applied");
            }
        }
        let installed = timeout(limit, inspect(&client)).await;
        let installed = installed.map_err(|_| LinkError::NoResponse(limit))??;
        self.freshness.reset();
        let period = self.freshness.times().heartbeat;
        for beat in 1.. {
            let (sent, next) = (self.freshness.now(), Instant::now() + period);
            // No other process knows the number before it is sent, so a heartbeat that comes
            // back has made the round trip.
            let number = random_number();
            expected.send_replace(number.clone());
            let round_trip = async {
                let triggers = self.beat(&number, beat).await?;
                // The sender outlives this wait.
                let _result = echoes.wait_for(|echo| *echo == number).await;
                Ok::<_, LinkError>(triggers)
            };
            let Ok(triggers) = timeout_at(next, round_trip).await else {
                // The pool's connections may be dead too.
                self.pool.discard_all();
                return Err(if beat == 1 {
                    LinkError::FirstHeartbeatTimeout(period)
                } else {
                    LinkError::HeartbeatTimeout(period)
                });
            };
            let triggers = triggers?;
            if triggers != installed || !triggers.are_complete() {
                // If the search path was changed, only new connections use the new one.
                self.pool.discard_all();
                return Err(LinkError::Triggers);
            }
            self.freshness.verify(sent);
            if !was_live.swap(true, Ordering::Relaxed) {
                self.problems.clear(ProblemKind::Link);
                info!("receiving change notifications from Postgres");
            }
            sleep_until(next).await;
        }
        Err(LinkError::Closed)
    }

    /// Logs which migrations a newer process has applied, when they have changed.
    fn tell_of_newer(&self, newer: &[String]) {
        if self.newer.swap(newer.len(), Ordering::Relaxed) != newer.len() && !newer.is_empty() {
            let migrations = newer.join(", ");
            warn!(
                migrations,
                "the database was prepared by a newer version; this one serves with what it knows \
                 and repairs no trigger or function that differs from its own"
            );
        }
    }

    /// Sends a heartbeat and, in the same statement, inspects the triggers.
    async fn beat(&self, number: &str, beat: u64) -> Result<Triggers, LinkError> {
        // The count only helps a person who watches the channel.
        let payload = serde_json::json!({ "heartbeat": number, "beat": beat }).to_string();
        let sql = format!("SELECT t.*, pg_notify('{CHANNEL}', $1) FROM ({INSPECT}) AS t");
        let rows =
            self.pool.query(&sql, &[(&payload, Type::TEXT)]).await.map_err(LinkError::Heartbeat)?;
        let row = rows.first().ok_or(LinkError::Triggers)?;
        Ok(Triggers::from_row(row)?)
    }
}

const LISTEN: &str = "LISTEN nightporter";

/// Invalidates the entries that a change affects.
fn apply(freshness: &Freshness, table: NotifiedTable, op: Operation, key: Option<&str>) {
    let key = key.filter(|_| op != Operation::Reset);
    let invalidate = |table| match key {
        Some(key) => freshness.invalidate(table, key),
        None => freshness.invalidate_table(table),
    };
    match table {
        NotifiedTable::InstalledApps => {
            invalidate(Table::Apps);
            if op != Operation::Update {
                freshness.invalidate_table(Table::AppNames);
            }
        }
        NotifiedTable::Terminals => invalidate(Table::Terminals),
        NotifiedTable::Identities => freshness.invalidate_table(Table::Identity),
        NotifiedTable::Peers => freshness.invalidate_table(Table::Peers),
        NotifiedTable::KvStore => match key {
            Some("terminal_jwt_secret") => freshness.invalidate_table(Table::TerminalSecret),
            Some("freeshard_controller_shared_key") => {
                freshness.invalidate_table(Table::ManagementSecret);
            }
            // `profile`: the gate caches nothing from it.
            Some(_) => {}
            None => {
                freshness.invalidate_table(Table::TerminalSecret);
                freshness.invalidate_table(Table::ManagementSecret);
            }
        },
    }
}

/// Handles a payload as the link does, for the fuzz targets.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn fuzz_payload(text: &str) {
    if let Payload::Change { table, op, key } = Payload::parse(text) {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn change(table: NotifiedTable, op: Operation, key: Option<&str>) -> Payload {
        Payload::Change { table, op, key: key.map(str::to_owned) }
    }

    #[test]
    fn what_is_ours_is_read_what_is_not_is_ignored_and_what_may_be_is_a_doubt() {
        use NotifiedTable::{InstalledApps, KvStore, Peers, Terminals};
        use Operation::{Other, Reset, Update};
        for (text, expected) in [
            (
                r#"{"table":"terminals","op":"update","key":"t"}"#,
                change(Terminals, Update, Some("t")),
            ),
            (r#"{"table":"peers","op":"insert","key":"p"}"#, change(Peers, Other, Some("p"))),
            (r#"{"table":"kv_store","op":"reset"}"#, change(KvStore, Reset, None)),
            // From another version.
            (
                r#"{"table":"terminals","op":"merge","key":"t"}"#,
                change(Terminals, Reset, Some("t")),
            ),
            (r#"{"table":"installed_apps"}"#, change(InstalledApps, Reset, None)),
            (r#"{"table":"peers","op":"delete","key":7}"#, change(Peers, Other, None)),
            (r#"{"heartbeat":"7","beat":1}"#, Payload::Heartbeat("7".into())),
            (r#"{"heartbeat":"7"}"#, Payload::Heartbeat("7".into())),
            (r#"{"table":"app_secrets","op":"insert","key":"x"}"#, Payload::Foreign),
            ("{}", Payload::Foreign),
            (r#"{"hello":"world"}"#, Payload::Foreign),
            ("", Payload::Unreadable),
            ("not JSON", Payload::Unreadable),
            (r#"{"table":"terminals","op":"upd"#, Payload::Unreadable),
            ("[1]", Payload::Unreadable),
            ("7", Payload::Unreadable),
        ] {
            assert_eq!(Payload::parse(text), expected, "{text}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_that_cannot_be_read_is_made_up_for_once_a_period_and_at_the_end() {
        let period = Duration::from_secs(1);
        let (mut throttle, mut resets) = (ResetThrottle::default(), 0);
        let began = Instant::now();
        let flood = began + Duration::from_millis(9_500);
        while Instant::now() < flood {
            throttle.schedule(period);
            tokio::select! {
                biased;
                () = throttle.due() => resets += 1,
                () = sleep(Duration::from_millis(1)) => {}
            }
        }
        assert!((9..=11).contains(&resets), "{resets}");
        // The reset for the last notification is still due.
        assert!(timeout(period, throttle.due()).await.is_ok());
        assert!(timeout(period * 10, throttle.due()).await.is_err(), "there were no more");
    }
}
