//! What a monitor is told of an app that sleeps, as it is meant to: no error.

use http::{HeaderName, HeaderValue, StatusCode};
use serde_json::json;

use crate::http::{Response, answer};

/// Says what the answer is in place of.
const STATE: HeaderName = HeaderName::from_static("x-nightporter-state");

pub(super) fn answer(status: StatusCode, app: &str) -> Response {
    let detail = "The app sleeps and is woken when somebody opens it.";
    let body = json!({"state": "asleep", "app": app, "detail": detail});
    let mut response = answer::json(status, body.to_string().into());
    response.headers_mut().insert(STATE, HeaderValue::from_static("asleep"));
    response
}
