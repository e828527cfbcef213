//! Signatures that come again.
//!
//! Where replays are allowed, a peer may send one signed request many times, and a
//! verification costs as much as ten requests. What was verified is remembered under
//! everything that it was verified of, byte for byte, so that nothing that differs in
//! anything is taken for it. Only a peer's own signatures get in: what a stranger sends
//! is not remembered.

use http::{HeaderMap, HeaderName, HeaderValue};

use super::peer::Signed;

/// Longest request that is remembered, in bytes. Usual ones have about 1,500.
const MAX_LEN: usize = 4 * 1024;

/// Everything that the verification of a request's signature depends on; `None` if that
/// cannot be told at a glance, or is too long to be kept.
#[must_use]
pub fn verified_of(signed: &Signed<'_>) -> Option<Vec<u8>> {
    let Signed { method, proto, host, uri, headers } = signed;
    let input = only(headers, &HeaderName::from_static("signature-input"))?.as_bytes();
    let signature = only(headers, &HeaderName::from_static("signature"))?.as_bytes();
    let mut all = Vec::with_capacity(2 * 1024);
    for part in [method.as_bytes(), proto.as_bytes(), host.as_bytes(), uri.as_bytes()] {
        push(&mut all, part)?;
    }
    push(&mut all, input)?;
    push(&mut all, signature)?;
    // The names of covered headers are among the quoted texts. A text that is none of them
    // adds a header that does not matter.
    if input.contains(&b'\\') {
        return None;
    }
    for name in input.split(|byte| *byte == b'"').skip(1).step_by(2) {
        // Derived components begin with `@`, which no header's name has.
        let Ok(name) = HeaderName::from_bytes(name) else { continue };
        let values = headers.get_all(name);
        for value in values {
            push(&mut all, value.as_bytes())?;
        }
        // Nothing else has this length: where one header's lines end, the next one's begin.
        all.extend(u32::MAX.to_le_bytes());
    }
    Some(all)
}

/// The value of a header that is there once.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    values.next().is_none().then_some(value)
}

/// Appends a part with its length, so that no two lists of parts come out the same.
fn push(all: &mut Vec<u8>, part: &[u8]) -> Option<()> {
    let length = u32::try_from(part.len()).ok()?;
    all.extend(length.to_le_bytes());
    all.extend(part);
    (all.len() <= MAX_LEN).then_some(())
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
        let all = [one].into_iter().chain(others).chain(maps.iter().map(signed));
        let all: Vec<_> = all.map(|signed| verified_of(&signed).expect("short")).collect();
        assert_eq!(all.iter().collect::<HashSet<_>>().len(), all.len());
        let same = with(&[("x-not-covered", "1")]);
        assert_eq!(verified_of(&signed(&same)).as_ref(), all.first());
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
            assert_eq!(verified_of(&signed(&map)), None);
        }
    }
}
