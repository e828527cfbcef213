//! The tables of the jobs: a row a job, and the log of their runs.

use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::ledger::archive::{JobRow, JobRun};
use crate::ledger::record::Micros;

/// Runs of each job that are kept.
const RUNS: i64 = 1_000;

pub(super) fn get(
    connection: &Connection,
    tenant: &str,
    name: &str,
) -> rusqlite::Result<Option<JobRow>> {
    let sql = r#"SELECT name, due, started, ended, outcome, "by" FROM jobs
                 WHERE tenant = ? AND name = ?"#;
    connection.query_row(sql, [tenant, name], job).optional()
}

pub(super) fn all(connection: &Connection, tenant: &str) -> rusqlite::Result<Vec<JobRow>> {
    let sql = r#"SELECT name, due, started, ended, outcome, "by" FROM jobs
                 WHERE tenant = ? ORDER BY name"#;
    connection.prepare(sql)?.query_map([tenant], job)?.collect()
}

pub(super) fn put(connection: &Connection, tenant: &str, row: &JobRow) -> rusqlite::Result<()> {
    let JobRow { name, due, started, ended, outcome, by } = row;
    let (started, ended) = (started.map(|at| at.0), ended.map(|at| at.0));
    let sql = r#"INSERT INTO jobs (tenant, name, due, started, ended, outcome, "by")
                 VALUES (?, ?, ?, ?, ?, ?, ?)
                 ON CONFLICT (tenant, name) DO UPDATE SET due = excluded.due,
                     started = excluded.started, ended = excluded.ended,
                     outcome = excluded.outcome, "by" = excluded."by""#;
    connection.execute(sql, params![tenant, name, due.0, started, ended, outcome, by])?;
    Ok(())
}

/// Appends a run to the log, and forgets the oldest.
pub(super) fn log(connection: &Connection, tenant: &str, row: &JobRow) -> rusqlite::Result<()> {
    let JobRow { name, due, started, ended, outcome, by } = row;
    let (started, ended) = (started.map(|at| at.0), ended.map(|at| at.0));
    let sql = r#"INSERT INTO job_runs (tenant, name, due, started, ended, outcome, "by")
                 VALUES (?, ?, ?, ?, ?, ?, ?)"#;
    connection.execute(sql, params![tenant, name, due.0, started, ended, outcome, by])?;
    let forget = "DELETE FROM job_runs WHERE tenant = ?1 AND name = ?2 AND id <= (
                      SELECT id FROM job_runs WHERE tenant = ?1 AND name = ?2
                      ORDER BY id DESC LIMIT 1 OFFSET ?3)";
    connection.execute(forget, params![tenant, name, RUNS])?;
    Ok(())
}

/// Returns runs of a job whose number is below `before`, the latest first.
pub(super) fn runs(
    connection: &Connection,
    tenant: &str,
    name: &str,
    before: Option<i64>,
    limit: i64,
) -> rusqlite::Result<Vec<JobRun>> {
    let sql = r#"SELECT name, due, started, ended, outcome, "by", id FROM job_runs
                 WHERE tenant = ? AND name = ? AND id < ? ORDER BY id DESC LIMIT ?"#;
    let params = params![tenant, name, before.unwrap_or(i64::MAX), limit];
    let run = |row: &Row<'_>| Ok(JobRun { number: row.get(6)?, row: job(row)? });
    connection.prepare(sql)?.query_map(params, run)?.collect()
}

/// Returns the time of SQLite's clock, which has milliseconds.
pub(super) fn now(connection: &Connection) -> rusqlite::Result<Micros> {
    let sql = "SELECT CAST(round(unixepoch('now', 'subsec') * 1000) AS INTEGER) * 1000";
    connection.query_row(sql, [], |row| row.get(0)).map(Micros)
}

fn job(row: &Row<'_>) -> rusqlite::Result<JobRow> {
    Ok(JobRow {
        name: row.get(0)?,
        due: Micros(row.get(1)?),
        started: row.get::<_, Option<_>>(2)?.map(Micros),
        ended: row.get::<_, Option<_>>(3)?.map(Micros),
        outcome: row.get(4)?,
        by: row.get(5)?,
    })
}
