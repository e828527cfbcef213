//! Builds `@authority`, `@target-uri` and its parts of a signed request (RFC 9421 section
//! 2.2) from the headers that the proxy forwards.
//!
//! The sender signs the URL as normalised by its library, so the same is done here,
//! byte for byte as Python's `requests` does it. That is RFC 3986 section 6.2.2 with two
//! differences: dot segments are removed before percent signs are decoded, and an empty
//! query is removed.

use std::borrow::Cow;

/// A form of the target that a sender may have signed, and the styles in which such
/// senders write `@request-target`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetForm {
    pub target: Target,
    pub styles: &'static [Style],
}

/// A way to write `@request-target`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// RFC 9421 section 2.2.5: path and query.
    Rfc,
    /// Python's http-message-signatures inserts a `?` between the path and the query, which
    /// already begins with one.
    Python,
}

/// A request's target, normalised, as a sender may have signed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    pub scheme: &'static str,
    /// The host in lower case, with or without the port.
    pub authority: String,
    pub uri: String,
    /// Where the path begins in `uri`, and where it ends.
    path: (usize, usize),
}

impl Target {
    /// Returns the forms that a sender may have signed, the most likely one first. They
    /// differ in the default port of the scheme: if the URL contains it, the proxy may or
    /// may not receive it, and RFC 9421 section 2.2.3 omits it from the authority, which
    /// not all senders do.
    ///
    /// Only Python senders sign the port without sending it: its HTTP client omits the
    /// port from `Host`, and its URL keeps it. Only senders that follow the RFC send the
    /// port without signing it. So each of these two forms has one style.
    ///
    /// Returns `None` if the parts do not form a URL, or one that no sender writes:
    /// a stray `%`, a fragment, bytes that are not visible ASCII.
    #[must_use]
    pub fn forms(proto: &str, host: &str, uri: &str) -> Option<Vec<TargetForm>> {
        let (scheme, default_port) = scheme(proto)?;
        let (name, port) = match host.split_once(':') {
            Some((name, port)) => (name, port_number(port)?),
            None => (host, None),
        };
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        if name.is_empty() || name.starts_with('.') || !name.bytes().all(fits) {
            return None;
        }
        let name = name.to_ascii_lowercase();
        let sent = port.map_or_else(|| name.clone(), |port| format!("{name}:{port}"));
        let with_default = format!("{name}:{default_port}");
        let resource = resource(uri)?;
        let form = |authority: &str, host: &str, styles| TargetForm {
            target: Self::new(scheme, authority.to_owned(), host, &resource),
            styles,
        };
        let mut forms = vec![form(&sent, &sent, &[Style::Rfc, Style::Python])];
        if port.is_none() {
            forms.push(form(&with_default, &with_default, &[Style::Python]));
        } else if sent == with_default {
            forms.push(form(&name, &with_default, &[Style::Rfc]));
        }
        Some(forms)
    }

    fn new(scheme: &'static str, authority: String, host: &str, resource: &str) -> Self {
        let uri = format!("{scheme}://{host}{resource}");
        let begin = uri.len() - resource.len();
        let path = (begin, begin + resource.find('?').unwrap_or(resource.len()));
        Self { scheme, authority, uri, path }
    }

    /// The path (RFC 9421 section 2.2.6).
    #[must_use]
    pub fn path(&self) -> &str {
        &self.uri[self.path.0..self.path.1]
    }

    /// The query (RFC 9421 section 2.2.7): with its `?`, which is present even without a query.
    #[must_use]
    pub fn query(&self) -> &str {
        match &self.uri[self.path.1..] {
            "" => "?",
            query => query,
        }
    }

    /// `@request-target` as in RFC 9421 section 2.2.5, or as Python's package writes it.
    #[must_use]
    pub fn request_target(&self, style: Style) -> Cow<'_, str> {
        match style {
            Style::Rfc => Cow::Borrowed(&self.uri[self.path.0..]),
            Style::Python => Cow::Owned(format!("{}?{}", self.path(), self.query())),
        }
    }
}

/// Returns the scheme as it is signed, and its default port. A proxy calls an upgrade to
/// WebSocket `ws` or `wss`.
fn scheme(proto: &str) -> Option<(&'static str, u16)> {
    [("https", 443), ("http", 80), ("wss", 443), ("ws", 80)]
        .into_iter()
        .find(|(scheme, _)| scheme.eq_ignore_ascii_case(proto))
}

/// Parses a port. The outer `None` means that the text is not a port, the inner one that
/// it is empty.
#[expect(clippy::option_option, reason = "the two are told apart in one place, just above")]
fn port_number(text: &str) -> Option<Option<u16>> {
    if text.is_empty() {
        return Some(None);
    }
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten().map(Some)
}

/// Returns path and query, normalised.
fn resource(uri: &str) -> Option<String> {
    let visible = uri.bytes().all(|byte| byte.is_ascii_graphic());
    if !uri.starts_with('/') || !visible || uri.contains('#') {
        return None;
    }
    let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
    let mut resource = String::with_capacity(uri.len() + 16);
    normalise_escapes(&remove_dot_segments(path), &KEPT_IN_PATH, &mut resource)?;
    if !query.is_empty() {
        resource.push('?');
        normalise_escapes(query, &KEPT_IN_QUERY, &mut resource)?;
    }
    Some(resource)
}

/// Removes dot segments as `urllib3` implements RFC 3986 section 5.2.4; it differs from the
/// RFC if an empty segment follows a `..` at the root.
fn remove_dot_segments(path: &str) -> Cow<'_, str> {
    if !path.contains("/.") {
        return path.into();
    }
    let mut kept: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        match segment {
            "." => {}
            ".." => {
                kept.pop();
            }
            _ => kept.push(segment),
        }
    }
    if kept.first().is_none_or(|first| !first.is_empty()) {
        kept.insert(0, "");
    }
    if path.ends_with("/.") || path.ends_with("/..") {
        kept.push("");
    }
    match kept.join("/") {
        empty if empty.is_empty() => "/".into(),
        path => path.into(),
    }
}

/// The characters that are kept as they are.
type KeptBytes = [bool; 128];

const KEPT_IN_PATH: KeptBytes = kept(b"/");
const KEPT_IN_QUERY: KeptBytes = kept(b"/?");

/// Returns the unreserved characters and the delimiters, and these.
const fn kept(further: &[u8]) -> KeptBytes {
    let mut kept = [false; 128];
    let mut byte = 0;
    while byte < 128 {
        kept[byte as usize] = is_unreserved(byte);
        byte += 1;
    }
    let delimiters = b"!$&'()*+,;=:@";
    let mut at = 0;
    while at < delimiters.len() {
        kept[delimiters[at] as usize] = true;
        at += 1;
    }
    at = 0;
    while at < further.len() {
        kept[further[at] as usize] = true;
        at += 1;
    }
    kept
}

/// Decodes escapes that are not needed, encodes characters that need it, and writes the
/// remaining escapes in upper case. Most text is copied, in as few pieces as possible.
fn normalise_escapes(text: &str, kept: &KeptBytes, into: &mut String) -> Option<()> {
    let is_kept = |byte: u8| kept.get(usize::from(byte)).is_some_and(|kept| *kept);
    let mut rest = text;
    while let Some(end) = rest.bytes().position(|byte| !is_kept(byte)) {
        let (copied, from) = rest.split_at_checked(end)?;
        into.push_str(copied);
        let byte = *from.as_bytes().first()?;
        if byte == b'%' {
            let [high, low] = from.as_bytes().get(1..3)? else { return None };
            let value = hex(*high)? << 4 | hex(*low)?;
            if is_unreserved(value) {
                into.push(char::from(value));
            } else {
                push_escape(value, into);
            }
            rest = from.get(3..)?;
        } else {
            push_escape(byte, into);
            rest = from.get(1..)?;
        }
    }
    into.push_str(rest);
    Some(())
}

fn push_escape(byte: u8, into: &mut String) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    into.push('%');
    into.push(char::from(DIGITS[usize::from(byte >> 4)]));
    into.push(char::from(DIGITS[usize::from(byte & 15)]));
}

/// Returns whether a character is unreserved (RFC 3986 section 2.3).
const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    #[test]
    fn targets_are_those_of_python_requests() {
        let made: Value = serde_json::from_str(include_str!("../../../tests/vectors/targets.json"))
            .expect("json");
        let rows = made["targets"].as_array().expect("rows");
        assert!(rows.len() > 40);
        for row in rows {
            let text = |key: &str| row[key].as_str().expect("text");
            let target = Target::forms("https", text("host"), text("uri"));
            let uri = target.map(|forms| forms[0].target.uri.clone());
            assert_eq!(uri.as_deref(), Some(text("target")), "{row}");
        }
    }

    #[test]
    fn a_port_of_the_schemes_own_may_be_signed_or_not() {
        const BOTH: &[Style] = &[Style::Rfc, Style::Python];
        const PYTHON: &[Style] = &[Style::Python];
        const RFC: &[Style] = &[Style::Rfc];
        let (bare, own, other) = ("a.example", "a.example:443", "a.example:8443");
        let not_sent = [(bare, bare, BOTH), (own, own, PYTHON)];
        let sent = [(own, own, BOTH), (bare, own, RFC)];
        let plain = [("a.example:80", "a.example:80", BOTH), (bare, "a.example:80", RFC)];
        let dot =
            [("a.example.", "a.example.", BOTH), ("a.example.:443", "a.example.:443", PYTHON)];
        for (proto, host, expected) in [
            ("https", "A.Example", &not_sent[..]),
            ("https", "a.example:", &not_sent),
            ("https", "a.example:443", &sent),
            ("HTTPS", "a.example:00443", &sent),
            ("wss", "a.example:443", &sent),
            ("http", "a.example:443", &[(own, own, BOTH)]),
            ("http", "a.example:80", &plain),
            ("ws", "a.example:80", &plain),
            ("https", "a.example:8443", &[(other, other, BOTH)]),
            ("https", "a.example.", &dot),
        ] {
            let scheme = proto.to_lowercase();
            let expected: Vec<_> = expected
                .iter()
                .map(|(authority, host, styles)| {
                    ((*authority).to_owned(), format!("{scheme}://{host}/"), *styles)
                })
                .collect();
            let forms = Target::forms(proto, host, "/").expect(host);
            let forms: Vec<_> = forms
                .into_iter()
                .map(|TargetForm { target, styles }| (target.authority, target.uri, styles))
                .collect();
            assert_eq!(forms, expected, "{proto} {host}");
        }
    }

    #[test]
    fn a_target_has_parts() {
        for (uri, path, query, rfc, python) in [
            ("/", "/", "?", "/", "/??"),
            ("/?", "/", "?", "/", "/??"),
            ("/a/../b?c=%7e/?d", "/b", "?c=~/?d", "/b?c=~/?d", "/b??c=~/?d"),
        ] {
            let forms = Target::forms("https", "a.example:8443", uri).expect(uri);
            let target = &forms[0].target;
            assert_eq!((target.path(), target.query()), (path, query));
            assert_eq!(target.request_target(Style::Rfc), rfc);
            assert_eq!(target.request_target(Style::Python), python);
            assert_eq!(target.scheme, "https");
        }
    }

    #[test]
    fn parts_that_make_no_url_are_refused() {
        for (proto, host, uri) in [
            ("ftp", "a.example", "/"),
            ("", "a.example", "/"),
            ("https", "", "/"),
            ("https", ":443", "/"),
            ("https", ".a", "/"),
            ("https", "a:b", "/"),
            ("https", "a:+1", "/"),
            ("https", "a:65536", "/"),
            ("https", "a:1:2", "/"),
            ("https", "[::1]", "/"),
            ("https", "u@a", "/"),
            ("https", "a/b", "/"),
            ("https", "a\n", "/"),
            ("https", "ü", "/"),
            ("https", "a", ""),
            ("https", "a", "x"),
            ("https", "a", "?x"),
            ("https", "a", "https://a/"),
            ("https", "a", "/#x"),
            ("https", "a", "/%"),
            ("https", "a", "/%1"),
            ("https", "a", "/%zz"),
            ("https", "a", "/%+1"),
            ("https", "a", "/?%"),
            ("https", "a", "/a b"),
            ("https", "a", "/a\nb"),
            ("https", "a", "/ü"),
        ] {
            assert_eq!(Target::forms(proto, host, uri), None, "{proto} {host} {uri:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_survived(proto in "\\PC{0,6}", host in "\\PC{0,20}", uri in "\\PC{0,40}") {
            let _ = Target::forms(&proto, &host, &uri);
            let _ = Target::forms("https", &host, &uri);
        }

        #[test]
        fn a_target_is_one_line_of_visible_ascii(uri in "/[ -~]{0,40}") {
            let forms = Target::forms("https", "a.example", &uri).into_iter().flatten();
            for target in forms.map(|form| form.target) {
                prop_assert!(target.uri.bytes().all(|byte| byte.is_ascii_graphic()));
                prop_assert!(target.uri.starts_with("https://a.example"));
                prop_assert!(target.path().starts_with('/') && target.query().starts_with('?'));
            }
        }
    }
}
