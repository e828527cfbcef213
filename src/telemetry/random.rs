//! Random numbers for ids, which need no secrecy.

use http::HeaderMap;

use crate::backoff::random;
use crate::domain::trace::SpanContext;

pub(super) fn random_u64() -> u64 {
    u64::from(random()) << 32 | u64::from(random())
}

pub(super) fn random_u128() -> u128 {
    u128::from(random_u64()) << 64 | u128::from(random_u64())
}

/// Returns the ids of a request's span, for what the request asks for.
pub(crate) fn new_span(headers: &HeaderMap) -> SpanContext {
    SpanContext::from_headers(headers, random_u128(), random_u64())
}
