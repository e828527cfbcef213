//! `nightporter serve`: the process itself.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use super::{Answer, Failure};
use crate::config::{self, Environment};
use crate::descriptors;
use crate::telemetry::logs;
use crate::{Listeners, RunError, from_process, run as serve};

/// How long file work may take when all else has ended: it may wait for a lock
/// that another process holds, or for a disk that is gone.
const LAST_WORK: Duration = Duration::from_secs(1);

/// The same after a second signal, which asks for an end at once.
const HURRIED_WORK: Duration = Duration::from_millis(200);

/// Where the process listens is printed, so that whoever asked for port 0
/// learns what it got.
pub(super) fn run(file: Option<&Path>, env: &Environment, out: &mut dyn Write) -> Answer {
    let config = Arc::new(config::load(file, env)?);
    logs::install(&config.log).map_err(|error| Failure::Told(error.to_string()))?;
    let (file, env) = (file.map(PathBuf::from), env.clone());
    let load_again = move || match config::load(file.as_deref(), &env) {
        Ok(config) => Some(Arc::new(config)),
        Err(findings) => {
            for finding in findings.iter() {
                tracing::error!(%finding, "the configuration is not reloaded");
            }
            None
        }
    };
    descriptors::raise_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let ended = runtime.block_on(async {
        // Before the sockets: a signal from here on is an order and no sudden end.
        let signals = from_process(load_again)?;
        let listeners =
            Listeners::bind(&config).map_err(|error| Failure::Told(error.to_string()))?;
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
    });
    let was_aborted = matches!(&ended, Ok(code) if *code != ExitCode::SUCCESS);
    runtime.shutdown_timeout(if was_aborted { HURRIED_WORK } else { LAST_WORK });
    ended
}
