//! The answer to one subrequest, before it is turned into an HTTP response.

use std::sync::Arc;

use http::{HeaderName, HeaderValue, StatusCode};

use super::PageApp;
use crate::domain::reason::Reason;

/// A grant, a denial, or a grant whose app is not awake. There is no conversion
/// from an error into a grant.
#[derive(Debug, Clone)]
pub enum Verdict {
    Grant(Headers),
    /// The request is granted, but the app is not awake.
    Asleep(Box<Asleep>),
    Deny(Reason),
}

/// Response headers, rendered once and shared.
pub type Headers = Arc<[(HeaderName, HeaderValue)]>;

/// The answer in place of an app that is not awake.
#[derive(Debug, Clone)]
pub struct Asleep {
    pub app: PageApp,
    pub form: AsleepResponse,
}

/// The form of that answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AsleepResponse {
    /// A page, for a person.
    Page,
    /// `application/problem+json` (RFC 9457), for a program.
    Problem,
    /// The state of the app, for a status poll of a waiting page; also if the app is awake.
    Poll,
    /// A redirect to the request's own address, so that the client sends it again.
    Redirect(HeaderValue),
    /// The app is asleep and healthy: for a monitor whose requests do not wake it.
    Ignored(StatusCode),
    /// The app is asleep, as an error: for a stream that may not wake it.
    KeptAsleep,
}

/// The gate's answer if a monitor is to get a 2xx for a sleeping app. As the answer of a
/// forwardAuth, a 2xx would be a grant, so the proxy has to replace this status with it.
/// Nothing else answers with this status (it is unassigned in IANA's registry of status
/// codes).
pub const ASLEEP: u16 = 489;

/// Returns the status that the gate sends so that a monitor gets `status`.
pub(super) fn sent_for(status: StatusCode) -> StatusCode {
    let asleep = StatusCode::from_u16(ASLEEP).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
    if status.is_success() { asleep } else { status }
}
