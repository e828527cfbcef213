use std::time::{SystemTime, UNIX_EPOCH};

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::*;
use crate::domain::client::{Client, KnownClient};
use crate::domain::endpoint::Endpoint;
use crate::domain::observation::Timings;
use crate::gate::request_kind;
use crate::ledger::losses::Losses;
use crate::ledger::recorder::Queue;

struct Set {
    visits: Visits,
    rollup: Arc<Rollup>,
    queue: Queue,
}

fn set(grants: Grants) -> Set {
    let (recorder, queue) = Recorder::with_room(Arc::<Losses>::default(), 100_000);
    let rollup = Arc::<Rollup>::default();
    Set { visits: Visits::new(recorder, Arc::clone(&rollup), grants), rollup, queue }
}

impl Set {
    fn recorded(&mut self) -> Vec<Entry> {
        std::iter::from_fn(|| Some(self.queue.try_recv().ok()?.entry)).collect()
    }

    /// Returns the counts by kind, verdict and reason.
    fn counted(&self) -> Vec<(Kind, String, Option<String>, i64)> {
        let entries = self.rollup.take().into_iter();
        let text = |word: Option<Word>| word.map(Word::into_owned);
        entries
            .map(|entry| {
                let verdict = text(entry.verdict).unwrap_or_default();
                (entry.kind, verdict, text(entry.reason), entry.count)
            })
            .collect()
    }
}

fn at() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    let pair = |(name, value): &(&'static str, &str)| {
        (HeaderName::from_static(name), HeaderValue::from_str(value).expect("a value"))
    };
    pairs.iter().map(pair).collect()
}

fn usual() -> HeaderMap {
    headers(&[
        ("x-forwarded-host", "notes.box.example"),
        ("x-forwarded-uri", "/private/1?token=secret"),
        ("x-forwarded-for", "192.0.2.7"),
        ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
        ("cookie", "authorization=secret"),
        ("authorization", "Bearer secret"),
    ])
}

fn observation(verdict: VerdictKind, request: &HeaderMap) -> Observation<'_> {
    let millis = Duration::from_millis;
    Observation {
        endpoint: Endpoint::Auth,
        verdict,
        app: Some("notes"),
        rule: Some("/private"),
        client: Client::Anonymous,
        at: at(),
        timings: Timings {
            app: Duration::from_micros(3),
            client: Duration::from_micros(5),
            waited: Duration::ZERO,
            total: millis(1),
        },
        span: None,
        request,
        status: StatusCode::UNAUTHORIZED,
        response: request,
    }
}

#[test]
fn a_denial_is_recorded_with_what_is_known_of_it_and_without_credentials() {
    let (mut set, request) = (set(Grants::Rollup), usual());
    let paul = KnownClient { id: "4f2a".into(), name: "Paul's phone".into() };
    let denied = observation(VerdictKind::Deny(Reason::PeerRequired), &request);
    set.visits.observe(&Observation { client: Client::Terminal(&paul), ..denied });
    let [entry] = &set.recorded()[..] else { panic!("one record") };
    let expected = Entry {
        app: Some("notes".into()),
        host: Some("notes.box.example".into()),
        path: Some("/private/1".into()),
        rule: Some("/private".into()),
        client: Some("terminal".into()),
        client_id: Some("4f2a".into()),
        client_name: Some("Paul's phone".into()),
        address: "192.0.2.7".parse().ok(),
        verdict: Some("deny".into()),
        reason: Some("peer_required".into()),
        trace: Some("4bf92f3577b34da6a3ce929d0e0e4736".into()),
        duration: Micros(1000),
        steps: vec![
            Step { name: "app".into(), duration: Micros(3), outcome: "ok".into() },
            Step { name: "client".into(), duration: Micros(5), outcome: "ok".into() },
            Step { name: "decide".into(), duration: Micros(992), outcome: "peer_required".into() },
        ],
        ..Entry::new(Kind::Visit, Micros(1_800_000_000_000_000))
    };
    assert_eq!(*entry, expected);
    assert!(!format!("{entry:?}").contains("secret"));
    assert!(set.counted().is_empty());
}

#[test]
fn a_grant_is_counted_unless_it_was_slow() {
    let (mut set, request) = (set(Grants::Rollup), usual());
    let granted = observation(VerdictKind::Grant, &request);
    (0..3).for_each(|_| set.visits.observe(&granted));
    let millis = Duration::from_millis;
    let timings = Timings { waited: millis(1400), total: millis(1500), ..granted.timings };
    set.visits.observe(&Observation { timings, ..granted });
    let [slow] = &set.recorded()[..] else { panic!("one record") };
    let steps: Vec<_> = slow.steps.iter().map(|step| (&*step.name, &*step.outcome)).collect();
    let expected = [("app", "ok"), ("client", "ok"), ("decide", "ok"), ("wake", "grant")];
    assert_eq!(steps, expected);
    assert_eq!(set.counted(), [(Kind::Grants, "grant".into(), None, 3)], "each is in one place");
}

#[test]
fn grants_can_be_recorded_one_by_one_or_not_at_all() {
    let request = usual();
    let granted = observation(VerdictKind::Grant, &request);
    let denied = observation(VerdictKind::Deny(Reason::UnknownApp), &request);
    let total = Duration::from_secs(1);
    let slow = Observation { timings: Timings { total, ..granted.timings }, ..granted };
    for (grants, records) in [(Grants::All, 3), (Grants::Off, 1)] {
        let mut set = set(grants);
        for observation in [&granted, &slow, &denied] {
            set.visits.observe(observation);
        }
        let recorded = set.recorded();
        assert_eq!(recorded.len(), records, "{grants:?}");
        if grants == Grants::All {
            let steps = recorded.iter().map(|entry| entry.steps.is_empty()).collect::<Vec<_>>();
            assert_eq!(steps, [true, false, false]);
        }
        assert!(set.counted().is_empty());
    }
}

#[test]
fn a_flood_of_denials_is_recorded_at_a_bounded_rate_and_then_counted() {
    let (mut set, request) = (set(Grants::Rollup), usual());
    let denied = observation(VerdictKind::Deny(Reason::TerminalRequired), &request);
    let apps: Vec<_> = (0..30_000).map(|number| format!("/rule{number}")).collect();
    for rule in &apps {
        set.visits.observe(&Observation { rule: Some(rule), ..denied });
    }
    let recorded = set.recorded().len();
    assert_eq!(recorded, 1_000);
    let reason = Some("terminal_required".into());
    assert_eq!(set.counted(), [(Kind::Denials, "deny".into(), reason, 29_000)]);
    // Grants are not held up by it.
    set.visits.observe(&observation(VerdictKind::Grant, &request));
    assert_eq!(set.counted().len(), 1);
}

#[test]
fn a_poll_of_a_waiting_page_is_counted() {
    let (mut set, mut request) = (set(Grants::Rollup), usual());
    set.visits.observe(&observation(VerdictKind::Asleep, &request));
    set.visits.observe(&observation(VerdictKind::KeptAsleep, &request));
    request.insert(request_kind::POLL, HeaderValue::from_static("7"));
    set.visits.observe(&observation(VerdictKind::Asleep, &request));
    let verdicts: Vec<_> = set.recorded().into_iter().filter_map(|entry| entry.verdict).collect();
    assert_eq!(verdicts, ["asleep", "kept_asleep"]);
    assert_eq!(set.counted(), [(Kind::Grants, "asleep".into(), None, 1)]);
}

#[test]
fn only_steps_that_were_reached_are_recorded() {
    let (mut set, request) = (set(Grants::Rollup), usual());
    let steps = |set: &mut Set, reason, timings| {
        let denied = observation(VerdictKind::Deny(reason), &request);
        set.visits.observe(&Observation { timings, ..denied });
        let entry = set.recorded().remove(0);
        entry.steps.iter().map(|step| format!("{} {}", step.name, step.outcome)).collect::<Vec<_>>()
    };
    let total = Duration::from_micros(9);
    let none = Timings { total, ..Timings::default() };
    assert_eq!(steps(&mut set, Reason::MalformedRequest, none), ["app malformed_request"]);
    assert_eq!(steps(&mut set, Reason::NoMatchingRule, none), ["app no_matching_rule"]);
    let expected = ["app ok", "decide management_secret"];
    assert_eq!(steps(&mut set, Reason::ManagementSecret, none), expected);
}

#[test]
fn a_request_without_headers_is_recorded_too() {
    let (mut set, request) = (set(Grants::Rollup), HeaderMap::new());
    let denied = observation(VerdictKind::Deny(Reason::MalformedRequest), &request);
    set.visits.observe(&Observation { app: None, rule: None, ..denied });
    let entry = set.recorded().remove(0);
    assert_eq!((entry.host, entry.path, entry.address, entry.trace), (None, None, None, None));
}
