//! One attempt to wake an app, or to put it to sleep.
//!
//! An attempt holds the app's lock while it acts, and acts on what is: the status in
//! the store and the state in the engine, both read after the lock was taken. Where
//! the engine says that things were otherwise (404, 409), it looks once more.

mod ready;
mod recreate;
mod rest;

pub(super) use rest::CANNOT_BE_PAUSED;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout_at};
use tracing::{debug, warn};

use super::Wakes;
use super::app::{AppWake, Facts};
use super::compose::Compose;
use super::conditions::free_disk;
use super::docker::watch::View;
use super::docker::{Condition, Container, EndedBy, Engine, EngineError, Health, State};
use super::observed::{EngineState, Observed, Selector};
use super::parts::Role;
use crate::config;
use crate::domain::lifecycle::{Failure, Phase, is_going};
use crate::store::{AppLock, Source, Standing, Unavailable};

/// How long an attempt waits for another process's, which acts and then lets go.
const LOCK_LIMIT: Duration = Duration::from_secs(30);
const LOCK_RETRY: Duration = Duration::from_millis(50);

const LOCK_LOST: &str = "the session that holds the app's lock has ended";

/// How long an attempt waits for an engine that went away a moment ago.
const ENGINE_LIMIT: Duration = Duration::from_secs(3);

/// How long the containers that Compose has made may take to be seen.
const SEEN_LIMIT: Duration = Duration::from_secs(5);

/// What all attempts share.
#[derive(Debug)]
pub(super) struct Means {
    pub(super) config: config::Wake,
    pub(super) reclaim: bool,
    pub(super) engine: Arc<Engine>,
    pub(super) source: Arc<Source>,
    pub(super) compose: Arc<Compose>,
}

/// The way one attempt goes.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) means: Arc<Means>,
    pub(super) wakes: Arc<Wakes>,
    pub(super) app: Arc<AppWake>,
    pub(super) selector: Selector,
    pub(super) view: View,
    /// Containers that were to be started when it looked first: what has come up since
    /// must not make others look as if they had been passed over.
    pub(super) chosen: HashSet<Arc<str>>,
    pub(super) progress: mpsc::UnboundedSender<(Arc<str>, Phase)>,
}

/// What came of an attempt to wake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    Ready,
    Failed(Failure),
    /// Nothing was done, for a reason that is no failure: the phase says which.
    Declined(Phase),
    /// The app is not installed any more.
    Gone,
}

impl Outcome {
    /// Its name in metrics.
    pub(super) fn as_str(&self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Failed(_) => "failed",
            Self::Declined(_) => "declined",
            Self::Gone => "gone",
        }
    }
}

/// Why a step did not succeed.
enum Trouble {
    /// Things were otherwise than was thought.
    Stale(String),
    Failed(Failure),
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<EngineError> for Trouble {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::NotFound(reason) | EngineError::Conflict(reason) => Self::Stale(reason),
            EngineError::Away(reason) => {
                debug!(reason, "the engine does not answer");
                Self::Failed(Failure::EngineAway)
            }
            EngineError::Refused { message, .. } => Self::Failed(Failure::Engine(message)),
        }
    }
}

impl From<Unavailable> for Failure {
    fn from(error: Unavailable) -> Self {
        Self::Store(error.to_string())
    }
}

impl Attempt {
    fn facts(&self) -> Arc<Facts> {
        self.app.facts()
    }

    fn observe(&self) -> Observed {
        self.selector.observe(&self.facts(), &self.view.snapshot())
    }

    fn tell(&self, phase: Phase) {
        // The waker is gone only when the process ends.
        let _ = self.progress.send((Arc::clone(&self.app.name), phase));
    }

    /// Brings the app from whatever it does to ready.
    pub(super) async fn wake(mut self) -> Outcome {
        let deadline = Instant::now() + self.means.config.start_timeout;
        let was_paused = match self.act_alone().await {
            Ok(was_paused) => was_paused,
            Err(outcome) => return outcome,
        };
        // What Compose took for pulling an image is not the app's time.
        let deadline = deadline.max(Instant::now() + self.means.config.start_timeout / 2);
        self.until_ready(was_paused, deadline).await
    }

    /// Waits for an app that somebody else started.
    pub(super) async fn follow(mut self, was_paused: bool) -> Outcome {
        let deadline = Instant::now() + self.means.config.start_timeout;
        self.until_ready(was_paused, deadline).await
    }

    async fn lock(&self) -> Result<AppLock, Failure> {
        let deadline = Instant::now() + LOCK_LIMIT;
        loop {
            let tried = timeout_at(deadline, self.means.source.try_lock_app(&self.app.name)).await;
            let tried = tried.unwrap_or_else(|_| Err(Unavailable::new("a lock took too long")));
            if let Some(lock) = tried? {
                return Ok(lock);
            }
            if Instant::now() >= deadline {
                let reason = "another process has been waking this app for too long";
                return Err(Failure::Store(reason.into()));
            }
            sleep(LOCK_RETRY).await;
        }
    }

    /// Acts while the lock is held. Where it is lost in the middle, whatever is being
    /// done is left, and done with a new lock from where it stands.
    async fn act_alone(&mut self) -> Result<bool, Outcome> {
        let deadline = Instant::now() + LOCK_LIMIT;
        loop {
            let lock = self.lock().await.map_err(Outcome::Failed)?;
            let acted = tokio::select! {
                biased;
                () = lock.lost() => None,
                acted = self.act() => Some(acted),
            };
            if let Some(acted) = acted {
                lock.release().await;
                return acted;
            }
            if Instant::now() >= deadline {
                return Err(Outcome::Failed(Failure::Store(LOCK_LOST.into())));
            }
            warn!(app = %self.app.name, "{LOCK_LOST}; it is taken anew");
        }
    }

    /// Starts what has to be started; whether the app was paused.
    async fn act(&mut self) -> Result<bool, Outcome> {
        let began = Instant::now();
        while !self.view.snapshot().live {
            if timeout_at(began + ENGINE_LIMIT, self.view.changed()).await.is_err() {
                return Err(Outcome::Failed(Failure::EngineAway));
            }
        }
        let mut is_second_look = false;
        loop {
            self.means.compose.files().look(&[&*self.app.name]).await;
            let observed = self.observe();
            self.note_files(&observed);
            // Each time: what was in the way may be that the app is being removed. After the
            // containers were looked at: whoever removes an app says so before it removes
            // them, so none that are missing for that are made anew.
            self.consult().await?;
            let was_paused = observed.state == EngineState::Paused;
            match self.bring_up(&observed).await {
                Ok(()) => return Ok(was_paused),
                Err(Trouble::Failed(failure)) => return Err(Outcome::Failed(failure)),
                Err(Trouble::Stale(reason)) if is_second_look => {
                    return Err(Outcome::Failed(Failure::Engine(reason)));
                }
                Err(Trouble::Stale(reason)) => {
                    debug!(app = %self.app.name, reason, "looking once more");
                    is_second_look = true;
                    self.look(&observed).await;
                }
            }
        }
    }

    /// Whether the store and the box allow it.
    async fn consult(&self) -> Result<(), Outcome> {
        let Means { config, source, .. } = &*self.means;
        let failed = |error: Unavailable| Outcome::Failed(error.into());
        // The store last of all: whatever is waited for afterwards may be overtaken.
        let free = free_disk(&config.data_dir).await;
        let size = source.box_size().await;
        match source.standing(&self.app.name).await.map_err(failed)? {
            Standing::Revivable => {}
            Standing::Busy { status } => {
                return Err(Outcome::Declined(Phase::Unavailable { status }));
            }
            Standing::Gone => return Err(Outcome::Gone),
        }
        match free {
            Ok(free) if free < config.min_free_disk => {
                return Err(Outcome::Declined(Phase::LowDisk));
            }
            Ok(_) => {}
            // Nobody can say that it is low.
            Err(error) => {
                warn!(%error, "free disk space is not known: {}", config.data_dir.display());
            }
        }
        let minimum = self.facts().minimum_size;
        match size.map_err(failed)? {
            Some(size) if size < minimum => Err(Outcome::Declined(Phase::TooSmall { minimum })),
            _ => Ok(()),
        }
    }

    /// Remembers from which files Compose has made what there is, while it is there.
    fn note_files(&self, observed: &Observed) {
        let project = self.selector.project();
        let made = observed.own().find(|c| c.belongs.project.as_deref() == project);
        if let Some(container) = made {
            let files = self.means.compose.files();
            files.note_made_from(&self.app.name, &container.belongs.config_files);
        }
    }

    async fn look(&self, observed: &Observed) {
        self.view.look(observed.containers.iter().map(|container| Arc::clone(&container.id))).await;
    }

    async fn bring_up(&mut self, observed: &Observed) -> Result<(), Trouble> {
        if !observed.services.is_empty() {
            return self.scale_up(observed).await;
        }
        match observed.state {
            EngineState::Running => Ok(()),
            EngineState::Paused => {
                self.tell(Phase::Unpausing);
                self.unpause(observed).await
            }
            EngineState::Missing => {
                self.tell(Phase::Starting);
                self.compose_up().await
            }
            EngineState::Exited => {
                self.tell(Phase::Starting);
                self.thaw(observed).await?;
                let file = self.means.compose.file(&self.app.name);
                if observed.is_incomplete(&self.facts()) && file.is_some() {
                    return self.compose_up().await;
                }
                if self.is_outdated(observed).await {
                    return self.apply_changes(observed).await;
                }
                self.start(observed).await
            }
        }
    }

    async fn scale_up(&self, observed: &Observed) -> Result<(), Trouble> {
        self.tell(Phase::Starting);
        for service in &observed.services {
            if service.replicas == 0 {
                self.means.engine.scale(&service.id, service.awake_replicas).await?;
            }
        }
        self.view.look_at_services().await;
        Ok(())
    }

    async fn unpause(&mut self, observed: &Observed) -> Result<(), Trouble> {
        for container in observed.containers.iter().filter(|c| c.state == State::Paused) {
            match self.means.engine.unpause(&container.id).await {
                // So says Docker 20.10 where somebody else was quicker.
                Err(EngineError::Refused { .. }) if !self.is_still_paused(container).await => {}
                Err(EngineError::Refused { message, .. }) => {
                    warn!(app = %self.app.name, message, "cannot be unpaused; started instead");
                    self.means.engine.gives_up_pausing();
                    if self.means.compose.file(&self.app.name).is_some() {
                        return self.compose_up().await;
                    }
                    // The engine itself lets a paused process go to end it.
                    self.means.engine.stop(container).await?;
                }
                done => done?,
            }
        }
        self.look(observed).await;
        // A part of it may have been stopped besides.
        let observed = self.observe();
        match observed.state {
            EngineState::Running => Ok(()),
            _ => self.start(&observed).await,
        }
    }

    /// Unpauses what is paused for another app's sake.
    async fn thaw(&self, observed: &Observed) -> Result<(), Trouble> {
        for container in observed.containers.iter().filter(|c| c.state == State::Paused) {
            match self.means.engine.unpause(&container.id).await {
                Err(EngineError::Refused { .. }) if !self.is_still_paused(container).await => {}
                done => done?,
            }
            self.view.look([Arc::clone(&container.id)]).await;
        }
        Ok(())
    }

    /// Whether a container that could not be unpaused is paused at all.
    async fn is_still_paused(&self, container: &Container) -> bool {
        self.view.look([Arc::clone(&container.id)]).await;
        let snapshot = self.view.snapshot();
        snapshot.containers.get(&container.id).is_some_and(|c| c.state == State::Paused)
    }

    /// Starts what does not run and is to, dependencies first.
    async fn start(&mut self, observed: &Observed) -> Result<(), Trouble> {
        let to_start = observed.to_start(&self.chosen);
        self.chosen.extend(to_start.iter().map(|(container, _)| Arc::clone(&container.id)));
        for (container, part) in to_start {
            match self.start_one(&container, observed).await {
                // A partially running app is better than none.
                Err(Trouble::Failed(failure)) if part.role == Role::Other && !is_away(&failure) => {
                    let (app, container_name) = (&self.app.name, &container.name);
                    warn!(%app, container = %container_name, %failure, "a part is not started");
                    self.view.note_end(&container.id, EndedBy::Refused);
                    self.view.look([Arc::clone(&container.id)]).await;
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
    ) -> Result<(), Trouble> {
        self.until_dependencies(container, observed).await?;
        match self.means.engine.start(&container.id).await {
            Ok(()) => {
                self.view.look([Arc::clone(&container.id)]).await;
                Ok(())
            }
            Err(error) => self.not_started(container, observed, error).await,
        }
    }

    /// Waits for what a container depends on to have come so far.
    async fn until_dependencies(
        &mut self,
        container: &Container,
        observed: &Observed,
    ) -> Result<(), Trouble> {
        let began = Instant::now();
        let deadline = began + self.means.config.start_timeout;
        let app = Arc::clone(&self.app);
        let mut engine = ready::Engine::Steady;
        for dependency in &container.belongs.depends_on {
            let is_met = |container: &Container| match dependency.condition {
                Condition::Started => true,
                Condition::Healthy => {
                    matches!(container.health, Health::Healthy | Health::Unknown)
                        || (container.state == State::Running && app.serves_unwell(container))
                }
                Condition::Completed => {
                    container.state == State::Exited && container.exit_code == 0
                }
            };
            let part = observed.containers.iter().find(|c| c.is_called(&dependency.service));
            let Some(id) = part.map(|part| Arc::clone(&part.id)) else { continue };
            loop {
                let snapshot = self.view.snapshot();
                let Some(part) = snapshot.containers.get(&id) else {
                    return Err(Trouble::Stale("a dependency was removed".into()));
                };
                if is_met(part) {
                    break;
                }
                if !snapshot.live {
                    engine = ready::Engine::Restarted;
                } else if let Some(failure) = ready::failure_of(part, engine, began.elapsed()) {
                    return Err(failure.into());
                }
                let late = Some(began + ready::CRASHING_FOR).filter(|at| *at > Instant::now());
                let until = late.map_or(deadline, |late| late.min(deadline));
                if timeout_at(until, self.view.changed()).await.is_err()
                    && Instant::now() >= deadline
                {
                    return Err(Failure::Unhealthy { container: part.name.clone() }.into());
                }
            }
        }
        Ok(())
    }

    /// Makes the containers anew; takes them down again where the app went away
    /// meanwhile, since whoever removed it did not know of them.
    async fn compose_up(&mut self) -> Result<(), Trouble> {
        let name = Arc::clone(&self.app.name);
        let Some(project) = self.selector.project().map(str::to_owned) else {
            return Err(Failure::NoComposeFile.into());
        };
        let done = self.means.compose.up(&name, &project).await;
        self.after_compose(&project, done).await
    }

    async fn after_compose(
        &mut self,
        project: &str,
        done: Result<(), Failure>,
    ) -> Result<(), Trouble> {
        let name = Arc::clone(&self.app.name);
        match self.means.source.standing(&name).await {
            Ok(Standing::Revivable) => {}
            // Whoever installs it makes what it needs, and may have made it by now.
            Ok(Standing::Busy { status }) if !is_going(&status) => {
                return Err(Trouble::Stale(format!("the app is {status}")));
            }
            Ok(Standing::Busy { .. } | Standing::Gone) => {
                warn!(app = %name, "was removed while its containers were made; they go too");
                self.means.engine.remove_project(project).await?;
                return Err(Trouble::Stale("the app was removed".into()));
            }
            Err(error) => return Err(Failure::from(error).into()),
        }
        done?;
        // What Compose has replaced is not taken for what it has made.
        self.look(&self.observe()).await;
        let deadline = Instant::now() + SEEN_LIMIT;
        while self.observe().state == EngineState::Missing {
            if timeout_at(deadline, self.view.changed()).await.is_err() {
                break;
            }
        }
        Ok(())
    }
}

fn is_away(failure: &Failure) -> bool {
    *failure == Failure::EngineAway
}
