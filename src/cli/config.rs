//! `nightporter config`: the values in force, and what can be written in the file.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::{CommandResult, NEGATIVE, check};
use crate::config::{self, EffectiveValue, Environment};

#[derive(Debug, Subcommand)]
pub(super) enum Action {
    /// Print every key with its value in force and where that comes from; exit code 1 if the
    /// configuration has mistakes
    Show(ShowOptions),
    /// Print the JSON Schema of the configuration file, for editors
    Schema,
    /// Print a configuration file with every key, its documentation and its default
    Example,
}

#[derive(Debug, Args)]
pub(super) struct ShowOptions {
    /// Print the keys as a JSON array
    #[arg(long)]
    json: bool,
}

pub(super) fn run(
    action: &Action,
    file: Option<&Path>,
    env: &Environment,
    out: &mut dyn Write,
) -> CommandResult {
    match action {
        Action::Show(options) => return show(options, file, env, out),
        Action::Schema => writeln!(out, "{:#}", config::schema())?,
        Action::Example => write!(out, "{}", config::example())?,
    }
    Ok(ExitCode::SUCCESS)
}

fn show(
    options: &ShowOptions,
    file: Option<&Path>,
    env: &Environment,
    out: &mut dyn Write,
) -> CommandResult {
    let keys = match config::show(file, env) {
        Ok(keys) => keys,
        Err(findings) => {
            check::print_errors(findings, options.json, out)?;
            return Ok(NEGATIVE.into());
        }
    };
    if options.json {
        let keys: Vec<_> = keys.iter().map(as_json).collect();
        writeln!(out, "{:#}", Value::from(keys))?;
        return Ok(ExitCode::SUCCESS);
    }
    let line = |key: &EffectiveValue| match key.toml() {
        Some(value) => format!("{} = {value}", key.key),
        None => format!("#{} is unset", key.key),
    };
    // Longer lists do not move the sources of all other lines to the right.
    let width = keys.iter().map(|key| line(key).len()).filter(|width| *width < 60).max();
    let width = width.unwrap_or_default();
    for key in &keys {
        writeln!(out, "{:width$}  # {}", line(key), key.origin)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn as_json(key: &EffectiveValue) -> Value {
    let EffectiveValue { key, value, origin, is_reloaded } = key;
    json!({
        "key": key,
        "value": value,
        "source": origin.to_string(),
        "reload": is_reloaded,
    })
}
