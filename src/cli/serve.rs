//! `nightporter serve`: the process itself.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::spawn_blocking;

use super::{Answer, Failure};
use crate::config::{self, Environment};
use crate::descriptors;
use crate::telemetry::logs;
use crate::{Listeners, RunError, Signal, from_process, run as serve};

/// How long file work may take when all else has ended: it may wait for a lock
/// that another process holds, or for a disk that is gone.
const LAST_WORK: Duration = Duration::from_secs(1);

/// The same after a second signal, which asks for an end at once.
const HURRIED_WORK: Duration = Duration::from_millis(200);

/// Where the process listens is printed, so that whoever asked for port 0
/// learns what it got.
pub(super) fn run(file: Option<&Path>, env: &Environment, out: &mut dyn Write) -> Answer {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let ended = runtime.block_on(start(file, env, out));
    let was_aborted = matches!(&ended, Ok(code) if *code != ExitCode::SUCCESS);
    runtime.shutdown_timeout(if was_aborted { HURRIED_WORK } else { LAST_WORK });
    ended
}

async fn start(file: Option<&Path>, env: &Environment, out: &mut dyn Write) -> Answer {
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
    // Before all that may wait, a file of the configuration too: a signal from here on is
    // an order. The first process of a container hears no other.
    let mut signals = from_process(load_again)?;
    let config = tokio::select! {
        loaded = spawn_blocking(load) => loaded.map_err(io::Error::other)??,
        signal = signals.recv() => match signal {
            Some(Signal::Reload(config)) => config,
            Some(Signal::Shutdown) | None => return Ok(ExitCode::SUCCESS),
        },
    };
    logs::install(&config.log).map_err(|error| Failure::Told(error.to_string()))?;
    descriptors::raise_limit();
    let listeners = Listeners::bind(&config).map_err(|error| Failure::Told(error.to_string()))?;
    writeln!(out, "gate listening on {}", listeners.gate.addr())?;
    writeln!(out, "ops listening on {}", listeners.ops.addr())?;
    out.flush()?;
    match serve(config, listeners, signals).await {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error @ RunError::Aborted) => {
            tracing::error!(%error);
            Ok(super::NO.into())
        }
        Err(error) => Err(Failure::Told(error.to_string())),
    }
}
