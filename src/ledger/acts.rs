//! What an operator asks for. Its record is committed before it is done; without that, it is
//! not done.

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
