//! A record as the process describes it, in columns.

use std::fmt;
use std::io::{self, Write};

use serde::Deserialize;

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(super) struct Record {
    pub(super) id: String,
    pub(super) position: Option<i64>,
    pub(super) kind: String,
    pub(super) at: String,
    pub(super) app: Option<String>,
    pub(super) host: Option<String>,
    pub(super) path: Option<String>,
    pub(super) rule: Option<String>,
    pub(super) client: Option<String>,
    pub(super) client_id: Option<Personal>,
    pub(super) client_name: Option<Personal>,
    pub(super) address: Option<Personal>,
    pub(super) verdict: Option<String>,
    pub(super) reason: Option<String>,
    pub(super) trace: Option<String>,
    pub(super) duration_us: i64,
    pub(super) count: i64,
    pub(super) steps: Vec<Step>,
    pub(super) notes: Vec<Note>,
}

/// A value that identifies a person, or what is left of it after it was erased.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub(super) enum Personal {
    Clear(String),
    Erased {},
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Step {
    pub(super) name: String,
    pub(super) duration_us: i64,
    pub(super) outcome: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Note {
    pub(super) topic: String,
    pub(super) text: String,
}

const COLUMNS: usize = 8;

const HEADINGS: [&str; COLUMNS] =
    ["TIME", "KIND", "VERDICT", "REASON", "APP", "CLIENT", "ADDRESS", "WHAT"];

/// The widths of columns whose rows are not all known yet: room for most values.
const USUAL_WIDTHS: [usize; COLUMNS] = [20, 7, 11, 17, 12, 18, 15, 0];

/// Prints rows in columns.
pub(super) struct Table([usize; COLUMNS]);

impl Table {
    /// For rows that are yet to come.
    pub(super) fn open_ended() -> Self {
        Self(USUAL_WIDTHS)
    }

    /// As narrow as these records allow.
    pub(super) fn fitting(records: &[Record]) -> Self {
        let mut widths = HEADINGS.map(str::len);
        for record in records {
            for (width, cell) in widths.iter_mut().zip(record.cells()) {
                *width = (*width).max(cell.chars().count());
            }
        }
        Self(widths)
    }

    pub(super) fn headings(&self, out: &mut dyn Write) -> io::Result<()> {
        self.row(out, &HEADINGS.map(str::to_owned))
    }

    pub(super) fn record(&self, out: &mut dyn Write, record: &Record) -> io::Result<()> {
        self.row(out, &record.cells())
    }

    fn row(&self, out: &mut dyn Write, cells: &[String; COLUMNS]) -> io::Result<()> {
        let Self(widths) = self;
        let mut line = String::new();
        for (cell, width) in cells.iter().zip(widths) {
            // Writing to a string does not fail.
            let _ = fmt::Write::write_fmt(&mut line, format_args!("{cell:<width$}  "));
        }
        writeln!(out, "{}", line.trim_end())
    }
}

impl Record {
    /// Returns the texts of its columns. What strangers send can be any text: control
    /// characters must not reach the operator's terminal.
    fn cells(&self) -> [String; COLUMNS] {
        let text = |text: &Option<String>| match text {
            Some(text) => text.escape_debug().to_string(),
            None => "-".to_owned(),
        };
        [
            whole_seconds(&self.at),
            self.kind.clone(),
            text(&self.verdict),
            text(&self.reason),
            text(&self.app),
            self.client().escape_debug().to_string(),
            self.address.as_ref().map_or("-", Personal::text).escape_debug().to_string(),
            self.what().escape_debug().to_string(),
        ]
    }

    /// Returns who it was: the name, or else the id, or else the kind of client.
    fn client(&self) -> String {
        let kind = self.client.as_deref().unwrap_or("-");
        let names = [&self.client_name, &self.client_id].into_iter().flatten();
        match names.map(Personal::text).find(|name| !name.is_empty()) {
            Some(name) => format!("{kind} {name}"),
            None => kind.to_owned(),
        }
    }

    fn what(&self) -> String {
        match self.kind.as_str() {
            "grants" | "denials" => {
                let noun = if self.count == 1 { "request" } else { "requests" };
                match self.rule.as_deref() {
                    // The rule that governs all paths.
                    None | Some("") => format!("{} {noun}", self.count),
                    Some(rule) => format!("{} {noun} by the rule {rule}", self.count),
                }
            }
            "wake" | "sleep" | "job" => format!("took {}", seconds(self.duration_us, 1)),
            "loss" | "cut" => format!("{} records", self.count),
            _ => {
                let (host, path) = (self.host.as_deref(), self.path.as_deref());
                format!("{}{}", host.unwrap_or_default(), path.unwrap_or_default())
            }
        }
    }
}

impl Personal {
    pub(super) fn text(&self) -> &str {
        match self {
            Self::Clear(text) => text,
            Self::Erased {} => "(erased)",
        }
    }
}

/// Formats a duration in seconds.
#[expect(clippy::cast_precision_loss, reason = "durations stay far below 2^53 microseconds")]
pub(super) fn seconds(micros: i64, digits: usize) -> String {
    format!("{:.digits$} s", micros as f64 / 1e6)
}

/// Leaves out the fraction of the second.
fn whole_seconds(at: &str) -> String {
    match at.split_once('.') {
        Some((seconds, _)) => format!("{seconds}Z"),
        None => at.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(record: &Record) -> String {
        let mut out = Vec::new();
        Table::fitting(std::slice::from_ref(record)).record(&mut out, record).expect("a line");
        String::from_utf8(out).expect("UTF-8")
    }

    #[test]
    fn a_row_says_who_came_and_what_for() {
        let visit = Record {
            kind: "visit".into(),
            at: "2026-11-30T08:00:00.123456Z".into(),
            app: Some("notes".into()),
            host: Some("notes.box.example".into()),
            path: Some("/a\u{1b}[2J\n".into()),
            client: Some("terminal".into()),
            client_id: Some(Personal::Erased {}),
            client_name: Some(Personal::Clear("phone".into())),
            address: Some(Personal::Clear("192.0.2.1".into())),
            verdict: Some("deny".into()),
            reason: Some("peer_required".into()),
            count: 1,
            ..Record::default()
        };
        let line = printed(&visit);
        assert_eq!(
            line,
            "2026-11-30T08:00:00Z  visit  deny     peer_required  notes  terminal phone  \
             192.0.2.1  notes.box.example/a\\u{1b}[2J\\n\n"
        );
        let grants = Record { kind: "grants".into(), count: 120, rule: Some("/x".into()), ..visit };
        assert!(printed(&grants).ends_with("120 requests by the rule /x\n"));
        let wake = Record { kind: "wake".into(), duration_us: 2_340_000, ..Record::default() };
        assert!(printed(&wake).ends_with("took 2.3 s\n"), "{}", printed(&wake));
    }
}
