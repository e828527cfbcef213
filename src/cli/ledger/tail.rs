//! `nightporter ledger tail`: the last records, and new ones as they come.

use std::io::{self, Write};
use std::time::Duration;

use clap::Args;
use http::{HeaderName, Method};
use http_body_util::BodyExt as _;
use tokio::time::sleep;

use super::list::Page;
use super::query::{Filter, Query};
use super::record::{Record, Table};
use crate::cli::ask::Ops;
use crate::cli::{CliError, CommandResult, wait, wall_clock};
use crate::config::Config;

/// How long a process that is being restarted may take to answer again is up to it; it is
/// asked this often.
const RETRY: Duration = Duration::from_secs(1);

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

#[derive(Debug, Args)]
pub(in crate::cli) struct Options {
    #[command(flatten)]
    filter: Filter,
    /// How many of the last records to print first
    #[arg(short = 'n', long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(0..=500))]
    lines: u16,
    /// Print each record as a line of JSON
    #[arg(long)]
    json: bool,
}

/// The position before the first one.
const BEGINNING: i64 = -1;

pub(super) fn run(options: &Options, config: &Config, out: &mut dyn Write) -> CommandResult {
    let ops = Ops::new(config)?;
    let query = options.filter.query(wall_clock());
    let mut printer = Printer { out, table: (!options.json).then(Table::open_ended) };
    wait(async {
        let mut last = print_last(&ops, &query, options.lines, &mut printer).await?;
        let mut is_first = true;
        loop {
            match follow(&ops, &query, &mut last, &mut printer).await {
                // Only the first attempt says that something is wrong with the question.
                Err(error @ CliError::Message(_)) if is_first => return Err(error),
                Err(CliError::Message(error)) => say(&format!("{error}; trying again"))?,
                Err(error) => return Err(error),
                Ok(()) => {}
            }
            is_first = false;
            sleep(RETRY).await;
        }
    })
}

/// Prints the last records that have a position, and returns after which one to go on.
async fn print_last(
    ops: &Ops<'_>,
    query: &Query,
    lines: u16,
    printer: &mut Printer<'_>,
) -> Result<i64, CliError> {
    let mut query = query.clone();
    query.add("limit", &lines.max(1).to_string());
    let mut known = Vec::new();
    let mut after = None::<String>;
    // Those without a position come first, and again as events.
    while known.is_empty() {
        let mut query = query.clone();
        if let Some(after) = &after {
            query.add("after", after);
        }
        let page: Page = ops.get(&query.append_to("/v1/requests")).await?;
        known = page.requests;
        known.retain(|record| record["position"].is_i64());
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    printer.headings()?;
    let last = known.first().and_then(|record| record["position"].as_i64());
    if lines > 0 {
        for record in known.iter().rev() {
            printer.print(&record.to_string())?;
        }
    }
    Ok(last.unwrap_or(BEGINNING))
}

/// Prints events until the stream ends.
async fn follow(
    ops: &Ops<'_>,
    query: &Query,
    last: &mut i64,
    printer: &mut Printer<'_>,
) -> Result<(), CliError> {
    let headers = [(LAST_EVENT_ID, &*last.to_string())];
    let response = ops.open(Method::GET, &query.append_to("/v1/events"), &headers).await?;
    let mut body = response.into_body();
    let mut events = Events::default();
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return Ok(()) };
        let Ok(bytes) = frame.into_data() else { continue };
        for Event { id, data } in events.read(&bytes) {
            printer.print(&data)?;
            *last = id;
        }
    }
    Ok(())
}

/// One event: a record and its position.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Event {
    id: i64,
    data: String,
}

/// Reads events as `/v1/events` writes them: the id and one line of data.
#[derive(Debug, Default)]
struct Events {
    /// A line of which the end has not arrived.
    line: Vec<u8>,
    event: Event,
}

impl Events {
    fn read(&mut self, bytes: &[u8]) -> Vec<Event> {
        let mut complete = Vec::new();
        for byte in bytes {
            if *byte != b'\n' {
                self.line.push(*byte);
                continue;
            }
            let line = String::from_utf8_lossy(&self.line).into_owned();
            self.line.clear();
            if let Some(id) = line.strip_prefix("id: ") {
                self.event.id = id.parse().unwrap_or(BEGINNING);
            } else if let Some(data) = line.strip_prefix("data: ") {
                data.clone_into(&mut self.event.data);
            } else if line.is_empty() && !self.event.data.is_empty() {
                complete.push(std::mem::take(&mut self.event));
            }
        }
        complete
    }
}

/// Prints records as they come.
struct Printer<'a> {
    out: &'a mut dyn Write,
    /// `None` prints JSON.
    table: Option<Table>,
}

impl Printer<'_> {
    fn headings(&mut self) -> io::Result<()> {
        self.table.as_ref().map_or(Ok(()), |table| table.headings(self.out))
    }

    fn print(&mut self, record: &str) -> Result<(), CliError> {
        match &self.table {
            None => writeln!(self.out, "{record}")?,
            Some(table) => {
                let record: Record = serde_json::from_str(record)
                    .map_err(|error| CliError::Message(format!("invalid record: {error}")))?;
                table.record(self.out, &record)?;
            }
        }
        Ok(self.out.flush()?)
    }
}

fn say(text: &str) -> io::Result<()> {
    writeln!(io::stderr(), "nightporter: {text}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_wherever_the_stream_is_cut() {
        let stream = "retry: 1000\n\nid: 7\ndata: {\"a\":\"ü\"}\n\n:\n\nid: 8\ndata: {}\n\nid: 9\n";
        let expected =
            [Event { id: 7, data: "{\"a\":\"ü\"}".into() }, Event { id: 8, data: "{}".into() }];
        for cut in 0..stream.len() {
            let mut events = Events::default();
            let mut read = events.read(&stream.as_bytes()[..cut]);
            read.extend(events.read(&stream.as_bytes()[cut..]));
            assert_eq!(read, expected, "{cut}");
        }
    }
}
