//! What observers are told: of a decided subrequest, of what was done to an app, and of a
//! job's run.
//!
//! Neither a verdict nor an action nor a job depends on an observer: observers run after the
//! response has been made or the action or run has ended, and none of them may wait or fail.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::{HeaderMap, StatusCode};

use super::client::Client;
use super::endpoint::{Endpoint, VerdictKind};
use super::lifecycle::{SleepMode, WakeError};
use super::reason::Reason;
use super::trace::SpanContext;

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
    /// When the request was received.
    pub at: SystemTime,
    pub timings: Timings,
    /// The ids of its span, if something that it asked for already refers to them.
    pub span: Option<SpanContext>,
    /// The headers of the subrequest. They contain credentials.
    pub request: &'a HeaderMap,
    pub status: StatusCode,
    /// The headers of the response. They may contain what the app's templates make of the
    /// client's name.
    pub response: &'a HeaderMap,
}

/// A request that is granted from memory takes microseconds. One that takes longer than this
/// is out of the ordinary, and its steps are worth keeping.
pub const SLOW: Duration = Duration::from_millis(100);

/// The mark of a waiting page's status polls, of which an open page sends three a minute.
const POLL: &str = "x-nightporter-poll";

impl Observation<'_> {
    /// Returns whether this is an ordinary grant: at once, and to an app that is awake.
    #[must_use]
    pub fn is_ordinary(&self) -> bool {
        self.verdict == VerdictKind::Grant && self.timings.total <= SLOW
    }

    /// Returns whether a waiting page asks for the state of its app.
    #[must_use]
    pub fn is_poll(&self) -> bool {
        self.request.contains_key(POLL)
    }

    /// Returns the steps that were reached, in order, and how long each took.
    #[must_use]
    pub fn steps(&self) -> Vec<(&'static str, Duration)> {
        let Timings { app, client, waited, total } = self.timings;
        let decide = total.saturating_sub(app + client + waited);
        let of_app = matches!(
            self.verdict,
            VerdictKind::Deny(
                Reason::MalformedRequest
                    | Reason::AmbiguousPath
                    | Reason::UnknownApp
                    | Reason::NoMatchingRule
            )
        );
        let is_identified = !client.is_zero() || self.client != Client::Anonymous;
        if of_app {
            vec![("app", total)]
        } else if !waited.is_zero() {
            vec![("app", app), ("client", client), ("decide", decide), ("wake", waited)]
        } else if is_identified {
            vec![("app", app), ("client", client), ("decide", decide)]
        } else {
            vec![("app", app), ("decide", decide)]
        }
    }
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
    /// From the grant to the answer, if the app was not awake.
    pub waited: Duration,
    /// From the headers to the verdict, [`Timings::waited`] included.
    pub total: Duration,
}

/// Is told of every decided subrequest.
pub trait Observer: fmt::Debug + Send + Sync {
    /// Takes note of a decision. Must not wait: the response is sent afterwards.
    fn observe(&self, observation: &Observation<'_>);
}

/// A finished attempt to wake an app or to put it to sleep.
#[derive(Debug, Clone, Copy)]
pub struct Action<'a> {
    pub app: &'a Arc<str>,
    pub kind: ActionKind,
    pub cause: Cause,
    pub began: SystemTime,
    pub took: Duration,
    pub outcome: Result<(), &'a WakeError>,
    pub steps: &'a [ActionStep],
    /// The span of the request that asked for it.
    pub asked_by: Option<SpanContext>,
}

/// What was attempted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ActionKind {
    Wake,
    Sleep(SleepMode),
}

/// Why an action was begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// A granted request for the app.
    Request,
    /// A command of the operator.
    Operator,
    /// Another program has started the app; only its readiness was waited for.
    OtherProgram,
    /// The app is always on and had been stopped.
    AlwaysOn,
    /// The app had not been used for its idle time.
    Idle,
    LowDisk,
    LowMemory,
}

impl Cause {
    /// Returns its name in records.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Operator => "operator",
            Self::OtherProgram => "other_program",
            Self::AlwaysOn => "always_on",
            Self::Idle => "idle",
            Self::LowDisk => "low_disk",
            Self::LowMemory => "low_memory",
        }
    }
}

/// A part of an action, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ActionStep {
    /// `lock`, `stop`, `pause`, or the name of the [`Phase`](super::lifecycle::Phase) that the
    /// app was in.
    pub name: &'static str,
    pub took: Duration,
}

/// Is told of every finished action.
pub trait ActionObserver: fmt::Debug + Send + Sync {
    /// Takes note of an action. Must not wait: no other action ends or begins meanwhile.
    fn observe_action(&self, action: &Action<'_>);
}

/// A finished run of a job.
#[derive(Debug, Clone, Copy)]
pub struct JobRun<'a> {
    pub job: &'a str,
    pub began: SystemTime,
    pub took: Duration,
    pub has_failed: bool,
}

/// Is told of every run of a job in this process.
pub trait JobObserver: fmt::Debug + Send + Sync {
    /// Takes note of a run. Must not wait: the job is not run again meanwhile.
    fn observe_run(&self, run: &JobRun<'_>);
}
