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
use crate::wake::docker::{Container, EndedBy, Health, Snapshot, State};
use crate::wake::observed::{EngineState, Observed, is_entrypoint};
use crate::wake::readiness::{Probe, answers, listens};

/// Shortest and longest time between two questions to a port that nobody listens at yet.
const PROBE_EVERY: [Duration; 2] = [Duration::from_millis(5), Duration::from_millis(25)];

/// An app that cannot be reached from here for so long is taken for ready once it runs.
const UNREACHABLE_FOR: Duration = Duration::from_secs(2);

/// Restarts by the engine itself after which an app counts as failing.
const CRASHES: i64 = 3;

/// The same as time: an app that waits for its database by crashing comes up within it. The
/// engine restarts it after 0.1 s, 0.2 s, and so on; a held request waits for longer.
pub(super) const CRASHING_FOR: Duration = Duration::from_secs(20);

/// How long a port has to answer while the health check says nothing yet: its first word
/// may come minutes later.
const STARTING_GRACE: Duration = Duration::from_secs(3);

/// The same while the health check says no: it may be right, and the app be well soon.
const UNHEALTHY_GRACE: Duration = Duration::from_secs(10);

/// How often a port that answers is asked again, while the health check is waited for.
const ANSWERING_EVERY: Duration = Duration::from_millis(250);

/// What a look at the containers says.
enum Stage {
    Ended(Outcome),
    /// Nothing to do before the engine tells of a change.
    Wait(Option<Phase>),
    Probe {
        /// Where the entrypoint can be asked, if it can.
        at: Option<(Target, Vec<IpAddr>)>,
        /// Whose health check has not passed.
        unwell: Option<Arc<Container>>,
    },
}

/// What was found out while an app was waited for.
#[derive(Default)]
struct Found {
    unreachable_since: Option<Instant>,
    /// Since when its port answers, whatever its health check says.
    answers_since: Option<Instant>,
}

/// Whether a container that ends has a reason of its own, when nobody has heard who ended it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Engine {
    /// It was there all the time.
    Steady,
    /// It was away in between, and has ended what it ran.
    Restarted,
}

/// What counts beside what the engine shows now.
#[derive(Clone, Copy)]
struct Seen {
    was_paused: bool,
    engine: Engine,
    /// For how long it was waited.
    waited: Duration,
}

impl Found {
    fn note(&mut self, probe: Probe) {
        let now = Instant::now();
        let since = |before: Option<Instant>| Some(before.unwrap_or(now));
        *self = match probe {
            // One that is silent is slow, and not paused: that would have been seen.
            Probe::Answers | Probe::Silent => {
                Self { answers_since: since(self.answers_since), unreachable_since: None }
            }
            Probe::Unreachable => {
                Self { unreachable_since: since(self.unreachable_since), answers_since: None }
            }
            Probe::Refused => Self::default(),
        };
    }

    fn is_unreachable_for(&self, limit: Duration) -> bool {
        self.unreachable_since.is_some_and(|since| since.elapsed() >= limit)
    }

    fn answers_for(&self, limit: Duration) -> bool {
        self.answers_since.is_some_and(|since| since.elapsed() >= limit)
    }
}

/// When a port that has been asked for so long is asked again: after a hundredth of that
/// time. Who waits does not notice it, and an app that is slow is asked less often.
fn probe_after(asked_for: Duration) -> Duration {
    let [shortest, longest] = PROBE_EVERY;
    (asked_for / 100).clamp(shortest, longest)
}

impl Attempt {
    pub(super) async fn until_ready(&mut self, was_paused: bool, deadline: Instant) -> Outcome {
        let mut told = None;
        let mut found = Found::default();
        let mut engine = Engine::Steady;
        let mut asked_since = None;
        let began = Instant::now();
        loop {
            let snapshot = self.view.snapshot();
            let stage = if snapshot.live {
                let observed = self.selector.observe(&self.facts(), &snapshot);
                let seen = Seen { was_paused, engine, waited: began.elapsed() };
                stage(&observed, &snapshot, &self.facts(), seen)
            } else {
                engine = Engine::Restarted;
                Stage::Wait(None)
            };
            let (phase, pause) = match stage {
                Stage::Ended(outcome) => return outcome,
                Stage::Wait(phase) => (phase, None),
                Stage::Probe { at, unwell } => {
                    found.note(self.probe(at.as_ref(), was_paused).await);
                    if self.is_ready(&found, unwell.as_deref()).await {
                        return Outcome::Ready;
                    }
                    let phase = match unwell {
                        Some(_) => Phase::AwaitingHealth,
                        None => Phase::AwaitingPort,
                    };
                    let is_asked = at.is_some() && found.answers_since.is_none();
                    let asked_for = asked_since.get_or_insert_with(Instant::now).elapsed();
                    let pause = if is_asked { probe_after(asked_for) } else { ANSWERING_EVERY };
                    (Some(phase), Some(pause))
                }
            };
            if let Some(phase) = phase
                && told.as_ref() != Some(&phase)
            {
                self.tell(phase.clone());
                told = Some(phase);
            }
            let mut wait =
                pause.unwrap_or(Duration::MAX).min(deadline.duration_since(Instant::now()));
            if let Some(left) = CRASHING_FOR.checked_sub(began.elapsed()) {
                wait = wait.min(left);
            }
            tokio::select! {
                () = self.view.changed() => {}
                () = sleep(wait) => {}
            }
            if Instant::now() >= deadline {
                return self.too_late(told.as_ref(), &found, engine);
            }
        }
    }

    async fn probe(&self, at: Option<&(Target, Vec<IpAddr>)>, was_paused: bool) -> Probe {
        match at {
            None => Probe::Unreachable,
            Some((target, addresses)) if was_paused => {
                answers(addresses, target, self.app.host().as_deref()).await
            }
            Some((target, addresses)) => listens(addresses, target.port).await,
        }
    }

    /// Whether what was found out is enough. A health check is a hint: it may ask a
    /// wrong port, or not before two minutes have passed.
    async fn is_ready(&self, found: &Found, unwell: Option<&Container>) -> bool {
        let app = &self.app.name;
        let Some(container) = unwell else {
            let is_unreachable = found.is_unreachable_for(UNREACHABLE_FOR);
            if is_unreachable {
                debug!(%app, "cannot be reached from here; it runs");
            }
            return found.answers_since.is_some() || is_unreachable;
        };
        if found.answers_since.is_some() && self.app.serves_unwell(container) {
            debug!(%app, container = %container.name, "answers, and has served like that before");
            return true;
        }
        let is_enough = if container.health == Health::Unhealthy {
            found.answers_for(UNHEALTHY_GRACE) || found.is_unreachable_for(UNHEALTHY_GRACE)
        } else {
            // What is about to say something is heard first.
            let is_soon = container.first_check <= STARTING_GRACE;
            let grace = if is_soon { UNHEALTHY_GRACE } else { STARTING_GRACE };
            found.answers_for(grace) && !self.was_checked(container).await
        };
        if is_enough {
            self.let_in_unwell(container);
        }
        is_enough
    }

    /// Whether the health check has said anything since the container was started; no
    /// event tells of a first no.
    async fn was_checked(&self, container: &Container) -> bool {
        if container.was_checked {
            return true;
        }
        self.view.look([Arc::clone(&container.id)]).await;
        let snapshot = self.view.snapshot();
        snapshot.containers.get(&container.id).is_none_or(|container| container.was_checked)
    }

    fn let_in_unwell(&self, container: &Container) {
        warn!(
            app = %self.app.name,
            container = %container.name,
            check = %container.check,
            "runs, but its health check does not pass; let through"
        );
        self.app.note_unwell(container);
    }

    fn too_late(&self, stage: Option<&Phase>, found: &Found, engine: Engine) -> Outcome {
        let after = self.means.config.start_timeout;
        if !self.view.snapshot().live {
            return Outcome::Failed(Failure::EngineAway);
        }
        let observed = self.observe();
        match stage {
            Some(Phase::AwaitingPort) => {
                // Its description may name the wrong port: what the proxy finds there is
                // for the proxy to say.
                let app = &self.app.name;
                warn!(%app, "runs, but nobody listens at its entrypoint; let through");
                let began = self.app.shown().began;
                self.app.note_unanswered_since(began.unwrap_or_else(Instant::now));
                return Outcome::Ready;
            }
            Some(Phase::AwaitingHealth) => {
                let unwell = unwell(&observed.entrypoints(&self.facts()));
                if let (Some(container), Some(_)) = (&unwell, found.answers_since) {
                    self.let_in_unwell(container);
                    return Outcome::Ready;
                }
                if let Some(sick) = unwell.filter(|c| c.health == Health::Unhealthy) {
                    return Outcome::Failed(Failure::Unhealthy { container: sick.name.clone() });
                }
            }
            _ => {}
        }
        let failing = observed.needed().find(|c| c.state == State::Restarting);
        match failing {
            Some(container) => Outcome::Failed(ended(container, engine)),
            None => Outcome::Failed(Failure::NotReady { after }),
        }
    }
}

/// The container whose health check has not passed, one that fails first.
fn unwell(entrypoints: &[&Arc<Container>]) -> Option<Arc<Container>> {
    let of = |health| entrypoints.iter().find(move |container| container.health == health);
    of(Health::Unhealthy).or_else(|| of(Health::Starting)).map(|container| Arc::clone(container))
}

fn stage(
    observed: &Observed,
    snapshot: &Snapshot,
    facts: &Facts,
    Seen { was_paused, engine, waited }: Seen,
) -> Stage {
    match observed.state {
        EngineState::Missing => {
            let container = facts.entrypoints.first().map(|target| target.container.clone());
            let container = container.unwrap_or_default();
            let failure = Failure::Interrupted { container, what: "removed" };
            return Stage::Ended(Outcome::Failed(failure));
        }
        EngineState::Paused => return Stage::Ended(Outcome::Declined(Phase::Paused)),
        EngineState::Exited => {
            let why = |container: &Arc<Container>| {
                failure_of(container, engine, waited)
                    .or_else(|| will_not_run(container, facts, engine))
            };
            let failure = observed.needed().find_map(why);
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
    let target = facts.entrypoints.iter().find_map(|target| {
        let container = entrypoints.iter().find(|c| c.is_called(&target.container))?;
        Some((target.clone(), container))
    });
    let unwell = unwell(&entrypoints);
    match target {
        // It was healthy before it was paused, too.
        Some((_, container))
            if container.health == Health::Healthy && unwell.is_none() && !was_paused =>
        {
            Stage::Ended(Outcome::Ready)
        }
        // On the network of the host it has no address of its own.
        Some((target, container)) if !snapshot.networked(container).addresses.is_empty() => {
            let addresses = snapshot.networked(container).addresses.clone();
            Stage::Probe { at: Some((target, addresses)), unwell }
        }
        _ if unwell.is_some() => Stage::Probe { at: None, unwell },
        _ => Stage::Ended(Outcome::Ready),
    }
}

/// Why a container that was started, and waited for so long, does not run, where it has
/// ended.
pub(super) fn failure_of(
    container: &Container,
    engine: Engine,
    waited: Duration,
) -> Option<Failure> {
    match container.state {
        State::Exited if container.exit_code != 0 || container.out_of_memory => {
            Some(ended(container, engine))
        }
        State::Restarting if container.restarts >= CRASHES && waited >= CRASHING_FOR => {
            Some(ended(container, engine))
        }
        _ => None,
    }
}

/// Why a container that was started will never run, although it has not failed: it was
/// replaced by another, which nobody has started, or has come to its end as an app that
/// requests are sent to should not.
fn will_not_run(container: &Container, facts: &Facts, engine: Engine) -> Option<Failure> {
    match container.state {
        State::Created => {
            let container = container.name.clone();
            Some(Failure::Interrupted { container, what: "made anew" })
        }
        State::Exited if !container.restarts_always && is_entrypoint(container, facts) => {
            Some(ended(container, engine))
        }
        _ => None,
    }
}

/// Codes of what SIGKILL and SIGTERM have ended.
const KILLED: [i64; 2] = [137, 143];

/// Why a container has ended. That somebody has stopped it is no failing of its own; nor
/// is that an engine has which ends itself, and which nobody hears any more by then.
fn ended(container: &Container, engine: Engine) -> Failure {
    let name = container.name.clone();
    let is_interrupted = match container.ended {
        EndedBy::Somebody | EndedBy::Us => true,
        EndedBy::Unknown => engine == Engine::Restarted || KILLED.contains(&container.exit_code),
        EndedBy::Itself | EndedBy::Refused => false,
    };
    if container.out_of_memory {
        Failure::OutOfMemory { container: name }
    } else if is_interrupted && container.state != State::Restarting {
        Failure::Interrupted { container: name, what: "stopped" }
    } else {
        Failure::Exited { container: name, code: container.exit_code }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_asked_less_often_the_longer_nobody_listens() {
        let after = |millis| probe_after(Duration::from_millis(millis)).as_millis();
        assert_eq!([0, 100, 1000, 2000, 60_000].map(after), [5, 5, 10, 20, 25]);
        let mut asked = 0;
        let mut time = Duration::ZERO;
        while time < Duration::from_secs(60) {
            time += probe_after(time);
            asked += 1;
        }
        assert!(asked < 2700, "an app of a minute is asked {asked} times");
    }

    #[test]
    fn an_app_that_crashes_until_its_database_is_there_is_given_time() {
        let crashing = |restarts| Container {
            restarts,
            exit_code: 1,
            ..Container::sample("wiki", "web", State::Restarting)
        };
        let fails = |restarts, waited| {
            failure_of(&crashing(restarts), Engine::Steady, Duration::from_secs(waited)).is_some()
        };
        assert!(!fails(2, 60) && !fails(7, 19));
        assert!(fails(3, 20));
        let ended = Container { exit_code: 1, ..Container::sample("wiki", "web", State::Exited) };
        assert!(failure_of(&ended, Engine::Steady, Duration::ZERO).is_some(), "nobody restarts it");
    }

    #[test]
    fn what_somebody_else_has_ended_has_not_failed_by_itself() {
        use EndedBy::{Itself, Refused, Somebody, Unknown, Us};
        for (ended_by, code, engine, is_own) in [
            (Itself, 137, Engine::Steady, true),
            (Itself, 1, Engine::Restarted, true),
            (Refused, 128, Engine::Steady, true),
            (Unknown, 1, Engine::Steady, true),
            (Unknown, 0, Engine::Steady, true),
            (Unknown, 1, Engine::Restarted, false),
            (Unknown, 137, Engine::Steady, false),
            (Unknown, 143, Engine::Steady, false),
            (Somebody, 1, Engine::Steady, false),
            (Us, 143, Engine::Steady, false),
        ] {
            let container = Container {
                ended: ended_by,
                exit_code: code,
                ..Container::sample("wiki", "web", State::Exited)
            };
            let failure = ended(&container, engine);
            let exited = matches!(failure, Failure::Exited { code: told, .. } if told == code);
            assert_eq!(exited, is_own, "{ended_by:?} {code}: {failure}");
            let starved = Container { out_of_memory: true, ..container };
            assert!(matches!(ended(&starved, engine), Failure::OutOfMemory { .. }));
        }
    }
}
