//! Tests of the table of routes.

use super::*;
use crate::http::answer;

#[test]
fn every_route_is_found_by_its_own_path_and_method() {
    let table = Table::new(&ROUTES);
    for expected in &ROUTES {
        let path = expected.pattern.replace("{name}", "a%20b").replace("{id}", "a%20b");
        let RouteMatch::Route(route, parameters) = table.find(&expected.method, &path, |_| true)
        else {
            panic!("{} {path} is not found", expected.method);
        };
        assert!(std::ptr::eq(route, expected), "{path}");
        for name in ["name", "id"] {
            let has_it = expected.pattern.contains(&format!("{{{name}}}"));
            assert_eq!(parameters.get(name), if has_it { "a b" } else { "" }, "{path}");
        }
    }
}

#[test]
fn other_methods_and_other_paths_are_told_apart() {
    let table = Table::new(&ROUTES);
    for (method, path, expected) in [
        (Method::POST, "/metrics", "GET, HEAD"),
        (Method::OPTIONS, "/v1/apps", "GET, HEAD"),
        (Method::DELETE, "/v1/apps/notes", "GET, HEAD"),
        (Method::GET, "/v1/apps/notes/wake", "POST"),
        (Method::HEAD, "/v1/apps/notes/wake", "POST"),
    ] {
        match table.find(&method, path, |_| true) {
            RouteMatch::OtherMethod(allowed) => assert_eq!(allowed, expected, "{method} {path}"),
            _ => panic!("{method} {path}"),
        }
    }
    for (method, path) in [
        (Method::GET, "/"),
        (Method::GET, "/v1"),
        (Method::GET, "/v1/appsX"),
        (Method::GET, "/v1/apps/"),
        (Method::GET, "/v1/apps/notes/"),
        (Method::POST, "/v1/apps//wake"),
        (Method::POST, "/v1/apps/notes/delete"),
        (Method::POST, "/v1/apps/notes/wake/now"),
        (Method::GET, "/v1/apps/%ff"),
        (Method::GET, "/v1/apps/%00"),
        (Method::GET, "/v1/webhooks/a%00b"),
        (Method::DELETE, "/v1/webhooks/a%0A"),
        (Method::GET, "/v1/requests/%7F"),
        (Method::GET, "/v1/jobs/%C2%85/runs"),
        (Method::GET, "*"),
        (Method::GET, ""),
    ] {
        assert!(
            matches!(table.find(&method, path, |_| true), RouteMatch::Nothing),
            "{method} {path}"
        );
    }
}

#[test]
fn parameters_are_decoded_once_and_stay_one_segment() {
    let table = Table::new(&ROUTES);
    for (path, name) in [
        ("/v1/apps/notes", "notes"),
        ("/v1/apps/a%2Fwake", "a/wake"),
        ("/v1/apps/%2525", "%25"),
        ("/v1/apps/%C3%A9%20+", "é +"),
        ("/v1/apps/{name}", "{name}"),
        ("/v1/apps/%", "%"),
    ] {
        let RouteMatch::Route(route, parameters) = table.find(&Method::HEAD, path, |_| true) else {
            panic!("{path}");
        };
        assert_eq!((route.pattern, parameters.get("name")), ("/v1/apps/{name}", name));
    }
}

#[test]
fn what_a_principal_must_not_see_is_not_there() {
    let table = Table::new(&ROUTES);
    let is_seen = |route: &Route| route.owner != Owner::Box;
    for (method, path) in [
        (Method::GET, "/v1/apps"),
        (Method::DELETE, "/v1/apps"),
        (Method::POST, "/v1/apps/notes/wake"),
        (Method::GET, "/v1/apps/notes/wake"),
        (Method::GET, "/healthz"),
        (Method::GET, "/metrics"),
        (Method::POST, "/v1/jobs/probes/run"),
    ] {
        assert!(matches!(table.find(&method, path, is_seen), RouteMatch::Nothing), "{path}");
    }
    for path in ["/livez", "/v1/requests", "/v1/audit/checkpoint"] {
        assert!(matches!(table.find(&Method::GET, path, is_seen), RouteMatch::Route(..)), "{path}");
    }
}

#[test]
fn a_tenant_is_selected_only_by_those_who_see_all() {
    let root = Principal::root();
    let bound = Principal { scope: Scope::Tenant("a".into()), ..Principal::root() };
    let select = |principal: &Principal, query, owner| {
        let selected = select_tenant(principal, query, owner, "own".into());
        selected.map(|tenant| tenant.to_string()).map_err(|problem| problem.parameter)
    };
    let refused = Err(Some("tenant".to_owned()));
    assert_eq!(select(&root, None, Owner::Tenant), Ok("own".into()));
    assert_eq!(select(&root, Some("tenant=b&limit=1"), Owner::Tenant), Ok("b".into()));
    assert_eq!(select(&root, Some("ten%61nt=b"), Owner::Tenant), Ok("b".into()));
    assert_eq!(select(&bound, Some("limit=1"), Owner::Tenant), Ok("a".into()));
    assert_eq!(select(&bound, None, Owner::Box), Ok("a".into()));
    for query in ["tenant=b", "tenant=a", "tenant=", "tenant=a&tenant=b", "tenant=%ff"] {
        assert_eq!(select(&bound, Some(query), Owner::Tenant), refused, "{query}");
        assert_eq!(select(&root, Some(query), Owner::Box), refused, "{query}");
    }
}

#[test]
fn what_the_archive_refuses_is_no_passing_problem_and_is_not_quoted() {
    use crate::ledger::archive::ArchiveError;
    let problem = Problem::from(ArchiveError::Content("invalid value: Ada".into()));
    assert_eq!((problem.status.as_u16(), problem.retry_after), (500, None));
    assert!(!problem.is_passing && !problem.detail.contains("Ada"), "{problem:?}");
    let problem = Problem::from(ArchiveError::Unavailable("connection refused".into()));
    assert_eq!((problem.status.as_u16(), problem.retry_after), (503, Some(1)));
    assert!(problem.is_passing, "{problem:?}");
}

#[test]
fn a_response_to_head_keeps_the_length_of_what_it_leaves_out() {
    let response = without_body(answer::fixed(http::StatusCode::OK, "null"));
    assert_eq!(response.headers()[header::CONTENT_LENGTH], "4");
    assert_eq!(response.body().size_hint().exact(), Some(0));
}
