//! For how long an alert is silenced, as the operator writes it.

use std::time::Duration;

use serde::Deserialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::ledger::record::{Micros, micros};

/// The longest time that an alert is silenced: what is silenced for longer is switched off by
/// `alerts.off`.
pub const LONGEST: Duration = Duration::from_secs(366 * 24 * 60 * 60);

/// How long an alert is silenced: one of the two.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Silence {
    /// A time span such as `2h`; `0s` ends a silence.
    #[serde(default, rename = "for")]
    pub span: Option<String>,
    /// A time with its zone (RFC 3339), such as `2026-12-01T08:00:00Z`.
    #[serde(default)]
    pub until: Option<String>,
}

/// Why an alert is not silenced: which field is wrong, and how.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SilenceError {
    #[error("give either `for`, a time span such as `2h`, or `until`, a time with its zone")]
    NotOne,
    #[error("invalid duration `{0}`: expected a number and a unit, such as `2h`")]
    Span(String),
    #[error(
        "invalid time `{0}`: expected a time with its zone as in RFC 3339, such as \
         `2026-12-01T08:00:00Z`"
    )]
    Time(String),
    #[error("`{0}` has passed already")]
    Past(String),
    /// By the field that says it.
    #[error("an alert is silenced for 366 days at most; `alerts.off` switches its rule off")]
    TooLong(&'static str),
}

impl SilenceError {
    /// Returns the field that is wrong.
    #[must_use]
    pub fn field(&self) -> &'static str {
        match self {
            Self::NotOne | Self::Span(_) => "for",
            Self::TooLong(field) => field,
            Self::Time(_) | Self::Past(_) => "until",
        }
    }
}

impl Silence {
    /// Returns until when the alert is silenced; `None` ends its silence.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn until(&self, now: Micros) -> Result<Option<Micros>, SilenceError> {
        let until = match self {
            Self { span: Some(span), until: None } => {
                let duration = humantime::parse_duration(span.trim())
                    .map_err(|_| SilenceError::Span(shortened(span)))?;
                if duration.is_zero() {
                    return Ok(None);
                }
                if duration > LONGEST {
                    return Err(SilenceError::TooLong("for"));
                }
                Micros(now.0.saturating_add(micros(duration)))
            }
            Self { span: None, until: Some(text) } => {
                let time = || SilenceError::Time(shortened(text));
                let parsed = OffsetDateTime::parse(text.trim(), &Rfc3339).map_err(|_| time())?;
                let micros = i64::try_from(parsed.unix_timestamp_nanos() / 1000);
                let until = Micros(micros.map_err(|_| time())?);
                if until <= now {
                    return Err(SilenceError::Past(shortened(text)));
                }
                until
            }
            _ => return Err(SilenceError::NotOne),
        };
        if until.0.saturating_sub(now.0) > micros(LONGEST) {
            return Err(SilenceError::TooLong("until"));
        }
        Ok(Some(until))
    }
}

/// Returns the beginning of a text, for messages.
fn shortened(text: &str) -> String {
    text.chars().filter(|character| !character.is_control()).take(60).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Micros = Micros(1_764_500_000_000_000);

    fn until(body: &str) -> Result<Option<Micros>, SilenceError> {
        let silence: Silence = serde_json::from_str(body).expect("a body");
        silence.until(NOW)
    }

    #[test]
    fn a_silence_has_a_span_or_an_end_with_a_zone() {
        let hours = |hours: i64| Ok(Some(Micros(NOW.0 + hours * 3_600_000_000)));
        assert_eq!(until(r#"{"for": "2h"}"#), hours(2));
        assert_eq!(until(r#"{"for": "1h 60m"}"#), hours(2));
        assert_eq!(until(r#"{"for": "0s"}"#), Ok(None));
        assert_eq!(until(r#"{"until": "2025-11-30T12:53:20Z"}"#), hours(2));
        assert_eq!(until(r#"{"until": "2025-11-30T13:53:20+01:00"}"#), hours(2));
    }

    #[test]
    fn what_is_not_clear_is_refused_by_the_name_of_the_field() {
        for (body, field) in [
            ("{}", "for"),
            (r#"{"for": "2h", "until": "2026-11-30T12:53:20Z"}"#, "for"),
            (r#"{"for": "2"}"#, "for"),
            (r#"{"for": "-2h"}"#, "for"),
            (r#"{"for": "367d"}"#, "for"),
            (r#"{"for": "999999999999y"}"#, "for"),
            (r#"{"until": "2026-11-30T12:53:20"}"#, "until"),
            (r#"{"until": "2026-11-30"}"#, "until"),
            (r#"{"until": "1764500001"}"#, "until"),
            (r#"{"until": "2025-11-30T10:53:20Z"}"#, "until"),
            (r#"{"until": "2099-11-30T10:53:20Z"}"#, "until"),
            (r#"{"until": "9999-12-31T23:59:59.999999999-23:59"}"#, "until"),
            (r#"{"until": "10000-01-01T00:00:00Z"}"#, "until"),
            (r#"{"until": "-2026-11-30T12:53:20Z"}"#, "until"),
            (r#"{"until": "0000-01-01T00:00:00Z"}"#, "until"),
            (r#"{"until": "2026-02-30T00:00:00Z"}"#, "until"),
            (r#"{"until": "2025-11-30T25:00:00Z"}"#, "until"),
            (r#"{"until": "2025-11-30T12:53:20 Europe/Berlin"}"#, "until"),
            (r#"{"until": "2025-11-30T12:53:20+24:00"}"#, "until"),
            (r#"{"until": ""}"#, "until"),
            (r#"{"for": ""}"#, "for"),
            (r#"{"for": "18446744073709551615s 1s"}"#, "for"),
        ] {
            let refused = until(body).expect_err(body);
            assert_eq!(refused.field(), field, "{body}: {refused}");
        }
        assert!(serde_json::from_str::<Silence>(r#"{"fro": "2h"}"#).is_err());
    }
}
