//! `nightporter limits`: who has to wait after too many wrong credentials.

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use clap::Subcommand;
use http::Method;
use serde::Deserialize;
use serde_json::Value;

use super::ask::{Ops, segment};
use super::{CommandResult, wait};
use crate::config::Config;

#[derive(Debug, Subcommand)]
pub(super) enum Action {
    /// List the addresses that have to wait, the longest wait first
    List {
        /// Print the response of the process, as JSON
        #[arg(long)]
        json: bool,
    },
    /// Let an address try again at once; exit code 1 if it does not have to wait
    Lift {
        /// An address, or the /64 of an IPv6 address
        address: String,
    },
}

#[derive(Debug, Deserialize)]
struct List {
    limits: Vec<Limit>,
}

#[derive(Debug, Deserialize)]
struct Limit {
    address: String,
    guesses: u32,
    wait_seconds: u64,
}

pub(super) fn run(action: &Action, config: &Config, out: &mut dyn Write) -> CommandResult {
    let ops = Ops::new(config)?;
    match action {
        Action::List { json } => {
            let answer: Value = wait(ops.get("/v1/limits"))?;
            if *json {
                writeln!(out, "{answer}")?;
                return Ok(ExitCode::SUCCESS);
            }
            let List { limits } = ops.read(answer)?;
            if limits.is_empty() {
                writeln!(out, "no address has to wait")?;
            }
            for Limit { address, guesses, wait_seconds } in limits {
                let wait = humantime::format_duration(Duration::from_secs(wait_seconds));
                writeln!(out, "{address:<24} {guesses:>3} wrong credentials, waits for {wait}")?;
            }
        }
        Action::Lift { address } => {
            let path = format!("/v1/limits/{}", segment(address));
            let _: Value = wait(ops.ask(Method::DELETE, &path))?;
            writeln!(out, "{address} may try again")?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
