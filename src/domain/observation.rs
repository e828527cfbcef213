//! What observers are told of a decided subrequest.
//!
//! A verdict never depends on an observer: observers run after the response has been made,
//! and none of them may wait or fail.

use std::fmt;
use std::time::Duration;

use http::{HeaderMap, StatusCode};

use super::client::Client;
use super::endpoint::{Endpoint, VerdictKind};

/// One decided subrequest and the response to it.
#[derive(Clone, Copy)]
pub struct Observation<'a> {
    pub endpoint: Endpoint,
    pub verdict: VerdictKind,
    /// The name of the app that the host names; `None` if there is no such app.
    pub app: Option<&'a str>,
    /// The key of `paths` whose rule governs the path as it was sent; `None` if no rule was
    /// found or none was needed.
    pub rule: Option<&'a str>,
    /// The client, as far as it was identified before the verdict.
    pub client: Client<'a>,
    pub timings: Timings,
    /// The headers of the subrequest. They contain credentials.
    pub request: &'a HeaderMap,
    pub status: StatusCode,
    /// The headers of the response. They may contain what the app's templates make of the
    /// client's name.
    pub response: &'a HeaderMap,
}

/// Leaves out the headers, which contain credentials and names.
impl fmt::Debug for Observation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let &Self { endpoint, verdict, app, rule, client, timings, status, .. } = self;
        f.debug_struct("Observation")
            .field("endpoint", &endpoint)
            .field("verdict", &verdict)
            .field("app", &app)
            .field("rule", &rule)
            .field("client", &client.kind())
            .field("timings", &timings)
            .field("status", &status)
            .finish_non_exhaustive()
    }
}

/// How long the steps of a decision took. A step that was not reached took no time; if a
/// decision was repeated because a row changed, the last attempt counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timings {
    /// To find the app and the rule that governs the path.
    pub app: Duration,
    /// To identify the client.
    pub client: Duration,
    /// From the headers to the verdict, time spent waiting for a sleeping app included.
    pub total: Duration,
}

/// Is told of every decided subrequest.
pub trait Observer: fmt::Debug + Send + Sync {
    /// Takes note of a decision. Must not wait: the response is sent afterwards.
    fn observe(&self, observation: &Observation<'_>);
}
