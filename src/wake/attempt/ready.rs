//! From running to ready.
//!
//! The engine's events say when a container runs, ends or passes its health check;
//! a port tells nobody when it opens, so it is asked. Whoever waits for the app is
//! told by a notification and asks nothing.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tracing::{debug, warn};

use super::{Attempt, Outcome};
use crate::domain::lifecycle::{Failure, Phase};
use crate::wake::app::{Facts, Target};
use crate::wake::docker::{Container, Health, State};
use crate::wake::observed::{EngineState, Observed, is_entrypoint};
use crate::wake::readiness::{Probe, answers, listens};

/// How often a port that nobody listens at yet is asked.
const PROBE_EVERY: Duration = Duration::from_millis(15);

/// An app that cannot be reached from here for so long is taken for ready once it runs.
const UNREACHABLE_FOR: Duration = Duration::from_secs(2);

/// Restarts by the engine itself after which an app counts as failing.
const CRASHES: i64 = 3;

/// What a look at the containers says.
enum Stage {
    Ended(Outcome),
    /// Nothing to do before the engine tells of a change.
    Wait(Option<Phase>),
    Probe {
        target: Target,
        addresses: Vec<IpAddr>,
    },
}

impl Attempt {
    pub(super) async fn until_ready(&mut self, was_paused: bool, deadline: Instant) -> Outcome {
        let mut told = None;
        let mut unreachable_since: Option<Instant> = None;
        loop {
            let stage = if self.view.snapshot().live {
                stage(&self.observe(), &self.facts(), was_paused)
            } else {
                Stage::Wait(None)
            };
            let (phase, pause) = match stage {
                Stage::Ended(outcome) => return outcome,
                Stage::Wait(phase) => (phase, None),
                Stage::Probe { target, addresses } => {
                    let probe = if was_paused {
                        answers(&addresses, &target).await
                    } else {
                        listens(&addresses, target.port).await
                    };
                    let since = *unreachable_since.get_or_insert_with(Instant::now);
                    match probe {
                        // One that is silent is slow, and not paused: that would have
                        // been seen.
                        Probe::Answers | Probe::Silent => return Outcome::Ready,
                        Probe::Unreachable if since.elapsed() >= UNREACHABLE_FOR => {
                            debug!(app = %self.app.name, "cannot be reached from here; it runs");
                            return Outcome::Ready;
                        }
                        Probe::Unreachable => {}
                        Probe::Refused => unreachable_since = None,
                    }
                    (Some(Phase::AwaitingPort), Some(PROBE_EVERY))
                }
            };
            if let Some(phase) = phase
                && told.as_ref() != Some(&phase)
            {
                self.tell(phase.clone());
                told = Some(phase);
            }
            let wait = pause.unwrap_or(Duration::MAX).min(deadline.duration_since(Instant::now()));
            tokio::select! {
                () = self.view.changed() => {}
                () = sleep(wait) => {}
            }
            if Instant::now() >= deadline {
                return self.too_late(told.as_ref());
            }
        }
    }

    fn too_late(&self, stage: Option<&Phase>) -> Outcome {
        let after = self.means.config.start_timeout;
        if !self.view.snapshot().live {
            return Outcome::Failed(Failure::EngineAway);
        }
        if stage == Some(&Phase::AwaitingPort) {
            // Its description may name the wrong port: what the proxy finds there is
            // for the proxy to say.
            warn!(app = %self.app.name, "runs, but nobody listens at its entrypoint; let through");
            return Outcome::Ready;
        }
        let observed = self.observe();
        let failing = observed.containers.iter().find(|c| c.state == State::Restarting);
        match failing {
            Some(container) => Outcome::Failed(ended(container)),
            None => Outcome::Failed(Failure::NotReady { after }),
        }
    }
}

fn stage(observed: &Observed, facts: &Facts, was_paused: bool) -> Stage {
    match observed.state {
        EngineState::Missing => {
            let reason = "the containers were removed".into();
            return Stage::Ended(Outcome::Failed(Failure::Engine(reason)));
        }
        EngineState::Paused => return Stage::Ended(Outcome::Declined(Phase::Paused)),
        EngineState::Exited => {
            let why = |container: &Arc<Container>| {
                failure_of(container).or_else(|| will_not_run(container, facts))
            };
            let failure = observed.containers.iter().find_map(why);
            return match failure {
                Some(failure) => Stage::Ended(Outcome::Failed(failure)),
                None => Stage::Wait(Some(Phase::Starting)),
            };
        }
        EngineState::Running => {}
    }
    if !observed.services.is_empty() {
        // A task runs for the swarm when its health check has passed; where it runs is
        // the swarm's matter.
        return Stage::Ended(Outcome::Ready);
    }
    let entrypoints = observed.entrypoints(facts);
    if let Some(sick) = entrypoints.iter().find(|c| c.health == Health::Unhealthy) {
        let container = sick.name.clone();
        return Stage::Ended(Outcome::Failed(Failure::Unhealthy { container }));
    }
    if entrypoints.iter().any(|container| container.health == Health::Starting) {
        return Stage::Wait(Some(Phase::AwaitingHealth));
    }
    let target = facts.entrypoints.iter().find_map(|target| {
        let container = entrypoints.iter().find(|c| c.is_called(&target.container))?;
        Some((target.clone(), container))
    });
    match target {
        // It was healthy before it was paused, too.
        Some((_, container)) if container.health == Health::Healthy && !was_paused => {
            Stage::Ended(Outcome::Ready)
        }
        // On the network of the host it has no address of its own.
        Some((target, container)) if !container.addresses.is_empty() => {
            Stage::Probe { target, addresses: container.addresses.clone() }
        }
        _ => Stage::Ended(Outcome::Ready),
    }
}

/// Why a container that was started does not run, where it has ended.
pub(super) fn failure_of(container: &Container) -> Option<Failure> {
    match container.state {
        State::Exited if container.exit_code != 0 || container.out_of_memory => {
            Some(ended(container))
        }
        State::Restarting if container.restarts >= CRASHES => Some(ended(container)),
        _ => None,
    }
}

/// Why a container that was started will never run, although it has not failed: it was
/// replaced by another, which nobody has started, or has come to its end as an app that
/// requests are sent to should not.
fn will_not_run(container: &Container, facts: &Facts) -> Option<Failure> {
    match container.state {
        State::Created => {
            let reason = format!("container {} was made anew meanwhile", container.name);
            Some(Failure::Engine(reason))
        }
        State::Exited if !container.restarts_always && is_entrypoint(container, facts) => {
            Some(ended(container))
        }
        _ => None,
    }
}

fn ended(container: &Container) -> Failure {
    let name = container.name.clone();
    if container.out_of_memory {
        Failure::OutOfMemory { container: name }
    } else {
        Failure::Exited { container: name, code: container.exit_code }
    }
}
