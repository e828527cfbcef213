//! The responses of the standby process, which answers while the gate is away: 503 for
//! every request, with a page if a browser navigates.
//!
//! A proxy reaches it at the second address of the gate's name if the first does not
//! answer. Each response ends its connection, so that the next request reaches the gate
//! as soon as it is back.

use http::header::{CONNECTION, CONTENT_SECURITY_POLICY, RETRY_AFTER};
use http::{HeaderName, HeaderValue, Request, StatusCode};

use super::body::Body;
use super::pages::standby::{page, policy};
use super::{Handler, Response, answer};
use crate::gate::request_kind::{is_navigation, poll_version};
use crate::telemetry;

/// Tells the page's script that a reload would only bring the standby page again.
const STATE: HeaderName = HeaderName::from_static("x-nightporter-state");

/// In seconds: a restart takes only a few.
const RETRY: HeaderValue = HeaderValue::from_static("2");

const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");

/// Answers every request with 503; grants nothing.
pub(crate) struct StandbyRoutes {
    policy: HeaderValue,
}

impl StandbyRoutes {
    pub(crate) fn new() -> Self {
        let policy = HeaderValue::from_str(&policy());
        Self { policy: policy.unwrap_or(HeaderValue::from_static("default-src 'none'")) }
    }
}

impl Handler for StandbyRoutes {
    async fn handle(&self, request: Request<Body>) -> Response {
        let (head, _) = request.into_parts();
        telemetry::identify(&head.headers);
        let text =
            |name| head.headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
        let status = StatusCode::SERVICE_UNAVAILABLE;
        let is_shown = poll_version(&head.headers).is_none()
            && is_navigation(&head.headers, text("x-forwarded-method"));
        let mut response = if is_shown {
            let uri = text("x-forwarded-uri").filter(|uri| uri.starts_with('/'));
            let mut shown = answer::typed(status, HTML, page(uri).into());
            shown.headers_mut().insert(CONTENT_SECURITY_POLICY, self.policy.clone());
            shown
        } else {
            answer::fixed(status, r#"{"detail":"Service Unavailable"}"#)
        };
        let headers = response.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
        headers.insert(RETRY_AFTER, RETRY);
        headers.insert(STATE, HeaderValue::from_static("standby"));
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderMap;
    use http_body_util::BodyExt as _;

    async fn respond(
        path: &str,
        headers: &[(&'static str, &'static str)],
    ) -> (StatusCode, HeaderMap, String) {
        let mut request = Request::get(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::none()).expect("a request");
        let (head, body) = StandbyRoutes::new().handle(request).await.into_parts();
        let body = body.collect().await.expect("whole").to_bytes();
        (head.status, head.headers, String::from_utf8(body.to_vec()).expect("UTF-8"))
    }

    #[tokio::test]
    async fn nothing_is_granted_and_no_connection_is_kept() {
        for path in [
            "/internal/auth",
            "/internal/authenticate_terminal",
            "/internal/authenticate_management",
            "/internal/app_error/502?url=%2F",
            "/livez",
            "/readyz",
            "/",
        ] {
            for headers in [
                &[][..],
                &[("x-forwarded-method", "OPTIONS"), ("origin", "https://a.b")],
                &[("x-nightporter-poll", "0"), ("sec-fetch-dest", "document")],
                &[("sec-fetch-dest", "document"), ("x-forwarded-uri", "/")],
            ] {
                let (status, headers, _) = respond(path, headers).await;
                assert_eq!(status, 503, "{path}");
                assert_eq!(headers["connection"], "close", "{path}");
                assert_eq!(headers["cache-control"], "no-store", "{path}");
                assert!(headers.contains_key("retry-after"), "{path}");
            }
        }
    }

    #[tokio::test]
    async fn only_who_opens_a_document_is_shown_a_page() {
        let document = ("sec-fetch-dest", "document");
        let uri = ("x-forwarded-uri", "/a?b=\"&c");
        let get = ("x-forwarded-method", "GET");
        let (_, headers, page) = respond("/internal/auth", &[document, uri, get]).await;
        assert_eq!(headers["content-type"], "text/html; charset=utf-8");
        assert!(page.contains("content=\"5;url=/a?b=&#34;&#38;c\""), "{page}");
        let policy = headers["content-security-policy"].to_str().expect("ASCII");
        assert!(policy.contains("script-src 'sha256-"), "{policy}");
        for headers in [
            &[uri, get][..],
            &[document, uri, ("x-forwarded-method", "POST")],
            &[document, uri, get, ("x-nightporter-poll", "1")],
        ] {
            let (_, headers, body) = respond("/internal/auth", headers).await;
            assert_eq!(headers["content-type"], "application/json", "{body}");
        }
    }
}
