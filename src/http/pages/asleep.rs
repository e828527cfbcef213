//! Responses for a sleeping app to clients that do not wake it: a monitor is told that all
//! is well, a stream is told to come back later.

use http::header::RETRY_AFTER;
use http::{HeaderName, HeaderValue, StatusCode};
use serde_json::json;

use crate::http::{Response, answer};

/// Names the state that the response stands for.
const STATE: HeaderName = HeaderName::from_static("x-nightporter-state");

/// The retry time of a stream in seconds; a script that respects it leaves an app alone
/// for so long even after its user opens the app again.
const STREAM_RETRY: HeaderValue = HeaderValue::from_static("30");

pub(super) fn answer(status: StatusCode, app: &str) -> Response {
    let detail = "The app sleeps and is woken when somebody opens it.";
    let body = json!({"state": "asleep", "app": app, "detail": detail});
    let mut response = answer::json(status, body.to_string().into());
    response.headers_mut().insert(STATE, HeaderValue::from_static("asleep"));
    response
}

/// Answers a stream of a page that its user may have forgotten.
pub(super) fn kept_asleep(app: &str) -> Response {
    let mut response = answer(StatusCode::SERVICE_UNAVAILABLE, app);
    response.headers_mut().insert(RETRY_AFTER, STREAM_RETRY);
    response
}
