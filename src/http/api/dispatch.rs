//! Answers a request: asks the guard, finds the route, reads the body and calls the handler.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use http::{HeaderName, HeaderValue, Method, Request, StatusCode, header};
use hyper::body::Body as _;
use matchit::Router;
use tracing::error;

use super::guard::{Guard, Refusal};
use super::problem::Problem;
use super::query::Query;
use super::{
    Alerts, Apps, Call, History, Owner, Parameters, ProxyRoutes, ROUTES, Route, Services, TENANT,
    repeat,
};
use crate::access::{Principal, Right, Scope};
use crate::config;
use crate::gate::Gate;
use crate::http::body::{self, Body, BufferedBody};
use crate::http::{Client, Handler, Response, ResponseBody};
use crate::jobs::Jobs;
use crate::telemetry::{self, meters};

/// Bounds of the bodies of requests that change something.
const MAX_BODY: usize = 64 * 1024;
const BODY_DEADLINE: Duration = Duration::from_secs(10);

/// Says that values that identify a person are masked, or would be if there were any.
const MASKED: HeaderName = HeaderName::from_static("x-pii-masked");

/// Serves the table of routes.
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
        let is_seen = |route: &Route| match route.owner {
            Owner::Nobody | Owner::Tenant => true,
            Owner::Box => principal.scope.covers(&own),
        };
        let (route, parameters) = match self.table.find(method, uri.path(), is_seen) {
            RouteMatch::Route(route, parameters) => (route, parameters),
            RouteMatch::OtherMethod(allowed) => return Err(Refusal::OtherMethod(allowed)),
            RouteMatch::Nothing => return Err(Refusal::NoRoute),
        };
        if !principal.may(route.right) {
            return Err(Refusal::NoRight);
        }
        let is_masked = route.owner != Owner::Nobody && !principal.may(Right::Pii);
        let (head, body) = request.into_parts();
        let answered = async {
            let tenant = select_tenant(&principal, head.uri.query(), route.owner, own)?;
            let is_safe = route.method.is_safe();
            // A request that did not arrive whole has no effect.
            let body = if is_safe {
                BufferedBody::empty()
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

/// What the table of routes has for a request.
enum RouteMatch {
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
    fn find(&self, method: &Method, path: &str, is_seen: impl Fn(&Route) -> bool) -> RouteMatch {
        let Ok(matched) = self.0.at(path) else { return RouteMatch::Nothing };
        let seen: Vec<_> = matched.value.iter().copied().filter(|route| is_seen(route)).collect();
        if seen.is_empty() {
            return RouteMatch::Nothing;
        }
        let method = if method == Method::HEAD { &Method::GET } else { method };
        let Some(route) = seen.iter().find(|route| route.method == *method) else {
            return RouteMatch::OtherMethod(allowed(&seen));
        };
        match Parameters::decode(&matched.params) {
            Some(parameters) => RouteMatch::Route(route, parameters),
            None => RouteMatch::Nothing,
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

/// Returns whose rows a request is about.
fn select_tenant(
    principal: &Principal,
    query: Option<&str>,
    owner: Owner,
    own: Arc<str>,
) -> Result<Arc<str>, Problem> {
    let named = Query::parse(query)?.text(TENANT)?;
    match (&principal.scope, named) {
        (Scope::All, None) => Ok(own),
        (Scope::Tenant(tenant), None) => Ok(Arc::clone(tenant)),
        (_, Some(_)) if owner != Owner::Tenant => {
            Err(Problem::parameter(TENANT, "`tenant` is not a parameter here"))
        }
        (Scope::All, Some(tenant)) => Ok(tenant.into()),
        (Scope::Tenant(_), Some(_)) => {
            let detail = "`tenant` may only be given with a token whose tenant is `*`";
            Err(Problem::parameter(TENANT, detail))
        }
    }
}

/// Whether errors of this path are problem documents; those of probes and metrics have the
/// form of the gate's.
fn is_versioned(path: &str) -> bool {
    path == "/v1" || path.starts_with("/v1/")
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
