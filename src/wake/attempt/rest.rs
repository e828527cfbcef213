//! From awake to asleep.

use std::sync::{Arc, Once};
use std::time::Duration;

use futures_util::future::select_all;
use tokio::time::sleep;
use tracing::{debug, warn};

use super::{Attempt, LOCK_LOST, Means, Trouble};
use crate::domain::lifecycle::{Failure, Rest};
use crate::store::{AppLock, Standing};
use crate::wake::conditions::reclaim_memory;
use crate::wake::docker::{Container, EndedBy, EngineError, State};
use crate::wake::observed::{Observed, Selector};
use crate::wake::sharing::Need;

/// What the engine cannot do, or a proxy before it forbids.
pub(in crate::wake) const CANNOT_BE_PAUSED: Failure =
    Failure::Declined("the engine does not pause it");

/// How often the engine is asked to pause a container that it fails to, and the time
/// between.
const PAUSES: usize = 4;
const BETWEEN_PAUSES: Duration = Duration::from_millis(250);

/// What an operator is told of an app that would be gone.
const LOST_WHEN_STOPPED: Failure = Failure::Declined(
    "the engine would remove its containers when they stop, as those of `docker run --rm`, and \
     nothing here could make them anew",
);

impl Means {
    /// Whether the engine would remove some of an app for good when it is stopped.
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
    /// Puts the app to sleep. Requests are held back already.
    pub(in crate::wake) async fn sleep(self, rest: Rest) -> Result<(), Failure> {
        // Whoever holds one wakes an app, or puts it to sleep: to wait for either would
        // be to do it to an app that is used, or does sleep.
        let mut locks = Vec::new();
        let mut names = self.observe().partners();
        names.push(Arc::clone(&self.app.name));
        names.sort_unstable();
        for name in &names {
            match self.means.source.try_lock_app(name).await {
                Ok(Some(lock)) => locks.push(lock),
                other => {
                    release(locks).await;
                    other?;
                    return Err(Failure::Declined("another process is doing something to it"));
                }
            }
        }
        let done = {
            let lost = select_all(locks.iter().map(|lock| Box::pin(lock.lost())));
            tokio::select! {
                biased;
                _ = lost => Err(Failure::Store(LOCK_LOST.into()).into()),
                done = self.put_to(rest, &names) => done,
            }
        };
        release(locks).await;
        match done {
            Ok(()) => Ok(()),
            // Somebody else has done something to it; what it does now is looked at.
            Err(Trouble::Stale(reason)) => {
                debug!(app = %self.app.name, reason, "otherwise than was thought");
                Err(Failure::Declined("somebody else is doing something to it"))
            }
            Err(Trouble::Failed(failure)) => Err(failure),
        }
    }

    async fn put_to(&self, rest: Rest, locked: &[Arc<str>]) -> Result<(), Trouble> {
        match self.means.source.standing(&self.app.name).await.map_err(Failure::from)? {
            Standing::Revivable => {}
            Standing::Busy { status } => return Err(Trouble::Stale(status)),
            Standing::Gone => return Err(Trouble::Stale("not installed".into())),
        }
        let observed = self.observe();
        self.note_files(&observed);
        if rest == Rest::Stopped
            && self.means.is_lost_when_stopped(&self.app.name, &self.selector, &observed)
        {
            return Err(LOST_WHEN_STOPPED.into());
        }
        if observed.partners().iter().any(|partner| !locked.contains(partner)) {
            return Err(Trouble::Stale("it shares more by now".into()));
        }
        let done = match rest {
            _ if !observed.services.is_empty() => self.scale_down(&observed).await,
            Rest::Paused => self.pause(&observed).await,
            Rest::Stopped => self.stop(&observed).await,
        };
        self.look(&observed).await;
        done
    }

    async fn scale_down(&self, observed: &Observed) -> Result<(), Trouble> {
        for service in &observed.services {
            self.means.engine.scale(&service.id, 0).await?;
        }
        self.view.look_at_services().await;
        Ok(())
    }

    /// Those that others depend on last.
    async fn pause(&self, observed: &Observed) -> Result<(), Trouble> {
        let snapshot = self.view.snapshot();
        let mut paused = Vec::new();
        let running = observed.containers.iter().rev().filter(|c| c.state == State::Running);
        for container in running {
            if self.wakes.need(container, observed, &snapshot) == Need::Running {
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
        self.app.note(|history| history.cannot_be_paused = false);
        for container in paused {
            if let Some(pid) = container.pid.filter(|_| self.means.reclaim) {
                // It takes as long as it takes, and nobody waits for it.
                tokio::spawn(reclaim_memory(Arc::clone(&container.id), pid));
            }
        }
        Ok(())
    }

    /// Asks again where the engine refuses: a busy machine's kernel does not freeze every
    /// process in the time that the engine gives it.
    async fn pause_one(&self, id: &str) -> Result<(), EngineError> {
        for _ in 1..PAUSES {
            match self.means.engine.pause(id).await {
                Err(EngineError::Refused { status: 500, message }) => {
                    debug!(container = id, reason = message, "not paused; trying again");
                    sleep(BETWEEN_PAUSES).await;
                }
                done => return done,
            }
        }
        self.means.engine.pause(id).await
    }

    /// Remembers it, and has the app go on: it will be stopped at its time.
    async fn cannot_be_paused(&self, paused: &[&Arc<Container>], message: &str) -> Trouble {
        for container in paused {
            let unpaused = self.means.engine.unpause(&container.id).await;
            debug!(container = %container.name, ?unpaused, "what it belongs to cannot be paused");
        }
        if self.means.engine.pauses_nothing() {
            static SAID: Once = Once::new();
            SAID.call_once(|| {
                warn!(
                    reason = message,
                    "the engine pauses nothing: apps are stopped at their time"
                );
            });
            return CANNOT_BE_PAUSED.into();
        }
        let mut was_known = false;
        self.app.note(|history| {
            was_known = std::mem::replace(&mut history.cannot_be_paused, true);
        });
        if !was_known {
            warn!(app = %self.app.name, reason = message, "cannot be paused: it is stopped at its time");
        }
        CANNOT_BE_PAUSED.into()
    }

    /// A process that is paused hears no signal, so it is unpaused first.
    async fn stop(&self, observed: &Observed) -> Result<(), Trouble> {
        let snapshot = self.view.snapshot();
        for container in observed.containers.iter().rev() {
            if !matches!(container.state, State::Running | State::Restarting | State::Paused) {
                continue;
            }
            match self.wakes.need(container, observed, &snapshot) {
                Need::Running => continue,
                Need::Paused if container.state == State::Paused => continue,
                Need::Paused if container.state == State::Running => {
                    match self.means.engine.pause(&container.id).await {
                        // It runs on.
                        Ok(()) | Err(EngineError::Refused { .. }) => continue,
                        Err(error) => return Err(error.into()),
                    }
                }
                Need::Paused | Need::Nothing => {}
            }
            if container.state == State::Paused {
                match self.means.engine.unpause(&container.id).await {
                    // Refused, it is let go by the engine itself when it is stopped.
                    Ok(()) | Err(EngineError::Conflict(_) | EngineError::Refused { .. }) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            self.view.note_end(&container.id, EndedBy::Us);
            self.means.engine.stop(container).await?;
        }
        Ok(())
    }
}

async fn release(locks: Vec<AppLock>) {
    for lock in locks {
        lock.release().await;
    }
}
