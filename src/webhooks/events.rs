//! The events of this module itself: those of records, and the one by which an endpoint is tried.

use std::sync::Arc;

use serde_json::{Value, json};

use super::endpoint::TEST;
use super::event::{Content, Event};
use crate::ledger::record::{Micros, RecordId};

/// What is read of a record to tell endpoints about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RecordSummary {
    pub(super) id: RecordId,
    pub(super) kind: String,
    pub(super) at: Micros,
    pub(super) app: Option<String>,
    pub(super) client_id: Option<String>,
    pub(super) client_name: Option<String>,
    pub(super) verdict: Option<String>,
    pub(super) reason: Option<String>,
    /// In microseconds.
    pub(super) duration: i64,
    /// What went wrong.
    pub(super) note: Option<String>,
}

/// Returns the event of a record; most records are none.
pub(super) fn of_record(summary: RecordSummary) -> Option<Event> {
    let RecordSummary {
        id,
        kind,
        at,
        app,
        client_id,
        client_name,
        verdict,
        reason,
        duration,
        note,
    } = summary;
    let seconds = duration / 1_000_000;
    let tenths = duration / 100_000 % 10;
    let record = id.to_string();
    let base = |kind: &'static str, title: String, text: String, data: Value| Event {
        id: format!("record:{record}"),
        kind,
        at,
        app: app.as_deref().map(Arc::from),
        subject: None,
        title,
        text,
        data,
        masked: None,
    };
    let name = || app.clone().unwrap_or_default();
    match (&*kind, verdict.as_deref(), reason.as_deref()) {
        ("wake", Some("done"), _) => Some(base(
            "app.woken",
            format!("{} is awake", name()),
            format!("It was started in {seconds}.{tenths} s."),
            json!({"record": record, "cause": reason, "duration_ms": duration / 1_000}),
        )),
        ("sleep", Some("done"), _) => Some(base(
            "app.asleep",
            format!("{} is asleep", name()),
            format!("It was put to sleep: {}.", reason.as_deref().unwrap_or("no reason given")),
            json!({"record": record, "cause": reason}),
        )),
        ("wake" | "sleep", Some("failed"), _) => {
            let what = if kind == "wake" { "could not be started" } else { "could not be stopped" };
            let app = name();
            let note = note.unwrap_or_else(|| "the reason is not known".to_owned());
            let text = format!("{note}. See `nightporter apps` and the app's own logs.");
            let data = json!({"record": record, "action": kind, "cause": reason, "error": note});
            let event = base("app.failed", format!("{app} {what}"), text, data);
            // What the engine or a program has worded may quote anything.
            let masked = Content {
                title: event.title.clone(),
                text: "See `nightporter apps` and the app's own logs.".to_owned(),
                data: json!({"record": record, "action": kind, "cause": reason}),
            };
            Some(Event { masked: Some(masked), ..event })
        }
        ("act", _, Some(act @ ("pair" | "revoke"))) => {
            let (kind, what) = match act {
                "pair" => ("terminal.added", "was added"),
                _ => ("terminal.removed", "was removed"),
            };
            let name = client_name.unwrap_or_else(|| "a device".to_owned());
            let text = "If it was not you, look at `nightporter terminal list`.";
            let masked = Content {
                title: format!("A device {what}"),
                text: text.to_owned(),
                data: json!({"record": record}),
            };
            let data = json!({"record": record, "terminal": client_id, "name": name});
            let event = base(kind, format!("The device \"{name}\" {what}"), text.to_owned(), data);
            Some(Event { masked: Some(masked), ..event })
        }
        _ => None,
    }
}

/// Returns the event by which an endpoint is tried.
pub(super) fn test(id: &str, nonce: &str, now: Micros) -> Event {
    Event {
        id: format!("test:{nonce}"),
        kind: TEST,
        at: now,
        app: None,
        subject: None,
        title: "Test message".to_owned(),
        text: format!("nightporter sends messages to the endpoint \"{id}\"."),
        data: json!({"endpoint": id}),
        masked: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::record::WriterId;

    fn told(kind: &str, verdict: &str, reason: &str) -> RecordSummary {
        RecordSummary {
            id: RecordId { writer: WriterId(31), seq: 7 },
            kind: kind.into(),
            at: Micros(5),
            app: Some("notes".into()),
            client_id: Some("t1".into()),
            client_name: Some("Ada's phone".into()),
            verdict: Some(verdict.into()),
            reason: Some(reason.into()),
            duration: 1_250_000,
            note: Some("container web exited with code 1".into()),
        }
    }

    #[test]
    fn records_that_people_want_to_know_of_are_events() {
        for (kind, verdict, reason, expected) in [
            ("wake", "done", "request", Some("app.woken")),
            ("wake", "failed", "request", Some("app.failed")),
            ("sleep", "done", "idle", Some("app.asleep")),
            ("sleep", "failed", "idle", Some("app.failed")),
            ("act", "accepted", "pair", Some("terminal.added")),
            ("act", "accepted", "revoke", Some("terminal.removed")),
            ("act", "accepted", "wake", None),
            ("wake", "refused", "request", None),
            ("visit", "deny", "no_credential", None),
            ("job", "done", "", None),
        ] {
            let event = of_record(told(kind, verdict, reason));
            assert_eq!(event.map(|event| event.kind), expected, "{kind} {verdict} {reason}");
        }
        let woken = of_record(told("wake", "done", "request")).expect("an event");
        assert_eq!((&*woken.title, &*woken.text), ("notes is awake", "It was started in 1.2 s."));
        assert_eq!(woken.id, "record:000000000000001f-7");
    }

    #[test]
    fn an_endpoint_that_may_not_see_names_sees_none() {
        let event = of_record(told("act", "accepted", "pair")).expect("an event");
        assert!(event.title.contains("Ada"), "{event:?}");
        let masked = serde_json::to_string(&event.masked).expect("JSON");
        assert!(!masked.contains("Ada") && !masked.contains("t1"), "{masked}");
        for kind in ["wake", "sleep"] {
            let event = of_record(told(kind, "failed", "request")).expect("an event");
            assert!(event.text.contains("exited with code 1"), "{event:?}");
            let masked = serde_json::to_string(&event.content(false)).expect("JSON");
            assert!(!masked.contains("exited") && masked.contains("notes"), "{masked}");
        }
    }
}
