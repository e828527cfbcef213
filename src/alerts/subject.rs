//! Whom or what an alert is about.

use std::sync::Arc;

use crate::access::{Private, Viewer};
pub use crate::domain::origin::Origin;
use crate::ledger::record::Micros;

/// Whom or what an alert is about. Alerts of one rule and one subject are one alert.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Subject {
    /// The box as a whole.
    Box,
    /// A terminal or a peer, by its id.
    Client(Arc<str>),
    Address(Origin),
    App(Arc<str>),
    /// The row of a job.
    Job(Arc<str>),
    Folder(Arc<str>),
    /// An endpoint of messages, by its name.
    Endpoint(Arc<str>),
    /// Further subjects of the rule, which have no alerts of their own.
    Others,
}

impl Subject {
    /// Returns the name of its kind, as it is stored and shown.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Box => "box",
            Self::Client(_) => "client",
            Self::Address(_) => "address",
            Self::App(_) => "app",
            Self::Job(_) => "job",
            Self::Folder(_) => "folder",
            Self::Endpoint(_) => "endpoint",
            Self::Others => "others",
        }
    }

    /// Returns what it is of its kind, as it is stored. Not for people who may not see it.
    #[must_use]
    pub fn stored(&self) -> String {
        match self {
            Self::Box | Self::Others => String::new(),
            Self::Client(text)
            | Self::App(text)
            | Self::Job(text)
            | Self::Folder(text)
            | Self::Endpoint(text) => text.as_ref().to_owned(),
            Self::Address(origin) => origin.to_string(),
        }
    }

    /// Returns the same as it is shown to somebody. The time decides on the mask of an id.
    #[must_use]
    pub fn shown(&self, viewer: &Viewer, at: Micros) -> String {
        match self {
            _ if !viewer.is_masked() => self.stored(),
            Self::Client(id) => viewer.show(Private::ClientId(id), at),
            Self::Address(origin) => {
                viewer.show(Private::Address(&origin.address().to_string()), at)
            }
            Self::Box
            | Self::App(_)
            | Self::Job(_)
            | Self::Folder(_)
            | Self::Endpoint(_)
            | Self::Others => self.stored(),
        }
    }

    /// Returns what was stored; `None` if no version stores that.
    #[must_use]
    pub fn parse(kind: &str, text: &str) -> Option<Self> {
        Some(match kind {
            "box" => Self::Box,
            "client" => Self::Client(text.into()),
            "address" => Self::Address(
                text.parse().ok().filter(|origin: &Origin| origin.to_string() == text)?,
            ),
            "app" => Self::App(text.into()),
            "job" => Self::Job(text.into()),
            "folder" => Self::Folder(text.into()),
            "endpoint" => Self::Endpoint(text.into()),
            "others" => Self::Others,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    #[test]
    fn a_subject_is_read_as_it_is_stored() {
        let origin = |text: &str| Origin::from(text.parse::<IpAddr>().expect("an address"));
        for (subject, text) in [
            (Subject::Box, ""),
            (Subject::Client("t 1".into()), "t 1"),
            (Subject::Address(origin("192.0.2.7")), "192.0.2.7"),
            (Subject::Address(origin("::ffff:192.0.2.7")), "192.0.2.7"),
            (Subject::Address(origin("2001:db8:1:2:3:4:5:6")), "2001:db8:1:2::/64"),
            (Subject::Address(origin("::1")), "::/64"),
            (Subject::App("notes".into()), "notes"),
            (Subject::Job("dead_letters@1f".into()), "dead_letters@1f"),
            (Subject::Folder("/var/lib".into()), "/var/lib"),
            (Subject::Endpoint("phone".into()), "phone"),
            (Subject::Others, ""),
        ] {
            assert_eq!(subject.stored(), text);
            assert_eq!(Subject::parse(subject.kind(), text), Some(subject));
        }
        for (kind, text) in [("address", "x"), ("address", "2001:db8::"), ("colour", "red")] {
            assert_eq!(Subject::parse(kind, text), None, "{kind} {text}");
        }
    }

    #[test]
    fn clients_and_addresses_are_masked() {
        let (masked, at) = (Viewer::masked(None, "box"), Micros(0));
        let origin = |text: &str| Origin::from(text.parse::<IpAddr>().expect("an address"));
        let client = Subject::Client("phone1".into());
        assert!(!client.shown(&masked, at).contains("phone1"));
        assert_eq!(client.shown(&Viewer::clear(), at), "phone1");
        for (address, shown, clear) in [
            ("192.0.2.7", "192.0.2.0/24", "192.0.2.7"),
            ("2001:db8:1:2ff::7", "2001:db8:1:200::/56", "2001:db8:1:2ff::/64"),
        ] {
            let subject = Subject::Address(origin(address));
            assert_eq!(subject.shown(&masked, at), shown);
            assert_eq!(subject.shown(&Viewer::clear(), at), clear);
        }
        assert_eq!(Subject::App("notes".into()).shown(&masked, at), "notes");
    }

    #[test]
    fn the_addresses_of_one_host_are_one_subject() {
        let origin = |text: &str| Origin::from(text.parse::<IpAddr>().expect("an address"));
        assert_eq!(origin("2001:db8::1"), origin("2001:db8::ffff:1"));
        assert_ne!(origin("2001:db8::1"), origin("2001:db8:0:1::1"));
        assert_ne!(origin("192.0.2.7"), origin("192.0.2.8"));
    }
}
