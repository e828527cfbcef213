//! From awake to asleep.

use std::sync::Arc;

use tracing::debug;

use super::{Attempt, Trouble};
use crate::domain::lifecycle::{Failure, Rest};
use crate::store::Standing;
use crate::wake::conditions::reclaim_memory;
use crate::wake::docker::{EndedBy, EngineError, State};
use crate::wake::observed::Observed;

impl Attempt {
    /// Puts the app to sleep. Requests are held back already.
    pub(in crate::wake) async fn sleep(self, rest: Rest) -> Result<(), Failure> {
        // Whoever holds it wakes the app, or puts it to sleep: to wait for either would
        // be to do it to an app that is used, or does sleep.
        let Some(lock) = self.means.source.try_lock_app(&self.app.name).await? else {
            return Err(Failure::Declined("another process is doing something to it"));
        };
        let done = self.put_to(rest).await;
        lock.release().await;
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

    async fn put_to(&self, rest: Rest) -> Result<(), Trouble> {
        match self.means.source.standing(&self.app.name).await.map_err(Failure::from)? {
            Standing::Revivable => {}
            Standing::Busy { status } => return Err(Trouble::Stale(status)),
            Standing::Gone => return Err(Trouble::Stale("not installed".into())),
        }
        let observed = self.observe();
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
        let running = observed.containers.iter().rev().filter(|c| c.state == State::Running);
        for container in running {
            self.means.engine.pause(&container.id).await?;
            if let Some(pid) = container.pid.filter(|_| self.means.reclaim) {
                // It takes as long as it takes, and nobody waits for it.
                tokio::spawn(reclaim_memory(Arc::clone(&container.id), pid));
            }
        }
        Ok(())
    }

    /// A process that is paused hears no signal, so it is unpaused first.
    async fn stop(&self, observed: &Observed) -> Result<(), Trouble> {
        for container in observed.containers.iter().rev() {
            match container.state {
                State::Running | State::Restarting => {}
                State::Paused => match self.means.engine.unpause(&container.id).await {
                    Ok(()) | Err(EngineError::Conflict(_)) => {}
                    Err(EngineError::Refused { .. }) if !self.is_still_paused(container).await => {}
                    Err(error) => return Err(error.into()),
                },
                State::Created | State::Exited | State::Gone => continue,
            }
            self.view.note_end(&container.id, EndedBy::Us);
            self.means.engine.stop(&container.id).await?;
        }
        Ok(())
    }
}
