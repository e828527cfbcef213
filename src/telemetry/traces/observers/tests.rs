use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use tokio::sync::mpsc;

use super::super::{Counters, QUEUE, RESERVED};
use super::*;
use crate::domain::client::{Client, KnownClient};
use crate::domain::endpoint::Endpoint;
use crate::domain::lifecycle::SleepMode;
use crate::domain::observation::{ActionStep, Cause, SLOW, Timings};
use crate::domain::reason::Reason;
use crate::domain::trace::{SpanContext, SpanId, TraceId};
use crate::telemetry::meters::{SpanDrop, spans_dropped};

const TRACE: u128 = 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736;
const SECOND: Duration = Duration::from_secs(1);

fn sender(room: usize) -> (SpanSender, mpsc::Receiver<Span>) {
    let (queue, spans) = mpsc::channel(room);
    let dropped = Arc::new(Counters { queue_full: spans_dropped(SpanDrop::QueueFull) });
    (SpanSender { queue, dropped }, spans)
}

fn at() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn traced(flags: &str) -> HeaderMap {
    let parent = format!("00-{TRACE:032x}-00f067aa0ba902b7-{flags}");
    with(&[("traceparent", &parent), ("tracestate", "a=1")])
}

fn with(pairs: &[(&'static str, &str)]) -> HeaderMap {
    let pair = |(name, value): &(&'static str, &str)| {
        (HeaderName::from_static(name), HeaderValue::from_str(value).expect("a value"))
    };
    pairs.iter().map(pair).collect()
}

fn observed(verdict: VerdictKind, request: &HeaderMap) -> Observation<'_> {
    Observation {
        endpoint: Endpoint::Auth,
        verdict,
        app: Some("notes"),
        rule: Some("/private"),
        client: Client::Anonymous,
        at: at(),
        timings: Timings { total: Duration::from_micros(10), ..Timings::default() },
        span: None,
        request,
        status: StatusCode::OK,
        response: request,
    }
}

/// Returns how many of 1000 requests like this one are traced.
fn sampled(sample: u8, observation: &Observation<'_>) -> usize {
    let (sender, mut spans) = sender(QUEUE);
    let visits = RequestSpans::new(sender, sample);
    for _ in 0..1000 {
        visits.observe(observation);
    }
    std::iter::from_fn(|| spans.try_recv().ok()).count()
}

#[test]
fn the_flag_decides_and_without_one_a_share_is_traced() {
    let (none, yes, no) = (HeaderMap::new(), traced("01"), traced("00"));
    for sample in [0, 30, 100] {
        assert_eq!(sampled(sample, &observed(VerdictKind::Grant, &yes)), 1000);
        assert_eq!(sampled(sample, &observed(VerdictKind::Grant, &no)), 0);
        let poll = with(&[("x-nightporter-poll", "7")]);
        assert_eq!(sampled(sample, &observed(VerdictKind::Asleep, &poll)), 0, "a poll");
        let span = Some(SpanContext { trace: TraceId(1), span: SpanId(2), sampled: None });
        let woke = Observation { span, ..observed(VerdictKind::Asleep, &none) };
        assert_eq!(sampled(sample, &woke), 1000, "it asked for a wake");
    }
    let ordinary = observed(VerdictKind::Grant, &none);
    assert_eq!(sampled(0, &ordinary), 0);
    assert_eq!(sampled(100, &ordinary), 1000);
    let share = sampled(30, &ordinary);
    assert!((150..450).contains(&share), "{share}");
}

#[test]
fn a_denial_becomes_a_span_that_knows_nobody() {
    let mut request = traced("01");
    for (name, value) in [
        ("x-forwarded-host", "secret.box.example"),
        ("x-forwarded-uri", "/private/secret?token=secret"),
        ("x-forwarded-for", "192.0.2.7"),
        ("cookie", "authorization=secret"),
        ("user-agent", "secret"),
    ] {
        request.insert(name, HeaderValue::from_static(value));
    }
    let paul = KnownClient { id: "secret-id".into(), name: "secret name".into() };
    let denied = Observation {
        client: Client::Terminal(&paul),
        status: StatusCode::UNAUTHORIZED,
        ..observed(VerdictKind::Deny(Reason::PeerRequired), &request)
    };
    let span = visit(&denied, TraceParent::from_headers(&request));
    assert_eq!(
        span.attributes,
        [
            ("http.response.status_code", Value::Number(401)),
            ("nightporter.endpoint", Value::Word("auth")),
            ("nightporter.verdict", Value::Word("deny")),
            ("nightporter.client", Value::Word("terminal")),
            ("nightporter.reason", Value::Word("peer_required")),
            ("nightporter.app", Value::text("notes")),
            ("nightporter.rule", Value::text("/private")),
        ]
    );
    assert_eq!((span.began, span.took), (at(), Duration::from_micros(10)));
    let steps: Vec<_> = span.steps.iter().map(|(name, _)| *name).collect();
    assert_eq!(steps, ["app", "client", "decide"]);
    assert_eq!(span.origin.state.as_deref(), Some("a=1"));
    assert!(!span.has_failed && span.is_server);
    let text = format!("{span:?}");
    assert!(!text.contains("secret") && !text.contains("192.0.2.7"), "{text}");
}

#[test]
fn only_what_is_out_of_the_ordinary_has_steps() {
    let request = HeaderMap::new();
    let grant = observed(VerdictKind::Grant, &request);
    assert_eq!(visit(&grant, None).steps, []);
    let total = SLOW + Duration::from_micros(1);
    let slow = Observation { timings: Timings { total, ..grant.timings }, ..grant };
    assert_eq!(visit(&slow, None).steps.len(), 2);
    let failed = Observation { status: StatusCode::SERVICE_UNAVAILABLE, ..grant };
    assert!(visit(&failed, None).has_failed);
}

#[test]
fn a_full_queue_drops_requests_first() {
    let (sender, mut spans) = sender(RESERVED + 3);
    let visits = RequestSpans::new(sender.clone(), 100);
    let request = HeaderMap::new();
    for _ in 0..10 {
        visits.observe(&observed(VerdictKind::Grant, &request));
    }
    assert_eq!(spans.len(), 3);
    let run = JobRun { job: "integrity", began: at(), took: SECOND, has_failed: false };
    for _ in 0..RESERVED + 5 {
        WorkSpans(sender.clone()).observe_run(&run);
    }
    assert_eq!(spans.len(), RESERVED + 3, "and then everything");
    assert_eq!(spans.try_recv().expect("a span").name, "visit");
}

#[test]
fn wakes_sleeps_and_jobs_become_spans() {
    let steps = [ActionStep { name: "lock", took: SECOND }];
    let error = WakeError::Compose("/home/secret/docker-compose.yml: secret".into());
    let asked = SpanContext { trace: TraceId(TRACE), span: SpanId(5), sampled: Some(true) };
    let action = Action {
        app: &"notes".into(),
        kind: ActionKind::Wake,
        cause: Cause::Request,
        began: at(),
        took: 2 * SECOND,
        outcome: Err(&error),
        steps: &steps,
        asked_by: Some(asked),
    };
    let woken = of_action(&action);
    assert_eq!((woken.name, woken.has_failed, woken.took), ("wake", true, 2 * SECOND));
    assert_eq!(woken.origin.local, Some(asked));
    assert_eq!(woken.steps, [("lock", SECOND)]);
    assert!(woken.attributes.contains(&("error.type", Value::Word("compose"))));
    assert!(!format!("{woken:?}").contains("secret"), "{woken:?}");

    let kind = ActionKind::Sleep(SleepMode::Paused);
    let slept = of_action(&Action { kind, outcome: Ok(()), asked_by: None, ..action });
    assert_eq!((slept.name, slept.has_failed), ("sleep", false));
    assert!(slept.attributes.contains(&("nightporter.sleep_mode", Value::Word("paused"))));
    let declined = WakeError::Declined("not installed");
    let refused = of_action(&Action { outcome: Err(&declined), ..action });
    assert!(!refused.has_failed, "nothing has failed");

    let (sender, mut spans) = sender(1);
    let run = JobRun { job: "integrity", began: at(), took: SECOND, has_failed: true };
    WorkSpans(sender).observe_run(&run);
    let job = spans.try_recv().expect("a span");
    assert_eq!((job.name, job.has_failed), ("job", true));
    assert!(job.attributes.contains(&("nightporter.job", Value::text("integrity"))));
}
