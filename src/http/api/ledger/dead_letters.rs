//! Dead letters: batches that the archive did not take.

use http::StatusCode;
use serde::Serialize;
use serde_json::json;

use super::{Call, Problem, Services, ok};
use crate::http::Response;
use crate::http::api::query::Query;
use crate::http::body;
use crate::ledger::acts::Act;
use crate::ledger::archive::ArchiveError;
use crate::ledger::dead_letter::{Detail, LetterError, Outcome, Stats, Summary};
use crate::ledger::form::RecordForm;
use crate::ledger::spool::Bad;

const DEFAULT_LIMIT: usize = 50;
const MAX_LIMIT: usize = 500;

#[derive(Debug, Serialize)]
struct ShownLetter<'a> {
    id: &'a str,
    bytes: u64,
    retries: u32,
    /// Whether it waits for the operator.
    is_given_up: bool,
    error: Option<&'a str>,
}

impl<'a> From<&'a Summary> for ShownLetter<'a> {
    fn from(summary: &'a Summary) -> Self {
        let Summary { id, bytes, retries, is_given_up, error } = summary;
        let (bytes, retries, is_given_up) = (*bytes, *retries, *is_given_up);
        Self { id, bytes, retries, is_given_up, error: error.as_deref() }
    }
}

/// `GET /v1/deadletter/stats`
pub(in super::super) async fn stats(
    services: &Services,
    call: Call<'_>,
) -> Result<Response, Problem> {
    let history = services.history()?;
    Query::parse(call.request.uri().query())?.end()?;
    let Stats { letters, bytes, max_bytes, given_up, bad, problem } =
        history.letters().stats().await?;
    let bad = bad
        .iter()
        .map(|Bad { name, reason, bytes }| json!({"name": name, "reason": reason, "bytes": bytes}));
    Ok(ok(&json!({
        "letters": letters,
        "bytes": bytes,
        "max_bytes": max_bytes,
        "given_up": given_up,
        "bad": bad.collect::<Vec<_>>(),
        "problem": problem.as_deref(),
    })))
}

/// `GET /v1/deadletter`: the oldest first.
pub(in super::super) async fn list(
    services: &Services,
    call: Call<'_>,
) -> Result<Response, Problem> {
    let history = services.history()?;
    let mut query = Query::parse(call.request.uri().query())?;
    let expected = format!("a number from 1 to {MAX_LIMIT}");
    let limit = query.value("limit", &expected, |text| {
        text.parse().ok().filter(|limit| (1..=MAX_LIMIT).contains(limit))
    })?;
    let limit = limit.unwrap_or(DEFAULT_LIMIT);
    let after = query.text("after")?;
    query.end()?;
    let mut letters = history.letters().list().await?;
    if let Some(after) = after {
        letters.retain(|letter| letter.id > after);
    }
    let is_more = letters.len() > limit;
    letters.truncate(limit);
    Ok(ok(&json!({
        "dead_letters": letters.iter().map(ShownLetter::from).collect::<Vec<_>>(),
        "next": letters.last().filter(|_| is_more).map(|letter| &letter.id),
    })))
}

/// `GET /v1/deadletter/{id}`: with its records.
pub(in super::super) async fn show(
    services: &Services,
    call: Call<'_>,
) -> Result<Response, Problem> {
    #[derive(Serialize)]
    struct Whole<'a> {
        #[serde(flatten)]
        letter: ShownLetter<'a>,
        records: Vec<RecordForm>,
    }
    let history = services.history()?;
    Query::parse(call.request.uri().query())?.end()?;
    let Detail { summary, records } = history.letters().get(call.parameters.get("id")).await?;
    let records = records.iter().map(RecordForm::from).collect();
    Ok(ok(&Whole { letter: (&summary).into(), records }))
}

/// `POST /v1/deadletter/{id}/replay`
pub(in super::super) async fn replay(
    services: &Services,
    call: Call<'_>,
) -> Result<Response, Problem> {
    let Call { parameters, request, .. } = call;
    let history = services.history()?;
    body::read_unused(request.into_body()).await?;
    let id = parameters.get("id");
    let Outcome { replayed, letters, failed: _, set_aside: _, error } =
        history.letters().replay_now(id, &history.ledger.link).await?;
    if letters == 0 {
        return Err(LetterError::NotFound.into());
    }
    Ok(ok(&json!({"replayed": replayed, "error": error.as_deref()})))
}

/// `POST /v1/deadletter/{id}/dismiss`: removes it for good.
pub(in super::super) async fn dismiss(
    services: &Services,
    call: Call<'_>,
) -> Result<Response, Problem> {
    let Call { parameters, request, .. } = call;
    let history = services.history()?;
    body::read_unused(request.into_body()).await?;
    let id = parameters.get("id");
    // What cannot be dismissed leaves no act behind.
    history.letters().get(id).await?;
    services.commit(Act::Dismiss { dead_letter: id.into() }).await?;
    let dismissed = history.letters().dismiss(id).await?;
    Ok(ok(&json!({"dismissed": dismissed})))
}

impl From<LetterError> for Problem {
    fn from(error: LetterError) -> Self {
        let text = error.to_string();
        match error {
            LetterError::NotFound => Self::not_found(text),
            LetterError::SetAside(_) | LetterError::Archive(ArchiveError::Content(_)) => {
                Self::new(StatusCode::CONFLICT, text)
            }
            LetterError::Archive(ArchiveError::Unavailable(_))
            | LetterError::Spool(_)
            | LetterError::Panicked => Self::unavailable(text),
        }
    }
}
