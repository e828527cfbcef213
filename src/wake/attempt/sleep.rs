//! From awake to asleep.

use std::sync::{Arc, Once};
use std::time::Duration;

use futures_util::future::select_all;
use tokio::time::{Instant, sleep};
use tracing::{debug, warn};

use super::{Attempt, AttemptError, Context, LOCK_LOST};
use crate::domain::lifecycle::{SleepMode, WakeError};
use crate::store::{AppLock, InstallState};
use crate::wake::docker::{Container, EndedBy, EngineError, State};
use crate::wake::observed::Observed;
use crate::wake::resources::reclaim_memory;
use crate::wake::selector::Selector;
use crate::wake::sharing::SharedNeed;

/// The engine cannot pause the app, or a proxy in front of the engine forbids it.
pub(in crate::wake) const CANNOT_BE_PAUSED: WakeError =
    WakeError::Declined("the engine does not pause it");

/// Attempts to pause a container if the engine fails to, and the time between two.
const PAUSE_ATTEMPTS: usize = 4;
const PAUSE_RETRY: Duration = Duration::from_millis(250);

/// How long an app is not paused after all attempts have failed: the machine may have been
/// busy, or a process of the app may have been in a state in which it does not freeze.
const PAUSE_BREAK: Duration = Duration::from_secs(3600);

/// The error for an app whose containers would be lost.
const LOST_WHEN_STOPPED: WakeError = WakeError::Declined(
    "the engine would remove its containers when they stop, as those of `docker run --rm`, and \
     nothing could create them again",
);

impl Context {
    /// Returns whether stopping the app would make the engine remove containers that
    /// cannot be created again.
    pub(in crate::wake) fn is_lost_when_stopped(
        &self,
        app: &str,
        selector: &Selector,
        observed: &Observed,
    ) -> bool {
        let is_lost = observed.own().any(|container| container.is_removed_at_end);
        is_lost && !self.compose.can_make(app, selector)
    }
}

impl Attempt {
    /// Puts the app to sleep. Requests are already held back at this point.
    pub(in crate::wake) async fn sleep(self, mode: SleepMode) -> Result<(), WakeError> {
        // A process that holds one of these locks is waking the app or putting it to
        // sleep. Afterwards the app is in use or asleep already, so the locks are not
        // waited for.
        let mut locks = Vec::new();
        let mut names = self.observe().partners();
        names.push(Arc::clone(&self.app.name));
        names.sort_unstable();
        for name in &names {
            match self.context.source.try_lock_app(name).await {
                Ok(Some(lock)) => locks.push(lock),
                other => {
                    release(locks).await;
                    other?;
                    return Err(WakeError::Declined(
                        "another process is waking the app or putting it to sleep",
                    ));
                }
            }
        }
        let result = {
            let lost = select_all(locks.iter().map(|lock| Box::pin(lock.lost())));
            tokio::select! {
                biased;
                _ = lost => Err(WakeError::Store(LOCK_LOST.into()).into()),
                result = self.apply_mode(mode, &names) => result,
            }
        };
        release(locks).await;
        match result {
            Ok(()) => Ok(()),
            // Another client has changed the app; its state is observed again.
            Err(AttemptError::Stale(reason)) => {
                debug!(app = %self.app.name, reason, "the app's state has changed");
                Err(WakeError::Declined("another client is starting or stopping its containers"))
            }
            Err(AttemptError::Failed(failure)) => Err(failure),
        }
    }

    async fn apply_mode(&self, mode: SleepMode, locked: &[Arc<str>]) -> Result<(), AttemptError> {
        match self.context.source.install_state(&self.app.name).await.map_err(WakeError::from)? {
            InstallState::Revivable => {}
            InstallState::Busy { status } => return Err(AttemptError::Stale(status)),
            InstallState::Gone => {
                return Err(AttemptError::Stale("the app is not installed".into()));
            }
        }
        let observed = self.observe();
        self.note_files(&observed);
        if mode == SleepMode::Stopped
            && self.context.is_lost_when_stopped(&self.app.name, &self.selector, &observed)
        {
            return Err(LOST_WHEN_STOPPED.into());
        }
        if observed.partners().iter().any(|partner| !locked.contains(partner)) {
            return Err(AttemptError::Stale("the app shares more containers than before".into()));
        }
        let result = match mode {
            _ if !observed.services.is_empty() => self.scale_down(&observed).await,
            SleepMode::Paused => self.pause(&observed).await,
            SleepMode::Stopped => self.stop(&observed).await,
        };
        self.refresh(&observed).await;
        result
    }

    async fn scale_down(&self, observed: &Observed) -> Result<(), AttemptError> {
        for service in &observed.services {
            self.context.engine.scale(&service.id, 0).await?;
        }
        self.view.refresh_services().await;
        Ok(())
    }

    /// Pauses the containers; those that others depend on last.
    async fn pause(&self, observed: &Observed) -> Result<(), AttemptError> {
        let snapshot = self.view.snapshot();
        let mut paused = Vec::new();
        let running = observed.containers.iter().rev().filter(|c| c.state == State::Running);
        for container in running {
            if self.registry.need(container, observed, &snapshot) == SharedNeed::Running {
                continue;
            }
            match self.pause_one(&container.id).await {
                Ok(()) => paused.push(container),
                Err(EngineError::Refused { message, .. }) => {
                    return Err(self.cannot_be_paused(&paused, &message).await);
                }
                Err(error) => return Err(error.into()),
            }
        }
        self.app.note(|history| history.no_pause_before = None);
        for container in paused {
            if let Some(pid) = container.pid.filter(|_| self.context.reclaim) {
                // This may take long, and nothing waits for it.
                tokio::spawn(reclaim_memory(Arc::clone(&container.id), pid));
            }
        }
        Ok(())
    }

    /// Tries again if the engine refuses: the kernel of a busy machine may not freeze
    /// every process within the engine's time limit.
    async fn pause_one(&self, id: &str) -> Result<(), EngineError> {
        for _ in 1..PAUSE_ATTEMPTS {
            match self.context.engine.pause(id).await {
                Err(EngineError::Refused { status: 500, message })
                    if !self.context.engine.cannot_pause() =>
                {
                    debug!(container = id, reason = message, "not paused; trying again");
                    sleep(PAUSE_RETRY).await;
                }
                result => return result,
            }
        }
        self.context.engine.pause(id).await
    }

    /// Remembers that the app cannot be paused now, and resumes it: it will be stopped when
    /// its idle time for a stop has passed.
    async fn cannot_be_paused(&self, paused: &[&Arc<Container>], message: &str) -> AttemptError {
        for container in paused {
            let unpaused = self.context.engine.unpause(&container.id).await;
            debug!(container = %container.name, ?unpaused, "the app cannot be paused");
        }
        if self.context.engine.cannot_pause() {
            static LOGGED: Once = Once::new();
            LOGGED.call_once(|| {
                warn!(
                    reason = message,
                    "the engine cannot pause containers: apps are stopped instead"
                );
            });
            return CANNOT_BE_PAUSED.into();
        }
        let mut was_known = false;
        self.app.note(|history| {
            let until = Instant::now() + PAUSE_BREAK;
            was_known = history.no_pause_before.replace(until).is_some();
        });
        if !was_known {
            warn!(app = %self.app.name, reason = message, "cannot be paused; stopped instead");
        }
        CANNOT_BE_PAUSED.into()
    }

    /// Stops the containers. Paused processes receive no signal, so they are unpaused
    /// first.
    async fn stop(&self, observed: &Observed) -> Result<(), AttemptError> {
        let snapshot = self.view.snapshot();
        for container in observed.containers.iter().rev() {
            if !matches!(container.state, State::Running | State::Restarting | State::Paused) {
                continue;
            }
            match self.registry.need(container, observed, &snapshot) {
                SharedNeed::Running => continue,
                SharedNeed::Paused if container.state == State::Paused => continue,
                SharedNeed::Paused if container.state == State::Running => {
                    match self.context.engine.pause(&container.id).await {
                        // If refused, the container keeps running.
                        Ok(()) | Err(EngineError::Refused { .. }) => continue,
                        Err(error) => return Err(error.into()),
                    }
                }
                SharedNeed::Paused | SharedNeed::Nothing => {}
            }
            if container.state == State::Paused {
                match self.context.engine.unpause(&container.id).await {
                    // If refused, the engine resumes the container itself when it stops
                    // it.
                    Ok(()) | Err(EngineError::Conflict(_) | EngineError::Refused { .. }) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            self.view.note_end(&container.id, EndedBy::Nightporter);
            self.context.engine.stop(container).await?;
        }
        Ok(())
    }
}

async fn release(locks: Vec<AppLock>) {
    for lock in locks {
        lock.release().await;
    }
}
