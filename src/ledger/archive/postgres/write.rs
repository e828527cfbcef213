//! Writing records.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use tokio_postgres::types::Type;

use super::super::ArchiveError;
use super::rows::{self, INSERT_NOTES, INSERT_REQUESTS, INSERT_STEPS, get};
use crate::ledger::record::{Record, RecordId};
use crate::postgres::{self, Parameter};

/// Writes records with their steps and notes. Of a record that is already there nothing is
/// written: its steps and notes came with it.
pub(super) async fn insert(
    transaction: &mut postgres::Transaction<'_>,
    records: &[Record],
) -> Result<(), ArchiveError> {
    if records.is_empty() {
        return Ok(());
    }
    let all: Vec<&Record> = records.iter().collect();
    let numbers = tenant_numbers(transaction, &all).await?;
    let requests = rows::requests(&all, |tenant| numbers.get(tenant).copied());
    let inserted = transaction.query(INSERT_REQUESTS, &requests.parameters()).await?;
    let inserted: HashSet<RecordId> = inserted.iter().map(rows::id).collect::<Result<_, _>>()?;
    let new = only_first(all, inserted);
    if let Some(steps) = rows::steps(&new) {
        transaction.query(INSERT_STEPS, &steps.parameters()).await?;
    }
    if let Some(notes) = rows::notes(&new) {
        transaction.query(INSERT_NOTES, &notes.parameters()).await?;
    }
    if !new.is_empty() {
        transaction.query("NOTIFY nightporter_ledger", &[]).await?;
    }
    Ok(())
}

/// See [`super::super::Transaction::adopt`].
pub(super) async fn adopt(
    transaction: &mut postgres::Transaction<'_>,
    records: &[Record],
) -> Result<(), ArchiveError> {
    let all: Vec<&Record> = records.iter().collect();
    let numbers = tenant_numbers(transaction, &all).await?;
    let sql = "UPDATE nightporter_ledger.requests AS r
               SET tenant = a.tenant, leaf = a.leaf, seal = a.seal
               FROM unnest($1, $2, $3, $4, $5) AS a (writer, seq, tenant, leaf, seal)
               WHERE r.writer = a.writer AND r.seq = a.seq AND r.position IS NULL
                   AND r.tenant = (SELECT id FROM nightporter_ledger.tenants WHERE name = '')
               RETURNING r.seq";
    let (writers, seqs) = rows::ids(records.iter().map(|record| record.id));
    let tenants: Vec<_> =
        records.iter().map(|record| numbers.get(&*record.tenant).copied()).collect();
    let leaves: Vec<&[u8]> = records.iter().map(|record| record.leaf.as_slice()).collect();
    let seals: Vec<&[u8]> = records.iter().map(|record| record.seal.as_slice()).collect();
    let parameters: [Parameter<'_>; 5] = [
        (&writers, Type::INT8_ARRAY),
        (&seqs, Type::INT8_ARRAY),
        (&tenants, Type::INT4_ARRAY),
        (&leaves, Type::BYTEA_ARRAY),
        (&seals, Type::BYTEA_ARRAY),
    ];
    let adopted = transaction.query(sql, &parameters).await?.len();
    if adopted != records.len() {
        let text = format!("{adopted} of {} records could be adopted", records.len());
        return Err(ArchiveError::Content(text.into()));
    }
    Ok(())
}

/// Returns the numbers by which rows name the tenants of these records.
async fn tenant_numbers(
    transaction: &mut postgres::Transaction<'_>,
    records: &[&Record],
) -> Result<BTreeMap<String, i32>, ArchiveError> {
    let names: BTreeSet<&str> = records.iter().map(|record| &*record.tenant).collect();
    let names: Vec<&str> = names.into_iter().collect();
    let insert = "INSERT INTO nightporter_ledger.tenants (name) SELECT unnest($1)
                  ON CONFLICT (name) DO NOTHING";
    let select = "SELECT name, id FROM nightporter_ledger.tenants WHERE name = ANY ($1)";
    let mut rows = transaction.query(select, &[(&names, Type::TEXT_ARRAY)]).await?;
    if rows.len() < names.len() {
        transaction.query(insert, &[(&names, Type::TEXT_ARRAY)]).await?;
        rows = transaction.query(select, &[(&names, Type::TEXT_ARRAY)]).await?;
    }
    rows.iter().map(|row| Ok((get(row, 0)?, get(row, 1)?))).collect()
}

/// Returns the records with these ids; of several with the same id the first, as the server
/// does.
fn only_first(records: Vec<&Record>, mut ids: HashSet<RecordId>) -> Vec<&Record> {
    records.into_iter().filter(|record| ids.remove(&record.id)).collect()
}
