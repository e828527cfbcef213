//! `nightporter ledger list`: a part of the record, the newest first.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Args;
use serde::Deserialize;
use serde_json::Value;

use super::query::{Filter, Query};
use super::record::{Record, Table};
use crate::cli::ask::Ops;
use crate::cli::{CliError, CommandResult, wait, wall_clock};
use crate::config::Config;

/// The most records that are asked for at once.
const PAGE: usize = 500;

#[derive(Debug, Args)]
pub(in crate::cli) struct Options {
    #[command(flatten)]
    filter: Filter,
    /// The most records to list
    #[arg(long, default_value_t = 50)]
    limit: usize,
    /// List the oldest first
    #[arg(long)]
    oldest_first: bool,
    /// Print each record as a line of JSON
    #[arg(long)]
    json: bool,
}

/// An answer of the process.
#[derive(Debug, Deserialize)]
pub(super) struct Page {
    pub(super) requests: Vec<Value>,
    pub(super) next: Option<String>,
    left_out: LeftOut,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default)]
struct LeftOut {
    dropped: u64,
    in_spool: u64,
}

pub(super) fn run(options: &Options, config: &Config, out: &mut dyn Write) -> CommandResult {
    let ops = Ops::new(config)?;
    let mut query = options.filter.query(wall_clock());
    if options.oldest_first {
        query.add("order", "asc");
    }
    let (values, left_out) = wait(collect(&ops, &query, options.limit))?;
    if options.json {
        for value in &values {
            writeln!(out, "{value}")?;
        }
    } else {
        let records = values.into_iter().map(|value| ops.read(value));
        let records: Vec<Record> = records.collect::<Result<_, _>>()?;
        let table = Table::fitting(&records);
        table.headings(out)?;
        for record in &records {
            table.record(out, record)?;
        }
    }
    out.flush()?;
    say_left_out(left_out);
    Ok(ExitCode::SUCCESS)
}

/// Reads page after page until `limit` records are there.
async fn collect(
    ops: &Ops<'_>,
    query: &Query,
    limit: usize,
) -> Result<(Vec<Value>, LeftOut), CliError> {
    let (mut values, mut after) = (Vec::new(), None::<String>);
    loop {
        let missing = limit - values.len();
        let mut query = query.clone();
        query.add("limit", &missing.clamp(1, PAGE).to_string());
        if let Some(after) = &after {
            query.add("after", after);
        }
        let Page { requests, next, left_out } = ops.get(&query.append_to("/v1/requests")).await?;
        values.extend(requests.into_iter().take(missing));
        if next.is_none() || values.len() >= limit {
            return Ok((values, left_out));
        }
        after = next;
    }
}

/// Tells on standard error what the list cannot show.
fn say_left_out(left_out: LeftOut) {
    let LeftOut { dropped, in_spool } = left_out;
    let mut err = io::stderr();
    // If standard error is closed, there is nowhere to report that.
    if in_spool > 0 {
        let _ = writeln!(err, "{in_spool} more records wait on the disk for the archive");
    }
    if dropped > 0 {
        let _ = writeln!(err, "{dropped} records were dropped; `--kind loss` lists when");
    }
}
