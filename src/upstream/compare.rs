//! Where two verdicts on one question differ, and whether they are meant to.

use http::{HeaderMap, HeaderName, StatusCode};

use super::client::Answer;
use super::shadow::Ours;
use crate::domain::endpoint::{Endpoint, Said};
use crate::domain::reason::Reason;
use crate::domain::request::{Readings, app_label};

const X_PTL: &str = "x-ptl-";
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_URI: HeaderName = HeaderName::from_static("x-forwarded-uri");
const FORWARDED_METHOD: HeaderName = HeaderName::from_static("x-forwarded-method");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// What comparing two verdicts shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    Same,
    /// They differ where nightporter does on purpose.
    Expected,
    Status,
    /// Both grant, and these headers differ.
    Headers(Vec<HeaderName>),
}

/// What was asked of both.
#[derive(Debug, Clone, Copy)]
pub(super) struct Question<'a> {
    pub(super) endpoint: Endpoint,
    pub(super) headers: &'a HeaderMap,
    /// `gate.domain`.
    pub(super) domain: Option<&'a str>,
}

/// Compares the class of the status and, of grants, the headers that apps are told.
pub(super) fn compare(question: Question<'_>, ours: &Ours, theirs: &Answer) -> Outcome {
    if matches!(ours.said, Said::Grant) && theirs.status.is_success() {
        return headers(&ours.headers, &theirs.headers);
    }
    if ours.status == theirs.status && !matches!(ours.said, Said::Asleep | Said::KeptAsleep) {
        return Outcome::Same;
    }
    if is_on_purpose(question, ours, theirs.status) {
        return Outcome::Expected;
    }
    let class = |status: StatusCode| status.as_u16() / 100;
    if class(ours.status) == class(theirs.status) { Outcome::Same } else { Outcome::Status }
}

/// The differences there are on purpose, as far as question and answers show them.
/// One that cannot be told from a mistake, such as a replay that only we refuse,
/// counts as a difference.
#[expect(clippy::match_same_arms, reason = "a table: one row for one difference")]
fn is_on_purpose(question: Question<'_>, ours: &Ours, theirs: StatusCode) -> bool {
    let (said, status) = (ours.said, theirs.as_u16());
    if question.endpoint != Endpoint::Auth {
        return said == Said::Grant && status == 500 && has_unsendable(&ours.headers);
    }
    match (said, status) {
        // We answer in the app's place, or when it is awake.
        (Said::Asleep | Said::KeptAsleep, status) => status == 200,
        // What is missing or there twice is an error there, or goes unseen.
        (Said::Deny(Reason::MalformedRequest | Reason::AmbiguousPath), _) => true,
        (Said::Deny(Reason::NoMatchingRule | Reason::BrokenApp), 500) => true,
        // Only the raw reading counts there.
        (Said::Deny(_), 200 | 500) if question.has_many_readings() => true,
        (Said::Deny(Reason::UnknownApp), _) => question.is_outside_domain(),
        // The host is taken as it was written there.
        (_, 404) => question.writes_host_otherwise(),
        (Said::Grant, 500) => {
            question.lacks_what_signatures_need() || has_unsendable(&ours.headers)
        }
        _ => false,
    }
}

impl Question<'_> {
    fn text(&self, name: &HeaderName) -> Option<&str> {
        std::str::from_utf8(self.headers.get(name)?.as_bytes()).ok()
    }

    fn has_many_readings(&self) -> bool {
        let others = self.text(&FORWARDED_URI).map(|uri| Readings::of(uri)?.others());
        matches!(others, Some(Ok(others)) if !others.is_empty())
    }

    /// In upper case, or with a port right behind the label.
    fn writes_host_otherwise(&self) -> bool {
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

    /// The core reads them for unsigned requests too.
    fn lacks_what_signatures_need(&self) -> bool {
        !self.headers.contains_key(FORWARDED_METHOD) || !self.headers.contains_key(FORWARDED_PROTO)
    }
}

/// Whether a value may stand for what the core fails to send: characters outside
/// latin-1, which become `?` here, or UTF-8.
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

/// As they arrive: spaces around a value are not part of it (RFC 9110 section 5.5).
fn values<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Vec<&'a [u8]> {
    headers.get_all(name).iter().map(|value| value.as_bytes().trim_ascii()).collect()
}

/// UTF-8, which is a setting here, for latin-1.
fn is_same_text(ours: &[u8], theirs: &[u8]) -> bool {
    let latin1 = theirs.iter().map(|byte| char::from(*byte));
    ours == theirs || std::str::from_utf8(ours).is_ok_and(|ours| ours.chars().eq(latin1))
}

#[cfg(test)]
#[path = "compare_tests.rs"]
mod tests;
