//! Where a visitor is sent after pairing: to a path of the same host, and nowhere else.

use std::borrow::Cow;

use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};

use super::{PATH, PREFIX};

/// The longest path that is kept.
const MAX_LEN: usize = 2048;

/// What would end a value of a query, or an attribute.
const VALUE: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'%')
    .add(b'&')
    .add(b'+')
    .add(b'<')
    .add(b'>')
    .add(b'\'');

/// Returns the path and query that the visitor wanted to see, if it can only be one of the same
/// host, whatever a browser makes of it; else the root.
///
/// Browsers take a backslash for a slash, leave out tabs and ends of lines, and take two slashes
/// at the beginning for the begin of a host (URL Standard, section 4.4), also after they have
/// removed dot segments, which some of them write with escapes.
pub(super) fn destination(to: &str) -> Cow<'static, str> {
    let path = to.split(['?', '#']).next().unwrap_or_default();
    let is_plain = |byte: u8| byte.is_ascii_graphic() && byte != b'\\';
    let is_kept = to.starts_with('/')
        && to.len() <= MAX_LEN
        && to.bytes().all(is_plain)
        && !path.starts_with("//")
        && !(path.contains("//") && path.split('/').any(is_dots))
        // It would lead back here.
        && !path.starts_with(PREFIX);
    if is_kept { Cow::Owned(to.to_owned()) } else { Cow::Borrowed("/") }
}

fn is_dots(segment: &str) -> bool {
    matches!(&*percent_decode_str(segment).decode_utf8_lossy(), "." | "..")
}

/// Returns the address of the pairing page for a visitor who wanted to see this path and query.
pub(crate) fn link(uri: Option<&str>) -> String {
    match uri.map(destination) {
        None | Some(Cow::Borrowed(_)) => PATH.to_owned(),
        Some(Cow::Owned(to)) => format!("{PATH}?to={}", utf8_percent_encode(&to, VALUE)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_path_of_the_same_host_is_kept() {
        for to in [
            "/",
            "/a",
            "/a/b?c=d&e=%20#f",
            "/a?next=https://b.example//c",
            "/%2F%2Fevil.example",
            "/@evil.example",
            "/a//b",
            "/.well-known/x",
            "/..a/b",
            "/:443/",
        ] {
            assert_eq!(destination(to), to);
        }
    }

    #[test]
    fn nothing_leads_to_another_host() {
        for to in [
            "",
            " ",
            "a",
            "//evil.example",
            "//evil.example/a",
            "///evil.example",
            "////evil.example",
            "/\\evil.example",
            "\\/evil.example",
            "\\\\evil.example",
            "/\\/evil.example",
            "//\\evil.example",
            "/a\\..\\evil",
            "https://evil.example",
            "http://evil.example",
            "https:evil.example",
            "https:/evil.example",
            "https:///evil.example",
            "HTTPS://evil.example",
            "javascript:alert(1)",
            "data:text/html,x",
            "mailto:a@b",
            "evil.example",
            ".evil.example",
            "@evil.example",
            ":@evil.example",
            "?//evil.example",
            "#//evil.example",
            "/\t/evil.example",
            "\t//evil.example",
            "/\n/evil.example",
            "/\r\n/evil.example",
            "/a\r\nSet-Cookie: b",
            " //evil.example",
            "/ /evil.example",
            "/\u{0}/evil.example",
            "/\u{b}/evil.example",
            "/.//evil.example",
            "/..//evil.example",
            "/././/evil.example",
            "/%2e//evil.example",
            "/%2E%2e//evil.example",
            "/a/..//evil.example",
            "/.%2e//evil.example",
            "\u{2044}\u{2044}evil.example",
            "/\u{ff0f}evil.example",
            "/\u{3002}evil.example",
            "\u{feff}//evil.example",
            "/.nightporter/pair",
            "/.nightporter/pair?to=/a",
        ] {
            assert_eq!(destination(to), "/", "{to:?}");
        }
        assert_eq!(destination(&format!("/{}", "a".repeat(MAX_LEN))), "/");
    }

    #[test]
    fn a_link_keeps_where_the_visitor_wanted_to_go() {
        assert_eq!(
            link(Some("/a?b=c&d=%20+e#f")),
            "/.nightporter/pair?to=/a?b=c%26d=%2520%2Be%23f"
        );
        assert_eq!(link(Some("//evil.example")), "/.nightporter/pair");
        assert_eq!(link(None), "/.nightporter/pair");
    }

    proptest! {
        #[test]
        fn a_browser_stays_on_the_host(to in "[/\\\\.%2eEfF@:?#a \t]{0,12}(evil\\.example)?") {
            let to = destination(&to);
            prop_assert!(to.starts_with('/') && !to.starts_with("//"));
            let resolved = without_dots(&to);
            prop_assert!(!resolved.starts_with("//"), "{} leads to {}", to, resolved);
        }
    }

    /// The path that a browser makes of a path: dot segments removed.
    fn without_dots(to: &str) -> String {
        let path = to.split(['?', '#']).next().unwrap_or_default();
        let mut kept: Vec<&str> = Vec::new();
        for segment in path.split('/').skip(1) {
            match &*percent_decode_str(segment).decode_utf8_lossy() {
                "." => {}
                ".." => drop(kept.pop()),
                _ => kept.push(segment),
            }
        }
        format!("/{}", kept.join("/"))
    }
}
