//! `nightporter ledger export`: all records, one a line.

use std::io::Write;
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use super::open;
use super::progress::Progress;
use crate::access::Viewer;
use crate::cli::{CliError, CommandResult, wait};
use crate::config::Config;
use crate::ledger::canonical::masked;
use crate::ledger::form::RecordForm;
use crate::ledger::record::Stored;

/// How many records are in memory at the same time.
const PAGE: usize = 2_000;

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
    wait(async {
        let (ledger, tenant) = open(config).await?;
        let mut snapshot = ledger.archive.snapshot().await?;
        let mut lines = Lines { is_masked: options.masked, count: 0, out };
        let mut progress = Progress::new("exported");
        let mut from = Some(0);
        while let Some(first) = from {
            let page = snapshot.records(&tenant, first, PAGE).await?;
            let last = page.last().and_then(|stored| stored.position);
            from = last.and_then(|last| last.checked_add(1));
            lines.write(page)?;
            progress.show(lines.count, None);
        }
        let mut after = None;
        loop {
            let page = snapshot.unplaced(&tenant, after, PAGE).await?;
            let Some(last) = page.last() else { return Ok(ExitCode::SUCCESS) };
            after = Some(last.record.id);
            lines.write(page)?;
            progress.show(lines.count, None);
        }
    })
}

struct Lines<'a> {
    is_masked: bool,
    count: u64,
    out: &'a mut dyn Write,
}

impl Lines<'_> {
    fn write(&mut self, page: Vec<Stored>) -> Result<(), CliError> {
        for Stored { record, position } in page {
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
}
