//! What is told of an app that sleeps, as it is meant to, to whom it is not woken for: to
//! a monitor that all is well, to a stream that it is to come later.

use http::header::RETRY_AFTER;
use http::{HeaderName, HeaderValue, StatusCode};
use serde_json::json;

use crate::http::{Response, answer};

/// Says what the answer is in place of.
const STATE: HeaderName = HeaderName::from_static("x-nightporter-state");

/// As long as a script that heeds it may leave an app alone that its user opens again.
const STREAM_RETRY: HeaderValue = HeaderValue::from_static("30");

pub(super) fn answer(status: StatusCode, app: &str) -> Response {
    let detail = "The app sleeps and is woken when somebody opens it.";
    let body = json!({"state": "asleep", "app": app, "detail": detail});
    let mut response = answer::json(status, body.to_string().into());
    response.headers_mut().insert(STATE, HeaderValue::from_static("asleep"));
    response
}

/// To a stream of a page that may have been forgotten.
pub(super) fn refused(app: &str) -> Response {
    let mut response = answer(StatusCode::SERVICE_UNAVAILABLE, app);
    response.headers_mut().insert(RETRY_AFTER, STREAM_RETRY);
    response
}
