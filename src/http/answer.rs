//! Responses with a constant body, and the only mapping from [`Reason`] to HTTP.

use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, StatusCode};
use tokio_stream::Stream;

use super::{Response, ResponseBody};
use crate::domain::reason::Reason;
use crate::gate::verdict::Headers;

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const PROBLEM: HeaderValue = HeaderValue::from_static("application/problem+json");
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");

/// How long a client should wait if the store cannot answer, in seconds: entries are
/// loaded again on demand, so one second is enough to see it recover. Memory for bodies
/// becomes free as fast.
const SOON: HeaderValue = HeaderValue::from_static("1");

const TOO_MANY: &str = r#"{"detail":"Too Many Requests"}"#;

/// Returns the status and body of a denial.
fn of_reason(reason: Reason) -> (StatusCode, &'static str) {
    match reason {
        Reason::TerminalRequired | Reason::PeerRequired | Reason::ManagementSecret => {
            (StatusCode::UNAUTHORIZED, r#"{"detail":"Unauthorized"}"#)
        }
        Reason::UnknownApp => (StatusCode::NOT_FOUND, r#"{"detail":"Not Found"}"#),
        Reason::NoMatchingRule => (StatusCode::FORBIDDEN, r#"{"detail":"Forbidden"}"#),
        Reason::MalformedRequest | Reason::AmbiguousPath => {
            (StatusCode::BAD_REQUEST, r#"{"detail":"Bad Request"}"#)
        }
        Reason::BrokenApp | Reason::StoreUnavailable => {
            (StatusCode::SERVICE_UNAVAILABLE, r#"{"detail":"Service Unavailable"}"#)
        }
    }
}

pub(crate) fn grant(headers: &Headers) -> Response {
    with(StatusCode::OK, headers.to_map(), Bytes::from_static(b"null"))
}

/// Returns the denial with this status, for when only the status is known.
pub(crate) fn of_status(status: u16) -> Response {
    let body = match status {
        400 => r#"{"detail":"Bad Request"}"#,
        401 => r#"{"detail":"Unauthorized"}"#,
        403 => r#"{"detail":"Forbidden"}"#,
        404 => r#"{"detail":"Not Found"}"#,
        429 => TOO_MANY,
        431 => r#"{"detail":"Request Header Fields Too Large"}"#,
        503 => r#"{"detail":"Service Unavailable"}"#,
        _ => return internal_error(),
    };
    StatusCode::from_u16(status).map_or_else(|_| internal_error(), |status| fixed(status, body))
}

pub(crate) fn deny(reason: Reason) -> Response {
    let (status, body) = of_reason(reason);
    let mut response = fixed(status, body);
    if reason == Reason::StoreUnavailable {
        response.headers_mut().insert(RETRY_AFTER, SOON);
    }
    response
}

/// Answers an API client without valid credentials (RFC 9457).
pub(crate) fn unauthorized_problem() -> Response {
    let body = r#"{"type":"about:blank","title":"Unauthorized","status":401,"detail":"Only a paired device may see this."}"#;
    typed(StatusCode::UNAUTHORIZED, PROBLEM, Bytes::from_static(body.as_bytes()))
}

/// Answers a request whose origin has to wait after too many wrong credentials (RFC 6585
/// section 4).
pub(crate) fn too_many(wait: Duration) -> Response {
    let mut response = fixed(StatusCode::TOO_MANY_REQUESTS, TOO_MANY);
    response.headers_mut().insert(RETRY_AFTER, whole_seconds(wait).into());
    response
}

/// Rounds up: a client that asks again after that long does not come too early.
pub(crate) fn whole_seconds(wait: Duration) -> u64 {
    wait.as_secs() + u64::from(wait.subsec_nanos() > 0)
}

/// Returns a JSON response whose body is known at compile time.
pub(crate) fn fixed(status: StatusCode, body: &'static str) -> Response {
    json(status, Bytes::from_static(body.as_bytes()))
}

pub(crate) fn json(status: StatusCode, body: Bytes) -> Response {
    typed(status, JSON, body)
}

pub(crate) fn typed(status: StatusCode, content_type: HeaderValue, body: Bytes) -> Response {
    let mut map = HeaderMap::with_capacity(4);
    map.insert(CONTENT_TYPE, content_type);
    map.insert(CACHE_CONTROL, NO_STORE);
    with(status, map, body)
}

/// Returns a response whose body is sent as the stream makes it.
pub(crate) fn streamed(
    status: StatusCode,
    content_type: HeaderValue,
    stream: impl Stream<Item = Bytes> + Send + 'static,
) -> Response {
    typed(status, content_type, Bytes::new()).map(|_| ResponseBody::streamed(stream))
}

fn with(status: StatusCode, headers: HeaderMap, body: Bytes) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

/// Marks responses to requests that no endpoint can answer: a connection that sends
/// only such requests is ended.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rejection;

fn rejection(status: StatusCode, body: &'static str) -> Response {
    let mut response = fixed(status, body);
    response.extensions_mut().insert(Rejection);
    response
}

pub(crate) fn not_found() -> Response {
    rejection(StatusCode::NOT_FOUND, r#"{"detail":"Not Found"}"#)
}

pub(crate) fn bad_request() -> Response {
    rejection(StatusCode::BAD_REQUEST, r#"{"detail":"Bad Request"}"#)
}

pub(crate) fn forbidden() -> Response {
    fixed(StatusCode::FORBIDDEN, r#"{"detail":"Forbidden"}"#)
}

/// Answers a request whose host is not one of the listener's names; without a token, only
/// those are accepted.
pub(crate) fn unknown_host() -> Response {
    let body = r#"{"detail":"Unknown Host: ask by an IP address or localhost, or add the name to ops.hosts"}"#;
    fixed(StatusCode::FORBIDDEN, body)
}

/// Answers a request whose path has other methods, separated by commas.
pub(crate) fn method_not_allowed(allowed: &str) -> Response {
    let mut response = fixed(StatusCode::METHOD_NOT_ALLOWED, r#"{"detail":"Method Not Allowed"}"#);
    if let Ok(allowed) = HeaderValue::from_str(allowed) {
        response.headers_mut().insert(ALLOW, allowed);
    }
    response
}

pub(crate) fn internal_error() -> Response {
    fixed(StatusCode::INTERNAL_SERVER_ERROR, r#"{"detail":"Internal Server Error"}"#)
}

/// Answers a request without valid credentials (RFC 6750 section 3).
pub(crate) fn bearer_required() -> Response {
    let mut response = fixed(StatusCode::UNAUTHORIZED, r#"{"detail":"Unauthorized"}"#);
    response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    response
}

#[cfg(test)]
mod tests {
    use http::HeaderName;

    use super::*;

    #[test]
    fn every_reason_has_its_status() {
        for (reason, status) in [
            (Reason::MalformedRequest, 400),
            (Reason::AmbiguousPath, 400),
            (Reason::UnknownApp, 404),
            (Reason::NoMatchingRule, 403),
            (Reason::TerminalRequired, 401),
            (Reason::PeerRequired, 401),
            (Reason::BrokenApp, 503),
            (Reason::ManagementSecret, 401),
            (Reason::StoreUnavailable, 503),
        ] {
            let response = deny(reason);
            assert_eq!(response.status(), status, "{reason}");
            assert_eq!(response.headers()[CACHE_CONTROL], "no-store", "{reason}");
            let retry = response.headers().contains_key(RETRY_AFTER);
            assert_eq!(retry, reason == Reason::StoreUnavailable, "{reason}");
        }
    }

    #[test]
    fn a_grant_carries_its_headers_and_is_never_cacheable() {
        let headers = [
            (HeaderName::from_static("x-ptl-client-id"), HeaderValue::from_static("t1")),
            (CACHE_CONTROL, HeaderValue::from_static("max-age=60")),
        ];
        let response = grant(&headers.into_iter().collect());
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["x-ptl-client-id"], "t1");
        let caching: Vec<_> = response.headers().get_all(CACHE_CONTROL).iter().collect();
        assert_eq!(caching, ["no-store"]);
    }
}
