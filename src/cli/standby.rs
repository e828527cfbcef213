//! `nightporter standby`: answers in the gate's place while the gate is down.

use std::convert::Infallible;
use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use tokio::task::JoinSet;

use super::{CliError, CommandResult, wait};
use crate::config::{Config, Findings, ListenAddr};
use crate::http::pages::standby::page;
use crate::http::standby::StandbyRoutes;
use crate::http::tls::ServerTls;
use crate::http::{Bounds, Limits, Listener, Server};
use crate::signals::{self, Signal};
use crate::telemetry::logs;

/// Connections at one time; each is closed after its response.
const MAX_CONNECTIONS: usize = 1024;

#[derive(Debug, Args)]
pub(super) struct Options {
    /// Where to listen, such as `127.0.0.2:8400`: another address than the gate's, with the
    /// same port and name [default: `gate.listen`]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<ListenAddr>,
    /// Only print the page, for a proxy that keeps it as a file
    #[arg(long, conflicts_with = "listen")]
    page: bool,
}

pub(super) fn run(
    options: &Options,
    load: impl Fn() -> Result<Config, Findings>,
    out: &mut dyn Write,
) -> CommandResult {
    if options.page {
        write!(out, "{}", page(None))?;
        return Ok(ExitCode::SUCCESS);
    }
    let config = load()?;
    logs::install(&config.log).map_err(|error| CliError::Message(error.to_string()))?;
    wait(serve(options, &config, out))
}

async fn serve(
    options: &Options,
    config: &Config,
    out: &mut dyn Write,
) -> Result<ExitCode, CliError> {
    // Signals are handled before the socket is bound: from here on, none ends the process
    // abruptly.
    let mut signals = signals::from_process(|| None)?;
    let message = |error: &dyn std::fmt::Display| CliError::Message(error.to_string());
    let tls = config.gate.tls.as_ref().map(ServerTls::load_for_http1).transpose();
    let tls = tls.map_err(|error| message(&error))?.map(Arc::new);
    let addr = options.listen.as_ref().unwrap_or(&config.gate.listen);
    let listener = Listener::bind(addr).map_err(|error| message(&error))?;
    writeln!(out, "standby listening on {}", listener.addr())?;
    out.flush()?;
    let bounds = Bounds::within(MAX_CONNECTIONS, config.gate.max_connections_per_address);
    let server = Server::new("standby", Arc::new(StandbyRoutes::new()), Limits::default(), bounds);
    let server = server.with_trusted(config.gate.trusted_proxies.clone()).with_tls(tls.clone());
    let (accept, _drain) = server.start(listener)?;
    let mut tasks: JoinSet<Infallible> = JoinSet::new();
    tasks.spawn(accept);
    if let Some(tls) = tls {
        tasks.spawn(tls.follow());
    }
    loop {
        tokio::select! {
            signal = signals.recv() => {
                if matches!(signal, Some(Signal::Shutdown) | None) {
                    return Ok(ExitCode::SUCCESS);
                }
            }
            Some(ended) = tasks.join_next() => match ended {
                Ok(never) => match never {},
                Err(error) => return Err(message(&error)),
            },
        }
    }
}
