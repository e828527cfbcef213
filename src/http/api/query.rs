//! The parameters in a request's query. Each one has to be known, and to occur once.

use percent_encoding::percent_decode_str;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::problem::Problem;
use crate::ledger::record::Micros;

/// How many rows a page has if the caller names no `limit`, and how many it has at most.
const DEFAULT_LIMIT: usize = 50;
pub(super) const MAX_LIMIT: usize = 500;

/// The parameters that have not been taken yet.
#[derive(Debug, Default)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    /// Decodes a query as HTML forms encode it (WHATWG URL, section 5.1).
    pub(super) fn parse(query: Option<&str>) -> Result<Self, Problem> {
        let decode = |text: &str| {
            let text = text.replace('+', " ");
            percent_decode_str(&text).decode_utf8().map(std::borrow::Cow::into_owned)
        };
        let pairs = query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
        let decoded = pairs.map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = decode(name).map_err(|_| Problem::parameter(name, "is not UTF-8"))?;
            let Ok(value) = decode(value) else {
                return Err(Problem::parameter(&name, format!("`{name}` is not UTF-8")));
            };
            Ok((name, value))
        });
        Ok(Self(decoded.collect::<Result<_, _>>()?))
    }

    /// Returns the value of a parameter.
    pub(super) fn text(&mut self, name: &str) -> Result<Option<String>, Problem> {
        let Some(place) = self.0.iter().position(|(other, _)| other == name) else {
            return Ok(None);
        };
        let (_, value) = self.0.swap_remove(place);
        if self.0.iter().any(|(other, _)| other == name) {
            return Err(Problem::parameter(name, format!("`{name}` is given more than once")));
        }
        if value.is_empty() {
            return Err(Problem::parameter(name, format!("`{name}` is empty")));
        }
        if value.contains(char::is_control) {
            let problem = format!("`{name}` contains a control character");
            return Err(Problem::parameter(name, problem));
        }
        Ok(Some(value))
    }

    /// Returns the value of a parameter as `read` reads it; if that returns `None`, the
    /// problem says what was expected.
    pub(super) fn value<T>(
        &mut self,
        name: &str,
        expected: &str,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, Problem> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        read(&text).map(Some).ok_or_else(|| {
            Problem::parameter(name, format!("invalid `{name}`, `{text}`: expected {expected}"))
        })
    }

    /// Returns how many rows a page has.
    pub(super) fn limit(&mut self) -> Result<usize, Problem> {
        let expected = format!("a number from 1 to {MAX_LIMIT}");
        let limit = self.value("limit", &expected, |text| {
            text.parse().ok().filter(|limit| (1..=MAX_LIMIT).contains(limit))
        })?;
        Ok(limit.unwrap_or(DEFAULT_LIMIT))
    }

    /// Returns a time.
    pub(super) fn time(&mut self, name: &str) -> Result<Option<Micros>, Problem> {
        let expected = "a time as in RFC 3339, such as 2026-11-30T08:00:00Z (in a query, `+` is \
                        written as %2B), or the seconds since 1970";
        self.value(name, expected, time)
    }

    /// Refuses what has not been taken.
    pub(super) fn end(self) -> Result<(), Problem> {
        match self.0.first() {
            Some((name, _)) => {
                Err(Problem::parameter(name, format!("`{name}` is not a parameter here")))
            }
            None => Ok(()),
        }
    }
}

/// Reads a time as in RFC 3339, or in whole seconds since 1970.
fn time(text: &str) -> Option<Micros> {
    if let Ok(seconds) = text.parse::<i64>() {
        return seconds.checked_mul(1_000_000).map(Micros);
    }
    let nanoseconds = OffsetDateTime::parse(text, &Rfc3339).ok()?.unix_timestamp_nanos();
    i64::try_from(nanoseconds / 1000).ok().map(Micros)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded_and_taken_once() {
        let mut query = Query::parse(Some("app=a%20b+c&limit=5&&x")).expect("valid");
        assert_eq!(query.text("app"), Ok(Some("a b c".into())));
        assert_eq!(query.text("app"), Ok(None));
        assert_eq!(query.value("limit", "a number", |text| text.parse().ok()), Ok(Some(5)));
        let left = query.end().expect_err("`x` is left");
        assert_eq!(left.parameter.as_deref(), Some("x"));
        assert_eq!(Query::parse(None).expect("none").end(), Ok(()));
    }

    #[test]
    fn a_parameter_that_cannot_be_used_is_named() {
        for query in ["app=a&app=b", "app=", "app", "app=a%00", "app=%ff", "app=%0A"] {
            let refused = Query::parse(Some(query)).and_then(|mut query| query.text("app"));
            assert_eq!(refused.expect_err(query).parameter.as_deref(), Some("app"), "{query}");
        }
    }

    #[test]
    fn times_are_read_in_both_forms() {
        for (text, micros) in [
            ("0", Some(0)),
            ("1764500000", Some(1_764_500_000_000_000)),
            ("1970-01-01T00:00:01Z", Some(1_000_000)),
            ("1970-01-01T01:00:01.000002+01:00", Some(1_000_002)),
            ("1970-01-01t00:00:01z", Some(1_000_000)),
            ("1970-01-01", None),
            ("1970-01-01T01:00:01 01:00", None),
            ("9223372036854775807", None),
            ("yesterday", None),
        ] {
            assert_eq!(time(text), micros.map(Micros), "{text}");
        }
    }
}
