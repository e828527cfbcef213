//! Endpoints of messages, and the log of what was sent to them.
//!
//! A change and its record are one transaction. Of a URL only the origin is shown: the rest
//! may be a secret. A secret is shown once, when it is made.

use std::sync::Arc;

use http::StatusCode;
use schemars::JsonSchema;
use serde::Serialize;

use super::outcome::Outcome;
use super::problem::Problem;
use super::{Call, Services, json, ok, read_object};
use crate::access::{Private, Right, Viewer};
use crate::http::Response;
use crate::ledger::acts::Act;
use crate::ledger::archive::Transaction;
use crate::ledger::checkpoint::rfc3339;
use crate::ledger::record::Micros;
use crate::webhooks::deliveries::{Attempt, LogCursor};
use crate::webhooks::endpoint::{Definition, Endpoint};
use crate::webhooks::manage::{self, LogPage, ManageError, NewEndpoint};

/// An endpoint of messages.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Endpoint")]
pub(super) struct EndpointView {
    id: String,
    /// `configuration` or `api`.
    origin: &'static str,
    /// `webhook`, `ntfy`, `gotify` or `discord`.
    kind: &'static str,
    /// Scheme, host and port of its URL.
    url: String,
    events: Vec<String>,
    /// All if there are none.
    apps: Vec<String>,
    /// When messages wait.
    quiet: Option<String>,
    /// Whether its messages contain personal values.
    pii: bool,
    allow: Vec<String>,
    created: String,
    /// Whether the secret before the last rotation signs as well, and until when.
    former_secret_until: Option<String>,
    /// Since when every attempt has failed.
    failing_since: Option<String>,
    disabled: Option<EndpointDisabled>,
}

/// Since when an endpoint gets no messages, and why.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "EndpointDisabled")]
struct EndpointDisabled {
    at: String,
    reason: String,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Endpoints")]
pub(super) struct List {
    endpoints: Vec<EndpointView>,
    /// The names of endpoints whose rows cannot be read. They get no messages, and can be removed.
    unreadable: Vec<String>,
}

/// An endpoint that was removed.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(untagged)]
#[schemars(rename = "RemovedEndpoint")]
pub(super) enum RemovedEndpoint {
    Endpoint(Box<EndpointView>),
    /// Its row could not be read.
    Unreadable {
        id: String,
    },
}

/// An endpoint with its secret, which is not shown again.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "EndpointWithSecret")]
pub(super) struct EndpointWithSecret {
    #[serde(flatten)]
    endpoint: EndpointView,
    secret: Option<String>,
}

/// The body of a request for an endpoint, as it is described; it is read as a [`NewEndpoint`].
#[derive(Debug, JsonSchema)]
#[schemars(rename = "WantedEndpoint")]
#[schemars(deny_unknown_fields)]
#[expect(dead_code, reason = "it is described only")]
pub(super) struct EndpointRequest {
    /// Letters, digits, `-`, `_` and `.`, 64 at most; its id. A random one if it is missing.
    name: Option<String>,
    /// `webhook`, `ntfy`, `gotify` or `discord`.
    kind: String,
    url: String,
    /// webhook: `whsec_` and the Base64 of 24 to 64 bytes. A random one if it is missing.
    secret: Option<String>,
    /// ntfy, gotify: a token.
    token: Option<String>,
    /// Kinds of events, or patterns such as `alert.*`, which is what counts if it is missing.
    events: Option<Vec<String>>,
    /// Only what is about these apps.
    #[schemars(default)]
    apps: Vec<String>,
    /// When messages wait, such as `22:00-07:00`.
    quiet: Option<String>,
    /// Whether messages may contain personal values.
    #[schemars(default)]
    pii: bool,
}

/// The body of a change of an endpoint, as it is described; it is read as a
/// [`Change`](manage::Change). What is missing stays as it is.
#[derive(Debug, JsonSchema)]
#[schemars(rename = "ChangedEndpoint")]
#[schemars(deny_unknown_fields)]
#[expect(dead_code, reason = "it is described only")]
pub(super) struct EndpointChange {
    /// It cannot be changed: missing, or as it is.
    name: Option<String>,
    /// The same.
    kind: Option<String>,
    url: Option<String>,
    /// ntfy, gotify: a token; `null` removes it. Needed if the URL is that of another server and
    /// there is one.
    token: Option<String>,
    /// `null` stands for `alert.*`.
    events: Option<Vec<String>>,
    /// `null` stands for all.
    apps: Option<Vec<String>>,
    /// When messages wait, such as `22:00-07:00`; `null` stands for never.
    quiet: Option<String>,
    /// Whether messages may contain personal values.
    pii: Option<bool>,
    /// `false` disables the endpoint: what waits for it is given up.
    enabled: Option<bool>,
}

/// A test message that was queued.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "TestMessage")]
pub(super) struct TestMessage {
    /// The event by which the log has its attempts.
    event: String,
}

/// A page of attempts, the newest first.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Attempts")]
pub(super) struct Log {
    attempts: Vec<ShownAttempt>,
    /// The `after` of the next page.
    next: Option<String>,
}

/// One attempt to deliver an event.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Attempt")]
struct ShownAttempt {
    event: String,
    r#type: String,
    attempt: i64,
    at: String,
    duration_ms: Option<i64>,
    /// `running`, `delivered`, `lost` (the sender ended before it knew), or why it failed.
    outcome: String,
    status: Option<i64>,
    detail: Option<String>,
    /// Up to 1 KiB of the answer.
    #[schemars(extend("x-masked" = true))]
    answer: Option<String>,
    /// What has become of the delivery: `queued`, `delivered`, `failed` or `dropped`.
    delivery: String,
    next_attempt: Option<String>,
}

impl From<&Endpoint> for EndpointView {
    fn from(endpoint: &Endpoint) -> Self {
        let Endpoint { id, origin, definition, secrets, created, failing_since, disabled } =
            endpoint;
        let Definition { kind, url, subscription, quiet, allow } = definition;
        let former = secrets.previous.as_ref().map(|(_, until)| text(*until));
        Self {
            id: id.clone(),
            origin: origin.as_str(),
            kind: kind.as_str(),
            url: url.origin(),
            events: subscription.events.iter().map(ToString::to_string).collect(),
            apps: subscription.apps.clone(),
            quiet: quiet.map(|quiet| quiet.to_string()),
            pii: subscription.pii,
            allow: allow.iter().map(ToString::to_string).collect(),
            created: text(*created),
            former_secret_until: former,
            failing_since: failing_since.map(text),
            disabled: disabled
                .as_ref()
                .map(|(at, reason)| EndpointDisabled { at: text(*at), reason: reason.clone() }),
        }
    }
}

impl EndpointWithSecret {
    fn new(endpoint: &Endpoint) -> Self {
        let secret = endpoint.secrets.signing.as_ref().map(|secret| secret.expose().to_owned());
        Self { endpoint: endpoint.into(), secret }
    }
}

impl ShownAttempt {
    /// A receiver may answer with what it was sent, and the endpoint may have been one whose
    /// messages contain personal values.
    fn new(attempt: Attempt, viewer: &Viewer) -> Self {
        let answer = attempt.answer.map(|answer| viewer.show(Private::Text(&answer), attempt.at));
        Self {
            event: attempt.event,
            r#type: attempt.kind,
            attempt: attempt.number,
            at: text(attempt.at),
            duration_ms: attempt.duration.map(|micros| micros / 1000),
            outcome: attempt.outcome,
            status: attempt.status,
            detail: attempt.detail,
            answer,
            delivery: attempt.state,
            next_attempt: attempt.next.map(text),
        }
    }
}

fn text(at: Micros) -> String {
    rfc3339(at).to_string()
}

/// `GET /v1/webhooks`
pub(super) async fn list(services: &Services, call: Call) -> Result<Response, Problem> {
    call.query()?.end()?;
    let mut snapshot = services.history()?.archive().snapshot_of(&call.tenant).await?;
    let endpoints = manage::list(&mut snapshot, &call.tenant).await?;
    let endpoints = endpoints.iter().map(EndpointView::from).collect();
    let unreadable = manage::unreadable(&mut snapshot, &call.tenant).await?;
    Ok(ok(&List { endpoints, unreadable }))
}

/// `GET /v1/webhooks/{id}`
pub(super) async fn show(services: &Services, call: Call) -> Result<Response, Problem> {
    call.query()?.end()?;
    let mut snapshot = services.history()?.archive().snapshot_of(&call.tenant).await?;
    let id = call.parameters.get("id");
    Ok(ok(&EndpointView::from(&manage::show(&mut snapshot, &call.tenant, id).await?)))
}

/// `GET /v1/webhooks/{id}/logs`
pub(super) async fn log(services: &Services, call: Call) -> Result<Response, Problem> {
    let history = services.history()?;
    let mut query = call.query()?;
    let limit = query.limit()?;
    let after = query.value("after", "the `next` of an answer", read_cursor)?;
    let event = query.text("event")?;
    query.end()?;
    let mut snapshot = history.archive().snapshot_of(&call.tenant).await?;
    let (tenant, id) = (&call.tenant, call.parameters.get("id"));
    let page =
        manage::log(&mut snapshot, tenant, id, event.as_deref(), after.as_ref(), limit).await?;
    let LogPage { attempts, next } = page;
    let viewer = call.viewer_of_texts();
    let attempts =
        attempts.into_iter().map(|attempt| ShownAttempt::new(attempt, &viewer)).collect();
    Ok(ok(&Log { attempts, next: next.as_ref().map(cursor_text) }))
}

fn cursor_text(LogCursor { at, event, number }: &LogCursor) -> String {
    format!("{}.{number}.{event}", at.0)
}

fn read_cursor(text: &str) -> Option<LogCursor> {
    let mut parts = text.splitn(3, '.');
    let at = Micros(parts.next()?.parse().ok()?);
    let number = parts.next()?.parse().ok()?;
    Some(LogCursor { at, number, event: parts.next()?.to_owned() })
}

/// A caller that chooses where messages go could read what they tell.
fn may_receive(call: &Call) -> Result<(), Problem> {
    if call.principal.may(Right::Read) {
        return Ok(());
    }
    let detail = "who decides where messages go needs a token with the right `read`";
    Err(Problem::new(StatusCode::FORBIDDEN, detail))
}

/// `POST /v1/webhooks`
pub(super) async fn create(services: &Services, call: Call) -> Result<Outcome<'_>, Problem> {
    let draft: NewEndpoint = read_object(call.body()).map_err(|error| {
        Problem::new(StatusCode::BAD_REQUEST, format!("the body is not an endpoint's: {error}"))
    })?;
    may_receive(&call)?;
    if draft.pii && !call.principal.may(Right::Pii) {
        return Err(ManageError::Personal.into());
    }
    let mut change = Change::begin(services, &call).await?;
    let created =
        manage::create(&mut change.transaction, &change.tenant, draft, &services.allowed).await?;
    let response = json(StatusCode::CREATED, &EndpointWithSecret::new(&created));
    change.done("add_endpoint", &created.id, response).await
}

/// `PUT /v1/webhooks/{id}`
pub(super) async fn change(services: &Services, call: Call) -> Result<Outcome<'_>, Problem> {
    let wanted: manage::Change = read_object(call.body()).map_err(|error| {
        let detail = format!("the body is not a change of an endpoint: {error}");
        Problem::new(StatusCode::BAD_REQUEST, detail)
    })?;
    may_receive(&call)?;
    let may_see = call.principal.may(Right::Pii);
    let mut change = Change::begin(services, &call).await?;
    let (transaction, tenant) = (&mut change.transaction, &change.tenant);
    let (id, allowed) = (call.parameters.get("id"), &services.allowed);
    let changed = manage::change(transaction, tenant, id, wanted, allowed, may_see).await?;
    change.done("change_endpoint", id, ok(&EndpointView::from(&changed))).await
}

/// `DELETE /v1/webhooks/{id}`
pub(super) async fn remove(services: &Services, call: Call) -> Result<Outcome<'_>, Problem> {
    let mut change = Change::begin(services, &call).await?;
    let id = call.parameters.get("id");
    let removed = manage::remove(&mut change.transaction, &change.tenant, id).await?;
    let removed = match &removed {
        Some(removed) => RemovedEndpoint::Endpoint(Box::new(removed.into())),
        None => RemovedEndpoint::Unreadable { id: id.to_owned() },
    };
    change.done("remove_endpoint", id, ok(&removed)).await
}

/// `POST /v1/webhooks/{id}/rotate`
pub(super) async fn rotate(services: &Services, call: Call) -> Result<Outcome<'_>, Problem> {
    let mut change = Change::begin(services, &call).await?;
    let id = call.parameters.get("id");
    let rotated = manage::rotate(&mut change.transaction, &change.tenant, id).await?;
    change.done("rotate_endpoint", id, ok(&EndpointWithSecret::new(&rotated))).await
}

/// `POST /v1/webhooks/{id}/enable`
pub(super) async fn enable(services: &Services, call: Call) -> Result<Outcome<'_>, Problem> {
    let mut change = Change::begin(services, &call).await?;
    let id = call.parameters.get("id");
    let enabled = manage::enable(&mut change.transaction, &change.tenant, id).await?;
    change.done("enable_endpoint", id, ok(&EndpointView::from(&enabled))).await
}

/// `POST /v1/webhooks/{id}/test`: queues a message, and does not wait for it.
pub(super) async fn test(services: &Services, call: Call) -> Result<Outcome<'_>, Problem> {
    let mut change = Change::begin(services, &call).await?;
    let id = call.parameters.get("id");
    let event = manage::test(&mut change.transaction, &change.tenant, id).await?;
    change.done("test_endpoint", id, json(StatusCode::ACCEPTED, &TestMessage { event })).await
}

/// A change of endpoints: its transaction, and whose endpoints they are.
struct Change<'a> {
    services: &'a Services,
    transaction: Transaction<'a>,
    tenant: Arc<str>,
}

impl<'a> Change<'a> {
    async fn begin(services: &'a Services, call: &Call) -> Result<Self, Problem> {
        call.query()?.end()?;
        let history = services.history()?;
        let tenant = services.own_rows(call)?;
        Ok(Self { services, transaction: history.archive().begin().await?, tenant })
    }

    /// Records the change in its own transaction, which the caller commits.
    async fn done(
        mut self,
        change: &'static str,
        id: &str,
        response: Response,
    ) -> Result<Outcome<'a>, Problem> {
        let act = Act::Endpoint { change, id: id.to_owned() };
        let recorded = self.services.record(&mut self.transaction, act).await?;
        Ok(Outcome::within(self.transaction, recorded, response))
    }
}

impl From<ManageError> for Problem {
    fn from(error: ManageError) -> Self {
        let text = error.to_string();
        match error {
            ManageError::Invalid(field, _) => Self::parameter(field, text),
            ManageError::NotFound => Self::not_found(text),
            ManageError::Personal => Self::new(StatusCode::FORBIDDEN, text),
            ManageError::Exists
            | ManageError::TooMany
            | ManageError::OfConfiguration
            | ManageError::NoSecret
            | ManageError::Disabled => Self::new(StatusCode::CONFLICT, text),
            ManageError::NoRandomNumbers => Self::unavailable(text),
            ManageError::Archive(error) => error.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_as_it_is_written() {
        let cursor = LogCursor { at: Micros(7), event: "record:1f-7.x".into(), number: 3 };
        assert_eq!(read_cursor(&cursor_text(&cursor)), Some(cursor));
        for text in ["", "7", "7.3", "x.3.e", "7.x.e"] {
            assert_eq!(read_cursor(text), None, "{text}");
        }
    }
}
