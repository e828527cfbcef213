//! What the operator's listener serves: one table of routes behind one guard. [`dispatch`] finds
//! the route of a request and calls its handler.
//!
//! The guard decides who asks ([`Principal`]) before anything is looked up. A route names
//! the right that its requests need and who owns its answers, so a handler is never called
//! without that right, or for a tenant that the principal must not see.

mod alerts;
mod app_state;
mod apps;
mod dispatch;
mod guard;
mod jobs;
mod ledger;
mod limits;
mod metrics;
mod openapi;
mod outcome;
mod problem;
mod proxies;
mod query;
mod repeat;
mod tokens;
mod webhooks;

use std::future::ready;
use std::sync::Arc;

use http::{Method, Request, StatusCode};
use percent_encoding::percent_decode_str;
use serde::Serialize;
use serde::de::DeserializeOwned;

pub(crate) use self::alerts::Alerts;
pub(crate) use self::apps::Apps;
use self::apps::Operation;
pub(crate) use self::dispatch::Api;
pub(crate) use self::ledger::History;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use self::ledger::fuzz_page_request;
use self::outcome::{Handled, answered, now};
use self::problem::Problem;
pub(crate) use self::proxies::ProxyRoutes;
use self::query::Query;
use super::body::BufferedBody;
use super::probes::OperatorHealth;
use super::{Response, answer, probes};
use crate::access::{Principal, Right, Tokens, Viewer};
use crate::gate::Gate;
use crate::idempotency::table::Execution;
use crate::jobs::Jobs;
use crate::webhooks::address::Allowed;

/// One row of the table.
struct Route {
    method: Method,
    /// A path; `{name}` stands for one segment.
    pattern: &'static str,
    right: Right,
    owner: Owner,
    handle: HandlerFn,
}

/// Who owns the answers of a route. For a principal that must not see them, there is no such
/// route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    /// Nobody: everyone may know whether the process is alive.
    Nobody,
    /// The box that this process serves.
    Box,
    /// One tenant: the principal's, or the one that `?tenant=` selects.
    Tenant,
}

type HandlerFn = for<'a> fn(&'a Services, Call) -> Handled<'a>;

const fn route(
    method: Method,
    pattern: &'static str,
    right: Right,
    owner: Owner,
    handle: HandlerFn,
) -> Route {
    Route { method, pattern, right, owner, handle }
}

/// All routes. A `HEAD` request is answered by the route for `GET`.
static ROUTES: [Route; 44] = [
    route(Method::GET, "/livez", Right::Read, Owner::Nobody, |_, _| now(probes::liveness())),
    route(Method::GET, "/readyz", Right::Read, Owner::Nobody, |services, _| {
        now(probes::readiness(&services.gate.health()))
    }),
    route(Method::GET, "/healthz", Right::Read, Owner::Box, |services, call| {
        let viewer = call.viewer_of_texts();
        now(probes::details(&services.gate.health(), services.operator_health(), &viewer))
    }),
    route(Method::GET, "/metrics", Right::Read, Owner::Box, |services, _| {
        now(metrics::render(services))
    }),
    route(Method::GET, "/v1/openapi.json", Right::Read, Owner::Nobody, |_, _| now(openapi::show())),
    route(Method::GET, "/v1/apps", Right::Read, Owner::Box, |services, call| {
        answered(apps::list(services, call))
    }),
    route(Method::GET, "/v1/apps/{name}", Right::Read, Owner::Box, |services, call| {
        answered(apps::show(services, call))
    }),
    route(Method::POST, "/v1/apps/{name}/wake", Right::Operate, Owner::Box, |services, call| {
        answered(apps::operate(services, call, Operation::Wake))
    }),
    route(Method::POST, "/v1/apps/{name}/sleep", Right::Operate, Owner::Box, |services, call| {
        answered(apps::operate(services, call, Operation::Sleep))
    }),
    route(Method::POST, "/v1/apps/{name}/pause", Right::Operate, Owner::Box, |services, call| {
        answered(apps::operate(services, call, Operation::Pause))
    }),
    route(Method::GET, "/v1/status", Right::Read, Owner::Box, |services, call| {
        answered(proxies::status_by_host(services, call))
    }),
    route(Method::GET, "/v1/status/{name}", Right::Read, Owner::Box, |services, call| {
        answered(ready(proxies::status(services, &call)))
    }),
    route(Method::GET, "/v1/traefik", Right::Read, Owner::Box, |services, _| {
        answered(proxies::traefik(services))
    }),
    route(Method::GET, "/v1/requests", Right::Read, Owner::Tenant, |services, call| {
        answered(ledger::list(services, call))
    }),
    route(Method::GET, "/v1/requests/{id}", Right::Read, Owner::Tenant, |services, call| {
        answered(ledger::show(services, call))
    }),
    route(Method::GET, "/v1/events", Right::Read, Owner::Tenant, |services, call| {
        answered(ledger::follow(services, call))
    }),
    route(Method::GET, "/v1/audit/checkpoint", Right::Read, Owner::Tenant, |services, call| {
        answered(ledger::checkpoint(services, call))
    }),
    route(Method::GET, "/v1/audit/{id}", Right::Read, Owner::Tenant, |services, call| {
        answered(ledger::prove(services, call))
    }),
    route(Method::GET, "/v1/deadletter", Right::Read, Owner::Box, |services, call| {
        answered(ledger::list_letters(services, call))
    }),
    route(Method::GET, "/v1/deadletter/stats", Right::Read, Owner::Box, |services, call| {
        answered(ledger::stats(services, call))
    }),
    route(Method::GET, "/v1/deadletter/{id}", Right::Read, Owner::Box, |services, call| {
        answered(ledger::show_letter(services, call))
    }),
    route(
        Method::POST,
        "/v1/deadletter/{id}/replay",
        Right::Operate,
        Owner::Box,
        |services, call| answered(ledger::replay(services, call)),
    ),
    route(
        Method::POST,
        "/v1/deadletter/{id}/dismiss",
        Right::Operate,
        Owner::Box,
        |services, call| answered(ledger::dismiss(services, call)),
    ),
    route(Method::GET, "/v1/jobs", Right::Read, Owner::Box, |services, call| {
        answered(jobs::list(services, call))
    }),
    route(Method::GET, "/v1/jobs/{name}/runs", Right::Read, Owner::Box, |services, call| {
        answered(jobs::runs(services, call))
    }),
    route(Method::POST, "/v1/jobs/{name}/run", Right::Operate, Owner::Box, |services, call| {
        answered(jobs::run_now(services, call))
    }),
    route(Method::GET, "/v1/tokens", Right::Operate, Owner::Tenant, |services, call| {
        answered(tokens::list(services, call))
    }),
    route(Method::POST, "/v1/tokens", Right::Operate, Owner::Tenant, |services, call| {
        answered(tokens::add(services, call))
    }),
    route(Method::GET, "/v1/tokens/{id}", Right::Operate, Owner::Tenant, |services, call| {
        answered(tokens::show(services, call))
    }),
    route(Method::DELETE, "/v1/tokens/{id}", Right::Operate, Owner::Tenant, |services, call| {
        answered(tokens::remove(services, call))
    }),
    route(Method::GET, "/v1/webhooks", Right::Read, Owner::Tenant, |services, call| {
        answered(webhooks::list(services, call))
    }),
    route(Method::POST, "/v1/webhooks", Right::Operate, Owner::Tenant, |services, call| {
        answered(webhooks::create(services, call))
    }),
    route(Method::GET, "/v1/webhooks/{id}", Right::Read, Owner::Tenant, |services, call| {
        answered(webhooks::show(services, call))
    }),
    route(Method::PUT, "/v1/webhooks/{id}", Right::Operate, Owner::Tenant, |services, call| {
        answered(webhooks::change(services, call))
    }),
    route(Method::DELETE, "/v1/webhooks/{id}", Right::Operate, Owner::Tenant, |services, call| {
        answered(webhooks::remove(services, call))
    }),
    route(Method::GET, "/v1/webhooks/{id}/logs", Right::Read, Owner::Tenant, |services, call| {
        answered(webhooks::log(services, call))
    }),
    route(
        Method::POST,
        "/v1/webhooks/{id}/test",
        Right::Operate,
        Owner::Tenant,
        |services, call| answered(webhooks::test(services, call)),
    ),
    route(
        Method::POST,
        "/v1/webhooks/{id}/rotate",
        Right::Operate,
        Owner::Tenant,
        |services, call| answered(webhooks::rotate(services, call)),
    ),
    route(
        Method::POST,
        "/v1/webhooks/{id}/enable",
        Right::Operate,
        Owner::Tenant,
        |services, call| answered(webhooks::enable(services, call)),
    ),
    route(Method::GET, "/v1/alerts", Right::Read, Owner::Tenant, |services, call| {
        answered(alerts::list(services, call))
    }),
    route(Method::GET, "/v1/alerts/{id}/history", Right::Read, Owner::Tenant, |services, call| {
        answered(alerts::history(services, call))
    }),
    route(
        Method::POST,
        "/v1/alerts/{id}/silence",
        Right::Operate,
        Owner::Tenant,
        |services, call| answered(alerts::silence(services, call)),
    ),
    route(Method::GET, "/v1/limits", Right::Read, Owner::Box, |services, call| {
        answered(limits::list(services, call))
    }),
    route(Method::DELETE, "/v1/limits/{address}", Right::Operate, Owner::Box, |services, call| {
        answered(limits::lift(services, call))
    }),
];

/// Returns the method and the pattern of every route, for tests that go through all of them.
pub fn operator_routes() -> impl Iterator<Item = (&'static str, &'static str)> {
    ROUTES.iter().map(|route| (route.method.as_str(), route.pattern))
}

/// What handlers work with.
struct Services {
    gate: Arc<Gate>,
    apps: Apps,
    proxies: ProxyRoutes,
    /// `None` if nothing is recorded.
    history: Option<History>,
    /// `None` if nothing is recorded.
    jobs: Option<Arc<Jobs>>,
    /// `None` if nothing is recorded.
    tokens: Option<Arc<Tokens>>,
    /// `None` if they are switched off, or nothing is recorded.
    alerts: Option<Alerts>,
    /// Hosts and networks besides public ones that endpoints may have.
    allowed: Vec<Allowed>,
}

impl Services {
    /// Returns what `/healthz` says of the ledger and of jobs.
    fn operator_health(&self) -> OperatorHealth {
        OperatorHealth {
            ledger: self.history.as_ref().map(History::health),
            idempotency: self.history.as_ref().and_then(History::keys_problem),
            job_problems: self.jobs.as_ref().map(|jobs| jobs.problems()),
            alerts: self.alerts.as_ref().map(Alerts::firing),
        }
    }

    /// Returns the id of the box; empty while it has none, or if nothing is recorded.
    fn own_tenant(&self) -> Arc<str> {
        self.history.as_ref().map(History::own_tenant).unwrap_or_default()
    }

    fn alerts(&self) -> Result<&Alerts, Problem> {
        let disabled = || {
            let detail = "there are no alerts: `alerts.enabled` or `ledger.enabled` is false";
            Problem::not_found(detail).kind(problem::Kind::ALERTS_DISABLED)
        };
        self.alerts.as_ref().ok_or_else(disabled)
    }
}

/// One request to a handler.
struct Call {
    principal: Principal,
    /// Whose rows are read or changed. The principal may see them.
    tenant: Arc<str>,
    parameters: Parameters,
    request: Request<BufferedBody>,
    /// If the request has an idempotency key.
    execution: Option<Execution>,
}

impl Call {
    /// Returns the body; that of a `GET` request was not read, and is empty.
    fn body(&self) -> &[u8] {
        self.request.body()
    }

    /// Returns as whom texts are written that may quote personal values. It shows no ids.
    fn viewer_of_texts(&self) -> Viewer {
        if self.principal.may(Right::Pii) { Viewer::clear() } else { Viewer::masked(None, "") }
    }

    /// Returns the parameters in the query, without the tenant, which is chosen already.
    fn query(&self) -> Result<Query, Problem> {
        let mut query = Query::parse(self.request.uri().query())?;
        query.text(TENANT)?;
        Ok(query)
    }
}

/// The parameter that selects a tenant.
const TENANT: &str = "tenant";

/// The segments that a pattern's parameters stand for, percent-decoded.
#[derive(Debug, Default, PartialEq, Eq)]
struct Parameters(Vec<(String, String)>);

impl Parameters {
    /// Returns `None` if a segment is not UTF-8 or contains a control character: nothing is
    /// named so, and not every database can be asked for it.
    fn decode(matched: &matchit::Params<'_, '_>) -> Option<Self> {
        let decode = |(name, raw): (&str, &str)| {
            let value = percent_decode_str(raw).decode_utf8().ok()?;
            (!value.contains(char::is_control)).then(|| (name.to_owned(), value.into_owned()))
        };
        matched.iter().map(decode).collect::<Option<_>>().map(Self)
    }

    /// Returns the parameter with this name; empty if the pattern has none.
    fn get(&self, name: &str) -> &str {
        let parameter = self.0.iter().find(|(other, _)| other == name);
        parameter.map_or("", |(_, value)| value)
    }
}

/// Reads the JSON object that a body is. A list of its values, in their order, is refused.
fn read_object<T: DeserializeOwned>(body: &[u8]) -> Result<T, serde_json::Error> {
    if body.trim_ascii_start().first().is_some_and(|first| *first != b'{') {
        return Err(serde::de::Error::custom("expected an object"));
    }
    serde_json::from_slice(body)
}

fn ok(body: &impl Serialize) -> Response {
    json(StatusCode::OK, body)
}

fn json(status: StatusCode, body: &impl Serialize) -> Response {
    // Serializing strings, numbers and lists does not fail.
    answer::json(status, serde_json::to_vec(body).unwrap_or_default().into())
}
