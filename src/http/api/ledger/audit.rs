//! Proofs: that a record is in the tree, and the tree's signed head.

use http::{HeaderValue, StatusCode};
use schemars::JsonSchema;
use serde::Serialize;

use super::requests::{missing, record_id};
use super::{Call, Problem, Services, json, ok};
use crate::http::{Response, answer};
use crate::ledger::proof::{Audit, AuditError, audit};

/// A checkpoint is a signed note: text, which is saved as it is.
const NOTE: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// There is no proof yet.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "ProofPending")]
pub(in super::super) struct Pending {
    detail: &'static str,
}

/// `GET /v1/audit/{id}`: answers 202 until a checkpoint covers the record.
pub(in super::super) async fn prove(services: &Services, call: Call) -> Result<Response, Problem> {
    let history = services.history()?;
    let mut query = call.query()?;
    let is_masked = query.value("masked", "true or false", |text| text.parse().ok())?;
    query.end()?;
    let id = record_id(&call)?;
    let (archive, tenant) = (history.archive(), &call.tenant);
    let viewer = history.viewer(&call.principal, tenant).await;
    match audit(archive, tenant, id, is_masked.unwrap_or(false), &viewer).await? {
        Audit::Covered(proof) => Ok(ok(&proof)),
        Audit::Unknown => Err(missing(id)),
        Audit::Pending => {
            let detail = "no checkpoint covers the record yet";
            let mut response = json(StatusCode::ACCEPTED, &Pending { detail });
            let seconds = history.ledger.checkpoint_interval.as_secs().clamp(1, 60);
            response.headers_mut().insert(http::header::RETRY_AFTER, seconds.into());
            Ok(response)
        }
    }
}

/// `GET /v1/audit/checkpoint`
pub(in super::super) async fn checkpoint(
    services: &Services,
    call: Call,
) -> Result<Response, Problem> {
    let history = services.history()?;
    call.query()?.end()?;
    let mut snapshot = history.archive().snapshot_of(&call.tenant).await?;
    match snapshot.checkpoint(&call.tenant).await? {
        Some(last) => Ok(answer::typed(StatusCode::OK, NOTE, last.note.into())),
        None => Err(Problem::not_found("there is no checkpoint yet")),
    }
}

impl From<AuditError> for Problem {
    fn from(error: AuditError) -> Self {
        match error {
            AuditError::Archive(error) => error.into(),
            AuditError::NotMaskable => Self::new(StatusCode::FORBIDDEN, error.to_string()),
            error => Self::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        }
    }
}
