//! `nightporter terminal`: manages the paired devices, which may use private apps.

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Subcommand;

use super::open::open;
use super::{CliError, CommandResult, NEGATIVE, act, domain, wait, wall_clock};
use crate::config::Config;
use crate::domain::identity::encode_id;
use crate::gate::credentials::terminal as token;
use crate::ledger::acts::Act;
use crate::store::{Source, Terminal};

/// Random bytes of a new id; they give eight characters.
const ID_BYTES: usize = 5;

#[derive(Debug, Subcommand)]
pub(super) enum Action {
    /// Add a terminal and print its cookie, which is not shown again
    Add {
        /// A name to recognize it by
        name: String,
        /// Its id [default: a random one]
        #[arg(long)]
        id: Option<String>,
        /// Print the whole value of a `Set-Cookie` header
        #[arg(long)]
        set_cookie: bool,
    },
    /// Print id and name of every terminal
    List,
    /// Remove a terminal; its cookie is invalid at once
    Remove { id: String },
}

pub(super) fn run(action: &Action, config: &Config, out: &mut dyn Write) -> CommandResult {
    wait(async {
        let (source, _) = open(config)?;
        match action {
            Action::Add { name, id, set_cookie } => {
                add(config, &source, name, id.as_deref(), *set_cookie, out).await
            }
            Action::List => list(&source, out).await,
            Action::Remove { id } => remove(config, &source, id, out).await,
        }
    })
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
        None => random_id()?,
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

fn random_id() -> Result<String, CliError> {
    let mut bytes = [0; ID_BYTES];
    aws_lc_rs::rand::fill(&mut bytes)
        .map_err(|_| CliError::Message("the system provides no random numbers".into()))?;
    Ok(encode_id(&bytes))
}
