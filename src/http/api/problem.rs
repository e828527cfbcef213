//! Error responses as problem documents (RFC 9457).

use std::borrow::Cow;

use futures_util::future::BoxFuture;
use http::header::RETRY_AFTER;
use http::{HeaderValue, StatusCode};
use serde_json::json;

use crate::http::body::ReadError;
use crate::http::{Response, answer};
use crate::ledger::archive::ArchiveError;

const PROBLEM: HeaderValue = HeaderValue::from_static("application/problem+json");

/// Why a request is not answered with what it asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) status: StatusCode,
    pub(super) detail: Cow<'static, str>,
    /// The parameter or header that is wrong.
    pub(super) parameter: Option<String>,
    /// When to try again, in seconds.
    pub(super) retry_after: Option<u16>,
}

impl Problem {
    pub(super) fn new(status: StatusCode, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { status, detail: detail.into(), parameter: None, retry_after: None }
    }

    /// A parameter that is unknown or has a wrong value.
    pub(super) fn parameter(name: &str, detail: impl Into<Cow<'static, str>>) -> Self {
        let parameter = Some(name.to_owned());
        Self { parameter, ..Self::new(StatusCode::BAD_REQUEST, detail) }
    }

    pub(super) fn not_found(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::NOT_FOUND, detail)
    }

    /// Something that may work in a moment.
    pub(super) fn unavailable(detail: impl Into<Cow<'static, str>>) -> Self {
        Self { retry_after: Some(1), ..Self::new(StatusCode::SERVICE_UNAVAILABLE, detail) }
    }

    pub(super) fn answer(&self) -> Response {
        let Self { status, detail, parameter, retry_after } = self;
        let mut document = json!({
            "type": "about:blank",
            "title": status.canonical_reason().unwrap_or_default(),
            "status": status.as_u16(),
            "detail": detail,
        });
        if let Some(parameter) = parameter {
            document["parameter"] = parameter.as_str().into();
        }
        let mut response = answer::typed(*status, PROBLEM, document.to_string().into());
        if let Some(seconds) = *retry_after {
            response.headers_mut().insert(RETRY_AFTER, seconds.into());
        }
        response
    }
}

/// Answers with the response of a handler, or with its problem.
pub(super) fn answered<'a>(
    handled: impl Future<Output = Result<Response, Problem>> + Send + 'a,
) -> BoxFuture<'a, Response> {
    Box::pin(async { handled.await.unwrap_or_else(|problem| problem.answer()) })
}

impl From<ReadError> for Problem {
    fn from(error: ReadError) -> Self {
        let status = match error {
            ReadError::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            ReadError::TooSlow => StatusCode::REQUEST_TIMEOUT,
            ReadError::CutOff => StatusCode::BAD_REQUEST,
            ReadError::Busy => return Self::unavailable("too many bodies are being read"),
        };
        Self::new(status, "the request's body did not arrive whole, or is too large")
    }
}

impl From<ArchiveError> for Problem {
    fn from(error: ArchiveError) -> Self {
        Self::unavailable(format!("the ledger's archive cannot answer: {error}"))
    }
}
