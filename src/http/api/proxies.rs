//! What proxies and monitors ask: the routes to all apps, and whether an app is awake.
//!
//! Nothing here wakes an app or counts as a use of it.

use std::sync::Arc;

use http::StatusCode;
use schemars::JsonSchema;
use serde::Serialize;

use super::problem::Problem;
use super::{Call, Services, ok};
use crate::domain::lifecycle::Phase;
use crate::http::Response;
use crate::proxies::routes::routes;
use crate::proxies::traefik::Setup;
use crate::store::Source;

/// What Traefik's HTTP provider is told.
pub(crate) struct ProxyRoutes {
    source: Arc<Source>,
    config: Arc<crate::config::Config>,
}

/// Whether an app is awake, in the words of a monitor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub(super) struct Status {
    app: String,
    /// `awake`, `asleep`, `starting` or `failed`.
    state: &'static str,
}

impl ProxyRoutes {
    pub(crate) fn new(source: Arc<Source>, config: Arc<crate::config::Config>) -> Self {
        Self { source, config }
    }
}

/// Whether a path is one that `ops.monitors` may ask without a token.
pub(super) fn is_for_monitors(path: &str) -> bool {
    path == "/v1/traefik" || path == "/v1/status" || path.starts_with("/v1/status/")
}

/// `GET /v1/traefik`: the dynamic configuration for Traefik's HTTP provider.
pub(super) async fn traefik(services: &Services) -> Result<Response, Problem> {
    let ProxyRoutes { source, config } = &services.proxies;
    let setup = Setup::new(config.traefik.clone(), config)
        .map_err(|error| Problem::new(StatusCode::CONFLICT, error.to_string()))?;
    // Traefik keeps what it was told last while it gets no answer; what an answer leaves out,
    // it takes away.
    let unavailable = |_| Problem::unavailable("the store cannot answer");
    let domain = services.gate.read_box_domain().await.map_err(unavailable)?;
    let routes = routes(source, domain.as_deref(), config.gate.domain.as_deref()).await;
    let routes = routes.map_err(unavailable)?;
    Ok(ok(&setup.document(&routes)))
}

/// `GET /v1/status/{app}`
pub(super) fn status(services: &Services, call: &Call) -> Result<Response, Problem> {
    let name = call.parameters.get("name");
    status_of(services, name).ok_or_else(|| missing(&format!("there is no app `{name}`")))
}

/// `GET /v1/status?host=`
pub(super) async fn status_by_host(services: &Services, call: Call) -> Result<Response, Problem> {
    let mut query = call.query()?;
    let host = query.text("host")?;
    query.end()?;
    let host = host.ok_or_else(|| Problem::parameter("host", "`host` is missing"))?;
    let app = services.gate.app_of_host(&host).await;
    app.and_then(|app| status_of(services, &app))
        .ok_or_else(|| missing(&format!("no app has the host `{host}`")))
}

fn missing(detail: &str) -> Problem {
    Problem::not_found(detail.to_owned())
}

fn status_of(services: &Services, name: &str) -> Option<Response> {
    let app = services.apps.registry().get(name)?;
    let state = state(&app.shown().phase);
    Some(ok(&Status { app: app.name.to_string(), state }))
}

/// Returns a phase in one of the four words of a monitor.
fn state(phase: &Phase) -> &'static str {
    match phase {
        Phase::Awake => "awake",
        Phase::Stopped | Phase::Paused | Phase::Missing => "asleep",
        Phase::Queued { .. }
        | Phase::Starting
        | Phase::Unpausing
        | Phase::AwaitingHealth
        | Phase::AwaitingPort => "starting",
        Phase::Failed { .. }
        | Phase::LowDisk
        | Phase::TooSmall { .. }
        | Phase::Unavailable { .. } => "failed",
    }
}
