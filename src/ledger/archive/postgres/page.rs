//! Pages of history.

use tokio_postgres::types::Type;

use super::super::ArchiveError;
use super::read::{columns_of, count};
use super::rows::{self, COLUMN_COUNT, columns, get, tenant};
use crate::ledger::history::{Cursor, Filter, Order, Page, PageRequest};
use crate::ledger::record::{Kind, Micros, RecordId};
use crate::postgres::{AssumedRole, Parameter, Pool};

const COLUMNS: &str = columns!();
const TENANT: &str = tenant!();

/// Conditions on a row `{row}`, of which those with a `NULL` drop out when the server plans the query: each
/// query is planned anew, for its parameters.
macro_rules! filters {
    ($row:literal) => {
        concat!(
            "($2::text IS NULL OR ",
            $row,
            ".app = $2)
            AND ($3::text IS NULL OR ",
            $row,
            ".client_id = $3)
            AND ($4::text IS NULL OR ",
            $row,
            ".verdict = $4)
            AND ($5::text IS NULL OR ",
            $row,
            ".reason = $5)
            AND ($6::text[] IS NULL OR ",
            $row,
            ".kind = ANY ($6))
            AND ($7::int8 IS NULL OR ",
            $row,
            ".at >= $7)
            AND ($8::int8 IS NULL OR ",
            $row,
            ".at < $8)"
        )
    };
}
const FILTERS: &str = filters!("r");
const INNER_FILTERS: &str = filters!("p");

/// Returns one statement, so that a record that is given its position meanwhile is neither
/// skipped nor repeated. It reads three parts: the records whose position is below that in the
/// cursor ($11), those without one, and those that have got one since the cursor's first page.
fn sql(order: Order, by_time: bool) -> String {
    let (precedes, direction) = match order {
        Order::NewestFirst => ("<", "DESC"),
        Order::OldestFirst => (">", "ASC"),
    };
    // The planner takes times to be spread evenly over positions, and would go through all
    // positions before those of a long gone hour. An order that no index has keeps it from that.
    let order = if by_time { "p.position + 0" } else { "p.position" };
    // Positions first: where an index has all that is asked for, only the page's rows are read.
    let positions = format!(
        "SELECT p.position FROM nightporter_ledger.requests AS p
         WHERE p.tenant = {TENANT} AND {INNER_FILTERS} AND p.position IS NOT NULL
             AND ($10::int8 IS NULL OR p.position {precedes} $10)
             AND ($11::int8 IS NULL OR p.position < $11)
         ORDER BY {order} {direction} LIMIT $15"
    );
    format!(
        "SELECT page.*, (
            SELECT coalesce(max(r.position) + 1, 0) FROM nightporter_ledger.requests AS r
            WHERE r.tenant = {TENANT} AND r.position IS NOT NULL) AS first_free
        FROM (
            (SELECT {COLUMNS}, false AS is_unplaced FROM nightporter_ledger.requests AS r
             WHERE $9 AND r.tenant = {TENANT} AND r.position IS NOT NULL
                AND r.position IN ({positions})
             ORDER BY r.position {direction} LIMIT $15)
            UNION ALL
            (SELECT {COLUMNS}, true FROM nightporter_ledger.requests AS r
             WHERE $12 AND r.tenant = {TENANT} AND {FILTERS} AND r.position IS NULL
                AND ($13::int8 IS NULL OR (r.writer, r.seq) {precedes} ($13, $14))
             ORDER BY r.writer {direction}, r.seq {direction} LIMIT $15)
            UNION ALL
            (SELECT {COLUMNS}, true FROM nightporter_ledger.requests AS r
             WHERE $12 AND r.tenant = {TENANT} AND {FILTERS} AND r.position >= $11
                AND (r.writer, r.seq) {precedes} ($13, $14)
             ORDER BY r.writer {direction}, r.seq {direction} LIMIT $15)
        ) AS page
        ORDER BY is_unplaced {direction},
            CASE WHEN NOT is_unplaced THEN position END {direction},
            writer {direction}, seq {direction}
        LIMIT $15"
    )
}

/// Which parts of the history a page reads, and where it begins.
struct Bounds {
    placed: bool,
    after_position: Option<i64>,
    unplaced: bool,
    after_id: Option<RecordId>,
    /// The first position that was not given when the first page was read.
    first_free: Option<i64>,
}

impl Bounds {
    fn new(request: &PageRequest) -> Self {
        let is_newest_first = request.order == Order::NewestFirst;
        let all = Self {
            placed: true,
            after_position: None,
            unplaced: request.with_unplaced,
            after_id: None,
            first_free: None,
        };
        // Beyond a cursor lies the rest of its part and, in one of the orders, the other part.
        match request.after {
            None => all,
            Some(Cursor::Position(position)) => Self {
                after_position: Some(position),
                unplaced: all.unplaced && !is_newest_first,
                ..all
            },
            Some(Cursor::Unplaced { id, placed }) => Self {
                placed: is_newest_first,
                after_id: Some(id),
                first_free: Some(placed),
                ..all
            },
        }
    }
}

pub(super) async fn page(
    pool: &Pool,
    reader: Option<&AssumedRole<'_>>,
    request: &PageRequest,
) -> Result<Page, ArchiveError> {
    let Filter { app, client, kind, verdict, reason, from, to } = &request.filter;
    // The index of times begins with the kind.
    let has_times = from.is_some() || to.is_some();
    let kinds: Option<Vec<&str>> = match kind {
        Some(kind) => Some(vec![kind.as_str()]),
        None => has_times.then(|| Kind::ALL.into_iter().map(Kind::as_str).collect()),
    };
    // Whether the page may begin far from that end of the history at which its order begins.
    let begins_within = match request.order {
        Order::NewestFirst => to.is_some(),
        Order::OldestFirst => from.is_some(),
    };
    let has_others = [app, client, verdict, reason].into_iter().any(Option::is_some);
    let sql = sql(request.order, begins_within && !has_others);
    let (from, to) = (from.map(|Micros(from)| from), to.map(|Micros(to)| to));
    let Bounds { placed, after_position, unplaced, after_id, first_free } = Bounds::new(request);
    let (writer, seq) = columns_of(after_id);
    // One more tells whether there is a next page.
    let limit = count(request.limit).saturating_add(1);
    let parameters: [Parameter<'_>; 15] = [
        (&request.tenant, Type::TEXT),
        (app, Type::TEXT),
        (client, Type::TEXT),
        (verdict, Type::TEXT),
        (reason, Type::TEXT),
        (&kinds, Type::TEXT_ARRAY),
        (&from, Type::INT8),
        (&to, Type::INT8),
        (&placed, Type::BOOL),
        (&after_position, Type::INT8),
        (&first_free, Type::INT8),
        (&unplaced, Type::BOOL),
        (&writer, Type::INT8),
        (&seq, Type::INT8),
        (&limit, Type::INT8),
    ];
    let rows = pool.query_as(reader, &sql, &parameters).await?;
    let free = rows.first().map(|row| get(row, COLUMN_COUNT + 1)).transpose()?;
    let placed = first_free.or(free).unwrap_or(0);
    let tenant = request.tenant.as_str().into();
    let rows = rows.iter().map(|row| rows::record_row(row, &tenant)).collect::<Result<_, _>>()?;
    Ok(Page::from_rows(rows, request.limit, placed))
}
