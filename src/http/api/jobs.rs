//! Periodic jobs: when each was run, by whom, and when it is due.

use std::sync::Arc;

use http::StatusCode;
use serde_json::{Value, json};

use super::problem::Problem;
use super::{Call, Services};
use crate::http::{Response, answer, body};
use crate::jobs::{Jobs, Plan, Status};
use crate::ledger::archive::JobRow;
use crate::ledger::checkpoint::rfc3339;
use crate::ledger::record::Micros;

/// `GET /v1/jobs`
pub(super) async fn list(services: &Services) -> Result<Response, Problem> {
    let jobs = jobs(services)?.list().await?;
    let body = json!({"jobs": jobs.iter().map(describe).collect::<Value>()});
    Ok(answer::json(StatusCode::OK, body.to_string().into()))
}

/// `POST /v1/jobs/{name}/run`: makes a job due, and does not wait for it.
pub(super) async fn run_now(services: &Services, call: Call<'_>) -> Response {
    let Call { principal: _, parameters, request } = call;
    // As for operations on apps: a request that did not arrive whole has no effect.
    if let Err(error) = body::read_unused(request.into_body()).await {
        return error.answer();
    }
    let name = parameters.get("name");
    let asked = match jobs(services) {
        Ok(jobs) => jobs.run_now(name).await,
        Err(problem) => return problem.answer(),
    };
    match asked {
        None => Problem::not_found(format!("there is no job `{name}`")).answer(),
        Some(Ok(due)) => {
            let body = json!({"name": name, "next_run": text(due)});
            answer::json(StatusCode::ACCEPTED, body.to_string().into())
        }
        Some(Err(error)) => Problem::from(error).answer(),
    }
}

fn jobs(services: &Services) -> Result<&Arc<Jobs>, Problem> {
    let disabled = || Problem::not_found("there are no jobs: `ledger.enabled` is false");
    services.jobs.as_ref().ok_or_else(disabled)
}

fn describe(status: &Status) -> Value {
    let Status { plan, row, holder } = status;
    let Plan { name, row: _, interval, limit: _ } = plan;
    let last_run = row.as_ref().and_then(|row| {
        let JobRow { name: _, due: _, started, ended, outcome, by } = row;
        let started = (*started)?;
        let duration = ended.map(|ended| seconds(Micros(ended.0 - started.0)));
        Some(json!({
            "started": text(started),
            "ended": ended.map(text),
            "duration_seconds": duration,
            // While a run goes on, that of the one before.
            "outcome": outcome,
            "by": by.map(|writer| format!("{writer:016x}")),
        }))
    });
    json!({
        "name": name,
        "interval_seconds": interval.as_secs_f64(),
        "last_run": last_run,
        "next_run": row.as_ref().map(|row| text(row.due)),
        "holder": holder,
    })
}

fn text(at: Micros) -> String {
    rfc3339(at).to_string()
}

#[expect(clippy::cast_precision_loss, reason = "durations stay far below 2^53 microseconds")]
fn seconds(duration: Micros) -> f64 {
    duration.0 as f64 / 1e6
}
