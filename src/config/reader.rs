//! Raw values into typed ones; what does not fit becomes a finding.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;

use super::findings::{Findings, Origin};
use super::given::{Given, Raw};
use super::{
    Activity, HeaderEncoding, ListenAddr, LogFormat, PathMatching, Secret, StrategyChoice,
    StreamWakes,
};

/// Longest duration that is accepted. Longer ones are slips of the unit, and
/// times far ahead can leave the range of the clock.
const LONGEST: Duration = Duration::from_hours(366 * 24);

/// What is wrong with a value and what to do.
#[derive(Debug)]
pub(super) struct Refusal {
    problem: String,
    hint: String,
}

/// A type that a key can have.
pub(super) trait Setting: Sized {
    fn read(raw: &Raw) -> Result<Self, Refusal>;
}

/// Reads keys one by one and collects what is wrong with them.
#[derive(Debug)]
pub(super) struct Reader {
    given: Given,
    findings: Findings,
    #[cfg(test)]
    pub(super) asked: std::collections::BTreeSet<&'static str>,
}

impl Reader {
    pub(super) fn new(given: Given, findings: Findings) -> Self {
        Self {
            given,
            findings,
            #[cfg(test)]
            asked: std::collections::BTreeSet::new(),
        }
    }

    /// The value of a key, where one is given that fits.
    pub(super) fn get<T: Setting>(&mut self, key: &'static str) -> Option<T> {
        #[cfg(test)]
        self.asked.insert(key);
        let (origin, raw) = self.given.get(key)?;
        match T::read(raw) {
            Ok(value) => Some(value),
            Err(Refusal { problem, hint }) => {
                self.findings.push(origin.clone(), key, problem, hint);
                None
            }
        }
    }

    /// A secret: given itself, or as the file that holds it, less one newline
    /// at the end.
    pub(super) fn secret(&mut self, key: &'static str, file_key: &'static str) -> Option<Secret> {
        let given = self.get::<String>(key);
        let Some(file) = self.get::<PathBuf>(file_key) else {
            return given.map(Secret::new);
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
        self.given.get(key).is_some()
    }

    /// Notes a finding about a key; its origin is the key's own.
    pub(super) fn refuse(
        &mut self,
        key: &'static str,
        problem: impl Into<String>,
        hint: impl Into<String>,
    ) {
        self.refuse_because(key, key, problem, hint);
    }

    /// Notes a finding about a key that was brought about by another one.
    pub(super) fn refuse_because(
        &mut self,
        key: &'static str,
        cause: &str,
        problem: impl Into<String>,
        hint: impl Into<String>,
    ) {
        let origin = [key, cause].into_iter().find_map(|key| self.given.get(key));
        let origin = origin.map_or(Origin::Default, |(origin, _)| origin.clone());
        self.findings.push(origin, key, problem, hint);
    }

    pub(super) fn into_findings(self) -> Findings {
        self.findings
    }
}

impl Refusal {
    fn new(problem: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { problem: problem.into(), hint: hint.into() }
    }

    fn of_type(raw: &Raw, expected: &str, example: &str) -> Self {
        Self::new(
            format!("expected {expected}, found {}", raw.type_name()),
            format!("write it as in `{example}`"),
        )
    }
}

impl Setting for String {
    fn read(raw: &Raw) -> Result<Self, Refusal> {
        match raw {
            Raw::Text(text) | Raw::Variable(text) if text.trim().is_empty() => {
                Err(Refusal::new("is empty", "give a value or remove the key"))
            }
            Raw::Text(text) | Raw::Variable(text) => Ok(text.clone()),
            other => Err(Refusal::of_type(other, "text", "\"...\"")),
        }
    }
}

impl Setting for PathBuf {
    fn read(raw: &Raw) -> Result<Self, Refusal> {
        String::read(raw).map(Self::from)
    }
}

impl Setting for bool {
    fn read(raw: &Raw) -> Result<Self, Refusal> {
        match raw {
            Raw::Boolean(value) => Ok(*value),
            Raw::Variable(text) => text.parse().map_err(|_| {
                Refusal::new(format!("`{text}` is no boolean"), "write `true` or `false`")
            }),
            other => Err(Refusal::of_type(other, "a boolean", "true")),
        }
    }
}

/// A whole number within bounds; both ends are allowed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Count<const MIN: u64, const MAX: u64>(pub(super) u64);

impl<const MIN: u64, const MAX: u64> Setting for Count<MIN, MAX> {
    fn read(raw: &Raw) -> Result<Self, Refusal> {
        let (Raw::Integer(text) | Raw::Variable(text)) = raw else {
            return Err(Refusal::of_type(raw, "an integer", "20"));
        };
        match text.parse() {
            Ok(number) if (MIN..=MAX).contains(&number) => Ok(Self(number)),
            _ => Err(Refusal::new(
                format!("`{text}` is out of range"),
                format!("use a whole number from {MIN} to {MAX}"),
            )),
        }
    }
}

impl Setting for Duration {
    fn read(raw: &Raw) -> Result<Self, Refusal> {
        const UNITS: &str = "write a number and a unit, as in `10s`, `500ms` or `1h 30m`";
        let text = match raw {
            Raw::Text(text) | Raw::Variable(text) => text.trim(),
            Raw::Integer(number) => {
                let hint = format!("write it with a unit, as in `\"{number}s\"`");
                return Err(Refusal::new(format!("`{number}` has no unit"), hint));
            }
            other => return Err(Refusal::of_type(other, "a duration", "\"10s\"")),
        };
        if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
            let hint = format!("write it with a unit, as in `{text}s`");
            return Err(Refusal::new(format!("`{text}` has no unit"), hint));
        }
        match humantime::parse_duration(text) {
            Ok(Self::ZERO) => Err(Refusal::new("is zero", "use a duration longer than nothing")),
            Ok(duration) if duration > LONGEST => {
                Err(Refusal::new(format!("`{text}` is too long"), "use a year at most"))
            }
            Ok(duration) => Ok(duration),
            Err(_) => Err(Refusal::new(format!("`{text}` is no duration"), UNITS)),
        }
    }
}

impl Setting for ListenAddr {
    fn read(raw: &Raw) -> Result<Self, Refusal> {
        let text = String::read(raw)?;
        text.parse().map_err(|hint| Refusal::new(format!("`{text}` is no address"), hint))
    }
}

/// A DNS name, lower-cased, without a dot at its end.
#[derive(Debug, Clone)]
pub(super) struct HostName(pub(super) String);

impl Setting for HostName {
    fn read(raw: &Raw) -> Result<Self, Refusal> {
        let text = String::read(raw)?;
        text.parse().map_err(|()| {
            let hint = "write the name alone, as in `box.example`, with no scheme, port or path";
            Refusal::new(format!("`{text}` is no host name"), hint)
        })
    }
}

impl FromStr for HostName {
    type Err = ();

    /// Labels as in RFC 1123 section 2.1, and the underscore that Docker's names have.
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

/// Names and addresses that a certificate is made for.
#[derive(Debug)]
pub(super) struct CertificateNames(pub(super) Vec<String>);

impl Setting for CertificateNames {
    fn read(raw: &Raw) -> Result<Self, Refusal> {
        let names = list(raw, "[\"nightporter\", \"127.0.0.1\"]")?.into_iter().map(|text| {
            if text.parse::<std::net::IpAddr>().is_ok() {
                return Ok(text);
            }
            let name = text.parse::<HostName>().map_err(|()| {
                let hint = "use host names and IP addresses";
                Refusal::new(format!("`{text}` is no host name"), hint)
            })?;
            Ok(name.0)
        });
        names.collect::<Result<_, _>>().map(Self)
    }
}

impl Setting for Vec<IpNet> {
    fn read(raw: &Raw) -> Result<Self, Refusal> {
        let networks = list(raw, "[\"127.0.0.0/8\", \"192.168.1.5\"]")?.into_iter().map(|text| {
            let network: Result<IpNet, _> = text.parse();
            network.or_else(|_| text.parse::<std::net::IpAddr>().map(IpNet::from)).map_err(|_| {
                let hint = "write networks as `10.0.0.0/8` and single addresses as `10.1.2.3`";
                Refusal::new(format!("`{text}` is no network"), hint)
            })
        });
        networks.collect()
    }
}

/// A list with at least one item; a variable separates them by commas.
fn list(raw: &Raw, example: &str) -> Result<Vec<String>, Refusal> {
    let items = match raw {
        Raw::List(items) => items.iter().map(String::read).collect::<Result<Vec<_>, _>>()?,
        Raw::Variable(text) => {
            let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
            items.map(str::to_owned).collect()
        }
        other => return Err(Refusal::of_type(other, "a list", example)),
    };
    if items.is_empty() {
        let hint = format!("write it as in `{example}`, or remove the key for the default");
        return Err(Refusal::new("is empty", hint));
    }
    Ok(items)
}

/// A list of texts, as they are.
#[derive(Debug)]
pub(super) struct Names(pub(super) Vec<String>);

impl Setting for Names {
    fn read(raw: &Raw) -> Result<Self, Refusal> {
        list(raw, "[\"one\", \"two\"]").map(Self)
    }
}

/// A program and its first arguments, as one text or as a list.
#[derive(Debug)]
pub(super) struct Program(pub(super) Vec<String>);

impl Setting for Program {
    fn read(raw: &Raw) -> Result<Self, Refusal> {
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
    fn read(raw: &Raw) -> Result<Self, Refusal> {
        const UNITS: [(&str, u32); 4] = [("KiB", 10), ("MiB", 20), ("GiB", 30), ("B", 0)];
        let (Raw::Text(text) | Raw::Variable(text) | Raw::Integer(text)) = raw else {
            return Err(Refusal::of_type(raw, "a number of bytes", "\"1 GiB\""));
        };
        let unit = UNITS.iter().find_map(|(unit, shift)| Some((text.strip_suffix(unit)?, *shift)));
        let (number, shift) = unit.unwrap_or((text, 0));
        let number: Option<u64> = number.trim().parse().ok();
        let bytes = number.and_then(|number| number.checked_mul(1 << shift));
        bytes.map(Self).ok_or_else(|| {
            let hint = "write a whole number and KiB, MiB or GiB, as in `1 GiB`";
            Refusal::new(format!("`{text}` is no number of bytes"), hint)
        })
    }
}

/// Where an engine listens, without what TLS needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum DockerHost {
    Unix(PathBuf),
    Tcp(String),
}

impl FromStr for DockerHost {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const HINT: &str = "write it as in `unix:///var/run/docker.sock` or `tcp://127.0.0.1:2375`";
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
    fn read(raw: &Raw) -> Result<Self, Refusal> {
        let text = String::read(raw)?;
        text.parse().map_err(|hint: &str| {
            Refusal::new(format!("`{text}` is no address of an engine"), hint)
        })
    }
}

impl Setting for StrategyChoice {
    fn read(raw: &Raw) -> Result<Self, Refusal> {
        choice(raw, &StrategyChoice::WORDS)
    }
}

impl Setting for StreamWakes {
    fn read(raw: &Raw) -> Result<Self, Refusal> {
        choice(raw, &StreamWakes::WORDS)
    }
}

impl Setting for Activity {
    fn read(raw: &Raw) -> Result<Self, Refusal> {
        let text = String::read(raw)?;
        Self::named(&text).ok_or_else(|| {
            let hint = "use `traffic`, `exec` and `cpu`, joined by `+`, or `none`";
            Refusal::new(format!("`{text}` is no activity"), hint)
        })
    }
}

/// `["notes=hold", "wiki=pass"]`.
#[derive(Debug)]
pub(super) struct ByApp<T>(pub(super) BTreeMap<String, T>);

impl<T: Setting> Setting for ByApp<T> {
    fn read(raw: &Raw) -> Result<Self, Refusal> {
        let apps = list(raw, "[\"notes=hold\"]")?.into_iter().map(|text| {
            let Some((app, word)) = text.split_once('=') else {
                let hint = "write the app's name, `=` and what is to hold for it";
                return Err(Refusal::new(format!("`{text}` has no `=`"), hint));
            };
            let word = Raw::Text(word.trim().to_owned());
            Ok((app.trim().to_owned(), T::read(&word)?))
        });
        apps.collect::<Result<_, _>>().map(Self)
    }
}

/// `http://host:port`, with nothing behind it.
#[derive(Debug)]
pub(super) struct UpstreamUrl(pub(super) http::Uri);

impl Setting for UpstreamUrl {
    fn read(raw: &Raw) -> Result<Self, Refusal> {
        let text = String::read(raw)?;
        if text.contains('@') {
            // A password in it would stand in every line about the upstream.
            let hint = "remove all up to the `@`: the upstream is told no password";
            return Err(Refusal::new("names a user", hint));
        }
        let url = text.parse::<http::Uri>().ok().filter(|url| {
            url.scheme_str() == Some("http")
                && url.host().is_some()
                && url.path() == "/"
                && url.query().is_none()
        });
        url.map(Self).ok_or_else(|| {
            let hint = "write it as in `http://shard_core:80`, without a path";
            Refusal::new(format!("`{text}` is no URL of an upstream"), hint)
        })
    }
}

/// One of a few words.
fn choice<T: Copy>(raw: &Raw, words: &[(&str, T)]) -> Result<T, Refusal> {
    let text = String::read(raw)?;
    let found = words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
    found.ok_or_else(|| {
        let words: Vec<_> = words.iter().map(|(word, _)| format!("`{word}`")).collect();
        Refusal::new(format!("`{text}` is not known"), format!("use {}", words.join(" or ")))
    })
}

/// `store.kind`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Files,
    Postgres,
}

impl Setting for Kind {
    fn read(raw: &Raw) -> Result<Self, Refusal> {
        choice(raw, &[("files", Self::Files), ("postgres", Self::Postgres)])
    }
}

impl Setting for PathMatching {
    fn read(raw: &Raw) -> Result<Self, Refusal> {
        choice(raw, &[("prefix", Self::Prefix), ("segment", Self::Segment)])
    }
}

impl Setting for HeaderEncoding {
    fn read(raw: &Raw) -> Result<Self, Refusal> {
        choice(raw, &[("latin1", Self::Latin1), ("utf8", Self::Utf8)])
    }
}

impl Setting for LogFormat {
    fn read(raw: &Raw) -> Result<Self, Refusal> {
        choice(raw, &[("text", Self::Text), ("json", Self::Json)])
    }
}

/// A filter that the log's own parser takes.
#[derive(Debug)]
pub(super) struct LogFilter(pub(super) String);

impl Setting for LogFilter {
    fn read(raw: &Raw) -> Result<Self, Refusal> {
        const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
        const HINT: &str =
            "use off, error, warn, info, debug or trace, or a filter as `info,nightporter=debug`";
        let text = String::read(raw)?;
        // The parser takes a misspelt level for a module's name and logs all of it.
        let misspelt = text.split(',').map(str::trim).find(|part| {
            !part.contains(['=', '[', ':']) && !LEVELS.contains(&part.to_lowercase().as_str())
        });
        if let Some(word) = misspelt {
            return Err(Refusal::new(format!("`{word}` is no level"), HINT));
        }
        match tracing_subscriber::EnvFilter::try_new(&text) {
            Ok(_) => Ok(Self(text)),
            Err(error) => Err(Refusal::new(format!("`{text}` is no filter: {error}"), HINT)),
        }
    }
}
