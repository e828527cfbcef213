//! Converts raw values into typed ones; a value that does not fit becomes a finding.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;

use super::findings::{Findings, Origin};
use super::sources::{Raw, Sources};
use super::{
    Activity, HeaderEncoding, ListenAddr, LogFormat, PathMatching, Secret, StrategyChoice,
    StreamWakes,
};

/// Longest duration that is accepted. Longer ones have a wrong unit, and
/// times far ahead can leave the range of the clock.
const LONGEST: Duration = Duration::from_hours(366 * 24);

/// What is wrong with a value and what to do about it.
#[derive(Debug)]
pub(super) struct ValueError {
    problem: String,
    hint: String,
}

/// A type that a key can have.
pub(super) trait Setting: Sized {
    fn read(raw: &Raw) -> Result<Self, ValueError>;
}

/// Reads keys one by one and collects the problems of their values.
#[derive(Debug)]
pub(super) struct Reader {
    sources: Sources,
    findings: Findings,
    #[cfg(test)]
    pub(super) keys_read: std::collections::BTreeSet<&'static str>,
}

impl Reader {
    pub(super) fn new(sources: Sources, findings: Findings) -> Self {
        Self {
            sources,
            findings,
            #[cfg(test)]
            keys_read: std::collections::BTreeSet::new(),
        }
    }

    /// Returns the value of a key if one is given and valid.
    pub(super) fn get<T: Setting>(&mut self, key: &'static str) -> Option<T> {
        #[cfg(test)]
        self.keys_read.insert(key);
        let (origin, raw) = self.sources.get(key)?;
        match T::read(raw) {
            Ok(value) => Some(value),
            Err(ValueError { problem, hint }) => {
                self.findings.push(origin.clone(), key, problem, hint);
                None
            }
        }
    }

    /// Returns a secret, which is given itself or as the file that holds it, without one
    /// newline at the end.
    pub(super) fn secret(&mut self, key: &'static str, file_key: &'static str) -> Option<Secret> {
        let inline = self.get::<String>(key);
        let Some(file) = self.get::<PathBuf>(file_key) else {
            return inline.map(Secret::new);
        };
        if self.is_given(key) {
            let hint = format!("keep only one of `{key}` and `{file_key}`");
            self.refuse(file_key, "the secret is given twice", hint);
            return None;
        }
        let text = match std::fs::read_to_string(&file) {
            Ok(text) => text,
            Err(error) => {
                let problem = format!("{} cannot be read: {error}", file.display());
                self.refuse(file_key, problem, "name a readable text file that holds the secret");
                return None;
            }
        };
        let text = text.strip_suffix('\n').unwrap_or(&text);
        let text = text.strip_suffix('\r').unwrap_or(text);
        if text.is_empty() {
            let problem = format!("{} is empty", file.display());
            self.refuse(file_key, problem, "write the secret into it");
            return None;
        }
        Some(Secret::new(text))
    }

    pub(super) fn is_given(&self, key: &str) -> bool {
        self.sources.get(key).is_some()
    }

    /// Adds a finding about a key; its origin is the key's own.
    pub(super) fn refuse(
        &mut self,
        key: &'static str,
        problem: impl Into<String>,
        hint: impl Into<String>,
    ) {
        self.refuse_because(key, key, problem, hint);
    }

    /// Adds a finding about a key that another key causes.
    pub(super) fn refuse_because(
        &mut self,
        key: &'static str,
        cause: &str,
        problem: impl Into<String>,
        hint: impl Into<String>,
    ) {
        let origin = [key, cause].into_iter().find_map(|key| self.sources.get(key));
        let origin = origin.map_or(Origin::Default, |(origin, _)| origin.clone());
        self.findings.push(origin, key, problem, hint);
    }

    pub(super) fn into_findings(self) -> Findings {
        self.findings
    }
}

impl ValueError {
    fn new(problem: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { problem: problem.into(), hint: hint.into() }
    }

    fn wrong_type(raw: &Raw, expected: &str, example: &str) -> Self {
        Self::new(
            format!("expected {expected}, found {}", raw.type_name()),
            format!("write a value such as `{example}`"),
        )
    }
}

impl Setting for String {
    fn read(raw: &Raw) -> Result<Self, ValueError> {
        match raw {
            Raw::Text(text) | Raw::Variable(text) if text.trim().is_empty() => {
                Err(ValueError::new("is empty", "give a value or remove the key"))
            }
            Raw::Text(text) | Raw::Variable(text) => Ok(text.clone()),
            other => Err(ValueError::wrong_type(other, "text", "\"...\"")),
        }
    }
}

impl Setting for PathBuf {
    fn read(raw: &Raw) -> Result<Self, ValueError> {
        String::read(raw).map(Self::from)
    }
}

impl Setting for bool {
    fn read(raw: &Raw) -> Result<Self, ValueError> {
        match raw {
            Raw::Boolean(value) => Ok(*value),
            Raw::Variable(text) => text.parse().map_err(|_| {
                ValueError::new(format!("invalid boolean `{text}`"), "write `true` or `false`")
            }),
            other => Err(ValueError::wrong_type(other, "a boolean", "true")),
        }
    }
}

/// A whole number within bounds; both ends are allowed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Count<const MIN: u64, const MAX: u64>(pub(super) u64);

impl<const MIN: u64, const MAX: u64> Setting for Count<MIN, MAX> {
    fn read(raw: &Raw) -> Result<Self, ValueError> {
        let (Raw::Integer(text) | Raw::Variable(text)) = raw else {
            return Err(ValueError::wrong_type(raw, "an integer", "20"));
        };
        match text.parse() {
            Ok(number) if (MIN..=MAX).contains(&number) => Ok(Self(number)),
            _ => Err(ValueError::new(
                format!("`{text}` is out of range"),
                format!("use a whole number from {MIN} to {MAX}"),
            )),
        }
    }
}

impl Setting for Duration {
    fn read(raw: &Raw) -> Result<Self, ValueError> {
        const UNITS: &str = "write a number and a unit, such as `10s`, `500ms` or `1h 30m`";
        let text = match raw {
            Raw::Text(text) | Raw::Variable(text) => text.trim(),
            Raw::Integer(number) => {
                let hint = format!("write it with a unit, such as `\"{number}s\"`");
                return Err(ValueError::new(format!("`{number}` has no unit"), hint));
            }
            other => return Err(ValueError::wrong_type(other, "a duration", "\"10s\"")),
        };
        if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
            let hint = format!("write it with a unit, such as `{text}s`");
            return Err(ValueError::new(format!("`{text}` has no unit"), hint));
        }
        match humantime::parse_duration(text) {
            Ok(Self::ZERO) => Err(ValueError::new("is zero", "use a duration above zero")),
            Ok(duration) if duration > LONGEST => {
                Err(ValueError::new(format!("`{text}` is too long"), "use one year at most"))
            }
            Ok(duration) => Ok(duration),
            Err(_) => Err(ValueError::new(format!("invalid duration `{text}`"), UNITS)),
        }
    }
}

impl Setting for ListenAddr {
    fn read(raw: &Raw) -> Result<Self, ValueError> {
        let text = String::read(raw)?;
        text.parse().map_err(|hint| ValueError::new(format!("invalid address `{text}`"), hint))
    }
}

/// A DNS name, lower-cased, without a dot at its end.
#[derive(Debug, Clone)]
pub(super) struct HostName(pub(super) String);

impl Setting for HostName {
    fn read(raw: &Raw) -> Result<Self, ValueError> {
        let text = String::read(raw)?;
        text.parse().map_err(|()| {
            let hint = "write only the name, such as `box.example`, without scheme, port or path";
            ValueError::new(format!("invalid host name `{text}`"), hint)
        })
    }
}

impl FromStr for HostName {
    type Err = ();

    /// Accepts labels as in RFC 1123 section 2.1, and the underscore of Docker's names.
    fn from_str(text: &str) -> Result<Self, ()> {
        let name = text.strip_suffix('.').unwrap_or(text);
        let fits = |label: &str| {
            (1..=63).contains(&label.len())
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
        };
        if name.len() <= 253 && name.split('.').all(fits) {
            Ok(Self(name.to_ascii_lowercase()))
        } else {
            Err(())
        }
    }
}

/// Names and addresses for which a certificate is issued.
#[derive(Debug)]
pub(super) struct CertificateNames(pub(super) Vec<String>);

impl Setting for CertificateNames {
    fn read(raw: &Raw) -> Result<Self, ValueError> {
        let names = list(raw, "[\"nightporter\", \"127.0.0.1\"]")?.into_iter().map(|text| {
            if text.parse::<std::net::IpAddr>().is_ok() {
                return Ok(text);
            }
            let name = text.parse::<HostName>().map_err(|()| {
                let hint = "use host names and IP addresses";
                ValueError::new(format!("invalid host name `{text}`"), hint)
            })?;
            Ok(name.0)
        });
        names.collect::<Result<_, _>>().map(Self)
    }
}

impl Setting for Vec<IpNet> {
    fn read(raw: &Raw) -> Result<Self, ValueError> {
        let networks = list(raw, "[\"127.0.0.0/8\", \"192.168.1.5\"]")?.into_iter().map(|text| {
            let network: Result<IpNet, _> = text.parse();
            network.or_else(|_| text.parse::<std::net::IpAddr>().map(IpNet::from)).map_err(|_| {
                let hint = "write networks as `10.0.0.0/8` and single addresses as `10.1.2.3`";
                ValueError::new(format!("invalid network `{text}`"), hint)
            })
        });
        networks.collect()
    }
}

/// Returns a list with at least one item; in a variable, commas separate the items.
fn list(raw: &Raw, example: &str) -> Result<Vec<String>, ValueError> {
    let items = match raw {
        Raw::List(items) => items.iter().map(String::read).collect::<Result<Vec<_>, _>>()?,
        Raw::Variable(text) => {
            let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
            items.map(str::to_owned).collect()
        }
        other => return Err(ValueError::wrong_type(other, "a list", example)),
    };
    if items.is_empty() {
        let hint = format!("write a list such as `{example}`, or remove the key for the default");
        return Err(ValueError::new("is empty", hint));
    }
    Ok(items)
}

/// A list of texts that are not validated further.
#[derive(Debug)]
pub(super) struct Names(pub(super) Vec<String>);

impl Setting for Names {
    fn read(raw: &Raw) -> Result<Self, ValueError> {
        list(raw, "[\"one\", \"two\"]").map(Self)
    }
}

/// A program and its first arguments, as one text or as a list.
#[derive(Debug)]
pub(super) struct Program(pub(super) Vec<String>);

impl Setting for Program {
    fn read(raw: &Raw) -> Result<Self, ValueError> {
        if matches!(raw, Raw::List(_)) {
            return list(raw, "[\"docker\", \"compose\"]").map(Self);
        }
        let words = String::read(raw)?;
        Ok(Self(words.split_whitespace().map(str::to_owned).collect()))
    }
}

/// A number of bytes, with or without a binary unit.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bytes(pub(super) u64);

impl Setting for Bytes {
    fn read(raw: &Raw) -> Result<Self, ValueError> {
        const UNITS: [(&str, u32); 4] = [("KiB", 10), ("MiB", 20), ("GiB", 30), ("B", 0)];
        let (Raw::Text(text) | Raw::Variable(text) | Raw::Integer(text)) = raw else {
            return Err(ValueError::wrong_type(raw, "a number of bytes", "\"1 GiB\""));
        };
        let unit = UNITS.iter().find_map(|(unit, shift)| Some((text.strip_suffix(unit)?, *shift)));
        let (number, shift) = unit.unwrap_or((text, 0));
        let number: Option<u64> = number.trim().parse().ok();
        let bytes = number.and_then(|number| number.checked_mul(1 << shift));
        bytes.map(Self).ok_or_else(|| {
            let hint = "write a whole number and KiB, MiB or GiB, such as `1 GiB`";
            ValueError::new(format!("invalid number of bytes `{text}`"), hint)
        })
    }
}

/// The address of an engine, without the certificates for TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum DockerHost {
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
    fn read(raw: &Raw) -> Result<Self, ValueError> {
        let text = String::read(raw)?;
        text.parse()
            .map_err(|hint: &str| ValueError::new(format!("invalid engine address `{text}`"), hint))
    }
}

impl Setting for StrategyChoice {
    fn read(raw: &Raw) -> Result<Self, ValueError> {
        choice(raw, &StrategyChoice::WORDS)
    }
}

impl Setting for StreamWakes {
    fn read(raw: &Raw) -> Result<Self, ValueError> {
        choice(raw, &StreamWakes::WORDS)
    }
}

impl Setting for Activity {
    fn read(raw: &Raw) -> Result<Self, ValueError> {
        let text = String::read(raw)?;
        Self::named(&text).ok_or_else(|| {
            let hint = "use `traffic`, `exec` and `cpu`, joined by `+`, or `none`";
            ValueError::new(format!("invalid activity `{text}`"), hint)
        })
    }
}

/// `["notes=hold", "wiki=pass"]`.
#[derive(Debug)]
pub(super) struct ByApp<T>(pub(super) BTreeMap<String, T>);

impl<T: Setting> Setting for ByApp<T> {
    fn read(raw: &Raw) -> Result<Self, ValueError> {
        let apps = list(raw, "[\"notes=hold\"]")?.into_iter().map(|text| {
            let Some((app, word)) = text.split_once('=') else {
                let hint = "write the app's name, `=` and the value for the app";
                return Err(ValueError::new(format!("`{text}` has no `=`"), hint));
            };
            let word = Raw::Text(word.trim().to_owned());
            Ok((app.trim().to_owned(), T::read(&word)?))
        });
        apps.collect::<Result<_, _>>().map(Self)
    }
}

/// `http://host:port`, without a path.
#[derive(Debug)]
pub(super) struct UpstreamUrl(pub(super) http::Uri);

impl Setting for UpstreamUrl {
    fn read(raw: &Raw) -> Result<Self, ValueError> {
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
        url.map(Self).ok_or_else(|| {
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
pub(super) enum Kind {
    Files,
    Postgres,
}

impl Setting for Kind {
    fn read(raw: &Raw) -> Result<Self, ValueError> {
        choice(raw, &[("files", Self::Files), ("postgres", Self::Postgres)])
    }
}

impl Setting for PathMatching {
    fn read(raw: &Raw) -> Result<Self, ValueError> {
        choice(raw, &[("prefix", Self::Prefix), ("segment", Self::Segment)])
    }
}

impl Setting for HeaderEncoding {
    fn read(raw: &Raw) -> Result<Self, ValueError> {
        choice(raw, &[("latin1", Self::Latin1), ("utf8", Self::Utf8)])
    }
}

impl Setting for LogFormat {
    fn read(raw: &Raw) -> Result<Self, ValueError> {
        choice(raw, &[("text", Self::Text), ("json", Self::Json)])
    }
}

/// A filter that the log's own parser accepts.
#[derive(Debug)]
pub(super) struct LogFilter(pub(super) String);

impl Setting for LogFilter {
    fn read(raw: &Raw) -> Result<Self, ValueError> {
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
            Ok(_) => Ok(Self(text)),
            Err(error) => Err(ValueError::new(format!("invalid filter `{text}`: {error}"), HINT)),
        }
    }
}
