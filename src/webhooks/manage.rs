//! What the operator and callers of the API do with endpoints.
//!
//! Each change is part of a transaction that the caller commits.

mod change;

use serde::Deserialize;

pub use self::change::{Change, change};
use super::address::Allowed;
use super::configured::ROTATION;
use super::connector::{AllowedBy, Rules, permit};
use super::deliveries::{self, Attempt, LogCursor};
use super::endpoint::{
    DEFAULT_EVENTS, Definition, Endpoint, EndpointKind, EventPattern, Origin, Secrets,
    Subscription, is_name, secrets_problem, url_problem,
};
use super::outbox::queue;
use super::quiet::Quiet;
use super::signature::SigningSecret;
use super::target::Target;
use super::{events, rows};
use crate::backoff::random;
use crate::ledger::archive::{ArchiveError, Snapshot, Transaction};
use crate::ledger::record::Micros;
use crate::secret::Secret;

/// Endpoints of one box. Each may have connections of its own.
const MOST: i64 = 100;

/// What a caller says about a new endpoint.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewEndpoint {
    /// Its id; a random one if it has none.
    pub name: Option<String>,
    pub kind: EndpointKind,
    pub url: String,
    /// Of a webhook; a random one if it has none.
    pub secret: Option<String>,
    pub token: Option<String>,
    pub events: Option<Vec<EventPattern>>,
    #[serde(default)]
    pub apps: Vec<String>,
    pub quiet: Option<Quiet>,
    #[serde(default)]
    pub pii: bool,
}

/// Why something is not done.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ManageError {
    /// The field, and what is wrong with it.
    #[error("{1}")]
    Invalid(&'static str, String),
    #[error("there is an endpoint with this name")]
    Exists,
    #[error("there are {MOST} endpoints, which is the limit")]
    TooMany,
    #[error("there is no endpoint with this name")]
    NotFound,
    #[error("this endpoint belongs to the configuration; change it there")]
    OfConfiguration,
    #[error("only webhooks have secrets that can be rotated")]
    NoSecret,
    #[error("the endpoint is disabled; enable it first")]
    Disabled,
    #[error("an endpoint with personal values needs a token with the right `pii`")]
    Personal,
    #[error("the system provides no random numbers")]
    NoRandomNumbers,
    #[error(transparent)]
    Archive(#[from] ArchiveError),
}

/// Checks a draft. `allow` is what the operator allows endpoints of the API. A name is not
/// resolved here: it is at every attempt.
fn endpoint(draft: NewEndpoint, allow: &[Allowed], now: Micros) -> Result<Endpoint, ManageError> {
    let invalid = |field, problem: String| ManageError::Invalid(field, problem);
    let NewEndpoint { name, kind, url, secret, token, events, apps, quiet, pii } = draft;
    let id = match name {
        Some(name) if is_name(&name) => name,
        Some(_) => {
            let problem = "a name has up to 64 letters, digits, `-`, `_` and `.`";
            return Err(invalid("name", problem.to_owned()));
        }
        None => format!("{:08x}{:08x}", random(), random()),
    };
    let target = target(kind, &url, allow)?;
    if let Some(problem) = secrets_problem(kind, secret.is_some(), token.is_some()) {
        let field = if secret.is_some() { "secret" } else { "token" };
        return Err(invalid(field, problem.to_owned()));
    }
    let token = token.map(read_token).transpose()?;
    let signing = match secret {
        Some(secret) => Some(
            SigningSecret::parse(&secret).map_err(|error| invalid("secret", error.to_string()))?,
        ),
        None if kind == EndpointKind::Webhook => {
            Some(SigningSecret::random().ok_or(ManageError::NoRandomNumbers)?)
        }
        None => None,
    };
    let events = wanted(events)?;
    Ok(Endpoint {
        id,
        origin: Origin::Api,
        definition: Definition {
            kind,
            url: target,
            subscription: Subscription { events, apps, pii },
            quiet,
            allow: Vec::new(),
        },
        secrets: Secrets { signing, previous: None, token },
        created: now,
        failing_since: None,
        disabled: None,
    })
}

/// Checks a URL as far as that is possible without looking up its host.
fn target(kind: EndpointKind, url: &str, allow: &[Allowed]) -> Result<Target, ManageError> {
    let invalid = |problem| ManageError::Invalid("url", problem);
    let target = Target::parse(url).map_err(|error| invalid(error.to_string()))?;
    if let Some(problem) = url_problem(kind, &target) {
        return Err(invalid(problem.to_owned()));
    }
    let rules = Rules { allow, allowed_by: AllowedBy::Webhooks };
    if let Some(address) = target.address() {
        permit(&target, &target.host(), &[address], rules).map_err(invalid)?;
    }
    Ok(target)
}

fn read_token(text: String) -> Result<Secret, ManageError> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        let problem = "a token has visible ASCII characters only";
        return Err(ManageError::Invalid("token", problem.to_owned()));
    }
    Ok(Secret::new(text))
}

/// Returns which events an endpoint wants; the usual ones if it does not say.
fn wanted(events: Option<Vec<EventPattern>>) -> Result<Vec<EventPattern>, ManageError> {
    let default = || DEFAULT_EVENTS.iter().filter_map(|text| text.parse().ok()).collect();
    let events = events.unwrap_or_else(default);
    if events.is_empty() {
        let problem = "an endpoint without events gets no messages";
        return Err(ManageError::Invalid("events", problem.to_owned()));
    }
    Ok(events)
}

/// Creates an endpoint. Its secret is in the result, and is not shown again.
pub async fn create(
    transaction: &mut Transaction<'_>,
    tenant: &str,
    draft: NewEndpoint,
    allow: &[Allowed],
) -> Result<Endpoint, ManageError> {
    let now = transaction.now().await?;
    let endpoint = endpoint(draft, allow, now)?;
    if rows::count(transaction, tenant).await? >= MOST {
        return Err(ManageError::TooMany);
    }
    if rows::insert(transaction, tenant, &endpoint).await? {
        Ok(endpoint)
    } else {
        Err(ManageError::Exists)
    }
}

/// Returns one endpoint, as a part of a transaction.
pub async fn find(
    transaction: &mut Transaction<'_>,
    tenant: &str,
    id: &str,
) -> Result<Endpoint, ManageError> {
    rows::find(transaction, tenant, id).await?.ok_or(ManageError::NotFound)
}

/// Returns one endpoint, which nobody else changes until the transaction ends.
async fn lock(
    transaction: &mut Transaction<'_>,
    tenant: &str,
    id: &str,
) -> Result<Endpoint, ManageError> {
    rows::find_and_lock(transaction, tenant, id).await?.ok_or(ManageError::NotFound)
}

/// Removes an endpoint with its deliveries and their log. Returns it; `None` if its row could
/// not be read.
pub async fn remove(
    transaction: &mut Transaction<'_>,
    tenant: &str,
    id: &str,
) -> Result<Option<Endpoint>, ManageError> {
    match rows::find_origin(transaction, tenant, id).await? {
        None => return Err(ManageError::NotFound),
        Some(Origin::Configuration) => return Err(ManageError::OfConfiguration),
        Some(Origin::Api) => {}
    }
    let removed = match rows::find(transaction, tenant, id).await {
        Err(ArchiveError::Content(_)) => None,
        found => found?,
    };
    rows::delete(transaction, tenant, id).await?;
    Ok(removed)
}

/// Gives a webhook another secret, and returns it; the former one signs as well for a day.
pub async fn rotate(
    transaction: &mut Transaction<'_>,
    tenant: &str,
    id: &str,
) -> Result<Endpoint, ManageError> {
    let mut endpoint = lock(transaction, tenant, id).await?;
    if endpoint.definition.kind != EndpointKind::Webhook {
        return Err(ManageError::NoSecret);
    }
    if endpoint.origin == Origin::Configuration {
        return Err(ManageError::OfConfiguration);
    }
    let secret = SigningSecret::random().ok_or(ManageError::NoRandomNumbers)?;
    let now = transaction.now().await?;
    endpoint.secrets.rotate(secret, Micros(now.0 + ROTATION));
    rows::update(transaction, tenant, &endpoint).await?;
    Ok(endpoint)
}

/// Lets a disabled endpoint get messages again: those of events from now on.
pub async fn enable(
    transaction: &mut Transaction<'_>,
    tenant: &str,
    id: &str,
) -> Result<Endpoint, ManageError> {
    let mut endpoint = lock(transaction, tenant, id).await?;
    if endpoint.disabled.take().is_some() {
        endpoint.failing_since = None;
        rows::update(transaction, tenant, &endpoint).await?;
    }
    Ok(endpoint)
}

/// Queues a test message, whatever the endpoint wants; returns the event's id.
pub async fn test(
    transaction: &mut Transaction<'_>,
    tenant: &str,
    id: &str,
) -> Result<String, ManageError> {
    let endpoint = find(transaction, tenant, id).await?;
    if endpoint.disabled.is_some() {
        return Err(ManageError::Disabled);
    }
    let now = transaction.now().await?;
    let event = events::test(id, &format!("{:08x}{:08x}", random(), random()), now);
    queue(transaction, tenant, id, &endpoint.definition.subscription, &event, now).await?;
    Ok(event.id)
}

/// Returns all endpoints, by their ids.
pub async fn list(
    snapshot: &mut Snapshot<'_>,
    tenant: &str,
) -> Result<Vec<Endpoint>, ArchiveError> {
    Ok(rows::all(snapshot, tenant).await?.readable)
}

/// Returns the ids of endpoints whose rows cannot be read. They get no messages.
pub async fn unreadable(
    snapshot: &mut Snapshot<'_>,
    tenant: &str,
) -> Result<Vec<String>, ArchiveError> {
    let unreadable = rows::all(snapshot, tenant).await?.unreadable.into_iter();
    Ok(unreadable.map(|(id, _)| id).collect())
}

/// Returns the endpoints that get no messages, and why.
pub async fn disabled(
    snapshot: &mut Snapshot<'_>,
    tenant: &str,
) -> Result<Vec<(String, String)>, ArchiveError> {
    rows::disabled(snapshot, tenant).await
}

/// Returns one endpoint.
pub async fn show(
    snapshot: &mut Snapshot<'_>,
    tenant: &str,
    id: &str,
) -> Result<Endpoint, ManageError> {
    rows::shown(snapshot, tenant, id).await?.ok_or(ManageError::NotFound)
}

/// A page of an endpoint's log, the newest attempts first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogPage {
    pub attempts: Vec<Attempt>,
    /// Where the next page begins, if there is one.
    pub next: Option<LogCursor>,
}

/// Returns a page of the log, of all events or of one.
pub async fn log(
    snapshot: &mut Snapshot<'_>,
    tenant: &str,
    id: &str,
    event: Option<&str>,
    after: Option<&LogCursor>,
    limit: usize,
) -> Result<LogPage, ManageError> {
    if rows::shown(snapshot, tenant, id).await?.is_none() {
        return Err(ManageError::NotFound);
    }
    // One more tells whether there is a next page.
    let more = i64::try_from(limit).unwrap_or(i64::MAX - 1) + 1;
    let mut attempts = deliveries::log(snapshot, tenant, id, event, after, more).await?;
    let has_next = attempts.len() > limit;
    attempts.truncate(limit);
    let last = attempts.last().filter(|_| has_next);
    let next =
        last.map(|last| LogCursor { at: last.at, event: last.event.clone(), number: last.number });
    Ok(LogPage { attempts, next })
}
