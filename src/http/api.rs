//! What the operator's listener serves: one table of routes behind one guard.
//!
//! The guard decides who asks ([`Principal`]) before anything is looked up. A route names
//! the right that its requests need and whose its answers are, so a handler is never called
//! without that right, or for a tenant that the principal must not see.

mod alerts;
mod app_state;
mod apps;
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
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use http::{HeaderName, HeaderValue, Method, Request, StatusCode, header};
use hyper::body::Body as _;
use matchit::Router;
use percent_encoding::percent_decode_str;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tracing::error;

pub(crate) use self::alerts::Alerts;
pub(crate) use self::apps::Apps;
use self::apps::Operation;
use self::guard::{Guard, Refusal};
pub(crate) use self::ledger::History;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use self::ledger::fuzz_page_request;
use self::outcome::{Handled, answered, now};
use self::problem::Problem;
pub(crate) use self::proxies::ProxyRoutes;
use self::query::Query;
use super::body::{self, Body, Whole};
use super::probes::Further;
use super::{Client, Handler, Response, ResponseBody, answer, probes};
use crate::access::{Principal, Right, Scope, Tokens, Viewer};
use crate::config;
use crate::gate::Gate;
use crate::idempotency::table::Execution;
use crate::jobs::Jobs;
use crate::telemetry::{self, meters};
use crate::webhooks::address::Allowed;

/// Bounds of the bodies of requests that change something.
const MAX_BODY: usize = 64 * 1024;
const BODY_DEADLINE: Duration = Duration::from_secs(10);

/// One row of the table.
struct Route {
    method: Method,
    /// A path; `{name}` stands for one segment.
    pattern: &'static str,
    right: Right,
    of: Of,
    handle: Handle,
}

/// Whose the answers of a route are. For a principal that must not see them there is no such
/// route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Of {
    /// Nobody's, such as whether the process is alive.
    Anyone,
    /// The box's that this process serves.
    Box,
    /// One tenant's: the principal's, or the one that `?tenant=` selects.
    Tenant,
}

type Handle = for<'a> fn(&'a Services, Call) -> Handled<'a>;

const fn route(
    method: Method,
    pattern: &'static str,
    right: Right,
    of: Of,
    handle: Handle,
) -> Route {
    Route { method, pattern, right, of, handle }
}

/// All routes. A `HEAD` request is answered by the route for `GET`.
static ROUTES: [Route; 44] = [
    route(Method::GET, "/livez", Right::Read, Of::Anyone, |_, _| now(probes::liveness())),
    route(Method::GET, "/readyz", Right::Read, Of::Anyone, |services, _| {
        now(probes::readiness(&services.gate.health()))
    }),
    route(Method::GET, "/healthz", Right::Read, Of::Box, |services, _| {
        now(probes::details(&services.gate.health(), services.further_health()))
    }),
    route(Method::GET, "/metrics", Right::Read, Of::Box, |services, _| {
        now(metrics::render(services))
    }),
    route(Method::GET, "/v1/openapi.json", Right::Read, Of::Anyone, |_, _| now(openapi::show())),
    route(Method::GET, "/v1/apps", Right::Read, Of::Box, |services, call| {
        answered(apps::list(services, call))
    }),
    route(Method::GET, "/v1/apps/{name}", Right::Read, Of::Box, |services, call| {
        answered(apps::show(services, call))
    }),
    route(Method::POST, "/v1/apps/{name}/wake", Right::Operate, Of::Box, |services, call| {
        answered(apps::operate(services, call, Operation::Wake))
    }),
    route(Method::POST, "/v1/apps/{name}/sleep", Right::Operate, Of::Box, |services, call| {
        answered(apps::operate(services, call, Operation::Sleep))
    }),
    route(Method::POST, "/v1/apps/{name}/pause", Right::Operate, Of::Box, |services, call| {
        answered(apps::operate(services, call, Operation::Pause))
    }),
    route(Method::GET, "/v1/status", Right::Read, Of::Box, |services, call| {
        answered(proxies::status_by_host(services, call))
    }),
    route(Method::GET, "/v1/status/{name}", Right::Read, Of::Box, |services, call| {
        answered(ready(proxies::status(services, &call)))
    }),
    route(Method::GET, "/v1/traefik", Right::Read, Of::Box, |services, _| {
        answered(proxies::traefik(services))
    }),
    route(Method::GET, "/v1/requests", Right::Read, Of::Tenant, |services, call| {
        answered(ledger::list(services, call))
    }),
    route(Method::GET, "/v1/requests/{id}", Right::Read, Of::Tenant, |services, call| {
        answered(ledger::show(services, call))
    }),
    route(Method::GET, "/v1/events", Right::Read, Of::Tenant, |services, call| {
        answered(ledger::follow(services, call))
    }),
    route(Method::GET, "/v1/audit/checkpoint", Right::Read, Of::Tenant, |services, call| {
        answered(ledger::checkpoint(services, call))
    }),
    route(Method::GET, "/v1/audit/{id}", Right::Read, Of::Tenant, |services, call| {
        answered(ledger::prove(services, call))
    }),
    route(Method::GET, "/v1/deadletter", Right::Read, Of::Box, |services, call| {
        answered(ledger::list_letters(services, call))
    }),
    route(Method::GET, "/v1/deadletter/stats", Right::Read, Of::Box, |services, call| {
        answered(ledger::stats(services, call))
    }),
    route(Method::GET, "/v1/deadletter/{id}", Right::Read, Of::Box, |services, call| {
        answered(ledger::show_letter(services, call))
    }),
    route(Method::POST, "/v1/deadletter/{id}/replay", Right::Operate, Of::Box, |services, call| {
        answered(ledger::replay(services, call))
    }),
    route(
        Method::POST,
        "/v1/deadletter/{id}/dismiss",
        Right::Operate,
        Of::Box,
        |services, call| answered(ledger::dismiss(services, call)),
    ),
    route(Method::GET, "/v1/jobs", Right::Read, Of::Box, |services, call| {
        answered(jobs::list(services, call))
    }),
    route(Method::GET, "/v1/jobs/{name}/runs", Right::Read, Of::Box, |services, call| {
        answered(jobs::runs(services, call))
    }),
    route(Method::POST, "/v1/jobs/{name}/run", Right::Operate, Of::Box, |services, call| {
        answered(jobs::run_now(services, call))
    }),
    route(Method::GET, "/v1/tokens", Right::Operate, Of::Tenant, |services, call| {
        answered(tokens::list(services, call))
    }),
    route(Method::POST, "/v1/tokens", Right::Operate, Of::Tenant, |services, call| {
        answered(tokens::add(services, call))
    }),
    route(Method::GET, "/v1/tokens/{id}", Right::Operate, Of::Tenant, |services, call| {
        answered(tokens::show(services, call))
    }),
    route(Method::DELETE, "/v1/tokens/{id}", Right::Operate, Of::Tenant, |services, call| {
        answered(tokens::remove(services, call))
    }),
    route(Method::GET, "/v1/webhooks", Right::Read, Of::Tenant, |services, call| {
        answered(webhooks::list(services, call))
    }),
    route(Method::POST, "/v1/webhooks", Right::Operate, Of::Tenant, |services, call| {
        answered(webhooks::create(services, call))
    }),
    route(Method::GET, "/v1/webhooks/{id}", Right::Read, Of::Tenant, |services, call| {
        answered(webhooks::show(services, call))
    }),
    route(Method::PUT, "/v1/webhooks/{id}", Right::Operate, Of::Tenant, |services, call| {
        answered(webhooks::change(services, call))
    }),
    route(Method::DELETE, "/v1/webhooks/{id}", Right::Operate, Of::Tenant, |services, call| {
        answered(webhooks::remove(services, call))
    }),
    route(Method::GET, "/v1/webhooks/{id}/logs", Right::Read, Of::Tenant, |services, call| {
        answered(webhooks::log(services, call))
    }),
    route(Method::POST, "/v1/webhooks/{id}/test", Right::Operate, Of::Tenant, |services, call| {
        answered(webhooks::test(services, call))
    }),
    route(
        Method::POST,
        "/v1/webhooks/{id}/rotate",
        Right::Operate,
        Of::Tenant,
        |services, call| answered(webhooks::rotate(services, call)),
    ),
    route(
        Method::POST,
        "/v1/webhooks/{id}/enable",
        Right::Operate,
        Of::Tenant,
        |services, call| answered(webhooks::enable(services, call)),
    ),
    route(Method::GET, "/v1/alerts", Right::Read, Of::Tenant, |services, call| {
        answered(alerts::list(services, call))
    }),
    route(Method::GET, "/v1/alerts/{id}/history", Right::Read, Of::Tenant, |services, call| {
        answered(alerts::history(services, call))
    }),
    route(Method::POST, "/v1/alerts/{id}/silence", Right::Operate, Of::Tenant, |services, call| {
        answered(alerts::silence(services, call))
    }),
    route(Method::GET, "/v1/limits", Right::Read, Of::Box, |services, call| {
        answered(limits::list(services, call))
    }),
    route(Method::DELETE, "/v1/limits/{address}", Right::Operate, Of::Box, |services, call| {
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
    fn further_health(&self) -> Further {
        Further {
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
    request: Request<Whole>,
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

/// Says that values that identify a person are masked, or would be if there were any.
const MASKED: HeaderName = HeaderName::from_static("x-pii-masked");

/// The parameter that selects a tenant.
const TENANT: &str = "tenant";

/// Returns whose rows a request is about.
fn select_tenant(
    principal: &Principal,
    query: Option<&str>,
    of: Of,
    own: Arc<str>,
) -> Result<Arc<str>, Problem> {
    let named = Query::parse(query)?.text(TENANT)?;
    match (&principal.scope, named) {
        (Scope::All, None) => Ok(own),
        (Scope::Tenant(tenant), None) => Ok(Arc::clone(tenant)),
        (_, Some(_)) if of != Of::Tenant => {
            Err(Problem::parameter(TENANT, "`tenant` is not a parameter here"))
        }
        (Scope::All, Some(tenant)) => Ok(tenant.into()),
        (Scope::Tenant(_), Some(_)) => {
            let detail = "`tenant` may only be given with a token whose tenant is `*`";
            Err(Problem::parameter(TENANT, detail))
        }
    }
}

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

/// What the table has for a request.
enum Found {
    Route(&'static Route, Parameters),
    /// The path exists, and these are its methods.
    OtherMethod(String),
    Nothing,
}

/// The routes by their patterns.
struct Table(Router<Vec<&'static Route>>);

impl Table {
    fn new(routes: &'static [Route]) -> Self {
        let mut router = Router::new();
        for (index, route) in routes.iter().enumerate() {
            let is_same = |other: &&Route| other.pattern == route.pattern;
            if routes[..index].iter().any(|other| is_same(&other)) {
                continue;
            }
            let of_pattern: Vec<_> = routes.iter().filter(is_same).collect();
            if let Err(error) = router.insert(route.pattern, of_pattern) {
                // A test keeps the table free of this.
                error!(route.pattern, %error, "a route is not served");
            }
        }
        Self(router)
    }

    /// Looks among the routes for which `is_seen` holds.
    fn find(&self, method: &Method, path: &str, is_seen: impl Fn(&Route) -> bool) -> Found {
        let Ok(matched) = self.0.at(path) else { return Found::Nothing };
        let seen: Vec<_> = matched.value.iter().copied().filter(|route| is_seen(route)).collect();
        if seen.is_empty() {
            return Found::Nothing;
        }
        let method = if method == Method::HEAD { &Method::GET } else { method };
        let Some(route) = seen.iter().find(|route| route.method == *method) else {
            return Found::OtherMethod(allowed(&seen));
        };
        match Parameters::decode(&matched.params) {
            Some(parameters) => Found::Route(route, parameters),
            None => Found::Nothing,
        }
    }
}

/// Returns the value of an `Allow` header (RFC 9110 section 10.2.1).
fn allowed(routes: &[&Route]) -> String {
    let mut methods = Vec::new();
    for route in routes {
        methods.push(route.method.as_str());
        if route.method == Method::GET {
            methods.push("HEAD");
        }
    }
    methods.join(", ")
}

/// Serves the table.
pub(crate) struct Api {
    guard: Guard,
    table: Table,
    services: Arc<Services>,
}

impl Api {
    pub(crate) fn new(
        gate: Arc<Gate>,
        apps: Apps,
        proxies: ProxyRoutes,
        history: Option<History>,
        jobs: Option<Arc<Jobs>>,
        alerts: Option<Alerts>,
        config: &config::Config,
    ) -> Self {
        let tokens = history.as_ref().map(History::tokens);
        let (guard, table) = (Guard::new(&config.ops, tokens.clone()), Table::new(&ROUTES));
        let allowed = config.webhooks.allow.clone();
        let services =
            Arc::new(Services { gate, apps, proxies, history, jobs, tokens, alerts, allowed });
        Self { guard, table, services }
    }
}

impl Handler for Api {
    const NEEDS_CLIENT: bool = true;

    async fn handle(&self, request: Request<Body>) -> Response {
        telemetry::identify(request.headers());
        let is_head = request.method() == Method::HEAD;
        let is_versioned = is_versioned(request.uri().path());
        let answered = AssertUnwindSafe(self.answer(request)).catch_unwind().await;
        let response = match answered {
            Ok(Ok(response)) => response,
            Ok(Err(refusal)) => refusal.answer(is_versioned),
            Err(_) if is_versioned => {
                meters::panics().increment(1);
                error!("a request of the API panicked; it was answered with 500");
                Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "this is a bug").answer()
            }
            Err(panic) => std::panic::resume_unwind(panic),
        };
        if is_head { without_body(response) } else { response }
    }
}

impl Api {
    async fn answer(&self, request: Request<Body>) -> Result<Response, Refusal> {
        let (method, uri, headers) = (request.method(), request.uri(), request.headers());
        let client = request.extensions().get::<Client>().map(|Client(client)| *client);
        let principal = self.guard.admit(method, uri, headers, client).await?;
        let own = self.services.own_tenant();
        let is_seen = |route: &Route| match route.of {
            Of::Anyone | Of::Tenant => true,
            Of::Box => principal.scope.covers(&own),
        };
        let (route, parameters) = match self.table.find(method, uri.path(), is_seen) {
            Found::Route(route, parameters) => (route, parameters),
            Found::OtherMethod(allowed) => return Err(Refusal::OtherMethod(allowed)),
            Found::Nothing => return Err(Refusal::NoRoute),
        };
        if !principal.may(route.right) {
            return Err(Refusal::NoRight);
        }
        let is_masked = route.of != Of::Anyone && !principal.may(Right::Pii);
        let (head, body) = request.into_parts();
        let answered = async {
            let tenant = select_tenant(&principal, head.uri.query(), route.of, own)?;
            let is_safe = route.method.is_safe();
            // A request that did not arrive whole has no effect.
            let body = if is_safe {
                Whole::empty()
            } else {
                body::read(body, MAX_BODY, BODY_DEADLINE).await?
            };
            let request = Request::from_parts(head, body);
            let call = Call { principal, tenant, parameters, request, execution: None };
            if is_safe {
                (route.handle)(&self.services, call).await?.commit().await
            } else {
                repeat::answer(&self.services, route, call).await
            }
        };
        let mut response = answered.await.unwrap_or_else(|problem: Problem| problem.answer());
        if is_masked {
            response.headers_mut().insert(MASKED, HeaderValue::from_static("true"));
        }
        Ok(response)
    }
}

/// Whether errors of this path are problem documents; those of probes and metrics have the
/// form of the gate's.
fn is_versioned(path: &str) -> bool {
    path == "/v1" || path.starts_with("/v1/")
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

/// Returns the response to a `HEAD` request: the same without its body (RFC 9110 section
/// 9.3.2).
fn without_body(mut response: Response) -> Response {
    if let Some(length) = response.body().size_hint().exact() {
        response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    response.map(|_| ResponseBody::empty())
}

#[cfg(test)]
mod tests;
