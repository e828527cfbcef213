//! The rows of deliveries and of their attempts.
//!
//! A delivery is claimed by a lease: until its end, which is its new due time, no other sender
//! sees it, and what a sender writes about it counts only while the lease is its own.

use std::collections::BTreeMap;

use crate::ledger::archive::sql::{Row, query, read};
use crate::ledger::archive::{ArchiveError, Snapshot, Transaction};
use crate::ledger::record::Micros;
use crate::webhooks::event::Event;

/// A claimed delivery: what is sent, and by which right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::webhooks) struct ClaimedDelivery {
    pub(in crate::webhooks) event: String,
    pub(in crate::webhooks) kind: String,
    pub(in crate::webhooks) at: Micros,
    pub(in crate::webhooks) app: Option<String>,
    pub(in crate::webhooks) content: String,
    /// The number of the attempt, from 1.
    pub(in crate::webhooks) attempt: i64,
    pub(in crate::webhooks) lease: String,
}

/// One attempt as the log shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    pub event: String,
    /// The event's type.
    pub kind: String,
    /// Counts the attempts of a delivery from 1.
    pub number: i64,
    pub at: Micros,
    /// In microseconds; `None` while it goes on.
    pub duration: Option<i64>,
    /// `running`, `delivered`, `lost`, or why it failed.
    pub outcome: String,
    /// The status of the answer.
    pub status: Option<i64>,
    /// What went wrong, for people.
    pub detail: Option<String>,
    /// The begin of the answer's body.
    pub answer: Option<String>,
    /// What has become of the delivery: `queued`, `delivered`, `failed` or `dropped`.
    pub state: String,
    /// When it is tried again.
    pub next: Option<Micros>,
}

/// Where a page of the log ends: its last attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogCursor {
    pub at: Micros,
    pub event: String,
    pub number: i64,
}

/// What the log says of an attempt that has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::webhooks) struct AttemptLog {
    pub(in crate::webhooks) outcome: &'static str,
    pub(in crate::webhooks) duration: i64,
    pub(in crate::webhooks) status: Option<i64>,
    pub(in crate::webhooks) detail: Option<String>,
    pub(in crate::webhooks) answer: Option<String>,
}

/// Queues an event for an endpoint, once.
pub(in crate::webhooks) async fn insert(
    transaction: &mut Transaction<'_>,
    tenant: &str,
    endpoint: &str,
    event: &Event,
    content: String,
    now: Micros,
) -> Result<(), ArchiveError> {
    let sql = "INSERT INTO nightporter_ledger.deliveries (tenant, endpoint, event, kind, at, app,
                   subject, content, state, due, attempts, held)
               VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 'queued', $9, 0, 0)
               ON CONFLICT (tenant, endpoint, event) DO NOTHING";
    let params = vec![
        tenant.into(),
        endpoint.into(),
        event.id.as_str().into(),
        event.kind.into(),
        event.at.into(),
        event.app.as_deref().into(),
        event.subject.as_deref().into(),
        content.into(),
        now.into(),
    ];
    query(transaction, sql, params).await.map(drop)
}

/// An endpoint with deliveries that are due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::webhooks) struct DueEndpoint {
    pub(in crate::webhooks) endpoint: String,
    /// Whether its last attempt has failed.
    pub(in crate::webhooks) is_failing: bool,
}

/// Returns the endpoints with deliveries that are due by the database's clock, those first that
/// have waited longest.
pub(in crate::webhooks) async fn due(
    snapshot: &mut Snapshot<'_>,
    tenant: &str,
) -> Result<Vec<DueEndpoint>, ArchiveError> {
    // SQLite tells only milliseconds.
    let sql = "SELECT d.endpoint, min(e.failing_since)
               FROM nightporter_ledger.deliveries AS d
               JOIN nightporter_ledger.endpoints AS e ON e.tenant = d.tenant AND e.id = d.endpoint
               WHERE d.tenant = $1 AND d.state = 'queued' AND d.due < {now} + 1000
               GROUP BY d.endpoint ORDER BY min(d.due), d.endpoint";
    let due = |row: &Row| {
        let is_failing = row.optional_integer(1)?.is_some();
        Ok(DueEndpoint { endpoint: row.text(0)?, is_failing })
    };
    read(snapshot, sql, vec![tenant.into()]).await?.iter().map(due).collect()
}

/// Lets what is due wait until `end`.
pub(in crate::webhooks) async fn hold(
    transaction: &mut Transaction<'_>,
    tenant: &str,
    endpoint: &str,
    now: Micros,
    end: Micros,
) -> Result<(), ArchiveError> {
    let sql = "UPDATE nightporter_ledger.deliveries SET due = $4, held = 1
               WHERE tenant = $1 AND endpoint = $2 AND state = 'queued' AND due <= $3
               AND kind <> 'test'";
    let params = vec![tenant.into(), endpoint.into(), now.into(), end.into()];
    query(transaction, sql, params).await.map(drop)
}

/// Drops what nobody needs to be told any more when quiet hours are over.
pub(in crate::webhooks) async fn drop_stale(
    transaction: &mut Transaction<'_>,
    tenant: &str,
    endpoint: &str,
    now: Micros,
) -> Result<(), ArchiveError> {
    let held = "SELECT event, kind, subject FROM nightporter_ledger.deliveries
                WHERE tenant = $1 AND endpoint = $2 AND state = 'queued' AND due <= $3
                AND attempts = 0 AND held = 1 AND subject IS NOT NULL ORDER BY at, event";
    let rows = query(transaction, held, vec![tenant.into(), endpoint.into(), now.into()]).await?;
    let mut held: BTreeMap<String, Vec<(String, bool)>> = BTreeMap::new();
    for row in &rows {
        let is_end = row.text(1)? == "alert.resolved";
        held.entry(row.text(2)?).or_default().push((row.text(0)?, is_end));
    }
    let drop_one = "UPDATE nightporter_ledger.deliveries SET state = 'dropped', ended = $4
                    WHERE tenant = $1 AND endpoint = $2 AND event = $3";
    for event in held.values().flat_map(|events| stale(events)) {
        let params = vec![tenant.into(), endpoint.into(), event.into(), now.into()];
        query(transaction, drop_one, params).await?;
    }
    Ok(())
}

/// Returns which of the events of one subject, oldest first, say nothing new after quiet
/// hours: all but the last, which tells how things stand, and that one as well if it ends
/// what began in the meantime. Each is an end or a begin.
fn stale(events: &[(String, bool)]) -> impl Iterator<Item = &str> {
    let began_meanwhile = events.first().is_some_and(|(_, is_end)| !is_end);
    let is_over = events.last().is_some_and(|(_, is_end)| *is_end);
    let kept = usize::from(!(began_meanwhile && is_over));
    events.iter().take(events.len() - kept.min(events.len())).map(|(event, _)| event.as_str())
}

/// Drops what waits for another attempt although a later event tells how things stand: with
/// it, that event would wait for hours.
pub(in crate::webhooks) async fn drop_superseded(
    transaction: &mut Transaction<'_>,
    tenant: &str,
    endpoint: &str,
    now: Micros,
) -> Result<(), ArchiveError> {
    let sql = "UPDATE nightporter_ledger.deliveries AS d SET state = 'dropped', ended = $3
               WHERE d.tenant = $1 AND d.endpoint = $2 AND d.state = 'queued'
               AND d.attempts > 0 AND d.lease IS NULL AND d.due > $3 AND EXISTS (
                   SELECT 1 FROM nightporter_ledger.deliveries AS later
                   WHERE later.tenant = $1 AND later.endpoint = $2 AND later.state = 'queued'
                   AND later.subject = d.subject AND (later.at, later.event) > (d.at, d.event))";
    query(transaction, sql, vec![tenant.into(), endpoint.into(), now.into()]).await.map(drop)
}

/// Claims up to `limit` deliveries that are due, the oldest first, and writes down that they
/// are attempted. What is about the same subject is sent in its order, one at a time. `until`
/// is the end of the lease.
pub(in crate::webhooks) async fn claim(
    transaction: &mut Transaction<'_>,
    tenant: &str,
    endpoint: &str,
    now: Micros,
    (lease, until): (&str, Micros),
    limit: i64,
) -> Result<Vec<ClaimedDelivery>, ArchiveError> {
    // A lease that has ended was that of a sender that was killed or could not write.
    let sql = "UPDATE nightporter_ledger.deliveries
               SET due = $5, lease = $4, attempts = attempts + 1
               WHERE tenant = $1 AND endpoint = $2 AND event IN (
                   SELECT d.event FROM nightporter_ledger.deliveries AS d
                   WHERE d.tenant = $1 AND d.endpoint = $2 AND d.state = 'queued' AND d.due <= $3
                   AND NOT EXISTS (
                       SELECT 1 FROM nightporter_ledger.deliveries AS earlier
                       WHERE earlier.tenant = $1 AND earlier.endpoint = $2
                       AND earlier.state = 'queued' AND earlier.subject = d.subject
                       AND (earlier.at, earlier.event) < (d.at, d.event))
                   ORDER BY d.due, d.event LIMIT $6 FOR UPDATE SKIP LOCKED)
               RETURNING event, kind, at, app, content, attempts";
    let params =
        vec![tenant.into(), endpoint.into(), now.into(), lease.into(), until.into(), limit.into()];
    let rows = query(transaction, sql, params).await?;
    let claimed = |row: &Row| {
        Ok(ClaimedDelivery {
            event: row.text(0)?,
            kind: row.text(1)?,
            at: Micros(row.integer(2)?),
            app: row.optional_text(3)?,
            content: row.text(4)?,
            attempt: row.integer(5)?,
            lease: lease.to_owned(),
        })
    };
    let claimed: Vec<ClaimedDelivery> =
        rows.iter().map(claimed).collect::<Result<_, ArchiveError>>()?;
    for ClaimedDelivery { event, attempt, .. } in &claimed {
        let lost = "UPDATE nightporter_ledger.attempts SET outcome = 'lost',
                        detail = 'the sender ended before it knew the answer'
                    WHERE tenant = $1 AND endpoint = $2 AND event = $3 AND outcome = 'running'";
        let params = vec![tenant.into(), endpoint.into(), event.as_str().into()];
        query(transaction, lost, params).await?;
        let begun = "INSERT INTO nightporter_ledger.attempts
                         (tenant, endpoint, event, number, at, outcome)
                     VALUES ($1, $2, $3, $4, $5, 'running')";
        let params = vec![
            tenant.into(),
            endpoint.into(),
            event.as_str().into(),
            (*attempt).into(),
            now.into(),
        ];
        query(transaction, begun, params).await?;
    }
    Ok(claimed)
}

/// What becomes of a delivery after an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::webhooks) enum DeliveryState {
    Delivered,
    Failed,
    /// It is tried again.
    Queued(Micros),
}

/// Writes what came of an attempt. Returns `false` if the lease was lost: then another sender
/// decides what becomes of the delivery.
pub(in crate::webhooks) async fn complete(
    transaction: &mut Transaction<'_>,
    tenant: &str,
    endpoint: &str,
    claimed: &ClaimedDelivery,
    result: &AttemptLog,
    state: DeliveryState,
    now: Micros,
) -> Result<bool, ArchiveError> {
    let log = "UPDATE nightporter_ledger.attempts SET outcome = $5, duration = $6, status = $7,
                   detail = $8, answer = $9
               WHERE tenant = $1 AND endpoint = $2 AND event = $3 AND number = $4";
    let params = vec![
        tenant.into(),
        endpoint.into(),
        claimed.event.as_str().into(),
        claimed.attempt.into(),
        result.outcome.into(),
        result.duration.into(),
        result.status.into(),
        result.detail.as_deref().into(),
        result.answer.as_deref().into(),
    ];
    query(transaction, log, params).await?;
    let (state, due, ended) = match state {
        DeliveryState::Delivered => ("delivered", now, Some(now)),
        DeliveryState::Failed => ("failed", now, Some(now)),
        DeliveryState::Queued(at) => ("queued", at, None),
    };
    let sql = "UPDATE nightporter_ledger.deliveries
               SET state = $5, due = $6, ended = $7, lease = NULL
               WHERE tenant = $1 AND endpoint = $2 AND event = $3 AND lease = $4
               AND state = 'queued' RETURNING event";
    let params = vec![
        tenant.into(),
        endpoint.into(),
        claimed.event.as_str().into(),
        claimed.lease.as_str().into(),
        state.into(),
        due.into(),
        ended.into(),
    ];
    Ok(!query(transaction, sql, params).await?.is_empty())
}

/// Gives up what is queued for an endpoint. An attempt that goes on may still write how it
/// ended; one whose sender was killed has ended here.
pub(in crate::webhooks) async fn give_up(
    transaction: &mut Transaction<'_>,
    tenant: &str,
    endpoint: &str,
    now: Micros,
) -> Result<(), ArchiveError> {
    let lost = "UPDATE nightporter_ledger.attempts SET outcome = 'lost',
                    detail = 'the endpoint was disabled before the answer was known'
                WHERE tenant = $1 AND endpoint = $2 AND outcome = 'running'";
    query(transaction, lost, vec![tenant.into(), endpoint.into()]).await?;
    let sql = "UPDATE nightporter_ledger.deliveries SET state = 'failed', ended = $3, lease = NULL
               WHERE tenant = $1 AND endpoint = $2 AND state = 'queued'";
    query(transaction, sql, vec![tenant.into(), endpoint.into(), now.into()]).await.map(drop)
}

/// Removes up to `limit` deliveries that ended before `before`, with their log; returns how
/// many.
pub(in crate::webhooks) async fn remove_before(
    transaction: &mut Transaction<'_>,
    tenant: &str,
    before: Micros,
    limit: i64,
) -> Result<usize, ArchiveError> {
    let sql = "DELETE FROM nightporter_ledger.deliveries
               WHERE (tenant, endpoint, event) IN (
                   SELECT tenant, endpoint, event FROM nightporter_ledger.deliveries
                   WHERE tenant = $1 AND ended < $2 ORDER BY ended LIMIT $3)
               RETURNING event";
    let params = vec![tenant.into(), before.into(), limit.into()];
    Ok(query(transaction, sql, params).await?.len())
}

/// Returns up to `limit` attempts, the newest first, after a cursor.
pub(in crate::webhooks) async fn log(
    snapshot: &mut Snapshot<'_>,
    tenant: &str,
    endpoint: &str,
    event: Option<&str>,
    after: Option<&LogCursor>,
    limit: i64,
) -> Result<Vec<Attempt>, ArchiveError> {
    let sql = "SELECT a.event, d.kind, a.number, a.at, a.duration, a.outcome, a.status, a.detail,
                   a.answer, d.state, d.due
               FROM nightporter_ledger.attempts AS a
               JOIN nightporter_ledger.deliveries AS d ON d.tenant = a.tenant
                   AND d.endpoint = a.endpoint AND d.event = a.event
               WHERE a.tenant = $1 AND a.endpoint = $2 AND d.tenant = $1
               AND ($3 IS NULL OR a.event = $3)
               AND ($4 IS NULL OR (a.at, a.event, a.number) < ($4, $5, $6))
               ORDER BY a.at DESC, a.event DESC, a.number DESC LIMIT $7";
    let params = vec![
        tenant.into(),
        endpoint.into(),
        event.into(),
        after.map(|after| after.at).into(),
        after.map(|after| after.event.as_str()).into(),
        after.map(|after| after.number).into(),
        limit.into(),
    ];
    let attempt = |row: &Row| {
        let state = row.text(9)?;
        let due = Micros(row.integer(10)?);
        Ok(Attempt {
            event: row.text(0)?,
            kind: row.text(1)?,
            number: row.integer(2)?,
            at: Micros(row.integer(3)?),
            duration: row.optional_integer(4)?,
            outcome: row.text(5)?,
            status: row.optional_integer(6)?,
            detail: row.optional_text(7)?,
            answer: row.optional_text(8)?,
            next: (state == "queued").then_some(due),
            state,
        })
    };
    read(snapshot, sql, params).await?.iter().map(attempt).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_quiet_hours_only_how_things_stand_is_told() {
        for (ends, expected) in [
            (&[][..], &[][..]),
            (&[false], &[]),
            (&[true], &[]),
            (&[false, true], &["0", "1"]),
            (&[false, true, false], &["0", "1"]),
            // It was told before that it fires.
            (&[true, false, true], &["0", "1"]),
            (&[true, false], &["0"]),
        ] {
            let ends = ends.iter().enumerate();
            let events: Vec<_> = ends.map(|(n, is_end)| (n.to_string(), *is_end)).collect();
            assert_eq!(stale(&events).collect::<Vec<_>>(), expected, "{events:?}");
        }
    }
}
