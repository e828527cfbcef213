//! Which requests pair, and what the answers keep other sites from.

use std::net::SocketAddr;

use super::{Form, HOST, House, ORIGIN, PATH, visit};
use crate::support::boxes::Store;
use crate::support::client::{Connection, Response};

fn assert_protected(response: &Response) {
    let policy = response.text("content-security-policy").expect("a policy");
    for part in ["default-src 'none'", "frame-ancestors 'none'", "form-action 'self'"] {
        assert!(policy.contains(part), "{policy}");
    }
    for (name, value) in [
        ("x-frame-options", "DENY"),
        ("referrer-policy", "no-referrer"),
        ("cache-control", "no-store"),
        ("x-content-type-options", "nosniff"),
        ("vary", "*"),
    ] {
        assert_eq!(response.text(name), Some(value), "{name} {response:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_form_of_another_site_pairs_nothing() {
    let house = House::new(Store::Files).await;
    let server = house.server().await;
    let code = house.invite("phone").await;
    let strangers: [&[(&str, &str)]; 14] = [
        &[],
        &[("Origin", "null")],
        &[("Origin", "https://evil.example")],
        &[("Origin", "https://wiki.box.example")],
        &[("Origin", "https://box.example")],
        &[("Origin", "https://notes.box.example.evil.example")],
        &[("Origin", "https://notes.box.example:8443")],
        &[("Origin", "chrome-extension://notes.box.example")],
        &[("Origin", ORIGIN), ("Origin", "https://evil.example")],
        &[("Sec-Fetch-Site", "cross-site"), ("Origin", ORIGIN)],
        &[("Sec-Fetch-Site", "same-site"), ("Origin", ORIGIN)],
        &[("Sec-Fetch-Site", "none"), ("Origin", ORIGIN)],
        &[("Sec-Fetch-Site", "cross-site"), ("Origin", "null")],
        &[("Sec-Fetch-Site", "same-origin"), ("Origin", "https://evil.example")],
    ];
    for headers in strangers {
        let response = Form { headers: headers.to_vec(), ..Form::new(&code) }.send(&server).await;
        assert_eq!((response.status, response.header("set-cookie")), (403, None), "{headers:?}");
        assert_protected(&response);
    }
    // By GET, in no form at all, and in another one.
    for request in [
        visit("GET", &format!("{PATH}?code={code}&name=x")),
        visit("PUT", PATH).header("Origin", ORIGIN),
        visit("POST", PATH).header("Origin", ORIGIN),
        visit("POST", &format!("{PATH}?code={code}"))
            .header("Origin", ORIGIN)
            .header("Content-Type", "application/x-www-form-urlencoded"),
        visit("POST", PATH).header("Origin", ORIGIN).header("Content-Type", "application/json"),
        visit("POST", PATH).header("Origin", ORIGIN).header("Content-Type", "text/plain"),
    ] {
        let response = server.ask(&request).await;
        assert_eq!(response.header("set-cookie"), None, "{request:?}");
        assert_ne!(response.status, 303, "{request:?}");
    }
    assert_eq!(house.names().await, ["Büro-Handy"]);
    // The page of the same host, as new browsers send its form and as old ones do.
    let own = vec![("Sec-Fetch-Site", "same-origin"), ("Origin", "null")];
    let response = Form { headers: own, ..Form::new(&code) }.send(&server).await;
    assert_eq!(response.status, 303, "{response:?}");
    assert_protected(&response);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_sent_to_another_host() {
    let house = House::new(Store::Files).await;
    let server = house.server().await;
    for to in [
        "//evil.example",
        "///evil.example",
        "/\\evil.example",
        "\\\\evil.example",
        "https://evil.example/",
        "https:evil.example",
        "javascript:alert(1)",
        "/\t/evil.example",
        "/\r\nSet-Cookie: a=b",
        "/.//evil.example",
        "/%2e%2e//evil.example",
        "/.nightporter/pair",
        "evil.example",
        "",
    ] {
        let page = server
            .ask(&visit(
                "GET",
                &format!("{PATH}?to={}", to.replace(['\t', '\r', '\n', ' '], "%09")),
            ))
            .await;
        assert_eq!(page.status, 200);
        assert!(page.body().contains("name=\"to\" value=\"/\""), "{to:?} {page:?}");
        let code = house.invite("phone").await;
        let paired = Form { to, ..Form::new(&code) }.send(&server).await;
        assert_eq!((paired.status, paired.text("location")), (303, Some("/")), "{to:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_is_on_every_host_of_the_box_and_on_no_other() {
    let house = House::new(Store::Files).await;
    let server = house.server().await;
    for (host, status) in [
        (HOST, 200),
        ("wiki.box.example", 200),
        ("box.example", 200),
        ("NOTES.Box.Example:8443", 200),
        ("evilbox.example", 404),
        ("box.example.evil.example", 404),
        ("evil.example", 404),
        ("evil@notes.box.example", 400),
    ] {
        let request =
            visit("GET", PATH).without("X-Forwarded-Host").header("X-Forwarded-Host", host);
        let response = server.ask(&request).await;
        assert_eq!(response.status, status, "{host}");
        if status == 200 {
            assert_protected(&response);
        }
    }
    let twice = visit("GET", PATH).header("X-Forwarded-Host", "wiki.box.example");
    assert_eq!(server.ask(&twice).await.status, 400);
    for path in ["/.nightporter/", "/.nightporter/other", "/.nightporter/pair/", "/.nightporter"] {
        assert_eq!(server.ask(&visit("GET", path)).await.status, 404, "{path}");
    }
    let other = server.ask(&visit("DELETE", PATH)).await;
    assert_eq!((other.status, other.text("allow")), (405, Some("GET, HEAD, POST")));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_stranger_ends_the_connection_of_the_proxy() {
    let house = House::new(Store::Files).await;
    let server = house.server().await;
    let of_host =
        |host| visit("GET", PATH).without("X-Forwarded-Host").header("X-Forwarded-Host", host);
    for (request, status) in [
        (visit("GET", "/.nightporter/x"), 404),
        (of_host("evil.example"), 404),
        (of_host("evil@notes.box.example"), 400),
        (visit("DELETE", PATH), 405),
        (visit("POST", PATH), 403),
        (visit("POST", PATH).header("Origin", ORIGIN), 400),
    ] {
        let mut proxy = server.connect().await;
        for number in 0..250 {
            let response = proxy.ask(&request).await.expect("the connection stays open");
            assert_eq!(response.status, status, "{number} {request:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn over_plain_http_the_page_says_what_it_needs() {
    let house = House::new(Store::Files).await;
    let server = house.server().await;
    let over = |scheme: &str, method: &str| {
        visit(method, PATH).without("X-Forwarded-Proto").header("X-Forwarded-Proto", scheme)
    };
    let needs_https = "Over plain HTTP, a browser cannot be paired.";
    let other_site = "This form came from another page.";
    for (request, status, said) in [
        (over("http", "GET"), 200, Some(needs_https)),
        (over("https", "GET"), 200, None),
        // TLS ends in front of the proxy, or the host is localhost.
        (over("http", "GET").header("Sec-Fetch-Site", "none"), 200, None),
        (over("http", "POST").header("Origin", "null"), 403, Some(needs_https)),
        (over("http", "POST"), 403, Some(needs_https)),
        (over("http", "POST").header("Origin", "http://evil.example"), 403, Some(other_site)),
        (over("http", "POST").header("Sec-Fetch-Site", "cross-site"), 403, Some(other_site)),
        (over("https", "POST").header("Origin", "null"), 403, Some(other_site)),
    ] {
        let response = server.ask(&request).await;
        assert_eq!(response.status, status, "{request:?}");
        for text in [needs_https, other_site] {
            assert_eq!(response.body().contains(text), said == Some(text), "{request:?}");
        }
        assert!(response.body().contains("<form"), "{response:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_form_has_bounds() {
    let house = House::new(Store::Files).await;
    let server = house.server().await;
    let long = "x".repeat(3_000);
    for form in [Form::new(&long), Form { name: &long, ..Form::new("AAAA") }] {
        let response = form.send(&server).await;
        assert_eq!((response.status, response.header("set-cookie")), (400, None));
    }
    let code = house.invite("phone").await;
    let name = "ü".repeat(500);
    assert_eq!(Form { name: &name, ..Form::new(&code) }.send(&server).await.status, 303);
    assert!(house.names().await.contains(&"ü".repeat(64)));
}

/// Sends a form of which only the first byte arrives; returns the status.
async fn send_slowly(gate: SocketAddr, from: &str) -> u16 {
    let request = visit("POST", PATH)
        .without("X-Forwarded-For")
        .header("X-Forwarded-For", from)
        .header("Origin", ORIGIN)
        .header("Content-Type", "application/x-www-form-urlencoded")
        .header("Content-Length", "5000");
    let bytes = [&request.bytes()[..], b"c"].concat();
    let mut connection = Connection::open(gate).await.expect("the gate listens");
    connection.ask_bytes(&bytes).await.expect("an answer").status
}

#[tokio::test(flavor = "multi_thread")]
async fn forms_that_are_sent_slowly_make_room_for_others() {
    let house = House::new(Store::Files).await;
    let server = house.server().await;
    // Those that are awaited to the end get 400. None is displaced if they come too slowly.
    let mut displaced = 0;
    for _ in 0..20 {
        let slow = (0..100).map(|_| tokio::spawn(send_slowly(server.gate, "198.51.100.7")));
        let slow: Vec<_> = slow.collect();
        let code = house.invite("phone").await;
        let paired = Form::new(&code).send(&server).await;
        assert_eq!(paired.status, 303, "{paired:?}");
        for answer in slow {
            let status = answer.await.expect("no panic");
            assert!([400, 503].contains(&status), "{status}");
            displaced += u32::from(status == 503);
        }
        if displaced > 0 {
            return;
        }
    }
    panic!("a hundred forms of one address were awaited at a time");
}
