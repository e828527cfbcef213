use http::HeaderValue;

use super::*;

use Outcome::{Expected, Same, Status};
use VerdictKind::{Asleep, Deny, Grant};

fn map(pairs: &[(&'static str, &[u8])]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        let value = HeaderValue::from_bytes(value).unwrap();
        headers.append(HeaderName::from_static(name), value);
    }
    headers
}

fn request_for(host: &str, uri: &str) -> HeaderMap {
    map(&[
        ("x-forwarded-host", host.as_bytes()),
        ("x-forwarded-uri", uri.as_bytes()),
        ("x-forwarded-method", b"GET"),
        ("x-forwarded-proto", b"https"),
    ])
}

fn verdicts(verdict: VerdictKind, ours: u16, theirs: u16, headers: &HeaderMap) -> Outcome {
    let status = |status| StatusCode::from_u16(status).unwrap();
    let ours = OurAnswer { verdict, status: status(ours), headers: HeaderMap::new() };
    let theirs = Answer { status: status(theirs), ..Answer::default() };
    let domain = Some("box.example");
    compare(ComparedRequest { endpoint: Endpoint::Auth, headers, domain }, &ours, &theirs)
}

#[test]
fn a_difference_is_one_of_class_unless_it_is_meant() {
    const PLAIN: (&str, &str) = ("notes.box.example", "/page?x=1");
    const READ_TWICE: (&str, &str) = ("notes.box.example", "/pub/../private");
    const UPPER: (&str, &str) = ("Notes.box.example", "/");
    const WITH_PORT: (&str, &str) = ("notes:443", "/");
    const OUTSIDE: (&str, &str) = ("notes.evil.example", "/");
    for ((host, uri), verdict, ours, theirs, expected) in [
        (PLAIN, Grant, 200, 200, Same),
        (PLAIN, Grant, 200, 401, Status),
        (PLAIN, Grant, 200, 404, Status),
        (PLAIN, Grant, 200, 500, Status),
        (PLAIN, Grant, 200, 302, Status),
        (PLAIN, Deny(Reason::TerminalRequired), 401, 401, Same),
        (PLAIN, Deny(Reason::TerminalRequired), 401, 404, Same),
        (PLAIN, Deny(Reason::TerminalRequired), 401, 200, Status),
        (PLAIN, Deny(Reason::TerminalRequired), 401, 500, Status),
        (PLAIN, Deny(Reason::PeerRequired), 401, 200, Status),
        (PLAIN, Deny(Reason::ManagementSecret), 401, 200, Status),
        (PLAIN, Deny(Reason::UnknownApp), 404, 404, Same),
        (PLAIN, Deny(Reason::UnknownApp), 404, 200, Status),
        (PLAIN, Deny(Reason::StoreUnavailable), 503, 200, Status),
        (PLAIN, Deny(Reason::StoreUnavailable), 503, 500, Same),
        // Malformed.
        (PLAIN, Deny(Reason::MalformedRequest), 400, 200, Expected),
        (PLAIN, Deny(Reason::MalformedRequest), 400, 401, Expected),
        (PLAIN, Deny(Reason::MalformedRequest), 400, 500, Expected),
        (PLAIN, Deny(Reason::AmbiguousPath), 400, 200, Expected),
        // Rules and descriptions.
        (PLAIN, Deny(Reason::NoMatchingRule), 403, 500, Expected),
        (PLAIN, Deny(Reason::NoMatchingRule), 403, 200, Status),
        (PLAIN, Deny(Reason::BrokenApp), 503, 500, Expected),
        (PLAIN, Deny(Reason::BrokenApp), 503, 503, Same),
        (PLAIN, Deny(Reason::BrokenApp), 503, 200, Status),
        // Readings.
        (READ_TWICE, Deny(Reason::TerminalRequired), 401, 200, Expected),
        (READ_TWICE, Deny(Reason::PeerRequired), 401, 500, Expected),
        (READ_TWICE, Deny(Reason::NoMatchingRule), 403, 200, Expected),
        (READ_TWICE, Grant, 200, 401, Status),
        // Hosts.
        (UPPER, Grant, 200, 404, Expected),
        (WITH_PORT, Grant, 200, 404, Expected),
        (UPPER, Deny(Reason::BrokenApp), 503, 404, Expected),
        (UPPER, Grant, 200, 401, Status),
        (OUTSIDE, Deny(Reason::UnknownApp), 404, 200, Expected),
        (OUTSIDE, Grant, 200, 404, Status),
        // Asleep.
        (PLAIN, Asleep, 503, 200, Expected),
        (PLAIN, Asleep, 200, 200, Expected),
        (PLAIN, Asleep, 503, 401, Status),
        (PLAIN, Asleep, 503, 500, Same),
    ] {
        let outcome = verdicts(verdict, ours, theirs, &request_for(host, uri));
        assert_eq!(outcome, expected, "{host}{uri} {verdict:?} {ours} {theirs}");
    }
}

#[test]
fn unsigned_requests_need_neither_method_nor_scheme_here() {
    let whole = request_for("notes", "/");
    for name in ["x-forwarded-method", "x-forwarded-proto"] {
        let mut without = whole.clone();
        without.remove(name);
        assert_eq!(verdicts(Grant, 200, 500, &without), Expected, "{name}");
        assert_eq!(verdicts(Grant, 200, 401, &without), Status, "{name}");
    }
    assert_eq!(verdicts(Grant, 200, 500, &whole), Status);
}

fn grants(ours: &[(&'static str, &[u8])], theirs: &[(&'static str, &[u8])]) -> Outcome {
    let ours = OurAnswer { verdict: Grant, status: StatusCode::OK, headers: map(ours) };
    let theirs = Answer { headers: map(theirs), ..Answer::default() };
    let headers = &HeaderMap::new();
    let request = ComparedRequest { endpoint: Endpoint::Terminal, headers, domain: None };
    compare(request, &ours, &theirs)
}

#[test]
fn headers_that_apps_are_told_are_compared_by_name_and_value() {
    let names = |names: &[&'static str]| {
        Outcome::Headers(names.iter().map(|name| HeaderName::from_static(name)).collect())
    };
    let id: (&str, &[u8]) = ("x-ptl-id", b"t1");
    let name: (&str, &[u8]) = ("x-ptl-name", b"B\xfcro");
    assert_eq!(grants(&[id, name], &[name, id]), Same);
    assert_eq!(grants(&[id], &[id, ("server", b"uvicorn"), ("date", b"now")]), Same);
    assert_eq!(grants(&[id], &[("x-ptl-id", b"t2")]), names(&["x-ptl-id"]));
    assert_eq!(grants(&[id, name], &[]), names(&["x-ptl-id", "x-ptl-name"]));
    assert_eq!(grants(&[], &[id]), names(&["x-ptl-id"]));
    assert_eq!(grants(&[id], &[id, id]), names(&["x-ptl-id"]));
    assert_eq!(grants(&[("x-ptl-id", b"")], &[]), names(&["x-ptl-id"]));
    assert_eq!(grants(&[("x-ptl-id", b" t1 ")], &[id]), Same);
    let utf8: (&str, &[u8]) = ("x-ptl-name", "B\u{fc}ro".as_bytes());
    assert_eq!(grants(&[utf8], &[name]), Expected);
    assert_eq!(grants(&[id, utf8], &[("x-ptl-id", b"t2"), name]), names(&["x-ptl-id"]));
}

#[test]
fn a_name_that_the_core_cannot_send_is_its_500() {
    let with = |endpoint, value: &[u8]| {
        let headers = map(&[("x-ptl-name", value)]);
        let ours = OurAnswer { verdict: Grant, status: StatusCode::OK, headers };
        let theirs = Answer { status: StatusCode::INTERNAL_SERVER_ERROR, ..Answer::default() };
        let headers = request_for("notes", "/");
        compare(ComparedRequest { endpoint, headers: &headers, domain: None }, &ours, &theirs)
    };
    for endpoint in [Endpoint::Auth, Endpoint::Terminal] {
        assert_eq!(with(endpoint, b"Phone ?"), Expected);
        assert_eq!(with(endpoint, "Phone \u{1f4f1}".as_bytes()), Expected);
        assert_eq!(with(endpoint, b"Phone"), Status);
        assert_eq!(with(endpoint, b"B\xfcro"), Status);
        assert_eq!(with(endpoint, "B\u{fc}ro".as_bytes()), Status);
    }
}

#[test]
fn an_endpoint_that_is_not_there_is_a_difference() {
    for host in ["notes.box.example", "Notes.box.example"] {
        let ours = OurAnswer { verdict: Grant, status: StatusCode::OK, headers: HeaderMap::new() };
        let theirs = Answer { status: StatusCode::NOT_FOUND, ..Answer::default() };
        let headers = &request_for(host, "/");
        for endpoint in [Endpoint::Terminal, Endpoint::Management] {
            let request = ComparedRequest { endpoint, headers, domain: None };
            assert_eq!(compare(request, &ours, &theirs), Status, "{host}");
        }
    }
    assert_eq!(
        verdicts(Grant, 200, 404, &HeaderMap::new()),
        Status,
        "a missing host is not an upper-case host"
    );
}
