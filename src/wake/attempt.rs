//! One attempt to wake an app, or to put it to sleep.
//!
//! An attempt holds the app's lock while it acts, and acts on the current state: the
//! status in the store and the containers in the engine, both read after the lock was
//! acquired. If the engine answers that its state has changed (404, 409), the attempt
//! reads both again and retries once.

mod ready;
mod recreate;
mod sleep;
mod start;

pub(super) use sleep::CANNOT_BE_PAUSED;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout_at};
use tracing::{debug, warn};

use super::Registry;
use super::compose::Compose;
use super::docker::watch::View;
use super::docker::{Engine, EngineError};
use super::handle::AppHandle;
use super::observed::{EngineState, Observed};
use super::resources::free_disk;
use super::selector::Selector;
use super::spec::AppSpec;
use crate::config;
use crate::domain::lifecycle::{Phase, WakeError};
use crate::store::{AppLock, InstallState, Source, Unavailable};

/// How long an attempt waits for the lock while another process holds it.
const LOCK_TIMEOUT: Duration = Duration::from_secs(30);
const LOCK_RETRY: Duration = Duration::from_millis(50);

const LOCK_LOST: &str = "the session that holds the app's lock has ended";

/// How long an attempt waits for an engine that has just become unreachable.
const ENGINE_TIMEOUT: Duration = Duration::from_secs(3);

/// What all attempts share.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) config: config::Wake,
    pub(super) reclaim: bool,
    pub(super) engine: Arc<Engine>,
    pub(super) source: Arc<Source>,
    pub(super) compose: Arc<Compose>,
}

/// One attempt on one app.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) context: Arc<Context>,
    pub(super) registry: Arc<Registry>,
    pub(super) app: Arc<AppHandle>,
    pub(super) selector: Selector,
    pub(super) view: View,
    /// Containers that were selected to be started. A second selection must not drop them
    /// because other containers have started in the meantime.
    pub(super) chosen: HashSet<Arc<str>>,
    pub(super) progress: mpsc::UnboundedSender<(Arc<str>, Phase)>,
}

/// The outcome of an attempt to wake an app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    Ready,
    Failed(WakeError),
    /// Nothing was done, for a reason that is not a failure; the phase gives the reason.
    Declined(Phase),
    /// The app is not installed any more.
    Gone,
}

impl Outcome {
    /// The names of all outcomes.
    pub(super) const WORDS: [&'static str; 4] = ["ready", "failed", "declined", "gone"];

    /// Returns its name in metrics.
    pub(super) fn as_str(&self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Failed(_) => "failed",
            Self::Declined(_) => "declined",
            Self::Gone => "gone",
        }
    }

    /// Returns what the operator is told.
    pub(super) fn result(&self) -> Result<(), WakeError> {
        Err(match self {
            Self::Ready => return Ok(()),
            Self::Failed(failure) => failure.clone(),
            // It was put to sleep again in the meantime.
            Self::Declined(Phase::Paused) => WakeError::Declined("paused again"),
            Self::Declined(phase) => WakeError::Declined(phase.as_str()),
            Self::Gone => WakeError::Declined("not installed"),
        })
    }
}

/// Why a step failed.
enum AttemptError {
    /// The state that the step was based on had changed.
    Stale(String),
    Failed(WakeError),
}

impl From<WakeError> for AttemptError {
    fn from(failure: WakeError) -> Self {
        Self::Failed(failure)
    }
}

impl From<EngineError> for AttemptError {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::NotFound(reason) | EngineError::Conflict(reason) => Self::Stale(reason),
            EngineError::Away(reason) => {
                debug!(reason, "the engine does not answer");
                Self::Failed(WakeError::EngineAway)
            }
            EngineError::Refused { message, .. } => Self::Failed(WakeError::Engine(message)),
        }
    }
}

impl From<Unavailable> for WakeError {
    fn from(error: Unavailable) -> Self {
        Self::Store(error.to_string())
    }
}

impl Attempt {
    fn spec(&self) -> Arc<AppSpec> {
        self.app.spec()
    }

    fn observe(&self) -> Observed {
        self.selector.observe(&self.spec(), &self.view.snapshot())
    }

    fn report(&self, phase: Phase) {
        // The reconciler ends only when the process does.
        let _ = self.progress.send((Arc::clone(&self.app.name), phase));
    }

    /// Brings the app from any state to ready.
    pub(super) async fn wake(mut self) -> Outcome {
        let deadline = Instant::now() + self.context.config.start_timeout;
        let was_paused = match self.act_locked().await {
            Ok(was_paused) => was_paused,
            Err(outcome) => return outcome,
        };
        // The time that Compose needed to pull an image does not count against the app's
        // limit.
        let deadline = deadline.max(Instant::now() + self.context.config.start_timeout / 2);
        self.until_ready(was_paused, deadline).await
    }

    /// Waits until an app that was started from outside is ready.
    pub(super) async fn follow(mut self, was_paused: bool) -> Outcome {
        let deadline = Instant::now() + self.context.config.start_timeout;
        self.until_ready(was_paused, deadline).await
    }

    async fn lock(&self) -> Result<AppLock, WakeError> {
        let deadline = Instant::now() + LOCK_TIMEOUT;
        loop {
            let acquired =
                timeout_at(deadline, self.context.source.try_lock_app(&self.app.name)).await;
            let acquired = acquired.unwrap_or_else(|_| {
                Err(Unavailable::new("acquiring the app's lock took too long"))
            });
            if let Some(lock) = acquired? {
                return Ok(lock);
            }
            if Instant::now() >= deadline {
                let reason = "another process has been waking this app for too long";
                return Err(WakeError::Store(reason.into()));
            }
            sleep(LOCK_RETRY).await;
        }
    }

    /// Acts while the lock is held. If the lock is lost, the action is cancelled and
    /// begins again with a new lock, from the state at that time.
    async fn act_locked(&mut self) -> Result<bool, Outcome> {
        let deadline = Instant::now() + LOCK_TIMEOUT;
        loop {
            let lock = self.lock().await.map_err(Outcome::Failed)?;
            let result = tokio::select! {
                biased;
                () = lock.lost() => None,
                result = self.act() => Some(result),
            };
            if let Some(result) = result {
                lock.release().await;
                return result;
            }
            if Instant::now() >= deadline {
                return Err(Outcome::Failed(WakeError::Store(LOCK_LOST.into())));
            }
            warn!(app = %self.app.name, "{LOCK_LOST}; acquiring it again");
        }
    }

    /// Starts all containers that have to be started. Returns whether the app was paused.
    async fn act(&mut self) -> Result<bool, Outcome> {
        let began = Instant::now();
        while !self.view.snapshot().live {
            if timeout_at(began + ENGINE_TIMEOUT, self.view.changed()).await.is_err() {
                return Err(Outcome::Failed(WakeError::EngineAway));
            }
        }
        let mut is_retry = false;
        loop {
            self.context.compose.files().search(&[&*self.app.name]).await;
            let observed = self.observe();
            self.note_files(&observed);
            // Checked in every round, because the conflict may be that the app is being
            // removed. Checked after the containers were observed: the status is written
            // before the containers are removed, so containers that are missing because
            // of a removal are not created again.
            self.check_allowed().await?;
            let was_paused = observed.state == EngineState::Paused;
            match self.bring_up(&observed).await {
                Ok(()) => return Ok(was_paused),
                Err(AttemptError::Failed(failure)) => return Err(Outcome::Failed(failure)),
                Err(AttemptError::Stale(reason)) if is_retry => {
                    return Err(Outcome::Failed(WakeError::Engine(reason)));
                }
                Err(AttemptError::Stale(reason)) => {
                    debug!(app = %self.app.name, reason, "the state has changed; trying once more");
                    is_retry = true;
                    self.refresh(&observed).await;
                }
            }
        }
    }

    /// Checks whether the store's status and the box's resources allow a start.
    async fn check_allowed(&self) -> Result<(), Outcome> {
        let Context { config, source, .. } = &*self.context;
        let unavailable = |error: Unavailable| Outcome::Failed(error.into());
        // The status is read last: it may be outdated by anything that is awaited
        // afterwards.
        let free = free_disk(&config.data_dir).await;
        let size = source.box_size().await;
        match source.install_state(&self.app.name).await.map_err(unavailable)? {
            InstallState::Revivable => {}
            InstallState::Busy { status } => {
                return Err(Outcome::Declined(Phase::Unavailable { status }));
            }
            InstallState::Gone => return Err(Outcome::Gone),
        }
        match free {
            Ok(free) if free < config.min_free_disk => {
                return Err(Outcome::Declined(Phase::LowDisk));
            }
            Ok(_) => {}
            // An unknown amount does not count as low.
            Err(error) => {
                warn!(%error, "free disk space of {} is unknown", config.data_dir.display());
            }
        }
        let minimum = self.spec().minimum_size;
        match size.map_err(unavailable)? {
            Some(size) if size < minimum => Err(Outcome::Declined(Phase::TooSmall { minimum })),
            _ => Ok(()),
        }
    }

    /// Remembers the compose files that the existing containers were created from.
    fn note_files(&self, observed: &Observed) {
        let project = self.selector.project();
        let created = observed.own().find(|c| c.labels.project.as_deref() == project);
        if let Some(container) = created {
            let files = self.context.compose.files();
            files.note_made_from(&self.app.name, &container.labels.config_files);
        }
    }

    async fn refresh(&self, observed: &Observed) {
        self.view
            .refresh(observed.containers.iter().map(|container| Arc::clone(&container.id)))
            .await;
    }
}
