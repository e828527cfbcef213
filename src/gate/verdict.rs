//! The answer to one subrequest, before it becomes HTTP.

use std::sync::Arc;

use http::{HeaderName, HeaderValue, StatusCode};

use super::PageApp;
use crate::domain::reason::Reason;

/// Grant or denial, or a grant that has to wait for its app. There is no conversion
/// from an error into a grant.
#[derive(Debug, Clone)]
pub enum Verdict {
    Grant(Headers),
    /// Granted, and the app is not awake.
    Asleep(Box<Asleep>),
    Deny(Reason),
}

/// Response headers, rendered once and shared.
pub type Headers = Arc<[(HeaderName, HeaderValue)]>;

/// What is said in place of an app that is not awake.
#[derive(Debug, Clone)]
pub struct Asleep {
    pub app: PageApp,
    pub form: Form,
}

/// The form in which it is said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Form {
    /// A page, for a person.
    Page,
    /// `application/problem+json` (RFC 9457), for a program.
    Problem,
    /// What the page asks for to know how things stand; also where the app is awake.
    Poll,
    /// The request's own address: it is to be sent there again.
    Again(HeaderValue),
    /// That it sleeps, and is well: for a monitor whose requests wake nothing.
    Ignored(StatusCode),
    /// The same to a stream that is not let wake it, as an error.
    KeptAsleep,
}

/// What the gate answers where a monitor is to get a 2xx for an app that sleeps: from it
/// a forwardAuth would be a grant, so that the proxy has to make it of this one, which
/// nothing else answers with (it is unassigned in IANA's registry of status codes).
pub const ASLEEP: u16 = 489;

/// The status that tells a forwardAuth which one a monitor is to get.
pub(super) fn sent_for(status: StatusCode) -> StatusCode {
    let asleep = StatusCode::from_u16(ASLEEP).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
    if status.is_success() { asleep } else { status }
}
