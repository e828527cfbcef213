//! What was not told because of a silence, and is told once that has ended.

use super::{Alert, from_stored, key};
use crate::ledger::archive::sql::{Row, query};
use crate::ledger::archive::{ArchiveError, Transaction};
use crate::ledger::record::Micros;

/// Ends the silences whose time is over; returns the alerts as they are then.
pub async fn end_silences(
    transaction: &mut Transaction<'_>,
    tenant: &str,
    now: Micros,
) -> Result<Vec<Alert>, ArchiveError> {
    let sql = "UPDATE nightporter_ledger.alerts SET silenced_until = NULL
               WHERE tenant = $1 AND silenced_until <= $2
               RETURNING id, rule, subject_kind, subject,
                   CAST(CASE WHEN firing THEN 1 ELSE 0 END AS int8), since, changes, value, detail";
    let rows = query(transaction, sql, vec![tenant.into(), now.into()]).await?;
    rows.iter().map(alert).filter_map(Result::transpose).collect()
}

/// Reads a row; `None` if a newer version has written it.
fn alert(row: &Row) -> Result<Option<Alert>, ArchiveError> {
    let Some((rule, subject)) = key(&row.text(1)?, &row.text(2)?, &row.text(3)?) else {
        return Ok(None);
    };
    Ok(Some(Alert {
        id: row.text(0)?,
        rule,
        subject,
        is_firing: row.integer(4)? != 0,
        since: Micros(row.integer(5)?),
        changes: row.integer(6)?,
        value: from_stored(row.integer(7)?),
        detail: row.text(8)?,
        silenced_until: None,
    }))
}

/// Returns whether an alert that is not silenced is in another state than the one that was told
/// last, and notes that it is told.
pub async fn take_message(
    transaction: &mut Transaction<'_>,
    tenant: &str,
    alert: &Alert,
) -> Result<bool, ArchiveError> {
    let last = "SELECT CAST(CASE WHEN firing THEN 1 ELSE 0 END AS int8)
                FROM nightporter_ledger.alert_history
                WHERE tenant = $1 AND alert = $2 AND NOT silenced ORDER BY n DESC LIMIT 1";
    let rows = query(transaction, last, vec![tenant.into(), alert.id.as_str().into()]).await?;
    // What was never told does not fire, as far as anybody knows.
    let told = rows.first().map_or(Ok(0), |row| row.integer(0))? != 0;
    if told == alert.is_firing {
        return Ok(false);
    }
    let note = "UPDATE nightporter_ledger.alert_history SET silenced = false
                WHERE tenant = $1 AND alert = $2 AND n = $3";
    let params = vec![tenant.into(), alert.id.as_str().into(), alert.changes.into()];
    query(transaction, note, params).await?;
    Ok(true)
}
