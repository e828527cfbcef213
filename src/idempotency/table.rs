//! The table of keys: who may do a request, and what it was answered with.
//!
//! What a client sends stands in it as hashes, and the answers are sealed ([`super::answer`]).

mod key_row;
mod shape;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::error::Unspecified;

use self::key_row::{KeyRow, key_state};
use super::answer::{Answer, KeyName, Sealed, Sealer};
use super::fingerprint::{Payload, Scope};
use super::key::Key;
use super::{KEEP, LEASE, MAX_KEYS};
use crate::backoff::random;
use crate::ledger::archive::sql::{Param, query, read};
use crate::ledger::archive::{Archive, ArchiveError, Transaction};

/// A request with a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyedRequest {
    tenant: Arc<str>,
    token: Arc<str>,
    scope: Scope,
    name: KeyName,
    payload: Payload,
    sealer: Sealer,
}

/// Who sends a request: the token by its id, by which keys are counted, and by its text, if there
/// is one, without which the stored answer cannot be opened.
#[derive(Clone, Copy)]
pub struct Caller<'a> {
    pub token: &'a Arc<str>,
    pub secret: Option<&'a [u8]>,
}

/// What is to be done with a request.
#[derive(Debug)]
pub enum Claim {
    /// The caller does it.
    Claimed(Execution),
    /// It was done, and answered so.
    Replay(Answer),
    /// It was done, and what it was answered with cannot be read: it was stored for another
    /// token, or altered.
    Unreadable,
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
    keyed: KeyedRequest,
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

const LOOK: &str = "SELECT payload, state,
         CAST(CASE WHEN expires_at <= {now} THEN 1 ELSE 0 END AS bigint),
         CAST(CASE WHEN lease_until <= {now} THEN 1 ELSE 0 END AS bigint), status, headers, body
     FROM nightporter_ledger.idempotency_keys WHERE tenant = $1 AND scope = $2 AND key = $3";

/// The keys of a token apart from this one.
const COUNT: &str =
    "SELECT count(*), min(expires_at) - {now} FROM nightporter_ledger.idempotency_keys
     WHERE tenant = $1 AND token = $2 AND expires_at > {now} AND NOT (scope = $3 AND key = $4)";

/// The first writer wins. A row that is expired is written anew; one whose lease has ended is
/// taken over by the same request.
const CLAIM: &str = "INSERT INTO nightporter_ledger.idempotency_keys AS known (tenant, token, scope, key, payload, state,
         holder, recorded, lease_until, expires_at)
     VALUES ($1, $2, $3, $4, $5, 'running', $6, 0, {now} + $7, {now} + $8)
     ON CONFLICT (scope, key) DO UPDATE SET tenant = excluded.tenant, token = excluded.token,
         payload = excluded.payload, state = 'running', holder = excluded.holder,
         recorded = CASE WHEN known.expires_at <= {now} THEN 0 ELSE known.recorded END,
         lease_until = excluded.lease_until, status = NULL, headers = NULL, body = NULL,
         expires_at = excluded.expires_at
     WHERE known.expires_at <= {now} OR (known.state = 'running'
         AND known.lease_until <= {now} AND known.payload = excluded.payload)
     RETURNING recorded";

const EXTEND: &str = "UPDATE nightporter_ledger.idempotency_keys SET lease_until = {now} + $4
     WHERE scope = $1 AND key = $2 AND holder = $3 AND state = 'running' RETURNING recorded";

const NOTE_RECORDED: &str = "UPDATE nightporter_ledger.idempotency_keys SET recorded = 1
     WHERE scope = $1 AND key = $2 AND holder = $3 AND state = 'running' RETURNING recorded";

const FINISH: &str = "UPDATE nightporter_ledger.idempotency_keys SET state = 'done', status = $4, headers = $5, body = $6,
         expires_at = {now} + $7
     WHERE scope = $1 AND key = $2 AND holder = $3 AND state = 'running' RETURNING recorded";

const RELEASE: &str = "DELETE FROM nightporter_ledger.idempotency_keys
     WHERE scope = $1 AND key = $2 AND holder = $3 AND state = 'running' AND recorded = 0";

/// A row that says that the act is recorded stays, so that a repetition does not record it anew.
const LET_LAPSE: &str = "UPDATE nightporter_ledger.idempotency_keys SET lease_until = {now}
     WHERE scope = $1 AND key = $2 AND holder = $3 AND state = 'running'";

/// Keys of a tenant, and those that nobody has swept: of a box that is gone, or that there never
/// was.
const SWEEP: &str = "DELETE FROM nightporter_ledger.idempotency_keys WHERE (scope, key) IN (
         SELECT scope, key FROM nightporter_ledger.idempotency_keys
         WHERE (tenant = $1 AND expires_at <= {now}) OR expires_at <= {now} - $3 LIMIT $2)
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
    /// transaction of the request that has it.
    ///
    /// # Errors
    /// Nothing was claimed.
    pub async fn claim(&self, keyed: KeyedRequest) -> Result<Claim, ClaimError> {
        if !self.is_known_good.load(Ordering::Acquire) {
            self.check().await?;
        }
        let mut snapshot = self.archive.snapshot().await?;
        let found = KeyRow::first(&read(&mut snapshot, LOOK, keyed.place()).await?)?;
        drop(snapshot);
        if let Some(claim) = key_state(found, &keyed.payload).into_claim(&keyed) {
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
        let params = execution.with([LEASE.into()]);
        let is_held = !query(&mut transaction, EXTEND, params).await?.is_empty();
        transaction.commit().await?;
        Ok(is_held)
    }

    /// Gives a key up: nothing was done, and a repeated request is done at once.
    pub async fn release(&self, execution: &Execution) -> Result<(), ArchiveError> {
        let mut transaction = self.archive.begin().await?;
        query(&mut transaction, RELEASE, execution.with([])).await?;
        query(&mut transaction, LET_LAPSE, execution.with([])).await?;
        transaction.commit().await
    }

    /// Begins a transaction for the answer of a request whose effect is elsewhere.
    pub async fn begin(&self) -> Result<Transaction<'_>, ArchiveError> {
        self.archive.begin().await
    }
}

impl KeyedRequest {
    /// # Errors
    /// The cryptographic library fails.
    pub fn new(
        tenant: &Arc<str>,
        caller: Caller<'_>,
        scope: Scope,
        key: &Key,
        payload: Payload,
    ) -> Result<Self, Unspecified> {
        let (tenant, token) = (Arc::clone(tenant), Arc::clone(caller.token));
        let name = KeyName::new(&scope, key);
        let sealer = Sealer::derive(caller.secret, &scope, key)?;
        Ok(Self { tenant, token, scope, name, payload, sealer })
    }

    /// The parameters of [`LOOK`].
    fn place(&self) -> Vec<Param> {
        [&self.tenant, self.scope.as_str(), self.name.as_str()].map(Param::from).into()
    }

    /// The first parameters of [`COUNT`] and of [`CLAIM`].
    fn own(&self) -> [Param; 4] {
        [&self.tenant, &self.token, self.scope.as_str(), self.name.as_str()].map(Param::from)
    }
}

impl std::fmt::Debug for Caller<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Caller").field("token", &self.token).finish_non_exhaustive()
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
        Ok(!query(transaction, NOTE_RECORDED, self.with([])).await?.is_empty())
    }

    /// Stores the answer in a transaction; returns `false` if the lease was lost. Nothing must
    /// be committed then.
    pub async fn finish(
        &self,
        transaction: &mut Transaction<'_>,
        answer: Answer,
    ) -> Result<bool, ArchiveError> {
        let KeyedRequest { payload, sealer, .. } = &self.keyed;
        let Sealed { status, headers, body } = sealer
            .seal(payload, answer)
            .map_err(|_| ArchiveError::Unavailable("the answer cannot be encrypted".into()))?;
        let answer = [i64::from(status).into(), headers.into(), body.into(), KEEP.into()];
        Ok(!query(transaction, FINISH, self.with(answer)).await?.is_empty())
    }

    fn with<const N: usize>(&self, further: [Param; N]) -> Vec<Param> {
        let KeyedRequest { scope, name, .. } = &self.keyed;
        let own = [scope.as_str().into(), name.as_str().into(), self.holder.into()];
        own.into_iter().chain(further).collect()
    }
}

/// Removes up to `limit` expired keys of a tenant, and any that have been expired for [`KEEP`];
/// returns how many.
pub async fn sweep(
    transaction: &mut Transaction<'_>,
    tenant: &str,
    limit: i64,
) -> Result<usize, ArchiveError> {
    Ok(query(transaction, SWEEP, vec![tenant.into(), limit.into(), KEEP.into()]).await?.len())
}

/// Takes the key's lock until the transaction ends. SQLite has one writer at a time, which
/// holds its lock for a few statements only.
async fn try_lock(
    transaction: &mut Transaction<'_>,
    keyed: &KeyedRequest,
) -> Result<bool, ArchiveError> {
    match transaction {
        Transaction::Sqlite(_) => Ok(true),
        Transaction::Postgres(transaction) => {
            let name = format!("idempotency/{}\u{1e}{}", keyed.scope.as_str(), keyed.name.as_str());
            transaction.try_lock(&name).await
        }
    }
}

async fn claim(
    transaction: &mut Transaction<'_>,
    keyed: KeyedRequest,
) -> Result<Claim, ArchiveError> {
    if let Some(wait) = wait_for_room(transaction, &keyed).await? {
        let found = KeyRow::first(&query(transaction, LOOK, keyed.place()).await?)?;
        return Ok(key_state(found, &keyed.payload)
            .into_claim(&keyed)
            .unwrap_or(Claim::Full(wait)));
    }
    let holder = (i64::from(random()) << 31) ^ i64::from(random());
    let payload = keyed.payload.0.as_slice().into();
    let further = [payload, holder.into(), LEASE.into(), KEEP.into()];
    let params = keyed.own().into_iter().chain(further).collect();
    if let Some(row) = query(transaction, CLAIM, params).await?.first() {
        let is_recorded = row.integer(0)? == 1;
        return Ok(Claim::Claimed(Execution { keyed, holder, is_recorded }));
    }
    // Another process was first.
    let found = KeyRow::first(&query(transaction, LOOK, keyed.place()).await?)?;
    Ok(key_state(found, &keyed.payload).into_claim(&keyed).unwrap_or(Claim::Running))
}

/// Returns how long to wait if the token has as many keys as it may have.
async fn wait_for_room(
    transaction: &mut Transaction<'_>,
    keyed: &KeyedRequest,
) -> Result<Option<Duration>, ArchiveError> {
    let rows = query(transaction, COUNT, keyed.own().into()).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    if row.integer(0)? < MAX_KEYS {
        return Ok(None);
    }
    let left = row.optional_integer(1)?.unwrap_or(0);
    Ok(Some(Duration::from_micros(u64::try_from(left).unwrap_or(0))))
}
