//! A tracing span for each request, so that its log lines can be found together.

use std::cell::Cell;

use http::{HeaderMap, Request};
use tracing::{Level, Span, debug_span};

use crate::backoff::random;

/// The target of the span, for `log.level`: `info,nightporter=debug`, but not
/// `info,nightporter::gate=debug`, shows it.
const TARGET: &str = "nightporter";

/// Returns the span of a request, with an id of its own and the trace that the proxy names.
/// At levels above debug there is none, and nothing is spent on it.
pub(crate) fn request_span<B>(request: &Request<B>) -> Span {
    if !tracing::enabled!(target: TARGET, Level::DEBUG) {
        return Span::none();
    }
    debug_span!(target: TARGET, "request", id = next_id(), trace = trace_id(request.headers()))
}

/// Returns an id that no other request of this process has, and hardly one of another.
fn next_id() -> String {
    thread_local!(static NEXT: Cell<u64> = Cell::new(u64::from(random()) << 32 | u64::from(random())));
    let id = NEXT.get();
    NEXT.set(id.wrapping_add(1));
    format!("{id:016x}")
}

/// Returns the trace id of a `traceparent` header (W3C Trace Context, section 3.2.2).
fn trace_id(headers: &HeaderMap) -> Option<&str> {
    let text = headers.get("traceparent")?.to_str().ok()?;
    let (version, rest) = text.split_once('-')?;
    let (trace, rest) = rest.split_once('-')?;
    let is_hex = |text: &str, length| {
        text.len() == length && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let (parent, flags) = rest.split_once('-')?;
    // Later versions may append fields.
    let (flags, more) =
        flags.split_once('-').map_or((flags, None), |(flags, more)| (flags, Some(more)));
    let is_zero = |text: &str| text.bytes().all(|byte| byte == b'0');
    let is_valid = is_hex(version, 2)
        && version != "ff"
        && (version != "00" || more.is_none())
        && is_hex(trace, 32)
        && is_hex(parent, 16)
        && is_hex(flags, 2)
        && !is_zero(trace)
        && !is_zero(parent);
    is_valid.then_some(trace)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn a_trace_id_is_taken_from_a_valid_traceparent_only() {
        let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
        for (text, expected) in [
            (format!("00-{trace}-00f067aa0ba902b7-01"), Some(trace)),
            (format!("01-{trace}-00f067aa0ba902b7-01-more"), Some(trace)),
            (format!("ff-{trace}-00f067aa0ba902b7-01"), None),
            (format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32)), None),
            (format!("00-{}-00f067aa0ba902b7-01", trace.to_uppercase()), None),
            (format!("00-{trace}-00f067aa0ba902b7-01-more"), None),
            (format!("00-{trace}-{}-01", "0".repeat(16)), None),
            (format!("00-{trace}-00f067aa0ba902b7"), None),
            (format!("00-{trace}-00f067aa0ba902b7-1"), None),
            (format!("00-{trace}-00f067aa0ba902b"), None),
            (format!("00-{trace}"), None),
            ("00-x\u{e9}-y-z".to_owned(), None),
            (String::new(), None),
        ] {
            let value = HeaderValue::from_bytes(text.as_bytes()).expect("valid");
            let headers = HeaderMap::from_iter([("traceparent".parse().expect("a name"), value)]);
            assert_eq!(trace_id(&headers), expected, "{text}");
        }
    }

    #[test]
    fn ids_differ() {
        let ids: std::collections::HashSet<_> = (0..1000).map(|_| next_id()).collect();
        assert_eq!(ids.len(), 1000);
    }
}
