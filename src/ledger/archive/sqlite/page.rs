//! Pages of history.
//!
//! A page is read along an index that is in its order, or, if few records match a filter,
//! from those that match. Which filter that is, a bounded count says: SQLite's own choice
//! would need statistics, and those age. If many records match each of two filters and few
//! match both, a page ends after a bounded search, and the next one goes on from there.

use std::sync::Arc;

use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension as _, params_from_iter};

use super::fault::Fault;
use super::rows::{self, COLUMNS};
use crate::ledger::history::{Cursor, Filter, Order, Page, PageRequest};
use crate::ledger::record::{RecordId, RecordRow};

/// A filter with fewer matches than this is preferred to one with more; no more are counted.
const FEW: i64 = 10_000;

/// As many positions are sorted, if nothing else narrows a time: some 10 ms. The alternative
/// is to pass over all records that are newer.
const MANY: i64 = 100_000;

/// How many entries of an index a page passes over, at most, to look at the records behind
/// them: some 10 ms.
const PASSED_OVER: usize = 5_000;

/// The index that serves every page.
const BY_POSITION: &str = "requests_by_position";

/// An index that serves a filter.
struct Index {
    name: &'static str,
    /// Its columns after the tenant. It serves a filter of the first one.
    columns: [&'static str; 2],
}

impl Index {
    /// Returns whether it is in the order of a page once its filter is applied.
    fn is_ordered(&self) -> bool {
        self.columns[1] == "position"
    }
}

/// Those that most likely match few records come first.
static INDEXES: [Index; 6] = [
    Index { name: "requests_by_client", columns: ["client_id", "position"] },
    Index { name: "requests_by_app", columns: ["app", "position"] },
    Index { name: "requests_by_reason", columns: ["reason", "position"] },
    Index { name: "requests_by_verdict", columns: ["verdict", "position"] },
    Index { name: "requests_by_kind", columns: ["kind", "at"] },
    Index { name: "requests_by_time", columns: ["at", ""] },
];

pub(super) fn page(connection: &Connection, request: &PageRequest) -> Result<Page, Fault> {
    // One more than asked for shows whether there is a next page.
    let limit = request.limit.saturating_add(1);
    let read = Read { connection, tenant: request.tenant.as_str().into(), request };
    let placed = match request.after {
        Some(Cursor::Unplaced { placed, .. }) => placed,
        _ => read.first_free_position()?,
    };
    let mut records = Vec::new();
    for part in parts(request) {
        let wanted = limit - records.len();
        if wanted == 0 {
            break;
        }
        match part {
            Part::Placed(after) => {
                let Found { records: found, searched_to } = read.placed(after, placed, wanted)?;
                records.extend(found);
                if let Some(position) = searched_to {
                    let next = Some(Cursor::Position(position));
                    let page = Page::from_rows(records, request.limit, placed);
                    return Ok(Page { last: next, next, ..page });
                }
            }
            Part::Unplaced(after) => records.extend(read.unplaced(after, placed, wanted)?),
        }
    }
    Ok(Page::from_rows(records, request.limit, placed))
}

/// One of the two parts of the history, and where it begins.
enum Part {
    Placed(Option<i64>),
    Unplaced(Option<RecordId>),
}

/// Returns what is to be read for a page, in its order.
fn parts(request: &PageRequest) -> Vec<Part> {
    let (position, id) = match request.after {
        None => (None, None),
        Some(Cursor::Position(position)) => (Some(position), None),
        Some(Cursor::Unplaced { id, .. }) => (None, Some(id)),
    };
    // Beyond a cursor lies the rest of its part and, in one of the orders, the other part.
    let mut parts = match request.order {
        Order::NewestFirst if position.is_some() => vec![Part::Placed(position)],
        Order::NewestFirst => vec![Part::Unplaced(id), Part::Placed(None)],
        Order::OldestFirst if id.is_some() => vec![Part::Unplaced(id)],
        Order::OldestFirst => vec![Part::Placed(position), Part::Unplaced(None)],
    };
    parts.retain(|part| request.with_unplaced || matches!(part, Part::Placed(_)));
    parts
}

/// Records that have positions.
struct Found {
    records: Vec<RecordRow>,
    /// Where the search was ended, if there are fewer records than wanted and may be more.
    searched_to: Option<i64>,
}

/// A condition on one column, and the values for its question marks.
struct Condition {
    column: &'static str,
    sql: &'static str,
    values: Vec<Value>,
}

impl Condition {
    fn new(column: &'static str, sql: &'static str, value: impl Into<Value>) -> Self {
        Self { column, sql, values: vec![value.into()] }
    }
}

struct Read<'a> {
    connection: &'a Connection,
    tenant: Arc<str>,
    request: &'a PageRequest,
}

impl Read<'_> {
    /// The conditions of the tenant, which is the first, and of the filters.
    fn conditions(&self) -> Vec<Condition> {
        let Filter { app, client, kind, verdict, reason, from, to } = &self.request.filter;
        let tenant = "r.tenant = (SELECT id FROM tenants WHERE name = ?)";
        let text = |column, sql, value: &Option<String>| {
            value.as_ref().map(|value| Condition::new(column, sql, value.clone()))
        };
        [
            Some(Condition::new("tenant", tenant, self.request.tenant.clone())),
            text("app", "r.app = ?", app),
            text("client_id", "r.client_id = ?", client),
            kind.map(|kind| Condition::new("kind", "r.kind = ?", kind.as_str().to_owned())),
            text("verdict", "r.verdict = ?", verdict),
            text("reason", "r.reason = ?", reason),
            from.map(|from| Condition::new("at", "r.at >= ?", from.0)),
            to.map(|to| Condition::new("at", "r.at < ?", to.0)),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    fn direction(&self) -> &'static str {
        match self.request.order {
            Order::NewestFirst => "DESC",
            Order::OldestFirst => "ASC",
        }
    }

    fn first_free_position(&self) -> Result<i64, Fault> {
        let sql = "SELECT coalesce(max(position) + 1, 0) FROM requests
                   WHERE tenant = (SELECT id FROM tenants WHERE name = ?)
                   AND position IS NOT NULL";
        Ok(self.connection.query_row(sql, [&*self.tenant], |row| row.get(0))?)
    }

    /// Reads records whose positions are below `placed`.
    fn placed(&self, after: Option<i64>, placed: i64, limit: usize) -> Result<Found, Fault> {
        let mut conditions = self.conditions();
        conditions.push(Condition::new("position", "r.position < ?", placed));
        if let Some(after) = after {
            let follows = match self.request.order {
                Order::NewestFirst => "r.position < ?",
                Order::OldestFirst => "r.position > ?",
            };
            conditions.push(Condition::new("position", follows, after));
        }
        let index = self.narrowest(&conditions)?;
        let bound = self.bound(index, &conditions)?;
        if let Some(bound) = bound {
            let precedes = match self.request.order {
                Order::NewestFirst => "r.position >= ?",
                Order::OldestFirst => "r.position <= ?",
            };
            conditions.push(Condition::new("position", precedes, bound));
        }
        let tenant = &conditions[..1];
        let (matches, direction) = (all(&conditions), self.direction());
        let rows = rows::count(limit);
        let index = index.map_or(BY_POSITION, |index| index.name);
        let sql = format!(
            // Positions first: they are in the index, so only the page's rows are read.
            "SELECT {COLUMNS} FROM requests r INDEXED BY {BY_POSITION}
             WHERE {} AND r.position IN (
                 SELECT r.position FROM requests r INDEXED BY {index} WHERE {matches}
                 ORDER BY r.position {direction} LIMIT {rows})
             ORDER BY r.position {direction}",
            all(tenant)
        );
        let records = self.records(&sql, values(tenant).chain(values(&conditions)))?;
        let searched_to = bound.filter(|_| records.len() < limit);
        Ok(Found { records, searched_to })
    }

    /// Returns the position at which a search along an index ends, if it has to look at the
    /// records themselves and there are many. A time is not a reason to end it: if nothing
    /// narrows that, all that is newer has to be passed over.
    fn bound(
        &self,
        index: Option<&'static Index>,
        conditions: &[Condition],
    ) -> Result<Option<i64>, Fault> {
        let is_served = |condition: &&Condition| {
            matches!(condition.column, "tenant" | "position")
                || index.is_some_and(|index| index.columns.contains(&condition.column))
        };
        let has_time = conditions.iter().any(|condition| condition.column == "at");
        let is_ordered = index.is_none_or(Index::is_ordered);
        if !is_ordered || (index.is_none() && has_time) || conditions.iter().all(|c| is_served(&c))
        {
            return Ok(None);
        }
        let served: Vec<_> = conditions.iter().filter(is_served).collect();
        let sql = format!(
            "SELECT r.position FROM requests r INDEXED BY {} WHERE {}
             ORDER BY r.position {} LIMIT 1 OFFSET {PASSED_OVER}",
            index.map_or(BY_POSITION, |index| index.name),
            all(served.iter().copied()),
            self.direction()
        );
        let values = params_from_iter(values(served.iter().copied()));
        Ok(self.connection.query_row(&sql, values, |row| row.get(0)).optional()?)
    }

    /// Reads records that have no position, or one from `placed` on.
    fn unplaced(
        &self,
        after: Option<RecordId>,
        placed: i64,
        limit: usize,
    ) -> Result<Vec<RecordRow>, Fault> {
        let mut conditions = self.conditions();
        if let Some(after) = after {
            let sql = match self.request.order {
                Order::NewestFirst => "(r.writer, r.seq) < (?, ?)",
                Order::OldestFirst => "(r.writer, r.seq) > (?, ?)",
            };
            let values = vec![after.writer.0.into(), after.seq.into()];
            conditions.push(Condition { column: "writer", sql, values });
        }
        let (matches, direction) = (all(&conditions), self.direction());
        let limit = rows::count(limit);
        let sql = format!(
            "SELECT * FROM (
                 SELECT {COLUMNS} FROM requests r INDEXED BY requests_unplaced
                 WHERE {matches} AND r.position IS NULL
                 ORDER BY r.writer {direction}, r.seq {direction} LIMIT {limit})
             UNION ALL
             SELECT {COLUMNS} FROM requests r INDEXED BY {BY_POSITION}
             WHERE {matches} AND r.position >= {placed}
             ORDER BY writer {direction}, seq {direction} LIMIT {limit}"
        );
        self.records(&sql, values(&conditions).chain(values(&conditions)))
    }

    /// Returns the index along which the fewest records are read; `None` for that of the
    /// positions.
    fn narrowest(&self, conditions: &[Condition]) -> Result<Option<&'static Index>, Fault> {
        let mut fewest = i64::MAX;
        let mut narrowest = None;
        let has_time = conditions.iter().any(|condition| condition.column == "at");
        for index in &INDEXES {
            if !conditions.iter().any(|condition| condition.column == index.columns[0]) {
                continue;
            }
            let served = |condition: &&Condition| {
                condition.column == "tenant" || index.columns.contains(&condition.column)
            };
            let conditions: Vec<_> = conditions.iter().filter(served).collect();
            let is_of_time = has_time && index.columns.contains(&"at");
            let limit = if is_of_time && narrowest.is_none() { MANY } else { FEW };
            let sql = format!(
                "SELECT count(*) FROM (SELECT 1 FROM requests r INDEXED BY {}
                 WHERE {} AND r.position IS NOT NULL LIMIT {limit})",
                index.name,
                all(conditions.iter().copied())
            );
            let values = params_from_iter(values(conditions.iter().copied()));
            let count = self.connection.query_row(&sql, values, |row| row.get(0))?;
            if count < limit.min(fewest) {
                (fewest, narrowest) = (count, Some(index));
            } else if narrowest.is_none() && index.is_ordered() {
                // Never worse than the index of the positions.
                narrowest = Some(index);
            }
        }
        Ok(narrowest)
    }

    fn records<'v>(
        &self,
        sql: &str,
        values: impl Iterator<Item = &'v Value>,
    ) -> Result<Vec<RecordRow>, Fault> {
        rows::without_parts(self.connection, &self.tenant, sql, params_from_iter(values))
    }
}

fn all<'c>(conditions: impl IntoIterator<Item = &'c Condition>) -> String {
    let conditions: Vec<_> = conditions.into_iter().map(|condition| condition.sql).collect();
    conditions.join(" AND ")
}

fn values<'c>(
    conditions: impl IntoIterator<Item = &'c Condition>,
) -> impl Iterator<Item = &'c Value> {
    conditions.into_iter().flat_map(|condition| &condition.values)
}
