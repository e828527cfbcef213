//! Error responses as problem documents (RFC 9457).
//!
//! The `type` of a problem is `/problems/` and the name of its [`Kind`], which never changes
//! once it is released; the `detail` is for people.

use std::borrow::Cow;

use http::header::RETRY_AFTER;
use http::{HeaderValue, StatusCode};
use schemars::JsonSchema;
use serde::Serialize;
use tracing::{debug, warn};

use super::app_state::AppState;
use crate::http::answer::Rejection;
use crate::http::body::ReadError;
use crate::http::{Response, answer};
use crate::ledger::archive::ArchiveError;

/// The content type of problem documents.
pub(super) const PROBLEM: HeaderValue = HeaderValue::from_static("application/problem+json");

/// What kind of problem it is, for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Kind {
    /// The last segment of its `type`.
    pub(super) name: &'static str,
    /// The same for every problem of the kind.
    pub(super) title: &'static str,
}

impl Kind {
    const fn new(name: &'static str, title: &'static str) -> Self {
        Self { name, title }
    }

    pub(super) const INVALID_PARAMETER: Self = Self::new("invalid-parameter", "Invalid Parameter");
    pub(super) const UNKNOWN_HOST: Self = Self::new("unknown-host", "Unknown Host");
    pub(super) const OTHER_SITE: Self = Self::new("other-site", "Request of Another Site");
    /// The database does not keep tenants apart, so tokens of single ones are refused.
    pub(super) const TENANTS_NOT_ISOLATED: Self =
        Self::new("tenants-not-isolated", "Tenants Are Not Isolated");
    pub(super) const LEDGER_DISABLED: Self = Self::new("ledger-disabled", "The Ledger Is Disabled");
    pub(super) const ALERTS_DISABLED: Self = Self::new("alerts-disabled", "Alerts Are Disabled");
    /// The rows belong to a box that another process serves.
    pub(super) const OTHER_BOX: Self = Self::new("other-box", "Rows of Another Box");
    /// The app did not do what was asked for.
    pub(super) const APP_FAILED: Self = Self::new("app-failed", "The App Failed");

    /// The header `Idempotency-Key` is not a key.
    pub(super) const INVALID_KEY: Self =
        Self::new("invalid-idempotency-key", "Invalid Idempotency-Key");
    pub(super) const KEY_RUNNING: Self =
        Self::new("idempotency-key-in-use", "The Request Is Being Done");
    pub(super) const KEY_REUSED: Self =
        Self::new("idempotency-key-reused", "The Key Belongs to Another Request");
    pub(super) const ANSWER_UNREADABLE: Self =
        Self::new("idempotency-answer-unreadable", "The Stored Answer Cannot Be Opened");
    pub(super) const TOO_MANY_KEYS: Self =
        Self::new("too-many-idempotency-keys", "Too Many Idempotency Keys");
    pub(super) const KEYS_UNUSABLE: Self =
        Self::new("idempotency-keys-unusable", "Idempotency Keys Cannot Be Kept");

    /// Returns the kind of problems of which no more is known than their status.
    fn from_status(status: StatusCode) -> Self {
        match status.as_u16() {
            400 => Self::new("bad-request", "Bad Request"),
            401 => Self::new("unauthorized", "Unauthorized"),
            403 => Self::new("forbidden", "Forbidden"),
            404 => Self::new("not-found", "Not Found"),
            405 => Self::new("method-not-allowed", "Method Not Allowed"),
            408 => Self::new("request-timeout", "Request Timeout"),
            409 => Self::new("conflict", "Conflict"),
            413 => Self::new("content-too-large", "Content Too Large"),
            422 => Self::new("unprocessable-content", "Unprocessable Content"),
            429 => Self::new("too-many-requests", "Too Many Requests"),
            501 => Self::new("not-implemented", "Not Implemented"),
            503 => Self::new("unavailable", "Service Unavailable"),
            _ => Self::new("internal-error", "Internal Server Error"),
        }
    }
}

/// Why a request is not answered with what it asked for.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Problem {
    pub(super) kind: Kind,
    pub(super) status: StatusCode,
    pub(super) detail: Cow<'static, str>,
    /// The parameter or header that is wrong.
    pub(super) parameter: Option<String>,
    /// The state of the app that the request was about.
    pub(super) app: Option<Box<AppState>>,
    /// When to try again, in seconds.
    pub(super) retry_after: Option<u32>,
    /// Nothing was done, and the same request may succeed later.
    pub(super) is_passing: bool,
}

/// A problem document (RFC 9457).
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Problem")]
pub(super) struct Document<'a> {
    /// `/problems/` and a name that never changes.
    r#type: String,
    title: &'a str,
    status: u16,
    /// What is wrong, for people.
    detail: &'a str,
    /// The parameter or header that is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    parameter: Option<&'a str>,
    /// The state of the app that the request was about.
    #[serde(skip_serializing_if = "Option::is_none")]
    app: Option<&'a AppState>,
}

impl Problem {
    pub(super) fn new(status: StatusCode, detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            kind: Kind::from_status(status),
            status,
            detail: detail.into(),
            parameter: None,
            app: None,
            retry_after: None,
            is_passing: false,
        }
    }

    /// Returns the same problem as one of this kind.
    pub(super) fn kind(self, kind: Kind) -> Self {
        Self { kind, ..self }
    }

    /// A parameter that is unknown or has a wrong value.
    pub(super) fn parameter(name: &str, detail: impl Into<Cow<'static, str>>) -> Self {
        let parameter = Some(name.to_owned());
        let problem = Self::new(StatusCode::BAD_REQUEST, detail).kind(Kind::INVALID_PARAMETER);
        Self { parameter, ..problem }
    }

    pub(super) fn not_found(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::NOT_FOUND, detail)
    }

    /// Something that needs the ledger, which is disabled.
    pub(super) fn ledger_disabled(what: &str) -> Self {
        let detail = format!("{what}: `ledger.enabled` is false");
        Self::not_found(detail).kind(Kind::LEDGER_DISABLED)
    }

    /// The lease of the request's idempotency key has ended.
    pub(super) fn key_lost() -> Self {
        let detail = "the request took too long, and its key may be in use by another one";
        let problem = Self::new(StatusCode::CONFLICT, detail).kind(Kind::KEY_RUNNING);
        Self { retry_after: Some(1), ..problem }
    }

    /// Nothing was done, and it may work in a moment.
    pub(super) fn unavailable(detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            retry_after: Some(1),
            is_passing: true,
            ..Self::new(StatusCode::SERVICE_UNAVAILABLE, detail)
        }
    }

    pub(super) fn answer(&self) -> Response {
        let Self { kind, status, detail, parameter, app, retry_after, is_passing: _ } = self;
        let document = Document {
            r#type: format!("/problems/{}", kind.name),
            title: kind.title,
            status: status.as_u16(),
            detail,
            parameter: parameter.as_deref(),
            app: app.as_deref(),
        };
        // Serializing strings and numbers does not fail.
        let body = serde_json::to_vec(&document).unwrap_or_default();
        let mut response = answer::typed(*status, PROBLEM, body.into());
        if let Some(seconds) = *retry_after {
            response.headers_mut().insert(RETRY_AFTER, seconds.into());
        }
        response
    }

    /// The same, for a request that no endpoint can answer: a connection that sends only such
    /// requests is ended.
    pub(super) fn reject(&self) -> Response {
        let mut response = self.answer();
        response.extensions_mut().insert(Rejection);
        response
    }
}

impl From<ReadError> for Problem {
    fn from(error: ReadError) -> Self {
        let (status, detail) = match error {
            ReadError::TooLarge => {
                (StatusCode::PAYLOAD_TOO_LARGE, "the request's body is larger than 64 KiB")
            }
            ReadError::TooSlow => {
                (StatusCode::REQUEST_TIMEOUT, "the request's body did not arrive in time")
            }
            ReadError::CutOff => {
                (StatusCode::BAD_REQUEST, "the request's body did not arrive whole")
            }
            ReadError::Busy => return Self::unavailable("too many bodies are being read"),
        };
        Self::new(status, detail)
    }
}

impl From<ArchiveError> for Problem {
    fn from(error: ArchiveError) -> Self {
        match error {
            // What the database has said may quote a value.
            ArchiveError::Unavailable(problem) => {
                warn!(%problem, "a request is refused, because the archive cannot answer");
                let detail =
                    "the ledger's archive cannot answer; `/healthz` tells the operator why";
                Self::unavailable(detail)
            }
            ArchiveError::Content(problem) => {
                debug!(%problem, "the archive refuses a request's content");
                let detail = "the ledger's archive refuses this, or holds what cannot be read";
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, detail)
            }
        }
    }
}
