//! The table of tokens, in either database.

mod postgres;
mod sqlite;

use super::token::{Token, TokenHash};
use super::{Rights, Scope};
use crate::ledger::archive::{ArchiveError, Snapshot, Transaction};
use crate::ledger::record::Micros;

/// Adds a token.
pub(super) async fn insert(
    transaction: &mut Transaction<'_>,
    token: &Token,
) -> Result<(), ArchiveError> {
    match transaction {
        Transaction::Sqlite(transaction) => {
            let token = token.clone();
            transaction.run(move |connection| sqlite::insert(connection, &token)).await
        }
        Transaction::Postgres(transaction) => postgres::insert(transaction, token).await,
    }
}

/// Removes a token whose scope `scope` includes; returns whether there was one.
pub(super) async fn remove(
    transaction: &mut Transaction<'_>,
    scope: &Scope,
    id: &str,
) -> Result<bool, ArchiveError> {
    match transaction {
        Transaction::Sqlite(transaction) => {
            let (scope, id) = (scope.clone(), id.to_owned());
            transaction.run(move |connection| sqlite::remove(connection, &scope, &id)).await
        }
        Transaction::Postgres(transaction) => postgres::remove(transaction, scope, id).await,
    }
}

/// Notes a use, if the last one that is noted was before `unless_since`.
pub(super) async fn note_use(
    transaction: &mut Transaction<'_>,
    id: &str,
    now: Micros,
    unless_since: Micros,
) -> Result<(), ArchiveError> {
    match transaction {
        Transaction::Sqlite(transaction) => {
            let id = id.to_owned();
            let work = move |connection: &_| sqlite::note_use(connection, &id, now, unless_since);
            transaction.run(work).await
        }
        Transaction::Postgres(transaction) => {
            postgres::note_use(transaction, id, now, unless_since).await
        }
    }
}

pub(super) async fn by_hash(
    snapshot: &mut Snapshot<'_>,
    hash: &TokenHash,
) -> Result<Option<Token>, ArchiveError> {
    match snapshot {
        Snapshot::Sqlite(snapshot) => {
            let hash = *hash;
            snapshot.run(move |connection| sqlite::by_hash(connection, &hash)).await
        }
        Snapshot::Postgres(snapshot) => postgres::by_hash(snapshot, hash).await,
    }
}

/// Returns the tokens whose scope `scope` includes, in the order in which they were made.
pub(super) async fn list(
    snapshot: &mut Snapshot<'_>,
    scope: &Scope,
) -> Result<Vec<Token>, ArchiveError> {
    match snapshot {
        Snapshot::Sqlite(snapshot) => {
            let scope = scope.clone();
            snapshot.run(move |connection| sqlite::list(connection, &scope)).await
        }
        Snapshot::Postgres(snapshot) => postgres::list(snapshot, scope).await,
    }
}

/// The columns of a token.
const COLUMNS: &str = "tenant, id, hash, name, rights, created, expires, last_use";

/// A row as it is stored.
struct Row {
    tenant: String,
    id: String,
    hash: [u8; 32],
    name: String,
    rights: String,
    created: i64,
    expires: Option<i64>,
    last_use: Option<i64>,
}

impl From<Row> for Token {
    fn from(row: Row) -> Self {
        let Row { tenant, id, hash, name, rights, created, expires, last_use } = row;
        Self {
            id: id.into(),
            hash: TokenHash::from_bytes(hash),
            name,
            scope: Scope::parse(&tenant),
            // A right that this version does not know is one that it must not grant.
            rights: rights.parse::<Rights>().unwrap_or_default(),
            created: Micros(created),
            expires: expires.map(Micros),
            last_use: last_use.map(Micros),
        }
    }
}

/// The tenant that a statement is restricted to; `None` for all.
fn tenant_of(scope: &Scope) -> Option<&str> {
    match scope {
        Scope::All => None,
        Scope::Tenant(tenant) => Some(tenant),
    }
}
