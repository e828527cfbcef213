//! `nightporter ledger export`: all records, one a line.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use super::open;
use super::progress::Progress;
use crate::access::Viewer;
use crate::cli::{CliError, CommandResult, NEGATIVE, wait};
use crate::config::Config;
use crate::ledger::canonical::masked;
use crate::ledger::form::RecordForm;
use crate::ledger::record::{RecordId, RecordRow};

/// How many records are in memory at the same time.
const PAGE: usize = 2_000;

/// How many records that cannot be read are named.
const MAX_NAMED: usize = 10;

#[derive(Debug, Args)]
pub(in crate::cli) struct Options {
    /// Put digests in place of client ids, names, addresses, paths and the texts of notes
    #[arg(long)]
    masked: bool,
}

/// A line: the record as in a proof, and its position.
#[derive(Debug, Serialize)]
struct Line {
    position: Option<i64>,
    #[serde(flatten)]
    record: RecordForm,
}

pub(super) fn run(options: &Options, config: &Config, out: &mut dyn Write) -> CommandResult {
    let mut lines =
        Lines { is_masked: options.masked, count: 0, out, unreadable: 0, named: Vec::new() };
    wait(async {
        let (ledger, tenant) = open(config).await?;
        let mut snapshot = ledger.archive.snapshot().await?;
        let mut progress = Progress::new("exported");
        let mut from = Some(0);
        while let Some(first) = from {
            let page = snapshot.records(&tenant, first, PAGE).await?;
            let last = page.last().and_then(|row| row.position);
            from = last.and_then(|last| last.checked_add(1));
            lines.write(page)?;
            progress.show(lines.count, None);
        }
        let mut after = None;
        loop {
            let page = snapshot.unplaced(&tenant, after, PAGE).await?;
            let Some(last) = page.last() else { return Ok::<_, CliError>(()) };
            after = Some(last.id);
            lines.write(page)?;
            progress.show(lines.count, None);
        }
    })?;
    lines.out.flush()?;
    Ok(lines.say_unreadable())
}

struct Lines<'a> {
    is_masked: bool,
    count: u64,
    out: &'a mut dyn Write,
    /// How many records cannot be read, and the first of them.
    unreadable: u64,
    named: Vec<(RecordId, Box<str>)>,
}

impl Lines<'_> {
    fn write(&mut self, page: Vec<RecordRow>) -> Result<(), CliError> {
        for RecordRow { id, position, record } in page {
            let record = match record {
                Ok(record) => record,
                Err(problem) => {
                    self.unreadable += 1;
                    if self.named.len() < MAX_NAMED {
                        self.named.push((id, problem));
                    }
                    continue;
                }
            };
            let record = if self.is_masked {
                RecordForm::of_masked(&masked(record), &Viewer::masked(None, ""))
            } else {
                RecordForm::new(&record, &Viewer::clear())
            };
            let line = Line { position, record };
            let line = serde_json::to_string(&line).map_err(std::io::Error::from)?;
            writeln!(self.out, "{line}")?;
            self.count += 1;
        }
        Ok(())
    }

    /// Says on standard error which records are missing from the export; returns the exit code.
    fn say_unreadable(&self) -> ExitCode {
        let mut err = io::stderr();
        // If standard error is closed, the exit code says it alone.
        for (id, problem) in &self.named {
            let _ = writeln!(err, "record {id} cannot be read: {problem}");
        }
        if self.unreadable == 0 {
            return ExitCode::SUCCESS;
        }
        let count = self.unreadable;
        let _ = writeln!(err, "records that cannot be read and are not in the export: {count}");
        NEGATIVE.into()
    }
}
