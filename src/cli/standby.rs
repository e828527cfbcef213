//! `nightporter standby`: answers in the gate's place while that is away.

use std::convert::Infallible;
use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use tokio::task::JoinSet;

use super::{Answer, Failure, wait};
use crate::config::{Config, Findings, ListenAddr};
use crate::http::pages::standby::page;
use crate::http::standby::StandbyRoutes;
use crate::http::tls::Tls;
use crate::http::{Bounds, Limits, Listener, Server};
use crate::signals::{self, Signal};
use crate::telemetry::logs;

/// Each is closed with its answer.
const CONNECTIONS: usize = 1024;

#[derive(Debug, Args)]
pub(super) struct Options {
    /// Where to listen, as `127.0.0.2:8400`: another address than the gate's, under the
    /// same port and name [default: `gate.listen`]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<ListenAddr>,
    /// Print the page, for a proxy that keeps it as a file, and do nothing else
    #[arg(long, conflicts_with = "listen")]
    page: bool,
}

pub(super) fn run(
    options: &Options,
    load: impl Fn() -> Result<Config, Findings>,
    out: &mut dyn Write,
) -> Answer {
    if options.page {
        write!(out, "{}", page(None))?;
        return Ok(ExitCode::SUCCESS);
    }
    let config = load()?;
    logs::install(&config.log).map_err(|error| Failure::Told(error.to_string()))?;
    wait(serve(options, &config, out))
}

async fn serve(
    options: &Options,
    config: &Config,
    out: &mut dyn Write,
) -> Result<ExitCode, Failure> {
    // Before the socket: a signal from here on is an order and no sudden end.
    let mut signals = signals::from_process(|| None)?;
    let told = |error: &dyn std::fmt::Display| Failure::Told(error.to_string());
    let tls = config.gate.tls.as_ref().map(Tls::load_for_http1).transpose();
    let tls = tls.map_err(|error| told(&error))?.map(Arc::new);
    let addr = options.listen.as_ref().unwrap_or(&config.gate.listen);
    let listener = Listener::bind(addr).map_err(|error| told(&error))?;
    writeln!(out, "standby listening on {}", listener.addr())?;
    out.flush()?;
    let bounds = Bounds::within(CONNECTIONS, config.gate.max_connections_per_address);
    let server = Server::new("standby", Arc::new(StandbyRoutes::new()), Limits::default(), bounds);
    let server = server.trusting(config.gate.trusted_proxies.clone()).over(tls.clone());
    let (accept, _drain) = server.start(listener)?;
    let mut parts: JoinSet<Infallible> = JoinSet::new();
    parts.spawn(accept);
    if let Some(tls) = tls {
        parts.spawn(tls.follow());
    }
    loop {
        tokio::select! {
            signal = signals.recv() => {
                if matches!(signal, Some(Signal::Shutdown) | None) {
                    return Ok(ExitCode::SUCCESS);
                }
            }
            Some(ended) = parts.join_next() => match ended {
                Ok(never) => match never {},
                Err(error) => return Err(told(&error)),
            },
        }
    }
}
