//! What is told of an alert.

use std::fmt::Write as _;
use std::sync::Arc;

use serde_json::json;

use super::rule;
use super::subject::Subject;
use super::table::Alert;
use crate::access::Viewer;
use crate::ledger::checkpoint::rfc3339;
use crate::ledger::record::Micros;
use crate::webhooks::event::{Content, Event};

/// The kinds of events about alerts.
pub const FIRING: &str = "alert.firing";
pub const RESOLVED: &str = "alert.resolved";

/// Returns the event of an alert that has just changed its state.
#[must_use]
pub fn event(alert: &Alert, now: Micros) -> Event {
    let Alert { id, subject, is_firing, changes, .. } = alert;
    let app = if let Subject::App(app) = subject { Some(Arc::clone(app)) } else { None };
    let (clear, masked) =
        (content(alert, &Viewer::clear()), content(alert, &Viewer::masked(None, "")));
    let masked = (masked != clear).then_some(masked);
    let Content { title, text, data } = clear;
    Event {
        // The same change has the same id, whichever process writes it.
        id: format!("alert-{id}-{changes}"),
        kind: if *is_firing { FIRING } else { RESOLVED },
        at: now,
        app,
        subject: Some(id.clone()),
        masked,
        title,
        text,
        data,
    }
}

/// Returns what somebody is told of an alert.
#[must_use]
pub fn content(alert: &Alert, viewer: &Viewer) -> Content {
    let Alert { id, rule, subject, is_firing, since, value, .. } = alert;
    let texts = rule::texts(*rule);
    let (state, began) = (state(*is_firing), rfc3339(*since).to_string());
    let shown = subject.shown(viewer, *since);
    let detail = rule::detail(*rule, &alert.detail, viewer, *since);
    let title = texts.title(subject, &shown);
    let mut text = format!("{state} since {began}");
    if !detail.is_empty() {
        // Writing to a string does not fail.
        let _ = write!(text, ": {detail}");
    }
    if *is_firing {
        let _ = write!(text, "\n{}", texts.help);
    }
    let data = json!({
        "alert": id,
        "rule": rule.as_str(),
        "state": state,
        "subject": {"kind": subject.kind(), "value": shown},
        "since": began,
        "value": value,
        "unit": texts.unit,
        "detail": detail,
        "help": texts.help,
    });
    Content { title: if *is_firing { title } else { format!("resolved: {title}") }, text, data }
}

/// Returns the word for the state.
#[must_use]
pub fn state(is_firing: bool) -> &'static str {
    if is_firing { "firing" } else { "resolved" }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::alerts::Rule;

    #[test]
    fn a_message_says_what_happened_since_when_and_what_helps() {
        let alert = Alert {
            id: "1f".into(),
            rule: Rule::AppFailing,
            subject: Subject::App("notes".into()),
            is_firing: true,
            since: Micros(1_000_000),
            changes: 3,
            value: 4,
            detail: "container web exited with code 3".into(),
            silenced_until: None,
        };
        let event = event(&alert, Micros(2_000_000));
        assert_eq!(
            (event.id.as_str(), event.kind, event.at),
            ("alert-1f-3", FIRING, Micros(2_000_000))
        );
        assert_eq!(event.app.as_deref(), Some("notes"));
        assert_eq!(event.title, "the app notes does not start");
        for part in ["firing since 1970-01-01T00:00:01", "`nightporter apps`"] {
            assert!(event.text.contains(part), "{}", event.text);
        }
        assert!(event.text.contains("exited with code 3"), "{}", event.text);
        let masked = event.masked.expect("the detail is personal");
        assert!(!masked.text.contains("exited"), "it may quote anything: {}", masked.text);
        assert_eq!(event.data["state"], "firing");
        let resolved = super::event(&Alert { is_firing: false, changes: 4, ..alert }, Micros(0));
        assert_eq!((resolved.kind, resolved.id.as_str()), (RESOLVED, "alert-1f-4"));
        assert_eq!(resolved.title, "resolved: the app notes does not start");
    }

    #[test]
    fn no_personal_value_is_told_to_those_who_may_not_see_it() {
        let subjects = [
            (Rule::DenialsClient, Subject::Client("phone1".into())),
            (
                Rule::DenialsAddress,
                Subject::Address("192.0.2.77".parse::<IpAddr>().expect("one").into()),
            ),
        ];
        for (rule, subject) in subjects {
            let alert = Alert {
                id: "1f".into(),
                rule,
                subject: subject.clone(),
                is_firing: true,
                since: Micros(0),
                changes: 1,
                value: 4,
                detail: "4 denials".into(),
                silenced_until: None,
            };
            let masked = format!("{:?}", content(&alert, &Viewer::masked(None, "box")));
            assert!(!masked.contains(&subject.stored()), "{masked}");
            let clear = content(&alert, &Viewer::clear());
            assert!(clear.title.contains(&subject.stored()), "{clear:?}");
            assert_eq!(clear.data["subject"]["value"], subject.stored());
        }
    }
}
