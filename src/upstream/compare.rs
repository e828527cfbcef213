//! Compares two verdicts on one request, and decides whether a difference is intended.

use http::{HeaderMap, HeaderName, StatusCode};

use super::client::Answer;
use crate::domain::endpoint::{Endpoint, VerdictKind};
use crate::domain::reason::Reason;
use crate::domain::request::{Readings, app_label};

const X_PTL: &str = "x-ptl-";
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_URI: HeaderName = HeaderName::from_static("x-forwarded-uri");
const FORWARDED_METHOD: HeaderName = HeaderName::from_static("x-forwarded-method");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// The outcome of a comparison.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    Same,
    /// They differ in a way that is intended.
    Expected,
    Status,
    /// Both grant, but these headers differ.
    Headers(Vec<HeaderName>),
}

/// The request that both have answered.
#[derive(Debug, Clone, Copy)]
pub(super) struct ComparedRequest<'a> {
    pub(super) endpoint: Endpoint,
    pub(super) headers: &'a HeaderMap,
    /// `gate.domain`.
    pub(super) domain: Option<&'a str>,
}

/// Our answer.
#[derive(Debug)]
pub(super) struct OurAnswer {
    pub(super) verdict: VerdictKind,
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
}

/// Compares the class of the status and, for grants, the headers that are passed to apps.
pub(super) fn compare(request: ComparedRequest<'_>, ours: &OurAnswer, theirs: &Answer) -> Outcome {
    if matches!(ours.verdict, VerdictKind::Grant) && theirs.status.is_success() {
        return headers(&ours.headers, &theirs.headers);
    }
    if ours.status == theirs.status
        && !matches!(ours.verdict, VerdictKind::Asleep | VerdictKind::KeptAsleep)
    {
        return Outcome::Same;
    }
    if is_intended(request, ours, theirs.status) {
        return Outcome::Expected;
    }
    let class = |status: StatusCode| status.as_u16() / 100;
    if class(ours.status) == class(theirs.status) { Outcome::Same } else { Outcome::Status }
}

/// Returns whether the difference is intended, as far as request and answers show it. One
/// that cannot be told from a mistake, such as a replay that only nightporter refuses,
/// counts as unintended.
#[expect(clippy::match_same_arms, reason = "a table: one row for one difference")]
fn is_intended(request: ComparedRequest<'_>, ours: &OurAnswer, theirs: StatusCode) -> bool {
    let (verdict, status) = (ours.verdict, theirs.as_u16());
    if request.endpoint != Endpoint::Auth {
        return verdict == VerdictKind::Grant && status == 500 && has_unsendable(&ours.headers);
    }
    match (verdict, status) {
        // Nightporter answers in place of the app, or once the app is awake.
        (VerdictKind::Asleep | VerdictKind::KeptAsleep, status) => status == 200,
        // For the core, a missing or repeated header is an error, or goes unnoticed.
        (VerdictKind::Deny(Reason::MalformedRequest | Reason::AmbiguousPath), _) => true,
        (VerdictKind::Deny(Reason::NoMatchingRule | Reason::BrokenApp), 500) => true,
        // The core considers only the raw reading.
        (VerdictKind::Deny(_), 200 | 500) if request.has_many_readings() => true,
        (VerdictKind::Deny(Reason::UnknownApp), _) => request.is_outside_domain(),
        // The core takes the host as it is written.
        (_, 404) => request.normalizes_host(),
        (VerdictKind::Grant, 500) => {
            request.lacks_signed_headers() || has_unsendable(&ours.headers)
        }
        _ => false,
    }
}

impl ComparedRequest<'_> {
    fn text(&self, name: &HeaderName) -> Option<&str> {
        std::str::from_utf8(self.headers.get(name)?.as_bytes()).ok()
    }

    fn has_many_readings(&self) -> bool {
        let others = self.text(&FORWARDED_URI).map(|uri| Readings::new(uri)?.others());
        matches!(others, Some(Ok(others)) if !others.is_empty())
    }

    /// Returns whether the label is in upper case, or directly followed by a port.
    fn normalizes_host(&self) -> bool {
        self.text(&FORWARDED_HOST).is_some_and(|host| {
            let written = host.split('.').next().unwrap_or_default();
            app_label(host, None).is_ok_and(|label| label != written)
        })
    }

    fn is_outside_domain(&self) -> bool {
        self.text(&FORWARDED_HOST).is_some_and(|host| {
            app_label(host, None).is_ok() && app_label(host, self.domain).is_err()
        })
    }

    /// Returns whether headers are missing that the core reads for unsigned requests too.
    fn lacks_signed_headers(&self) -> bool {
        !self.headers.contains_key(FORWARDED_METHOD) || !self.headers.contains_key(FORWARDED_PROTO)
    }
}

/// Returns whether a value may stand for text that the core fails to send: characters
/// outside latin-1, which are sent as `?` or UTF-8 here.
fn has_unsendable(headers: &HeaderMap) -> bool {
    headers.values().any(|value| {
        let text = std::str::from_utf8(value.as_bytes());
        value.as_bytes().contains(&b'?') || text.is_ok_and(|text| text.chars().any(|c| c > 'ÿ'))
    })
}

fn headers(ours: &HeaderMap, theirs: &HeaderMap) -> Outcome {
    let names = ours.keys().chain(theirs.keys()).filter(|name| name.as_str().starts_with(X_PTL));
    let mut names: Vec<_> = names.collect();
    names.sort_unstable_by_key(|name| name.as_str());
    names.dedup();
    let (mut differing, mut is_expected) = (Vec::new(), false);
    for name in names {
        let (ours, theirs) = (values(ours, name), values(theirs, name));
        if ours == theirs {
            continue;
        }
        let mut pairs = ours.iter().zip(&theirs);
        if ours.len() == theirs.len() && pairs.all(|(ours, theirs)| is_same_text(ours, theirs)) {
            is_expected = true;
        } else {
            differing.push(name.clone());
        }
    }
    match (differing.is_empty(), is_expected) {
        (false, _) => Outcome::Headers(differing),
        (true, true) => Outcome::Expected,
        (true, false) => Outcome::Same,
    }
}

/// Returns the values without surrounding spaces, which are not part of a value (RFC 9110
/// section 5.5).
fn values<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Vec<&'a [u8]> {
    headers.get_all(name).iter().map(|value| value.as_bytes().trim_ascii()).collect()
}

/// Returns whether two values are the same text: UTF-8, which is a setting here, or
/// latin-1.
fn is_same_text(ours: &[u8], theirs: &[u8]) -> bool {
    let latin1 = theirs.iter().map(|byte| char::from(*byte));
    ours == theirs || std::str::from_utf8(ours).is_ok_and(|ours| ours.chars().eq(latin1))
}

#[cfg(test)]
mod tests;
