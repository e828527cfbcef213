//! `nightporter jobs`: the periodic jobs of the running process.

use std::io::Write;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use http::Method;
use serde::Deserialize;
use serde_json::Value;

use super::ask::{Ops, segment};
use super::{CommandResult, wait};
use crate::config::Config;

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Options {
    /// Print the last runs of this job instead of all jobs
    name: Option<String>,
    /// How many runs to print
    #[arg(long, default_value_t = 20, requires = "name",
        value_parser = clap::value_parser!(u16).range(1..=500))]
    limit: u16,
    /// Print the response of the process, as JSON
    #[arg(long)]
    json: bool,
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Run a job now instead of when it is due; exit code 1 if there is none with this name
    Run {
        /// The job's name
        name: String,
        /// Print the response of the process, as JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Deserialize)]
struct Answer {
    jobs: Vec<Job>,
}

#[derive(Debug, Deserialize)]
struct Job {
    name: String,
    last_run: Option<LastRun>,
    next_run: Option<String>,
    holder: Option<String>,
}

#[derive(Debug, Deserialize)]
struct LastRun {
    started: String,
    duration_seconds: Option<f64>,
    outcome: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Runs {
    runs: Vec<LastRun>,
}

pub(super) fn run(options: &Options, config: &Config, out: &mut dyn Write) -> CommandResult {
    let ops = Ops::new(config)?;
    match &options.action {
        None => {
            let path = match &options.name {
                Some(name) => format!("/v1/jobs/{}/runs?limit={}", segment(name), options.limit),
                None => "/v1/jobs".to_owned(),
            };
            let answer: Value = wait(ops.get(&path))?;
            if options.json {
                writeln!(out, "{answer}")?;
            } else if options.name.is_some() {
                runs(&ops.read::<Runs>(answer)?.runs, out)?;
            } else {
                table(&ops.read::<Answer>(answer)?.jobs, out)?;
            }
        }
        Some(Action::Run { name, json }) => {
            let path = format!("/v1/jobs/{}/run", segment(name));
            let answer: Value = wait(ops.ask(Method::POST, &path))?;
            if *json {
                writeln!(out, "{answer}")?;
            } else {
                writeln!(out, "{name}: due now")?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn table(jobs: &[Job], out: &mut dyn Write) -> std::io::Result<()> {
    let width = jobs.iter().map(|job| job.name.chars().count()).max().unwrap_or(0).max(3);
    writeln!(
        out,
        "{:<width$}  {:<20}  {:>8}  {:<20}  OUTCOME",
        "JOB", "LAST RUN", "TOOK", "NEXT RUN"
    )?;
    for Job { name, last_run, next_run, holder } in jobs {
        let last = last_run.as_ref();
        let took = match (last.map(|run| run.duration_seconds), holder) {
            (Some(Some(seconds)), _) => format!("{seconds:.3} s"),
            (Some(None), Some(_)) => "running".into(),
            (Some(None), None) => "cut off".into(),
            (None, _) => "-".into(),
        };
        writeln!(
            out,
            "{name:<width$}  {:<20}  {took:>8}  {:<20}  {}",
            last.map_or("-".into(), |run| to_seconds(&run.started)),
            next_run.as_deref().map_or("-".into(), to_seconds),
            last.and_then(|run| run.outcome.as_deref()).unwrap_or("-"),
        )?;
        if let Some(holder) = holder {
            writeln!(out, "{:<width$}  run by {holder}", "")?;
        }
    }
    Ok(())
}

fn runs(runs: &[LastRun], out: &mut dyn Write) -> std::io::Result<()> {
    writeln!(out, "{:<20}  {:>8}  OUTCOME", "STARTED", "TOOK")?;
    for LastRun { started, duration_seconds, outcome } in runs {
        let took = duration_seconds.map_or("-".into(), |seconds| format!("{seconds:.3} s"));
        let outcome = outcome.as_deref().unwrap_or("-");
        writeln!(out, "{:<20}  {took:>8}  {outcome}", to_seconds(started))?;
    }
    Ok(())
}

/// Returns a time as in RFC 3339 without its fraction of a second.
fn to_seconds(time: &str) -> String {
    match time.split_once('.') {
        Some((seconds, _)) => format!("{seconds}Z"),
        None => time.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_are_listed_in_columns() {
        let answer = serde_json::json!({"jobs": [
            {"name": "integrity", "interval_seconds": 2.0, "holder": null,
             "last_run": {"started": "2026-11-30T12:00:00.123456Z", "ended": "...",
                          "duration_seconds": 0.0123, "outcome": "done", "by": "1f"},
             "next_run": "2026-11-30T12:00:02.123456Z"},
            {"name": "probes", "interval_seconds": 300.0, "holder": "process 7",
             "last_run": {"started": "2026-11-30T12:00:00.5Z", "ended": null,
                          "duration_seconds": null, "outcome": null, "by": "1f"},
             "next_run": "2026-11-30T11:59:59Z"},
            {"name": "retention", "interval_seconds": 3600.0, "holder": null,
             "last_run": null, "next_run": null},
        ]});
        let answer: Answer = serde_json::from_value(answer).expect("as the process answers");
        let mut out = Vec::new();
        table(&answer.jobs, &mut out).expect("written");
        let text = String::from_utf8(out).expect("text");
        let lines: Vec<_> = text.lines().collect();
        let expected = [
            "JOB        LAST RUN                  TOOK  NEXT RUN              OUTCOME",
            "integrity  2026-11-30T12:00:00Z   0.012 s  2026-11-30T12:00:02Z  done",
            "probes     2026-11-30T12:00:00Z   running  2026-11-30T11:59:59Z  -",
            "           run by process 7",
            "retention  -                            -  -                     -",
        ];
        assert_eq!(lines, expected);
    }
}
