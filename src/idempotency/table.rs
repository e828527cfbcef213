//! The table of keys: who may do a request, and what it was answered with.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::fingerprint::{Payload, Scope};
use super::key::Key;
use super::shape;
use super::statement::{Rows, Value, read, run};
use super::{KEEP, LEASE, MAX_KEYS};
use crate::backoff::random;
use crate::ledger::archive::{Archive, ArchiveError, Transaction};
use crate::ledger::record::micros;

/// A request with a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keyed {
    pub tenant: Arc<str>,
    /// The id of the token, by which keys are counted.
    pub token: Arc<str>,
    pub scope: Scope,
    pub key: Key,
    pub payload: Payload,
}

/// An answer as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    pub status: u16,
    /// As JSON, a list of names and values.
    pub headers: String,
    pub body: Vec<u8>,
}

/// What is to be done with a request.
#[derive(Debug)]
pub enum Claim {
    /// The caller does it.
    Claimed(Execution),
    /// It was done.
    Replay(Stored),
    /// It is being done.
    Running,
    /// The key belongs to another request.
    Mismatch,
    /// The token has as many keys as it may have; the first one expires after this time.
    Full(Duration),
}

/// The right to do a request, for as long as its lease is extended.
#[derive(Debug, Clone)]
pub struct Execution {
    keyed: Keyed,
    /// Tells this execution from every other one of the same key.
    holder: i64,
    /// The record of the operator's act was committed by an execution that did not end.
    is_recorded: bool,
}

/// The table in an archive. It is used only while it has the expected shape.
#[derive(Debug)]
pub struct Keys {
    archive: Arc<Archive>,
    is_known_good: AtomicBool,
    problem: Mutex<Option<Arc<str>>>,
}

/// Why a key could not be claimed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ClaimError {
    #[error("{0}")]
    Archive(#[from] ArchiveError),
    /// The table is not the one that this version made.
    #[error("{0}")]
    Shape(Arc<str>),
}

/// What a row says about a request.
#[derive(Debug, PartialEq, Eq)]
enum Judged {
    /// There is no row, or one that counts no longer.
    Free,
    Replay(Stored),
    Running,
    Mismatch,
}

const LOOK: &str = "SELECT payload, state,
         CAST(CASE WHEN expires_at <= {now} THEN 1 ELSE 0 END AS bigint),
         CAST(CASE WHEN lease_until <= {now} THEN 1 ELSE 0 END AS bigint), status, headers, body
     FROM {table} WHERE tenant = ?1 AND scope = ?2 AND key = ?3";

/// The keys of a token apart from this one.
const COUNT: &str = "SELECT count(*), min(expires_at) - {now} FROM {table}
     WHERE tenant = ?1 AND token = ?2 AND expires_at > {now} AND NOT (scope = ?3 AND key = ?4)";

/// The first writer wins. A row that is expired is written anew; one whose lease has ended is
/// taken over by the same request.
const CLAIM: &str = "INSERT INTO {table} AS known (tenant, token, scope, key, payload, state,
         holder, recorded, lease_until, expires_at)
     VALUES (?1, ?2, ?3, ?4, ?5, 'running', ?6, 0, {now} + ?7, {now} + ?8)
     ON CONFLICT (scope, key) DO UPDATE SET tenant = excluded.tenant, token = excluded.token,
         payload = excluded.payload, state = 'running', holder = excluded.holder,
         recorded = CASE WHEN known.expires_at <= {now} THEN 0 ELSE known.recorded END,
         lease_until = excluded.lease_until, status = NULL, headers = NULL, body = NULL,
         expires_at = excluded.expires_at
     WHERE known.expires_at <= {now} OR (known.state = 'running'
         AND known.lease_until <= {now} AND known.payload = excluded.payload)
     RETURNING recorded";

const EXTEND: &str = "UPDATE {table} SET lease_until = {now} + ?4
     WHERE scope = ?1 AND key = ?2 AND holder = ?3 AND state = 'running' RETURNING recorded";

const NOTE_RECORDED: &str = "UPDATE {table} SET recorded = 1
     WHERE scope = ?1 AND key = ?2 AND holder = ?3 AND state = 'running' RETURNING recorded";

const FINISH: &str = "UPDATE {table} SET state = 'done', status = ?4, headers = ?5, body = ?6,
         expires_at = {now} + ?7
     WHERE scope = ?1 AND key = ?2 AND holder = ?3 AND state = 'running' RETURNING recorded";

const RELEASE: &str = "DELETE FROM {table}
     WHERE scope = ?1 AND key = ?2 AND holder = ?3 AND state = 'running' RETURNING recorded";

const SWEEP: &str = "DELETE FROM {table} WHERE (scope, key) IN (
         SELECT scope, key FROM {table} WHERE tenant = ?1 AND expires_at <= {now} LIMIT ?2)
     RETURNING recorded";

impl Keys {
    #[must_use]
    pub fn new(archive: Arc<Archive>) -> Self {
        Self { archive, is_known_good: AtomicBool::new(false), problem: Mutex::default() }
    }

    /// Returns what is wrong with the table, worded for the operator.
    pub fn problem(&self) -> Option<Arc<str>> {
        self.problem.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Compares the table with what this version expects.
    ///
    /// # Errors
    /// What differs, or that the archive cannot be read.
    pub async fn check(&self) -> Result<(), ClaimError> {
        let differences = shape::differences(&mut self.archive.snapshot().await?).await?;
        let problem: Option<Arc<str>> = (!differences.is_empty()).then(|| {
            let differences = differences.join("; ");
            format!(
                "requests with an Idempotency-Key are refused, because the table \
                 idempotency_keys is not the one that this version made: {differences}"
            )
            .into()
        });
        self.is_known_good.store(problem.is_none(), Ordering::Release);
        self.problem.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&problem);
        problem.map_or(Ok(()), |problem| Err(ClaimError::Shape(problem)))
    }

    /// Claims a key. What is known of it is looked up first, so that nobody waits for a
    /// transaction of whoever has it.
    ///
    /// # Errors
    /// Nothing was claimed.
    pub async fn claim(&self, keyed: Keyed) -> Result<Claim, ClaimError> {
        if !self.is_known_good.load(Ordering::Acquire) {
            self.check().await?;
        }
        let mut snapshot = self.archive.snapshot().await?;
        let found = judge(read(&mut snapshot, LOOK, keyed.place()).await?, &keyed.payload);
        drop(snapshot);
        if let Some(claim) = found.into_claim() {
            return Ok(claim);
        }
        let mut transaction = self.archive.begin().await?;
        if !try_lock(&mut transaction, &keyed).await? {
            transaction.roll_back().await?;
            return Ok(Claim::Running);
        }
        let claim = claim(&mut transaction, keyed).await?;
        transaction.commit().await?;
        Ok(claim)
    }

    /// Extends the lease of an execution; returns `false` if it was lost.
    ///
    /// # Errors
    /// Nobody knows; the lease ends when it would have ended.
    pub async fn extend(&self, execution: &Execution) -> Result<bool, ArchiveError> {
        let mut transaction = self.archive.begin().await?;
        let values = execution.with([Value::Int(micros(LEASE))]);
        let is_held = !run(&mut transaction, EXTEND, values).await?.is_empty();
        transaction.commit().await?;
        Ok(is_held)
    }

    /// Gives a key up: nothing was done, and a repeated request is done.
    pub async fn release(&self, execution: &Execution) -> Result<(), ArchiveError> {
        let mut transaction = self.archive.begin().await?;
        run(&mut transaction, RELEASE, execution.with([])).await?;
        transaction.commit().await
    }

    /// Begins a transaction for the answer of a request whose effect is elsewhere.
    pub async fn begin(&self) -> Result<Transaction<'_>, ArchiveError> {
        self.archive.begin().await
    }
}

impl Keyed {
    fn place(&self) -> Vec<Value> {
        [&self.tenant, self.scope.as_str(), self.key.as_str()].map(text).into()
    }
}

impl Execution {
    /// The request, for logs.
    #[must_use]
    pub fn scope(&self) -> &Scope {
        &self.keyed.scope
    }

    /// Whether an earlier execution, which did not end, has recorded the operator's act.
    #[must_use]
    pub fn is_recorded(&self) -> bool {
        self.is_recorded
    }

    /// Notes in a transaction that it records the operator's act; returns `false` if the lease
    /// was lost. Nothing must be committed then.
    pub async fn note_recorded(
        &self,
        transaction: &mut Transaction<'_>,
    ) -> Result<bool, ArchiveError> {
        Ok(!run(transaction, NOTE_RECORDED, self.with([])).await?.is_empty())
    }

    /// Stores the answer in a transaction; returns `false` if the lease was lost. Nothing must
    /// be committed then.
    pub async fn finish(
        &self,
        transaction: &mut Transaction<'_>,
        answer: Stored,
    ) -> Result<bool, ArchiveError> {
        let Stored { status, headers, body } = answer;
        let status = Value::Int(status.into());
        let keep = Value::Int(micros(KEEP));
        let values = self.with([status, Value::Text(headers), Value::Bytes(body), keep]);
        Ok(!run(transaction, FINISH, values).await?.is_empty())
    }

    fn with<const N: usize>(&self, further: [Value; N]) -> Vec<Value> {
        let Keyed { scope, key, .. } = &self.keyed;
        let own = [text(scope.as_str()), text(key.as_str()), Value::Int(self.holder)];
        own.into_iter().chain(further).collect()
    }
}

/// Removes up to `limit` expired keys of a tenant; returns how many.
pub async fn sweep(
    transaction: &mut Transaction<'_>,
    tenant: &str,
    limit: i64,
) -> Result<usize, ArchiveError> {
    Ok(run(transaction, SWEEP, vec![text(tenant), Value::Int(limit)]).await?.len())
}

/// Takes the key's lock until the transaction ends. SQLite has one writer at a time, which
/// holds its lock for a few statements only.
async fn try_lock(transaction: &mut Transaction<'_>, keyed: &Keyed) -> Result<bool, ArchiveError> {
    match transaction {
        Transaction::Sqlite(_) => Ok(true),
        Transaction::Postgres(transaction) => {
            let name = format!("idempotency/{}\u{1e}{}", keyed.scope.as_str(), keyed.key.as_str());
            transaction.try_lock(&name).await
        }
    }
}

async fn claim(transaction: &mut Transaction<'_>, keyed: Keyed) -> Result<Claim, ArchiveError> {
    if let Some(wait) = wait_for_room(transaction, &keyed).await? {
        let found = judge(run(transaction, LOOK, keyed.place()).await?, &keyed.payload);
        return Ok(found.into_claim().unwrap_or(Claim::Full(wait)));
    }
    let holder = (i64::from(random()) << 31) ^ i64::from(random());
    let Keyed { tenant, token, scope, key, payload } = &keyed;
    let [tenant, token, scope, key] = [tenant, token, scope.as_str(), key.as_str()].map(text);
    let payload_value = Value::Bytes(payload.0.to_vec());
    let [lease, keep] = [LEASE, KEEP].map(|time| Value::Int(micros(time)));
    let values = vec![tenant, token, scope, key, payload_value, Value::Int(holder), lease, keep];
    if let Some(row) = run(transaction, CLAIM, values).await?.first() {
        let is_recorded = row.first() == Some(&Value::Int(1));
        return Ok(Claim::Claimed(Execution { keyed, holder, is_recorded }));
    }
    // Another process was first.
    let found = judge(run(transaction, LOOK, keyed.place()).await?, &keyed.payload);
    Ok(found.into_claim().unwrap_or(Claim::Running))
}

/// Returns how long to wait if the token has as many keys as it may have.
async fn wait_for_room(
    transaction: &mut Transaction<'_>,
    keyed: &Keyed,
) -> Result<Option<Duration>, ArchiveError> {
    let Keyed { tenant, token, scope, key, payload: _ } = keyed;
    let values = [tenant, token, scope.as_str(), key.as_str()].map(text);
    let rows = run(transaction, COUNT, values.into()).await?;
    Ok(match rows.first().map(Vec::as_slice) {
        Some([Value::Int(count), Value::Int(left)]) if *count >= MAX_KEYS => {
            Some(Duration::from_micros(u64::try_from(*left).unwrap_or(0)))
        }
        _ => None,
    })
}

/// Judges the row of [`LOOK`].
fn judge(rows: Rows, payload: &Payload) -> Judged {
    let Some(row) = rows.into_iter().next() else { return Judged::Free };
    let Ok([of, state, is_expired, is_lapsed, status, headers, body]) = <[_; 7]>::try_from(row)
    else {
        return Judged::Running;
    };
    if is_expired == Value::Int(1) {
        return Judged::Free;
    }
    if of != Value::Bytes(payload.0.to_vec()) {
        return Judged::Mismatch;
    }
    match (state, status, headers, body) {
        (Value::Text(state), Value::Int(status), Value::Text(headers), Value::Bytes(body))
            if state == "done" =>
        {
            let status = u16::try_from(status).unwrap_or(500);
            Judged::Replay(Stored { status, headers, body })
        }
        _ if is_lapsed == Value::Int(1) => Judged::Free,
        _ => Judged::Running,
    }
}

impl Judged {
    /// Returns `None` if the key is free.
    fn into_claim(self) -> Option<Claim> {
        match self {
            Self::Free => None,
            Self::Replay(stored) => Some(Claim::Replay(stored)),
            Self::Running => Some(Claim::Running),
            Self::Mismatch => Some(Claim::Mismatch),
        }
    }
}

fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: Payload = Payload([1; 32]);

    fn row(payload: u8, state: &str, is_expired: bool, is_lapsed: bool) -> Rows {
        let done = state == "done";
        vec![vec![
            Value::Bytes(vec![payload; 32]),
            text(state),
            Value::Int(is_expired.into()),
            Value::Int(is_lapsed.into()),
            if done { Value::Int(201) } else { Value::Null },
            if done { text("[]") } else { Value::Null },
            if done { Value::Bytes(vec![7]) } else { Value::Null },
        ]]
    }

    #[test]
    fn a_row_tells_what_is_to_be_done() {
        let stored = || Stored { status: 201, headers: "[]".into(), body: vec![7] };
        for (rows, expected, why) in [
            (vec![], Judged::Free, "unknown"),
            (row(1, "done", false, true), Judged::Replay(stored()), "done"),
            (row(1, "running", false, false), Judged::Running, "running"),
            (row(1, "running", false, true), Judged::Free, "its process is gone"),
            (row(2, "done", false, true), Judged::Mismatch, "another request was done"),
            (row(2, "running", false, false), Judged::Mismatch, "another request is running"),
            (row(2, "running", false, true), Judged::Mismatch, "another request was cut off"),
            (row(2, "done", true, true), Judged::Free, "expired"),
            (row(1, "running", true, false), Judged::Free, "expired, whatever its lease"),
        ] {
            assert_eq!(judge(rows, &OWN), expected, "{why}");
        }
    }
}
