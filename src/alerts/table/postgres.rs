//! The tables of alerts in Postgres.

use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::{Alert, AlertPage, Cursor, HistoryEntry, Observer, Overview, StoredAlerts};
use super::{from_stored, key, to_stored};
use crate::alerts::Rule;
use crate::alerts::plan::{Key, Observation};
use crate::ledger::archive::ArchiveError;
use crate::ledger::archive::postgres::{Snapshot, Transaction, get};
use crate::ledger::record::{Micros, WriterId};

macro_rules! columns {
    () => {
        "id, rule, subject_kind, subject, firing, since, changes, value, detail, silenced_until"
    };
}

const OBSERVED: &str = "SELECT rule, subject_kind, subject, since, value, detail
    FROM nightporter_ledger.alert_observations WHERE tenant = $1";

const FIRING: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM nightporter_ledger.alerts WHERE tenant = $1 AND firing ORDER BY since, id"
);

pub(super) async fn observe(
    transaction: &mut Transaction<'_>,
    tenant: &str,
    observer: Observer,
    own: &[Observation],
    expired_at: Micros,
) -> Result<StoredAlerts, ArchiveError> {
    let Observer { writer, expires_at } = observer;
    let remove = "DELETE FROM nightporter_ledger.alert_writers
                  WHERE tenant = $1 AND (writer = $2 OR expires_at <= $3)";
    transaction
        .query(
            remove,
            &[(&tenant, Type::TEXT), (&writer.0, Type::INT8), (&expired_at.0, Type::INT8)],
        )
        .await?;
    if !own.is_empty() {
        let insert = "INSERT INTO nightporter_ledger.alert_writers (tenant, writer, expires_at)
                      VALUES ($1, $2, $3)";
        let expires_at = expires_at.0;
        transaction
            .query(
                insert,
                &[(&tenant, Type::TEXT), (&writer.0, Type::INT8), (&expires_at, Type::INT8)],
            )
            .await?;
        insert_observations(transaction, tenant, writer, own).await?;
    }
    let observed = transaction.query(OBSERVED, &[(&tenant, Type::TEXT)]).await?;
    let observed = observed.iter().map(observation).filter_map(Result::transpose);
    let observed = observed.collect::<Result<_, _>>()?;
    let firing = transaction.query(FIRING, &[(&tenant, Type::TEXT)]).await?;
    Ok(StoredAlerts { observed, firing: alerts(&firing)? })
}

async fn insert_observations(
    transaction: &mut Transaction<'_>,
    tenant: &str,
    writer: WriterId,
    own: &[Observation],
) -> Result<(), ArchiveError> {
    let insert = "INSERT INTO nightporter_ledger.alert_observations
                      (tenant, writer, rule, subject_kind, subject, since, value, detail)
                  SELECT $1, $2, * FROM unnest($3, $4, $5, $6, $7, $8)";
    let rules: Vec<&str> = own.iter().map(|seen| seen.rule.as_str()).collect();
    let kinds: Vec<&str> = own.iter().map(|seen| seen.subject.kind()).collect();
    let subjects: Vec<String> = own.iter().map(|seen| seen.subject.stored()).collect();
    let since: Vec<i64> = own.iter().map(|seen| seen.since.0).collect();
    let values: Vec<i64> = own.iter().map(|seen| to_stored(seen.value)).collect();
    let details: Vec<&str> = own.iter().map(|seen| seen.detail.as_str()).collect();
    transaction
        .query(
            insert,
            &[
                (&tenant, Type::TEXT),
                (&writer.0, Type::INT8),
                (&rules, Type::TEXT_ARRAY),
                (&kinds, Type::TEXT_ARRAY),
                (&subjects, Type::TEXT_ARRAY),
                (&since, Type::INT8_ARRAY),
                (&values, Type::INT8_ARRAY),
                (&details, Type::TEXT_ARRAY),
            ],
        )
        .await?;
    Ok(())
}

/// Reads a row; `None` if a newer version has written it.
fn observation(row: &Row) -> Result<Option<Observation>, ArchiveError> {
    let Some((rule, subject)) = key(get(row, 0)?, get(row, 1)?, get(row, 2)?) else {
        return Ok(None);
    };
    let (since, value) = (Micros(get(row, 3)?), from_stored(get(row, 4)?));
    Ok(Some(Observation { rule, subject, since, value, detail: get(row, 5)? }))
}

/// Reads a row; `None` if a newer version has written it.
fn alert(row: &Row) -> Result<Option<Alert>, ArchiveError> {
    let Some((rule, subject)) = key(get(row, 1)?, get(row, 2)?, get(row, 3)?) else {
        return Ok(None);
    };
    Ok(Some(Alert {
        id: get(row, 0)?,
        rule,
        subject,
        is_firing: get(row, 4)?,
        since: Micros(get(row, 5)?),
        changes: get(row, 6)?,
        value: from_stored(get(row, 7)?),
        detail: get(row, 8)?,
        silenced_until: get::<Option<i64>>(row, 9)?.map(Micros),
    }))
}

fn alerts(rows: &[Row]) -> Result<Vec<Alert>, ArchiveError> {
    rows.iter().map(alert).filter_map(Result::transpose).collect()
}

fn first(rows: &[Row]) -> Result<Option<Alert>, ArchiveError> {
    Ok(rows.first().map(alert).transpose()?.flatten())
}

pub(super) async fn fire(
    transaction: &mut Transaction<'_>,
    tenant: &str,
    id: &str,
    observation: &Observation,
    now: Micros,
) -> Result<Option<Alert>, ArchiveError> {
    let sql = concat!(
        "INSERT INTO nightporter_ledger.alerts AS a (tenant, id, rule, subject_kind, subject, \
             firing, since, changed, changes, value, detail) \
         VALUES ($1, $2, $3, $4, $5, true, $6, $7, 1, $8, $9) \
         ON CONFLICT (tenant, rule, subject_kind, subject) DO UPDATE SET firing = true, \
             since = excluded.since, changed = excluded.changed, changes = a.changes + 1, \
             value = excluded.value, detail = excluded.detail RETURNING ",
        columns!()
    );
    let Observation { rule, subject, since, value, detail } = observation;
    let (rule, kind, subject) = (rule.as_str(), subject.kind(), subject.stored());
    let value = to_stored(*value);
    let rows = transaction
        .query(
            sql,
            &[
                (&tenant, Type::TEXT),
                (&id, Type::TEXT),
                (&rule, Type::TEXT),
                (&kind, Type::TEXT),
                (&subject, Type::TEXT),
                (&since.0, Type::INT8),
                (&now.0, Type::INT8),
                (&value, Type::INT8),
                (detail, Type::TEXT),
            ],
        )
        .await?;
    first(&rows)
}

pub(super) async fn resolve(
    transaction: &mut Transaction<'_>,
    tenant: &str,
    (rule, subject): &Key,
    now: Micros,
) -> Result<Option<Alert>, ArchiveError> {
    let sql = concat!(
        "UPDATE nightporter_ledger.alerts \
         SET firing = false, since = $5, changed = $5, changes = changes + 1 \
         WHERE tenant = $1 AND rule = $2 AND subject_kind = $3 AND subject = $4 AND firing \
         RETURNING ",
        columns!()
    );
    let (rule, kind, subject) = (rule.as_str(), subject.kind(), subject.stored());
    let rows = transaction
        .query(
            sql,
            &[
                (&tenant, Type::TEXT),
                (&rule, Type::TEXT),
                (&kind, Type::TEXT),
                (&subject, Type::TEXT),
                (&now.0, Type::INT8),
            ],
        )
        .await?;
    first(&rows)
}

pub(super) async fn append(
    transaction: &mut Transaction<'_>,
    tenant: &str,
    id: &str,
    writer: WriterId,
    entry: &HistoryEntry,
    oldest: i64,
) -> Result<(), ArchiveError> {
    let HistoryEntry { n, at, is_firing, value, detail, is_silenced } = entry;
    let insert = "INSERT INTO nightporter_ledger.alert_history
                      (tenant, alert, n, at, firing, value, detail, silenced, writer)
                  VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)";
    let value = to_stored(*value);
    transaction
        .query(
            insert,
            &[
                (&tenant, Type::TEXT),
                (&id, Type::TEXT),
                (n, Type::INT8),
                (&at.0, Type::INT8),
                (is_firing, Type::BOOL),
                (&value, Type::INT8),
                (detail, Type::TEXT),
                (is_silenced, Type::BOOL),
                (&writer.0, Type::INT8),
            ],
        )
        .await?;
    let prune = "DELETE FROM nightporter_ledger.alert_history
                 WHERE tenant = $1 AND alert = $2 AND n <= $3";
    transaction
        .query(prune, &[(&tenant, Type::TEXT), (&id, Type::TEXT), (&oldest, Type::INT8)])
        .await?;
    Ok(())
}

pub(super) async fn silence(
    transaction: &mut Transaction<'_>,
    tenant: &str,
    id: &str,
    until: Option<Micros>,
) -> Result<Option<Alert>, ArchiveError> {
    let sql = concat!(
        "UPDATE nightporter_ledger.alerts SET silenced_until = $3 \
         WHERE tenant = $1 AND id = $2 RETURNING ",
        columns!()
    );
    let until = until.map(|until| until.0);
    let rows = transaction
        .query(sql, &[(&tenant, Type::TEXT), (&id, Type::TEXT), (&until, Type::INT8)])
        .await?;
    first(&rows)
}

pub(super) async fn remove_before(
    transaction: &mut Transaction<'_>,
    tenant: &str,
    before: Micros,
    now: Micros,
    limit: i64,
) -> Result<u64, ArchiveError> {
    let alerts = "DELETE FROM nightporter_ledger.alerts WHERE tenant = $1 AND id IN (
                      SELECT id FROM nightporter_ledger.alerts
                      WHERE tenant = $1 AND NOT firing AND changed < $2
                      AND (silenced_until IS NULL OR silenced_until <= $3)
                      ORDER BY changed LIMIT $4)
                  RETURNING 1";
    let alerts = transaction
        .query(
            alerts,
            &[
                (&tenant, Type::TEXT),
                (&before.0, Type::INT8),
                (&now.0, Type::INT8),
                (&limit, Type::INT8),
            ],
        )
        .await?;
    // The last change says since when an alert has been in its state.
    let changes = "DELETE FROM nightporter_ledger.alert_history AS h USING (
                       SELECT h.alert, h.n FROM nightporter_ledger.alert_history AS h
                       JOIN nightporter_ledger.alerts AS a
                           ON a.tenant = h.tenant AND a.id = h.alert
                       WHERE h.tenant = $1 AND h.at < $2 AND h.n < a.changes LIMIT $3) AS old
                   WHERE h.tenant = $1 AND h.alert = old.alert AND h.n = old.n RETURNING 1";
    let changes = transaction
        .query(changes, &[(&tenant, Type::TEXT), (&before.0, Type::INT8), (&limit, Type::INT8)])
        .await?;
    Ok((alerts.len() + changes.len()) as u64)
}

pub(super) async fn overview(
    snapshot: &mut Snapshot<'_>,
    tenant: &str,
) -> Result<Overview, ArchiveError> {
    let sql = "SELECT EXISTS (SELECT FROM nightporter_ledger.alert_writers WHERE tenant = $1
                   AND expires_at <= extract(epoch FROM clock_timestamp()) * 1000000)
               OR EXISTS (SELECT FROM nightporter_ledger.alerts WHERE tenant = $1
                   AND silenced_until <= extract(epoch FROM clock_timestamp()) * 1000000)";
    let rows = snapshot.query(sql, &[(&tenant, Type::TEXT)]).await?;
    let has_expired = rows.first().map_or(Ok(false), |row| get(row, 0))?;
    let firing = snapshot.query(FIRING, &[(&tenant, Type::TEXT)]).await?;
    Ok(Overview { firing: alerts(&firing)?, has_expired })
}

pub(super) async fn page(
    snapshot: &mut Snapshot<'_>,
    tenant: &str,
    page: &AlertPage,
) -> Result<Vec<Alert>, ArchiveError> {
    let AlertPage { is_firing, rule, after, limit } = page;
    let (since, id) = match after {
        Some(Cursor { since, id }) => (since.0, id.as_str()),
        None => (i64::MAX, ""),
    };
    let sql = concat!(
        "SELECT ",
        columns!(),
        " FROM nightporter_ledger.alerts WHERE tenant = $1 \
          AND ($2::bool IS NULL OR firing = $2) AND ($3::text IS NULL OR rule = $3) \
          AND (since, id) < ($4, $5) ORDER BY since DESC, id DESC LIMIT $6"
    );
    let rule = rule.map(Rule::as_str);
    let rows = snapshot
        .query(
            sql,
            &[
                (&tenant, Type::TEXT),
                (is_firing, Type::BOOL),
                (&rule, Type::TEXT),
                (&since, Type::INT8),
                (&id, Type::TEXT),
                (limit, Type::INT8),
            ],
        )
        .await?;
    alerts(&rows)
}

pub(super) async fn find(
    snapshot: &mut Snapshot<'_>,
    tenant: &str,
    id: &str,
) -> Result<Option<Alert>, ArchiveError> {
    let sql = concat!(
        "SELECT ",
        columns!(),
        " FROM nightporter_ledger.alerts WHERE tenant = $1 AND id = $2"
    );
    first(&snapshot.query(sql, &[(&tenant, Type::TEXT), (&id, Type::TEXT)]).await?)
}

pub(super) async fn history(
    snapshot: &mut Snapshot<'_>,
    tenant: &str,
    id: &str,
    before: i64,
    limit: i64,
) -> Result<Vec<HistoryEntry>, ArchiveError> {
    let sql = "SELECT n, at, firing, value, detail, silenced
               FROM nightporter_ledger.alert_history
               WHERE tenant = $1 AND alert = $2 AND n < $3 ORDER BY n DESC LIMIT $4";
    let rows = snapshot
        .query(
            sql,
            &[
                (&tenant, Type::TEXT),
                (&id, Type::TEXT),
                (&before, Type::INT8),
                (&limit, Type::INT8),
            ],
        )
        .await?;
    let entry = |row: &Row| {
        Ok(HistoryEntry {
            n: get(row, 0)?,
            at: Micros(get(row, 1)?),
            is_firing: get(row, 2)?,
            value: from_stored(get(row, 3)?),
            detail: get(row, 4)?,
            is_silenced: get(row, 5)?,
        })
    };
    rows.iter().map(entry).collect()
}
