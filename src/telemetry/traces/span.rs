//! A finished span, as it waits for its export.

use std::time::{Duration, SystemTime};

use crate::domain::trace::{SpanContext, TraceParent};

/// The longest text of an attribute, in bytes: names of apps and keys of rules.
const MAX_TEXT: usize = 256;

/// What has happened, from its beginning to its end.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Span {
    pub(super) name: &'static str,
    pub(super) is_server: bool,
    pub(super) origin: Origin,
    pub(super) began: SystemTime,
    pub(super) took: Duration,
    pub(super) has_failed: bool,
    pub(super) attributes: Vec<(&'static str, Value)>,
    /// Become child spans, one after the other.
    pub(super) steps: Vec<(&'static str, Duration)>,
}

/// Which trace a span belongs to.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Origin {
    /// Its own ids, if something refers to them already.
    pub(super) context: Option<SpanContext>,
    /// The span of another program that asked for it.
    pub(super) remote: Option<TraceParent>,
    pub(super) state: Option<Box<str>>,
    /// The span of this program that asked for it.
    pub(super) local: Option<SpanContext>,
}

/// The value of an attribute.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Word(&'static str),
    Text(Box<str>),
    Number(i64),
}

impl Value {
    /// Returns the beginning of a text.
    pub(super) fn text(text: &str) -> Self {
        Self::Text(text[..text.floor_char_boundary(MAX_TEXT)].into())
    }
}
