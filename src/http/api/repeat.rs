//! Requests with an `Idempotency-Key`: done once, and answered from the table afterwards.

use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use http::{HeaderName, HeaderValue, StatusCode};
use http_body_util::{BodyExt as _, Collected};
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use super::guard::credential;
use super::ledger::unrecorded;
use super::outcome::Outcome;
use super::problem::{Kind, Problem};
use super::{Call, Route, Services};
use crate::http::{Response, ResponseBody};
use crate::idempotency::LEASE;
use crate::idempotency::answer::Answer;
use crate::idempotency::fingerprint::{Payload, Scope};
use crate::idempotency::key::{IDEMPOTENCY_KEY, Key};
use crate::idempotency::table::{Caller, Claim, ClaimError, Execution, KeyedRequest, Keys};
use crate::ledger::archive::Transaction;
use crate::telemetry::{in_same_request, meters};

/// Marks an answer that an earlier request with the key has got.
const IDEMPOTENCY_REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// How often a lease is extended. If that has not succeeded until [`MARGIN`] before its end,
/// the handler is dropped, so that no two of them work at once.
const EXTEND_EVERY: Duration = Duration::from_secs(15);
const EXTEND_AGAIN: Duration = Duration::from_secs(2);
const MARGIN: Duration = Duration::from_secs(10);

/// How often storing an answer is tried whose effect is not in the archive.
const TRIES: u32 = 3;
const BETWEEN_TRIES: Duration = Duration::from_millis(200);

/// Answers a request that may change something, once if it has a key.
pub(super) async fn answer(
    services: &Arc<Services>,
    route: &'static Route,
    call: Call,
) -> Result<Response, Problem> {
    let invalid = |error| {
        Problem::parameter(IDEMPOTENCY_KEY.as_str(), format!("invalid Idempotency-Key: {error}"))
            .kind(Kind::INVALID_KEY)
    };
    let Some(key) = Key::from_headers(call.request.headers()).map_err(invalid)? else {
        return (route.handle)(services, call).await?.commit().await;
    };
    let history = services.history.as_ref().ok_or_else(|| {
        let detail = "an Idempotency-Key cannot be kept: `ledger.enabled` is false";
        Problem::new(StatusCode::NOT_IMPLEMENTED, detail).kind(Kind::LEDGER_DISABLED)
    })?;
    let keys = Arc::clone(&history.keys);
    let keyed = keyed(route, &call, &key)?;
    match keys.claim(keyed).await? {
        Claim::Replay(answer) => Ok(replay(answer)),
        Claim::Unreadable => {
            let detail = "the request was done, but its stored answer cannot be opened: it was \
                          stored for another token, such as a former `ops.token`, or altered";
            Err(Problem::new(StatusCode::CONFLICT, detail).kind(Kind::ANSWER_UNREADABLE))
        }
        Claim::Running => Err(Problem {
            retry_after: Some(1),
            ..Problem::new(StatusCode::CONFLICT, "a request with this key is being done")
                .kind(Kind::KEY_RUNNING)
        }),
        Claim::Mismatch => {
            let detail = "the key belongs to a request with another path, query or body";
            Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail).kind(Kind::KEY_REUSED))
        }
        Claim::Full(wait) => {
            let detail = "this token has as many keys as it may have; they are kept for 24 hours";
            let seconds = wait.as_secs().saturating_add(1).min(24 * 3600);
            let problem = Problem::new(StatusCode::TOO_MANY_REQUESTS, detail);
            Err(Problem {
                retry_after: u32::try_from(seconds).ok(),
                ..problem.kind(Kind::TOO_MANY_KEYS)
            })
        }
        Claim::Claimed(execution) => {
            // A task of its own: if the client is gone, its request is done all the same.
            let services = Arc::clone(services);
            let execution = execute(services, route, call, keys, execution);
            let done = tokio::spawn(in_same_request(execution)).await;
            done.unwrap_or_else(|error| {
                Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
            })
        }
    }
}

fn keyed(route: &Route, call: &Call, key: &Key) -> Result<KeyedRequest, Problem> {
    let Call { principal, tenant, request, .. } = call;
    let caller = Caller { token: &principal.token, secret: credential(request.headers()).bearer() };
    let (method, uri) = (request.method().as_str(), request.uri());
    let target = uri.path_and_query().map_or(uri.path(), |target| target.as_str());
    let scope = Scope::new(tenant, caller.token, &format!("{method} {}", route.pattern));
    let scope = scope.map_err(|error| {
        Problem::new(StatusCode::BAD_REQUEST, error.to_string()).kind(Kind::INVALID_KEY)
    })?;
    let payload = Payload::new(method, target, request.body());
    KeyedRequest::new(tenant, caller, scope, key, payload)
        .map_err(|_| Problem::unavailable("the answer could not be encrypted"))
}

/// Does the request and stores what it is answered with.
async fn execute(
    services: Arc<Services>,
    route: &'static Route,
    mut call: Call,
    keys: Arc<Keys>,
    execution: Execution,
) -> Result<Response, Problem> {
    call.execution = Some(execution.clone());
    let handled = AssertUnwindSafe((route.handle)(&services, call)).catch_unwind();
    let outcome = tokio::select! {
        biased;
        handled = handled => handled.unwrap_or_else(|_| {
            meters::panics().increment(1);
            Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "this is a bug"))
        }),
        problem = keep_lease(&keys, &execution) => {
            warn!(scope = %execution.scope(), "a request was given up, since its lease was lost");
            return Err(problem);
        }
    };
    let Outcome { response, transaction, after_commit } = match outcome {
        Ok(outcome) => outcome,
        Err(problem) if problem.is_passing => {
            release(&keys, &execution).await;
            return Err(problem);
        }
        Err(problem) => problem.answer().into(),
    };
    let (head, body) = response.into_parts();
    // The error of a body that is made by this process cannot occur.
    let body = body.collect().await.map_or_else(|never| match never {}, Collected::to_bytes);
    let answer = Answer {
        status: head.status.as_u16(),
        headers: headers_text(&head.headers),
        body: body.to_vec(),
    };
    let response = http::Response::from_parts(head, ResponseBody::from(body));
    if let Some(transaction) = transaction {
        if let Err(problem) = finish(transaction, &execution, answer).await {
            release(&keys, &execution).await;
            return Err(problem);
        }
        for call in after_commit {
            call();
        }
        return Ok(response);
    }
    for call in after_commit {
        call();
    }
    // The effect is there, whether the answer can be stored or not.
    for _ in 0..TRIES {
        let finished = async {
            let transaction = keys.begin().await?;
            finish(transaction, &execution, answer.clone()).await
        };
        match finished.await {
            Ok(()) => return Ok(response),
            Err(problem) if !problem.is_passing => return Err(problem),
            Err(problem) => {
                let scope = execution.scope();
                warn!(%scope, problem = %problem.detail, "an answer could not be stored");
                sleep(BETWEEN_TRIES).await;
            }
        }
    }
    Ok(response)
}

/// Returns when the lease was lost, or could not be extended in time.
async fn keep_lease(keys: &Keys, execution: &Execution) -> Problem {
    let mut until = Instant::now() + LEASE;
    let mut wait = EXTEND_EVERY;
    loop {
        sleep(wait).await;
        let asked = Instant::now();
        let mut extended = pin!(keys.extend(execution));
        tokio::select! {
            extended = &mut extended => match extended {
                Ok(true) => (until, wait) = (asked + LEASE, EXTEND_EVERY),
                Ok(false) => return Problem::key_lost(),
                Err(_) => wait = EXTEND_AGAIN,
            },
            () = sleep((until - MARGIN).saturating_duration_since(asked)) => return Problem::key_lost(),
        }
        if Instant::now() + MARGIN >= until {
            return Problem::key_lost();
        }
    }
}

/// Stores the answer and commits; if the lease was lost, nothing is committed.
async fn finish(
    mut transaction: Transaction<'_>,
    execution: &Execution,
    answer: Answer,
) -> Result<(), Problem> {
    if !execution.finish(&mut transaction, answer).await? {
        transaction.roll_back().await?;
        return Err(Problem::key_lost());
    }
    Ok(transaction.commit().await?)
}

async fn release(keys: &Keys, execution: &Execution) {
    if let Err(error) = keys.release(execution).await {
        info!(scope = %execution.scope(), %error, "a key stays until its lease ends");
    }
}

/// Returns the answer as it was.
fn replay(answer: Answer) -> Response {
    let Answer { status, headers, body } = answer;
    let mut response = Response::new(ResponseBody::from(bytes::Bytes::from(body)));
    // What is stored here was a valid status once.
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or_default();
    let headers: Vec<(String, String)> = serde_json::from_str(&headers).unwrap_or_default();
    for (name, value) in headers {
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::try_from(value)) {
            response.headers_mut().append(name, value);
        }
    }
    response.headers_mut().insert(IDEMPOTENCY_REPLAYED, HeaderValue::from_static("true"));
    response
}

/// Returns headers as they are stored. Those of a connection are added later, by whoever
/// sends the response.
fn headers_text(headers: &http::HeaderMap) -> String {
    let pairs: Vec<(&str, &str)> = headers
        .iter()
        .filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?)))
        .collect();
    // Serializing strings does not fail.
    serde_json::to_string(&pairs).unwrap_or_default()
}

impl From<ClaimError> for Problem {
    fn from(error: ClaimError) -> Self {
        match error {
            ClaimError::Archive(error) => unrecorded(error),
            ClaimError::Shape(text) => {
                warn!(problem = &*text, "a request with an Idempotency-Key is refused");
                let detail = "an Idempotency-Key cannot be kept: its table is another one than \
                              expected; `/healthz` tells the operator what differs";
                Self::unavailable(detail).kind(Kind::KEYS_UNUSABLE)
            }
        }
    }
}
