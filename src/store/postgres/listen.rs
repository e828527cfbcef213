//! The link over which the database tells of changes.
//!
//! It has a connection of its own, since a pool's connections drop
//! notifications. It is believed only while heartbeats sent through the pool
//! come back over it: that tells a live link from a half-open one, and from a
//! proxy that swallows LISTEN. Whatever goes wrong has one answer: the link is
//! made anew, triggers and all, and what may have been missed is read again.
//!
//! Any role may notify on any channel, so what comes is not trusted either. What is
//! not ours is ignored; what cannot be read counts as something missed, but not more
//! often than a degraded store would be read anyway; and a heartbeat is a random
//! number that nobody knows before it is sent.

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::stream::poll_fn;
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};
use tokio_postgres::types::Type;
use tokio_postgres::{AsyncMessage, Client, Connection, Notification, Socket};
use tokio_stream::{Stream, StreamExt};
use tracing::{info, warn};

use super::super::{Freshness, Table};
use super::migrate::{MigrateError, migrate};
use super::triggers::{INSPECT, Triggers, inspect};
use super::{Postgres, Subject, random_number};
use crate::backoff::jittered;
use crate::postgres::{ConnectError, Error, explain};

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
    #[error("triggers are missing, switched off or were replaced")]
    Triggers,
    #[error("sending a heartbeat: {0}")]
    Heartbeat(Error),
    #[error("a heartbeat did not come back within {0:?}")]
    Missed(Duration),
    #[error(
        "the first heartbeat did not come back within {0:?}; where a transaction-pooling proxy \
         stands in between, give `store.url` the address of the server itself"
    )]
    NeverHeard(Duration),
}

/// What is said on [`CHANNEL`], as long as the connection lives; reading it also drives the
/// connection.
fn notifications<T>(
    mut connection: Connection<Socket, T>,
) -> impl Stream<Item = Result<Notification, tokio_postgres::Error>> + Unpin
where
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    poll_fn(move |context| connection.poll_message(context)).filter_map(|message| match message {
        Ok(AsyncMessage::Notification(heard)) => (heard.channel() == CHANNEL).then_some(Ok(heard)),
        Ok(_) => None,
        Err(error) => Some(Err(error)),
    })
}

/// What comes over [`CHANNEL`].
#[derive(Debug, PartialEq, Eq)]
enum Payload {
    Heartbeat(String),
    Change {
        table: Watched,
        op: Operation,
        key: Option<String>,
    },
    /// Of a table that is not followed, or from somebody else altogether.
    Foreign,
    /// It may have been one of ours.
    Unreadable,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Watched {
    InstalledApps,
    Identities,
    Terminals,
    Peers,
    KvStore,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operation {
    Update,
    /// A key came or went.
    Other,
    /// Any number of keys.
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
            Some("installed_apps") => Watched::InstalledApps,
            Some("identities") => Watched::Identities,
            Some("terminals") => Watched::Terminals,
            Some("peers") => Watched::Peers,
            Some("kv_store") => Watched::KvStore,
            _ => return Self::Foreign,
        };
        let key = text("key").map(str::to_owned);
        let op = match text("op") {
            Some("update") => Operation::Update,
            Some("insert" | "delete") => Operation::Other,
            // Whatever else it may be, it concerns this table.
            _ => Operation::Reset,
        };
        Self::Change { table, op, key }
    }
}

/// Notifications that could not be read, and when what they may have said is made up for.
#[derive(Debug, Default)]
struct Unread {
    due: Option<Instant>,
    made_up_for: Option<Instant>,
}

impl Unread {
    /// One more. Those that come within `period` of the last time wait for its end.
    fn note(&mut self, period: Duration) {
        let now = Instant::now();
        let earliest = self.made_up_for.map_or(now, |last| last + period);
        self.due.get_or_insert(earliest.max(now));
    }

    /// Returns when something is due, and forgets it.
    async fn due(&mut self) {
        match self.due {
            Some(due) => sleep_until(due).await,
            None => std::future::pending().await,
        }
        self.due = None;
        self.made_up_for = Some(Instant::now());
    }
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
        let (expected, expectations) = watch::channel(String::new());
        let (heard, echoes) = watch::channel(String::new());
        tokio::select! {
            // Notifications first: a heartbeat must not overtake them.
            biased;
            lost = self.hear(connection, &expectations, &heard) => lost,
            lost = self.prove(client, &expected, echoes, proven) => lost,
        }
    }

    /// Applies notifications the moment they arrive; also drives the connection.
    async fn hear<T>(
        &self,
        connection: Connection<Socket, T>,
        expected: &watch::Receiver<String>,
        heard: &watch::Sender<String>,
    ) -> Result<Infallible, Lost>
    where
        T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    {
        let mut notifications = notifications(connection);
        let mut unread = Unread::default();
        let mut was_told = false;
        loop {
            let notification = tokio::select! {
                // A flood must not put off what it is the reason for.
                biased;
                () = unread.due() => {
                    self.freshness.reset();
                    continue;
                }
                notification = notifications.next() => notification,
            };
            let notification = notification.ok_or(Lost::Closed)??;
            match Payload::parse(notification.payload()) {
                // Any other is another process's.
                Payload::Heartbeat(beat) if beat == *expected.borrow() => {
                    heard.send_replace(beat);
                }
                Payload::Heartbeat(_) | Payload::Foreign => {}
                Payload::Change { table, op, key } => {
                    apply(&self.freshness, table, op, key.as_deref());
                }
                Payload::Unreadable => {
                    unread.note(self.freshness.times().degraded_ttl);
                    if !std::mem::replace(&mut was_told, true) {
                        warn!("somebody sends notifications on `{CHANNEL}` that cannot be read");
                    }
                }
            }
        }
    }

    /// Sets the link up, then proves it again and again.
    async fn prove(
        &self,
        mut client: Client,
        expected: &watch::Sender<String>,
        mut echoes: watch::Receiver<String>,
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
            // Unknown to anyone before it is sent: what comes back has made the round.
            let number = random_number();
            expected.send_replace(number.clone());
            let round = async {
                let triggers = self.beat(&number, beat).await?;
                let _outlived_by_its_sender = echoes.wait_for(|echo| *echo == number).await;
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
    async fn beat(&self, number: &str, beat: u64) -> Result<Triggers, Lost> {
        // The count is for whoever reads along.
        let payload = serde_json::json!({ "heartbeat": number, "beat": beat }).to_string();
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

    fn change(table: Watched, op: Operation, key: Option<&str>) -> Payload {
        Payload::Change { table, op, key: key.map(str::to_owned) }
    }

    #[test]
    fn what_is_ours_is_read_what_is_not_is_ignored_and_what_may_be_is_a_doubt() {
        use Operation::{Other, Reset, Update};
        use Watched::{InstalledApps, KvStore, Peers, Terminals};
        for (text, expected) in [
            (
                r#"{"table":"terminals","op":"update","key":"t"}"#,
                change(Terminals, Update, Some("t")),
            ),
            (r#"{"table":"peers","op":"insert","key":"p"}"#, change(Peers, Other, Some("p"))),
            (r#"{"table":"kv_store","op":"reset"}"#, change(KvStore, Reset, None)),
            // Of another version.
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
        let (mut unread, mut times) = (Unread::default(), 0);
        let began = Instant::now();
        let flood = began + Duration::from_millis(9_500);
        while Instant::now() < flood {
            unread.note(period);
            tokio::select! {
                biased;
                () = unread.due() => times += 1,
                () = sleep(Duration::from_millis(1)) => {}
            }
        }
        assert!((9..=11).contains(&times), "{times}");
        // The last of them is not forgotten.
        assert!(timeout(period, unread.due()).await.is_ok());
        assert!(timeout(period * 10, unread.due()).await.is_err(), "there were no more");
    }
}
