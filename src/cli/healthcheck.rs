//! `nightporter healthcheck`: a probe for a container that has no curl.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, ValueEnum};
use http::Method;
use tokio::time::timeout;

use super::client;
use super::{CommandResult, NEGATIVE, wait};
use crate::config::Config;

#[derive(Debug, Args)]
pub(super) struct Options {
    /// Check that requests can be answered, and not only that the process is alive
    #[arg(long)]
    ready: bool,
    /// The listener to probe; the gate's answers only if this machine is a
    /// trusted proxy and no client certificate is required
    #[arg(long, value_enum, default_value = "ops")]
    listener: Listener,
    /// How long the response may take
    #[arg(long, default_value = "3s", value_parser = humantime::parse_duration)]
    timeout: Duration,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Listener {
    Gate,
    Ops,
}

pub(super) fn run(options: &Options, config: &Config, out: &mut dyn Write) -> CommandResult {
    let listener = match options.listener {
        Listener::Gate => client::Listener::gate(config)?,
        Listener::Ops => client::Listener::ops(config)?,
    };
    let path = if options.ready { "/readyz" } else { "/livez" };
    let response = wait(async {
        let response = timeout(options.timeout, listener.ask(Method::GET, path)).await;
        Ok(response.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())))
    })?;
    let addr = listener.addr;
    match response {
        Ok((status @ 200..300, _)) => {
            writeln!(out, "{addr}{path}: {status}")?;
            Ok(ExitCode::SUCCESS)
        }
        Ok((status, _)) => {
            writeln!(out, "{addr}{path}: {status}")?;
            Ok(NEGATIVE.into())
        }
        Err(error) => {
            writeln!(out, "{addr}{path}: {error}")?;
            Ok(NEGATIVE.into())
        }
    }
}
