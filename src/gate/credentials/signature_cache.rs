//! Cache keys of verified signatures.
//!
//! If replays are allowed, a peer may send one signed request many times, and a
//! verification costs as much as ten requests. A verified signature is therefore cached
//! under a key of everything it was verified against, byte for byte, so that a request
//! that differs in anything does not match it. Only signatures of known peers are cached,
//! not what a stranger sends.

use http::{HeaderMap, HeaderName, HeaderValue};

use super::peer::Signed;

/// Longest cache key, in bytes. A typical one has about 1,500.
const MAX_LEN: usize = 4 * 1024;

/// Returns everything that the verification of a request's signature depends on, or `None`
/// if that cannot be determined cheaply or is too long to be cached.
#[must_use]
pub fn cache_key(signed: &Signed<'_>) -> Option<Vec<u8>> {
    let Signed { method, proto, host, uri, headers } = signed;
    let input = only(headers, &HeaderName::from_static("signature-input"))?.as_bytes();
    let signature = only(headers, &HeaderName::from_static("signature"))?.as_bytes();
    let mut key = Vec::with_capacity(2 * 1024);
    for part in [method.as_bytes(), proto.as_bytes(), host.as_bytes(), uri.as_bytes()] {
        push(&mut key, part)?;
    }
    push(&mut key, input)?;
    push(&mut key, signature)?;
    // The names of covered headers are among the quoted strings. Another quoted string
    // that is a header name only adds a header that does not matter.
    if input.contains(&b'\\') {
        return None;
    }
    for name in input.split(|byte| *byte == b'"').skip(1).step_by(2) {
        // Derived components begin with `@`, which no header name contains.
        let Ok(name) = HeaderName::from_bytes(name) else { continue };
        let values = headers.get_all(name);
        for value in values {
            push(&mut key, value.as_bytes())?;
        }
        // No value has this length, so it marks where the lines of a header end.
        key.extend(u32::MAX.to_le_bytes());
    }
    Some(key)
}

/// Returns the value of a header that occurs exactly once.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    values.next().is_none().then_some(value)
}

/// Appends a part with its length, so that different lists of parts give different keys.
fn push(key: &mut Vec<u8>, part: &[u8]) -> Option<()> {
    let length = u32::try_from(part.len()).ok()?;
    key.extend(length.to_le_bytes());
    key.extend(part);
    (key.len() <= MAX_LEN).then_some(())
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const INPUT: &str =
        r#"s=("@method" "@authority" "@target-uri" "date" "x-a");created=1;keyid="abcdef""#;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), HeaderValue::from_str(value).expect("a value"))
        };
        pairs.iter().map(pair).collect()
    }

    fn signed(headers: &HeaderMap) -> Signed<'_> {
        Signed { method: "GET", proto: "https", host: "a.box", uri: "/b?c", headers }
    }

    #[test]
    fn whatever_a_signature_covers_tells_requests_apart() {
        let usual = [("signature-input", INPUT), ("signature", "s=:AA==:"), ("date", "today")];
        let with = |more: &[(&'static str, &str)]| headers(&[&usual[..], more].concat());
        let base = with(&[]);
        let one = signed(&base);
        let others = [
            Signed { method: "PUT", ..one },
            Signed { proto: "http", ..one },
            Signed { host: "b.box", ..one },
            Signed { uri: "/b", ..one },
            Signed { host: "a.bo", uri: "x/b?c", ..one },
        ];
        let maps = [
            with(&[("x-a", "")]),
            with(&[("x-a", "1")]),
            with(&[("x-a", "12")]),
            with(&[("x-a", "1"), ("x-a", "2")]),
            with(&[("date", "today")]),
            headers(&[usual[0], usual[1], ("date", "")]),
            headers(&[usual[0], usual[1], ("date", ""), ("x-a", "today")]),
            headers(&[usual[0], ("signature", "s=:AB==:"), usual[2]]),
            headers(&[("signature-input", &INPUT.replace("=1;", "=2;")), usual[1], usual[2]]),
        ];
        let keys = [one].into_iter().chain(others).chain(maps.iter().map(signed));
        let keys: Vec<_> = keys.map(|signed| cache_key(&signed).expect("short")).collect();
        assert_eq!(keys.iter().collect::<HashSet<_>>().len(), keys.len());
        let same = with(&[("x-not-covered", "1")]);
        assert_eq!(cache_key(&signed(&same)).as_ref(), keys.first());
    }

    #[test]
    fn what_cannot_be_told_at_a_glance_is_not_remembered() {
        let twice = [("signature-input", INPUT); 2];
        let escaped = INPUT.replace("abcdef", r"a\\bcdef");
        let long = "x".repeat(MAX_LEN);
        for map in [
            headers(&[]),
            headers(&[("signature", "s=:AA==:")]),
            headers(&[("signature-input", INPUT)]),
            headers(&[twice[0], twice[1], ("signature", "s=:AA==:")]),
            headers(&[("signature-input", &escaped), ("signature", "s=:AA==:")]),
            headers(&[("signature-input", INPUT), ("signature", &long)]),
            headers(&[("signature-input", INPUT), ("signature", "s=:AA==:"), ("x-a", &long)]),
        ] {
            assert_eq!(cache_key(&signed(&map)), None);
        }
    }
}
