//! The state of all apps, and operations on them.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;

use super::app_state::{AppState, reason};
use super::problem::{Kind, Problem};
use super::{Call, Services, ok};
use crate::access::Viewer;
use crate::domain::lifecycle::{Phase, SleepMode, WakeError};
use crate::domain::names::Contested;
use crate::http::Response;
use crate::ledger::acts::Act;
use crate::store::descriptions::Descriptions;
use crate::store::touch::Touches;
use crate::wake::{AppHandle, AppView, Backlog, Registry};

/// `GET /v1/apps`
pub(super) async fn list(services: &Services, call: Call) -> Result<Response, Problem> {
    let contested = services.gate.contested_hosts().await;
    Ok(ok(&services.apps.all(&contested, &call.viewer_of_texts())))
}

/// `GET /v1/apps/{name}`
pub(super) async fn show(services: &Services, call: Call) -> Result<Response, Problem> {
    let name = call.parameters.get("name");
    let contested = services.gate.contested_hosts().await;
    let app = services.apps.one(name, &contested, &call.viewer_of_texts());
    let app = app.ok_or_else(|| missing(name))?;
    Ok(ok(&app))
}

/// `POST /v1/apps/{name}/wake`, `/sleep` and `/pause`: answers when the operation has
/// finished. It goes on even if the client disconnects.
pub(super) async fn operate(
    services: &Services,
    call: Call,
    operation: Operation,
) -> Result<Response, Problem> {
    let (apps, name) = (&services.apps, call.parameters.get("name"));
    let app = apps.registry.get(name).ok_or_else(|| missing(name))?;
    let act = services.commit(&call, operation.act(&app.name)).await?;
    let (operator, operated) = (apps.clone(), Arc::clone(&app));
    let outcome = act.perform(async move { operator.operate(&operated, operation).await }).await;
    let viewer = call.viewer_of_texts();
    match outcome {
        Ok(()) => Ok(ok(&apps.describe(&app, &[], &viewer))),
        Err(failure) => {
            let status = match &failure {
                WakeError::Declined(_) => StatusCode::CONFLICT,
                _ => StatusCode::SERVICE_UNAVAILABLE,
            };
            let detail = reason(&failure, &viewer);
            let problem = Problem::new(status, detail).kind(Kind::APP_FAILED);
            Err(Problem { app: apps.one(name, &[], &viewer).map(Box::new), ..problem })
        }
    }
}

fn missing(name: &str) -> Problem {
    Problem::not_found(format!("there is no app `{name}`"))
}

/// An operation that the operator requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    Wake,
    /// Stops the app's containers.
    Sleep,
    Pause,
}

impl Operation {
    fn act(self, app: &Arc<str>) -> Act {
        let app = Arc::clone(app);
        match self {
            Self::Wake => Act::Wake { app },
            Self::Sleep => Act::Sleep { app },
            Self::Pause => Act::Pause { app },
        }
    }
}

/// Describes all known apps and performs operations on them.
#[derive(Debug, Clone)]
pub(crate) struct Apps {
    registry: Arc<Registry>,
    touches: Arc<Touches>,
    descriptions: Arc<Descriptions>,
}

impl Apps {
    pub(crate) fn new(
        registry: Arc<Registry>,
        touches: Arc<Touches>,
        descriptions: Arc<Descriptions>,
    ) -> Self {
        Self { registry, touches, descriptions }
    }

    /// Returns the registry, which knows when the process is about to end.
    pub(super) fn registry(&self) -> Arc<Registry> {
        Arc::clone(&self.registry)
    }

    fn all(&self, contested: &[Contested], viewer: &Viewer) -> Vec<AppState> {
        self.registry.list().iter().map(|app| self.describe(app, contested, viewer)).collect()
    }

    fn one(&self, name: &str, contested: &[Contested], viewer: &Viewer) -> Option<AppState> {
        self.registry.get(name).map(|app| self.describe(&app, contested, viewer))
    }

    /// Performs an operation; returns when it has ended.
    async fn operate(&self, app: &AppHandle, operation: Operation) -> Result<(), WakeError> {
        match operation {
            Operation::Wake => self.registry.wake(&app.name).await,
            Operation::Sleep => self.registry.sleep(&app.name, SleepMode::Stopped).await,
            Operation::Pause => self.registry.sleep(&app.name, SleepMode::Paused).await,
        }
    }

    /// Returns whether the engine's events arrive, and how many apps are in each state.
    pub(super) fn counts(&self) -> (bool, impl Iterator<Item = (&'static str, u64)> + use<>) {
        let mut counts = Phase::WORDS.map(|word| (word, 0));
        for app in self.registry.list() {
            let word = app.shown().phase.as_str();
            if let Some((_, count)) = counts.iter_mut().find(|(other, _)| *other == word) {
                *count += 1;
            }
        }
        (self.registry.is_engine_live(), counts.into_iter())
    }

    /// Returns the reconciler's queue of commands, and how long the app that has been
    /// waiting longest for its start has done so.
    pub(super) fn queues(&self) -> (Backlog, Duration) {
        let is_queued = |shown: &AppView| matches!(shown.phase, Phase::Queued { .. });
        let shown = self.registry.list().into_iter().map(|app| app.shown()).filter(is_queued);
        let ages = shown.filter_map(|shown| Some(shown.began?.elapsed()));
        (self.registry.backlog(), ages.max().unwrap_or_default())
    }

    fn describe(&self, app: &AppHandle, contested: &[Contested], viewer: &Viewer) -> AppState {
        let mut problems = app.problems();
        let hosts = contested.iter().filter(|contested| contested.apps.contains(&app.name));
        let found = self.descriptions.problems(&app.name).into_iter();
        for problem in found.chain(hosts.map(ToString::to_string)) {
            // The gate has noted all findings of an unusable description as one.
            if !problems.iter().any(|known| known.contains(&problem)) {
                problems.push(problem);
            }
        }
        AppState::new(app, &self.registry, &self.touches, problems, viewer)
    }
}
