use super::*;
use http::HeaderValue;

fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    pairs
        .iter()
        .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
        .collect()
}

/// The answer is shown as a document of its own.
const SHOWN: bool = true;
/// The request is held until the app itself answers.
const HELD: bool = false;

/// What Chromium, Firefox and Safari accept first when they navigate.
const DOCUMENT: &str = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
const ANYTHING: &str = "*/*";

type Sent = (&'static str, &'static str, &'static [(&'static str, &'static str)], bool);

/// Requests as clients send them. Over plain HTTP browsers send no Sec-Fetch-*.
const REQUESTS: [Sent; 41] = [
    // HTTPS, and localhost.
    (
        "a link",
        "GET",
        &[
            ("accept", DOCUMENT),
            ("sec-fetch-mode", "navigate"),
            ("sec-fetch-dest", "document"),
            ("sec-fetch-user", "?1"),
            ("upgrade-insecure-requests", "1"),
        ],
        SHOWN,
    ),
    (
        "an iframe",
        "GET",
        &[("accept", DOCUMENT), ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "iframe")],
        SHOWN,
    ),
    (
        "a frame",
        "GET",
        &[("accept", DOCUMENT), ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "frame")],
        SHOWN,
    ),
    (
        "a form by GET",
        "GET",
        &[
            ("accept", DOCUMENT),
            ("sec-fetch-mode", "navigate"),
            ("sec-fetch-dest", "document"),
            ("origin", "null"),
        ],
        SHOWN,
    ),
    (
        "a form by POST",
        "POST",
        &[
            ("accept", DOCUMENT),
            ("sec-fetch-mode", "navigate"),
            ("sec-fetch-dest", "document"),
            ("content-type", "application/x-www-form-urlencoded"),
        ],
        HELD,
    ),
    (
        "a link with download",
        "GET",
        &[("accept", DOCUMENT), ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "empty")],
        HELD,
    ),
    (
        "a download that is resumed",
        "GET",
        &[
            ("accept", DOCUMENT),
            ("sec-fetch-mode", "navigate"),
            ("sec-fetch-dest", "document"),
            ("range", "bytes=4096-"),
            ("if-range", "\"x\""),
        ],
        HELD,
    ),
    (
        "a page's HEAD",
        "HEAD",
        &[("accept", DOCUMENT), ("sec-fetch-mode", "cors"), ("sec-fetch-dest", "empty")],
        HELD,
    ),
    (
        "fetch",
        "GET",
        &[("accept", ANYTHING), ("sec-fetch-mode", "cors"), ("sec-fetch-dest", "empty")],
        HELD,
    ),
    (
        "fetch for HTML",
        "GET",
        &[("accept", "text/html"), ("sec-fetch-mode", "cors"), ("sec-fetch-dest", "empty")],
        HELD,
    ),
    (
        "a worker's fetch of a navigation",
        "GET",
        &[("accept", DOCUMENT), ("sec-fetch-mode", "same-origin"), ("sec-fetch-dest", "empty")],
        HELD,
    ),
    (
        "EventSource",
        "GET",
        &[
            ("accept", "text/event-stream"),
            ("cache-control", "no-cache"),
            ("sec-fetch-mode", "cors"),
            ("sec-fetch-dest", "empty"),
        ],
        HELD,
    ),
    (
        "a WebSocket",
        "GET",
        &[
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("sec-websocket-version", "13"),
            ("sec-fetch-mode", "websocket"),
            ("sec-fetch-dest", "empty"),
        ],
        HELD,
    ),
    (
        "an image",
        "GET",
        &[
            ("accept", "image/avif,image/webp,*/*;q=0.8"),
            ("sec-fetch-mode", "no-cors"),
            ("sec-fetch-dest", "image"),
        ],
        HELD,
    ),
    (
        "a script",
        "GET",
        &[("accept", ANYTHING), ("sec-fetch-mode", "no-cors"), ("sec-fetch-dest", "script")],
        HELD,
    ),
    (
        "a style sheet",
        "GET",
        &[
            ("accept", "text/css,*/*;q=0.1"),
            ("sec-fetch-mode", "no-cors"),
            ("sec-fetch-dest", "style"),
        ],
        HELD,
    ),
    (
        "a video's first part",
        "GET",
        &[
            ("accept", ANYTHING),
            ("range", "bytes=0-"),
            ("sec-fetch-mode", "no-cors"),
            ("sec-fetch-dest", "video"),
        ],
        HELD,
    ),
    (
        "an object",
        "GET",
        &[("accept", DOCUMENT), ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "object")],
        HELD,
    ),
    (
        "an embed",
        "GET",
        &[("accept", DOCUMENT), ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "embed")],
        HELD,
    ),
    (
        "a manifest",
        "GET",
        &[("accept", ANYTHING), ("sec-fetch-mode", "cors"), ("sec-fetch-dest", "manifest")],
        HELD,
    ),
    (
        "a service worker's script",
        "GET",
        &[
            ("accept", ANYTHING),
            ("service-worker", "script"),
            ("sec-fetch-mode", "same-origin"),
            ("sec-fetch-dest", "serviceworker"),
        ],
        HELD,
    ),
    (
        "Turbo Drive",
        "GET",
        &[
            ("accept", "text/html, application/xhtml+xml"),
            ("x-turbo-request-id", "1"),
            ("sec-fetch-mode", "same-origin"),
            ("sec-fetch-dest", "empty"),
        ],
        HELD,
    ),
    (
        "a browser that names no destination",
        "GET",
        &[("accept", DOCUMENT), ("sec-fetch-mode", "navigate")],
        SHOWN,
    ),
    (
        "a worker that names no destination",
        "GET",
        &[("accept", ANYTHING), ("sec-fetch-mode", "navigate")],
        HELD,
    ),
    // Plain HTTP.
    ("a link over HTTP", "GET", &[("accept", DOCUMENT), ("upgrade-insecure-requests", "1")], SHOWN),
    (
        "an iframe over HTTP",
        "GET",
        &[
            ("accept", DOCUMENT),
            ("upgrade-insecure-requests", "1"),
            ("referer", "http://box.example/"),
        ],
        SHOWN,
    ),
    (
        "a form by POST over HTTP",
        "POST",
        &[("accept", DOCUMENT), ("upgrade-insecure-requests", "1")],
        HELD,
    ),
    (
        "a resumed download over HTTP",
        "GET",
        &[("accept", DOCUMENT), ("upgrade-insecure-requests", "1"), ("range", "bytes=4096-")],
        HELD,
    ),
    ("fetch over HTTP", "GET", &[("accept", ANYTHING)], HELD),
    ("fetch for HTML over HTTP", "GET", &[("accept", "text/html")], HELD),
    (
        "htmx over HTTP",
        "GET",
        &[("accept", "text/html, */*"), ("hx-request", "true"), ("hx-boosted", "true")],
        HELD,
    ),
    (
        "jQuery over HTTP",
        "GET",
        &[("accept", "text/html, */*; q=0.01"), ("x-requested-with", "XMLHttpRequest")],
        HELD,
    ),
    (
        "a Turbo frame over HTTP",
        "GET",
        &[("accept", "text/html, application/xhtml+xml"), ("turbo-frame", "messages")],
        HELD,
    ),
    (
        "Turbo Drive over HTTP",
        "GET",
        &[("accept", "text/html, application/xhtml+xml"), ("x-turbo-request-id", "1")],
        HELD,
    ),
    ("pjax over HTTP", "GET", &[("accept", "text/html, */*"), ("x-pjax", "true")], HELD),
    ("Unpoly over HTTP", "GET", &[("accept", "text/html, */*"), ("x-up-version", "3.0")], HELD),
    ("EventSource over HTTP", "GET", &[("accept", "text/event-stream")], HELD),
    // Programs.
    ("curl", "GET", &[("accept", ANYTHING), ("user-agent", "curl/8.5.0")], HELD),
    (
        "git",
        "GET",
        &[("accept", ANYTHING), ("user-agent", "git/2.43.0"), ("git-protocol", "version=2")],
        HELD,
    ),
    ("a program that sends no headers", "GET", &[], HELD),
    ("a WebDAV client", "PROPFIND", &[("accept", ANYTHING), ("depth", "1")], HELD),
];

#[test]
fn only_what_a_browser_shows_as_a_document_is_a_navigation() {
    for (name, method, sent, is_shown) in REQUESTS {
        assert_eq!(is_navigation(&headers(sent), Some(method)), is_shown, "{name}: {sent:?}");
    }
}

#[test]
fn streams_that_scripts_open_anew_are_told_from_all_else() {
    for (name, method, sent, _) in REQUESTS {
        let expected = matches!(name, "EventSource" | "a WebSocket" | "EventSource over HTTP");
        assert_eq!(is_stream(&headers(sent), Some(method)), expected, "{name}");
    }
    for (name, method, sent, expected) in [
        ("a WebSocket whose key a proxy removed", "GET", &[("upgrade", "WebSocket")][..], true),
        ("a WebSocket over HTTP/2", "CONNECT", &[("sec-websocket-version", "13")], true),
        ("HTTP/2 in plain text", "GET", &[("upgrade", "h2c")], false),
        (
            "a script's own reader of events",
            "GET",
            &[("accept", "text/event-stream, */*"), ("sec-fetch-dest", "empty")],
            true,
        ),
        ("a request with a streamed answer", "POST", &[("accept", "text/event-stream")], false),
        (
            "a stream opened as a document",
            "GET",
            &[("accept", "text/event-stream"), ("sec-fetch-dest", "document")],
            false,
        ),
    ] {
        assert_eq!(is_stream(&headers(sent), Some(method)), expected, "{name}");
    }
}

#[test]
fn a_page_in_a_browser_is_told_from_a_program() {
    let firefox = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0";
    for (name, sent, expected) in [
        ("a browser over HTTPS", &[("sec-fetch-dest", "empty"), ("user-agent", "x")][..], true),
        ("a browser's WebSocket", &[("user-agent", firefox), ("origin", "http://a.b")], true),
        ("a browser over HTTP", &[("user-agent", firefox)], true),
        ("an app on a phone", &[("user-agent", "okhttp/4.12.0"), ("origin", "http://a.b")], false),
        ("a program that sends no headers", &[], false),
    ] {
        assert_eq!(is_from_browser(&headers(sent)), expected, "{name}");
    }
}

#[test]
fn a_preflight_is_told_by_all_it_must_carry() {
    let whole = [("origin", "https://x.example"), ("access-control-request-method", "PUT")];
    assert!(is_preflight(&headers(&whole), Some("OPTIONS")));
    for (sent, method) in [
        (&whole[..], Some("GET")),
        (&whole, Some("options")),
        (&whole, None),
        (&whole[..1], Some("OPTIONS")),
        (&whole[1..], Some("OPTIONS")),
    ] {
        assert!(!is_preflight(&headers(sent), method), "{method:?} {sent:?}");
    }
}

#[test]
fn health_checkers_are_ignored_by_name_and_path() {
    let ignore = Ignore {
        user_agents: vec!["uptime-kuma".into()],
        paths: vec!["/health".into()],
        status: http::StatusCode::OK,
    };
    assert!(ignore.covers(&headers(&[("user-agent", "Uptime-Kuma/2.0")]), "/"));
    assert!(ignore.covers(&headers(&[]), "/healthz?x"));
    assert!(!ignore.covers(&headers(&[("user-agent", "Firefox")]), "/"));
}

#[test]
fn a_marked_request_is_one_whatever_its_mark_says() {
    assert_eq!(poll_version(&headers(&[("x-nightporter-poll", "17")])), Some(17));
    assert_eq!(poll_version(&headers(&[("x-nightporter-poll", "x")])), Some(0));
    assert_eq!(poll_version(&headers(&[])), None);
}

#[test]
fn what_a_browser_fetches_in_advance_is_told_apart() {
    for (name, value, expected) in [
        ("sec-purpose", "prefetch", true),
        ("sec-purpose", "prefetch;prerender", true),
        ("sec-purpose", "Prefetch; anonymous-client-ip", true),
        ("purpose", "prefetch", true),
        ("x-moz", "prefetch", true),
        ("sec-purpose", "preview", false),
        ("x-moz", "", false),
    ] {
        assert_eq!(is_prefetch(&headers(&[(name, value)])), expected, "{name}: {value}");
    }
    assert!(!is_prefetch(&headers(&[])));
}
