//! The types of the keys of messages and endpoints.

use std::fmt::Display;
use std::str::FromStr;

use super::{Setting, ValueError, list};
use crate::config::key::Shape;
use crate::config::raw::Raw;
use crate::webhooks::address::Allowed;
use crate::webhooks::endpoint::{EndpointKind, EventPattern};
use crate::webhooks::quiet::{Quiet, Zone};

impl Setting for EndpointKind {
    type Value = Self;

    const SHAPE: Shape = Shape::Words(|| Self::ALL.map(Self::as_str).to_vec());

    fn read(raw: &Raw) -> Result<Self, ValueError> {
        let text = String::read(raw)?;
        Self::ALL.into_iter().find(|kind| kind.as_str() == text).ok_or_else(|| {
            let kinds = Self::ALL.map(|kind| format!("`{}`", kind.as_str())).join(", ");
            ValueError::new(format!("unknown kind `{text}`"), format!("use one of {kinds}"))
        })
    }
}

/// Reads each item of a list by its own parser.
fn items<T: FromStr<Err: Display>>(
    raw: &Raw,
    example: &str,
    hint: &str,
) -> Result<Vec<T>, ValueError> {
    let read =
        |text: String| text.parse::<T>().map_err(|error| ValueError::new(error.to_string(), hint));
    list(raw, example)?.into_iter().map(read).collect()
}

/// Kinds of events.
#[derive(Debug)]
pub(in crate::config) struct EventPatterns;

impl Setting for EventPatterns {
    type Value = Vec<EventPattern>;

    const SHAPE: Shape = Shape::List;

    fn read(raw: &Raw) -> Result<Vec<EventPattern>, ValueError> {
        items(raw, "[\"alert.*\"]", "use these, or `*` for all")
    }
}

/// Hosts and networks.
#[derive(Debug)]
pub(in crate::config) struct AllowedHosts;

impl Setting for AllowedHosts {
    type Value = Vec<Allowed>;

    const SHAPE: Shape = Shape::List;

    fn read(raw: &Raw) -> Result<Vec<Allowed>, ValueError> {
        let hint = "write neither a scheme nor a port";
        items(raw, "[\"ntfy.lan\", \"192.168.1.0/24\"]", hint)
    }

    fn absent() -> Option<Vec<Allowed>> {
        Some(Vec::new())
    }
}

/// A part of the day.
#[derive(Debug)]
pub(in crate::config) struct QuietHours;

impl Setting for QuietHours {
    type Value = Quiet;

    const SHAPE: Shape = Shape::Pattern("^[0-9]{2}:[0-9]{2} *- *[0-9]{2}:[0-9]{2}$");

    fn read(raw: &Raw) -> Result<Quiet, ValueError> {
        let hint = "write 24 hours, from 00:00 to 23:59";
        String::read(raw)?
            .parse()
            .map_err(|error: <Quiet as FromStr>::Err| ValueError::new(error.to_string(), hint))
    }
}

/// A time zone; that of the system if there is none.
#[derive(Debug)]
pub(in crate::config) struct ZoneName;

impl Setting for ZoneName {
    type Value = Zone;

    const SHAPE: Shape = Shape::Text;

    fn read(raw: &Raw) -> Result<Zone, ValueError> {
        Zone::named(&String::read(raw)?).map_err(|error| {
            let hint = "use a name such as `Europe/Berlin` if the system has a time zone \
                        database, or a rule such as `CET-1CEST,M3.5.0,M10.5.0/3`";
            ValueError::new(error.to_string(), hint)
        })
    }

    fn absent() -> Option<Zone> {
        Some(Zone::local())
    }
}
