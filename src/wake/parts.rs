//! What each of an app's containers means for whether the app is awake, and whether a
//! wake starts it.
//!
//! The rule is a table (the tests hold it as data), read from the top; the first line
//! that fits decides. *With the app* means that the same stop has ended what requests
//! go to: nightporter's, Compose's, or the end of the engine itself.
//!
//! | the container | its end | then it is |
//! |---|---|---|
//! | runs or is paused | | needed |
//! | is one that requests go to | any | needed |
//! | is one of several such of one service, where another is needed | any | as another part |
//! | was waited for to complete | with code 0 | finished |
//! | has ended by itself with code 0 before | with code 0 | finished |
//! | any | with the app | needed |
//! | is restarted again and again: a dependency | | needed |
//! | is restarted again and again: another | | optional |
//! | was never started | | needed |
//! | was passed over when what requests go to was started: a dependency | | needed |
//! | was passed over: another, as of a profile that is not enabled | | left |
//! | a dependency, while what requests go to does not run | somebody stopped it | needed |
//! | any | somebody stopped it | left |
//! | any | by itself with code 0 | finished |
//! | a dependency | by itself with another code | needed |
//! | another | by itself with another code | optional |

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use super::app::Facts;
use super::docker::{Belongs, Condition, Container, EndedBy, State};
use super::observed::is_entrypoint;

/// Two containers that end no further apart were ended by the same stop: an engine that
/// ends gives all of them 15 s, and whoever stops one after the other 10 s each.
const SAME_STOP: Duration = Duration::from_secs(15);

/// The code that the engine gives where a container cannot be started.
const REFUSED: i64 = 128;

/// What a container is to its app.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Requests are sent to it.
    Entrypoint,
    /// What requests are sent to depends on it, directly or by way of others.
    Dependency,
    /// The same, and it is waited for to complete.
    OneShot,
    Other,
}

/// How the last run of a container came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// It has not ended.
    Up,
    /// The engine restarts it again and again.
    Restarting,
    /// There was no run.
    Never,
    /// There was no run, although it was there when the app was started.
    PassedOver,
    Itself {
        code: i64,
    },
    /// Somebody stopped it, and the app ran on.
    Somebody {
        code: i64,
    },
    WithApp {
        code: i64,
    },
}

/// How much the app needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    /// The app is not awake without it.
    Required,
    /// Started whenever the app is, and not missed otherwise.
    Optional,
    /// Has done its work; does it again before a start of what waits for it.
    Finished,
    /// As somebody left it.
    Left,
}

/// One container of an app.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) role: Role,
    pub(super) need: Need,
    /// Whether a wake starts it, where it does not run.
    pub(super) is_started: bool,
}

/// Judges an app's containers, in their order.
pub(super) fn judge(containers: &[Arc<Container>], facts: &Facts) -> Vec<Part> {
    let roles = roles(containers, facts);
    let reached: Vec<_> = containers
        .iter()
        .zip(&roles)
        .filter(|(_, role)| **role == Role::Entrypoint)
        .map(|(container, _)| &**container)
        .collect();
    let serves = if reached.is_empty() {
        containers.iter().any(|container| is_up(container))
    } else {
        reached.iter().all(|one| is_up(one) || replicas(one, &reached).any(is_up))
    };
    let mut ends: Vec<_> = containers.iter().filter_map(|container| container.finished).collect();
    ends.sort_unstable();
    let need_of = |container: &Container, role: Role| {
        // A replica is one of several that do the same.
        let is_replica = role == Role::Entrypoint && replicas(container, &reached).count() > 0;
        let role = if is_replica { Role::Other } else { role };
        let others: Vec<_> = reached.iter().copied().filter(|c| c.id != container.id).collect();
        let reached = if is_replica { &others } else { &reached };
        need(role, end(container, reached, &ends), container.has_finished, serves)
    };
    let part = |(container, role): (&Arc<Container>, Role)| {
        let mut need = need_of(container, role);
        let is_required = |replica| need_of(replica, Role::Entrypoint) == Need::Required;
        if role == Role::Entrypoint && !replicas(container, &reached).any(is_required) {
            // One at least there has to be.
            need = Need::Required;
        }
        let is_started = match need {
            Need::Required => true,
            Need::Optional => !serves,
            Need::Finished => !serves && role != Role::Other,
            Need::Left => false,
        };
        Part { role, need, is_started }
    };
    containers.iter().zip(roles).map(part).collect()
}

fn is_up(container: &Container) -> bool {
    matches!(container.state, State::Running | State::Paused)
}

/// The others of a service that is scaled.
fn replicas<'a>(
    container: &'a Container,
    all: &'a [&'a Container],
) -> impl Iterator<Item = &'a Container> {
    let Belongs { project, service, .. } = &container.belongs;
    all.iter().copied().filter(move |other| {
        let theirs = &other.belongs;
        other.id != container.id
            && service.is_some()
            && (&theirs.project, &theirs.service) == (project, service)
    })
}

/// The table.
fn need(role: Role, end: End, has_finished: bool, serves: bool) -> Need {
    use Need::{Finished, Left, Optional, Required};
    let is_dependency = matches!(role, Role::Dependency | Role::OneShot);
    let has_done = role == Role::OneShot || has_finished;
    match end {
        _ if role == Role::Entrypoint => Required,
        End::Itself { code: 0 } | End::Somebody { code: 0 } | End::WithApp { code: 0 }
            if has_done =>
        {
            Finished
        }
        End::Up | End::Never | End::WithApp { .. } => Required,
        End::Itself { code: 0 } => Finished,
        End::Somebody { .. } if serves || !is_dependency => Left,
        _ if is_dependency => Required,
        End::Somebody { .. } | End::PassedOver => Left,
        End::Restarting | End::Itself { .. } => Optional,
    }
}

/// Where no container is known to be what requests are sent to, the app depends on all.
fn roles(containers: &[Arc<Container>], facts: &Facts) -> Vec<Role> {
    let mut roles: Vec<_> = containers
        .iter()
        .map(|c| if is_entrypoint(c, facts) { Role::Entrypoint } else { Role::Other })
        .collect();
    let is_known = roles.contains(&Role::Entrypoint);
    let reached =
        |(at, role): (usize, &Role)| (*role == Role::Entrypoint || !is_known).then_some(at);
    let mut waiting: Vec<_> = roles.iter().enumerate().filter_map(reached).collect();
    let mut seen: HashSet<_> = waiting.iter().copied().collect();
    if !is_known {
        roles.fill(Role::Dependency);
    }
    while let Some(at) = waiting.pop() {
        for dependency in &containers[at].belongs.depends_on {
            for (other, container) in containers.iter().enumerate() {
                if other == at || !container.is_called(&dependency.service) {
                    continue;
                }
                match (roles[other], dependency.condition) {
                    (Role::Entrypoint, _) => {}
                    (_, Condition::Completed) => roles[other] = Role::OneShot,
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

/// How a container's last run came to its end: by what was heard of it, or else by the
/// times and codes of all; `ends` are the app's, in order.
fn end(container: &Container, reached: &[&Container], ends: &[i64]) -> End {
    let code = container.exit_code;
    match container.state {
        State::Running | State::Paused => return End::Up,
        State::Restarting => return End::Restarting,
        _ if container.ended == EndedBy::Refused => return End::Itself { code: REFUSED },
        State::Created => {
            let was_there = |other: &&Container| container.made < other.started;
            let was_passed_over = container.made.is_some() && reached.iter().any(was_there);
            return if was_passed_over { End::PassedOver } else { End::Never };
        }
        State::Exited | State::Gone => {}
    }
    // Whoever has put the app to sleep here has left alone what did not run, and what
    // has ended by itself has taken nothing with it.
    let is_alone = |other: &&Container| matches!(other.ended, EndedBy::Us | EndedBy::Itself);
    let was_apart = reached.iter().any(is_alone);
    let together = || reached.iter().any(|other| ended_with(container, other, ends));
    match container.ended {
        EndedBy::Us => End::WithApp { code },
        EndedBy::Somebody if !was_apart && together() => End::WithApp { code },
        EndedBy::Somebody => End::Somebody { code },
        // Nothing can be told by times.
        EndedBy::Unknown if container.finished.is_none() => match code {
            0 if !container.restarts_always => End::Itself { code },
            _ => End::WithApp { code },
        },
        EndedBy::Unknown if together() => End::WithApp { code },
        // The engine brings it up again unless somebody has stopped it.
        EndedBy::Unknown if container.restarts_always => End::Somebody { code },
        EndedBy::Unknown if is_signal(code) && !container.out_of_memory => End::Somebody { code },
        EndedBy::Itself | EndedBy::Refused | EndedBy::Unknown => End::Itself { code },
    }
}

/// Ended by SIGINT, SIGKILL or SIGTERM.
fn is_signal(code: i64) -> bool {
    matches!(code, 130 | 137 | 143)
}

/// Whether the stop that has ended `other`, which may run again since, has ended the
/// container too.
fn ended_with(container: &Container, other: &Container, ends: &[i64]) -> bool {
    let (Some(end), Some(others)) = (container.finished, other.finished) else { return false };
    if container.started.is_some_and(|started| started > others) {
        return false;
    }
    if end >= others {
        let runs = matches!(other.state, State::Running | State::Paused);
        return !runs || other.started.is_none_or(|started| end <= started);
    }
    // Each of a row of stops may take its time.
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
#[path = "parts_tests.rs"]
mod tests;
