//! The messages of OTLP that are sent and received, by the field numbers of
//! `opentelemetry/proto/collector/trace/v1/trace_service.proto` and what it imports (1.x, where
//! numbers never change). The crate with all of them brings the whole SDK.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prost::Message;

use super::span::{Origin, Span, Value};
use crate::domain::trace::{SpanContext, SpanId, TraceId};
use crate::telemetry::random::{random_u64, random_u128};

#[derive(Clone, PartialEq, Message)]
struct ExportRequest {
    #[prost(message, repeated, tag = "1")]
    resource_spans: Vec<ResourceSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct ResourceSpans {
    #[prost(message, optional, tag = "1")]
    resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    scope_spans: Vec<ScopeSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct Resource {
    #[prost(message, repeated, tag = "1")]
    attributes: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct ScopeSpans {
    #[prost(message, optional, tag = "1")]
    scope: Option<Scope>,
    #[prost(message, repeated, tag = "2")]
    spans: Vec<SpanMessage>,
}

#[derive(Clone, PartialEq, Message)]
struct Scope {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    version: String,
}

#[derive(Clone, PartialEq, Message)]
struct SpanMessage {
    #[prost(bytes = "vec", tag = "1")]
    trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    span_id: Vec<u8>,
    #[prost(string, tag = "3")]
    trace_state: String,
    #[prost(bytes = "vec", tag = "4")]
    parent_span_id: Vec<u8>,
    #[prost(string, tag = "5")]
    name: String,
    #[prost(int32, tag = "6")]
    kind: i32,
    #[prost(fixed64, tag = "7")]
    start_time_unix_nano: u64,
    #[prost(fixed64, tag = "8")]
    end_time_unix_nano: u64,
    #[prost(message, repeated, tag = "9")]
    attributes: Vec<KeyValue>,
    #[prost(message, repeated, tag = "13")]
    links: Vec<Link>,
    #[prost(message, optional, tag = "15")]
    status: Option<Status>,
    #[prost(fixed32, tag = "16")]
    flags: u32,
}

#[derive(Clone, PartialEq, Message)]
struct Link {
    #[prost(bytes = "vec", tag = "1")]
    trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    span_id: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct Status {
    #[prost(int32, tag = "3")]
    code: i32,
}

#[derive(Clone, PartialEq, Message)]
struct KeyValue {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "2")]
    value: Option<AnyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct AnyValue {
    #[prost(oneof = "Primitive", tags = "1, 3")]
    value: Option<Primitive>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Primitive {
    #[prost(string, tag = "1")]
    Text(String),
    #[prost(int64, tag = "3")]
    Number(i64),
}

#[derive(Clone, PartialEq, Message)]
struct ExportResponse {
    #[prost(message, optional, tag = "1")]
    partial_success: Option<PartialSuccess>,
}

#[derive(Clone, PartialEq, Message)]
struct PartialSuccess {
    #[prost(int64, tag = "1")]
    rejected_spans: i64,
}

/// `SpanKind`.
const INTERNAL: i32 = 1;
const SERVER: i32 = 2;

/// `StatusCode`.
const ERROR: i32 = 2;

/// `SpanFlags`: the trace's flags, whether it is known where the parent is, and whether that
/// is another program.
const SAMPLED: u32 = 1;
const HAS_IS_REMOTE: u32 = 0x100;
const IS_REMOTE: u32 = 0x200;

/// Returns a request body with these spans of one process.
pub(super) fn encode(spans: &[Span], instance: &str) -> Vec<u8> {
    let version = env!("CARGO_PKG_VERSION");
    let attributes = [
        ("service.name", "nightporter"),
        ("service.version", version),
        ("service.instance.id", instance),
    ];
    let text = |(key, text)| key_value(key, Value::text(text));
    let resource = Resource { attributes: attributes.into_iter().map(text).collect() };
    let scope = Scope { name: "nightporter".into(), version: version.into() };
    let mut messages = Vec::with_capacity(spans.len());
    for span in spans {
        push(span, &mut messages);
    }
    let scope_spans = vec![ScopeSpans { scope: Some(scope), spans: messages }];
    let resource_spans = vec![ResourceSpans { resource: Some(resource), scope_spans }];
    ExportRequest { resource_spans }.encode_to_vec()
}

/// Returns how many spans a collector has rejected, by its answer to a request that it
/// accepted. One that cannot be read rejects none.
pub(super) fn rejected(answer: &[u8]) -> u64 {
    let answer = ExportResponse::decode(answer).unwrap_or_default();
    let rejected = answer.partial_success.map_or(0, |partial| partial.rejected_spans);
    u64::try_from(rejected).unwrap_or(0)
}

/// Appends a span, and its steps as its children.
fn push(span: &Span, messages: &mut Vec<SpanMessage>) {
    let Place { trace, id, parent, links, flags } = Place::new(&span.origin);
    let began = nanoseconds(span.began);
    let status = span.has_failed.then_some(Status { code: ERROR });
    let state = span.origin.state.as_deref().unwrap_or_default();
    let trace_id = trace.0.to_be_bytes().to_vec();
    messages.push(SpanMessage {
        trace_id: trace_id.clone(),
        span_id: id.0.to_be_bytes().to_vec(),
        trace_state: state.to_owned(),
        parent_span_id: parent.map_or_else(Vec::new, |parent| parent.0.to_be_bytes().to_vec()),
        name: span.name.into(),
        kind: if span.is_server { SERVER } else { INTERNAL },
        start_time_unix_nano: began,
        end_time_unix_nano: began.saturating_add(duration(span.took)),
        attributes: span
            .attributes
            .iter()
            .cloned()
            .map(|(key, value)| key_value(key, value))
            .collect(),
        links,
        status,
        flags,
    });
    let mut step_began = began;
    for (name, took) in &span.steps {
        let ended = step_began.saturating_add(duration(*took));
        messages.push(SpanMessage {
            trace_id: trace_id.clone(),
            span_id: new_span_id().0.to_be_bytes().to_vec(),
            trace_state: state.to_owned(),
            parent_span_id: id.0.to_be_bytes().to_vec(),
            name: (*name).into(),
            kind: INTERNAL,
            start_time_unix_nano: step_began,
            end_time_unix_nano: ended,
            flags: SAMPLED | HAS_IS_REMOTE,
            ..SpanMessage::default()
        });
        step_began = ended;
    }
}

/// A span's place in a trace.
struct Place {
    trace: TraceId,
    id: SpanId,
    parent: Option<SpanId>,
    links: Vec<Link>,
    flags: u32,
}

impl Place {
    fn new(origin: &Origin) -> Self {
        let Origin { context, remote, state: _, local } = origin;
        let id = context.map_or_else(new_span_id, |context| context.span);
        match (remote, local) {
            (Some(remote), _) => Self {
                trace: remote.trace,
                id,
                parent: Some(remote.span),
                links: Vec::new(),
                flags: SAMPLED | HAS_IS_REMOTE | IS_REMOTE,
            },
            // The parent is not exported, so its trace would show a child of nobody.
            (None, Some(asked @ SpanContext { sampled: Some(false), .. })) => {
                let link = Link {
                    trace_id: asked.trace.0.to_be_bytes().to_vec(),
                    span_id: asked.span.0.to_be_bytes().to_vec(),
                };
                Self { links: vec![link], ..Self::root(new_trace_id(), id) }
            }
            (None, Some(asked)) => Self {
                trace: asked.trace,
                id,
                parent: Some(asked.span),
                links: Vec::new(),
                flags: SAMPLED | HAS_IS_REMOTE,
            },
            (None, None) => {
                Self::root(context.map_or_else(new_trace_id, |context| context.trace), id)
            }
        }
    }

    fn root(trace: TraceId, id: SpanId) -> Self {
        Self { trace, id, parent: None, links: Vec::new(), flags: SAMPLED | HAS_IS_REMOTE }
    }
}

/// Zero is not an id.
fn new_trace_id() -> TraceId {
    TraceId(random_u128() | 1)
}

fn new_span_id() -> SpanId {
    SpanId(random_u64() | 1)
}

fn key_value(key: &str, value: Value) -> KeyValue {
    let value = match value {
        Value::Word(word) => Primitive::Text(word.into()),
        Value::Text(text) => Primitive::Text(text.into()),
        Value::Number(number) => Primitive::Number(number),
    };
    KeyValue { key: key.into(), value: Some(AnyValue { value: Some(value) }) }
}

fn nanoseconds(at: SystemTime) -> u64 {
    duration(at.duration_since(UNIX_EPOCH).unwrap_or_default())
}

fn duration(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
