//! `nightporter serve`: the process itself.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::spawn_blocking;

use super::{CliError, CommandResult};
use crate::config::{self, Environment};
use crate::descriptors;
use crate::telemetry::logs;
use crate::{Listeners, RunError, Signal, from_process, run as serve};

/// How long file operations may take after everything else has ended: they may wait for a
/// lock that another process holds, or for a disk that is gone.
const FILE_TIMEOUT: Duration = Duration::from_secs(1);

/// The same after a second signal, which requests an immediate end.
const ABORT_FILE_TIMEOUT: Duration = Duration::from_millis(200);

/// Runs the process. It prints the addresses of its listeners, so that a caller that asked
/// for port 0 learns the port.
pub(super) fn run(file: Option<&Path>, env: &Environment, out: &mut dyn Write) -> CommandResult {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let outcome = runtime.block_on(start(file, env, out));
    let was_aborted = matches!(&outcome, Ok(code) if *code != ExitCode::SUCCESS);
    runtime.shutdown_timeout(if was_aborted { ABORT_FILE_TIMEOUT } else { FILE_TIMEOUT });
    outcome
}

async fn start(file: Option<&Path>, env: &Environment, out: &mut dyn Write) -> CommandResult {
    let (file, env) = (file.map(PathBuf::from), env.clone());
    let load = move || config::load(file.as_deref(), &env).map(Arc::new);
    let load_again = {
        let load = load.clone();
        move || match load() {
            Ok(config) => Some(config),
            Err(findings) => {
                for finding in findings.iter() {
                    tracing::error!(%finding, "the configuration is not reloaded");
                }
                None
            }
        }
    };
    // Signals are handled before anything that may wait, even the configuration file. The
    // first process of a container receives no signal that it does not handle.
    let mut signals = from_process(load_again)?;
    let config = tokio::select! {
        loaded = spawn_blocking(load) => loaded.map_err(io::Error::other)??,
        signal = signals.recv() => match signal {
            Some(Signal::Reload(config)) => config,
            Some(Signal::Shutdown) | None => return Ok(ExitCode::SUCCESS),
        },
    };
    logs::install(&config.log).map_err(|error| CliError::Message(error.to_string()))?;
    descriptors::raise_limit();
    let listeners =
        Listeners::bind(&config).map_err(|error| CliError::Message(error.to_string()))?;
    writeln!(out, "gate listening on {}", listeners.gate.addr())?;
    writeln!(out, "ops listening on {}", listeners.ops.addr())?;
    out.flush()?;
    match Box::pin(serve(config, listeners, signals)).await {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error @ RunError::Aborted) => {
            tracing::error!(%error);
            Ok(super::NEGATIVE.into())
        }
        Err(error) => Err(CliError::Message(error.to_string())),
    }
}
