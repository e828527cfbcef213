//! The command line: one file per subcommand.
//!
//! A subcommand prints its result to `out` and returns its exit code; a
//! [`CliError`] is printed to standard error and gives exit code 2, as wrong usage does.

mod act;
mod alerts;
mod apps;
mod ask;
mod check;
mod client;
mod config;
mod deadletter;
mod explain;
mod healthcheck;
mod jobs;
mod ledger;
mod limits;
mod migrate;
mod open;
mod proxy;
mod serve;
mod standby;
mod terminal;
mod token;
mod traefik;
mod webhook;

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

use clap::{Parser, Subcommand};

use crate::config::{Config, Environment, Findings, load as load_config};
use crate::ledger::archive::ArchiveError;
use crate::store::Unavailable;

/// Files that are read, if they exist, when the command line names no file.
const DEFAULT_FILES: [&str; 2] = ["nightporter.toml", "/etc/nightporter/nightporter.toml"];

/// The exit code of a negative result: denied, unhealthy, findings, not found.
const NEGATIVE: u8 = 1;

/// The exit code of a command that failed.
const FAILED: u8 = 2;

/// A forwardAuth sidecar for self-hosted boxes.
#[derive(Debug, Parser)]
#[command(name = "nightporter", version)]
struct Arguments {
    /// Configuration file; can also be set by the variable `NIGHTPORTER_CONFIG`
    /// [default: ./nightporter.toml or /etc/nightporter/nightporter.toml, if it exists]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Answer the proxies' requests (the default)
    Serve,
    /// Report mistakes in the configuration and the apps; exit code 1 if there are any
    Check(check::Options),
    /// Show the settings in force, or what can be set
    #[command(subcommand)]
    Config(config::Action),
    /// Show the verdict on a request and the reasons; exit code 1 if the request is denied
    Explain(explain::Options),
    /// Create or update the database's schema
    Migrate,
    /// Add, list and remove terminals
    #[command(subcommand)]
    Terminal(terminal::Action),
    /// Add, list and remove tokens of the operator's API
    #[command(subcommand)]
    Token(token::Action),
    /// List the apps of the running process: state, last use, next sleep
    Apps(apps::ListOptions),
    /// Wake an app; exit code 1 if it does not become ready
    Wake(apps::WakeOptions),
    /// Stop or pause an app until it is requested again
    Sleep(apps::SleepOptions),
    /// Show who sent requests, and what was done about them
    #[command(subcommand)]
    Ledger(ledger::Action),
    /// List, replay and dismiss the records that the database did not take
    #[command(subcommand)]
    Deadletter(deadletter::Action),
    /// List the alerts that fire, or silence one; exit code 1 if any fires
    Alerts(alerts::Options),
    /// List the addresses that have to wait after too many wrong credentials, or lift a limit
    #[command(subcommand)]
    Limits(limits::Action),
    /// List periodic jobs: last run, outcome, next run; or run one now
    Jobs(jobs::Options),
    /// List, test, add and remove the endpoints of messages, and show what was sent
    #[command(subcommand)]
    Webhook(webhook::Action),
    /// Answer in the gate's place while it is down, with 503 and a page that continues by
    /// itself; or print that page
    Standby(standby::Options),
    /// Print Traefik's dynamic configuration for this box
    Traefik(traefik::Options),
    /// Print a file for Caddy or nginx with the apps of this box
    #[command(subcommand)]
    Proxy(proxy::Proxy),
    /// Check the health of the running process; exit code 1 if it is unhealthy
    Healthcheck(healthcheck::Options),
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
enum CliError {
    #[error("{0}")]
    Configuration(#[from] Findings),
    #[error("the store cannot answer: {0}")]
    Store(#[from] Unavailable),
    #[error("the ledger cannot be read: {0}")]
    Ledger(#[from] ArchiveError),
    #[error("{0}")]
    Message(String),
    /// What was asked for does not exist; that is a negative result.
    #[error("{0}")]
    NotFound(String),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// The result of a subcommand: its exit code.
type CommandResult = Result<ExitCode, CliError>;

/// Runs the process's own command line.
#[must_use]
pub fn main() -> ExitCode {
    run(std::env::args_os(), &environment(), &mut io::stdout())
}

/// Returns the process's environment; text that is not valid Unicode is converted lossily.
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
        // clap also returns the texts of --help and --version as errors.
        Err(error) => {
            let printed = error.print();
            let code = if error.use_stderr() || printed.is_err() { FAILED } else { 0 };
            return code.into();
        }
    };
    match arguments.execute(env, out).and_then(|code| Ok(out.flush().map(|()| code)?)) {
        Ok(code) => code,
        // The reader of the output, such as `head`, has closed it: that is not a failure.
        Err(CliError::Io(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            // If standard error is closed, there is nowhere left to report that.
            let _ = writeln!(io::stderr(), "nightporter: {error}");
            let is_negative = matches!(error, CliError::NotFound(_));
            if is_negative { NEGATIVE.into() } else { FAILED.into() }
        }
    }
}

impl Arguments {
    fn execute(self, env: &Environment, out: &mut dyn Write) -> CommandResult {
        let Self { config: file, command } = self;
        let file = file.or_else(|| default_file(env));
        let file = file.as_deref();
        let load = || load_config(file, env);
        match command.unwrap_or(Command::Serve) {
            Command::Serve => serve::run(file, env, out),
            Command::Check(options) => check::run(&options, load(), out),
            Command::Config(action) => config::run(&action, file, env, out),
            Command::Explain(options) => explain::run(&options, &load()?, out),
            Command::Migrate => migrate::run(&load()?, out),
            Command::Terminal(action) => terminal::run(&action, &load()?, out),
            Command::Token(action) => token::run(&action, &load()?, out),
            Command::Apps(options) => apps::list(&options, &load()?, out),
            Command::Wake(options) => apps::wake(&options, &load()?, out),
            Command::Sleep(options) => apps::sleep_app(&options, &load()?, out),
            Command::Alerts(options) => alerts::run(&options, &load()?, out),
            Command::Limits(action) => limits::run(&action, &load()?, out),
            Command::Jobs(options) => jobs::run(&options, &load()?, out),
            Command::Ledger(action) => ledger::run(&action, || Ok(load()?), out),
            Command::Deadletter(action) => deadletter::run(&action, &load()?, out),
            Command::Webhook(action) => webhook::run(&action, &load()?, out),
            Command::Standby(options) => standby::run(&options, load, out),
            Command::Traefik(options) => traefik::run(&options, &load()?, out),
            Command::Proxy(proxy) => proxy::run(&proxy, &load()?, out),
            Command::Healthcheck(options) => healthcheck::run(&options, &load()?, out),
        }
    }
}

/// Returns the file that the environment names, else the first default file that exists.
fn default_file(env: &Environment) -> Option<PathBuf> {
    let named = env.get("NIGHTPORTER_CONFIG").filter(|name| !name.is_empty());
    let existing = || DEFAULT_FILES.into_iter().find(|name| Path::new(name).exists());
    named.map(String::as_str).or_else(existing).map(PathBuf::from)
}

/// Runs a short task to completion on a single-threaded runtime.
fn wait<T>(task: impl Future<Output = Result<T, CliError>>) -> Result<T, CliError> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(task)
}

#[expect(clippy::disallowed_methods, reason = "a command reads the clock and passes it on")]
fn wall_clock() -> SystemTime {
    SystemTime::now()
}

/// Returns the box's domain: the configured one, else that of its identity.
async fn domain(config: &Config, source: &crate::store::Source) -> Result<String, CliError> {
    if let Some(domain) = &config.gate.domain {
        return Ok(domain.clone());
    }
    let identity = source.identity().await?;
    identity.map(|identity| identity.domain).ok_or_else(|| {
        CliError::Message(
            "the box has no identity yet; set `gate.domain` to the box's domain".into(),
        )
    })
}
