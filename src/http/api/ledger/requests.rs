//! The history: pages of records, and single ones.

use http::StatusCode;
use schemars::JsonSchema;
use serde::Serialize;

use super::view::RecordView;
use super::{Call, LeftOut, Problem, Services, ok};
use crate::access::{Principal, Right};
use crate::http::Response;
use crate::http::api::query::Query;
use crate::ledger::history::{Cursor, Filter, Order, Page, PageRequest};
use crate::ledger::record::{Kind, RecordId};

/// A page of records.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Requests")]
pub(in super::super) struct Answer {
    requests: Vec<RecordView>,
    /// The `after` of the next page; `null` if this is the last one. A page may have fewer
    /// records than asked for, or none, although others follow.
    next: Option<String>,
    left_out: LeftOut,
}

/// `GET /v1/requests`
pub(in super::super) async fn list(services: &Services, call: Call) -> Result<Response, Problem> {
    let history = services.history()?;
    let request = page_request(&call.tenant, &call.principal, call.query()?)?;
    let viewer = history.viewer(&call.principal, &call.tenant).await;
    let Page { records, unreadable, last: _, next } = history.archive().page(&request).await?;
    let counted = records.iter().filter(|stored| is_count(stored.record.kind));
    // An altered count may be any number.
    let rolled_up = counted.fold(0_i64, |sum, stored| sum.saturating_add(stored.record.count));
    Ok(ok(&Answer {
        requests: records.iter().map(|stored| RecordView::new(stored, &viewer)).collect(),
        next: next.map(cursor_text),
        left_out: history.left_out(&call.tenant, rolled_up, unreadable),
    }))
}

/// `GET /v1/requests/{id}`
pub(in super::super) async fn show(services: &Services, call: Call) -> Result<Response, Problem> {
    let history = services.history()?;
    call.query()?.end()?;
    let id = record_id(&call)?;
    match history.archive().find(&call.tenant, id).await? {
        Some(stored) => {
            let viewer = history.viewer(&call.principal, &call.tenant).await;
            Ok(ok(&RecordView::new(&stored, &viewer)))
        }
        None => Err(missing(id)),
    }
}

/// Returns the id in the path.
pub(super) fn record_id(call: &Call) -> Result<RecordId, Problem> {
    let id = call.parameters.get("id").parse();
    id.map_err(|error| Problem::parameter("id", format!("{error}")))
}

pub(super) fn missing(id: RecordId) -> Problem {
    Problem::not_found(format!(
        "no record has the id {id}: it was removed after its time, or it has not been written yet"
    ))
}

/// Takes the parameters that select records. Without the right to personal values, what would
/// let them be guessed is not one of the parameters.
pub(super) fn filter(query: &mut Query, principal: &Principal) -> Result<Filter, Problem> {
    let kinds = Kind::ALL.map(Kind::as_str).join(", ");
    let verdict = |text: &str| VERDICTS.contains(&text).then(|| text.to_owned());
    Ok(Filter {
        app: query.text("app")?,
        client: client(query, principal)?,
        kind: query.value("kind", &format!("one of {kinds}"), Kind::parse)?,
        verdict: query.value("verdict", &format!("one of {}", VERDICTS.join(", ")), verdict)?,
        reason: query.text("reason")?,
        from: query.time("from")?,
        to: query.time("to")?,
    })
}

fn client(query: &mut Query, principal: &Principal) -> Result<Option<String>, Problem> {
    let client = query.text("client")?;
    if client.is_some() && !principal.may(Right::Pii) {
        return Err(Problem {
            status: StatusCode::FORBIDDEN,
            ..Problem::parameter("client", "`client` needs a token with the right `pii`")
        });
    }
    Ok(client)
}

pub(in super::super) const VERDICTS: [&str; 8] =
    ["grant", "deny", "asleep", "kept_asleep", "accepted", "done", "failed", "refused"];

fn page_request(
    tenant: &str,
    principal: &Principal,
    mut query: Query,
) -> Result<PageRequest, Problem> {
    let limit = query.limit()?;
    let order = query.value("order", "asc or desc", |text| match text {
        "asc" => Some(Order::OldestFirst),
        "desc" => Some(Order::NewestFirst),
        _ => None,
    })?;
    let request = PageRequest {
        tenant: tenant.to_owned(),
        filter: filter(&mut query, principal)?,
        order: order.unwrap_or_default(),
        after: query.value("after", "the `next` of an answer", read_cursor)?,
        limit,
        with_unplaced: true,
    };
    query.end()?;
    Ok(request)
}

/// Returns the text of a cursor, which only [`read_cursor`] has to understand.
fn cursor_text(cursor: Cursor) -> String {
    match cursor {
        Cursor::Position(position) => format!("p{position}"),
        Cursor::Unplaced { id, placed } => format!("u{placed}.{id}"),
    }
}

fn read_cursor(text: &str) -> Option<Cursor> {
    let position = |text: &str| text.parse().ok().filter(|position| *position >= 0);
    if let Some(text) = text.strip_prefix('p') {
        return position(text).map(Cursor::Position);
    }
    let (placed, id) = text.strip_prefix('u')?.split_once('.')?;
    Some(Cursor::Unplaced { id: id.parse().ok()?, placed: position(placed)? })
}

fn is_count(kind: Kind) -> bool {
    matches!(kind, Kind::Grants | Kind::Denials)
}

/// Reads the parameters of a page, and checks that a cursor is read as it is written.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn fuzz_page_request(query: &str) {
    let Ok(parameters) = Query::parse(Some(query)) else { return };
    let Ok(request) = page_request("box", &Principal::root(), parameters) else { return };
    assert!((1..=crate::http::api::query::MAX_LIMIT).contains(&request.limit));
    if let Some(cursor) = request.after {
        assert_eq!(read_cursor(&cursor_text(cursor)), Some(cursor));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::Rights;
    use crate::ledger::record::{Micros, WriterId};

    fn asked(principal: &Principal, query: &str) -> Result<PageRequest, Problem> {
        page_request("box", principal, Query::parse(Some(query)).expect("UTF-8"))
    }

    #[test]
    fn who_may_not_see_clients_may_not_ask_for_one() {
        let rights = Rights::new(&[Right::Read, Right::Operate]);
        let principal = Principal { rights, ..Principal::root() };
        for query in ["client=t1", "app=notes&client=t1", "client=~AAAA", "cl%69ent=t1"] {
            let problem = asked(&principal, query).expect_err(query);
            assert_eq!(
                (problem.status.as_u16(), problem.parameter.as_deref()),
                (403, Some("client"))
            );
        }
        assert!(asked(&principal, "app=notes&order=asc").is_ok());
    }

    #[test]
    fn a_page_is_asked_for_by_its_parameters() {
        let request =
            page_request("box", &Principal::root(), Query::default()).expect("all are optional");
        assert_eq!(
            request,
            PageRequest {
                tenant: "box".into(),
                filter: Filter::default(),
                order: Order::NewestFirst,
                after: None,
                limit: 50,
                with_unplaced: true,
            }
        );
        let query = "app=notes&client=t1&kind=visit&verdict=deny&reason=peer_required&from=1\
                     &to=1970-01-01T00:00:02Z&limit=500&after=p7&order=asc";
        let request = asked(&Principal::root(), query).expect("valid");
        let filter = Filter {
            app: Some("notes".into()),
            client: Some("t1".into()),
            kind: Some(Kind::Visit),
            verdict: Some("deny".into()),
            reason: Some("peer_required".into()),
            from: Some(Micros(1_000_000)),
            to: Some(Micros(2_000_000)),
        };
        assert_eq!(request.filter, filter);
        assert_eq!((request.limit, request.order), (500, Order::OldestFirst));
        assert_eq!(request.after, Some(Cursor::Position(7)));
    }

    #[test]
    fn what_cannot_be_answered_is_refused_by_the_name_of_its_parameter() {
        for (query, parameter) in [
            ("limit=0", "limit"),
            ("limit=501", "limit"),
            ("limit=-1", "limit"),
            ("kind=visits", "kind"),
            ("verdict=denied", "verdict"),
            ("order=newest", "order"),
            ("after=7", "after"),
            ("after=p-1", "after"),
            ("after=u7", "after"),
            ("after=u7.8", "after"),
            ("from=yesterday", "from"),
            ("to=", "to"),
            ("apps=notes", "apps"),
            ("app=notes&app=wiki", "app"),
        ] {
            let problem = asked(&Principal::root(), query).expect_err(query);
            assert_eq!(problem.parameter.as_deref(), Some(parameter), "{query}");
            assert_eq!(problem.status, 400, "{query}");
        }
    }

    #[test]
    fn a_cursor_is_read_as_it_is_written() {
        let id = RecordId { writer: WriterId(77), seq: 3 };
        let unplaced = Cursor::Unplaced { id, placed: 9 };
        for cursor in [Cursor::Position(0), Cursor::Position(i64::MAX), unplaced] {
            assert_eq!(read_cursor(&cursor_text(cursor)), Some(cursor));
        }
    }
}
