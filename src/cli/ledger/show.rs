//! `nightporter ledger show`: one record with its steps and notes.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Args;

use super::record::{Note, Record, Step, seconds};
use crate::cli::ask::{Ops, segment};
use crate::cli::{CommandResult, wait};
use crate::config::Config;

#[derive(Debug, Args)]
pub(in crate::cli) struct Options {
    /// The record's id, as `list --json` gives it
    id: String,
    /// Print the response of the process, as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(options: &Options, config: &Config, out: &mut dyn Write) -> CommandResult {
    let ops = Ops::new(config)?;
    let path = format!("/v1/requests/{}", segment(&options.id));
    let value: serde_json::Value = wait(ops.get(&path))?;
    if options.json {
        writeln!(out, "{value}")?;
    } else {
        print(out, &ops.read(value)?)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn print(out: &mut dyn Write, record: &Record) -> io::Result<()> {
    let Record {
        id,
        position,
        kind,
        at,
        app,
        host,
        path,
        rule,
        client,
        client_id,
        client_name,
        address,
        verdict,
        reason,
        trace,
        duration_us,
        count,
        steps,
        notes,
    } = record;
    let position = position.map_or("none yet".to_owned(), |position| position.to_string());
    let fixed = [("id", id), ("position", &position), ("time", at), ("kind", kind)];
    for (name, value) in fixed {
        line(out, name, value)?;
    }
    for (name, value) in [
        ("app", app),
        ("host", host),
        ("path", path),
        ("rule", rule),
        ("client", client),
        ("verdict", verdict),
        ("reason", reason),
        ("trace", trace),
    ] {
        if let Some(value) = value {
            line(out, name, value)?;
        }
    }
    for (name, value) in
        [("client id", client_id), ("client name", client_name), ("address", address)]
    {
        if let Some(value) = value {
            line(out, name, value.text())?;
        }
    }
    line(out, "duration", &seconds(*duration_us, 6))?;
    line(out, "count", &count.to_string())?;
    for Step { name, duration_us, outcome } in steps {
        line(out, "step", &format!("{name}: {outcome}, {}", seconds(*duration_us, 6)))?;
    }
    for Note { topic, text } in notes {
        line(out, "note", &format!("{topic}: {text}"))?;
    }
    Ok(())
}

/// Prints a value of which control characters must not reach the terminal.
fn line(out: &mut dyn Write, name: &str, value: &str) -> io::Result<()> {
    writeln!(out, "{name:<12} {}", value.escape_debug())
}
