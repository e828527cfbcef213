//! What an operator asks for. Its record is committed before it is done; without that, it is
//! not done.

use std::net::IpAddr;
use std::sync::Arc;

use super::record::{Entry, Kind, Micros, Note};

/// What an operator asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    Wake {
        app: Arc<str>,
    },
    Sleep {
        app: Arc<str>,
    },
    Pause {
        app: Arc<str>,
    },
    /// Adds a terminal.
    Pair {
        id: Arc<str>,
        name: Arc<str>,
    },
    /// Removes a terminal.
    Revoke {
        id: Arc<str>,
        name: Arc<str>,
    },
    /// Gives up the records of a dead letter.
    Dismiss {
        dead_letter: String,
    },
    /// Adds a token of the operator's API.
    AddToken {
        id: Arc<str>,
        rights: String,
    },
    /// Removes one.
    RemoveToken {
        id: Arc<str>,
    },
    /// Silences an alert until a time (RFC 3339), or ends its silence.
    Silence {
        alert: String,
        until: Option<String>,
    },
    /// Forgets the wrong credentials that came from an address.
    LiftLimit {
        address: IpAddr,
    },
    /// Adds, removes, tests, enables or rotates an endpoint of messages.
    Endpoint {
        /// Its name: `add_endpoint`, ...
        change: &'static str,
        id: String,
    },
}

impl Act {
    /// Returns its name: the reason of its record.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Wake { .. } => "wake",
            Self::Sleep { .. } => "sleep",
            Self::Pause { .. } => "pause",
            Self::Pair { .. } => "pair",
            Self::Revoke { .. } => "revoke",
            Self::Dismiss { .. } => "dismiss",
            Self::AddToken { .. } => "add_token",
            Self::RemoveToken { .. } => "remove_token",
            Self::Silence { .. } => "silence",
            Self::LiftLimit { .. } => "lift_limit",
            Self::Endpoint { change, .. } => change,
        }
    }

    /// Returns its record. The client's id and name are those of the terminal that was added
    /// or removed, so that everything about a device is found by its id, and erased with it.
    #[must_use]
    pub fn entry(self, at: Micros) -> Entry {
        let entry = Entry {
            client: Some("operator".into()),
            verdict: Some("accepted".into()),
            reason: Some(self.as_str().into()),
            ..Entry::new(Kind::Act, at)
        };
        match self {
            Self::Wake { app } | Self::Sleep { app } | Self::Pause { app } => {
                Entry { app: Some(app), ..entry }
            }
            Self::Pair { id, name } | Self::Revoke { id, name } => {
                Entry { client_id: Some(id), client_name: Some(name), ..entry }
            }
            Self::Dismiss { dead_letter } => {
                let note = Note { topic: "dead_letter".into(), text: dead_letter.into() };
                Entry { notes: vec![note], ..entry }
            }
            Self::AddToken { id, rights } => {
                // It belongs to the box whose record this is, or to all.
                let text = format!("{id}: {rights}");
                let note = Note { topic: "token".into(), text: text.into() };
                Entry { notes: vec![note], ..entry }
            }
            Self::RemoveToken { id } => {
                let note = Note { topic: "token".into(), text: Box::from(&*id) };
                Entry { notes: vec![note], ..entry }
            }
            Self::Silence { alert, until } => {
                let until = until.unwrap_or_else(|| "now".to_owned());
                let note = |topic: &'static str, text: String| Note {
                    topic: topic.into(),
                    text: text.into(),
                };
                Entry { notes: vec![note("alert", alert), note("until", until)], ..entry }
            }
            Self::LiftLimit { address } => Entry { address: Some(address), ..entry },
            Self::Endpoint { change: _, id } => {
                let note = Note { topic: "endpoint".into(), text: id.into() };
                Entry { notes: vec![note], ..entry }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_act_says_what_was_asked_for_and_of_whom() {
        let pair = Act::Pair { id: "t1".into(), name: "phone".into() }.entry(Micros(7));
        assert_eq!((pair.kind, pair.at), (Kind::Act, Micros(7)));
        assert_eq!(pair.client.as_deref(), Some("operator"));
        assert_eq!(pair.reason.as_deref(), Some("pair"));
        assert_eq!(pair.client_id.as_deref(), Some("t1"));
        assert_eq!(pair.client_name.as_deref(), Some("phone"));
        let wake = Act::Wake { app: "notes".into() }.entry(Micros(7));
        assert_eq!((wake.app.as_deref(), wake.client_id), (Some("notes"), None));
        let dismiss = Act::Dismiss { dead_letter: "a".into() }.entry(Micros(7));
        assert_eq!(&*dismiss.notes[0].text, "a");
    }
}
