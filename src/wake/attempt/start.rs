//! From any state to running: starts, unpauses, scales and creates an app's containers.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};
use tracing::warn;

use super::ready::{CRASHING_FOR, Liveness, failure_of};
use super::{Attempt, AttemptError};
use crate::domain::lifecycle::{Phase, WakeError, is_going};
use crate::store::InstallState;
use crate::wake::docker::{Container, DependencyCondition, EndedBy, EngineError, Health, State};
use crate::wake::observed::{EngineState, Observed};
use crate::wake::roles::Role;

/// How long containers that Compose has created may take to appear in the snapshot.
const CREATED_TIMEOUT: Duration = Duration::from_secs(5);

impl Attempt {
    /// Brings the app's containers to run, from any state.
    pub(super) async fn bring_up(&mut self, observed: &Observed) -> Result<(), AttemptError> {
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
    pub(super) async fn start(&mut self, observed: &Observed) -> Result<(), AttemptError> {
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
        let mut liveness = Liveness::Steady;
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
                    liveness = Liveness::Restarted;
                } else if let Some(failure) = failure_of(required, liveness, began.elapsed()) {
                    return Err(failure.into());
                }
                let late = Some(began + CRASHING_FOR).filter(|at| *at > Instant::now());
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
    pub(super) async fn compose_up(&mut self) -> Result<(), AttemptError> {
        let name = Arc::clone(&self.app.name);
        let Some(project) = self.selector.project().map(str::to_owned) else {
            return Err(WakeError::NoComposeFile.into());
        };
        let done = self.context.compose.up(&name, &project).await;
        self.finish_compose(&project, done).await
    }

    pub(super) async fn finish_compose(
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
