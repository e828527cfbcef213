//! `nightporter apps`, `wake` and `sleep`: the running process is asked what its apps
//! do, and told what they are to do.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use http::Method;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use tokio::time::{sleep, timeout};

use super::client::{Answered, Listener};
use super::{Answer, Failure, NO, wait};
use crate::config::Config;

/// How often the process is asked how far it has come.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);

/// How long it may take to say how things stand; an order takes as long as it takes.
const LOOK_LIMIT: Duration = Duration::from_secs(10);

/// To the line's beginning, and all of it away (ECMA-48, CR and EL).
const CLEAR_LINE: &str = "\r\x1b[K";

#[derive(Debug, Args)]
pub(super) struct ListOptions {
    /// Print what the process answers, as JSON
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

/// What the process says of an app.
#[derive(Debug, Deserialize)]
struct App {
    name: String,
    state: String,
    since: Option<String>,
    last_use: Option<String>,
    next_sleep: Option<NextSleep>,
    last_failure: Option<LastFailure>,
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

/// What it says where it did not do what it was told.
#[derive(Debug, Deserialize)]
struct Problem {
    detail: String,
}

pub(super) fn list(options: &ListOptions, config: &Config, out: &mut dyn Write) -> Answer {
    let listener = Listener::ops(config)?;
    let (status, body) = wait(async { ask(&listener, Method::GET, "/v1/apps").await })?;
    if status != 200 {
        return Err(refused(&listener, status));
    }
    if options.json {
        out.write_all(&body)?;
        writeln!(out)?;
        return Ok(ExitCode::SUCCESS);
    }
    let apps: Vec<App> = parsed(&listener, &body)?;
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
        if let Some(hint) = &app.hint {
            writeln!(out, "{:<width$}  {hint}", "")?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn wake(options: &WakeOptions, config: &Config, out: &mut dyn Write) -> Answer {
    operate(&options.app, "wake", config, out)
}

pub(super) fn sleep_app(options: &SleepOptions, config: &Config, out: &mut dyn Write) -> Answer {
    operate(&options.app, if options.pause { "pause" } else { "sleep" }, config, out)
}

/// Gives the order and shows how far it has come until it is done.
fn operate(name: &str, operation: &str, config: &Config, out: &mut dyn Write) -> Answer {
    let listener = Listener::ops(config)?;
    let path = format!("/v1/apps/{}", utf8_percent_encode(name, NON_ALPHANUMERIC));
    let order = format!("{path}/{operation}");
    let (status, body) = wait(async {
        let progress = show_progress(&listener, &path);
        tokio::select! {
            answered = ask(&listener, Method::POST, &order) => answered,
            never = progress => match never {},
        }
    })?;
    if io::stderr().is_terminal() {
        let _ = write!(io::stderr(), "{CLEAR_LINE}");
    }
    match status {
        200 => {
            let app: App = parsed(&listener, &body)?;
            writeln!(out, "{}: {}", app.name, app.state)?;
            Ok(ExitCode::SUCCESS)
        }
        404 => {
            writeln!(out, "{name}: there is no such app")?;
            Ok(NO.into())
        }
        _ => match serde_json::from_slice::<Problem>(&body) {
            Ok(problem) if status != 401 => {
                writeln!(out, "{name}: {}", problem.detail)?;
                Ok(NO.into())
            }
            _ => Err(refused(&listener, status)),
        },
    }
}

/// One line that says how things stand, written anew whenever that changes.
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
            // Where standard error is closed there is nobody to tell.
            let _ = if is_terminal {
                write!(io::stderr(), "{CLEAR_LINE}{line}")
            } else {
                writeln!(io::stderr(), "{line}")
            };
            shown = line;
        }
    }
}

async fn ask(listener: &Listener<'_>, method: Method, path: &str) -> Result<Answered, Failure> {
    let is_look = method == Method::GET;
    let asking = listener.ask(method, path);
    let answered = if is_look {
        timeout(LOOK_LIMIT, asking).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    } else {
        asking.await
    };
    answered.map_err(|error| {
        let hint = "is `nightporter serve` running, with this configuration?";
        Failure::Told(format!("{}: {error}; {hint}", listener.addr))
    })
}

fn refused(listener: &Listener<'_>, status: u16) -> Failure {
    Failure::Told(format!("{} answers with status {status}", listener.addr))
}

fn parsed<T: serde::de::DeserializeOwned>(
    listener: &Listener<'_>,
    body: &Bytes,
) -> Result<T, Failure> {
    serde_json::from_slice(body)
        .map_err(|error| Failure::Told(format!("{} answers with {error}", listener.addr)))
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
        let asked = ask(&listener, Method::GET, "/v1/apps").await;
        let Err(Failure::Told(told)) = asked else { panic!("{asked:?}") };
        assert!(told.contains("timed out"), "{told}");
    }
}
