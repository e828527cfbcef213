//! The rows of endpoints.

use std::fmt::Display;
use std::sync::LazyLock;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tracing::warn;

use crate::ledger::archive::sql::{Param, Row, query, read};
use crate::ledger::archive::{ArchiveError, Snapshot, Transaction};
use crate::ledger::record::Micros;
use crate::secret::Secret;
use crate::throttle::Throttle;
use crate::webhooks::endpoint::{Definition, Endpoint, Origin, Secrets, Subscription};
use crate::webhooks::signature::SigningSecret;

/// How often the log says that a row cannot be read.
const WARN_EVERY: Duration = Duration::from_secs(60);

macro_rules! columns {
    () => {
        "id, origin, definition, secrets, created, failing_since, disabled_at, disabled_reason"
    };
}

/// How secrets are stored: as they are, since messages are signed with them.
#[derive(Serialize, Deserialize)]
struct StoredSecrets {
    signing: Option<String>,
    previous: Option<String>,
    previous_until: Option<i64>,
    token: Option<String>,
}

fn content(error: &dyn Display) -> ArchiveError {
    ArchiveError::Content(error.to_string().into())
}

fn encode(secrets: &Secrets) -> Result<String, ArchiveError> {
    let Secrets { signing, previous, token } = secrets;
    let stored = StoredSecrets {
        signing: signing.as_ref().map(|secret| secret.expose().to_owned()),
        previous: previous.as_ref().map(|(secret, _)| secret.expose().to_owned()),
        previous_until: previous.as_ref().map(|(_, until)| until.0),
        token: token.as_ref().map(|token| token.expose().to_owned()),
    };
    serde_json::to_string(&stored).map_err(|error| content(&error))
}

fn decode(text: &str) -> Result<Secrets, ArchiveError> {
    // The text of an error would show what it could not read.
    let unreadable = |_| content(&"the secrets of an endpoint cannot be read");
    let StoredSecrets { signing, previous, previous_until, token } =
        serde_json::from_str(text).map_err(unreadable)?;
    let secret = |text: String| SigningSecret::parse(&text).map_err(|error| content(&error));
    let previous = previous.map(secret).transpose()?;
    Ok(Secrets {
        signing: signing.map(secret).transpose()?,
        previous: previous.zip(previous_until.map(Micros)),
        token: token.map(Secret::new),
    })
}

fn origin(text: &str) -> Result<Origin, ArchiveError> {
    match text {
        "configuration" => Ok(Origin::Configuration),
        "api" => Ok(Origin::Api),
        _ => Err(content(&"unknown origin of an endpoint")),
    }
}

fn endpoint(row: &Row) -> Result<Endpoint, ArchiveError> {
    let origin = origin(&row.text(1)?)?;
    let disabled = row.optional_integer(6)?.map(Micros).zip(row.optional_text(7)?);
    Ok(Endpoint {
        id: row.text(0)?,
        origin,
        definition: serde_json::from_str(&row.text(2)?).map_err(|error| content(&error))?,
        secrets: decode(&row.text(3)?)?,
        created: Micros(row.integer(4)?),
        failing_since: row.optional_integer(5)?.map(Micros),
        disabled,
    })
}

/// The endpoints of a tenant, by their ids.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::webhooks) struct Endpoints {
    pub(in crate::webhooks) readable: Vec<Endpoint>,
    /// The ids of rows that cannot be read, because they were edited or a newer version wrote
    /// them, and who made them, as far as that is known. They get no messages.
    pub(in crate::webhooks) unreadable: Vec<(String, Option<Origin>)>,
}

/// Says that rows cannot be read, once in a while: it is noticed whenever something is told.
fn warn_of(id: &str) {
    static WARNINGS: LazyLock<Throttle> = LazyLock::new(Throttle::default);
    if WARNINGS.admit(Instant::now(), WARN_EVERY).is_some() {
        warn!(endpoint = %id, "the row of an endpoint cannot be read; it gets no messages");
    }
}

/// Returns the endpoints that get messages, and what they want. One that cannot be read gets
/// none.
pub(in crate::webhooks) async fn recipients(
    transaction: &mut Transaction<'_>,
    tenant: &str,
) -> Result<Vec<(String, Subscription)>, ArchiveError> {
    let sql = "SELECT id, definition FROM nightporter_ledger.endpoints
               WHERE tenant = $1 AND disabled_at IS NULL ORDER BY id";
    let rows = query(transaction, sql, vec![tenant.into()]).await?;
    let recipient = |row: &Row| {
        let id = row.text(0).ok()?;
        let definition = row.text(1).ok();
        let read = definition.and_then(|text| serde_json::from_str::<Definition>(&text).ok());
        if read.is_none() {
            warn_of(&id);
        }
        read.map(|definition| (id, definition.subscription))
    };
    Ok(rows.iter().filter_map(recipient).collect())
}

/// Returns all endpoints of a tenant, by their ids.
pub(in crate::webhooks) async fn all(
    snapshot: &mut Snapshot<'_>,
    tenant: &str,
) -> Result<Endpoints, ArchiveError> {
    let sql = concat!(
        "SELECT ",
        columns!(),
        " FROM nightporter_ledger.endpoints WHERE tenant = $1 ORDER BY id"
    );
    let mut endpoints = Endpoints::default();
    for row in read(snapshot, sql, vec![tenant.into()]).await? {
        if let Ok(endpoint) = endpoint(&row) {
            endpoints.readable.push(endpoint);
        } else {
            let id = row.text(0)?;
            warn_of(&id);
            let origin = row.text(1).and_then(|text| origin(&text)).ok();
            endpoints.unreadable.push((id, origin));
        }
    }
    Ok(endpoints)
}

/// Returns who made an endpoint, whatever else is in its row; `None` if there is none.
pub(in crate::webhooks) async fn find_origin(
    transaction: &mut Transaction<'_>,
    tenant: &str,
    id: &str,
) -> Result<Option<Origin>, ArchiveError> {
    let sql = "SELECT origin FROM nightporter_ledger.endpoints WHERE tenant = $1 AND id = $2";
    let rows = query(transaction, sql, vec![tenant.into(), id.into()]).await?;
    // What nobody can read may be removed by everybody who may remove endpoints.
    let origin = |row: &Row| row.text(0).and_then(|text| origin(&text)).unwrap_or(Origin::Api);
    Ok(rows.first().map(origin))
}

const FIND: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM nightporter_ledger.endpoints WHERE tenant = $1 AND id = $2"
);

pub(in crate::webhooks) async fn shown(
    snapshot: &mut Snapshot<'_>,
    tenant: &str,
    id: &str,
) -> Result<Option<Endpoint>, ArchiveError> {
    let rows = read(snapshot, FIND, vec![tenant.into(), id.into()]).await?;
    rows.first().map(endpoint).transpose()
}

pub(in crate::webhooks) async fn find(
    transaction: &mut Transaction<'_>,
    tenant: &str,
    id: &str,
) -> Result<Option<Endpoint>, ArchiveError> {
    let rows = query(transaction, FIND, vec![tenant.into(), id.into()]).await?;
    rows.first().map(endpoint).transpose()
}

/// The same, and keeps it from changing otherwise until the transaction ends.
pub(in crate::webhooks) async fn find_and_lock(
    transaction: &mut Transaction<'_>,
    tenant: &str,
    id: &str,
) -> Result<Option<Endpoint>, ArchiveError> {
    // An update that changes nothing locks the row in both kinds of database.
    let sql = concat!(
        "UPDATE nightporter_ledger.endpoints SET created = created
         WHERE tenant = $1 AND id = $2 RETURNING ",
        columns!()
    );
    let rows = query(transaction, sql, vec![tenant.into(), id.into()]).await?;
    rows.first().map(endpoint).transpose()
}

/// Returns the endpoints that get no messages, and why.
pub(in crate::webhooks) async fn disabled(
    snapshot: &mut Snapshot<'_>,
    tenant: &str,
) -> Result<Vec<(String, String)>, ArchiveError> {
    let sql = "SELECT id, disabled_reason FROM nightporter_ledger.endpoints
               WHERE tenant = $1 AND disabled_at IS NOT NULL ORDER BY id";
    let rows = read(snapshot, sql, vec![tenant.into()]).await?;
    rows.iter().map(|row| Ok((row.text(0)?, row.optional_text(1)?.unwrap_or_default()))).collect()
}

pub(in crate::webhooks) async fn count(
    transaction: &mut Transaction<'_>,
    tenant: &str,
) -> Result<i64, ArchiveError> {
    let sql = "SELECT count(*) FROM nightporter_ledger.endpoints WHERE tenant = $1";
    let rows = query(transaction, sql, vec![tenant.into()]).await?;
    rows.first().map_or(Ok(0), |row| row.integer(0))
}

/// Adds an endpoint; returns `false` if there is one with this id.
pub(in crate::webhooks) async fn insert(
    transaction: &mut Transaction<'_>,
    tenant: &str,
    endpoint: &Endpoint,
) -> Result<bool, ArchiveError> {
    let sql = "INSERT INTO nightporter_ledger.endpoints
                   (tenant, id, origin, definition, secrets, created)
               VALUES ($1, $2, $3, $4, $5, $6)
               ON CONFLICT (tenant, id) DO NOTHING RETURNING id";
    let definition =
        serde_json::to_string(&endpoint.definition).map_err(|error| content(&error))?;
    let params = vec![
        tenant.into(),
        endpoint.id.as_str().into(),
        endpoint.origin.as_str().into(),
        definition.into(),
        encode(&endpoint.secrets)?.into(),
        endpoint.created.into(),
    ];
    Ok(!query(transaction, sql, params).await?.is_empty())
}

/// Writes all of an endpoint but who made it and when.
pub(in crate::webhooks) async fn update(
    transaction: &mut Transaction<'_>,
    tenant: &str,
    endpoint: &Endpoint,
) -> Result<(), ArchiveError> {
    let sql = "UPDATE nightporter_ledger.endpoints SET definition = $3, secrets = $4,
                   failing_since = $5, disabled_at = $6, disabled_reason = $7
               WHERE tenant = $1 AND id = $2";
    let definition =
        serde_json::to_string(&endpoint.definition).map_err(|error| content(&error))?;
    let (at, reason) = match &endpoint.disabled {
        Some((at, reason)) => (Some(*at), Some(reason.as_str())),
        None => (None, None),
    };
    let params = vec![
        tenant.into(),
        endpoint.id.as_str().into(),
        definition.into(),
        encode(&endpoint.secrets)?.into(),
        endpoint.failing_since.into(),
        at.into(),
        reason.into(),
    ];
    query(transaction, sql, params).await.map(drop)
}

/// Notes since when an endpoint fails.
pub(in crate::webhooks) async fn set_failing(
    transaction: &mut Transaction<'_>,
    tenant: &str,
    id: &str,
    since: Option<Micros>,
) -> Result<(), ArchiveError> {
    let sql = "UPDATE nightporter_ledger.endpoints SET failing_since = $3
               WHERE tenant = $1 AND id = $2";
    let params: Vec<Param> = vec![tenant.into(), id.into(), since.into()];
    query(transaction, sql, params).await.map(drop)
}

/// Disables an endpoint; returns `false` if it was already, or is gone.
pub(in crate::webhooks) async fn disable(
    transaction: &mut Transaction<'_>,
    tenant: &str,
    id: &str,
    at: Micros,
    reason: &str,
) -> Result<bool, ArchiveError> {
    let sql = "UPDATE nightporter_ledger.endpoints SET disabled_at = $3, disabled_reason = $4
               WHERE tenant = $1 AND id = $2 AND disabled_at IS NULL RETURNING id";
    let params = vec![tenant.into(), id.into(), at.into(), reason.into()];
    Ok(!query(transaction, sql, params).await?.is_empty())
}

/// Removes an endpoint with its deliveries and their log; returns `false` if there is none.
pub(in crate::webhooks) async fn delete(
    transaction: &mut Transaction<'_>,
    tenant: &str,
    id: &str,
) -> Result<bool, ArchiveError> {
    let sql = "DELETE FROM nightporter_ledger.endpoints WHERE tenant = $1 AND id = $2 RETURNING id";
    Ok(!query(transaction, sql, vec![tenant.into(), id.into()]).await?.is_empty())
}
