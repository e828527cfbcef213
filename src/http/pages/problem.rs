//! The JSON forms of a notice: for programs, and for a waiting page.

use http::{HeaderValue, StatusCode};
use serde::Serialize;

use super::clock::Clock;
use super::notice::{Notice, Sign, Tone};
use super::page::{Row, rows};
use super::words::Words;
use crate::gate::PageApp;
use crate::wake::ContainerState;

/// A problem as in RFC 9457. If its type is `about:blank`, the title is the status's reason
/// phrase.
#[derive(Debug, Serialize)]
pub(super) struct Problem<'a> {
    r#type: &'static str,
    title: &'static str,
    status: u16,
    detail: String,
    app: &'a str,
    state: &'static str,
    containers: Vec<Container<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after: Option<u64>,
}

#[derive(Debug, Serialize)]
struct Container<'a> {
    name: &'a str,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    exit_code: Option<i64>,
}

impl<'a> Problem<'a> {
    pub const TYPE: HeaderValue = HeaderValue::from_static("application/problem+json");

    pub fn new(
        status: StatusCode,
        app: &'a PageApp,
        containers: &'a [ContainerState],
        notice: &Notice,
    ) -> Self {
        let containers = containers.iter().map(|container| {
            let ContainerState { name, state, exit_code } = container;
            Container { name, state, exit_code: *exit_code }
        });
        Self {
            r#type: "about:blank",
            title: status.canonical_reason().unwrap_or_default(),
            status: status.as_u16(),
            detail: format!("{}: {}", notice.text.trim_end_matches([' ', '…']), notice.sentences()),
            app: &app.name,
            state: notice.state,
            containers: containers.collect(),
            retry_after: notice.retry_after.filter(|_| status.is_server_error()),
        }
    }

    pub fn to_json(&self) -> Vec<u8> {
        to_json(self)
    }
}

/// The state that a waiting page shows next, in its language.
#[derive(Debug, Serialize)]
pub(super) struct PageState<'a> {
    state: &'static str,
    version: u64,
    text: &'a str,
    detail: &'a str,
    r#final: bool,
    clock: Option<&'a Clock>,
    tone: Tone,
    sign: Sign,
    step: u8,
    rows: Vec<Row<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after: Option<u64>,
}

impl<'a> PageState<'a> {
    pub fn new(
        app: &'a PageApp,
        containers: &'a [ContainerState],
        notice: &'a Notice,
        words: &'a Words,
    ) -> Self {
        Self {
            state: notice.state,
            version: app.shown.version,
            text: &notice.text,
            detail: &notice.detail,
            r#final: notice.is_final,
            clock: notice.clock.as_ref(),
            tone: notice.tone,
            sign: notice.sign,
            step: notice.step,
            rows: rows(containers, notice, words),
            retry_after: notice.retry_after,
        }
    }

    pub fn to_json(&self) -> Vec<u8> {
        to_json(self)
    }
}

fn to_json(value: &impl Serialize) -> Vec<u8> {
    // Serializing strings, numbers and lists does not fail.
    serde_json::to_vec(value).unwrap_or_default()
}
