//! The cookies that reach an app: the client's, without the terminal's token
//! (`gate.hide_token`).
//!
//! A grant carries them as its `Cookie` header, which the proxy puts in place of the client's.
//! If no cookie is left, the grant has no such header, and the app gets none.
//!
//! Apps read cookies in different ways: some ignore letter case, quotes or escapes in a name,
//! or take a comma for a separator. So a cookie is withheld if any of them could take it, or a
//! part of it, for the token, and if it contains a token that another cookie has.

use std::borrow::Cow;

use http::header::{COOKIE, HeaderMap, HeaderValue};
use memchr::{memchr, memmem};
use percent_encoding::percent_decode;

use super::credentials::terminal::COOKIE_NAME;

/// The shortest value of the cookie that may be a token: three parts, one of them a SHA-256.
const SHORTEST_TOKEN: usize = 45;

/// The most cookies of the token's name whose values are looked for in the others, so that the
/// work is linear in the length of the headers. Browsers send one, or a few of several paths.
const MAX_TOKENS: usize = 8;

/// Returns the value of the `Cookie` header for the app; `None` if no cookie is left, or if more
/// than [`MAX_TOKENS`] have the token's name.
///
/// HTTP/2 may split cookies among several lines; they are one line afterwards (RFC 9113
/// section 8.2.3).
pub(super) fn without_token(headers: &HeaderMap) -> Option<HeaderValue> {
    let mut lines = headers.get_all(COOKIE).iter();
    let first = lines.next()?;
    let is_only_line = lines.next().is_none();
    if is_only_line && is_token_alone(first.as_bytes()) {
        return None;
    }
    let pairs = || {
        let lines = headers.get_all(COOKIE).iter();
        let pairs = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b';'));
        pairs.map(<[u8]>::trim_ascii).filter(|pair| !pair.is_empty())
    };
    let tokens = pairs().filter_map(token_of).take(MAX_TOKENS + 1).map(memmem::Finder::new);
    let tokens: Vec<_> = tokens.collect();
    if tokens.len() > MAX_TOKENS {
        return None;
    }
    let is_kept = |pair: &&[u8]| {
        let contains = |token: &memmem::Finder<'_>| token.find(pair).is_some();
        !names_token(pair) && !tokens.iter().any(contains)
    };
    if is_only_line && pairs().all(|pair| is_kept(&pair)) {
        return Some(first.clone());
    }
    let mut kept = Vec::new();
    for pair in pairs().filter(is_kept) {
        if !kept.is_empty() {
            kept.extend_from_slice(b"; ");
        }
        kept.extend_from_slice(pair);
    }
    // What was valid in parts is valid as a whole.
    let value = HeaderValue::from_bytes(&kept).ok().filter(|value| !value.is_empty());
    value.map(|mut value| {
        value.set_sensitive(true);
        value
    })
}

/// Returns whether a line is the cookie of the token and nothing else, as most are.
fn is_token_alone(line: &[u8]) -> bool {
    let value = line.strip_prefix(COOKIE_NAME).and_then(|rest| rest.strip_prefix(b"="));
    value.is_some_and(|value| memchr(b';', value).is_none())
}

/// Returns the token, or what might be one, of the cookie that is named after it.
fn token_of(pair: &[u8]) -> Option<&[u8]> {
    let (name, value) = pair.split_at(memchr(b'=', pair)?);
    let value = bare(value);
    let value = value.strip_prefix(b"Bearer ").unwrap_or(value);
    (is_name(name) && value.len() >= SHORTEST_TOKEN).then_some(value)
}

/// Returns whether some reader of cookies may find the token's name in this one.
fn names_token(pair: &[u8]) -> bool {
    let decoded = Cow::from(percent_decode(pair));
    let name = memchr(b'=', &decoded).map_or(&*decoded, |end| &decoded[..end]);
    is_name(name) || holds_name(&decoded)
}

fn is_name(name: &[u8]) -> bool {
    bare(name).eq_ignore_ascii_case(COOKIE_NAME)
}

/// Returns whether the name and a `=` follow anything that may separate cookies.
fn holds_name(pair: &[u8]) -> bool {
    let length = COOKIE_NAME.len();
    let mut rest = pair;
    // An `=` follows the name, and there are fewer of them than there are letters.
    while let Some(equals) = memchr(b'=', rest) {
        let before = &pair[..pair.len() - rest.len() + equals];
        let name = before.trim_ascii_end();
        let name = name.strip_suffix(b"\"").unwrap_or(name);
        if let Some((front, name)) = name.len().checked_sub(length).map(|at| name.split_at(at))
            && name.eq_ignore_ascii_case(COOKIE_NAME)
            && front.last().is_none_or(|byte| separates(*byte))
        {
            return true;
        }
        rest = &rest[equals + 1..];
    }
    false
}

/// Whether some reader may take this for the end of one cookie and the begin of another.
fn separates(byte: u8) -> bool {
    matches!(byte, b',' | b';' | b'"' | b'\'' | b'$' | b'=') || byte <= b' ' || byte >= 0x7f
}

/// Returns text without what surrounds it in some spellings, such as spaces and quotes.
fn bare(text: &[u8]) -> &[u8] {
    let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let begin = text.iter().position(is_part).unwrap_or(text.len());
    let end = text.iter().rposition(is_part).map_or(begin, |last| last + 1);
    &text[begin..end]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::credentials::terminal;
    use super::*;

    const TOKEN: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiJsYXB0b3AiLCJpYXQiOjF9\
                         .c2lnbmF0dXJlLW9mLXRoaXJ0eS10d28tYnl0ZXMtMDEyMw";

    fn lines(lines: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for line in lines {
            let line = line.replace("TOKEN", TOKEN);
            headers.append(COOKIE, HeaderValue::from_bytes(line.as_bytes()).expect("a value"));
        }
        headers
    }

    fn left(headers: &HeaderMap) -> Option<String> {
        without_token(headers).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
    }

    #[test]
    fn other_cookies_stay() {
        for (cookies, expected) in [
            (&[][..], None),
            (&["a=b"], Some("a=b")),
            (&["a=b;c=d ; e"], Some("a=b;c=d ; e")),
            (&["a=b", "c=d"], Some("a=b; c=d")),
            (&["authorization=TOKEN"], None),
            (&["authorization=TOKEN; a=b"], Some("a=b")),
            (&["a=b; authorization=TOKEN; c=\"d\""], Some("a=b; c=\"d\"")),
            (&["a=b", "authorization=TOKEN", "c=d"], Some("a=b; c=d")),
            (&["authorization=TOKEN", "authorization=TOKEN"], None),
            (&["authorization=x; a=xx"], Some("a=xx")),
            (&["authorization=; a="], Some("a=")),
            (&["; ;authorization=TOKEN;"], None),
            (&["a=\u{e9}; authorization=TOKEN"], Some("a=\u{e9}")),
            (&["x-authorization=1"], Some("x-authorization=1")),
            (
                &["authorization_state=1; my_authorization=2"],
                Some("authorization_state=1; my_authorization=2"),
            ),
            (
                &["next=/a?authorization=1&b; authorization=TOKEN"],
                Some("next=/a?authorization=1&b"),
            ),
            (&["next=%2Fa%3Fauthorization%3D1"], Some("next=%2Fa%3Fauthorization%3D1")),
        ] {
            assert_eq!(left(&lines(cookies)).as_deref(), expected, "{cookies:?}");
        }
    }

    #[test]
    fn no_spelling_of_the_token_stays() {
        for cookie in [
            "authorization=TOKEN",
            "Authorization=TOKEN",
            "AUTHORIZATION=TOKEN",
            "authorization =TOKEN",
            "authorization\t=\tTOKEN",
            "authorization=\"TOKEN\"",
            "authorization=Bearer TOKEN",
            "authorization=\"Bearer TOKEN\"",
            "\"authorization\"=TOKEN",
            "'authorization'=TOKEN",
            "$authorization=TOKEN",
            "%61uthorization=TOKEN",
            "authoriz%61tion=TOKEN",
            "authorization%3DTOKEN",
            "authorization%20=TOKEN",
            "=authorization=TOKEN",
            "x=y, authorization=TOKEN",
            "x=y,Authorization=TOKEN",
            "x=\"y, authorization=TOKEN\"",
            "x=y authorization=TOKEN",
            "x=\"authorization=TOKEN\"",
            "x=y%3B authorization=TOKEN",
            "$Version=1, authorization=TOKEN",
            "x, authorization = \"TOKEN\"",
            "authorization\u{a0}=TOKEN",
            "\u{a0}authorization=TOKEN",
            "authorization",
        ] {
            for text in [cookie.to_owned(), format!("a=b; {cookie}"), format!("{cookie};a=b")] {
                let rest = left(&lines(&[&text])).unwrap_or_default();
                assert!(matches!(&*rest, "" | "a=b"), "{text}: {rest}");
            }
        }
        let copied = ["authorization=TOKEN; copy=TOKEN; url=/?t=TOKEN; a=b"];
        assert_eq!(left(&lines(&copied)).as_deref(), Some("a=b"));
        let quoted = ["x=\"y; authorization=TOKEN; z\""];
        assert_eq!(left(&lines(&quoted)).as_deref(), Some("x=\"y; z\""));
    }

    #[test]
    fn what_is_left_is_not_printed() {
        let value = without_token(&lines(&["authorization=TOKEN; session=secret"]));
        assert!(!format!("{value:?}").contains("secret"), "{value:?}");
    }

    #[test]
    fn who_sends_many_tokens_costs_no_more_and_gets_no_cookie_through() {
        let many = |count: usize| {
            let tokens = (0..count).map(|number| format!("authorization=TOKEN{number}"));
            let line = tokens.chain(["theme=dark".to_owned()]).collect::<Vec<_>>().join("; ");
            left(&lines(&[&line]))
        };
        assert_eq!(many(MAX_TOKENS).as_deref(), Some("theme=dark"));
        assert_eq!(many(MAX_TOKENS + 1), None);
        assert_eq!(many(600), None);
    }

    proptest! {
        #[test]
        fn the_gate_finds_no_token_in_what_is_left(
            cookies in prop::collection::vec("[aA ,;=\"%$3Dd\t]{0,12}(authorization)?[ \"=]{0,3}(TOKEN)?[ ;,\"a=]{0,8}", 0..4),
        ) {
            let cookies: Vec<_> = cookies.iter().map(String::as_str).collect();
            let headers = lines(&cookies);
            let given = terminal::token(&headers).map(std::borrow::Cow::into_owned);
            let mut after = HeaderMap::new();
            after.extend(without_token(&headers).map(|value| (COOKIE, value)));
            prop_assert_eq!(terminal::token(&after), None);
            if given.as_deref() == Some(TOKEN) {
                let rest = left(&headers).unwrap_or_default();
                prop_assert!(!rest.contains(TOKEN), "{}", rest);
            }
        }
    }
}
