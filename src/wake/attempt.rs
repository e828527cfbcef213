//! One attempt to wake an app, or to put it to sleep.
//!
//! An attempt holds the app's lock while it acts, and acts on the current state: the
//! status in the store and the containers in the engine, both read after the lock was
//! acquired. If the engine answers that its state has changed (404, 409), the attempt
//! reads both again and retries once.

mod ready;
mod recreate;
mod sleep;

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
use super::docker::{Container, DependencyCondition, EndedBy, Engine, EngineError, Health, State};
use super::handle::AppHandle;
use super::observed::{EngineState, Observed, Selector};
use super::resources::free_disk;
use super::roles::Role;
use super::spec::AppSpec;
use crate::config;
use crate::domain::lifecycle::{Phase, WakeError, is_going};
use crate::store::{AppLock, InstallState, Source, Unavailable};

/// How long an attempt waits for the lock while another process holds it.
const LOCK_TIMEOUT: Duration = Duration::from_secs(30);
const LOCK_RETRY: Duration = Duration::from_millis(50);

const LOCK_LOST: &str = "the session that holds the app's lock has ended";

/// How long an attempt waits for an engine that has just become unreachable.
const ENGINE_TIMEOUT: Duration = Duration::from_secs(3);

/// How long containers that Compose has created may take to appear in the snapshot.
const CREATED_TIMEOUT: Duration = Duration::from_secs(5);

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

    async fn bring_up(&mut self, observed: &Observed) -> Result<(), AttemptError> {
        if !observed.services.is_empty() {
            return self.scale_up(observed).await;
        }
        match observed.state {
            EngineState::Running => Ok(()),
            EngineState::Paused => {
                self.report(Phase::Unpausing);
                self.unpause(observed).await
            }
            EngineState::Missing => {
                self.report(Phase::Starting);
                self.compose_up().await
            }
            EngineState::Exited => {
                self.report(Phase::Starting);
                self.unpause_remaining(observed).await?;
                let file = self.context.compose.file(&self.app.name);
                if observed.is_incomplete(&self.spec()) && file.is_some() {
                    return self.compose_up().await;
                }
                if self.is_outdated(observed).await {
                    return self.apply_changes(observed).await;
                }
                self.start(observed).await
            }
        }
    }

    async fn scale_up(&self, observed: &Observed) -> Result<(), AttemptError> {
        self.report(Phase::Starting);
        for service in &observed.services {
            if service.replicas == 0 {
                self.context.engine.scale(&service.id, service.awake_replicas).await?;
            }
        }
        self.view.refresh_services().await;
        Ok(())
    }

    async fn unpause(&mut self, observed: &Observed) -> Result<(), AttemptError> {
        for container in observed.containers.iter().filter(|c| c.state == State::Paused) {
            match self.context.engine.unpause(&container.id).await {
                // Docker 20.10 answers this if the container was already unpaused by
                // another client.
                Err(EngineError::Refused { .. }) if !self.is_still_paused(container).await => {}
                Err(EngineError::Refused { status, message }) => {
                    warn!(app = %self.app.name, message, "cannot be unpaused; starting it instead");
                    self.context.engine.note_stuck(status);
                    if self.context.compose.file(&self.app.name).is_some() {
                        return self.compose_up().await;
                    }
                    // To stop a paused container, the engine resumes its processes
                    // itself.
                    self.context.engine.stop(container).await?;
                }
                done => done?,
            }
        }
        self.refresh(observed).await;
        // Other containers of the app may be stopped.
        let observed = self.observe();
        match observed.state {
            EngineState::Running => Ok(()),
            _ => self.start(&observed).await,
        }
    }

    /// Unpauses containers that are paused, not stopped, because another app shares them.
    async fn unpause_remaining(&self, observed: &Observed) -> Result<(), AttemptError> {
        for container in observed.containers.iter().filter(|c| c.state == State::Paused) {
            match self.context.engine.unpause(&container.id).await {
                Err(EngineError::Refused { .. }) if !self.is_still_paused(container).await => {}
                done => done?,
            }
            self.view.refresh([Arc::clone(&container.id)]).await;
        }
        Ok(())
    }

    /// Returns whether a container that could not be unpaused is still paused.
    async fn is_still_paused(&self, container: &Container) -> bool {
        self.view.refresh([Arc::clone(&container.id)]).await;
        let snapshot = self.view.snapshot();
        snapshot.containers.get(&container.id).is_some_and(|c| c.state == State::Paused)
    }

    /// Starts the containers that are needed and do not run, dependencies first.
    async fn start(&mut self, observed: &Observed) -> Result<(), AttemptError> {
        let to_start = observed.to_start(&self.chosen);
        self.chosen.extend(to_start.iter().map(|(container, _)| Arc::clone(&container.id)));
        for (container, container_role) in to_start {
            match self.start_one(&container, observed).await {
                // A partially running app is better than none.
                Err(AttemptError::Failed(failure))
                    if container_role.role == Role::Other && !is_engine_away(&failure) =>
                {
                    let (app, container_name) = (&self.app.name, &container.name);
                    warn!(%app, container = %container_name, %failure, "starting without it");
                    self.view.note_end(&container.id, EndedBy::Refused);
                    self.view.refresh([Arc::clone(&container.id)]).await;
                }
                done => done?,
            }
        }
        Ok(())
    }

    async fn start_one(
        &mut self,
        container: &Container,
        observed: &Observed,
    ) -> Result<(), AttemptError> {
        self.until_dependencies(container, observed).await?;
        match self.context.engine.start(&container.id).await {
            Ok(()) => {
                self.view.refresh([Arc::clone(&container.id)]).await;
                Ok(())
            }
            Err(error) => self.handle_start_error(container, observed, error).await,
        }
    }

    /// Waits until the dependencies of a container meet their conditions.
    async fn until_dependencies(
        &mut self,
        container: &Container,
        observed: &Observed,
    ) -> Result<(), AttemptError> {
        let began = Instant::now();
        let deadline = began + self.context.config.start_timeout;
        let app = Arc::clone(&self.app);
        let mut liveness = ready::Liveness::Steady;
        for dependency in &container.labels.depends_on {
            let is_met = |container: &Container| match dependency.condition {
                DependencyCondition::Started => true,
                DependencyCondition::Healthy => {
                    matches!(container.health, Health::Healthy | Health::Unknown)
                        || (container.state == State::Running && app.serves_unhealthy(container))
                }
                DependencyCondition::Completed => {
                    container.state == State::Exited && container.exit_code == 0
                }
            };
            let required = observed.containers.iter().find(|c| c.is_called(&dependency.service));
            let Some(id) = required.map(|required| Arc::clone(&required.id)) else { continue };
            loop {
                let snapshot = self.view.snapshot();
                let Some(required) = snapshot.containers.get(&id) else {
                    return Err(AttemptError::Stale("a dependency was removed".into()));
                };
                if is_met(required) {
                    break;
                }
                if !snapshot.live {
                    liveness = ready::Liveness::Restarted;
                } else if let Some(failure) = ready::failure_of(required, liveness, began.elapsed())
                {
                    return Err(failure.into());
                }
                let late = Some(began + ready::CRASHING_FOR).filter(|at| *at > Instant::now());
                let until = late.map_or(deadline, |late| late.min(deadline));
                if timeout_at(until, self.view.changed()).await.is_err()
                    && Instant::now() >= deadline
                {
                    return Err(WakeError::Unhealthy { container: required.name.clone() }.into());
                }
            }
        }
        Ok(())
    }

    /// Has Compose create the containers. Removes them again if the app was removed in
    /// the meantime, because the process that removed it did not know of them.
    async fn compose_up(&mut self) -> Result<(), AttemptError> {
        let name = Arc::clone(&self.app.name);
        let Some(project) = self.selector.project().map(str::to_owned) else {
            return Err(WakeError::NoComposeFile.into());
        };
        let done = self.context.compose.up(&name, &project).await;
        self.finish_compose(&project, done).await
    }

    async fn finish_compose(
        &mut self,
        project: &str,
        done: Result<(), WakeError>,
    ) -> Result<(), AttemptError> {
        let name = Arc::clone(&self.app.name);
        match self.context.source.install_state(&name).await {
            Ok(InstallState::Revivable) => {}
            // The process that installs the app creates its containers, and may have done
            // so by now.
            Ok(InstallState::Busy { status }) if !is_going(&status) => {
                return Err(AttemptError::Stale(format!("the app is {status}")));
            }
            Ok(InstallState::Busy { .. } | InstallState::Gone) => {
                warn!(app = %name, "app removed while its containers were created; removing them");
                self.context.engine.remove_project(project).await?;
                return Err(AttemptError::Stale("the app was removed".into()));
            }
            Err(error) => return Err(WakeError::from(error).into()),
        }
        done?;
        // Containers that Compose has replaced must not be taken for those that it has
        // created.
        self.refresh(&self.observe()).await;
        let deadline = Instant::now() + CREATED_TIMEOUT;
        while self.observe().state == EngineState::Missing {
            if timeout_at(deadline, self.view.changed()).await.is_err() {
                break;
            }
        }
        Ok(())
    }
}

fn is_engine_away(failure: &WakeError) -> bool {
    *failure == WakeError::EngineAway
}
