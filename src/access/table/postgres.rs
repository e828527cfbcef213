//! The table of tokens in Postgres.

use tokio_postgres::types::Type;

use super::{COLUMNS, Row, Scope, Token, TokenHash, tenant_of};
use crate::ledger::archive::ArchiveError;
use crate::ledger::archive::postgres::{Snapshot, Transaction, get};
use crate::ledger::record::Micros;
use crate::postgres::Parameter;

pub(super) async fn insert(
    transaction: &mut Transaction<'_>,
    token: &Token,
) -> Result<(), ArchiveError> {
    let Token { id, hash, name, scope, rights, created, expires, last_use } = token;
    let sql = format!(
        "INSERT INTO nightporter_ledger.tokens ({COLUMNS}) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)"
    );
    let (tenant, id, hash) = (scope.as_str(), &**id, hash.as_bytes().as_slice());
    let (rights, expires) = (rights.to_string(), expires.map(|at| at.0));
    let last_use = last_use.map(|at| at.0);
    let parameters: [Parameter<'_>; 8] = [
        (&tenant, Type::TEXT),
        (&id, Type::TEXT),
        (&hash, Type::BYTEA),
        (name, Type::TEXT),
        (&rights, Type::TEXT),
        (&created.0, Type::INT8),
        (&expires, Type::INT8),
        (&last_use, Type::INT8),
    ];
    transaction.query(&sql, &parameters).await?;
    Ok(())
}

pub(super) async fn remove(
    transaction: &mut Transaction<'_>,
    scope: &Scope,
    id: &str,
) -> Result<bool, ArchiveError> {
    let sql = "DELETE FROM nightporter_ledger.tokens
               WHERE id = $1 AND ($2::text IS NULL OR tenant = $2) RETURNING id";
    let tenant = tenant_of(scope);
    let removed = transaction.query(sql, &[(&id, Type::TEXT), (&tenant, Type::TEXT)]).await?;
    Ok(!removed.is_empty())
}

pub(super) async fn note_use(
    transaction: &mut Transaction<'_>,
    id: &str,
    now: Micros,
    unless_since: Micros,
) -> Result<(), ArchiveError> {
    let sql = "UPDATE nightporter_ledger.tokens SET last_use = $2
               WHERE id = $1 AND (last_use IS NULL OR last_use < $3)";
    let parameters: [Parameter<'_>; 3] =
        [(&id, Type::TEXT), (&now.0, Type::INT8), (&unless_since.0, Type::INT8)];
    transaction.query(sql, &parameters).await?;
    Ok(())
}

pub(super) async fn by_hash(
    snapshot: &mut Snapshot<'_>,
    hash: &TokenHash,
) -> Result<Option<Token>, ArchiveError> {
    let sql = format!("SELECT {COLUMNS} FROM nightporter_ledger.tokens WHERE hash = $1");
    let rows = snapshot.query(&sql, &[(&hash.as_bytes().as_slice(), Type::BYTEA)]).await?;
    rows.first().map(token).transpose()
}

pub(super) async fn list(
    snapshot: &mut Snapshot<'_>,
    scope: &Scope,
) -> Result<Vec<Token>, ArchiveError> {
    let sql = format!(
        "SELECT {COLUMNS} FROM nightporter_ledger.tokens WHERE $1::text IS NULL OR tenant = $1
         ORDER BY created, id"
    );
    let rows = snapshot.query(&sql, &[(&tenant_of(scope), Type::TEXT)]).await?;
    rows.iter().map(token).collect()
}

fn token(row: &tokio_postgres::Row) -> Result<Token, ArchiveError> {
    let hash = get::<&[u8]>(row, 2)?.try_into();
    Ok(Row {
        tenant: get(row, 0)?,
        id: get(row, 1)?,
        hash: hash.map_err(|_| ArchiveError::Content("a token has an invalid hash".into()))?,
        name: get(row, 3)?,
        rights: get(row, 4)?,
        created: get(row, 5)?,
        expires: get(row, 6)?,
        last_use: get(row, 7)?,
    }
    .into())
}
