use super::*;
use crate::wake::docker::Dependency;
use crate::wake::spec::Target;

#[test]
fn the_table_says_what_each_part_means() {
    use Need::{Finished, LeftStopped, Optional, Required};
    use Role::{Dependency, Entrypoint, OneShot, Other};
    let itself = |code| LastRun::Exited { code };
    let somebody = |code| LastRun::Stopped { code };
    let with_app = |code| LastRun::StoppedWithApp { code };
    // Whether the entrypoints run, and whether the container has exited by itself before.
    let (serves, asleep, before, never) = (true, false, true, false);
    for (n, (role, end, has_finished, serves, expected)) in [
        (Other, LastRun::Ongoing, never, serves, Required),
        // Entrypoints.
        (Entrypoint, itself(0), before, asleep, Required),
        (Entrypoint, itself(1), never, asleep, Required),
        (Entrypoint, somebody(137), never, asleep, Required),
        (Entrypoint, LastRun::Restarting, never, asleep, Required),
        (Entrypoint, LastRun::NeverStarted, never, asleep, Required),
        // One-shots: waited for, or seen to exit by themselves.
        (OneShot, itself(0), never, serves, Finished),
        (OneShot, with_app(0), never, serves, Finished),
        (OneShot, with_app(137), never, serves, Required),
        (OneShot, itself(1), never, asleep, Required),
        (OneShot, LastRun::NeverStarted, never, asleep, Required),
        (OneShot, somebody(143), never, serves, LeftStopped),
        (OneShot, somebody(143), never, asleep, Required),
        (Other, with_app(0), before, serves, Finished),
        (Dependency, with_app(0), before, serves, Finished),
        (Other, with_app(137), before, serves, Required),
        (Other, itself(0), never, serves, Finished),
        (Dependency, itself(0), never, serves, Finished),
        // A helper that ends while web runs throughout.
        (Other, itself(145), never, serves, Optional),
        (Other, itself(145), never, asleep, Optional),
        (Other, LastRun::Restarting, never, serves, Optional),
        (Dependency, itself(1), never, serves, Required),
        (Dependency, LastRun::Restarting, never, serves, Required),
        // Stopped by hand.
        (Other, somebody(137), never, serves, LeftStopped),
        (Other, somebody(143), never, asleep, LeftStopped),
        (Other, somebody(0), never, serves, LeftStopped),
        (Dependency, somebody(143), never, serves, LeftStopped),
        (Dependency, somebody(143), never, asleep, Required),
        // The engine came back, or all of it was put to sleep.
        (Dependency, with_app(0), never, serves, Required),
        (Dependency, with_app(137), never, serves, Required),
        (Other, with_app(0), never, serves, Required),
        (Other, with_app(143), never, asleep, Required),
        // Never started.
        (Other, LastRun::NeverStarted, never, asleep, Required),
        (Other, LastRun::NeverStarted, never, serves, Required),
        (Other, LastRun::Skipped, never, serves, LeftStopped),
        (Other, LastRun::Skipped, never, asleep, LeftStopped),
        (Dependency, LastRun::Skipped, never, serves, Required),
    ]
    .into_iter()
    .enumerate()
    {
        let is = need(role, end, has_finished, serves);
        assert_eq!(is, expected, "line {n}: {role:?}, {end:?}, {has_finished}, {serves}");
    }
}

/// A container that ended; times in seconds.
fn ended(service: &str, started: i64, finished: i64, code: i64, ended: EndedBy) -> Container {
    Container {
        started: Some(started * 1000),
        finished: Some(finished * 1000),
        exit_code: code,
        ended,
        ..Container::sample("wiki", service, State::Exited)
    }
}

/// An entrypoint that is running; its previous run ended at that second.
fn web(finished: Option<i64>, started: i64) -> Container {
    Container {
        started: Some(started * 1000),
        finished: finished.map(|at| at * 1000),
        ..Container::sample("wiki", "web", State::Running)
    }
}

fn spec() -> AppSpec {
    let target = Target { container: "web".into(), port: 80, speaks_http: true };
    AppSpec { entrypoints: vec![target], ..AppSpec::default() }
}

fn depending(mut container: Container, on: &[(&str, DependencyCondition)]) -> Container {
    let on = on.iter().map(|(service, condition)| Dependency {
        service: (*service).into(),
        condition: *condition,
    });
    container.labels.depends_on = on.collect();
    container
}

fn classified(containers: &[Container]) -> Vec<ContainerRole> {
    let containers: Vec<_> = containers.iter().cloned().map(Arc::new).collect();
    classify(&containers, &spec())
}

/// Returns the need of the last container, and whether a wake starts it.
fn last(containers: &[Container]) -> (Need, bool) {
    let part = *classified(containers).last().expect("one");
    (part.need, part.starts_on_wake)
}

#[test]
fn what_was_ended_by_one_stop_is_told_by_the_engines_times() {
    use EndedBy::{Itself, Nightporter, OtherClient, Unknown};
    use Need::{Finished, LeftStopped, Optional, Required};
    const DAY: i64 = 86_400;
    let again = || web(Some(DAY), DAY + 5);
    for (n, (web, part, expected)) in vec![
        // The engine was restarted: web was restarted with it, db was not.
        (again(), ended("db", 10, DAY, 0, Unknown), Required),
        (again(), ended("db", 10, DAY + 2, 137, Unknown), Required),
        (again(), ended("db", 10, DAY - 9, 143, OtherClient), Required),
        // It ended long before that stop, or since.
        (again(), ended("seed", 10, 20, 0, Unknown), Finished),
        (again(), ended("tool", 10, DAY / 2, 137, Unknown), LeftStopped),
        (again(), ended("tool", DAY + 6, DAY + 60, 143, OtherClient), LeftStopped),
        (again(), ended("helper", DAY + 6, DAY + 7, 145, Itself), Optional),
        (again(), ended("helper", DAY + 6, DAY + 7, 145, Unknown), Optional),
        (again(), ended("init", DAY + 1, DAY + 2, 0, Unknown), Finished),
        // There has been no stop yet.
        (web(None, 10), ended("init", 5, 9, 0, Unknown), Finished),
        (web(None, 10), ended("tool", 5, 60, 137, Unknown), LeftStopped),
        // All were stopped, one after the other.
        (
            ended("web", 10, DAY, 143, OtherClient),
            ended("db", 9, DAY + 30, 0, OtherClient),
            Required,
        ),
        (ended("web", 10, DAY, 0, Nightporter), ended("db", 9, DAY - 60, 0, Nightporter), Required),
        // It was already stopped when nightporter put the app to sleep.
        (
            ended("web", 10, DAY, 0, Nightporter),
            ended("tool", 9, DAY - 2, 143, OtherClient),
            LeftStopped,
        ),
        (
            Container { ended: Nightporter, ..again() },
            ended("tool", 9, DAY - 2, 143, OtherClient),
            LeftStopped,
        ),
        (
            Container { ended: Itself, ..again() },
            ended("tool", 9, DAY - 2, 143, OtherClient),
            LeftStopped,
        ),
    ]
    .into_iter()
    .enumerate()
    {
        assert_eq!(last(&[web, part.clone()]).0, expected, "line {n}: {part:?}");
    }
    // The stops of other containers fill the time in between.
    let row = [
        ended("a", 10, DAY - 24, 137, Unknown),
        ended("b", 10, DAY - 12, 137, Unknown),
        ended("web", 10, DAY, 137, Unknown),
    ];
    assert!(classified(&row).iter().all(|part| part.need == Required));
    let mut killed_for_memory = ended("db", 20, 30, 137, Unknown);
    killed_for_memory.out_of_memory = true;
    assert_eq!(last(&[web(None, 10), killed_for_memory]).0, Optional);
    let mut always = ended("tool", 20, 30, 0, Unknown);
    always.restarts_always = true;
    assert_eq!(
        last(&[web(None, 10), always]).0,
        LeftStopped,
        "only a stop from outside can have ended it"
    );
}

#[test]
fn a_wake_starts_what_was_up_and_what_is_depended_on() {
    use DependencyCondition::{Completed, Started};
    let asleep = |mut container: Container| {
        container.state = State::Exited;
        container.ended = EndedBy::Nightporter;
        container
    };
    let needs = |on: &[(&str, DependencyCondition)]| depending(web(Some(50), 60), on);
    let init = || ended("init", 55, 58, 0, EndedBy::Itself);
    let helper = || ended("helper", 62, 63, 145, EndedBy::Itself);
    // As with Compose, one-shots that the app waits for run again before it, others do not.
    let waits = [("init", Completed)];
    assert!(!last(&[needs(&waits), init()]).1);
    assert!(last(&[asleep(needs(&waits)), init()]).1);
    assert!(last(&[asleep(needs(&[("init", Started)])), init()]).1);
    assert!(!last(&[asleep(needs(&[])), init()]).1);
    // A helper is tried again with each start of the app, but not with each request.
    assert!(!last(&[needs(&[]), helper()]).1);
    assert!(last(&[asleep(needs(&[])), helper()]).1);
    // The same applies to a helper whose start was refused.
    let refused = || Container {
        ended: EndedBy::Refused,
        ..Container::sample("wiki", "helper", State::Created)
    };
    assert_eq!(last(&[needs(&[]), refused()]), (Need::Optional, false));
    let refused = ended("helper", 62, 63, 0, EndedBy::Refused);
    assert!(last(&[asleep(needs(&[])), refused]).1, "the cause may be gone the next time");
    // A container of a profile that is not enabled existed when the app was started.
    let tool = Container { made: Some(1), ..Container::sample("wiki", "tool", State::Created) };
    assert_eq!(last(&[needs(&[]), tool.clone()]), (Need::LeftStopped, false));
    let new = Container { started: None, ..web(None, 0) };
    assert_eq!(last(&[new, tool]), (Need::Required, true));
}

#[test]
fn roles_follow_from_labels_and_from_what_requests_go_to() {
    use DependencyCondition::{Completed, Healthy, Started};
    let container = |service: &str, on: &[(&str, DependencyCondition)]| {
        depending(Container::sample("wiki", service, State::Running), on)
    };
    let all = [
        container("web", &[("api", Started), ("migrate", Completed)]),
        container("api", &[("db", Healthy)]),
        container("db", &[]),
        container("migrate", &[("db", Healthy)]),
        container("worker", &[("db", Healthy), ("seed", Completed)]),
        container("seed", &[]),
    ];
    let roles = |containers: &[Container]| -> Vec<Role> {
        classified(containers).iter().map(|part| part.role).collect()
    };
    assert_eq!(
        roles(&all),
        [
            Role::Entrypoint,
            Role::Dependency,
            Role::Dependency,
            Role::OneShot,
            Role::Other,
            Role::Other
        ]
    );
    // The entrypoint is not known.
    assert_eq!(
        roles(&all[1..]),
        [Role::Dependency, Role::Dependency, Role::Dependency, Role::Dependency, Role::OneShot]
    );
}

#[test]
fn of_a_scaled_service_one_runs_at_least_and_the_others_are_judged_as_any_part() {
    use EndedBy::{Itself, Nightporter, OtherClient, Unknown};
    use Need::{LeftStopped, Optional, Required};
    let replica = |n: usize, mut container: Container| {
        container.id = format!("web{n}").into();
        container
    };
    let up = || web(None, 10);
    let by = |ended_by, code| ended("web", 10, 100, code, ended_by);
    let restarting = || Container { state: State::Restarting, restarts: 9, ..up() };
    for (n, (containers, expected)) in [
        (vec![up(), up()], vec![(Required, true); 2]),
        // One was stopped from outside or has crashed, and the others serve.
        (
            vec![up(), by(OtherClient, 137), up()],
            vec![(Required, true), (LeftStopped, false), (Required, true)],
        ),
        (vec![up(), by(Unknown, 137)], vec![(Required, true), (LeftStopped, false)]),
        (vec![up(), by(Itself, 1)], vec![(Required, true), (Optional, false)]),
        (vec![restarting(), up()], vec![(Optional, false), (Required, true)]),
        // All are asleep; the one that was stopped before stays stopped.
        (vec![by(Nightporter, 143), by(Nightporter, 143)], vec![(Required, true); 2]),
        (
            vec![by(Nightporter, 143), by(OtherClient, 137)],
            vec![(Required, true), (LeftStopped, false)],
        ),
        // None is left running, for whatever reason.
        (vec![by(Itself, 1), by(Itself, 1)], vec![(Required, true); 2]),
        (vec![by(OtherClient, 137), by(OtherClient, 137)], vec![(Required, true); 2]),
        (vec![restarting(), restarting()], vec![(Required, true); 2]),
    ]
    .into_iter()
    .enumerate()
    {
        let containers = containers.into_iter().enumerate();
        let containers: Vec<_> = containers.map(|(n, c)| replica(n, c)).collect();
        let parts =
            classified(&containers).into_iter().map(|part| (part.need, part.starts_on_wake));
        assert_eq!(parts.collect::<Vec<_>>(), expected, "line {n}");
    }
}
