//! What each route takes and answers, apart from the errors that all have.

use http::Method;
use schemars::{Schema, SchemaGenerator};
use serde_json::{Value, json};

use super::super::alerts::{AlertView, Changes as AlertHistory, Page as Alerts, SilenceRequest};
use super::super::app_state::AppState;
use super::super::ledger::forms::{
    DeadLetter, DeadLetterStats, DeadLetters, Dismissed, ProofPending, RecordView, Replayed,
    Requests,
};
use super::super::proxies::Status;
use super::super::{jobs, limits, tokens, webhooks};
use super::{Answer, Content, Operation, Parameter, json_of};
use crate::http::probes::{Details, State};
use crate::ledger::proof::Proof;
use crate::ledger::record::Kind;

use Content::{Json, Other, Problem};

const fn get(
    pattern: &'static str,
    summary: &'static str,
    parameters: &'static [Parameter],
    answers: &'static [Answer],
) -> Operation {
    Operation { method: Method::GET, pattern, summary, parameters, body: None, answers }
}

const fn post(
    pattern: &'static str,
    summary: &'static str,
    answers: &'static [Answer],
) -> Operation {
    Operation { method: Method::POST, pattern, summary, parameters: &[], body: None, answers }
}

/// What changes rows of a tenant.
const fn changing(
    method: Method,
    pattern: &'static str,
    summary: &'static str,
    body: Option<fn(&mut SchemaGenerator) -> Schema>,
    answers: &'static [Answer],
) -> Operation {
    Operation { method, pattern, summary, parameters: &[TENANT], body, answers }
}

const fn answer(status: u16, what: &'static str, content: Content) -> Answer {
    Answer { status, what, content }
}

const fn parameter(name: &'static str, what: &'static str, schema: fn() -> Value) -> Parameter {
    Parameter { name, what, schema, is_masked: false }
}

fn text() -> Value {
    json!({"type": "string", "minLength": 1})
}

fn limit() -> Value {
    json!({"type": "integer", "minimum": 1, "maximum": 500, "default": 50})
}

fn boolean() -> Value {
    json!({"type": "boolean", "default": false})
}

fn kind() -> Value {
    json!({"type": "string", "enum": Kind::ALL.map(Kind::as_str)})
}

fn verdict() -> Value {
    json!({"type": "string", "enum": super::super::ledger::VERDICTS})
}

fn order() -> Value {
    json!({"type": "string", "enum": ["asc", "desc"], "default": "desc"})
}

fn change() -> Value {
    json!({"type": "integer", "minimum": 1})
}

fn alert_state() -> Value {
    json!({"type": "string", "enum": ["firing", "resolved"]})
}

fn alert_rule() -> Value {
    json!({"type": "string", "enum": crate::alerts::Rule::ALL.map(crate::alerts::Rule::as_str)})
}

fn position() -> Value {
    json!({"type": "integer", "minimum": -1})
}

const APP: Parameter = parameter("app", "Only records of this app.", text);
const CLIENT: Parameter = Parameter {
    is_masked: true,
    ..parameter("client", "Only records of the client with this id.", text)
};
const KIND: Parameter = parameter("kind", "Only records of this kind.", kind);
const VERDICT: Parameter = parameter("verdict", "Only records with this verdict.", verdict);
const REASON: Parameter = parameter("reason", "Only records with this reason.", text);
const FROM: Parameter = parameter(
    "from",
    "Only records at or after this time: as in RFC 3339, with its offset from UTC, or in seconds \
     since 1970.",
    text,
);
const TO: Parameter = parameter("to", "Only records before this time.", text);
const LIMIT: Parameter = parameter("limit", "The most items of an answer.", limit);
const AFTER: Parameter = parameter("after", "The `next` of the page before.", text);

const OPERATED: [Answer; 3] = [
    answer(200, "It is done; the app's new state.", Json(json_of::<AppState>)),
    answer(409, "It cannot be done now; the app's state.", Problem),
    answer(503, "It has failed, or was not begun; the app's state.", Problem),
];

pub(super) static OPERATIONS: [Operation; 44] = [
    get(
        "/livez",
        "Whether the process answers",
        &[],
        &[answer(200, "It does.", Json(json_of::<State>))],
    ),
    get(
        "/readyz",
        "Whether requests can be answered",
        &[],
        &[
            answer(200, "They can.", Json(json_of::<State>)),
            answer(503, "They cannot.", Json(json_of::<State>)),
        ],
    ),
    get(
        "/healthz",
        "How the process fares",
        &[],
        &[
            answer(200, "Requests can be answered.", Json(json_of::<Details>)),
            answer(503, "Requests cannot be answered.", Json(json_of::<Details>)),
        ],
    ),
    get(
        "/metrics",
        "Metrics in Prometheus' text format",
        &[],
        &[answer(200, "The metrics.", Other("text/plain"))],
    ),
    get(
        "/v1/openapi.json",
        "This description",
        &[],
        &[answer(200, "OpenAPI 3.1.", Other("application/json"))],
    ),
    get(
        "/v1/apps",
        "All apps and their states",
        &[],
        &[answer(200, "The apps.", Json(json_of::<Vec<AppState>>))],
    ),
    get(
        "/v1/apps/{name}",
        "The state of an app",
        &[],
        &[answer(200, "The app.", Json(json_of::<AppState>))],
    ),
    get(
        "/v1/status",
        "Whether the app of a host is awake, for monitors",
        &[parameter("host", "The host that names the app; required.", text)],
        &[
            answer(200, "The state.", Json(json_of::<Status>)),
            answer(404, "No app has the host.", Problem),
        ],
    ),
    get(
        "/v1/status/{name}",
        "Whether an app is awake, for monitors",
        &[],
        &[answer(200, "The state.", Json(json_of::<Status>))],
    ),
    get(
        "/v1/traefik",
        "The dynamic configuration for Traefik's HTTP provider",
        &[],
        &[
            answer(200, "Routers, middlewares and services.", Json(json_of::<Value>)),
            answer(409, "The settings `[traefik]` are incomplete.", Problem),
        ],
    ),
    post("/v1/apps/{name}/wake", "Wake an app, and wait until it answers", &OPERATED),
    post("/v1/apps/{name}/sleep", "Stop an app's containers", &OPERATED),
    post("/v1/apps/{name}/pause", "Pause an app's containers", &OPERATED),
    get(
        "/v1/requests",
        "Records of requests, and of what was done about them",
        &[
            APP,
            CLIENT,
            KIND,
            VERDICT,
            REASON,
            FROM,
            TO,
            LIMIT,
            AFTER,
            TENANT,
            parameter("order", "`desc`: the newest first.", order),
        ],
        &[answer(200, "A page of records.", Json(json_of::<Requests>)), LEDGER_DISABLED],
    ),
    get(
        "/v1/requests/{id}",
        "One record",
        &[TENANT],
        &[answer(200, "The record.", Json(json_of::<RecordView>))],
    ),
    get(
        "/v1/events",
        "Records as server-sent events, as they get their positions",
        &[
            APP,
            CLIENT,
            KIND,
            VERDICT,
            REASON,
            FROM,
            TO,
            TENANT,
            parameter("after", "Begin after this position; -1: with the first record.", position),
        ],
        &[
            answer(200, "Events; the id of each is a position.", Other("text/event-stream")),
            LEDGER_DISABLED,
        ],
    ),
    get(
        "/v1/audit/checkpoint",
        "The signed head of the tree",
        &[TENANT],
        &[
            answer(200, "A signed note (C2SP tlog-checkpoint).", Other("text/plain")),
            answer(404, "There is no checkpoint yet, or the ledger is disabled.", Problem),
        ],
    ),
    get(
        "/v1/audit/{id}",
        "The proof that a record is in the tree",
        &[TENANT, parameter("masked", "Without the values that identify a person.", boolean)],
        &[
            answer(200, "The proof.", Json(json_of::<Proof>)),
            answer(202, "No checkpoint covers the record yet.", Json(json_of::<ProofPending>)),
        ],
    ),
    get(
        "/v1/deadletter",
        "Batches that the archive did not take",
        &[LIMIT, AFTER],
        &[
            answer(
                200,
                "A page of dead letters, the oldest first.",
                Json(json_of::<DeadLetters<'_>>),
            ),
            LEDGER_DISABLED,
        ],
    ),
    get(
        "/v1/deadletter/stats",
        "How many dead letters there are",
        &[],
        &[answer(200, "The totals.", Json(json_of::<DeadLetterStats<'_>>)), LEDGER_DISABLED],
    ),
    get(
        "/v1/deadletter/{id}",
        "A dead letter with its records",
        &[],
        &[
            answer(200, "The dead letter.", Json(json_of::<DeadLetter<'_>>)),
            answer(409, "The file was set aside, or cannot be read.", Problem),
        ],
    ),
    post(
        "/v1/deadletter/{id}/replay",
        "Write a dead letter's records now",
        &[
            answer(200, "How many were written.", Json(json_of::<Replayed>)),
            answer(409, "The archive refuses them, or the key is in use.", Problem),
        ],
    ),
    post(
        "/v1/deadletter/{id}/dismiss",
        "Remove a dead letter for good",
        &[
            answer(200, "How many records were given up.", Json(json_of::<Dismissed>)),
            answer(409, "The file was set aside, or the key is in use.", Problem),
        ],
    ),
    get(
        "/v1/jobs",
        "Periodic jobs, and when each was run",
        &[],
        &[answer(200, "The jobs.", Json(json_of::<jobs::List>)), LEDGER_DISABLED],
    ),
    get(
        "/v1/jobs/{name}/runs",
        "The last runs of a job",
        &[LIMIT, AFTER],
        &[answer(200, "A page of runs, the latest first.", Json(json_of::<jobs::RunLog<'_>>))],
    ),
    post(
        "/v1/jobs/{name}/run",
        "Run a job now",
        &[answer(202, "It is due.", Json(json_of::<jobs::RequestedRun<'_>>))],
    ),
    get(
        "/v1/tokens",
        "Tokens of this API",
        &[TENANT],
        &[
            answer(200, "The tokens, the oldest first.", Json(json_of::<tokens::List<'_>>)),
            LEDGER_DISABLED,
        ],
    ),
    Operation {
        method: Method::POST,
        pattern: "/v1/tokens",
        summary: "Add a token",
        parameters: &[TENANT],
        body: Some(json_of::<tokens::TokenRequest>),
        answers: &[
            answer(
                201,
                "The token, which is not shown again.",
                Json(json_of::<tokens::AddedToken<'_>>),
            ),
            LEDGER_DISABLED,
        ],
    },
    get(
        "/v1/tokens/{id}",
        "A token, without its text",
        &[TENANT],
        &[answer(200, "The token.", Json(json_of::<tokens::TokenView<'_>>))],
    ),
    Operation {
        method: Method::DELETE,
        pattern: "/v1/tokens/{id}",
        summary: "Remove a token",
        parameters: &[TENANT],
        body: None,
        answers: &[answer(
            200,
            "The token that was removed.",
            Json(json_of::<tokens::TokenView<'_>>),
        )],
    },
    get(
        "/v1/limits",
        "Who has to wait after too many wrong credentials",
        &[],
        &[answer(200, "The addresses, the longest wait first.", Json(json_of::<limits::List>))],
    ),
    Operation {
        method: Method::DELETE,
        pattern: "/v1/limits/{address}",
        summary: "Let an address try again",
        parameters: &[],
        body: None,
        answers: &[answer(200, "It no longer has to wait.", Json(json_of::<limits::LiftedLimit>))],
    },
    get(
        "/v1/alerts",
        "Alerts, the newest first",
        &[
            parameter("state", "Only alerts in this state.", alert_state),
            parameter("rule", "Only alerts of this rule.", alert_rule),
            TENANT,
            LIMIT,
            AFTER,
        ],
        &[answer(200, "The alerts.", Json(json_of::<Alerts>)), NO_ALERTS],
    ),
    get(
        "/v1/alerts/{id}/history",
        "The changes of an alert, the newest first",
        &[TENANT, LIMIT, parameter("after", "The `next` of the page before.", change)],
        &[answer(200, "The changes.", Json(json_of::<AlertHistory>))],
    ),
    changing(
        Method::POST,
        "/v1/alerts/{id}/silence",
        "Silence an alert: `{\"for\": \"2h\"}`, or `{\"until\": \"2026-12-01T08:00:00Z\"}`",
        Some(json_of::<SilenceRequest>),
        &[answer(200, "It is silenced.", Json(json_of::<AlertView>))],
    ),
    get(
        "/v1/webhooks",
        "Endpoints that messages are sent to",
        &[TENANT],
        &[answer(200, "The endpoints.", Json(json_of::<webhooks::List>)), LEDGER_DISABLED],
    ),
    changing(
        Method::POST,
        "/v1/webhooks",
        "Create an endpoint",
        Some(json_of::<webhooks::EndpointRequest>),
        &[
            answer(201, "It, with its secret.", Json(json_of::<webhooks::EndpointWithSecret>)),
            answer(409, "There is one of this name, or the key is in use.", Problem),
            LEDGER_DISABLED,
        ],
    ),
    get(
        "/v1/webhooks/{id}",
        "An endpoint",
        &[TENANT],
        &[answer(200, "The endpoint.", Json(json_of::<webhooks::EndpointView>))],
    ),
    changing(
        Method::PUT,
        "/v1/webhooks/{id}",
        "Change an endpoint; what is missing stays as it is",
        Some(json_of::<webhooks::EndpointChange>),
        &[
            answer(200, "The endpoint.", Json(json_of::<webhooks::EndpointView>)),
            answer(409, "It belongs to the configuration, or the key is in use.", Problem),
        ],
    ),
    changing(
        Method::DELETE,
        "/v1/webhooks/{id}",
        "Remove an endpoint with its log",
        None,
        &[
            answer(200, "What was removed.", Json(json_of::<webhooks::RemovedEndpoint>)),
            answer(409, "It belongs to the configuration, or the key is in use.", Problem),
        ],
    ),
    get(
        "/v1/webhooks/{id}/logs",
        "What was sent to an endpoint",
        &[TENANT, LIMIT, AFTER, parameter("event", "Only attempts of this event.", text)],
        &[answer(200, "A page of attempts, the newest first.", Json(json_of::<webhooks::Log>))],
    ),
    changing(
        Method::POST,
        "/v1/webhooks/{id}/test",
        "Queue a test message",
        None,
        &[
            answer(202, "The event that was queued.", Json(json_of::<webhooks::TestMessage>)),
            answer(409, "The endpoint is disabled, or the key is in use.", Problem),
        ],
    ),
    changing(
        Method::POST,
        "/v1/webhooks/{id}/rotate",
        "Give a webhook another secret",
        None,
        &[
            answer(200, "It, with its secret.", Json(json_of::<webhooks::EndpointWithSecret>)),
            answer(409, "It has no secret of its own, or the key is in use.", Problem),
        ],
    ),
    changing(
        Method::POST,
        "/v1/webhooks/{id}/enable",
        "Send to a disabled endpoint again",
        None,
        &[answer(200, "The endpoint.", Json(json_of::<webhooks::EndpointView>))],
    ),
];

const TENANT: Parameter =
    parameter("tenant", "The box that is meant, by its id; for tokens of all boxes only.", text);

const NO_ALERTS: Answer = answer(404, "Alerts are disabled.", Problem);
const LEDGER_DISABLED: Answer = answer(404, "The ledger is disabled.", Problem);
