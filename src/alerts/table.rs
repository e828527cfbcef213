//! The tables of alerts: what processes observe, the state of each alert, and its history.
//!
//! A change is one transaction under a lock of the box's own: what is observed, the state, the
//! history and the message are written together or not at all.

pub mod after_silence;
pub mod counts;
mod postgres;
mod sqlite;

use super::plan::{Change, Key, Observation};
use super::rule::Rule;
use super::subject::Subject;
use crate::backoff::random;
use crate::ledger::archive::{ArchiveError, Snapshot, Transaction};
use crate::ledger::record::{Micros, WriterId};

/// How many changes of one alert are kept.
const HISTORY: i64 = 1000;

/// An alert, as it is stored. All times are those of the database's clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alert {
    /// Names it for as long as it is kept, and says nothing about it.
    pub id: String,
    pub rule: Rule,
    pub subject: Subject,
    pub is_firing: bool,
    /// Since when it has been firing or resolved.
    pub since: Micros,
    /// How often its state has changed.
    pub changes: i64,
    /// The measured number when it fired.
    pub value: u64,
    pub detail: String,
    pub silenced_until: Option<Micros>,
}

/// A change of an alert's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryEntry {
    /// Counts the changes of the alert from 1.
    pub n: i64,
    pub at: Micros,
    pub is_firing: bool,
    pub value: u64,
    pub detail: String,
    /// Whether no message was sent, because the alert was silenced.
    pub is_silenced: bool,
}

/// What the processes of a box observe, and which alerts fire.
#[derive(Debug, Default)]
pub struct StoredAlerts {
    pub observed: Vec<Observation>,
    pub firing: Vec<Alert>,
}

/// Who observes, and until when that counts.
#[derive(Debug, Clone, Copy)]
pub struct Observer {
    pub writer: WriterId,
    pub expires_at: Micros,
}

/// What can be seen without a transaction.
#[derive(Debug)]
pub struct Overview {
    pub firing: Vec<Alert>,
    /// Whether some process has not said for too long that it still observes what it did, or a
    /// silence has ended.
    pub has_expired: bool,
}

/// Which alerts are shown, the newest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AlertPage {
    pub is_firing: Option<bool>,
    pub rule: Option<Rule>,
    /// Only alerts that follow this one.
    pub after: Option<Cursor>,
    pub limit: i64,
}

/// The place of an alert in the order of a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    pub since: Micros,
    pub id: String,
}

/// Calls the same function for whichever kind of archive is configured.
macro_rules! dispatch {
    ($kind:ident, $on:expr, $name:ident ( $($argument:expr),* )) => {
        match $on {
            $kind::Sqlite(on) => sqlite::$name(on, $($argument),*).await,
            $kind::Postgres(on) => postgres::$name(on, $($argument),*).await,
        }
    };
}

/// Takes the lock under which the alerts of a box change; `false` if another process has it.
pub async fn try_lock(
    transaction: &mut Transaction<'_>,
    tenant: &str,
) -> Result<bool, ArchiveError> {
    transaction.try_lock(&format!("{tenant}/alerts")).await
}

/// Writes all that a process observes, in place of what it observed before; removes what
/// processes observed that have gone, as far as it has expired at or before `expired_at`.
/// Returns what is stored then.
pub async fn observe(
    transaction: &mut Transaction<'_>,
    tenant: &str,
    observer: Observer,
    own: &[Observation],
    expired_at: Micros,
) -> Result<StoredAlerts, ArchiveError> {
    dispatch!(Transaction, transaction, observe(tenant, observer, own, expired_at))
}

/// Changes the state of an alert, and appends that to its history. Returns the alert.
pub async fn change(
    transaction: &mut Transaction<'_>,
    tenant: &str,
    writer: WriterId,
    change: &Change,
    now: Micros,
) -> Result<Option<Alert>, ArchiveError> {
    let changed = match change {
        Change::Fires(observation) => {
            let id = new_id();
            dispatch!(Transaction, transaction, fire(tenant, &id, observation, now))
        }
        Change::Resolves(key) => dispatch!(Transaction, transaction, resolve(tenant, key, now)),
    }?;
    let Some(alert) = changed else { return Ok(None) };
    let entry = HistoryEntry {
        n: alert.changes,
        at: now,
        is_firing: alert.is_firing,
        value: alert.value,
        detail: alert.detail.clone(),
        is_silenced: alert.is_silenced(now),
    };
    let oldest = alert.changes - HISTORY;
    dispatch!(Transaction, transaction, append(tenant, &alert.id, writer, &entry, oldest))?;
    Ok(Some(alert))
}

/// Silences an alert until a time, or lets it be heard again. Returns it; `None` if there is
/// none with this id.
pub async fn silence(
    transaction: &mut Transaction<'_>,
    tenant: &str,
    id: &str,
    until: Option<Micros>,
) -> Result<Option<Alert>, ArchiveError> {
    dispatch!(Transaction, transaction, silence(tenant, id, until))
}

/// Removes up to `limit` alerts that were resolved before a time and are not silenced, and as
/// many changes of the others from before it. Returns how many rows were removed.
pub async fn remove_before(
    transaction: &mut Transaction<'_>,
    tenant: &str,
    before: Micros,
    now: Micros,
    limit: i64,
) -> Result<u64, ArchiveError> {
    dispatch!(Transaction, transaction, remove_before(tenant, before, now, limit))
}

/// Looks at what fires.
pub async fn overview(snapshot: &mut Snapshot<'_>, tenant: &str) -> Result<Overview, ArchiveError> {
    dispatch!(Snapshot, snapshot, overview(tenant))
}

pub async fn page(
    snapshot: &mut Snapshot<'_>,
    tenant: &str,
    page: &AlertPage,
) -> Result<Vec<Alert>, ArchiveError> {
    dispatch!(Snapshot, snapshot, page(tenant, page))
}

pub async fn find(
    snapshot: &mut Snapshot<'_>,
    tenant: &str,
    id: &str,
) -> Result<Option<Alert>, ArchiveError> {
    dispatch!(Snapshot, snapshot, find(tenant, id))
}

/// Returns changes of an alert, the newest first; only those older than the change `before`.
pub async fn history(
    snapshot: &mut Snapshot<'_>,
    tenant: &str,
    id: &str,
    before: Option<i64>,
    limit: i64,
) -> Result<Vec<HistoryEntry>, ArchiveError> {
    dispatch!(Snapshot, snapshot, history(tenant, id, before.unwrap_or(i64::MAX), limit))
}

impl Alert {
    #[must_use]
    pub fn key(&self) -> Key {
        (self.rule, self.subject.clone())
    }

    #[must_use]
    pub fn is_silenced(&self, now: Micros) -> bool {
        self.silenced_until.is_some_and(|until| now < until)
    }
}

/// Returns a random id of 64 bits.
fn new_id() -> String {
    format!("{:08x}{:08x}", random(), random())
}

/// Reads the rule and the subject of a row; `None` if a newer version has written it.
fn key(rule: &str, kind: &str, subject: &str) -> Option<Key> {
    Some((Rule::parse(rule)?, Subject::parse(kind, subject)?))
}

fn to_stored(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn from_stored(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}
