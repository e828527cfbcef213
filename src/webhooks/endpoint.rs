//! Where messages go, and which events an endpoint wants.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::address::Allowed;
use super::quiet::Quiet;
use super::signature::SigningSecret;
use super::target::Target;
use crate::ledger::record::Micros;
use crate::secret::Secret;

/// The kinds of events that endpoints may ask for.
pub const EVENTS: [&str; 7] = [
    "alert.firing",
    "alert.resolved",
    "app.asleep",
    "app.failed",
    "app.woken",
    "terminal.added",
    "terminal.removed",
];

/// The kind of the event by which an endpoint is tried; every endpoint gets it.
pub const TEST: &str = "test";

/// What an endpoint is told if it does not say what it wants.
pub const DEFAULT_EVENTS: [&str; 1] = ["alert.*"];

/// The longest name of an endpoint, in characters.
const LONGEST_NAME: usize = 64;

/// Whose interface an endpoint has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EndpointKind {
    /// Standard Webhooks.
    Webhook,
    Ntfy,
    Gotify,
    Discord,
}

impl EndpointKind {
    pub const ALL: [Self; 4] = [Self::Webhook, Self::Ntfy, Self::Gotify, Self::Discord];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Webhook => "webhook",
            Self::Ntfy => "ntfy",
            Self::Gotify => "gotify",
            Self::Discord => "discord",
        }
    }
}

/// Kinds of events: one of [`EVENTS`], or the begin of some and `*`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EventPattern(String);

/// A pattern that fits no event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown event `{0}`: there are {all}, and patterns such as `alert.*`", all = EVENTS.join(", "))]
pub struct UnknownEvent(String);

impl FromStr for EventPattern {
    type Err = UnknownEvent;

    fn from_str(text: &str) -> Result<Self, UnknownEvent> {
        let pattern = Self(text.to_owned());
        if EVENTS.iter().any(|kind| pattern.fits(kind)) {
            Ok(pattern)
        } else {
            Err(UnknownEvent(text.chars().take(40).collect()))
        }
    }
}

impl TryFrom<String> for EventPattern {
    type Error = UnknownEvent;

    fn try_from(text: String) -> Result<Self, UnknownEvent> {
        text.parse()
    }
}

impl From<EventPattern> for String {
    fn from(pattern: EventPattern) -> Self {
        pattern.0
    }
}

impl fmt::Display for EventPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl EventPattern {
    fn fits(&self, kind: &str) -> bool {
        match self.0.strip_suffix('*') {
            Some("") => true,
            Some(begin) => begin.ends_with('.') && kind.starts_with(begin),
            None => self.0 == kind,
        }
    }
}

/// Which events an endpoint is sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subscription {
    pub events: Vec<EventPattern>,
    /// Only what is about these apps; everything if there are none.
    pub apps: Vec<String>,
    /// Whether its messages contain personal values: names, addresses, ids of clients.
    pub pii: bool,
}

impl Subscription {
    #[must_use]
    pub fn includes(&self, kind: &str, app: Option<&str>) -> bool {
        let wants_app =
            || self.apps.is_empty() || app.is_some_and(|app| self.apps.iter().any(|it| it == app));
        self.events.iter().any(|pattern| pattern.fits(kind)) && wants_app()
    }
}

/// What the operator or a caller of the API said about an endpoint, without its secrets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Definition {
    pub kind: EndpointKind,
    pub url: Target,
    #[serde(flatten)]
    pub subscription: Subscription,
    pub quiet: Option<Quiet>,
    /// Of an endpoint of the configuration; the others share `webhooks.allow`.
    pub allow: Vec<Allowed>,
}

/// What a receiver knows messages by.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Secrets {
    pub signing: Option<SigningSecret>,
    /// The secret before the last rotation, and when it stops to sign.
    pub previous: Option<(SigningSecret, Micros)>,
    /// The token of ntfy or Gotify.
    pub token: Option<Secret>,
}

impl Secrets {
    /// Puts another secret in the place of the one that signs, which signs as well until
    /// `until`.
    pub fn rotate(&mut self, secret: SigningSecret, until: Micros) {
        self.previous = self.signing.replace(secret).map(|previous| (previous, until));
    }

    /// Returns the secrets that sign at a time, the newest first.
    pub fn signing_at(&self, now: Micros) -> impl Iterator<Item = &SigningSecret> {
        let previous = self.previous.iter().filter(move |(_, until)| *until > now);
        self.signing.iter().chain(previous.map(|(secret, _)| secret))
    }
}

/// Who made an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    Configuration,
    Api,
}

impl Origin {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Configuration => "configuration",
            Self::Api => "api",
        }
    }
}

/// An endpoint as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    pub id: String,
    pub origin: Origin,
    pub definition: Definition,
    pub secrets: Secrets,
    pub created: Micros,
    /// When the first of the attempts failed that have failed without one that did not.
    pub failing_since: Option<Micros>,
    /// Since when it gets no messages, and why.
    pub disabled: Option<(Micros, String)>,
}

/// Returns whether a text can be the name of an endpoint: it is its id as well, and a segment
/// of a path, from which clients remove `.` and `..` (RFC 3986 section 5.2.4).
#[must_use]
pub fn is_name(text: &str) -> bool {
    (1..=LONGEST_NAME).contains(&text.len())
        && !matches!(text, "." | "..")
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

/// What an endpoint of this kind lacks, or has in vain; worded for the operator.
#[must_use]
pub fn secrets_problem(kind: EndpointKind, secret: bool, token: bool) -> Option<&'static str> {
    match (kind, secret, token) {
        (EndpointKind::Webhook, _, true) => Some("a webhook has a secret, but no token"),
        (EndpointKind::Gotify, _, false) => Some("Gotify needs the token of an application"),
        (EndpointKind::Discord, _, true) => Some("the URL of a Discord webhook is all it needs"),
        (EndpointKind::Ntfy | EndpointKind::Gotify | EndpointKind::Discord, true, _) => {
            Some("only webhooks are signed by a secret")
        }
        _ => None,
    }
}

/// What the URL of an endpoint of this kind lacks; worded for the operator.
#[must_use]
pub fn url_problem(kind: EndpointKind, url: &Target) -> Option<&'static str> {
    (kind == EndpointKind::Ntfy && url.last_segment().is_empty())
        .then_some("the URL of an ntfy endpoint ends in its topic, as in `https://ntfy.sh/topic`")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subscription(events: &[&str], apps: &[&str]) -> Subscription {
        let events = events.iter().map(|text| text.parse().expect("a pattern")).collect();
        Subscription { events, apps: apps.iter().map(|&app| app.to_owned()).collect(), pii: false }
    }

    #[test]
    fn an_endpoint_takes_what_its_patterns_and_apps_say() {
        for (events, apps, kind, app, expected) in [
            (&["alert.*"][..], &[][..], "alert.firing", None, true),
            (&["alert.*"], &[], "app.woken", Some("notes"), false),
            (&["alert.firing", "app.*"], &[], "app.woken", Some("notes"), true),
            (&["alert.firing"], &[], "alert.resolved", None, false),
            (&["*"], &[], "terminal.added", None, true),
            (&["*"], &["notes"], "app.woken", Some("notes"), true),
            (&["*"], &["notes"], "app.woken", Some("photos"), false),
            (&["*"], &["notes"], "alert.firing", None, false),
        ] {
            assert_eq!(
                subscription(events, apps).includes(kind, app),
                expected,
                "{events:?} {kind}"
            );
        }
        for text in ["", "alert", "alert*", "alerts.*", "app.woke", "*.firing", "test"] {
            assert!(text.parse::<EventPattern>().is_err(), "{text}");
        }
    }

    #[test]
    fn an_ntfy_endpoint_has_a_topic() {
        let problem = |kind, url| url_problem(kind, &Target::parse(url).expect("a URL"));
        for url in ["https://ntfy.sh", "https://ntfy.sh/", "https://ntfy.sh//", "https://a.b/?t=1"]
        {
            assert!(problem(EndpointKind::Ntfy, url).is_some(), "{url}");
            assert_eq!(problem(EndpointKind::Webhook, url), None);
        }
        for url in ["https://ntfy.sh/topic", "https://ntfy.sh/topic/", "https://a.b/ntfy/topic"] {
            assert_eq!(problem(EndpointKind::Ntfy, url), None, "{url}");
        }
    }

    #[test]
    fn two_secrets_sign_while_one_is_rotated() {
        let secret = || SigningSecret::random().expect("random numbers");
        let (old, new) = (secret(), secret());
        let mut secrets = Secrets { signing: Some(old.clone()), ..Secrets::default() };
        secrets.rotate(new.clone(), Micros(100));
        let at = |at| secrets.signing_at(Micros(at)).collect::<Vec<_>>();
        assert_eq!(at(99), [&new, &old]);
        assert_eq!(at(100), [&new]);
    }
}
