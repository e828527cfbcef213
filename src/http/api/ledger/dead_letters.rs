//! Dead letters: batches that the archive did not take.
//!
//! A letter is a file, so what is done to it is not in one transaction with the answer that an
//! idempotency key stores. If the process ends in between, the request is done again. A replay
//! changes nothing then, since records are known by their (writer, number), or finds no letter; a
//! dismissal finds none, says that it was done, and is not recorded anew.

use std::sync::Arc;

use http::StatusCode;
use schemars::JsonSchema;
use serde::Serialize;
use tracing::warn;

use super::{Call, Problem, Services, ok};
use crate::access::{Private, Viewer};
use crate::http::Response;
use crate::idempotency::table::Execution;
use crate::ledger::acts::Act;
use crate::ledger::archive::ArchiveError;
use crate::ledger::clock;
use crate::ledger::dead_letter::{Detail, LetterError, Outcome, Stats, Summary};
use crate::ledger::form::RecordForm;
use crate::ledger::spool::SetAsideFile;

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "DeadLetter")]
struct ShownLetter<'a> {
    id: &'a str,
    bytes: u64,
    retries: u32,
    /// Whether it waits for the operator.
    is_given_up: bool,
    error: Option<String>,
}

/// A dead letter with its records.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "DeadLetterWithRecords")]
pub(in super::super) struct LetterWithRecords<'a> {
    #[serde(flatten)]
    letter: ShownLetter<'a>,
    records: Vec<RecordForm>,
}

/// A page of dead letters.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "DeadLetters")]
pub(in super::super) struct List<'a> {
    dead_letters: Vec<ShownLetter<'a>>,
    /// The `after` of the next page.
    next: Option<&'a str>,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "DeadLetterStats")]
pub(in super::super) struct Totals<'a> {
    letters: usize,
    bytes: u64,
    max_bytes: u64,
    /// Letters that wait for the operator.
    given_up: usize,
    bad: Vec<SetAside<'a>>,
    /// Why no letter can be written or read. Without the right `pii`, `…`.
    problem: Option<String>,
}

/// A file that is not a dead letter.
#[derive(Debug, Serialize, JsonSchema)]
struct SetAside<'a> {
    name: &'a str,
    /// Without the right `pii`, `…`.
    reason: String,
    bytes: u64,
}

#[derive(Debug, Serialize, JsonSchema)]
pub(in super::super) struct Replayed {
    /// How many records were written.
    replayed: usize,
    /// Why the others were refused.
    error: Option<String>,
}

#[derive(Debug, Serialize, JsonSchema)]
pub(in super::super) struct Dismissed {
    /// How many records were given up.
    dismissed: usize,
}

impl<'a> ShownLetter<'a> {
    fn new(summary: &'a Summary, viewer: &Viewer) -> Self {
        let Summary { id, bytes, retries, is_given_up, error } = summary;
        let (bytes, retries, is_given_up) = (*bytes, *retries, *is_given_up);
        let error = error.as_deref().map(|error| quoted(error, viewer));
        Self { id, bytes, retries, is_given_up, error }
    }
}

/// Returns what a database or a file system has said: it may quote a value.
fn quoted(error: &str, viewer: &Viewer) -> String {
    viewer.show(Private::Text(error), clock::now())
}

/// `GET /v1/deadletter/stats`
pub(in super::super) async fn stats(services: &Services, call: Call) -> Result<Response, Problem> {
    let history = services.history()?;
    call.query()?.end()?;
    let Stats { letters, bytes, max_bytes, given_up, bad, problem } =
        history.letters().stats().await?;
    let viewer = call.viewer_of_texts();
    let bad = bad.iter().map(|SetAsideFile { name, reason, bytes }| SetAside {
        name,
        reason: quoted(reason, &viewer),
        bytes: *bytes,
    });
    let bad = bad.collect();
    let problem = problem.as_deref().map(|problem| quoted(problem, &viewer));
    Ok(ok(&Totals { letters, bytes, max_bytes, given_up, bad, problem }))
}

/// `GET /v1/deadletter`: the oldest first.
pub(in super::super) async fn list(services: &Services, call: Call) -> Result<Response, Problem> {
    let history = services.history()?;
    let mut query = call.query()?;
    let limit = query.limit()?;
    let after = query.text("after")?;
    query.end()?;
    let mut letters = history.letters().list().await?;
    if let Some(after) = after {
        letters.retain(|letter| letter.id > after);
    }
    let is_more = letters.len() > limit;
    letters.truncate(limit);
    let viewer = history.viewer(&call.principal, &call.tenant).await;
    Ok(ok(&List {
        dead_letters: letters.iter().map(|letter| ShownLetter::new(letter, &viewer)).collect(),
        next: letters.last().filter(|_| is_more).map(|letter| &*letter.id),
    }))
}

/// `GET /v1/deadletter/{id}`: with its records.
pub(in super::super) async fn show(services: &Services, call: Call) -> Result<Response, Problem> {
    let history = services.history()?;
    call.query()?.end()?;
    let Detail { summary, records } = history.letters().get(call.parameters.get("id")).await?;
    let viewer = history.viewer(&call.principal, &call.tenant).await;
    let records = records.iter().map(|record| RecordForm::new(record, &viewer)).collect();
    Ok(ok(&LetterWithRecords { letter: ShownLetter::new(&summary, &viewer), records }))
}

/// `POST /v1/deadletter/{id}/replay`
pub(in super::super) async fn replay(services: &Services, call: Call) -> Result<Response, Problem> {
    let history = services.history()?;
    let id = call.parameters.get("id");
    let Outcome { replayed, letters, failed: _, set_aside: _, error } =
        history.letters().replay_now(id, &history.ledger.link).await?;
    if letters == 0 {
        return Err(LetterError::NotFound.into());
    }
    let viewer = history.viewer(&call.principal, &call.tenant).await;
    let error = error.as_deref().map(|error| quoted(error, &viewer));
    Ok(ok(&Replayed { replayed, error }))
}

/// `POST /v1/deadletter/{id}/dismiss`: removes it for good.
pub(in super::super) async fn dismiss(
    services: &Services,
    call: Call,
) -> Result<Response, Problem> {
    let history = services.history()?;
    let id = call.parameters.get("id");
    // What cannot be dismissed leaves no act behind.
    match history.letters().get(id).await {
        Ok(_) => {}
        Err(LetterError::NotFound)
            if call.execution.as_ref().is_some_and(Execution::is_recorded) =>
        {
            let detail = "the dead letter is gone: this request has dismissed it before, and its \
                          process ended before it answered";
            return Err(Problem::not_found(detail));
        }
        Err(error) => return Err(error.into()),
    }
    let act = services.commit(&call, Act::Dismiss { dead_letter: id.into() }).await?;
    let (ledger, id) = (Arc::clone(&history.ledger), id.to_owned());
    let dismissed = act.perform(async move { ledger.letters.dismiss(&id).await }).await;
    Ok(ok(&Dismissed { dismissed: dismissed? }))
}

impl From<LetterError> for Problem {
    fn from(error: LetterError) -> Self {
        let text = error.to_string();
        match error {
            LetterError::NotFound => Self::not_found(text),
            LetterError::SetAside(_) => Self::new(StatusCode::CONFLICT, text),
            // What the database has said may quote a value that it refuses.
            LetterError::Archive(ArchiveError::Content(_)) => {
                let detail = "the archive refuses the records; `GET /v1/deadletter/{id}` says why";
                Self::new(StatusCode::CONFLICT, detail)
            }
            LetterError::Archive(error @ ArchiveError::Unavailable(_)) => error.into(),
            LetterError::Spool(_) | LetterError::Panicked => {
                warn!(error = text, "a request is refused, because the spool cannot be used");
                let detail = "the spool cannot be used; `/healthz` tells the operator why";
                Self::unavailable(detail)
            }
        }
    }
}
