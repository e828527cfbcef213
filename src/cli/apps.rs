//! `nightporter apps`, `wake` and `sleep`: show the apps of the running process, wake them
//! and put them to sleep.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use http::Method;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use tokio::time::{sleep, timeout};

use super::client::{Listener, Response};
use super::{CliError, CommandResult, NEGATIVE, wait};
use crate::config::Config;

/// How often the process is asked for its progress.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);

/// How long the process may take to answer a GET; a command has no time limit.
const GET_TIMEOUT: Duration = Duration::from_secs(10);

/// Moves the cursor to the line's beginning and erases the line (ECMA-48, CR and EL).
const CLEAR_LINE: &str = "\r\x1b[K";

#[derive(Debug, Args)]
pub(super) struct ListOptions {
    /// Print the response of the process, as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct WakeOptions {
    /// The app's name
    app: String,
}

#[derive(Debug, Args)]
pub(super) struct SleepOptions {
    /// The app's name
    app: String,
    /// Pause it instead of stopping it
    #[arg(long)]
    pause: bool,
}

/// An app as the process describes it.
#[derive(Debug, Deserialize)]
struct App {
    name: String,
    state: String,
    since: Option<String>,
    last_use: Option<String>,
    next_sleep: Option<NextSleep>,
    last_failure: Option<LastFailure>,
    last_probe: Option<LastProbe>,
    place: Option<usize>,
    reason: Option<String>,
    hint: Option<String>,
}

#[derive(Debug, Deserialize)]
struct NextSleep {
    at: String,
    to: String,
}

#[derive(Debug, Deserialize)]
struct LastFailure {
    at: String,
    reason: String,
}

#[derive(Debug, Deserialize)]
struct LastProbe {
    at: String,
    result: String,
}

/// The type of the problem that the app did not do what was asked for; in every other case,
/// nothing was attempted.
const APP_FAILED: &str = "/problems/app-failed";

/// The body of an error response.
#[derive(Debug, Deserialize)]
struct Problem {
    r#type: String,
    detail: String,
}

pub(super) fn list(options: &ListOptions, config: &Config, out: &mut dyn Write) -> CommandResult {
    let listener = Listener::ops(config)?;
    let (status, body) = wait(async { ask(&listener, Method::GET, "/v1/apps").await })?;
    if status != 200 {
        return Err(unexpected_status(&listener, status));
    }
    if options.json {
        out.write_all(&body)?;
        writeln!(out)?;
        return Ok(ExitCode::SUCCESS);
    }
    let apps: Vec<App> = parse(&listener, &body)?;
    let width = apps.iter().map(|app| app.name.chars().count()).max().unwrap_or(0).max(3);
    writeln!(
        out,
        "{:<width$}  {:<15}  {:<20}  {:<20}  NEXT SLEEP",
        "APP", "STATE", "SINCE", "LAST USE"
    )?;
    for app in &apps {
        let next = app.next_sleep.as_ref();
        let next = next.map_or("-".into(), |next| format!("{} ({})", next.at, next.to));
        writeln!(
            out,
            "{:<width$}  {:<15}  {:<20}  {:<20}  {next}",
            app.name,
            app.state,
            app.since.as_deref().unwrap_or("-"),
            app.last_use.as_deref().unwrap_or("-"),
        )?;
        if let Some(LastFailure { at, reason }) = &app.last_failure {
            writeln!(out, "{:<width$}  failed {at}: {reason}", "")?;
        }
        if let Some(LastProbe { at, result }) = &app.last_probe
            && result != "answers"
        {
            writeln!(out, "{:<width$}  probed {at}: {result}", "")?;
        }
        if let Some(hint) = &app.hint {
            writeln!(out, "{:<width$}  {hint}", "")?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn wake(options: &WakeOptions, config: &Config, out: &mut dyn Write) -> CommandResult {
    operate(&options.app, "wake", config, out)
}

pub(super) fn sleep_app(
    options: &SleepOptions,
    config: &Config,
    out: &mut dyn Write,
) -> CommandResult {
    operate(&options.app, if options.pause { "pause" } else { "sleep" }, config, out)
}

/// Sends the command to the process and shows the progress until it is done.
fn operate(name: &str, operation: &str, config: &Config, out: &mut dyn Write) -> CommandResult {
    let listener = Listener::ops(config)?;
    let path = format!("/v1/apps/{}", utf8_percent_encode(name, NON_ALPHANUMERIC));
    let command_path = format!("{path}/{operation}");
    let (status, body) = wait(async {
        let progress = show_progress(&listener, &path);
        tokio::select! {
            response = ask(&listener, Method::POST, &command_path) => response,
            never = progress => match never {},
        }
    })?;
    if io::stderr().is_terminal() {
        let _ = write!(io::stderr(), "{CLEAR_LINE}");
    }
    match status {
        200 => {
            let app: App = parse(&listener, &body)?;
            writeln!(out, "{}: {}", app.name, app.state)?;
            Ok(ExitCode::SUCCESS)
        }
        404 => {
            writeln!(out, "{name}: no such app")?;
            Ok(NEGATIVE.into())
        }
        _ => match serde_json::from_slice::<Problem>(&body) {
            Ok(Problem { r#type, detail }) if r#type == APP_FAILED => {
                writeln!(out, "{name}: {detail}")?;
                Ok(NEGATIVE.into())
            }
            Ok(Problem { detail, .. }) if status != 401 => {
                Err(CliError::Message(format!("{name}: {detail}")))
            }
            _ => Err(unexpected_status(&listener, status)),
        },
    }
}

/// Shows the app's state in one line, which is rewritten whenever the state changes.
async fn show_progress(listener: &Listener<'_>, path: &str) -> std::convert::Infallible {
    let mut shown = String::new();
    let is_terminal = io::stderr().is_terminal();
    loop {
        sleep(PROGRESS_EVERY).await;
        let Ok((200, body)) = ask(listener, Method::GET, path).await else { continue };
        let Ok(app) = serde_json::from_slice::<App>(&body) else { continue };
        let line = match (&app.place, &app.reason) {
            (Some(place), _) => format!("{}: {}, place {place}", app.name, app.state),
            (_, Some(reason)) => format!("{}: {}, {reason}", app.name, app.state),
            _ => format!("{}: {}", app.name, app.state),
        };
        if line != shown {
            // If standard error is closed, there is nowhere to report that.
            let _ = if is_terminal {
                write!(io::stderr(), "{CLEAR_LINE}{line}")
            } else {
                writeln!(io::stderr(), "{line}")
            };
            shown = line;
        }
    }
}

async fn ask(listener: &Listener<'_>, method: Method, path: &str) -> Result<Response, CliError> {
    let is_get = method == Method::GET;
    let request = listener.ask(method, path);
    let response = if is_get {
        timeout(GET_TIMEOUT, request).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    } else {
        request.await
    };
    response.map_err(|error| {
        let hint = "is `nightporter serve` running, with this configuration?";
        CliError::Message(format!("{}: {error}; {hint}", listener.addr))
    })
}

fn unexpected_status(listener: &Listener<'_>, status: u16) -> CliError {
    CliError::Message(format!("{} answered with status {status}", listener.addr))
}

fn parse<T: serde::de::DeserializeOwned>(
    listener: &Listener<'_>,
    body: &Bytes,
) -> Result<T, CliError> {
    serde_json::from_slice(body)
        .map_err(|error| CliError::Message(format!("{}: invalid response: {error}", listener.addr)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Environment, load};

    #[tokio::test(start_paused = true)]
    async fn a_process_that_says_nothing_is_not_waited_for() {
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = silent.local_addr().expect("bound").to_string();
        let env = Environment::from([("NIGHTPORTER_OPS__LISTEN".to_owned(), address)]);
        let config = load(None, &env).expect("a configuration");
        let listener = Listener::ops(&config).expect("a port");
        let response = ask(&listener, Method::GET, "/v1/apps").await;
        let Err(CliError::Message(message)) = response else { panic!("{response:?}") };
        assert!(message.contains("timed out"), "{message}");
    }
}
