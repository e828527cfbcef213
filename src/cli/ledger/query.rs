//! Which records are asked for, on the command line and in the query of a request.

use std::time::SystemTime;

use clap::Args;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

/// Which records are shown; all of them if nothing is given.
#[derive(Debug, Clone, Args)]
pub(in crate::cli) struct Filter {
    /// Only records of this app
    #[arg(long)]
    app: Option<String>,
    /// Only records of the terminal or peer with this id
    #[arg(long, value_name = "ID")]
    client: Option<String>,
    /// Only records of this kind: visit, grants, denials, wake, sleep, act, job, loss, cut
    #[arg(long)]
    kind: Option<String>,
    /// Only records with this verdict: grant, deny, asleep, `kept_asleep`, done, failed, ...
    #[arg(long)]
    verdict: Option<String>,
    /// Only records with this reason, such as `terminal_required` or idle
    #[arg(long)]
    reason: Option<String>,
    /// Only what happened since then: a time span such as 12h, or a time as in RFC 3339
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Only what happened before: a time span such as 1h, or a time as in RFC 3339
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
}

/// A query that is being written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Query(String);

impl Filter {
    pub(super) fn query(&self, now: SystemTime) -> Query {
        let Self { app, client, kind, verdict, reason, since, until } = self;
        let time = |time: &Option<String>| time.as_deref().map(|text| absolute(text, now));
        let mut query = Query::default();
        for (name, value) in [
            ("app", app.clone()),
            ("client", client.clone()),
            ("kind", kind.clone()),
            ("verdict", verdict.clone()),
            ("reason", reason.clone()),
            ("from", time(since)),
            ("to", time(until)),
        ] {
            if let Some(value) = value {
                query.add(name, &value);
            }
        }
        query
    }
}

impl Query {
    pub(super) fn add(&mut self, name: &str, value: &str) {
        self.0.push(if self.0.is_empty() { '?' } else { '&' });
        self.0.push_str(name);
        self.0.push('=');
        self.0.extend(utf8_percent_encode(value, NON_ALPHANUMERIC));
    }

    /// Returns the path with this query.
    pub(super) fn append_to(&self, path: &str) -> String {
        format!("{path}{}", self.0)
    }
}

/// Turns a time span into the time that long ago. Any other text is passed on: the process
/// that is asked says what is wrong with it.
fn absolute(text: &str, now: SystemTime) -> String {
    let ago = humantime::parse_duration(text).ok().and_then(|ago| now.checked_sub(ago));
    match ago {
        Some(at) if at >= SystemTime::UNIX_EPOCH => {
            humantime::format_rfc3339_micros(at).to_string()
        }
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_filter_becomes_a_query() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(86_400);
        let filter = Filter {
            app: Some("a&b".into()),
            client: None,
            kind: Some("visit".into()),
            verdict: None,
            reason: None,
            since: Some("12h".into()),
            until: Some("1970-01-01T23:00:00+01:00".into()),
        };
        assert_eq!(
            filter.query(now).append_to("/v1/requests"),
            "/v1/requests?app=a%26b&kind=visit&from=1970%2D01%2D01T12%3A00%3A00%2E000000Z\
             &to=1970%2D01%2D01T23%3A00%3A00%2B01%3A00"
        );
        assert_eq!(Query::default().append_to("/x"), "/x");
    }

    #[test]
    fn only_time_spans_within_the_calendar_are_turned_into_times() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(60);
        for (text, expected) in [
            ("1m", "1970-01-01T00:00:00.000000Z"),
            ("2m", "2m"),
            ("1970-01-01T00:00:00Z", "1970-01-01T00:00:00Z"),
            ("soon", "soon"),
        ] {
            assert_eq!(absolute(text, now), expected);
        }
    }
}
