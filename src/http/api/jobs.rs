//! Periodic jobs: when each was run, by whom, and when it is due.

use std::sync::Arc;

use http::StatusCode;
use schemars::JsonSchema;
use serde::Serialize;

use super::outcome::Outcome;
use super::problem::Problem;
use super::query::Query;
use super::{Call, Services, json, ok};
use crate::access::Viewer;
use crate::http::Response;
use crate::jobs::{Jobs, Plan, Status};
use crate::ledger::archive::JobRow;
use crate::ledger::checkpoint::rfc3339;
use crate::ledger::record::Micros;

/// `GET /v1/jobs`
pub(super) async fn list(services: &Services, call: Call) -> Result<Response, Problem> {
    let jobs = jobs(services)?.list().await?;
    let viewer = call.viewer_of_texts();
    Ok(ok(&List { jobs: jobs.iter().map(|status| Job::new(status, &viewer)).collect() }))
}

/// `GET /v1/jobs/{name}/runs`: the latest first.
pub(super) async fn runs(services: &Services, call: Call) -> Result<Response, Problem> {
    let mut query = Query::parse(call.request.uri().query())?;
    let limit = query.limit()?;
    let before = query.value("after", "the `next` of an answer", |text| {
        text.parse::<i64>().ok().filter(|number| *number >= 0)
    })?;
    query.end()?;
    let name = call.parameters.get("name");
    // One more tells whether there is a next page.
    let runs = jobs(services)?.runs(name, before, limit + 1).await;
    let runs = runs.ok_or_else(|| Problem::not_found(format!("there is no job `{name}`")))?;
    let mut runs = runs?;
    let is_more = runs.len() > limit;
    runs.truncate(limit);
    let next = runs.last().filter(|_| is_more).map(|run| run.number.to_string());
    let viewer = call.viewer_of_texts();
    let runs = runs.iter().filter_map(|run| LastRun::from_row(&run.row, &viewer)).collect();
    Ok(ok(&RunLog { name, runs, next }))
}

/// `POST /v1/jobs/{name}/run`: makes a job due, and does not wait for it. As long as it is not
/// known whose job that is, it would be due for nobody.
pub(super) async fn run_now(services: &Services, call: Call) -> Result<Outcome<'_>, Problem> {
    let (name, jobs) = (call.parameters.get("name"), jobs(services)?);
    if !jobs.has(name) {
        return Err(Problem::not_found(format!("there is no job `{name}`")));
    }
    services.own_rows(&call)?;
    let asked = jobs.run_now(name).await;
    let asked = asked.ok_or_else(|| Problem::not_found(format!("there is no job `{name}`")))??;
    let response = json(StatusCode::ACCEPTED, &RequestedRun { name, next_run: text(asked.due) });
    let (transaction, runner) = asked.into_parts();
    Ok(Outcome { transaction, ..response.into() }.after_commit(move || runner.notify()))
}

fn jobs(services: &Services) -> Result<&Arc<Jobs>, Problem> {
    services.jobs.as_ref().ok_or_else(|| Problem::ledger_disabled("there are no jobs"))
}

/// All jobs.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Jobs")]
pub(super) struct List {
    jobs: Vec<Job>,
}

/// A job. Times are those of RFC 3339, in UTC, by the database's clock.
#[derive(Debug, Serialize, JsonSchema)]
struct Job {
    name: &'static str,
    interval_seconds: f64,
    last_run: Option<LastRun>,
    next_run: Option<String>,
    /// Who runs it now.
    holder: Option<String>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct LastRun {
    started: String,
    ended: Option<String>,
    duration_seconds: Option<f64>,
    /// While a run goes on, that of the one before. Without the right `pii`, its first word.
    outcome: Option<String>,
    /// The writer that ran it.
    by: Option<String>,
}

/// Runs of a job, the latest first. Those that found nothing to do are not among them.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "JobRuns")]
pub(super) struct RunLog<'a> {
    name: &'a str,
    runs: Vec<LastRun>,
    /// Passed as `after`, it selects the runs before these.
    next: Option<String>,
}

impl LastRun {
    /// Returns `None` if the job has not been run.
    fn from_row(row: &JobRow, viewer: &Viewer) -> Option<Self> {
        let JobRow { name: _, due: _, started, ended, outcome, by } = row;
        let started = (*started)?;
        Some(Self {
            started: text(started),
            ended: ended.map(text),
            duration_seconds: ended.map(|ended| seconds(Micros(ended.0 - started.0))),
            outcome: outcome.as_deref().map(|outcome| shown(outcome, viewer)),
            by: by.map(|writer| format!("{writer:016x}")),
        })
    }
}

/// A job that was made due.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "JobRun")]
pub(super) struct RequestedRun<'a> {
    name: &'a str,
    next_run: String,
}

/// Returns an outcome as it is shown: what a job has failed with may quote anything.
fn shown(outcome: &str, viewer: &Viewer) -> String {
    if !viewer.is_masked() {
        return outcome.to_owned();
    }
    let end = outcome.find(|c: char| !c.is_ascii_lowercase()).unwrap_or(outcome.len());
    viewer.word(&outcome[..end]).into_owned()
}

impl Job {
    fn new(Status { plan, row, holder }: &Status, viewer: &Viewer) -> Self {
        let Plan { name, row: _, interval, limit: _ } = plan;
        let last_run = row.as_ref().and_then(|row| LastRun::from_row(row, viewer));
        Self {
            name,
            interval_seconds: interval.as_secs_f64(),
            last_run,
            next_run: row.as_ref().map(|row| text(row.due)),
            holder: holder.clone(),
        }
    }
}

fn text(at: Micros) -> String {
    rfc3339(at).to_string()
}

#[expect(clippy::cast_precision_loss, reason = "durations stay far below 2^53 microseconds")]
fn seconds(duration: Micros) -> f64 {
    duration.0 as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_an_outcome_the_first_word_is_shown_to_those_who_see_no_personal_values() {
        let masked = Viewer::masked(None, "box");
        for (outcome, word) in [
            ("done", "done"),
            ("failed: no row for Ada", "failed"),
            ("failed 3 times in a row: no row for Ada", "failed"),
            ("Ada", ""),
            ("", ""),
        ] {
            assert_eq!(shown(outcome, &masked), word, "{outcome}");
            assert_eq!(shown(outcome, &Viewer::clear()), outcome);
        }
    }
}
