//! What a record keeps of a request's headers.
//!
//! The gate refuses headers that are repeated or invalid; here they are read as far as they
//! can be, since a refused request is what one wants to see. What is kept is bounded in
//! length, has no control characters, and neither a query nor a user's name and password:
//! those are credentials.

use http::HeaderMap;

/// The most bytes of a host and of a path that are kept.
const MAX_HOST: usize = 256;
const MAX_PATH: usize = 1024;

pub(super) fn host(headers: &HeaderMap) -> Option<Box<str>> {
    let host = headers.get("x-forwarded-host")?.as_bytes();
    let user_ends = host.iter().rposition(|byte| *byte == b'@').map_or(0, |at| at + 1);
    clean(&host[user_ends..], MAX_HOST)
}

/// Returns the path of the request, without its query.
pub(super) fn path(headers: &HeaderMap) -> Option<Box<str>> {
    let uri = headers.get("x-forwarded-uri")?.as_bytes();
    // Before the path of an absolute URI (RFC 9112 section 3.2.2) is its authority, with the
    // user.
    let authority = uri.windows(3).position(|text| text == b"://").map_or(0, |at| at + 3);
    let uri = if uri.starts_with(b"/") { uri } else { &uri[authority..] };
    let path = &uri[uri.iter().position(|byte| *byte == b'/')?..];
    let ends = path.iter().position(|byte| matches!(byte, b'?' | b'#')).unwrap_or(path.len());
    clean(&path[..ends], MAX_PATH)
}

/// Returns text of at most `max` bytes without control characters; `None` if none is left.
fn clean(text: &[u8], max: usize) -> Option<Box<str>> {
    // What is cut here is longer than what is kept, except for control characters.
    let text = String::from_utf8_lossy(&text[..text.len().min(max)]);
    let mut kept = String::with_capacity(text.len());
    for character in text.chars().filter(|character| !character.is_control()) {
        // A replaced byte takes three.
        if kept.len() + character.len_utf8() > max {
            break;
        }
        kept.push(character);
    }
    (!kept.is_empty()).then(|| kept.into_boxed_str())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn with(name: &'static str, value: impl AsRef<[u8]>) -> HeaderMap {
        let value = HeaderValue::from_bytes(value.as_ref()).expect("a header's value");
        HeaderMap::from_iter([(http::HeaderName::from_static(name), value)])
    }

    #[test]
    fn a_path_has_neither_query_nor_user() {
        for (uri, expected) in [
            ("/notes/1?token=secret", Some("/notes/1")),
            ("/notes#token=secret", Some("/notes")),
            ("http://paul:secret@notes.box.example/a?b", Some("/a")),
            ("http://paul:secret@notes.box.example", None),
            ("http://paul:secret@notes.box.example?token=secret", None),
            ("paul:secret@notes.box.example/a", Some("/a")),
            ("/a://b/c", Some("/a://b/c")),
            ("?token=secret", None),
            ("*", None),
            ("", None),
        ] {
            assert_eq!(path(&with("x-forwarded-uri", uri)).as_deref(), expected, "{uri}");
        }
    }

    #[test]
    fn a_host_has_no_user() {
        let host = |text: &str| host(&with("x-forwarded-host", text));
        assert_eq!(host("notes.box.example:8443").as_deref(), Some("notes.box.example:8443"));
        assert_eq!(host("paul:secret@notes.box.example").as_deref(), Some("notes.box.example"));
        let long = format!("{}:secret@notes", "u".repeat(5000));
        assert_eq!(host(&long).as_deref(), Some("notes"));
        assert_eq!(host("paul:secret@"), None);
    }

    #[test]
    fn text_is_cut_at_a_character_and_has_no_control_characters() {
        let path = |bytes: &[u8]| path(&with("x-forwarded-uri", bytes)).expect("a path");
        let long = format!("/{}", "ü".repeat(5000));
        let kept = path(long.as_bytes());
        assert!(kept.len() <= MAX_PATH && kept.len() > MAX_PATH - 6, "{}", kept.len());
        assert!(long.starts_with(kept.trim_end_matches('\u{fffd}')));
        // U+009B begins a terminal's control sequence.
        assert_eq!(&*path("/a\u{9b}31mb\tc".as_bytes()), "/a31mbc");
        assert_eq!(&*path(b"/a\xffb"), "/a\u{fffd}b");
        let invalid = [b"/".as_slice(), &[0xff; 2000]].concat();
        assert!(path(&invalid).len() <= MAX_PATH);
        let host = host(&with("x-forwarded-host", "h".repeat(9000))).expect("a host");
        assert_eq!(host.len(), MAX_HOST);
    }
}
