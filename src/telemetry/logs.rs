//! Logging to standard error: text for people or JSON for log collectors.

mod identified;

use std::sync::OnceLock;

use tracing_subscriber::filter::ParseError;
use tracing_subscriber::fmt::format::JsonFields;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

use self::identified::Identified;
use crate::config::{Log, LogFormat};
use crate::domain::endpoint::VerdictKind;
use crate::domain::observation::{Observation, Observer};

/// The handle of the active filter, which allows changing it while the process runs.
static FILTER: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

/// The reason why logging could not be set up or changed.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("invalid log level or filter \"{level}\": {source}")]
    Level { level: String, source: ParseError },
    #[error("logging has been set up already")]
    AlreadyInstalled,
    #[error("logging has not been set up by this program")]
    NotInstalled,
}

/// Sets up logging; possible once per process.
pub fn install(config: &Log) -> Result<(), LogError> {
    let (filter, handle) = reload::Layer::new(parse(&config.level)?);
    let format = config.format;
    let color = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let lines = fmt::layer().with_writer(std::io::stderr).with_ansi(color);
    let text = || fmt::format().with_ansi(color);
    let json = || fmt::format().with_ansi(false).json().flatten_event(true);
    let lines = match (format, config.timestamps) {
        (LogFormat::Text, true) => lines.event_format(Identified { inner: text(), format }).boxed(),
        (LogFormat::Text, false) => {
            lines.event_format(Identified { inner: text().without_time(), format }).boxed()
        }
        (LogFormat::Json, true) => lines
            .fmt_fields(JsonFields::new())
            .event_format(Identified { inner: json(), format })
            .boxed(),
        (LogFormat::Json, false) => lines
            .fmt_fields(JsonFields::new())
            .event_format(Identified { inner: json().without_time(), format })
            .boxed(),
    };
    let subscriber = Registry::default().with(filter).with(lines);
    tracing::subscriber::set_global_default(subscriber).map_err(|_| LogError::AlreadyInstalled)?;
    FILTER.set(handle).map_err(|_| LogError::AlreadyInstalled)
}

/// Logs every verdict at debug level.
#[derive(Debug)]
pub(crate) struct VerdictLog;

impl Observer for VerdictLog {
    fn observe(&self, observation: &Observation<'_>) {
        let &Observation { endpoint, verdict, app, rule, client, timings, .. } = observation;
        let message = match verdict {
            VerdictKind::Grant => "granted",
            VerdictKind::Asleep => "granted, but the app is not awake",
            VerdictKind::KeptAsleep => "granted, but not allowed to wake the app",
            VerdictKind::Deny(_) => "denied",
        };
        tracing::debug!(
            endpoint = endpoint.as_str(),
            verdict = verdict.as_str(),
            app,
            rule,
            client = client.kind(),
            took = ?timings.total,
            "{message}"
        );
    }
}

/// Changes the log level while the process runs.
pub fn set_level(level: &str) -> Result<(), LogError> {
    let filter = parse(level)?;
    let handle = FILTER.get().ok_or(LogError::NotInstalled)?;
    handle.reload(filter).map_err(|_| LogError::NotInstalled)
}

fn parse(level: &str) -> Result<EnvFilter, LogError> {
    EnvFilter::builder()
        .parse(level)
        .map_err(|source| LogError::Level { level: level.to_owned(), source })
}
