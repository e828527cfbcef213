//! The table of tokens.

use super::token::{Token, TokenHash};
use super::{Rights, Scope};
use crate::ledger::archive::sql::{Param, Row, query, read};
use crate::ledger::archive::{ArchiveError, Snapshot, Transaction};
use crate::ledger::record::Micros;

/// The columns of a token.
macro_rules! columns {
    () => {
        "tenant, id, hash, name, rights, created, expires, last_use"
    };
}

/// Adds a token.
pub(super) async fn insert(
    transaction: &mut Transaction<'_>,
    token: &Token,
) -> Result<(), ArchiveError> {
    let sql = concat!(
        "INSERT INTO nightporter_ledger.tokens (",
        columns!(),
        ") VALUES ($1, $2, $3, $4, $5, $6, $7, $8)"
    );
    let Token { id, hash, name, scope, rights, created, expires, last_use } = token;
    let params = vec![
        scope.as_str().into(),
        Param::from(&**id),
        hash.as_bytes().as_slice().into(),
        name.as_str().into(),
        rights.to_string().into(),
        (*created).into(),
        (*expires).into(),
        (*last_use).into(),
    ];
    query(transaction, sql, params).await.map(drop)
}

/// Removes a token whose scope `scope` includes; returns whether there was one.
pub(super) async fn remove(
    transaction: &mut Transaction<'_>,
    scope: &Scope,
    id: &str,
) -> Result<bool, ArchiveError> {
    let sql = "DELETE FROM nightporter_ledger.tokens
               WHERE id = $1 AND ($2 IS NULL OR tenant = $2) RETURNING id";
    let params = vec![id.into(), tenant_of(scope).into()];
    Ok(!query(transaction, sql, params).await?.is_empty())
}

/// Notes a use, if the last one that is noted was before `unless_since`.
pub(super) async fn note_use(
    transaction: &mut Transaction<'_>,
    id: &str,
    now: Micros,
    unless_since: Micros,
) -> Result<(), ArchiveError> {
    let sql = "UPDATE nightporter_ledger.tokens SET last_use = $2
               WHERE id = $1 AND (last_use IS NULL OR last_use < $3)";
    query(transaction, sql, vec![id.into(), now.into(), unless_since.into()]).await.map(drop)
}

pub(super) async fn by_hash(
    snapshot: &mut Snapshot<'_>,
    hash: &TokenHash,
) -> Result<Option<Token>, ArchiveError> {
    let sql = concat!("SELECT ", columns!(), " FROM nightporter_ledger.tokens WHERE hash = $1");
    let rows = read(snapshot, sql, vec![hash.as_bytes().as_slice().into()]).await?;
    rows.first().map(token).transpose()
}

/// Returns the tokens whose scope `scope` includes, in the order in which they were made.
pub(super) async fn list(
    snapshot: &mut Snapshot<'_>,
    scope: &Scope,
) -> Result<Vec<Token>, ArchiveError> {
    let sql = concat!(
        "SELECT ",
        columns!(),
        " FROM nightporter_ledger.tokens WHERE $1 IS NULL OR tenant = $1 ORDER BY created, id"
    );
    read(snapshot, sql, vec![tenant_of(scope).into()]).await?.iter().map(token).collect()
}

fn token(row: &Row) -> Result<Token, ArchiveError> {
    let hash = <[u8; 32]>::try_from(row.bytes(2)?);
    let hash = hash.map_err(|_| ArchiveError::Content("a token has an invalid hash".into()))?;
    Ok(Token {
        id: row.text(1)?.into(),
        hash: TokenHash::from_bytes(hash),
        name: row.text(3)?,
        scope: Scope::parse(&row.text(0)?),
        // A right that this version does not know is one that it must not grant.
        rights: row.text(4)?.parse::<Rights>().unwrap_or_default(),
        created: Micros(row.integer(5)?),
        expires: row.optional_integer(6)?.map(Micros),
        last_use: row.optional_integer(7)?.map(Micros),
    })
}

/// The tenant that a statement is restricted to; `None` for all.
fn tenant_of(scope: &Scope) -> Option<&str> {
    match scope {
        Scope::All => None,
        Scope::Tenant(tenant) => Some(tenant),
    }
}
