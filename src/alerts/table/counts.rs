//! What each process of a box has counted.

use std::collections::BTreeMap;

use super::super::subject::Subject;
use super::{Observer, from_stored, to_stored};
use crate::ledger::archive::sql::{Row, query};
use crate::ledger::archive::{ArchiveError, Transaction};
use crate::ledger::record::Micros;

/// Writes what a process has counted, in place of what it wrote before, and returns what all
/// others have counted together.
pub async fn exchange(
    transaction: &mut Transaction<'_>,
    tenant: &str,
    observer: Observer,
    own: &[(Subject, u64)],
) -> Result<BTreeMap<Subject, u64>, ArchiveError> {
    let Observer { writer, expires_at } = observer;
    let now: Micros = transaction.now().await?;
    let remove = "DELETE FROM nightporter_ledger.alert_counts
                  WHERE tenant = $1 AND (writer = $2 OR expires_at <= $3)";
    query(transaction, remove, vec![tenant.into(), writer.0.into(), now.into()]).await?;
    let insert = "INSERT INTO nightporter_ledger.alert_counts
                      (tenant, writer, subject_kind, subject, number, expires_at)
                  VALUES ($1, $2, $3, $4, $5, $6)";
    for (subject, number) in own {
        let params = vec![
            tenant.into(),
            writer.0.into(),
            subject.kind().into(),
            subject.stored().into(),
            to_stored(*number).into(),
            expires_at.into(),
        ];
        query(transaction, insert, params).await?;
    }
    let others = "SELECT subject_kind, subject, CAST(sum(number) AS int8)
                  FROM nightporter_ledger.alert_counts WHERE tenant = $1 AND writer <> $2
                  GROUP BY subject_kind, subject";
    let rows = query(transaction, others, vec![tenant.into(), writer.0.into()]).await?;
    // What a newer version has written is left out.
    let count = |row: &Row| {
        let subject = Subject::parse(&row.text(0)?, &row.text(1)?);
        let number = from_stored(row.integer(2)?);
        Ok(subject.map(|subject| (subject, number)))
    };
    rows.iter().map(count).filter_map(Result::transpose).collect()
}
