//! What endpoints are told.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::ledger::record::Micros;

/// Something that endpoints are told.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Identifies the event in every message about it; the same id is queued once.
    pub id: String,
    /// Its type, such as `alert.firing`.
    pub kind: &'static str,
    pub at: Micros,
    /// The app that it is about.
    pub app: Option<Arc<str>>,
    /// What it is about, if a later event may take it back: an `alert.resolved` and the
    /// `alert.firing` of the same subject are both dropped if neither was sent yet and quiet
    /// hours are over.
    pub subject: Option<String>,
    /// One line, for people.
    pub title: String,
    /// What happened, since when, and what helps, for people.
    pub text: String,
    /// The same for programs.
    pub data: Value,
    /// What an endpoint is told that may not see personal values; `None` if there are none in
    /// the title, the text and the data.
    pub masked: Option<Content>,
}

/// What a message says.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Content {
    pub title: String,
    pub text: String,
    pub data: Value,
}

impl Event {
    /// Returns what an endpoint is told.
    pub(super) fn content(&self, sees_personal_values: bool) -> Content {
        let Self { title, text, data, masked, .. } = self;
        match masked {
            Some(masked) if !sees_personal_values => masked.clone(),
            _ => Content { title: title.clone(), text: text.clone(), data: data.clone() },
        }
    }
}
