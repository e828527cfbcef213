//! Who has to wait after too many wrong credentials.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::Serialize;

use super::problem::Problem;
use super::{Call, Services, ok};
use crate::access::{Private, Right, Viewer};
use crate::domain::origin::Origin;
use crate::gate::limits::Limited;
use crate::http::{Response, answer};
use crate::ledger::acts::Act;
use crate::ledger::clock;

/// Those that have to wait, the longest wait first.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Limits")]
pub(super) struct List {
    limits: Vec<LimitView>,
}

/// An address that has to wait: wrong credentials from it get 429, and codes are not looked at.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Limit")]
pub(super) struct LimitView {
    /// An IPv4 address, or the /64 of an IPv6 address.
    #[schemars(extend("x-masked" = true))]
    address: String,
    /// How many different wrong credentials came from it.
    guesses: u32,
    wait_seconds: u64,
}

/// What was lifted.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "LiftedLimit")]
pub(super) struct LiftedLimit {
    lifted: bool,
}

/// `GET /v1/limits`
pub(super) async fn list(services: &Services, call: Call) -> Result<Response, Problem> {
    let viewer = viewer(services, &call).await;
    let limited = services.gate.limited();
    Ok(ok(&List {
        limits: limited.iter().map(|limited| LimitView::new(*limited, &viewer)).collect(),
    }))
}

/// `DELETE /v1/limits/{address}`
pub(super) async fn lift(services: &Services, call: Call) -> Result<Response, Problem> {
    let text = call.parameters.get("address");
    let origin: Origin = text.parse().map_err(|_| {
        Problem::parameter("address", "invalid address: expected an IP address or an IPv6 /64")
    })?;
    let missing = || Problem::not_found("no such address has to wait");
    if !services.gate.limited().iter().any(|limited| limited.origin == origin) {
        return Err(missing());
    }
    let act = services.commit(&call, Act::LiftLimit { address: origin.address() }).await?;
    let gate = Arc::clone(&services.gate);
    let lift =
        async move { if gate.lift_limit(origin) { Ok(()) } else { Err("it was over already") } };
    let lifted = act.perform(lift).await.is_ok();
    Ok(ok(&LiftedLimit { lifted }))
}

/// Returns as whom the answer is written.
async fn viewer(services: &Services, call: &Call) -> Viewer {
    match &services.history {
        Some(history) => history.viewer(&call.principal, &call.tenant).await,
        None if call.principal.may(Right::Pii) => Viewer::clear(),
        None => Viewer::masked(None, &call.tenant),
    }
}

impl LimitView {
    fn new(Limited { origin, guesses, wait }: Limited, viewer: &Viewer) -> Self {
        let address = if viewer.is_masked() {
            viewer.show(Private::Address(&origin.address().to_string()), clock::now())
        } else {
            origin.to_string()
        };
        Self { address, guesses, wait_seconds: answer::whole_seconds(wait) }
    }
}
