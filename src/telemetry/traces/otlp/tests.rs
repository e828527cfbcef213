use super::*;
use crate::domain::trace::TraceParent;

fn span(origin: Origin) -> Span {
    Span {
        name: "visit",
        is_server: true,
        origin,
        began: UNIX_EPOCH + Duration::from_nanos(1_800_000_000_000_000_123),
        took: Duration::from_micros(7),
        has_failed: false,
        attributes: vec![("a", Value::Word("b")), ("n", Value::Number(-1))],
        steps: vec![("app", Duration::from_micros(3)), ("decide", Duration::from_micros(4))],
    }
}

fn messages(origin: Origin) -> Vec<SpanMessage> {
    let mut messages = Vec::new();
    push(&span(origin), &mut messages);
    messages
}

const REMOTE: TraceParent =
    TraceParent { trace: TraceId(0xabc), span: SpanId(0xdef), sampled: true };

fn context(sampled: Option<bool>) -> SpanContext {
    SpanContext { trace: TraceId(0x123), span: SpanId(0x456), sampled }
}

#[test]
fn a_batch_is_read_again_as_it_was_written() {
    let body = encode(&[span(Origin::default()), span(Origin::default())], "instance");
    let request = ExportRequest::decode(&*body).expect("valid");
    let [of_process] = &request.resource_spans[..] else { panic!("{request:?}") };
    let resource = of_process.resource.as_ref().expect("a resource");
    assert_eq!(resource.attributes[0], key_value("service.name", Value::text("nightporter")));
    let [of_scope] = &of_process.scope_spans[..] else { panic!("{request:?}") };
    assert_eq!(of_scope.spans.len(), 6, "two spans with two steps each");
    let first = &of_scope.spans[0];
    assert_eq!((first.name.as_str(), first.kind), ("visit", SERVER));
    assert_eq!(first.start_time_unix_nano, 1_800_000_000_000_000_123);
    assert_eq!(first.end_time_unix_nano, 1_800_000_000_000_007_123);
    assert_eq!(first.attributes[1], key_value("n", Value::Number(-1)));
    assert_ne!(first.trace_id, of_scope.spans[3].trace_id);
}

#[test]
fn steps_are_children_one_after_the_other() {
    let [parent, app, decide] = &messages(Origin::default())[..] else { panic!("three") };
    for child in [app, decide] {
        assert_eq!((&child.trace_id, &child.parent_span_id), (&parent.trace_id, &parent.span_id));
        assert_ne!(child.span_id, parent.span_id);
    }
    assert_eq!(app.start_time_unix_nano, parent.start_time_unix_nano);
    assert_eq!(app.end_time_unix_nano, decide.start_time_unix_nano);
    assert_eq!(decide.end_time_unix_nano, parent.end_time_unix_nano);
}

#[test]
fn a_span_is_where_it_was_asked_for() {
    let id = |number: u64| number.to_be_bytes().to_vec();
    let trace = |number: u128| number.to_be_bytes().to_vec();

    let root = &messages(Origin::default())[0];
    assert!(root.parent_span_id.is_empty() && root.trace_id.len() == 16);
    assert!(root.span_id.len() == 8 && root.span_id != id(0));

    let state = Some("a=1".into());
    let remote = Origin { remote: Some(REMOTE), state, ..Origin::default() };
    let child = &messages(remote.clone())[0];
    assert_eq!((&child.trace_id, &child.parent_span_id), (&trace(0xabc), &id(0xdef)));
    assert_eq!(child.trace_state, "a=1");
    assert_eq!(child.flags, SAMPLED | HAS_IS_REMOTE | IS_REMOTE);

    let known = Origin { context: Some(context(Some(true))), ..remote };
    assert_eq!(messages(known)[0].span_id, id(0x456), "the id that the wake refers to");
    let began_here = Origin { context: Some(context(None)), ..Origin::default() };
    let visit = &messages(began_here)[0];
    assert_eq!((&visit.trace_id, &visit.span_id), (&trace(0x123), &id(0x456)));

    for sampled in [None, Some(true)] {
        let wake = &messages(Origin { local: Some(context(sampled)), ..Origin::default() })[0];
        assert_eq!((&wake.trace_id, &wake.parent_span_id), (&trace(0x123), &id(0x456)));
        assert_eq!((wake.links.len(), wake.flags), (0, SAMPLED | HAS_IS_REMOTE));
    }
    let wake = &messages(Origin { local: Some(context(Some(false))), ..Origin::default() })[0];
    assert!(wake.parent_span_id.is_empty(), "its parent is not exported");
    assert_eq!(wake.links, [Link { trace_id: trace(0x123), span_id: id(0x456) }]);
}

#[test]
fn a_collectors_answer_says_what_it_has_rejected() {
    let answer = |rejected_spans| {
        let partial_success = Some(PartialSuccess { rejected_spans });
        rejected(&ExportResponse { partial_success }.encode_to_vec())
    };
    assert_eq!((answer(3), answer(0), answer(-1)), (3, 0, 0));
    assert_eq!(rejected(b""), 0);
    assert_eq!(rejected(b"{\"partialSuccess\":{}}"), 0);
}
