//! `nightporter deadletter`: the batches of records that the database did not take.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Subcommand;
use http::Method;
use serde::Deserialize;
use serde_json::Value;

use super::ask::{Ops, segment};
use super::{CliError, CommandResult, NEGATIVE, wait};
use crate::config::Config;

#[derive(Debug, Subcommand)]
pub(super) enum Action {
    /// List the dead letters, the oldest first, and the files that were set aside
    List {
        /// Print the responses of the process, as JSON
        #[arg(long)]
        json: bool,
    },
    /// Print a dead letter with its records, as JSON
    Show { id: String },
    /// Write the records of a dead letter now; exit code 1 if the database refuses some
    Replay { id: String },
    /// Remove a dead letter for good; a record names what was lost
    Dismiss { id: String },
}

#[derive(Debug, Deserialize)]
struct Page {
    dead_letters: Vec<Value>,
    next: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Letter {
    id: String,
    bytes: u64,
    retries: u32,
    is_given_up: bool,
    error: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Stats {
    bytes: u64,
    max_bytes: u64,
    bad: Vec<Bad>,
    problem: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Bad {
    name: String,
    reason: String,
}

#[derive(Debug, Deserialize)]
struct Replayed {
    replayed: u64,
    error: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Dismissed {
    dismissed: u64,
}

pub(super) fn run(action: &Action, config: &Config, out: &mut dyn Write) -> CommandResult {
    let ops = Ops::new(config)?;
    wait(async {
        match action {
            Action::List { json } => list(&ops, *json, out).await,
            Action::Show { id } => {
                let letter: Value = ops.get(&path(id)).await?;
                writeln!(out, "{letter}")?;
                Ok(ExitCode::SUCCESS)
            }
            Action::Replay { id } => {
                let path = format!("{}/replay", path(id));
                let Replayed { replayed, error } = ops.ask(Method::POST, &path).await?;
                writeln!(out, "{replayed} records are written")?;
                let Some(error) = error else { return Ok(ExitCode::SUCCESS) };
                writeln!(out, "the others are refused: {}", error.escape_debug())?;
                Ok(NEGATIVE.into())
            }
            Action::Dismiss { id } => {
                let path = format!("{}/dismiss", path(id));
                let Dismissed { dismissed } = ops.ask(Method::POST, &path).await?;
                writeln!(out, "{dismissed} records are dismissed")?;
                Ok(ExitCode::SUCCESS)
            }
        }
    })
}

fn path(id: &str) -> String {
    format!("/v1/deadletter/{}", segment(id))
}

async fn list(ops: &Ops<'_>, json: bool, out: &mut dyn Write) -> CommandResult {
    let mut letters = Vec::new();
    let mut next = None::<String>;
    loop {
        let after = next.map_or(String::new(), |id| format!("&after={}", segment(&id)));
        let page: Page = ops.get(&format!("/v1/deadletter?limit=500{after}")).await?;
        letters.extend(page.dead_letters);
        next = page.next;
        if next.is_none() {
            break;
        }
    }
    if json {
        for letter in &letters {
            writeln!(out, "{letter}")?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let letters = letters.into_iter().map(|letter| ops.read(letter));
    print_letters(&letters.collect::<Result<Vec<_>, _>>()?, out)?;
    let Stats { bytes, max_bytes, bad, problem } = ops.get("/v1/deadletter/stats").await?;
    for Bad { name, reason } in bad {
        writeln!(out, "set aside: {}: {}", name.escape_debug(), reason.escape_debug())?;
    }
    out.flush()?;
    // If standard error is closed, there is nowhere to report that.
    let _ = writeln!(io::stderr(), "{bytes} of {max_bytes} bytes of the spool are in use");
    match problem {
        Some(problem) => Err(CliError::Message(format!("the spool: {problem}"))),
        None => Ok(ExitCode::SUCCESS),
    }
}

fn print_letters(letters: &[Letter], out: &mut dyn Write) -> io::Result<()> {
    let width = letters.iter().map(|letter| letter.id.chars().count()).max().unwrap_or(0).max(2);
    writeln!(out, "{:<width$}  {:>9}  {:>7}  STATE", "ID", "BYTES", "RETRIES")?;
    for Letter { id, bytes, retries, is_given_up, error } in letters {
        let state = match error {
            Some(error) if *is_given_up => format!("waits for you: {error}"),
            Some(error) => format!("will be replayed: {error}"),
            None => "will be replayed".to_owned(),
        };
        let (id, state) = (id.escape_debug().to_string(), state.escape_debug());
        writeln!(out, "{id:<width$}  {bytes:>9}  {retries:>7}  {state}")?;
    }
    Ok(())
}
