//! Trace context as proxies send it (W3C Trace Context, level 1): which trace a request
//! belongs to, and which span of it asked.
//!
//! Anybody can write these headers. One in another form than the standard's is not read and
//! not passed on, as the standard demands: the request then belongs to no trace.

use std::fmt;

use http::HeaderMap;

/// The names of the two headers.
const TRACEPARENT: &str = "traceparent";
const TRACESTATE: &str = "tracestate";

/// The length of a `traceparent` of version 00 (section 3.2.2).
const LENGTH: usize = 55;

/// What a `tracestate` may have: its members by section 3.3.1.1, its bytes by section 3.3.1.5,
/// which lets a longer one be dropped.
const MAX_MEMBERS: usize = 32;
const MAX_STATE: usize = 512;

/// The id of a trace; not zero. Displayed as 32 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceId(pub u128);

/// The id of a span; not zero. Displayed as 16 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SpanId(pub u64);

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A `traceparent`: the span that asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceParent {
    pub trace: TraceId,
    pub span: SpanId,
    /// Whether the program that began the trace records it.
    pub sampled: bool,
}

impl TraceParent {
    /// Returns the parent that the headers name; `None` if they name none, several, or one in
    /// an invalid form.
    #[must_use]
    pub fn from_headers(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(TRACEPARENT).iter();
        let value = values.next()?;
        if values.next().is_some() {
            return None;
        }
        Self::parse(value.as_bytes())
    }

    fn parse(text: &[u8]) -> Option<Self> {
        let (known, more) = text.split_at_checked(LENGTH)?;
        let separators = [known[2], known[35], known[52]];
        let version = hex(&known[..2])?;
        // Later versions may append fields (section 3.2.4); ff is not a version.
        let has_right_end = more.is_empty() || (version > 0 && more.starts_with(b"-"));
        if separators != *b"---" || version == 0xff || !has_right_end {
            return None;
        }
        let trace = hex(&known[3..35]).filter(|trace| *trace != 0)?;
        let span = hex(&known[36..52]).filter(|span| *span != 0)?;
        let flags = hex(&known[53..])?;
        let span = SpanId(u64::try_from(span).ok()?);
        Some(Self { trace: TraceId(trace), span, sampled: flags & 1 == 1 })
    }
}

/// Reads lower-case hexadecimal digits; upper-case ones are invalid in a `traceparent`.
fn hex(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0, |number, digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u128::from(value))
    })
}

/// Returns the `tracestate` of the headers as one line; `None` if there is none, if it is
/// invalid or too long, or if it has no valid `traceparent` beside it.
#[must_use]
pub fn state(headers: &HeaderMap) -> Option<String> {
    let mut lines = headers.get_all(TRACESTATE).iter().peekable();
    lines.peek()?;
    TraceParent::from_headers(headers)?;
    let mut joined = String::new();
    let mut keys: Vec<String> = Vec::new();
    for line in lines {
        for member in line.to_str().ok()?.split(',').map(|member| member.trim_matches([' ', '\t']))
        {
            // Empty members are allowed and mean nothing.
            if member.is_empty() {
                continue;
            }
            let (key, value) = member.split_once('=')?;
            let is_known = keys.iter().any(|known| known == key);
            let is_full = keys.len() == MAX_MEMBERS || joined.len() + member.len() >= MAX_STATE;
            if is_known || is_full || !is_key(key) || !is_value(value) {
                return None;
            }
            if !joined.is_empty() {
                joined.push(',');
            }
            joined.push_str(member);
            keys.push(key.to_owned());
        }
    }
    (!joined.is_empty()).then_some(joined)
}

/// Section 3.3.1.3.1: a simple key, or `tenant@system`.
fn is_key(key: &str) -> bool {
    let is_part = |part: &str, longest: usize, may_begin_with_digit: bool| {
        let first = part.bytes().next().unwrap_or_default();
        (1..=longest).contains(&part.len())
            && (first.is_ascii_lowercase() || may_begin_with_digit && first.is_ascii_digit())
            && part.bytes().all(|byte| {
                byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-*/".contains(&byte)
            })
    };
    match key.split_once('@') {
        Some((tenant, system)) => is_part(tenant, 241, true) && is_part(system, 14, false),
        None => is_part(key, 256, false),
    }
}

/// Section 3.3.1.3.2: visible characters and spaces, without `,` and `=`, and no space at the
/// end.
fn is_value(value: &str) -> bool {
    (1..=256).contains(&value.len())
        && !value.ends_with(' ')
        && value.bytes().all(|byte| matches!(byte, b' '..=b'~') && !b",=".contains(&byte))
}

/// Removes trace headers that must not be passed on.
pub fn remove_invalid(headers: &mut HeaderMap) {
    if TraceParent::from_headers(headers).is_none() {
        headers.remove(TRACEPARENT);
    }
    if headers.contains_key(TRACESTATE) && state(headers).is_none() {
        headers.remove(TRACESTATE);
    }
}

/// The span of a request that has been given ids before it ended, because what it asked for
/// names it as its parent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpanContext {
    pub trace: TraceId,
    pub span: SpanId,
    /// What the `traceparent` said; `None` if there was none.
    pub sampled: Option<bool>,
}

impl SpanContext {
    /// Returns the context of a request: the trace that its headers name, or a new one. The
    /// numbers are random.
    #[must_use]
    pub fn from_headers(headers: &HeaderMap, new_trace: u128, new_span: u64) -> Self {
        let parent = TraceParent::from_headers(headers);
        Self {
            // Zero is not an id.
            trace: parent.map_or(TraceId(new_trace | 1), |parent| parent.trace),
            span: SpanId(new_span | 1),
            sampled: parent.map(|parent| parent.sampled),
        }
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const SPAN: &str = "00f067aa0ba902b7";

    fn with(lines: &[(&'static str, &[u8])]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_bytes(value).expect("a header's value"));
        }
        headers
    }

    fn parsed(text: &str) -> Option<TraceParent> {
        TraceParent::from_headers(&with(&[(TRACEPARENT, text.as_bytes())]))
    }

    #[test]
    fn a_valid_parent_is_read_and_written_as_it_came() {
        for (flags, sampled) in [("00", false), ("01", true), ("02", false), ("ff", true)] {
            let parent = parsed(&format!("00-{TRACE}-{SPAN}-{flags}")).expect("valid");
            assert_eq!(parent.trace.to_string(), TRACE);
            assert_eq!(parent.span.to_string(), SPAN);
            assert_eq!(parent.sampled, sampled, "{flags}");
        }
        for later in ["", "-", "-more", "-x-y", "-\u{e9}"] {
            assert!(parsed(&format!("cc-{TRACE}-{SPAN}-01{later}")).is_some(), "{later}");
        }
    }

    #[test]
    fn other_forms_are_no_parent() {
        let zeros = "0".repeat(32);
        for text in [
            String::new(),
            "-".repeat(LENGTH),
            format!("ff-{TRACE}-{SPAN}-01"),
            format!("00-{zeros}-{SPAN}-01"),
            format!("00-{TRACE}-{}-01", &zeros[..16]),
            format!("00-{}-{SPAN}-01", TRACE.to_uppercase()),
            format!("00-{TRACE}-{}-01", SPAN.to_uppercase()),
            format!("0A-{TRACE}-{SPAN}-01"),
            format!("00-{TRACE}-{SPAN}-0A"),
            format!("00-{TRACE}-{SPAN}-01-more"),
            format!("00-{TRACE}-{SPAN}-01-"),
            format!("00-{TRACE}-{SPAN}-01,00-{TRACE}-{SPAN}-01"),
            format!("cc-{TRACE}-{SPAN}-01.more"),
            format!("00-{TRACE}-{SPAN}-1"),
            format!("00-{TRACE}-{SPAN}"),
            format!("00-{TRACE}0-{SPAN}-01"),
            format!("00_{TRACE}_{SPAN}_01"),
            format!("0-{TRACE}-{SPAN}-011"),
            format!("00-{TRACE}-{SPAN}-+1"),
            format!("00-{}-{SPAN}-01", "\u{e9}".repeat(16)),
            format!("00-{TRACE}"),
        ] {
            assert_eq!(parsed(&text), None, "{text}");
        }
    }

    #[test]
    fn of_several_parents_none_counts() {
        let one = format!("00-{TRACE}-{SPAN}-01");
        let line = (TRACEPARENT, one.as_bytes());
        assert!(TraceParent::from_headers(&with(&[line])).is_some());
        assert_eq!(TraceParent::from_headers(&with(&[line, line])), None);
    }

    fn state_of(lines: &[&str]) -> Option<String> {
        let parent = format!("00-{TRACE}-{SPAN}-01");
        let mut all: Vec<(&'static str, &[u8])> = vec![(TRACEPARENT, parent.as_bytes())];
        all.extend(lines.iter().map(|line| (TRACESTATE, line.as_bytes())));
        state(&with(&all))
    }

    #[test]
    fn a_state_is_joined_from_its_lines_and_bounded() {
        assert_eq!(state_of(&[]), None);
        assert_eq!(state_of(&["", " , ,"]), None);
        assert_eq!(state_of(&["a=1"]).as_deref(), Some("a=1"));
        let joined = state_of(&["a=1 ,\t1t@b=x y", "c/d=~"]);
        assert_eq!(joined.as_deref(), Some("a=1,1t@b=x y,c/d=~"));
        let members = |count: usize| {
            let members: Vec<_> = (0..count).map(|number| format!("k{number}=1")).collect();
            state_of(&[&members.join(",")])
        };
        assert!(members(MAX_MEMBERS).is_some());
        assert_eq!(members(MAX_MEMBERS + 1), None);
        let long = |length: usize| state_of(&[&format!("a={}", "x".repeat(length)), "b=1"]);
        assert!(long(256).is_some());
        assert_eq!(long(257), None);
        let (a, b) = (format!("a={}", "x".repeat(250)), format!("b={}", "x".repeat(250)));
        assert!(state_of(&[&a, &b]).is_some());
        assert_eq!(state_of(&[&a, &b, "c=12345678"]), None);
    }

    #[test]
    fn other_forms_are_no_state() {
        for text in
            ["a", "a=", "=1", "A=1", "1a=1", "a=1,a=2", "a=1=2", "a@=1", "@b=1", "a@1b=1", "a b=1"]
        {
            assert_eq!(state_of(&[text]), None, "{text}");
        }
        assert_eq!(state_of(&["a=\u{e9}"]), None);
        assert_eq!(state_of(&[&format!("a@{}=1", "b".repeat(15))]), None);
        let alone = with(&[(TRACESTATE, b"a=1")]);
        assert_eq!(state(&alone), None, "a state without a parent means nothing");
    }

    #[test]
    fn only_what_is_valid_is_passed_on() {
        let parent = format!("00-{TRACE}-{SPAN}-01");
        let valid: (&'static str, &[u8]) = (TRACEPARENT, parent.as_bytes());
        for (lines, expected) in [
            (vec![valid, (TRACESTATE, b"a=1")], vec!["traceparent", "tracestate"]),
            (vec![valid, (TRACESTATE, b"a")], vec!["traceparent"]),
            (vec![valid, valid, (TRACESTATE, b"a=1")], vec![]),
            (vec![(TRACEPARENT, b"x"), (TRACESTATE, b"a=1")], vec![]),
            (vec![(TRACESTATE, b"a=1")], vec![]),
        ] {
            let mut headers = with(&lines);
            remove_invalid(&mut headers);
            let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
            names.sort_unstable();
            assert_eq!(names, expected);
        }
    }

    #[test]
    fn a_request_without_a_parent_begins_a_trace() {
        let context = SpanContext::from_headers(&HeaderMap::new(), 0, 0);
        assert_eq!((context.trace, context.span, context.sampled), (TraceId(1), SpanId(1), None));
        let parent = format!("00-{TRACE}-{SPAN}-00");
        let context = SpanContext::from_headers(&with(&[(TRACEPARENT, parent.as_bytes())]), 7, 8);
        assert_eq!(context.trace.to_string(), TRACE);
        assert_eq!((context.span, context.sampled), (SpanId(9), Some(false)));
    }
}
