//! The role of each container of an app: whether the app needs it to be awake, and whether
//! a wake starts it.
//!
//! The rule is a table (the tests hold it as data). It is read from the top, and the first
//! matching row decides. *With the app* means that the same stop has also ended the
//! entrypoints: a stop by nightporter, by Compose, or the end of the engine itself.
//!
//! | the container | how its last run ended | need |
//! |---|---|---|
//! | is running or paused | | required |
//! | is a replica of an entrypoint, and another replica is required | any | as any other |
//! | is an entrypoint | any | required |
//! | is a one-shot (another container waits for it to complete) | with code 0 | finished |
//! | has exited by itself with code 0 before | with code 0 | finished |
//! | any | with the app | required |
//! | is restarted again and again, and is a dependency | | required |
//! | is restarted again and again, and is none | | optional |
//! | was never started | | required |
//! | was skipped when the entrypoints were started, and is a dependency | | required |
//! | was skipped and is none, as one of a profile that is not enabled | | left stopped |
//! | is a dependency, and the entrypoints are not running | stopped from outside | required |
//! | any | stopped from outside | left stopped |
//! | any | by itself with code 0 | finished |
//! | is a dependency | by itself with another code | required |
//! | is none | by itself with another code | optional |

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use super::docker::{Container, DependencyCondition, EndedBy, Labels, State};
use super::spec::AppSpec;

/// Two containers that end no further apart than this were ended by the same stop: an
/// engine that shuts down gives all of them 15 s, and a program that stops one after the
/// other gives each 10 s.
const SAME_STOP: Duration = Duration::from_secs(15);

/// The exit code that the engine reports if a container cannot be started.
const START_REFUSED: i64 = 128;

/// The function of a container in its app.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Requests are sent to it.
    Entrypoint,
    /// An entrypoint depends on it, directly or through other containers.
    Dependency,
    /// A dependency that another container waits for to complete.
    OneShot,
    Other,
}

/// How the last run of a container ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LastRun {
    /// It has not ended.
    Ongoing,
    /// The engine restarts it again and again.
    Restarting,
    /// The container was never started.
    NeverStarted,
    /// It was never started, although it existed when the app was started.
    Skipped,
    Exited {
        code: i64,
    },
    /// It was stopped from outside while the app kept running.
    Stopped {
        code: i64,
    },
    StoppedWithApp {
        code: i64,
    },
}

/// How much an app needs a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    /// The app is not awake without it.
    Required,
    /// It is started together with the app, and the app is awake without it.
    Optional,
    /// It has completed its work, and runs again before a container that waits for it starts.
    Finished,
    /// It stays stopped, as it was left.
    LeftStopped,
}

/// What one container is to its app.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ContainerRole {
    pub(super) role: Role,
    pub(super) need: Need,
    /// Whether a wake starts it if it is not running.
    pub(super) starts_on_wake: bool,
}

/// Classifies an app's containers; the result is in their order.
pub(super) fn classify(containers: &[Arc<Container>], spec: &AppSpec) -> Vec<ContainerRole> {
    let roles = assign_roles(containers, spec);
    let entrypoints: Vec<_> = containers
        .iter()
        .zip(&roles)
        .filter(|(_, role)| **role == Role::Entrypoint)
        .map(|(container, _)| &**container)
        .collect();
    let serves = if entrypoints.is_empty() {
        containers.iter().any(|container| is_up(container))
    } else {
        entrypoints.iter().all(|one| is_up(one) || replicas(one, &entrypoints).any(is_up))
    };
    let mut ends: Vec<_> = containers.iter().filter_map(|container| container.finished).collect();
    ends.sort_unstable();
    let need_of = |container: &Container, role: Role| {
        // A replica is one of several containers that do the same.
        let is_replica = role == Role::Entrypoint && replicas(container, &entrypoints).count() > 0;
        let role = if is_replica { Role::Other } else { role };
        let others: Vec<_> = entrypoints.iter().copied().filter(|c| c.id != container.id).collect();
        let entrypoints = if is_replica { &others } else { &entrypoints };
        need(role, last_run(container, entrypoints, &ends), container.has_finished, serves)
    };
    let classify_one = |(container, role): (&Arc<Container>, Role)| {
        let mut need = need_of(container, role);
        let is_required = |replica| need_of(replica, Role::Entrypoint) == Need::Required;
        if role == Role::Entrypoint && !replicas(container, &entrypoints).any(is_required) {
            // At least one replica is required.
            need = Need::Required;
        }
        let starts_on_wake = match need {
            Need::Required => true,
            Need::Optional => !serves,
            Need::Finished => !serves && role != Role::Other,
            Need::LeftStopped => false,
        };
        ContainerRole { role, need, starts_on_wake }
    };
    containers.iter().zip(roles).map(classify_one).collect()
}

/// Whether requests are sent to the container.
pub(super) fn is_entrypoint(container: &Container, spec: &AppSpec) -> bool {
    spec.entrypoints.iter().any(|target| container.is_called(&target.container))
}

fn is_up(container: &Container) -> bool {
    matches!(container.state, State::Running | State::Paused)
}

/// Returns the other replicas of a container's service.
fn replicas<'a>(
    container: &'a Container,
    all: &'a [&'a Container],
) -> impl Iterator<Item = &'a Container> {
    let Labels { project, service, .. } = &container.labels;
    all.iter().copied().filter(move |other| {
        let theirs = &other.labels;
        other.id != container.id
            && service.is_some()
            && (&theirs.project, &theirs.service) == (project, service)
    })
}

/// Applies the table.
fn need(role: Role, last_run: LastRun, has_finished: bool, serves: bool) -> Need {
    use Need::{Finished, LeftStopped, Optional, Required};
    let is_dependency = matches!(role, Role::Dependency | Role::OneShot);
    let is_one_shot = role == Role::OneShot || has_finished;
    match last_run {
        _ if role == Role::Entrypoint => Required,
        LastRun::Exited { code: 0 }
        | LastRun::Stopped { code: 0 }
        | LastRun::StoppedWithApp { code: 0 }
            if is_one_shot =>
        {
            Finished
        }
        LastRun::Ongoing | LastRun::NeverStarted | LastRun::StoppedWithApp { .. } => Required,
        LastRun::Exited { code: 0 } => Finished,
        LastRun::Stopped { .. } if serves || !is_dependency => LeftStopped,
        _ if is_dependency => Required,
        LastRun::Stopped { .. } | LastRun::Skipped => LeftStopped,
        LastRun::Restarting | LastRun::Exited { .. } => Optional,
    }
}

/// Assigns the roles. If no container is known to be an entrypoint, the app depends on all.
fn assign_roles(containers: &[Arc<Container>], spec: &AppSpec) -> Vec<Role> {
    let mut roles: Vec<_> = containers
        .iter()
        .map(|c| if is_entrypoint(c, spec) { Role::Entrypoint } else { Role::Other })
        .collect();
    let is_known = roles.contains(&Role::Entrypoint);
    let as_root =
        |(at, role): (usize, &Role)| (*role == Role::Entrypoint || !is_known).then_some(at);
    let mut waiting: Vec<_> = roles.iter().enumerate().filter_map(as_root).collect();
    let mut seen: HashSet<_> = waiting.iter().copied().collect();
    if !is_known {
        roles.fill(Role::Dependency);
    }
    while let Some(at) = waiting.pop() {
        for dependency in &containers[at].labels.depends_on {
            for (other, container) in containers.iter().enumerate() {
                if other == at || !container.is_called(&dependency.service) {
                    continue;
                }
                match (roles[other], dependency.condition) {
                    (Role::Entrypoint, _) => {}
                    (_, DependencyCondition::Completed) => roles[other] = Role::OneShot,
                    (Role::Other, _) => roles[other] = Role::Dependency,
                    _ => {}
                }
                if seen.insert(other) {
                    waiting.push(other);
                }
            }
        }
    }
    roles
}

/// Returns how a container's last run ended: from the engine's events, or else from the
/// times and exit codes of all containers. `ends` are the end times of the app's
/// containers, in order.
fn last_run(container: &Container, entrypoints: &[&Container], ends: &[i64]) -> LastRun {
    let code = container.exit_code;
    match container.state {
        State::Running | State::Paused => return LastRun::Ongoing,
        State::Restarting => return LastRun::Restarting,
        _ if container.ended == EndedBy::Refused => return LastRun::Exited { code: START_REFUSED },
        State::Created => {
            let was_there = |other: &&Container| container.made < other.started;
            let was_skipped = container.made.is_some() && entrypoints.iter().any(was_there);
            return if was_skipped { LastRun::Skipped } else { LastRun::NeverStarted };
        }
        State::Exited | State::Gone => {}
    }
    // A sleep by nightporter has not touched containers that were not running, and an
    // entrypoint that exited by itself has ended no other container.
    let is_alone =
        |other: &&Container| matches!(other.ended, EndedBy::Nightporter | EndedBy::Itself);
    let was_apart = entrypoints.iter().any(is_alone);
    let together = || entrypoints.iter().any(|other| ended_with(container, other, ends));
    match container.ended {
        EndedBy::Nightporter => LastRun::StoppedWithApp { code },
        EndedBy::OtherClient if !was_apart && together() => LastRun::StoppedWithApp { code },
        EndedBy::OtherClient => LastRun::Stopped { code },
        // The end time is not known.
        EndedBy::Unknown if container.finished.is_none() => match code {
            0 if !container.restarts_always => LastRun::Exited { code },
            _ => LastRun::StoppedWithApp { code },
        },
        EndedBy::Unknown if together() => LastRun::StoppedWithApp { code },
        // The engine restarts it unless it was stopped from outside.
        EndedBy::Unknown if container.restarts_always => LastRun::Stopped { code },
        EndedBy::Unknown if is_signal(code) && !container.out_of_memory => {
            LastRun::Stopped { code }
        }
        EndedBy::Itself | EndedBy::Refused | EndedBy::Unknown => LastRun::Exited { code },
    }
}

/// Whether the exit code is that of SIGINT, SIGKILL or SIGTERM.
fn is_signal(code: i64) -> bool {
    matches!(code, 130 | 137 | 143)
}

/// Whether the stop that ended `other`, which may be running again, also ended the
/// container.
fn ended_with(container: &Container, other: &Container, ends: &[i64]) -> bool {
    let (Some(end), Some(others)) = (container.finished, other.finished) else { return false };
    if container.started.is_some_and(|started| started > others) {
        return false;
    }
    if end >= others {
        let runs = matches!(other.state, State::Running | State::Paused);
        return !runs || other.started.is_none_or(|started| end <= started);
    }
    // In a series of stops each may take up to the margin.
    let margin = i64::try_from(SAME_STOP.as_millis()).unwrap_or(i64::MAX);
    let mut last = end;
    for next in ends.iter().copied().filter(|next| (end..=others).contains(next)) {
        if next - last > margin {
            return false;
        }
        last = next;
    }
    true
}

#[cfg(test)]
mod tests;
