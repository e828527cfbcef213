//! Types with a meaning of their own: choices, addresses, values by app.

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::path::PathBuf;
use std::str::FromStr;

use http::{HeaderMap, HeaderName, HeaderValue};
use percent_encoding::percent_decode_str;

use super::{Setting, ValueError, list};
use crate::config::key::Shape;
use crate::config::raw::Raw;
use crate::config::{
    Activity, Grants, HeaderEncoding, LogFormat, PathMatching, Rule, Secret, StrategyChoice,
    StreamWakes,
};

/// The address of an engine, without the certificates for TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::config) enum DockerHost {
    Unix(PathBuf),
    Tcp(String),
}

impl FromStr for DockerHost {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const HINT: &str = "use `unix:///var/run/docker.sock`, `tcp://127.0.0.1:2375` or similar";
        if let Some(path) = text.strip_prefix("unix://") {
            return if path.starts_with('/') { Ok(Self::Unix(path.into())) } else { Err(HINT) };
        }
        let schemes = ["tcp://", "http://", "https://"];
        let address = schemes.iter().find_map(|scheme| text.strip_prefix(scheme)).ok_or(HINT)?;
        let address = address.trim_end_matches('/');
        let authority: http::uri::Authority = address.parse().map_err(|_| HINT)?;
        let port = authority.port_u16().ok_or(HINT)?;
        Ok(Self::Tcp(format!("{}:{port}", authority.host())))
    }
}

impl Setting for DockerHost {
    type Value = Self;

    const SHAPE: Shape = Shape::Pattern("^(unix|tcp|http|https)://");

    fn read(raw: &Raw) -> Result<Self, ValueError> {
        let text = String::read(raw)?;
        text.parse()
            .map_err(|hint: &str| ValueError::new(format!("invalid engine address `{text}`"), hint))
    }
}

impl Setting for Activity {
    type Value = Self;

    const SHAPE: Shape =
        Shape::Pattern(r"^ *(none|(traffic|exec|cpu) *(\+ *(traffic|exec|cpu) *)*) *$");

    fn read(raw: &Raw) -> Result<Self, ValueError> {
        let text = String::read(raw)?;
        Self::named(&text).ok_or_else(|| {
            let hint = "use `traffic`, `exec` and `cpu`, joined by `+`, or `none`";
            ValueError::new(format!("invalid activity `{text}`"), hint)
        })
    }
}

/// Names of rules of alerts.
#[derive(Debug)]
pub(in crate::config) struct AlertRules;

impl Setting for AlertRules {
    type Value = Vec<Rule>;

    const SHAPE: Shape = Shape::List;

    fn read(raw: &Raw) -> Result<Vec<Rule>, ValueError> {
        let rules = list(raw, "[\"disk_low\"]")?.into_iter().map(|name| {
            Rule::parse(&name).ok_or_else(|| {
                let names = Rule::ALL.map(Rule::as_str).join(", ");
                ValueError::new(format!("there is no rule `{name}`"), format!("use {names}"))
            })
        });
        rules.collect()
    }

    fn absent() -> Option<Vec<Rule>> {
        Some(Vec::new())
    }
}

/// `["notes=hold", "wiki=pass"]`.
#[derive(Debug)]
pub(in crate::config) struct ByApp<S>(PhantomData<S>);

impl<S: Setting> Setting for ByApp<S> {
    type Value = BTreeMap<String, S::Value>;

    const SHAPE: Shape = Shape::ListOf("=");

    fn read(raw: &Raw) -> Result<Self::Value, ValueError> {
        let apps = list(raw, "[\"notes=hold\"]")?.into_iter().map(|text| {
            let Some((app, word)) = text.split_once('=') else {
                let hint = "write the app's name, `=` and the value for the app";
                return Err(ValueError::new(format!("`{text}` has no `=`"), hint));
            };
            let word = Raw::Text(word.trim().to_owned());
            Ok((app.trim().to_owned(), S::read(&word)?))
        });
        apps.collect()
    }

    fn absent() -> Option<Self::Value> {
        Some(BTreeMap::new())
    }
}

/// `http://host:port`, `https://` likewise, and a path if the collector has one.
#[derive(Debug)]
pub(in crate::config) struct OtlpUrl;

impl Setting for OtlpUrl {
    type Value = http::Uri;

    const SHAPE: Shape = Shape::Pattern("^https?://[^@?#]+$");

    fn read(raw: &Raw) -> Result<http::Uri, ValueError> {
        let text = String::read(raw)?;
        if text.contains('@') {
            // A password in the URL would appear in log lines.
            let hint = "remove everything up to the `@`, and give `telemetry.otlp_headers_file`";
            return Err(ValueError::new("names a user", hint));
        }
        let url = text.parse::<http::Uri>().ok().filter(|url| {
            matches!(url.scheme_str(), Some("http" | "https"))
                && url.host().is_some_and(|host| !host.is_empty())
                && url.query().is_none()
                && !text.contains('#')
        });
        url.ok_or_else(|| {
            let hint = "write a URL such as `http://localhost:4318`; gRPC (4317) is not spoken";
            ValueError::new(format!("invalid collector URL `{text}`"), hint)
        })
    }
}

/// `Authorization=Bearer%20token,other=value`, as in `OTEL_EXPORTER_OTLP_HEADERS`.
#[derive(Debug)]
pub(in crate::config) struct OtlpHeaders;

impl Setting for OtlpHeaders {
    type Value = Secret;

    const SHAPE: Shape = Shape::Pattern("=");

    fn read(raw: &Raw) -> Result<Secret, ValueError> {
        let secret = Secret::read(raw)?;
        if otlp_headers(&secret).is_none() {
            let hint = "write `name=value`, several separated by commas, and percent-encode the \
                        values: a space is `%20`, a comma `%2C`";
            return Err(ValueError::new("contains something that is not a header", hint));
        }
        Ok(secret)
    }
}

/// Returns the headers of a valid text; their values are not shown when they are printed.
pub(in crate::config) fn otlp_headers(secret: &Secret) -> Option<HeaderMap> {
    let mut headers = HeaderMap::new();
    let pairs = secret.expose().split(',').map(str::trim).filter(|pair| !pair.is_empty());
    for pair in pairs {
        let (name, value) = pair.split_once('=')?;
        let name = HeaderName::from_bytes(name.trim().as_bytes()).ok()?;
        let value = percent_decode_str(value.trim()).decode_utf8().ok()?;
        let mut value = HeaderValue::from_str(&value).ok()?;
        value.set_sensitive(true);
        headers.append(name, value);
    }
    Some(headers)
}

/// `http://host:port`, without a path.
#[derive(Debug)]
pub(in crate::config) struct UpstreamUrl;

impl Setting for UpstreamUrl {
    type Value = http::Uri;

    const SHAPE: Shape = Shape::Pattern("^http://[^@]+$");

    fn read(raw: &Raw) -> Result<http::Uri, ValueError> {
        let text = String::read(raw)?;
        if text.contains('@') {
            // A password in the URL would appear in every log line about the upstream.
            let hint = "remove everything up to the `@`: no password is sent to the upstream";
            return Err(ValueError::new("names a user", hint));
        }
        let url = text.parse::<http::Uri>().ok().filter(|url| {
            url.scheme_str() == Some("http")
                && url.host().is_some()
                && url.path() == "/"
                && url.query().is_none()
        });
        url.ok_or_else(|| {
            let hint = "write a URL such as `http://shard_core:80`, without a path";
            ValueError::new(format!("invalid upstream URL `{text}`"), hint)
        })
    }
}

/// Returns the value of one of a few words.
fn choice<T: Copy>(raw: &Raw, words: &[(&str, T)]) -> Result<T, ValueError> {
    let text = String::read(raw)?;
    let found = words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
    found.ok_or_else(|| {
        let words: Vec<_> = words.iter().map(|(word, _)| format!("`{word}`")).collect();
        ValueError::new(format!("unknown value `{text}`"), format!("use {}", words.join(" or ")))
    })
}

/// `store.kind`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::config) enum Kind {
    Files,
    Postgres,
}

/// `ledger.kind`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::config) enum LedgerKind {
    Sqlite,
    Postgres,
}

/// Makes a setting of a type that has a word for each value.
macro_rules! choices {
    ($($type:ty: $words:expr;)*) => {$(
        impl Setting for $type {
            type Value = Self;

            const SHAPE: Shape = Shape::Words(|| $words.iter().map(|(word, _)| *word).collect());

            fn read(raw: &Raw) -> Result<Self, ValueError> {
                choice(raw, &$words)
            }
        }
    )*};
}

choices! {
    Kind: [("files", Self::Files), ("postgres", Self::Postgres)];
    LedgerKind: [("sqlite", Self::Sqlite), ("postgres", Self::Postgres)];
    Grants: [("rollup", Self::Rollup), ("all", Self::All), ("off", Self::Off)];
    StrategyChoice: Self::WORDS;
    StreamWakes: Self::WORDS;
    PathMatching: [("prefix", Self::Prefix), ("segment", Self::Segment)];
    HeaderEncoding: [("latin1", Self::Latin1), ("utf8", Self::Utf8)];
    LogFormat: [("text", Self::Text), ("json", Self::Json)];
}

/// A filter that the log's own parser accepts.
#[derive(Debug)]
pub(in crate::config) struct LogFilter;

impl Setting for LogFilter {
    type Value = String;

    const SHAPE: Shape = Shape::Text;

    fn read(raw: &Raw) -> Result<String, ValueError> {
        const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
        const HINT: &str =
            "use off, error, warn, info, debug, trace or a filter such as `info,nightporter=debug`";
        let text = String::read(raw)?;
        // The parser takes a misspelt level for a module's name and logs everything in it.
        let misspelt = text.split(',').map(str::trim).find(|part| {
            !part.contains(['=', '[', ':']) && !LEVELS.contains(&part.to_lowercase().as_str())
        });
        if let Some(word) = misspelt {
            return Err(ValueError::new(format!("invalid level `{word}`"), HINT));
        }
        match tracing_subscriber::EnvFilter::try_new(&text) {
            Ok(_) => Ok(text),
            Err(error) => Err(ValueError::new(format!("invalid filter `{text}`: {error}"), HINT)),
        }
    }
}
