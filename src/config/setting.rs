//! The types that a key can have: how their values are written and read.

mod messages;
mod special;

use std::marker::PhantomData;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use http::StatusCode;
use ipnet::IpNet;

use super::key::Shape;
use super::raw::Raw;
use super::{ListenAddr, Secret};

pub(super) use messages::{AllowedHosts, EventPatterns, QuietHours, ZoneName};
pub(super) use special::{
    AlertRules, ByApp, DockerHost, Kind, LedgerKind, LogFilter, OtlpHeaders, OtlpUrl, UpstreamUrl,
    otlp_headers,
};

/// Longest duration that is accepted. Longer ones have a wrong unit, and
/// times far ahead can leave the range of the clock.
const LONGEST: Duration = Duration::from_hours(366 * 24);

/// What is wrong with a value and what to do about it.
#[derive(Debug)]
pub(super) struct ValueError {
    pub(super) problem: String,
    pub(super) hint: String,
}

/// A type that a key can have. Types that are read in a way of their own are named by an
/// empty one.
pub(super) trait Setting {
    type Value;

    const SHAPE: Shape;

    fn read(raw: &Raw) -> Result<Self::Value, ValueError>;

    /// Returns what counts if there is neither a value nor a default.
    fn absent() -> Option<Self::Value> {
        None
    }
}

impl<S: Setting> Setting for Option<S> {
    type Value = Option<S::Value>;

    const SHAPE: Shape = S::SHAPE;

    fn read(raw: &Raw) -> Result<Self::Value, ValueError> {
        S::read(raw).map(Some)
    }

    fn absent() -> Option<Self::Value> {
        Some(None)
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
    type Value = Self;

    const SHAPE: Shape = Shape::Text;

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
    type Value = Self;

    const SHAPE: Shape = Shape::Text;

    fn read(raw: &Raw) -> Result<Self, ValueError> {
        String::read(raw).map(Self::from)
    }
}

impl Setting for Secret {
    type Value = Self;

    const SHAPE: Shape = Shape::Text;

    fn read(raw: &Raw) -> Result<Self, ValueError> {
        String::read(raw).map(Self::new)
    }
}

/// The path of a PEM file, which must be readable before any listener binds.
#[derive(Debug)]
pub(super) struct ReadableFile;

impl Setting for ReadableFile {
    type Value = PathBuf;

    const SHAPE: Shape = Shape::Text;

    fn read(raw: &Raw) -> Result<PathBuf, ValueError> {
        let path = PathBuf::read(raw)?;
        match std::fs::File::open(&path) {
            Ok(_) => Ok(path),
            Err(error) => {
                let problem = format!("{} cannot be read: {error}", path.display());
                Err(ValueError::new(problem, "name a readable PEM file"))
            }
        }
    }
}

impl Setting for bool {
    type Value = Self;

    const SHAPE: Shape = Shape::Boolean;

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
#[derive(Debug)]
pub(super) struct Count<T, const MIN: u64, const MAX: u64>(PhantomData<T>);

impl<T: TryFrom<u64>, const MIN: u64, const MAX: u64> Setting for Count<T, MIN, MAX> {
    type Value = T;

    const SHAPE: Shape = Shape::Integer(MIN, MAX);

    fn read(raw: &Raw) -> Result<T, ValueError> {
        let (Raw::Integer(text) | Raw::Variable(text)) = raw else {
            return Err(ValueError::wrong_type(raw, "an integer", "20"));
        };
        let number = text.parse().ok().filter(|number| (MIN..=MAX).contains(number));
        number.and_then(|number| T::try_from(number).ok()).ok_or_else(|| {
            ValueError::new(
                format!("`{text}` is out of range"),
                format!("use a whole number from {MIN} to {MAX}"),
            )
        })
    }
}

/// A percentage; 0 stands for never.
#[derive(Debug)]
pub(super) struct Percentage;

impl Setting for Percentage {
    type Value = Option<u8>;

    const SHAPE: Shape = Shape::Integer(0, 100);

    fn read(raw: &Raw) -> Result<Option<u8>, ValueError> {
        let percentage = Count::<u8, 0, 100>::read(raw)?;
        Ok(Some(percentage).filter(|percentage| *percentage > 0))
    }
}

impl Setting for StatusCode {
    type Value = Self;

    const SHAPE: Shape = Shape::Integer(200, 599);

    fn read(raw: &Raw) -> Result<Self, ValueError> {
        let number = Count::<u16, 200, 599>::read(raw)?;
        Self::from_u16(number).map_err(|error| ValueError::new(error.to_string(), "use another"))
    }
}

impl Setting for Duration {
    type Value = Self;

    const SHAPE: Shape = Shape::Pattern("[0-9] *[a-zA-Zµ]");

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
    type Value = Self;

    const SHAPE: Shape = Shape::Text;

    fn read(raw: &Raw) -> Result<Self, ValueError> {
        let text = String::read(raw)?;
        text.parse().map_err(|hint| ValueError::new(format!("invalid address `{text}`"), hint))
    }
}

/// A DNS name, lower-cased, without a dot at its end.
#[derive(Debug)]
pub(super) struct HostName;

impl Setting for HostName {
    type Value = String;

    const SHAPE: Shape = Shape::Text;

    fn read(raw: &Raw) -> Result<String, ValueError> {
        let text = String::read(raw)?;
        host_name(&text).ok_or_else(|| {
            let hint = "write only the name, such as `box.example`, without scheme, port or path";
            ValueError::new(format!("invalid host name `{text}`"), hint)
        })
    }
}

/// Accepts labels as in RFC 1123 section 2.1, and the underscore of Docker's names.
fn host_name(text: &str) -> Option<String> {
    let name = text.strip_suffix('.').unwrap_or(text);
    let fits = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    (name.len() <= 253 && name.split('.').all(fits)).then(|| name.to_ascii_lowercase())
}

/// Names and addresses for which a certificate is issued.
#[derive(Debug)]
pub(super) struct CertificateNames;

impl Setting for CertificateNames {
    type Value = Vec<String>;

    const SHAPE: Shape = Shape::List;

    fn read(raw: &Raw) -> Result<Vec<String>, ValueError> {
        let names = list(raw, "[\"nightporter\", \"127.0.0.1\"]")?.into_iter().map(|text| {
            if text.parse::<IpAddr>().is_ok() {
                return Ok(text);
            }
            host_name(&text).ok_or_else(|| {
                let hint = "use host names and IP addresses";
                ValueError::new(format!("invalid host name `{text}`"), hint)
            })
        });
        names.collect()
    }

    fn absent() -> Option<Vec<String>> {
        Some(Vec::new())
    }
}

impl Setting for Vec<IpNet> {
    type Value = Self;

    const SHAPE: Shape = Shape::List;

    fn read(raw: &Raw) -> Result<Self, ValueError> {
        let networks = list(raw, "[\"127.0.0.0/8\", \"192.168.1.5\"]")?.into_iter().map(|text| {
            let network: Result<IpNet, _> = text.parse();
            network.or_else(|_| text.parse::<IpAddr>().map(IpNet::from)).map_err(|_| {
                let hint = "write networks as `10.0.0.0/8` and single addresses as `10.1.2.3`";
                ValueError::new(format!("invalid network `{text}`"), hint)
            })
        });
        networks.collect()
    }

    fn absent() -> Option<Self> {
        Some(Self::new())
    }
}

/// Returns a list with at least one item; in a variable, commas separate the items.
fn list(raw: &Raw, example: &str) -> Result<Vec<String>, ValueError> {
    let items = match raw {
        Raw::List(items) => items.iter().map(String::read).collect::<Result<Vec<_>, _>>()?,
        Raw::Variable(text) => Raw::items(text),
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
pub(super) struct Names;

impl Setting for Names {
    type Value = Vec<String>;

    const SHAPE: Shape = Shape::List;

    fn read(raw: &Raw) -> Result<Vec<String>, ValueError> {
        list(raw, "[\"one\", \"two\"]")
    }

    fn absent() -> Option<Vec<String>> {
        Some(Vec::new())
    }
}

/// The same in lower case, for texts that are compared without regard to it.
#[derive(Debug)]
pub(super) struct LowerCase;

impl Setting for LowerCase {
    type Value = Vec<String>;

    const SHAPE: Shape = Shape::List;

    fn read(raw: &Raw) -> Result<Vec<String>, ValueError> {
        Ok(Names::read(raw)?.iter().map(|text| text.to_lowercase()).collect())
    }

    fn absent() -> Option<Vec<String>> {
        Some(Vec::new())
    }
}

/// A program and its first arguments, as one text or as a list.
#[derive(Debug)]
pub(super) struct Program;

impl Setting for Program {
    type Value = Vec<String>;

    const SHAPE: Shape = Shape::Program;

    fn read(raw: &Raw) -> Result<Vec<String>, ValueError> {
        if matches!(raw, Raw::List(_)) {
            return list(raw, "[\"docker\", \"compose\"]");
        }
        let words = String::read(raw)?;
        Ok(words.split_whitespace().map(str::to_owned).collect())
    }

    fn absent() -> Option<Vec<String>> {
        Some(Vec::new())
    }
}

/// A number of bytes, with or without a binary unit.
#[derive(Debug)]
pub(super) struct Bytes;

impl Setting for Bytes {
    type Value = u64;

    const SHAPE: Shape = Shape::Bytes;

    fn read(raw: &Raw) -> Result<u64, ValueError> {
        const UNITS: [(&str, u32); 4] = [("KiB", 10), ("MiB", 20), ("GiB", 30), ("B", 0)];
        let (Raw::Text(text) | Raw::Variable(text) | Raw::Integer(text)) = raw else {
            return Err(ValueError::wrong_type(raw, "a number of bytes", "\"1 GiB\""));
        };
        let unit = UNITS.iter().find_map(|(unit, shift)| Some((text.strip_suffix(unit)?, *shift)));
        let (number, shift) = unit.unwrap_or((text, 0));
        let number: Option<u64> = number.trim().parse().ok();
        let bytes = number.and_then(|number| number.checked_mul(1 << shift));
        bytes.ok_or_else(|| {
            let hint = "write a whole number and KiB, MiB or GiB, such as `1 GiB`";
            ValueError::new(format!("invalid number of bytes `{text}`"), hint)
        })
    }
}
