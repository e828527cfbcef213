//! The triggers that notify of changes: the expected definitions, and the installed ones.
//!
//! It is not enough that a trigger exists. A trigger with a different condition, different
//! events or a function with a different body does not notify of all changes, and nothing
//! else would reveal it. So each installed trigger is compared with the expected one,
//! attribute by attribute. Conditions are compared in a normal form, since the server
//! stores them in its own spelling.

use std::collections::HashMap;
use std::fmt;

use tokio_postgres::types::Type;
use tokio_postgres::{GenericClient, Row};

/// The trigger functions. They are also re-created if they were dropped or changed.
pub(super) const FUNCTIONS: &str = include_str!("migrations/V1__notifications.sql");

/// A FreeShard table that the gate reads.
pub(super) struct Table {
    pub(super) name: &'static str,
    pub(super) columns: &'static str,
    key: &'static str,
    /// Columns that the gate reads.
    read: &'static [&'static str],
    /// Keys that the gate reads; empty for all.
    keys: &'static [&'static str],
}

/// INSERT, UPDATE, DELETE and TRUNCATE.
const TRIGGERS_PER_TABLE: usize = 4;

pub(super) const TABLES: [Table; 5] = [
    Table {
        name: "installed_apps",
        columns: "name text PRIMARY KEY, installation_reason text, status text, \
                  last_access timestamptz",
        key: "name",
        read: &["name", "status"],
        keys: &[],
    },
    Table {
        name: "identities",
        columns: "id text PRIMARY KEY, name text, email text, description text, \
                  private_key text, is_default bool",
        key: "id",
        read: &["id", "private_key", "is_default"],
        keys: &[],
    },
    Table {
        name: "terminals",
        columns: "id text PRIMARY KEY, name text, icon text, last_connection timestamptz",
        key: "id",
        read: &["id", "name"],
        keys: &[],
    },
    Table {
        name: "peers",
        columns: "id text PRIMARY KEY, name text, public_bytes_b64 text, is_reachable bool",
        key: "id",
        read: &["id", "name", "public_bytes_b64"],
        keys: &[],
    },
    Table {
        name: "kv_store",
        columns: "key text PRIMARY KEY, value jsonb",
        key: "key",
        read: &["key", "value"],
        keys: &["terminal_jwt_secret", "freeshard_controller_shared_key", "profile"],
    },
];

/// Counts nightporter's triggers on the tables to which this connection resolves their
/// names, and computes a fingerprint of the triggers and their functions. `xmin` changes
/// with every `ALTER` and `REPLACE`, so a trigger that was removed and restored changes the
/// fingerprint.
pub(super) const INSPECT: &str = "\
    SELECT count(*) AS found, coalesce(hashtextextended(string_agg(\
        concat_ws(':', t.oid, t.xmin, t.tgrelid, p.xmin), ',' ORDER BY t.oid), 0), 0) \
        AS fingerprint \
    FROM pg_catalog.pg_trigger AS t JOIN pg_catalog.pg_proc AS p ON p.oid = t.tgfoid \
    WHERE t.tgrelid IN (to_regclass('installed_apps'), to_regclass('identities'), \
            to_regclass('terminals'), to_regclass('peers'), to_regclass('kv_store')) \
        AND t.tgname IN ('nightporter_insert', 'nightporter_update', 'nightporter_delete', \
            'nightporter_truncate') \
        AND t.tgenabled = 'A' \
        AND t.tgfoid IN (to_regprocedure('nightporter.notify_row()'), \
            to_regprocedure('nightporter.notify_table()'))";

/// The result of [`INSPECT`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Triggers {
    found: i64,
    fingerprint: i64,
}

impl Triggers {
    pub(super) fn from_row(row: &Row) -> Result<Self, tokio_postgres::Error> {
        Ok(Self { found: row.try_get("found")?, fingerprint: row.try_get("fingerprint")? })
    }

    pub(super) fn are_complete(self) -> bool {
        usize::try_from(self.found) == Ok(TRIGGERS_PER_TABLE * TABLES.len())
    }
}

/// Returns the current state of the triggers.
pub(super) async fn inspect(
    client: &impl GenericClient,
) -> Result<Triggers, tokio_postgres::Error> {
    let rows = client.query_typed(INSPECT, &[]).await?;
    rows.first().map_or(Ok(Triggers { found: 0, fingerprint: 0 }), Triggers::from_row)
}

/// How a trigger or a function differs from the expected one. The text completes "a trigger
/// that …".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    Missing,
    Disabled,
    Events,
    Condition,
    Function,
    /// `CREATE OR REPLACE` does not replace a constraint trigger.
    Constraint,
    Body,
}

impl Fault {
    /// Returns whether this is a fault in any version. Other differences may come from the
    /// definition of a newer process.
    pub(super) fn is_version_independent(self) -> bool {
        matches!(self, Self::Missing | Self::Disabled)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Missing => "is missing",
            Self::Disabled => "is not enabled with ENABLE ALWAYS",
            Self::Events => "has different events",
            Self::Condition => "has a different condition",
            Self::Function => "calls a different function",
            Self::Constraint => "is a constraint trigger",
            Self::Body => "has a different body",
        })
    }
}

/// A trigger as it is expected.
pub(super) struct Trigger {
    pub(super) name: &'static str,
    event: &'static str,
    /// `pg_trigger.tgtype`: 1 for each row, 4 insert, 8 delete, 16 update, 32 truncate.
    bits: i16,
    condition: Option<String>,
    function: &'static str,
    arguments: Vec<&'static str>,
}

/// A trigger as it is installed.
#[derive(Debug, Clone)]
struct InstalledTrigger {
    bits: i16,
    enabled: String,
    columns: String,
    arguments: Vec<u8>,
    is_constraint: bool,
    function: String,
    definition: String,
}

impl InstalledTrigger {
    fn from_row(row: &Row) -> Result<Self, tokio_postgres::Error> {
        Ok(Self {
            bits: row.try_get(2)?,
            enabled: row.try_get(3)?,
            columns: row.try_get(4)?,
            arguments: row.try_get(5)?,
            is_constraint: row.try_get(6)?,
            function: row.try_get(7)?,
            definition: row.try_get(8)?,
        })
    }

    /// Returns the text between WHEN and EXECUTE.
    fn condition(&self) -> Option<&str> {
        let (definition, _) = self.definition.rsplit_once(" EXECUTE FUNCTION ")?;
        definition.split_once(" WHEN ").map(|(_, condition)| condition)
    }
}

impl Table {
    /// Returns every trigger that differs from the expected one.
    pub(super) async fn faults(
        client: &impl GenericClient,
    ) -> Result<Vec<(&'static Self, Trigger, Fault)>, tokio_postgres::Error> {
        let sql = "SELECT s.name, t.tgname::text, t.tgtype, t.tgenabled::text, t.tgattr::text, \
                t.tgargs, t.tgconstraint <> 0, concat(n.nspname, '.', p.proname), \
                pg_get_triggerdef(t.oid) \
            FROM unnest($1) AS s (name) \
            JOIN pg_catalog.pg_trigger AS t ON t.tgrelid = to_regclass(s.name) \
            JOIN pg_catalog.pg_proc AS p ON p.oid = t.tgfoid \
            JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace \
            WHERE NOT t.tgisinternal AND starts_with(t.tgname, 'nightporter_')";
        let tables: Vec<_> = TABLES.iter().map(|table| table.name).collect();
        let rows = client.query_typed(sql, &[(&tables, Type::TEXT_ARRAY)]).await?;
        let mut found = HashMap::new();
        for row in &rows {
            let (table, name): (String, String) = (row.try_get(0)?, row.try_get(1)?);
            found.insert((table, name), InstalledTrigger::from_row(row)?);
        }
        let mut faults = Vec::new();
        for table in &TABLES {
            for trigger in table.triggers() {
                let found = found.get(&(table.name.to_owned(), trigger.name.to_owned()));
                if let Some(fault) = trigger.compare(found) {
                    faults.push((table, trigger, fault));
                }
            }
        }
        Ok(faults)
    }

    fn triggers(&self) -> [Trigger; TRIGGERS_PER_TABLE] {
        let Self { name, key, .. } = self;
        let row = |name, event, bits, condition| Trigger {
            name,
            event,
            bits,
            condition,
            function: "nightporter.notify_row",
            arguments: vec![self.name, key],
        };
        [
            row("nightporter_insert", "INSERT", 1 | 4, self.key_condition("NEW")),
            row("nightporter_update", "UPDATE", 1 | 16, Some(self.update_condition())),
            row("nightporter_delete", "DELETE", 1 | 8, self.key_condition("OLD")),
            Trigger {
                name: "nightporter_truncate",
                event: "TRUNCATE",
                bits: 32,
                condition: None,
                function: "nightporter.notify_table",
                arguments: vec![name],
            },
        ]
    }

    /// Returns the condition on a row's key, if only some keys are read.
    fn key_condition(&self, row: &str) -> Option<String> {
        let Self { key, keys, .. } = self;
        (!keys.is_empty()).then(|| format!("{row}.{key} = ANY (ARRAY['{}'])", keys.join("', '")))
    }

    /// Returns the condition on an update: a column that is read has changed.
    fn update_condition(&self) -> String {
        let columns = self.read.iter();
        let changed: Vec<_> =
            columns.map(|column| format!("OLD.{column} IS DISTINCT FROM NEW.{column}")).collect();
        let changed = changed.join(" OR ");
        match (self.key_condition("OLD"), self.key_condition("NEW")) {
            (Some(old), Some(new)) => format!("({changed}) AND ({old} OR {new})"),
            _ => changed,
        }
    }
}

impl Trigger {
    /// Returns the SQL that creates the trigger, replacing an existing one.
    pub(super) fn sql(&self, table: &str, fault: Fault) -> String {
        let Self { name, event, bits, condition, function, arguments } = self;
        let drop = match fault {
            Fault::Constraint => format!("DROP TRIGGER {name} ON {table}; "),
            _ => String::new(),
        };
        let each = if bits & 1 == 1 { "ROW" } else { "STATEMENT" };
        let when = condition.as_ref().map(|when| format!("WHEN ({when}) ")).unwrap_or_default();
        let arguments = arguments.join("', '");
        format!(
            "{drop}CREATE OR REPLACE TRIGGER {name} AFTER {event} ON {table} FOR EACH {each} \
             {when}EXECUTE FUNCTION {function}('{arguments}'); \
             ALTER TABLE {table} ENABLE ALWAYS TRIGGER {name}"
        )
    }

    /// Returns how the installed trigger differs from this one, if it does.
    fn compare(&self, found: Option<&InstalledTrigger>) -> Option<Fault> {
        let Some(found) = found else {
            return Some(Fault::Missing);
        };
        let mut arguments = Vec::new();
        for argument in &self.arguments {
            arguments.extend_from_slice(argument.as_bytes());
            arguments.push(0);
        }
        let normal = |condition: Option<&str>| condition.map(normal_form);
        if found.is_constraint {
            Some(Fault::Constraint)
        } else if found.enabled != "A" {
            Some(Fault::Disabled)
        } else if found.bits != self.bits || !found.columns.is_empty() {
            Some(Fault::Events)
        } else if found.function != self.function || found.arguments != arguments {
            Some(Fault::Function)
        } else if normal(found.condition()) != normal(self.condition.as_deref()) {
            Some(Fault::Condition)
        } else {
            None
        }
    }
}

/// A function that the triggers call, as it is expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Function {
    pub(super) name: &'static str,
    body: &'static str,
    /// The SQL that creates the function, replacing an existing one.
    pub(super) sql: &'static str,
}

impl Function {
    /// Returns the functions of [`FUNCTIONS`].
    fn all() -> impl Iterator<Item = Self> {
        let names = ["notify_row", "notify_table"];
        // Each statement ends with its body, which is between two `$$`.
        let statements = FUNCTIONS.split_inclusive("$$;");
        names.into_iter().zip(statements).filter_map(|(name, sql)| {
            let body = sql.split("$$").nth(1)?;
            Some(Self { name, body, sql })
        })
    }

    /// Returns every function that differs from the expected one.
    pub(super) async fn faults(
        client: &impl GenericClient,
    ) -> Result<Vec<(Self, Fault)>, tokio_postgres::Error> {
        let sql = "SELECT p.proname::text, p.prosrc, l.lanname = 'plpgsql' AND \
                p.proconfig IS NOT DISTINCT FROM ARRAY['search_path=pg_catalog, pg_temp'] \
            FROM pg_catalog.pg_proc AS p JOIN pg_catalog.pg_language AS l ON l.oid = p.prolang \
            WHERE p.oid IN (to_regprocedure('nightporter.notify_row()'), \
                to_regprocedure('nightporter.notify_table()'))";
        let mut found = HashMap::new();
        for row in client.query_typed(sql, &[]).await? {
            let (name, body): (String, String) = (row.try_get(0)?, row.try_get(1)?);
            let has_expected_settings: bool = row.try_get(2)?;
            found.insert(name, has_expected_settings.then_some(body));
        }
        let faults = Self::all().filter_map(|function| match found.get(function.name) {
            None => Some((function, Fault::Missing)),
            Some(Some(found)) if found == function.body => None,
            Some(_) => Some((function, Fault::Body)),
        });
        Ok(faults.collect())
    }
}

/// Returns a condition without what depends on the server and the types of columns: case,
/// spaces, parentheses and casts.
fn normal_form(condition: &str) -> String {
    let condition = condition.to_lowercase();
    let mut normal = String::with_capacity(condition.len());
    let mut rest = condition.as_str();
    while let Some(next) = rest.chars().next() {
        if let Some(cast) = rest.strip_prefix("::") {
            rest = after_type(cast);
            continue;
        }
        if !next.is_whitespace() && !matches!(next, '(' | ')') {
            normal.push(next);
        }
        rest = &rest[next.len_utf8()..];
    }
    normal
}

/// Returns what follows the name of a type: `text`, `public."My Type"`, `character varying(9)[]`.
fn after_type(text: &str) -> &str {
    let mut rest = text;
    loop {
        rest = match rest.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').map_or("", |(_, rest)| rest),
            None => rest.trim_start_matches(|c: char| c.is_alphanumeric() || c == '_'),
        };
        match rest.strip_prefix('.') {
            Some(after) => rest = after,
            None => break,
        }
    }
    rest = rest.strip_prefix(" varying").unwrap_or(rest);
    if let Some((length, after)) = rest.strip_prefix('(').and_then(|rest| rest.split_once(')'))
        && length.chars().all(|c| c.is_ascii_digit())
    {
        rest = after;
    }
    rest.strip_prefix("[]").unwrap_or(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_are_the_same_in_every_spelling_of_the_server() {
        let [.., kv_store] = &TABLES;
        let ours = kv_store.update_condition();
        for theirs in [
            "((((old.key IS DISTINCT FROM new.key) OR (old.value IS DISTINCT FROM new.value)) AND \
             ((old.key = ANY (ARRAY['terminal_jwt_secret'::text, \
             'freeshard_controller_shared_key'::text, 'profile'::text])) OR \
             (new.key = ANY (ARRAY['terminal_jwt_secret'::text, \
             'freeshard_controller_shared_key'::text, 'profile'::text])))))",
            "((((old.key)::text IS DISTINCT FROM (new.key)::text) OR \
             (old.value IS DISTINCT FROM new.value)) AND (((old.key)::text = ANY \
             ((ARRAY['terminal_jwt_secret'::character varying(9), \
             'freeshard_controller_shared_key'::character varying, \
             'profile'::public.\"My Type\"])::text[])) OR ((new.key)::text = ANY \
             ((ARRAY['terminal_jwt_secret', 'freeshard_controller_shared_key', 'profile'])::text[]))))",
        ] {
            assert_eq!(normal_form(theirs), normal_form(&ours));
        }
        for other in [
            "(old.key IS DISTINCT FROM new.key)",
            "(old.value IS DISTINCT FROM new.value) OR (old.key IS DISTINCT FROM new.key)",
            "false",
            "",
        ] {
            assert_ne!(normal_form(other), normal_form(&ours));
        }
    }

    #[test]
    fn each_function_has_its_own_statement() {
        let functions: Vec<_> = Function::all().collect();
        assert_eq!(functions.len(), 2);
        for Function { name, body, sql } in &functions {
            let create = format!("CREATE OR REPLACE FUNCTION nightporter.{name}() RETURNS trigger");
            assert!(sql.contains(&create), "{sql}");
            assert_eq!(sql.matches("CREATE").count(), 1, "{sql}");
            assert!(sql.ends_with(&format!("AS $${body}$$;")), "{sql}");
        }
        let all: String = functions.iter().map(|function| function.sql).collect();
        assert_eq!(all, FUNCTIONS.trim_end(), "nothing else is in the file");
    }
}
