//! The tables of alerts in SQLite.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{Alert, AlertPage, Cursor, HistoryEntry, Observer, Overview, StoredAlerts};
use super::{from_stored, key, to_stored};
use crate::alerts::plan::{Key, Observation};
use crate::ledger::archive::ArchiveError;
use crate::ledger::archive::sqlite::{Fault, Snapshot, Transaction};
use crate::ledger::clock;
use crate::ledger::record::{Micros, WriterId};

const COLUMNS: &str =
    "id, rule, subject_kind, subject, firing, since, changes, value, detail, silenced_until";

pub(super) async fn observe(
    transaction: &mut Transaction,
    tenant: &str,
    observer: Observer,
    own: &[Observation],
    expired_at: Micros,
) -> Result<StoredAlerts, ArchiveError> {
    let (tenant, own) = (tenant.to_owned(), own.to_vec());
    let Observer { writer, expires_at } = observer;
    transaction
        .run(move |connection| {
            connection.execute(
                "DELETE FROM alert_writers WHERE tenant = ? AND (writer = ? OR expires_at <= ?)",
                params![tenant, writer.0, expired_at.0],
            )?;
            if !own.is_empty() {
                connection.execute(
                    "INSERT INTO alert_writers (tenant, writer, expires_at) VALUES (?, ?, ?)",
                    params![tenant, writer.0, expires_at.0],
                )?;
            }
            let mut insert = connection.prepare(
                "INSERT INTO alert_observations
                     (tenant, writer, rule, subject_kind, subject, since, value, detail)
                 VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            )?;
            for Observation { rule, subject, since, value, detail } in &own {
                let (kind, subject, value) = (subject.kind(), subject.stored(), to_stored(*value));
                let rule = rule.as_str();
                insert.execute(params![
                    tenant, writer.0, rule, kind, subject, since.0, value, detail
                ])?;
            }
            Ok(StoredAlerts {
                observed: observed(connection, &tenant)?,
                firing: firing(connection, &tenant)?,
            })
        })
        .await
}

fn observed(connection: &Connection, tenant: &str) -> Result<Vec<Observation>, Fault> {
    let mut statement = connection.prepare(
        "SELECT rule, subject_kind, subject, since, value, detail FROM alert_observations
         WHERE tenant = ?",
    )?;
    let rows = statement.query_map([tenant], |row| {
        let [rule, kind, subject] = [0, 1, 2].map(|column| row.get::<_, String>(column));
        let Some((rule, subject)) = key(&rule?, &kind?, &subject?) else { return Ok(None) };
        let (since, value) = (Micros(row.get(3)?), from_stored(row.get(4)?));
        Ok(Some(Observation { rule, subject, since, value, detail: row.get(5)? }))
    })?;
    Ok(rows.filter_map(Result::transpose).collect::<Result<_, _>>()?)
}

fn firing(connection: &Connection, tenant: &str) -> Result<Vec<Alert>, Fault> {
    let sql =
        format!("SELECT {COLUMNS} FROM alerts WHERE tenant = ? AND firing ORDER BY since, id");
    let mut statement = connection.prepare(&sql)?;
    let rows = statement.query_map([tenant], alert)?;
    Ok(rows.filter_map(Result::transpose).collect::<Result<_, _>>()?)
}

/// Reads a row; `None` if a newer version has written it.
fn alert(row: &Row<'_>) -> rusqlite::Result<Option<Alert>> {
    let [rule, kind, subject] = [1, 2, 3].map(|column| row.get::<_, String>(column));
    let Some((rule, subject)) = key(&rule?, &kind?, &subject?) else { return Ok(None) };
    Ok(Some(Alert {
        id: row.get(0)?,
        rule,
        subject,
        is_firing: row.get(4)?,
        since: Micros(row.get(5)?),
        changes: row.get(6)?,
        value: from_stored(row.get(7)?),
        detail: row.get(8)?,
        silenced_until: row.get::<_, Option<i64>>(9)?.map(Micros),
    }))
}

pub(super) async fn fire(
    transaction: &mut Transaction,
    tenant: &str,
    id: &str,
    observation: &Observation,
    now: Micros,
) -> Result<Option<Alert>, ArchiveError> {
    let (tenant, id) = (tenant.to_owned(), id.to_owned());
    let Observation { rule, subject, since, value, detail } = observation.clone();
    transaction
        .run(move |connection| {
            let sql = format!(
                "INSERT INTO alerts (tenant, id, rule, subject_kind, subject, firing, since,
                     changed, changes, value, detail)
                 VALUES (?1, ?2, ?3, ?4, ?5, true, ?6, ?7, 1, ?8, ?9)
                 ON CONFLICT (tenant, rule, subject_kind, subject) DO UPDATE SET firing = true,
                     since = excluded.since, changed = excluded.changed, changes = changes + 1,
                     value = excluded.value, detail = excluded.detail
                 RETURNING {COLUMNS}"
            );
            let (kind, subject, value) = (subject.kind(), subject.stored(), to_stored(value));
            let params =
                params![tenant, id, rule.as_str(), kind, subject, since.0, now.0, value, detail];
            Ok(connection.query_row(&sql, params, alert)?)
        })
        .await
}

pub(super) async fn resolve(
    transaction: &mut Transaction,
    tenant: &str,
    (rule, subject): &Key,
    now: Micros,
) -> Result<Option<Alert>, ArchiveError> {
    let (tenant, rule, subject) = (tenant.to_owned(), rule.as_str(), subject.clone());
    transaction
        .run(move |connection| {
            let sql = format!(
                "UPDATE alerts SET firing = false, since = ?5, changed = ?5, changes = changes + 1
                 WHERE tenant = ?1 AND rule = ?2 AND subject_kind = ?3 AND subject = ?4 AND firing
                 RETURNING {COLUMNS}"
            );
            let params = params![tenant, rule, subject.kind(), subject.stored(), now.0];
            Ok(connection.query_row(&sql, params, alert).optional()?.flatten())
        })
        .await
}

pub(super) async fn append(
    transaction: &mut Transaction,
    tenant: &str,
    id: &str,
    writer: WriterId,
    entry: &HistoryEntry,
    oldest: i64,
) -> Result<(), ArchiveError> {
    let (tenant, id, entry) = (tenant.to_owned(), id.to_owned(), entry.clone());
    transaction
        .run(move |connection| {
            let HistoryEntry { n, at, is_firing, value, detail, is_silenced } = entry;
            let sql = "INSERT INTO alert_history
                           (tenant, alert, n, at, firing, value, detail, silenced, writer)
                       VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)";
            let value = to_stored(value);
            connection.execute(
                sql,
                params![tenant, id, n, at.0, is_firing, value, detail, is_silenced, writer.0],
            )?;
            let prune = "DELETE FROM alert_history WHERE tenant = ? AND alert = ? AND n <= ?";
            connection.execute(prune, params![tenant, id, oldest])?;
            Ok(())
        })
        .await
}

pub(super) async fn silence(
    transaction: &mut Transaction,
    tenant: &str,
    id: &str,
    until: Option<Micros>,
) -> Result<Option<Alert>, ArchiveError> {
    let (tenant, id, until) = (tenant.to_owned(), id.to_owned(), until.map(|until| until.0));
    transaction
        .run(move |connection| {
            let sql = format!(
                "UPDATE alerts SET silenced_until = ? WHERE tenant = ? AND id = ?
                 RETURNING {COLUMNS}"
            );
            let changed = connection.query_row(&sql, params![until, tenant, id], alert);
            Ok(changed.optional()?.flatten())
        })
        .await
}

pub(super) async fn remove_before(
    transaction: &mut Transaction,
    tenant: &str,
    before: Micros,
    now: Micros,
    limit: i64,
) -> Result<u64, ArchiveError> {
    let tenant = tenant.to_owned();
    transaction
        .run(move |connection| {
            let alerts = connection.execute(
                "DELETE FROM alerts WHERE rowid IN (
                     SELECT rowid FROM alerts WHERE tenant = ?1 AND NOT firing AND changed < ?2
                     AND (silenced_until IS NULL OR silenced_until <= ?3)
                     ORDER BY changed LIMIT ?4)",
                params![tenant, before.0, now.0, limit],
            )?;
            let changes = connection.execute(
                "DELETE FROM alert_history WHERE rowid IN (
                     SELECT h.rowid FROM alert_history AS h
                     JOIN alerts AS a ON a.tenant = h.tenant AND a.id = h.alert
                     WHERE h.tenant = ?1 AND h.at < ?2 AND h.n < a.changes LIMIT ?3)",
                params![tenant, before.0, limit],
            )?;
            Ok((alerts + changes) as u64)
        })
        .await
}

pub(super) async fn overview(
    snapshot: &mut Snapshot,
    tenant: &str,
) -> Result<Overview, ArchiveError> {
    let tenant = tenant.to_owned();
    snapshot
        .run(move |connection| {
            let sql = "SELECT EXISTS (SELECT * FROM alert_writers
                           WHERE tenant = ?1 AND expires_at <= ?2)
                       OR EXISTS (SELECT * FROM alerts
                           WHERE tenant = ?1 AND silenced_until <= ?2)";
            let params = params![tenant, clock::now().0];
            let has_expired = connection.query_row(sql, params, |row| row.get(0))?;
            Ok(Overview { firing: firing(connection, &tenant)?, has_expired })
        })
        .await
}

pub(super) async fn page(
    snapshot: &mut Snapshot,
    tenant: &str,
    page: &AlertPage,
) -> Result<Vec<Alert>, ArchiveError> {
    let (tenant, page) = (tenant.to_owned(), page.clone());
    snapshot
        .run(move |connection| {
            let AlertPage { is_firing, rule, after, limit } = page;
            let Cursor { since, id } =
                after.unwrap_or(Cursor { since: Micros(i64::MAX), id: String::new() });
            let sql = format!(
                "SELECT {COLUMNS} FROM alerts WHERE tenant = ?1
                 AND (?2 IS NULL OR firing = ?2) AND (?3 IS NULL OR rule = ?3)
                 AND (since, id) < (?4, ?5) ORDER BY since DESC, id DESC LIMIT ?6"
            );
            let mut statement = connection.prepare(&sql)?;
            let rule = rule.map(crate::alerts::Rule::as_str);
            let rows =
                statement.query_map(params![tenant, is_firing, rule, since.0, id, limit], alert)?;
            Ok(rows.filter_map(Result::transpose).collect::<Result<_, _>>()?)
        })
        .await
}

pub(super) async fn find(
    snapshot: &mut Snapshot,
    tenant: &str,
    id: &str,
) -> Result<Option<Alert>, ArchiveError> {
    let (tenant, id) = (tenant.to_owned(), id.to_owned());
    snapshot
        .run(move |connection| {
            let sql = format!("SELECT {COLUMNS} FROM alerts WHERE tenant = ? AND id = ?");
            Ok(connection.query_row(&sql, params![tenant, id], alert).optional()?.flatten())
        })
        .await
}

pub(super) async fn history(
    snapshot: &mut Snapshot,
    tenant: &str,
    id: &str,
    before: i64,
    limit: i64,
) -> Result<Vec<HistoryEntry>, ArchiveError> {
    let (tenant, id) = (tenant.to_owned(), id.to_owned());
    snapshot
        .run(move |connection| {
            let mut statement = connection.prepare(
                "SELECT n, at, firing, value, detail, silenced FROM alert_history
                 WHERE tenant = ? AND alert = ? AND n < ? ORDER BY n DESC LIMIT ?",
            )?;
            let rows = statement.query_map(params![tenant, id, before, limit], |row| {
                Ok(HistoryEntry {
                    n: row.get(0)?,
                    at: Micros(row.get(1)?),
                    is_firing: row.get(2)?,
                    value: from_stored(row.get(3)?),
                    detail: row.get(4)?,
                    is_silenced: row.get(5)?,
                })
            })?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
        .await
}
