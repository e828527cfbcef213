//! Quiet hours: a part of the day, in a time zone, in which messages wait.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use tz::TimeZone;

use crate::ledger::record::Micros;

const DAY: i64 = 24 * 60;

/// A part of the day, such as `22:00-07:00`, with its begin and without its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Quiet {
    /// Minutes since midnight.
    from: i64,
    to: i64,
}

/// A text that is not in the form `22:00-07:00`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid quiet hours `{0}`: expected a time of day and its end, such as `22:00-07:00`")]
pub struct InvalidQuiet(String);

impl FromStr for Quiet {
    type Err = InvalidQuiet;

    fn from_str(text: &str) -> Result<Self, InvalidQuiet> {
        let minutes = |text: &str| {
            let (hour, minute) = text.split_once(':')?;
            let number = |text: &str| {
                let is_number = text.len() == 2 && text.bytes().all(|b| b.is_ascii_digit());
                is_number.then(|| text.parse::<i64>().ok()).flatten()
            };
            let (hour, minute) = (number(hour)?, number(minute)?);
            (hour < 24 && minute < 60).then_some(hour * 60 + minute)
        };
        let parse = || {
            let (from, to) = text.split_once('-')?;
            let (from, to) = (minutes(from.trim())?, minutes(to.trim())?);
            (from != to).then_some(Self { from, to })
        };
        parse().ok_or_else(|| InvalidQuiet(text.chars().take(40).collect()))
    }
}

impl fmt::Display for Quiet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { from, to } = self;
        write!(f, "{:02}:{:02}-{:02}:{:02}", from / 60, from % 60, to / 60, to % 60)
    }
}

impl TryFrom<String> for Quiet {
    type Error = InvalidQuiet;

    fn try_from(text: String) -> Result<Self, InvalidQuiet> {
        text.parse()
    }
}

impl From<Quiet> for String {
    fn from(quiet: Quiet) -> Self {
        quiet.to_string()
    }
}

impl Quiet {
    /// Returns when the quiet hours end in which a time lies; `None` if it lies in none.
    #[must_use]
    pub fn end(&self, at: Micros, zone: &Zone) -> Option<Micros> {
        let seconds = at.0.div_euclid(1_000_000);
        let local = seconds + zone.offset(seconds);
        let minute = self.quiet_minute(local)?;
        let left = (self.to - minute).rem_euclid(DAY) * 60 - local.rem_euclid(60);
        // The clocks may be changed in between.
        let moved = zone.offset(seconds) - zone.offset(seconds + left);
        let mut end = seconds + (left + moved).max(1);
        // A time that the clocks skip is not the end: that is when they have skipped it.
        for _ in 0..DAY {
            if self.quiet_minute(end + zone.offset(end)).is_none() {
                break;
            }
            end = (end.div_euclid(60) + 1) * 60;
        }
        Some(Micros(end.saturating_mul(1_000_000)))
    }

    /// Returns the minute of the day at a local time; `None` if it is not quiet.
    fn quiet_minute(&self, local: i64) -> Option<i64> {
        let Self { from, to } = *self;
        let minute = local.div_euclid(60).rem_euclid(DAY);
        let is_quiet =
            if from < to { from <= minute && minute < to } else { minute >= from || minute < to };
        is_quiet.then_some(minute)
    }
}

/// A time zone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Zone(TimeZone);

/// A time zone that the system does not know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown time zone `{0}`")]
pub struct UnknownZone(String);

impl Zone {
    /// Returns a zone by its name in the system's database, such as `Europe/Berlin`, or by its
    /// rule as POSIX writes it in `TZ`, such as `CET-1CEST,M3.5.0,M10.5.0/3`. May block.
    ///
    /// # Errors
    /// If it is neither.
    pub fn named(name: &str) -> Result<Self, UnknownZone> {
        let unknown = || UnknownZone(name.chars().take(80).collect());
        // A relative path would leave the database.
        if name.is_empty() || name.contains("..") {
            return Err(unknown());
        }
        TimeZone::from_posix_tz(name).map(Self).map_err(|_| unknown())
    }

    /// Returns the system's zone, or UTC if it has none. May block.
    #[must_use]
    pub fn local() -> Self {
        Self(TimeZone::local().unwrap_or_else(|_| TimeZone::utc()))
    }

    /// Returns what is added to UTC at a time, in seconds.
    fn offset(&self, seconds: i64) -> i64 {
        self.0.find_local_time_type(seconds).map_or(0, |local| i64::from(local.ut_offset()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Micros {
        humantime::parse_rfc3339(text).expect("a time").into()
    }

    fn end(quiet: &str, zone: &str, time: &str) -> Option<Micros> {
        let quiet: Quiet = quiet.parse().expect("quiet hours");
        quiet.end(at(time), &Zone::named(zone).expect("a zone"))
    }

    #[test]
    fn quiet_hours_may_reach_over_midnight() {
        for (quiet, time, expected) in [
            ("22:00-07:00", "2026-11-30T21:59:59Z", None),
            ("22:00-07:00", "2026-11-30T22:00:00Z", Some("2026-12-01T07:00:00Z")),
            ("22:00-07:00", "2026-12-01T06:59:59Z", Some("2026-12-01T07:00:00Z")),
            ("22:00-07:00", "2026-12-01T07:00:00Z", None),
            ("13:00-14:30", "2026-12-01T13:20:07Z", Some("2026-12-01T14:30:00Z")),
            ("13:00-14:30", "2026-12-01T12:59:00Z", None),
            ("00:00-23:59", "2026-12-01T23:59:30Z", None),
        ] {
            assert_eq!(end(quiet, "UTC0", time), expected.map(at), "{quiet} {time}");
        }
    }

    #[test]
    fn quiet_hours_are_those_of_the_zone_also_when_its_clocks_are_changed() {
        let berlin = "CET-1CEST,M3.5.0,M10.5.0/3";
        for (time, expected) in [
            ("2026-07-01T19:59:00Z", None),
            ("2026-07-01T20:00:00Z", Some("2026-07-02T05:00:00Z")),
            ("2026-12-01T20:30:00Z", None),
            ("2026-12-01T21:00:00Z", Some("2026-12-02T06:00:00Z")),
            // The night of 28 March has 23 hours, that of 25 October 25.
            ("2026-03-28T22:00:00Z", Some("2026-03-29T05:00:00Z")),
            ("2026-10-24T22:00:00Z", Some("2026-10-25T06:00:00Z")),
        ] {
            assert_eq!(end("22:00-07:00", berlin, time), expected.map(at), "{time}");
        }
    }

    #[test]
    fn quiet_hours_that_end_in_a_skipped_hour_end_when_it_is_skipped() {
        let berlin = "CET-1CEST,M3.5.0,M10.5.0/3";
        // From 02:00 CET the clocks go to 03:00 CEST, which is 01:00 UTC.
        let skipped = at("2026-03-29T01:00:00Z");
        for time in ["2026-03-28T22:00:00Z", "2026-03-29T00:50:00Z", "2026-03-29T00:59:59Z"] {
            assert_eq!(end("22:00-02:30", berlin, time), Some(skipped), "{time}");
        }
        assert_eq!(end("22:00-02:30", berlin, "2026-03-29T01:00:00Z"), None);
    }

    #[test]
    fn quiet_hours_whose_end_does_not_exist_end_with_the_change() {
        let berlin = "CET-1CEST,M3.5.0,M10.5.0/3";
        // The clocks go from 02:00 to 03:00, which is 01:00 of UTC.
        let mut time = at("2026-03-29T00:30:00Z");
        let mut looks = 0;
        let quiet: Quiet = "01:15-02:30".parse().expect("quiet hours");
        let zone = Zone::named(berlin).expect("a zone");
        while let Some(end) = quiet.end(time, &zone) {
            assert!(end > time, "{end:?}");
            time = end;
            looks += 1;
        }
        let late = (time.0 - at("2026-03-29T01:00:00Z").0) / 1_000_000;
        assert!((0..60).contains(&late) && looks <= 31, "{late} s late after {looks} looks");
        // What begins in the hour that is left out begins after it.
        assert_eq!(end("02:30-04:00", berlin, "2026-03-29T00:59:59Z"), None);
        let expected = Some(at("2026-03-29T02:00:00Z"));
        assert_eq!(end("02:30-04:00", berlin, "2026-03-29T01:00:00Z"), expected);
        // In autumn the hour from 02:00 comes twice, and is quiet twice.
        let first = Some(at("2026-10-25T00:45:00Z"));
        assert_eq!(end("02:30-02:45", berlin, "2026-10-25T00:31:00Z"), first);
        assert_eq!(end("02:30-02:45", berlin, "2026-10-25T00:50:00Z"), None);
        let second = Some(at("2026-10-25T01:45:00Z"));
        assert_eq!(end("02:30-02:45", berlin, "2026-10-25T01:31:00Z"), second);
    }

    #[test]
    fn other_texts_are_refused() {
        for text in ["", "22-7", "22:00", "24:00-07:00", "22:60-07:00", "7:00-8:00", "08:00-08:00"]
        {
            assert!(text.parse::<Quiet>().is_err(), "{text}");
        }
        for zone in ["", "../../etc/passwd", "Nowhere/Land"] {
            assert!(Zone::named(zone).is_err(), "{zone}");
        }
        let quiet: Quiet = "22:00 - 07:30".parse().expect("quiet hours");
        assert_eq!(quiet.to_string(), "22:00-07:30");
    }
}
