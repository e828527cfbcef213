use super::*;
use crate::domain::client::KnownClient;
use crate::domain::reason::Reason;

const NOON: Micros = Micros(12 * 60 * MINUTE);

fn grant(app: &str) -> Counted<'_> {
    let verdict = VerdictKind::Grant;
    Counted { verdict, at: NOON, app: Some(app), rule: Some(""), client: Some(Client::Anonymous) }
}

fn known(id: &str) -> KnownClient {
    KnownClient { id: id.into(), name: format!("{id}'s phone").into() }
}

fn total(entries: &[Entry]) -> i64 {
    entries.iter().map(|entry| entry.count).sum()
}

#[test]
fn requests_of_the_same_key_are_one_delta_over_all_threads() {
    let (rollup, paul) = (Rollup::default(), known("paul"));
    let by_paul = Counted { client: Some(Client::Terminal(&paul)), ..grant("notes") };
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for second in 0..120 {
                    let at = Micros(NOON.0 + second * 1_000_000);
                    rollup.count(Counted { at, ..by_paul });
                }
                rollup.count(grant("notes"));
            });
        }
    });
    // All of these threads have ended.
    let mut entries = rollup.take();
    entries.sort_by_key(|entry| (entry.client_id.clone(), entry.at));
    let shown: Vec<_> = entries
        .iter()
        .map(|entry| (entry.client_id.as_deref(), entry.at.0 - NOON.0, entry.count))
        .collect();
    let expected = [(None, 0, 4), (Some("paul"), 0, 240), (Some("paul"), MINUTE, 240)];
    assert_eq!(shown, expected);
    let of_paul = &entries[1];
    assert_eq!(of_paul.kind, Kind::Grants);
    assert_eq!(of_paul.client.as_deref(), Some("terminal"));
    assert_eq!(of_paul.client_name.as_deref(), Some("paul's phone"));
    assert_eq!(of_paul.verdict.as_deref(), Some("grant"));
    assert_eq!((of_paul.app.as_deref(), of_paul.rule.as_deref()), (Some("notes"), Some("")));
    assert!(rollup.take().is_empty(), "collected once");
}

#[test]
fn a_key_of_its_own_is_told_apart_by_each_of_its_parts() {
    let (rollup, one, other) = (Rollup::default(), known("one"), known("other"));
    let base = Counted { client: Some(Client::Peer(&one)), ..grant("a") };
    let denied = |reason| VerdictKind::Deny(reason);
    let all = [
        base,
        Counted { client: Some(Client::Peer(&other)), ..base },
        Counted { client: Some(Client::Terminal(&one)), ..base },
        Counted { client: None, ..base },
        Counted { app: Some("b"), ..base },
        Counted { app: None, ..base },
        Counted { rule: Some("/pub"), ..base },
        Counted { rule: None, ..base },
        Counted { at: Micros(NOON.0 - 1), ..base },
        Counted { verdict: VerdictKind::Asleep, ..base },
        Counted { verdict: VerdictKind::KeptAsleep, ..base },
        Counted { verdict: denied(Reason::UnknownApp), ..base },
        Counted { verdict: denied(Reason::TerminalRequired), ..base },
    ];
    for counted in all.into_iter().chain(all) {
        rollup.count(counted);
    }
    let entries = rollup.take();
    assert_eq!(entries.len(), all.len());
    assert!(entries.iter().all(|entry| entry.count == 2), "{entries:#?}");
    let denials = entries.iter().filter(|entry| entry.kind == Kind::Denials);
    assert_eq!(denials.count(), 2);
}

#[test]
fn too_many_keys_are_counted_under_coarser_ones_and_none_is_lost() {
    let rollup = Rollup::default();
    let number = 2 * (MAX_KEYS + MAX_APPS);
    for index in 0..number {
        // Every second client asks for an app of its own.
        let (client, app) = (known(&index.to_string()), format!("app{}", index / 2));
        rollup.count(Counted { client: Some(Client::Terminal(&client)), ..grant(&app) });
    }
    let entries = rollup.take();
    assert_eq!(total(&entries), i64::try_from(number).expect("small"));
    let by_client = entries.iter().filter(|entry| entry.client_id.is_some()).count();
    let by_app =
        entries.iter().filter(|entry| entry.client_id.is_none() && entry.app.is_some()).count();
    assert_eq!((by_client, by_app), (MAX_KEYS, MAX_APPS));
    assert_eq!(entries.len(), MAX_KEYS + MAX_APPS + 1);
}

#[test]
fn counts_that_nobody_collects_are_bounded_and_none_is_lost() {
    let rollup = Rollup::default();
    let minutes = 10_000;
    for minute in 0..minutes {
        for reason in Reason::ALL {
            let (at, verdict) = (Micros(minute * MINUTE), VerdictKind::Deny(reason));
            rollup.count(Counted { verdict, at, client: None, rule: None, ..grant("a") });
        }
    }
    let entries = rollup.take();
    let kinds = Reason::ALL.len();
    assert!(entries.len() <= MAX_KEYS + MAX_APPS + MAX_MINUTES + kinds, "{}", entries.len());
    assert_eq!(total(&entries), minutes * i64::try_from(kinds).expect("small"));
}

#[test]
fn nothing_is_lost_or_counted_twice_between_counting_and_collecting() {
    let (rollup, per_thread) = (Rollup::default(), 50_000);
    let apps: Vec<_> = (0..7).map(|number| format!("app{number}")).collect();
    let collected = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    (0..per_thread).for_each(|index| rollup.count(grant(&apps[index % 7])));
                })
            })
            .collect();
        let mut collected = 0;
        while !threads.iter().all(std::thread::ScopedJoinHandle::is_finished) {
            collected += total(&rollup.take());
        }
        collected
    });
    let all = collected + total(&rollup.take());
    assert_eq!(all, 3 * i64::try_from(per_thread).expect("small"));
}
