//! From running to ready.
//!
//! The engine's events report when a container runs, ends or passes its health check.
//! Nothing reports when a port opens, so the port is probed. Requests that wait for the
//! app are notified and do not poll.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tracing::{debug, warn};

use super::{Attempt, Outcome};
use crate::domain::lifecycle::{Phase, WakeError};
use crate::wake::docker::{Container, EndedBy, Health, Snapshot, State};
use crate::wake::observed::{EngineState, Observed};
use crate::wake::readiness::{Probe, answers, listens};
use crate::wake::roles::is_entrypoint;
use crate::wake::spec::{AppSpec, Target};

/// Shortest and longest time between two probes of a port on which nothing listens yet.
const PROBE_EVERY: [Duration; 2] = [Duration::from_millis(5), Duration::from_millis(25)];

/// An app that runs, and that nightporter could not reach for this long, counts as ready.
const UNREACHABLE_FOR: Duration = Duration::from_secs(2);

/// How long the only container of an app is probed whose entrypoints name none: the
/// description of such an app may name a port of something else.
const GUESSED_FOR: Duration = Duration::from_secs(10);

/// Restarts by the engine itself after which an app counts as failing.
const CRASHES: i64 = 3;

/// Time before which restarts do not count as failing: an app that crashes until its
/// database is up comes up within it. The engine restarts it after 0.1 s, 0.2 s, and so
/// on; a held request waits for longer.
pub(super) const CRASHING_FOR: Duration = Duration::from_secs(20);

/// How long a port has to answer before the app counts as ready without a result of its
/// health check: the first result may come minutes later.
const STARTING_GRACE: Duration = Duration::from_secs(3);

/// The same while the health check fails: it may be right, and the app may become healthy
/// soon.
const UNHEALTHY_GRACE: Duration = Duration::from_secs(10);

/// Time between two probes of a port that answers, while the health check has not passed.
const ANSWERING_EVERY: Duration = Duration::from_millis(250);

/// What to do next, by the state of the containers.
enum Stage {
    Completion(Outcome),
    /// Nothing to do until the engine reports a change.
    Wait(Option<Phase>),
    Probe {
        /// Where the entrypoint can be probed; `None` if it has no address.
        at: Option<(Target, Vec<IpAddr>)>,
        /// The container whose health check has not passed.
        unhealthy: Option<Arc<Container>>,
    },
}

/// The results of the probes of an app that is being waited for.
#[derive(Default)]
struct ProbeHistory {
    unreachable_since: Option<Instant>,
    /// Since when its port answers, regardless of its health check.
    answers_since: Option<Instant>,
}

/// Whether the engine was reachable all the time. Decides whether a container ended by
/// itself if no event reported who ended it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Liveness {
    /// The engine was reachable all the time.
    Steady,
    /// The engine was unreachable in between, and has ended the containers that it ran.
    Restarted,
}

/// What is considered besides the current state of the engine.
#[derive(Clone, Copy)]
struct WaitState {
    was_paused: bool,
    liveness: Liveness,
    /// How long the app has been waited for.
    waited: Duration,
}

impl ProbeHistory {
    fn note(&mut self, probe: Probe) {
        let now = Instant::now();
        let since = |before: Option<Instant>| Some(before.unwrap_or(now));
        *self = match probe {
            // A port that accepts connections without an answer is slow. The app is not
            // paused: that would have been observed.
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

/// Returns the time to the next probe of a port that has been probed for this long: a
/// hundredth of it. That is too short to be noticed by those who wait, and slow apps are
/// probed less often.
fn probe_after(probed_for: Duration) -> Duration {
    let [shortest, longest] = PROBE_EVERY;
    (probed_for / 100).clamp(shortest, longest)
}

impl Attempt {
    pub(super) async fn until_ready(&mut self, was_paused: bool, deadline: Instant) -> Outcome {
        let mut reported = None;
        let mut probes = ProbeHistory::default();
        let mut liveness = Liveness::Steady;
        let mut probing_since = None;
        let began = Instant::now();
        loop {
            let snapshot = self.view.snapshot();
            let stage = if snapshot.live {
                let observed = self.selector.observe(&self.spec(), &snapshot);
                let wait = WaitState { was_paused, liveness, waited: began.elapsed() };
                stage(&observed, &snapshot, &self.spec(), wait)
            } else {
                liveness = Liveness::Restarted;
                Stage::Wait(None)
            };
            let (phase, pause) = match stage {
                Stage::Completion(outcome) => return outcome,
                Stage::Wait(phase) => (phase, None),
                Stage::Probe { at, unhealthy } => {
                    probes.note(self.probe(at.as_ref(), was_paused).await);
                    if self.is_ready(&probes, unhealthy.as_deref()).await {
                        return Outcome::Ready;
                    }
                    let phase = match unhealthy {
                        Some(_) => Phase::AwaitingHealth,
                        None => Phase::AwaitingPort,
                    };
                    let is_probed = at.is_some() && probes.answers_since.is_none();
                    let probed_for = probing_since.get_or_insert_with(Instant::now).elapsed();
                    let pause = if is_probed { probe_after(probed_for) } else { ANSWERING_EVERY };
                    (Some(phase), Some(pause))
                }
            };
            if let Some(phase) = phase
                && reported.as_ref() != Some(&phase)
            {
                self.report(phase.clone());
                reported = Some(phase);
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
                return self.timed_out(reported.as_ref(), &probes, liveness);
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

    /// Returns whether the probes suffice to call the app ready. A health check is a
    /// hint: it may check the wrong port, or run for the first time after two minutes.
    async fn is_ready(&self, probes: &ProbeHistory, unhealthy: Option<&Container>) -> bool {
        let app = &self.app.name;
        let Some(container) = unhealthy else {
            let is_unreachable = probes.is_unreachable_for(UNREACHABLE_FOR);
            if is_unreachable {
                debug!(%app, "unreachable for nightporter, but running; counts as ready");
            }
            return probes.answers_since.is_some() || is_unreachable;
        };
        if probes.answers_since.is_some() && self.app.serves_unhealthy(container) {
            debug!(%app, container = %container.name, "answers, and has served unhealthy before");
            return true;
        }
        let is_enough = if container.health == Health::Unhealthy {
            probes.answers_for(UNHEALTHY_GRACE) || probes.is_unreachable_for(UNHEALTHY_GRACE)
        } else {
            // A health check that runs soon is waited for.
            let is_soon = container.first_check <= STARTING_GRACE;
            let grace = if is_soon { UNHEALTHY_GRACE } else { STARTING_GRACE };
            probes.answers_for(grace) && !self.was_checked(container).await
        };
        if is_enough {
            self.accept_unhealthy(container);
        }
        is_enough
    }

    /// Returns whether the health check has run since the container was started; no event
    /// reports a first failure.
    async fn was_checked(&self, container: &Container) -> bool {
        if container.was_checked {
            return true;
        }
        self.view.refresh([Arc::clone(&container.id)]).await;
        let snapshot = self.view.snapshot();
        snapshot.containers.get(&container.id).is_none_or(|container| container.was_checked)
    }

    fn accept_unhealthy(&self, container: &Container) {
        warn!(
            app = %self.app.name,
            container = %container.name,
            check = %container.check,
            "running, but its health check has not passed; requests pass"
        );
        self.app.note_serving_unhealthy(container);
    }

    fn timed_out(
        &self,
        stage: Option<&Phase>,
        probes: &ProbeHistory,
        liveness: Liveness,
    ) -> Outcome {
        let after = self.context.config.start_timeout;
        if !self.view.snapshot().live {
            return Outcome::Failed(WakeError::EngineAway);
        }
        let observed = self.observe();
        match stage {
            Some(Phase::AwaitingPort) => {
                // The app's description may name the wrong port. The request is passed
                // on, and the proxy reports what it finds.
                let app = &self.app.name;
                warn!(%app, "running, but its entrypoint does not listen; requests pass");
                let began = self.app.shown().began;
                self.app.note_unanswered_since(began.unwrap_or_else(Instant::now));
                return Outcome::Ready;
            }
            Some(Phase::AwaitingHealth) => {
                let unhealthy = unhealthy(&observed.entrypoints(&self.spec()));
                if let (Some(container), Some(_)) = (&unhealthy, probes.answers_since) {
                    self.accept_unhealthy(container);
                    return Outcome::Ready;
                }
                if let Some(unhealthy) = unhealthy.filter(|c| c.health == Health::Unhealthy) {
                    return Outcome::Failed(WakeError::Unhealthy {
                        container: unhealthy.name.clone(),
                    });
                }
            }
            _ => {}
        }
        let failing = observed.needed().find(|c| c.state == State::Restarting);
        match failing {
            Some(container) => Outcome::Failed(ended(container, liveness)),
            None => Outcome::Failed(WakeError::NotReady { after }),
        }
    }
}

/// Returns a container whose health check has not passed, preferring one whose check
/// fails.
fn unhealthy(entrypoints: &[&Arc<Container>]) -> Option<Arc<Container>> {
    let of = |health| entrypoints.iter().find(move |container| container.health == health);
    of(Health::Unhealthy).or_else(|| of(Health::Starting)).map(|container| Arc::clone(container))
}

fn stage(
    observed: &Observed,
    snapshot: &Snapshot,
    spec: &AppSpec,
    WaitState { was_paused, liveness, waited }: WaitState,
) -> Stage {
    match observed.state {
        EngineState::Missing => {
            let container = spec.entrypoints.first().map(|target| target.container.clone());
            let container = container.unwrap_or_default();
            let failure = WakeError::Interrupted { container, what: "removed" };
            return Stage::Completion(Outcome::Failed(failure));
        }
        EngineState::Paused => return Stage::Completion(Outcome::Declined(Phase::Paused)),
        EngineState::Exited => {
            let why = |container: &Arc<Container>| {
                failure_of(container, liveness, waited)
                    .or_else(|| will_not_run(container, spec, liveness))
            };
            let failure = observed.needed().find_map(why);
            return match failure {
                Some(failure) => Stage::Completion(Outcome::Failed(failure)),
                None => Stage::Wait(Some(Phase::Starting)),
            };
        }
        EngineState::Running => {}
    }
    if !observed.services.is_empty() {
        // In a swarm, a task counts as running once its health check has passed.
        // Nightporter does not need to know on which node it runs.
        return Stage::Completion(Outcome::Ready);
    }
    let entrypoints = observed.entrypoints(spec);
    let named = observed.named_entrypoint(spec);
    // A container with another name belongs to the app by its label or its project, or was
    // renamed.
    let only = match &entrypoints[..] {
        [only] if waited < GUESSED_FOR => spec.entrypoints.first().map(|target| (target, *only)),
        _ => None,
    };
    let target = named.or(only);
    let unhealthy = unhealthy(&entrypoints);
    match target {
        // After a pause, the health is that of before and proves nothing.
        Some((_, container))
            if container.health == Health::Healthy && unhealthy.is_none() && !was_paused =>
        {
            Stage::Completion(Outcome::Ready)
        }
        // A container on the host's network has no address of its own.
        Some((target, container)) if !snapshot.network_owner(container).addresses.is_empty() => {
            let addresses = snapshot.network_owner(container).addresses.clone();
            Stage::Probe { at: Some((target.clone(), addresses)), unhealthy }
        }
        _ if unhealthy.is_some() => Stage::Probe { at: None, unhealthy },
        _ => Stage::Completion(Outcome::Ready),
    }
}

/// Returns why a container that was started, and has been waited for this long, has
/// failed; `None` if it has not.
pub(super) fn failure_of(
    container: &Container,
    liveness: Liveness,
    waited: Duration,
) -> Option<WakeError> {
    match container.state {
        State::Exited if container.exit_code != 0 || container.out_of_memory => {
            Some(ended(container, liveness))
        }
        State::Restarting if container.restarts >= CRASHES && waited >= CRASHING_FOR => {
            Some(ended(container, liveness))
        }
        _ => None,
    }
}

/// Returns why a container that was started will never run, although it has not failed:
/// it was replaced by another one, which was never started, or it is an entrypoint, which
/// should not end, and has ended.
fn will_not_run(container: &Container, spec: &AppSpec, liveness: Liveness) -> Option<WakeError> {
    match container.state {
        State::Created => {
            let container = container.name.clone();
            Some(WakeError::Interrupted { container, what: "recreated" })
        }
        State::Exited if !container.restarts_always && is_entrypoint(container, spec) => {
            Some(ended(container, liveness))
        }
        _ => None,
    }
}

/// Exit codes of processes ended by SIGKILL and SIGTERM.
const KILLED: [i64; 2] = [137, 143];

/// Returns why a container has ended. A stop from outside is not a failure of the
/// container. Neither is a stop by an engine that shuts down itself, whose events are no
/// longer received by then.
fn ended(container: &Container, liveness: Liveness) -> WakeError {
    let name = container.name.clone();
    let is_interrupted = match container.ended {
        EndedBy::OtherClient | EndedBy::Nightporter => true,
        EndedBy::Unknown => {
            liveness == Liveness::Restarted || KILLED.contains(&container.exit_code)
        }
        EndedBy::Itself | EndedBy::Refused => false,
    };
    if container.out_of_memory {
        WakeError::OutOfMemory { container: name }
    } else if is_interrupted && container.state != State::Restarting {
        WakeError::Interrupted { container: name, what: "stopped" }
    } else {
        WakeError::Exited { container: name, code: container.exit_code }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wake::selector::Selector;

    #[test]
    fn a_port_is_asked_less_often_the_longer_nobody_listens() {
        let after = |millis| probe_after(Duration::from_millis(millis)).as_millis();
        assert_eq!([0, 100, 1000, 2000, 60_000].map(after), [5, 5, 10, 20, 25]);
        let mut probes = 0;
        let mut time = Duration::ZERO;
        while time < Duration::from_secs(60) {
            time += probe_after(time);
            probes += 1;
        }
        assert!(probes < 2700, "an app that takes a minute is probed {probes} times");
    }

    #[test]
    fn the_only_container_is_probed_for_a_while_whatever_it_is_called() {
        let address: IpAddr = "10.5.0.5".parse().expect("an address");
        let spec = AppSpec {
            entrypoints: vec![Target { container: "notes".into(), port: 80, speaks_http: true }],
            ..AppSpec::default()
        };
        let is_probed = |services: &[&str], waited| {
            let containers = services.iter().map(|service| {
                let sample = Container::sample("notes", service, State::Running);
                let container = Container { addresses: vec![address], ..sample };
                (Arc::clone(&container.id), Arc::new(container))
            });
            let containers = containers.collect();
            let snapshot =
                Snapshot { live: true, was_listed: true, containers, ..Snapshot::default() };
            let selector = Selector::new(&"notes".into(), &Arc::default());
            let observed = selector.observe(&spec, &snapshot);
            let liveness = Liveness::Steady;
            match stage(
                &observed,
                &snapshot,
                &spec,
                WaitState { was_paused: false, liveness, waited },
            ) {
                Stage::Probe { at: Some((target, addresses)), unhealthy: None } => {
                    assert_eq!((target.port, addresses), (80, vec![address]));
                    true
                }
                Stage::Completion(Outcome::Ready) => false,
                _ => panic!("neither probed nor ready"),
            }
        };
        let second = Duration::from_secs(1);
        assert!(is_probed(&["anything"], second));
        assert!(!is_probed(&["anything"], 10 * second));
        assert!(is_probed(&["notes"], 10 * second));
        assert!(is_probed(&["anything", "notes"], second));
        assert!(!is_probed(&["anything", "other"], second));
    }

    #[test]
    fn an_app_that_crashes_until_its_database_is_there_is_given_time() {
        let crashing = |restarts| Container {
            restarts,
            exit_code: 1,
            ..Container::sample("wiki", "web", State::Restarting)
        };
        let fails = |restarts, waited| {
            failure_of(&crashing(restarts), Liveness::Steady, Duration::from_secs(waited)).is_some()
        };
        assert!(!fails(2, 60) && !fails(7, 19));
        assert!(fails(3, 20));
        let ended = Container { exit_code: 1, ..Container::sample("wiki", "web", State::Exited) };
        assert!(
            failure_of(&ended, Liveness::Steady, Duration::ZERO).is_some(),
            "it is not restarted"
        );
    }

    #[test]
    fn what_somebody_else_has_ended_has_not_failed_by_itself() {
        use EndedBy::{Itself, Nightporter, OtherClient, Refused, Unknown};
        for (ended_by, code, liveness, is_failure) in [
            (Itself, 137, Liveness::Steady, true),
            (Itself, 1, Liveness::Restarted, true),
            (Refused, 128, Liveness::Steady, true),
            (Unknown, 1, Liveness::Steady, true),
            (Unknown, 0, Liveness::Steady, true),
            (Unknown, 1, Liveness::Restarted, false),
            (Unknown, 137, Liveness::Steady, false),
            (Unknown, 143, Liveness::Steady, false),
            (OtherClient, 1, Liveness::Steady, false),
            (Nightporter, 143, Liveness::Steady, false),
        ] {
            let container = Container {
                ended: ended_by,
                exit_code: code,
                ..Container::sample("wiki", "web", State::Exited)
            };
            let failure = ended(&container, liveness);
            let exited =
                matches!(failure, WakeError::Exited { code: reported, .. } if reported == code);
            assert_eq!(exited, is_failure, "{ended_by:?} {code}: {failure}");
            let starved = Container { out_of_memory: true, ..container };
            assert!(matches!(ended(&starved, liveness), WakeError::OutOfMemory { .. }));
        }
    }
}
