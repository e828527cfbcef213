use super::*;
use crate::wake::app::Target;
use crate::wake::docker::Dependency;

#[test]
fn the_table_says_what_each_part_means() {
    use Need::{Finished, Left, Optional, Required};
    use Role::{Dependency, Entrypoint, OneShot, Other};
    let itself = |code| End::Itself { code };
    let somebody = |code| End::Somebody { code };
    let with_app = |code| End::WithApp { code };
    // Whether what requests go to runs, and whether it has ended by itself before.
    let (serves, asleep, before, never) = (true, false, true, false);
    for (n, (role, end, has_finished, serves, expected)) in [
        (Other, End::Up, never, serves, Required),
        // What requests go to.
        (Entrypoint, itself(0), before, asleep, Required),
        (Entrypoint, itself(1), never, asleep, Required),
        (Entrypoint, somebody(137), never, asleep, Required),
        (Entrypoint, End::Restarting, never, asleep, Required),
        (Entrypoint, End::Never, never, asleep, Required),
        // One-shots: waited for, or seen to end by themselves.
        (OneShot, itself(0), never, serves, Finished),
        (OneShot, with_app(0), never, serves, Finished),
        (OneShot, with_app(137), never, serves, Required),
        (OneShot, itself(1), never, asleep, Required),
        (OneShot, End::Never, never, asleep, Required),
        (OneShot, somebody(143), never, serves, Left),
        (OneShot, somebody(143), never, asleep, Required),
        (Other, with_app(0), before, serves, Finished),
        (Dependency, with_app(0), before, serves, Finished),
        (Other, with_app(137), before, serves, Required),
        (Other, itself(0), never, serves, Finished),
        (Dependency, itself(0), never, serves, Finished),
        // A helper that ends: web runs throughout.
        (Other, itself(145), never, serves, Optional),
        (Other, itself(145), never, asleep, Optional),
        (Other, End::Restarting, never, serves, Optional),
        (Dependency, itself(1), never, serves, Required),
        (Dependency, End::Restarting, never, serves, Required),
        // Stopped by hand.
        (Other, somebody(137), never, serves, Left),
        (Other, somebody(143), never, asleep, Left),
        (Other, somebody(0), never, serves, Left),
        (Dependency, somebody(143), never, serves, Left),
        (Dependency, somebody(143), never, asleep, Required),
        // The engine came back, or all of it was put to sleep.
        (Dependency, with_app(0), never, serves, Required),
        (Dependency, with_app(137), never, serves, Required),
        (Other, with_app(0), never, serves, Required),
        (Other, with_app(143), never, asleep, Required),
        // Never started.
        (Other, End::Never, never, asleep, Required),
        (Other, End::Never, never, serves, Required),
        (Other, End::PassedOver, never, serves, Left),
        (Other, End::PassedOver, never, asleep, Left),
        (Dependency, End::PassedOver, never, serves, Required),
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

/// What requests are sent to; it runs, and its last run ended at that second.
fn web(finished: Option<i64>, started: i64) -> Container {
    Container {
        started: Some(started * 1000),
        finished: finished.map(|at| at * 1000),
        ..Container::sample("wiki", "web", State::Running)
    }
}

fn facts() -> Facts {
    let target = Target { container: "web".into(), port: 80, speaks_http: true };
    Facts { entrypoints: vec![target], ..Facts::default() }
}

fn depending(mut container: Container, on: &[(&str, Condition)]) -> Container {
    let on = on.iter().map(|(service, condition)| Dependency {
        service: (*service).into(),
        condition: *condition,
    });
    container.belongs.depends_on = on.collect();
    container
}

fn judged(containers: &[Container]) -> Vec<Part> {
    let containers: Vec<_> = containers.iter().cloned().map(Arc::new).collect();
    judge(&containers, &facts())
}

/// Of the last of the containers: its need and whether a wake starts it.
fn last(containers: &[Container]) -> (Need, bool) {
    let part = *judged(containers).last().expect("one");
    (part.need, part.is_started)
}

#[test]
fn what_was_ended_by_one_stop_is_told_by_the_engines_times() {
    use EndedBy::{Itself, Somebody, Unknown, Us};
    use Need::{Finished, Left, Optional, Required};
    const DAY: i64 = 86_400;
    let again = || web(Some(DAY), DAY + 5);
    for (n, (web, part, expected)) in vec![
        // The engine was restarted: web has come back by itself, db has not.
        (again(), ended("db", 10, DAY, 0, Unknown), Required),
        (again(), ended("db", 10, DAY + 2, 137, Unknown), Required),
        (again(), ended("db", 10, DAY - 9, 143, Somebody), Required),
        // Ended long before, or since.
        (again(), ended("seed", 10, 20, 0, Unknown), Finished),
        (again(), ended("tool", 10, DAY / 2, 137, Unknown), Left),
        (again(), ended("tool", DAY + 6, DAY + 60, 143, Somebody), Left),
        (again(), ended("helper", DAY + 6, DAY + 7, 145, Itself), Optional),
        (again(), ended("helper", DAY + 6, DAY + 7, 145, Unknown), Optional),
        (again(), ended("init", DAY + 1, DAY + 2, 0, Unknown), Finished),
        // There was no stop yet.
        (web(None, 10), ended("init", 5, 9, 0, Unknown), Finished),
        (web(None, 10), ended("tool", 5, 60, 137, Unknown), Left),
        // All was stopped, one after the other.
        (ended("web", 10, DAY, 143, Somebody), ended("db", 9, DAY + 30, 0, Somebody), Required),
        (ended("web", 10, DAY, 0, Us), ended("db", 9, DAY - 60, 0, Us), Required),
        // Whoever has put the app to sleep found it stopped.
        (ended("web", 10, DAY, 0, Us), ended("tool", 9, DAY - 2, 143, Somebody), Left),
        (Container { ended: Us, ..again() }, ended("tool", 9, DAY - 2, 143, Somebody), Left),
        (Container { ended: Itself, ..again() }, ended("tool", 9, DAY - 2, 143, Somebody), Left),
    ]
    .into_iter()
    .enumerate()
    {
        assert_eq!(last(&[web, part.clone()]).0, expected, "line {n}: {part:?}");
    }
    // The stops of others fill the time between.
    let row = [
        ended("a", 10, DAY - 24, 137, Unknown),
        ended("b", 10, DAY - 12, 137, Unknown),
        ended("web", 10, DAY, 137, Unknown),
    ];
    assert!(judged(&row).iter().all(|part| part.need == Required));
    let mut killed_for_memory = ended("db", 20, 30, 137, Unknown);
    killed_for_memory.out_of_memory = true;
    assert_eq!(last(&[web(None, 10), killed_for_memory]).0, Optional);
    let mut always = ended("tool", 20, 30, 0, Unknown);
    always.restarts_always = true;
    assert_eq!(last(&[web(None, 10), always]).0, Left, "only somebody can have ended it");
}

#[test]
fn a_wake_starts_what_was_up_and_what_is_depended_on() {
    use Condition::{Completed, Started};
    let asleep = |mut container: Container| {
        container.state = State::Exited;
        container.ended = EndedBy::Us;
        container
    };
    let needs = |on: &[(&str, Condition)]| depending(web(Some(50), 60), on);
    let init = || ended("init", 55, 58, 0, EndedBy::Itself);
    let helper = || ended("helper", 62, 63, 145, EndedBy::Itself);
    // As Compose does, the app's one-shots go again before it, and others' do not.
    let waits = [("init", Completed)];
    assert!(!last(&[needs(&waits), init()]).1);
    assert!(last(&[asleep(needs(&waits)), init()]).1);
    assert!(last(&[asleep(needs(&[("init", Started)])), init()]).1);
    assert!(!last(&[asleep(needs(&[])), init()]).1);
    // A helper gets another chance with each start of the app, and not at each visit.
    assert!(!last(&[needs(&[]), helper()]).1);
    assert!(last(&[asleep(needs(&[])), helper()]).1);
    // One whose start was refused is no different.
    let refused = || Container {
        ended: EndedBy::Refused,
        ..Container::sample("wiki", "helper", State::Created)
    };
    assert_eq!(last(&[needs(&[]), refused()]), (Need::Optional, false));
    let refused = ended("helper", 62, 63, 0, EndedBy::Refused);
    assert!(last(&[asleep(needs(&[])), refused]).1, "it may be free the next time");
    // Of a profile that is not enabled: it was there when the app was started.
    let tool = Container { made: Some(1), ..Container::sample("wiki", "tool", State::Created) };
    assert_eq!(last(&[needs(&[]), tool.clone()]), (Need::Left, false));
    let new = Container { started: None, ..web(None, 0) };
    assert_eq!(last(&[new, tool]), (Need::Required, true));
}

#[test]
fn roles_follow_from_labels_and_from_what_requests_go_to() {
    use Condition::{Completed, Healthy, Started};
    let container = |service: &str, on: &[(&str, Condition)]| {
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
        judged(containers).iter().map(|part| part.role).collect()
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
    // Nobody knows what requests go to.
    assert_eq!(
        roles(&all[1..]),
        [Role::Dependency, Role::Dependency, Role::Dependency, Role::Dependency, Role::OneShot]
    );
}

#[test]
fn of_a_scaled_service_one_runs_at_least_and_the_others_are_judged_as_any_part() {
    use EndedBy::{Itself, Somebody, Unknown, Us};
    use Need::{Left, Optional, Required};
    let replica = |n: usize, mut container: Container| {
        container.id = format!("web{n}").into();
        container
    };
    let up = || web(None, 10);
    let by = |ended_by, code| ended("web", 10, 100, code, ended_by);
    let restarting = || Container { state: State::Restarting, restarts: 9, ..up() };
    for (n, (containers, expected)) in [
        (vec![up(), up()], vec![(Required, true); 2]),
        // Somebody has stopped one, or it crashes, and the others serve.
        (
            vec![up(), by(Somebody, 137), up()],
            vec![(Required, true), (Left, false), (Required, true)],
        ),
        (vec![up(), by(Unknown, 137)], vec![(Required, true), (Left, false)]),
        (vec![up(), by(Itself, 1)], vec![(Required, true), (Optional, false)]),
        (vec![restarting(), up()], vec![(Optional, false), (Required, true)]),
        // Asleep; the one that was stopped before stays so.
        (vec![by(Us, 143), by(Us, 143)], vec![(Required, true); 2]),
        (vec![by(Us, 143), by(Somebody, 137)], vec![(Required, true), (Left, false)]),
        // All of them are gone, one way or another.
        (vec![by(Itself, 1), by(Itself, 1)], vec![(Required, true); 2]),
        (vec![by(Somebody, 137), by(Somebody, 137)], vec![(Required, true); 2]),
        (vec![restarting(), restarting()], vec![(Required, true); 2]),
    ]
    .into_iter()
    .enumerate()
    {
        let containers = containers.into_iter().enumerate();
        let containers: Vec<_> = containers.map(|(n, c)| replica(n, c)).collect();
        let parts = judged(&containers).into_iter().map(|part| (part.need, part.is_started));
        assert_eq!(parts.collect::<Vec<_>>(), expected, "line {n}");
    }
}
