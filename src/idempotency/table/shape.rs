//! Whether the table is the one that the migrations make.
//!
//! Another collation would take different keys for one; without the unique index, two
//! processes could claim the same key. Such a table is not used.

use crate::ledger::archive::sql::{Row, read};
use crate::ledger::archive::{ArchiveError, Snapshot};

/// A column: its name, its types in Postgres and in SQLite, and whether it may be null. Text
/// is compared byte by byte.
struct Column(&'static str, Kind, Null);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    /// Text that is not compared.
    Prose,
    Int,
    Bytes,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Null {
    Never,
    Maybe,
}

const COLUMNS: [Column; 13] = [
    Column("tenant", Kind::Text, Null::Never),
    Column("token", Kind::Text, Null::Never),
    Column("scope", Kind::Text, Null::Never),
    Column("key", Kind::Text, Null::Never),
    Column("payload", Kind::Bytes, Null::Never),
    Column("state", Kind::Text, Null::Never),
    Column("holder", Kind::Int, Null::Never),
    Column("recorded", Kind::Int, Null::Never),
    Column("lease_until", Kind::Int, Null::Never),
    Column("status", Kind::Int, Null::Maybe),
    Column("headers", Kind::Prose, Null::Maybe),
    Column("body", Kind::Bytes, Null::Maybe),
    Column("expires_at", Kind::Int, Null::Never),
];

/// For each column its name, its type with what matters of its collation, and whether a row
/// without it is refused.
const POSTGRES_COLUMNS: &str = "SELECT a.attname::text,
         format_type(a.atttypid, a.atttypmod)
             || CASE WHEN c.collname = 'C' THEN ' COLLATE \"C\"' ELSE '' END,
         CASE WHEN a.attnotnull THEN 'never' ELSE 'maybe' END,
         CASE WHEN a.atthasdef OR a.attidentity <> '' THEN 'default' ELSE '' END
     FROM pg_attribute AS a LEFT JOIN pg_collation AS c ON c.oid = a.attcollation
     WHERE a.attrelid = to_regclass('nightporter_ledger.idempotency_keys') AND a.attnum > 0 AND NOT a.attisdropped";

/// An index that `ON CONFLICT (scope, key)` can use, and that compares byte by byte.
const POSTGRES_INDEX: &str = "SELECT i.indexrelid::regclass::text FROM pg_index AS i
     WHERE i.indrelid = to_regclass('nightporter_ledger.idempotency_keys') AND i.indisunique AND i.indimmediate
         AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL AND i.indnkeyatts = 2
         AND (SELECT array_agg(a.attname::text ORDER BY a.attname)
              FROM pg_attribute AS a WHERE a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey))
             = ARRAY['key', 'scope']
         AND (SELECT bool_and(c.collname = 'C') FROM unnest(i.indcollation) AS u (oid)
              JOIN pg_collation AS c ON c.oid = u.oid)";

const SQLITE_COLUMNS: &str = "SELECT name, type,
         CASE WHEN \"notnull\" THEN 'never' ELSE 'maybe' END,
         CASE WHEN dflt_value IS NULL THEN '' ELSE 'default' END
     FROM pragma_table_info('idempotency_keys')";

const SQLITE_INDEX: &str = "SELECT l.name FROM pragma_index_list('idempotency_keys') AS l
     WHERE l.\"unique\" AND NOT l.partial
         AND (SELECT group_concat(name || ' ' || coll, ', ') FROM
                  (SELECT name, coll FROM pragma_index_xinfo(l.name) WHERE \"key\" ORDER BY name))
             = 'key BINARY, scope BINARY'";

/// Returns what is different, worded for the operator.
pub(super) async fn differences(snapshot: &mut Snapshot<'_>) -> Result<Vec<String>, ArchiveError> {
    let is_postgres = matches!(snapshot, Snapshot::Postgres(_));
    let (columns, index) = if is_postgres {
        (POSTGRES_COLUMNS, POSTGRES_INDEX)
    } else {
        (SQLITE_COLUMNS, SQLITE_INDEX)
    };
    let found = read(snapshot, columns, Vec::new()).await?;
    if found.is_empty() {
        return Ok(vec!["it does not exist".to_owned()]);
    }
    let mut found: Vec<ExistingColumn> =
        found.iter().map(ExistingColumn::from_row).collect::<Result<_, _>>()?;
    let mut differences = Vec::new();
    for Column(name, kind, null) in COLUMNS {
        let Some(place) = found.iter().position(|found| found.name == name) else {
            differences.push(format!("the column {name} is missing"));
            continue;
        };
        let found = found.swap_remove(place);
        let expected = kind.name(is_postgres);
        let is_right = found.of == expected
            // Nothing compares prose.
            || (kind == Kind::Prose && found.of == Kind::Text.name(is_postgres));
        if !is_right {
            differences.push(format!("the column {name} is {}, expected {expected}", found.of));
        }
        if found.is_required != (null == Null::Never) {
            let is = if found.is_required { "may not be" } else { "may be" };
            differences.push(format!("the column {name} {is} null"));
        }
    }
    for ExistingColumn { name, .. } in
        found.iter().filter(|found| found.is_required && !found.has_default)
    {
        differences.push(format!("the unknown column {name} may not be null"));
    }
    if read(snapshot, index, Vec::new()).await?.is_empty() {
        let compared = if is_postgres { " COLLATE \"C\"" } else { "" };
        differences.push(format!("it has no unique index on (scope, key){compared}"));
    }
    Ok(differences)
}

/// A column that the table has.
struct ExistingColumn {
    name: String,
    of: String,
    is_required: bool,
    has_default: bool,
}

impl ExistingColumn {
    fn from_row(row: &Row) -> Result<Self, ArchiveError> {
        Ok(Self {
            name: row.text(0)?,
            of: row.text(1)?,
            is_required: row.text(2)? == "never",
            has_default: !row.text(3)?.is_empty(),
        })
    }
}

impl Kind {
    fn name(self, is_postgres: bool) -> &'static str {
        match (self, is_postgres) {
            (Self::Text, true) => "text COLLATE \"C\"",
            (Self::Prose, true) => "text",
            (Self::Int, true) => "bigint",
            (Self::Bytes, true) => "bytea",
            (Self::Text | Self::Prose, false) => "TEXT",
            (Self::Int, false) => "INTEGER",
            (Self::Bytes, false) => "BLOB",
        }
    }
}
