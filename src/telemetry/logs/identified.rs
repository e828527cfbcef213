//! Appends the id of the current request to log lines.

use std::fmt::{self, Write as _};

use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::config::LogFormat;
use crate::telemetry::request::{RequestId, current_request};

/// A format whose lines carry the id of the request that they belong to. (A span for each
/// request would do the same, and would cost those that log nothing.)
pub(super) struct Identified<F> {
    pub(super) inner: F,
    pub(super) format: LogFormat,
}

impl<S, N, F> FormatEvent<S, N> for Identified<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        ctx: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let Some(request) = current_request() else {
            return self.inner.format_event(ctx, writer, event);
        };
        let mut line = String::new();
        self.inner.format_event(ctx, Writer::new(&mut line), event)?;
        writer.write_str(&with_id(line, &request, self.format))
    }
}

/// Appends the id to a line. It is plain, and needs no quotes and no escapes.
fn with_id(mut line: String, request: &RequestId, format: LogFormat) -> String {
    let RequestId { id, trace } = request;
    let end = match format {
        LogFormat::Text => "\n",
        LogFormat::Json => "}\n",
    };
    if line.ends_with(end) {
        line.truncate(line.len() - end.len());
        // Writing to a string does not fail.
        let _ = match (format, trace) {
            (LogFormat::Text, Some(trace)) => write!(line, " request={id} trace={trace}"),
            (LogFormat::Text, None) => write!(line, " request={id}"),
            (LogFormat::Json, Some(trace)) => {
                write!(line, r#","request":"{id}","trace":"{trace}""#)
            }
            (LogFormat::Json, None) => write!(line, r#","request":"{id}""#),
        };
        line.push_str(end);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::trace::TraceId;

    #[test]
    fn the_id_ends_a_line_and_leaves_json_valid() {
        let request = RequestId { id: "a-1".into(), trace: None };
        let traced = RequestId { trace: Some(TraceId(10)), ..request.clone() };
        let text = |request| with_id("INFO a: b=1\n".into(), request, LogFormat::Text);
        assert_eq!(text(&request), "INFO a: b=1 request=a-1\n");
        let trace = "0000000000000000000000000000000a";
        assert_eq!(text(&traced), format!("INFO a: b=1 request=a-1 trace={trace}\n"));
        let line = with_id("{\"b\":1}\n".into(), &traced, LogFormat::Json);
        let json: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(json, serde_json::json!({"b": 1, "request": "a-1", "trace": trace}));
        assert!(line.ends_with("}\n"));
    }
}
