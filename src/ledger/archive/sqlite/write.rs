//! Writing records.

use rusqlite::{Connection, OptionalExtension, Statement, ToSql, params};

use super::fault::Fault;
use crate::ledger::record::{Personal, Record};

const REQUEST: &str = "INSERT INTO requests (writer, seq, tenant, kind, at, app, host, path, rule,
         client, client_id, client_name, address, client_id_digest, client_name_digest,
         address_digest, verdict, reason, trace, duration, count, salt, leaf, seal)
     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18,
         ?19, ?20, ?21, ?22, ?23, ?24)
     ON CONFLICT (writer, seq) DO NOTHING";
const STEP: &str =
    "INSERT INTO steps (writer, seq, n, name, duration, outcome) VALUES (?, ?, ?, ?, ?, ?)";
const NOTE: &str = "INSERT INTO notes (writer, seq, n, topic, text) VALUES (?, ?, ?, ?, ?)";

/// Writes records with their steps and notes, in the transaction that is open.
pub(super) fn records(connection: &Connection, records: &[Record]) -> Result<(), Fault> {
    let mut insert = Insert {
        request: connection.prepare(REQUEST)?,
        step: connection.prepare(STEP)?,
        note: connection.prepare(NOTE)?,
    };
    // Nearly all records of a batch are of one tenant.
    let mut last: Option<(&str, i64)> = None;
    for record in records {
        check(record)?;
        let tenant = match last {
            Some((name, number)) if name == &*record.tenant => number,
            _ => tenant_number(connection, &record.tenant)?,
        };
        last = Some((&record.tenant, tenant));
        insert.record(record, tenant)?;
    }
    Ok(())
}

/// Gives records of no tenant to that of `records`; see
/// [`crate::ledger::archive::Transaction::adopt`].
pub(super) fn adopt(connection: &Connection, records: &[Record]) -> Result<(), Fault> {
    let sql = "UPDATE requests SET tenant = ?, leaf = ?, seal = ?
               WHERE writer = ? AND seq = ? AND position IS NULL
               AND tenant = (SELECT id FROM tenants WHERE name = '')";
    let mut statement = connection.prepare(sql)?;
    for record in records {
        let tenant = tenant_number(connection, &record.tenant)?;
        let (id, leaf, seal) = (record.id, record.leaf, record.seal);
        let adopted = statement.execute(params![tenant, leaf, seal, id.writer.0, id.seq])?;
        if adopted == 0 {
            return Err(Fault::Content(format!("the record {id} is missing or has a tenant")));
        }
    }
    Ok(())
}

/// Returns the number by which rows name a tenant.
fn tenant_number(connection: &Connection, name: &str) -> rusqlite::Result<i64> {
    let known = "SELECT id FROM tenants WHERE name = ?";
    let found = connection.query_row(known, [name], |row| row.get(0)).optional()?;
    if let Some(number) = found {
        return Ok(number);
    }
    connection.execute("INSERT INTO tenants (name) VALUES (?)", [name])?;
    Ok(connection.last_insert_rowid())
}

struct Insert<'a> {
    request: Statement<'a>,
    step: Statement<'a>,
    note: Statement<'a>,
}

impl Insert<'_> {
    fn record(&mut self, record: &Record, tenant: i64) -> rusqlite::Result<()> {
        let Record {
            id,
            tenant: _,
            kind,
            at,
            app,
            host,
            path,
            rule,
            client,
            client_id,
            client_name,
            address,
            verdict,
            reason,
            trace,
            duration,
            count,
            steps,
            notes,
            salt,
            leaf,
            seal,
        } = record;
        let (writer, seq) = (id.writer.0, id.seq);
        let [client_id, client_name, address] =
            [client_id, client_name, address].map(|value| Columns::new(value.as_ref()));
        let inserted = self.request.execute(params![
            writer,
            seq,
            tenant,
            kind.as_str(),
            at.0,
            app.as_deref(),
            host.as_deref(),
            path.as_deref(),
            rule.as_deref(),
            client.as_deref(),
            client_id.clear,
            client_name.clear,
            address.clear,
            client_id.digest,
            client_name.digest,
            address.digest,
            verdict.as_deref(),
            reason.as_deref(),
            trace.as_deref(),
            duration.0,
            count,
            salt,
            leaf,
            seal,
        ])?;
        if inserted == 0 {
            // It is there, and so are its steps and notes: they came in one transaction.
            return Ok(());
        }
        for (n, step) in (0_i64..).zip(steps) {
            let params: [&dyn ToSql; 6] =
                [&writer, &seq, &n, &&*step.name, &step.duration.0, &&*step.outcome];
            self.step.execute(params)?;
        }
        for (n, note) in (0_i64..).zip(notes) {
            self.note.execute(params![writer, seq, n, &*note.topic, &*note.text])?;
        }
        Ok(())
    }
}

/// A personal value is in one of two columns.
struct Columns<'a> {
    clear: Option<&'a str>,
    digest: Option<&'a [u8; 32]>,
}

impl<'a> Columns<'a> {
    fn new(value: Option<&'a Personal>) -> Self {
        match value {
            None => Self { clear: None, digest: None },
            Some(Personal::Clear(text)) => Self { clear: Some(text), digest: None },
            Some(Personal::Digest(digest)) => Self { clear: None, digest: Some(digest) },
        }
    }
}

/// Refuses a text with a NUL character, as Postgres does: functions of SQL end it there.
fn check(record: &Record) -> Result<(), Fault> {
    let clear = |value: &Option<Personal>| match value {
        Some(Personal::Clear(text)) => text.contains('\0'),
        _ => false,
    };
    let has_nul = [
        Some(&*record.tenant),
        record.app.as_deref(),
        record.host.as_deref(),
        record.path.as_deref(),
        record.rule.as_deref(),
        record.client.as_deref(),
        record.verdict.as_deref(),
        record.reason.as_deref(),
        record.trace.as_deref(),
    ]
    .into_iter()
    .flatten()
    .any(|text| text.contains('\0'))
        || [&record.client_id, &record.client_name, &record.address].into_iter().any(clear)
        || record.steps.iter().any(|step| step.name.contains('\0') || step.outcome.contains('\0'))
        || record.notes.iter().any(|note| note.topic.contains('\0') || note.text.contains('\0'));
    if has_nul {
        return Err(Fault::Content(format!("the record {} has a text with a NUL", record.id)));
    }
    Ok(())
}
