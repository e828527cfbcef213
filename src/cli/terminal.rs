//! `nightporter terminal`: manages the paired devices, which may use private apps.

use std::io::{IsTerminal as _, Write};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, Subcommand};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use qrcode::render::unicode::Dense1x2;
use qrcode::{EcLevel, QrCode};

use super::open::open;
use super::{CliError, CommandResult, NEGATIVE, act, domain, wait, wall_clock};
use crate::config::Config;
use crate::domain::app::labels::is_host_label;
use crate::domain::app::{Access, PathRule};
use crate::gate::credentials::terminal as token;
use crate::http::pages::pairing::PATH;
use crate::ledger::acts::Act;
use crate::pairing;
use crate::store::{Source, Terminal};

#[derive(Debug, Subcommand)]
pub(super) enum Action {
    /// Add a terminal: print a code that pairs a device within five minutes, or the terminal's
    /// cookie, which is not shown again. The code is the default if standard output is a terminal
    /// and `gate.pairing` is on
    Add(Add),
    /// Print id and name of every terminal
    List,
    /// Remove a terminal; its cookie is invalid at once
    Remove { id: String },
}

#[derive(Debug, Args)]
pub(super) struct Add {
    /// A name to recognize it by
    name: String,
    /// Print the terminal's cookie
    #[arg(long, conflicts_with = "code")]
    cookie: bool,
    /// Print a code and a link that pair a device
    #[arg(long)]
    code: bool,
    /// The app whose host the link has [default: the first one]
    #[arg(long, value_name = "APP", conflicts_with_all = ["cookie", "set_cookie", "id"])]
    app: Option<String>,
    /// The address that the link begins with, such as `https://notes.box.example:8443`
    #[arg(long, value_name = "URL", conflicts_with_all = ["app", "cookie", "set_cookie", "id"])]
    url: Option<String>,
    /// The id of a terminal whose cookie is printed [default: a random one]
    #[arg(long, conflicts_with = "code")]
    id: Option<String>,
    /// Print the cookie as the whole value of a `Set-Cookie` header
    #[arg(long, conflicts_with = "code")]
    set_cookie: bool,
}

impl Add {
    /// Whether a code is printed. A script that reads the output gets the cookie, unless it asks
    /// for a code.
    fn wants_code(&self, config: &Config) -> bool {
        let Self { name: _, cookie, code, app, url, id, set_cookie } = self;
        let is_asked_for = *code || app.is_some() || url.is_some();
        let is_cookie = *cookie || *set_cookie || id.is_some();
        is_asked_for || (!is_cookie && config.gate.pairing && std::io::stdout().is_terminal())
    }
}

pub(super) fn run(action: &Action, config: &Config, out: &mut dyn Write) -> CommandResult {
    wait(async {
        let (source, _) = open(config)?;
        match action {
            Action::Add(options) if options.wants_code(config) => {
                invite(config, &source, options, out).await
            }
            Action::Add(Add { name, id, set_cookie, .. }) => {
                add(config, &source, name, id.as_deref(), *set_cookie, out).await
            }
            Action::List => list(&source, out).await,
            Action::Remove { id } => remove(config, &source, id, out).await,
        }
    })
}

/// Prints a code, and the link and the picture that hold it.
async fn invite(
    config: &Config,
    source: &Source,
    options: &Add,
    out: &mut dyn Write,
) -> CommandResult {
    if !config.gate.pairing {
        let problem = "`gate.pairing` is off, so no page takes a code; `--cookie` prints a cookie";
        return Err(CliError::Message(problem.into()));
    }
    let begin = match &options.url {
        Some(url) => url.trim_end_matches('/').to_owned(),
        None => format!("https://{}", host(config, source, options.app.as_deref()).await?),
    };
    let code = pairing::invite(source, &options.name, wall_clock()).await?.spelled();
    let name = utf8_percent_encode(&options.name, NON_ALPHANUMERIC);
    let link = format!("{begin}{PATH}#{code}/{name}");
    writeln!(out, "Code  {code}    valid for five minutes, and once")?;
    writeln!(out, "Link  {link}")?;
    // Drawn in the colors of a terminal with a dark background, as other programs do.
    // Too long a name makes too large a picture; the link still works.
    if let Ok(picture) = QrCode::with_error_correction_level(&link, EcLevel::L) {
        writeln!(
            out,
            "\n{}",
            picture
                .render::<Dense1x2>()
                .dark_color(Dense1x2::Light)
                .light_color(Dense1x2::Dark)
                .build()
        )?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Returns the app on whose host a device is paired: the first one of which a device that is not
/// paired can load no script, since such a script could read the code. If there is none, the
/// first one.
async fn trusted_app<'a>(source: &Source, names: &'a [String]) -> Option<&'a String> {
    let mut names: Vec<_> = names.iter().filter(|name| is_host_label(name)).collect();
    names.sort();
    for name in &names {
        let is_private = |rule: &PathRule| rule.access == Access::Private;
        let read = source.descriptions().read(name).await;
        if read.is_ok_and(|app| !app.paths.is_empty() && app.paths.iter().all(is_private)) {
            return Some(name);
        }
    }
    names.first().copied()
}

/// Returns the host of an app: of this one, or of one that is chosen.
async fn host(config: &Config, source: &Source, app: Option<&str>) -> Result<String, CliError> {
    let domain = domain(config, source).await?;
    let names = source.app_names().await?;
    let name = match app {
        Some(app) => names
            .iter()
            .find(|name| *name == app)
            .ok_or_else(|| CliError::Message(format!("there is no app `{app}`")))?,
        None => match trusted_app(source, &names).await {
            Some(app) => app,
            None => return Ok(domain),
        },
    };
    Ok(format!("{}.{domain}", name.to_ascii_lowercase()))
}

/// Adds a terminal. Only the cookie is written to `out`, so that a script can read it.
async fn add(
    config: &Config,
    source: &Source,
    name: &str,
    id: Option<&str>,
    set_cookie: bool,
    out: &mut dyn Write,
) -> CommandResult {
    let id = match id {
        Some(id) if id.is_empty() || id.chars().any(char::is_control) => {
            let problem = "invalid id: expected text without control characters";
            return Err(CliError::Message(problem.into()));
        }
        Some(id) => id.to_owned(),
        None => pairing::random_id()?,
    };
    // Everything that can be missing is read before the terminal is added.
    let domain = if set_cookie { Some(domain(config, source).await?) } else { None };
    let secret = source.ensure_terminal_secret().await?;
    let now = wall_clock();
    let token = token::issue(&secret, &id, now)
        .map_err(|error| CliError::Message(format!("cannot issue a token: {error}")))?;
    let taken = || CliError::Message(format!("a terminal has the id `{id}` already"));
    if source.terminal(&id).await?.is_some() {
        return Err(taken());
    }
    let terminal = Terminal { id: id.as_str().into(), name: name.into() };
    let (pair_id, pair_name) = (Arc::clone(&terminal.id), Arc::clone(&terminal.name));
    let act = act::commit(config, source, Act::Pair { id: pair_id, name: pair_name }).await?;
    let added = source.add_terminal(&terminal).await;
    let failure = match &added {
        Ok(true) => None,
        Ok(false) => Some(taken().to_string()),
        Err(error) => Some(error.to_string()),
    };
    act.conclude(failure.as_deref().map_or(Ok(()), Err)).await;
    if !added? {
        return Err(taken());
    }
    match domain {
        Some(domain) => writeln!(out, "{}", token::cookie(&token, &domain, now))?,
        None => writeln!(out, "authorization={token}")?,
    }
    out.flush()?;
    let written = writeln!(
        std::io::stderr(),
        "terminal `{id}` ({name}) is added; its cookie is not shown again"
    );
    Ok(written.map(|()| ExitCode::SUCCESS)?)
}

async fn list(source: &Source, out: &mut dyn Write) -> CommandResult {
    let mut terminals = source.terminals().await?;
    terminals.sort_by(|a, b| a.id.cmp(&b.id));
    let width = terminals.iter().map(|terminal| terminal.id.chars().count()).max().unwrap_or(0);
    for Terminal { id, name } in &terminals {
        // A name can be any text: control characters must not reach the operator's terminal.
        writeln!(out, "{:<width$}  {}", id.escape_debug(), name.escape_debug())?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn remove(config: &Config, source: &Source, id: &str, out: &mut dyn Write) -> CommandResult {
    if let Some(Terminal { id: known, name }) = source.terminal(id).await? {
        let act = act::commit(config, source, Act::Revoke { id: known, name }).await?;
        let removed = source.remove_terminal(id).await;
        let failure = match &removed {
            Ok(true) => None,
            Ok(false) => Some("it was removed by somebody else".to_owned()),
            Err(error) => Some(error.to_string()),
        };
        act.conclude(failure.as_deref().map_or(Ok(()), Err)).await;
        if removed? {
            writeln!(out, "terminal `{id}` is removed")?;
            return Ok(ExitCode::SUCCESS);
        }
    }
    writeln!(out, "no terminal has the id `{id}`")?;
    Ok(NEGATIVE.into())
}
