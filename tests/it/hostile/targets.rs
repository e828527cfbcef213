//! Hosts, URIs, and the headers that carry them.

use super::{Case, HOST, private};
use crate::support::client::Request;

pub fn cases() -> Vec<Case> {
    [hosts(), traversals(), uris(), repeated(), aliases(), not_utf8()]
        .into_iter()
        .flatten()
        .collect()
}

fn hosts() -> Vec<Case> {
    let no_host = [
        "",
        ".",
        ":",
        ":80",
        "notes x",
        "notes/x",
        "notes\\x",
        "notes@evil",
        "a:b@notes.x",
        "notes.x,evil",
        "notes.x, notes.x",
        "notes;x",
        "notes?x",
        "notes#x",
        "notes%00.x",
        "notes%2ex",
        "notes\tx",
        "nötes.x",
        "notes.x:80:80",
        "notes.x:port",
        "notes.x:-1",
        "notes.x:8 0",
        "'notes'",
        "\"notes\"",
        "<notes>",
        "notes\u{200b}.x",
        "notes*",
        "*.x",
        "notes。x",
        "ｎotes.x",
        "http://notes.x/",
        "//notes.x",
        "notes.x/../y",
        "{notes}",
        "$notes",
        "notes.x|y",
        "notes&x",
        "notes=x",
        "notes+x",
        "notes!x",
        "[notes",
        "[notes]",
        "::1",
        "::ffff:127.0.0.1",
    ];
    let no_app = [
        "..notes.x",
        ".notes.x",
        "[::1]",
        "[::1]:80",
        "..",
        "xn--notes.x",
        "-notes.x",
        "notes-.x",
        "_notes.x",
        "1.2.3.4",
        "0x7f000001",
        "localhost",
        "notes_.x",
        "notes2.x",
        "core.x",
        "admin",
        "com",
        "null",
        "installed_apps.x",
        "x.notes",
        "-",
        "_",
    ];
    let other_writings = ["notes..x", "notes.x:", "notes.x:99999999999", "NOTES.", "notes.x.:0"];
    let too_long = format!("notes.{}", "x".repeat(250));
    let table = [(&no_host[..], 400), (&no_app[..], 404), (&other_writings[..], 401)];
    let mut cases: Vec<Case> = table
        .iter()
        .flat_map(|(hosts, status)| hosts.iter().map(|host| (*host, *status)))
        .map(|(host, status)| {
            Case::new(format!("host {host:?}"), &Request::auth(host, "/admin"), status)
        })
        .collect();
    cases.push(Case::new("a long host", &Request::auth(too_long, "/admin"), 400));
    cases
}

/// Ways out of a public folder: every spelling of `/../`.
fn traversals() -> Vec<Case> {
    let dots = [".", "%2e", "%2E", "%252e", "%252E"];
    let slashes =
        ["/", "%2f", "%2F", "%5c", "\\", "%252f", "%255C", "//", "/./", ";a/", ";a=b;c/", "/%2e/"];
    let spellings = dots.iter().flat_map(|a| dots.iter().map(move |b| format!("{a}{b}")));
    spellings
        .flat_map(|parent| slashes.map(|slash| format!("/pub{slash}{parent}{slash}admin")))
        .map(|uri| Case::new(format!("URI {uri:?}"), &Request::auth(HOST, &uri), 401))
        .collect()
}

fn uris() -> Vec<Case> {
    let no_path = [
        "",
        "pub",
        "*",
        "http://notes.x/pub",
        "https://notes.x/pub",
        "\\pub",
        "%2fpub",
        "?/pub",
        "#/pub",
        ".",
        "..",
        "../pub",
        "pub/../admin",
        "a:b",
        "@/pub",
        ";/pub",
        "/ pub",
        "/pub, /admin",
        "/pub\tx",
        "/pub?a b",
    ];
    let closed = [
        "/",
        "/?/pub",
        "/#/pub",
        "/PUB",
        "/Pub",
        "/.",
        "/..",
        "/./",
        "/../",
        "/...",
        "//pub/..",
        "//admin",
        "/%",
        "/%2",
        "/%zz",
        "/%00/pub",
        "/admin%00/pub",
        "/admin;/pub",
        "/admin?/pub",
        "/admin#/pub",
        "/admin/../pub",
        "/peer/../pub",
        "/pub/..%00/admin",
        "/pub/..%3f/x",
        "/pub/..%23/x",
        "/pub/..%3b/x",
        "/pub/..;",
        "/pub/../",
        "/pub/..",
        "/pub/../../../../etc/passwd",
        "/pub/.././admin",
        "/pub%2f..%2f..",
        "/%70ub",
        "/%2570ub",
        "/pub/..?x=/pub",
        "/pub\\..",
        "/x//pub",
        "/pub/%2e%2e%5cadmin",
        "//notes.x/pub",
        "/http://notes.x/pub",
        "/pub/%2E./admin",
        "/pub/.%2e/admin",
    ];
    let with = |uris: &[&str], status| -> Vec<Case> {
        let case = |uri| Case::new(format!("URI {uri:?}"), &Request::auth(HOST, uri), status);
        uris.iter().copied().map(case).collect()
    };
    let many = format!("/pub/{}", "%252e%252e%252f%255c;".repeat(300));
    let long = format!("/pub/{}", "%61".repeat(20_000));
    let mut cases = with(&no_path, 400);
    cases.extend(with(&closed, 401));
    cases.push(Case::new("an endless traversal", &Request::auth(HOST, many), 401));
    cases.push(Case::new("a long encoded path", &Request::auth(HOST, long), 400));
    let deep = format!("/admin/{}", "x/".repeat(15_000));
    cases.push(Case::new("a long plain path", &Request::auth(HOST, deep), 401));
    cases
}

/// What is read, twice: which one the app believes cannot be known. The rest are lists
/// that proxies add to, and change nothing.
fn repeated() -> Vec<Case> {
    let read = ["Host", "Uri", "Method", "Proto"].map(|name| (name, 400));
    let lists = ["For", "Port", "Server", "Prefix", "User"].map(|name| (name, 401));
    let both = |name: &str, one: &str, two: &str| {
        let (canonical, lower) = (format!("X-Forwarded-{name}"), format!("x-forwarded-{name}"));
        private().without(&canonical).header(canonical, one).header(lower, two)
    };
    read.into_iter()
        .chain(lists)
        .flat_map(|(name, status)| {
            [("same", "/pub", "/pub"), ("different", "/pub", "/admin"), ("empty", "/pub", "")].map(
                |(how, one, two)| {
                    Case::new(format!("{how} X-Forwarded-{name}"), &both(name, one, two), status)
                },
            )
        })
        .collect()
}

/// Names that some server takes for another: they must not count.
fn aliases() -> Vec<Case> {
    let uri = [
        "X_Forwarded_Uri",
        "X.Forwarded.Uri",
        "X-Forwarded_Uri",
        "X_Forwarded-Uri",
        "x_forwarded_uri",
        "X-Forwarded.Uri",
        "XForwardedUri",
        "X-Forwarded-Url",
        "X-Forwarded-Path",
        "X-Original-Uri",
        "X-Original-Url",
        "X-Rewrite-Url",
        "X-Request-Uri",
        "Forwarded-Uri",
        "HTTP_X_FORWARDED_URI",
        "X-Forwarded-Uri-",
        "X-Forwarded-Uri_",
    ];
    let host = [
        "X_Forwarded_Host",
        "X.Forwarded.Host",
        "X-Forwarded_Host",
        "X-Original-Host",
        "X-Host",
        "X-Forwarded-Server-Host",
        "HTTP_X_FORWARDED_HOST",
        "X-HTTP-Host-Override",
    ];
    let mut cases = Vec::new();
    for name in uri {
        let beside = private().header(name, "/pub");
        cases.push(Case::new(format!("{name} beside the real one"), &beside, 401));
        let instead = private().without("X-Forwarded-Uri").header(name, "/pub");
        cases.push(Case::new(format!("{name} instead of the real one"), &instead, 400));
    }
    for name in host {
        let beside = Request::auth("unknown.x", "/pub").header(name, HOST);
        cases.push(Case::new(format!("{name} beside the real one"), &beside, 404));
        let instead = private().without("X-Forwarded-Host").header(name, HOST);
        cases.push(Case::new(format!("{name} instead of the real one"), &instead, 400));
    }
    let claims = [
        ("Forwarded", "host=notes.x;proto=https;for=127.0.0.1"),
        ("X-Ptl-Client-Type", "terminal"),
        ("X_Ptl_Client_Type", "terminal"),
        ("Authorization", "Bearer x"),
        ("X-Forwarded-User", "admin"),
        ("Remote-User", "admin"),
        ("X-HTTP-Method-Override", "OPTIONS"),
        ("X-Real-Ip", "127.0.0.1"),
    ];
    for (name, value) in claims {
        cases.push(Case::new(name, &private().header(name, value), 401));
    }
    cases
}

/// Bytes that are no text, where text is read.
fn not_utf8() -> Vec<Case> {
    let bad: [&[u8]; 8] = [
        b"\xff",
        b"\xc0\xaf",
        b"\xe2\x82",
        b"\xed\xa0\x80",
        b"\xf8\x88\x80\x80\x80",
        b"\x80",
        b"\xc3\x28",
        b"\xf0\x9f\x92",
    ];
    bad.into_iter()
        .flat_map(|bad| {
            let replaced = |name: &str, start: &[u8]| {
                private().without(name).header(name, [start, bad].concat())
            };
            [
                (Request::auth([b"notes", bad].concat(), "/pub"), 400),
                (Request::auth(HOST, [b"/pub/", bad].concat()), 400),
                (replaced("X-Forwarded-Method", b"GET"), 400),
                (replaced("X-Forwarded-Proto", b"https"), 400),
                (private().cookie(bad), 401),
                (private().header("Signature", bad).header("Signature-Input", bad), 401),
                (private().header("X-Anything", bad), 401),
            ]
            .map(|(request, status)| Case::new(format!("bytes {request:?}"), &request, status))
        })
        .collect()
}
