//! Bytes that are hardly HTTP, and too many of them.

use super::{Case, HOST, private};
use crate::support::client::Request;

pub fn cases() -> Vec<Case> {
    [sizes(), broken()].into_iter().flatten().collect()
}

/// What a head may not be: 431 (RFC 6585 section 5), or an answer as ever.
fn sizes() -> Vec<Case> {
    let big = "x".repeat(100 * 1024);
    let many = |count: usize| {
        private().headers((0..count).map(|n| (format!("X-Header-{n}"), "x".to_owned())))
    };
    let several = (0..10).map(|n| (format!("X-Big-{n}"), "x".repeat(10 * 1024)));
    vec![
        Case::new("100 KiB of cookie", &private().cookie(&big), 431),
        Case::new("100 KiB of host", &Request::auth(&big, "/pub"), 431),
        Case::new("100 KiB of URI", &Request::auth(HOST, format!("/{big}")), 431),
        Case::new("100 KiB of signature", &private().header("Signature", &big), 431),
        Case::new("100 KiB of anything", &private().header("X-Anything", &big), 431),
        Case::new("100 KiB of name", &private().header(&big, "x"), 431),
        Case::new("100 KiB in ten headers", &private().headers(several), 431),
        Case::new("1,000 headers", &many(1000), 431),
        Case::new("50 headers", &many(50), 401),
        Case::new("64 KiB of cookie", &private().cookie("x".repeat(64 * 1024)), 401),
        Case::raw("100 KiB of target", format!("GET /{big} HTTP/1.1\r\nHost: x\r\n\r\n"), 431),
        Case::raw("70 KiB of target", format!("GET /{} HTTP/1.1\r\n\r\n", &big[..70 << 10]), 414),
        Case::raw("100 KiB of method", format!("{big} / HTTP/1.1\r\nHost: x\r\n\r\n"), 431),
    ]
}

fn broken() -> Vec<Case> {
    let forwarded = "X-Forwarded-Host: notes.x\r\nX-Forwarded-Uri: /pub\r\n";
    let line = "GET /internal/auth HTTP/1.1\r\nHost: x\r\n";
    let with = |header: &str| format!("{line}{forwarded}{header}\r\n\r\n");
    [
        ("no colon", with("Cookie"), 400),
        ("no name", with(": x"), 400),
        ("a space before the colon", with("Cookie : x"), 400),
        ("a space in the name", with("Coo kie: x"), 400),
        ("a folded line", with("X-A: b\r\n c"), 400),
        ("a NUL in a value", with("X-A: \0"), 400),
        ("a DEL in a value", with("X-A: \x7f"), 400),
        ("a bell in a value", with("X-A: \x07"), 400),
        ("a lone CR", with("X-A: b\rX-B: c"), 400),
        ("a NUL in a name", with("X\0A: b"), 400),
        ("a name that is no ASCII", with("X-Ä: b"), 400),
        ("a negative length", with("Content-Length: -1"), 400),
        ("a length that is no number", with("Content-Length: x"), 400),
        ("a huge length", with("Content-Length: 99999999999999999999"), 400),
        ("two lengths", with("Content-Length: 1\r\nContent-Length: 2"), 400),
        ("an unknown coding", with("Transfer-Encoding: x"), 400),
        ("chunked twice hidden", with("Transfer-Encoding: chunked, x"), 400),
        ("a host with a NUL", format!("{line}X-Forwarded-Host: notes\0\r\n\r\n"), 400),
        ("no version", "GET /internal/auth\r\n\r\n".into(), 400),
        ("a version to come", line.replace("1.1", "9.9") + forwarded + "\r\n", 400),
        ("no target", "GET HTTP/1.1\r\nHost: x\r\n\r\n".into(), 400),
        ("an odd method", format!("G(T {}\r\n", &line[4..]), 400),
        ("TLS at a plain port", "\x16\x03\x01\x02\0\x01\0\x01\u{fc}\x03\x03\r\n\r\n".into(), 400),
        ("no words", "\r\n\r\n\0\0\0\0\r\n\r\n".into(), 400),
        ("another protocol", "SSH-2.0-OpenSSH_9.2\r\n\r\n".into(), 400),
        ("an encoded endpoint", "GET /internal%2fauth HTTP/1.1\r\nHost: x\r\n\r\n".into(), 404),
        ("a doubled slash", "GET //internal/auth HTTP/1.1\r\nHost: x\r\n\r\n".into(), 404),
        ("dots", "GET /x/../internal/auth HTTP/1.1\r\nHost: x\r\n\r\n".into(), 404),
        (
            "a page's status",
            "GET /internal/app_error/../auth HTTP/1.1\r\nHost: x\r\n\r\n".into(),
            404,
        ),
        ("metrics at the gate", "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n".into(), 404),
        ("nothing forwarded", format!("{line}\r\n"), 400),
    ]
    .map(|(what, bytes, status)| Case::raw(what, bytes, status))
    .into()
}
