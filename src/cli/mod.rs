//! The command line: one file a subcommand.
//!
//! A subcommand prints its answer to `out` and returns its exit code; a
//! [`Failure`] goes to standard error and is code 2, as wrong usage is.

mod apps;
mod check;
mod client;
mod explain;
mod healthcheck;
mod migrate;
mod open;
mod serve;
mod standby;
mod terminal;
mod traefik;

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

use clap::{Parser, Subcommand};

use crate::config::{self, Config, Environment, Findings};
use crate::store::Unavailable;

/// Read where no file is named, if it is there.
const DEFAULT_FILES: [&str; 2] = ["nightporter.toml", "/etc/nightporter/nightporter.toml"];

/// The code of a negative answer: denied, unhealthy, findings, not there.
const NO: u8 = 1;

/// The code of a failure to answer.
const FAILED: u8 = 2;

/// A forwardAuth sidecar for self-hosted boxes.
#[derive(Debug, Parser)]
#[command(name = "nightporter", version)]
struct Arguments {
    /// Configuration file; also by the variable `NIGHTPORTER_CONFIG`
    /// [default: ./nightporter.toml or /etc/nightporter/nightporter.toml, if there is one]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Answer the proxies (the default)
    Serve,
    /// Look for mistakes in the configuration and the apps; exit code 1 if there are any
    Check(check::Options),
    /// Say what a request would be answered, and why; exit code 1 where it is denied
    Explain(explain::Options),
    /// Bring the database's schema up to date
    Migrate,
    /// Add, list and remove terminals
    #[command(subcommand)]
    Terminal(terminal::Action),
    /// List the apps of the running process: state, last use, next sleep
    Apps(apps::ListOptions),
    /// Bring an app up; exit code 1 where it does not come
    Wake(apps::WakeOptions),
    /// Stop or pause an app until somebody asks for it
    Sleep(apps::SleepOptions),
    /// Answer in the gate's place while it is away: with 503, and a page that goes on by
    /// itself; or print that page
    Standby(standby::Options),
    /// Print Traefik's dynamic configuration for this box
    Traefik(traefik::Options),
    /// Ask the running process whether it is well; exit code 1 where it is not
    Healthcheck(healthcheck::Options),
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Configuration(#[from] Findings),
    #[error("the store cannot answer: {0}")]
    Store(#[from] Unavailable),
    #[error("{0}")]
    Told(String),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// The outcome of a subcommand: its exit code.
type Answer = Result<ExitCode, Failure>;

/// Runs the process's own command line.
#[must_use]
pub fn main() -> ExitCode {
    run(std::env::args_os(), &environment(), &mut io::stdout())
}

/// The process's environment; what is not Unicode is kept as far as it can be read.
fn environment() -> Environment {
    let text = |text: OsString| text.to_string_lossy().into_owned();
    std::env::vars_os().map(|(name, value)| (text(name), text(value))).collect()
}

fn run(
    arguments: impl IntoIterator<Item = OsString>,
    env: &Environment,
    out: &mut dyn Write,
) -> ExitCode {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        // Also how help and version are shown.
        Err(error) => {
            let shown = error.print();
            let code = if error.use_stderr() || shown.is_err() { FAILED } else { 0 };
            return code.into();
        }
    };
    match arguments.answer(env, out).and_then(|code| Ok(out.flush().map(|()| code)?)) {
        Ok(code) => code,
        // Whoever read the output has seen enough, as `head` does.
        Err(Failure::Io(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(failure) => {
            // Nowhere is left to tell that standard error is closed.
            let _ = writeln!(io::stderr(), "nightporter: {failure}");
            FAILED.into()
        }
    }
}

impl Arguments {
    fn answer(self, env: &Environment, out: &mut dyn Write) -> Answer {
        let Self { config, command } = self;
        let file = config.or_else(|| named_file(env));
        let file = file.as_deref();
        let load = || config::load(file, env);
        match command.unwrap_or(Command::Serve) {
            Command::Serve => serve::run(file, env, out),
            Command::Check(options) => check::run(&options, load(), out),
            Command::Explain(options) => explain::run(&options, &load()?, out),
            Command::Migrate => migrate::run(&load()?, out),
            Command::Terminal(action) => terminal::run(&action, &load()?, out),
            Command::Apps(options) => apps::list(&options, &load()?, out),
            Command::Wake(options) => apps::wake(&options, &load()?, out),
            Command::Sleep(options) => apps::sleep_app(&options, &load()?, out),
            Command::Standby(options) => standby::run(&options, load, out),
            Command::Traefik(options) => traefik::run(&options, &load()?, out),
            Command::Healthcheck(options) => healthcheck::run(&options, &load()?, out),
        }
    }
}

fn named_file(env: &Environment) -> Option<PathBuf> {
    let named = env.get("NIGHTPORTER_CONFIG").filter(|name| !name.is_empty());
    let present = || DEFAULT_FILES.into_iter().find(|name| Path::new(name).exists());
    named.map(String::as_str).or_else(present).map(PathBuf::from)
}

/// Runs a short task to its end on a small runtime.
fn wait<T>(task: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(task)
}

#[expect(clippy::disallowed_methods, reason = "a command reads the clock and passes it on")]
fn wall_clock() -> SystemTime {
    SystemTime::now()
}

/// The box's domain: as configured, else as its identity says.
async fn domain(config: &Config, source: &crate::store::Source) -> Result<String, Failure> {
    if let Some(domain) = &config.gate.domain {
        return Ok(domain.clone());
    }
    let identity = source.identity().await?;
    identity.map(|identity| identity.domain).ok_or_else(|| {
        Failure::Told("the box has no identity yet; set `gate.domain` to the box's domain".into())
    })
}
