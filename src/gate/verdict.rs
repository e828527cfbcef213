//! The answer to one subrequest, before it becomes HTTP.

use std::sync::Arc;

use http::{HeaderName, HeaderValue};

use crate::domain::reason::Reason;

/// Grant or denial. There is no conversion from an error into a grant.
#[derive(Debug, Clone)]
pub enum Verdict {
    Grant(Headers),
    Deny(Reason),
}

/// Response headers, rendered once and shared.
pub type Headers = Arc<[(HeaderName, HeaderValue)]>;
