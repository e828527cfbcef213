//! What the operator's listener serves: one table of routes behind one guard.
//!
//! The guard decides who asks ([`Principal`]) before anything is looked up. A route names
//! the right that its requests need, so a handler is never called without it.

mod apps;
mod guard;
mod jobs;
mod ledger;
mod metrics;
mod principal;
mod problem;
mod query;

use std::sync::Arc;

use futures_util::future::{BoxFuture, ready};
use http::{HeaderValue, Method, Request, header};
use hyper::body::Body as _;
use matchit::Router;
use percent_encoding::percent_decode_str;
use tracing::error;

pub(crate) use self::apps::Apps;
use self::apps::Operation;
use self::guard::Guard;
pub(crate) use self::ledger::History;
use self::principal::{Principal, Right, Tenant};
use super::body::Body;
use super::probes::Further;
use super::{Handler, Response, ResponseBody, answer, probes};
use crate::config;
use crate::gate::Gate;
use crate::jobs::Jobs;

/// One row of the table.
struct Route {
    method: Method,
    /// A path; `{name}` stands for one segment.
    pattern: &'static str,
    right: Right,
    handle: Handle,
}

type Handle = for<'a> fn(&'a Services, Call<'a>) -> BoxFuture<'a, Response>;

const fn route(method: Method, pattern: &'static str, right: Right, handle: Handle) -> Route {
    Route { method, pattern, right, handle }
}

/// Answers without waiting for anything.
fn now(response: Response) -> BoxFuture<'static, Response> {
    Box::pin(ready(response))
}

/// All routes. A `HEAD` request is answered by the route for `GET`.
static ROUTES: [Route; 21] = [
    route(Method::GET, "/livez", Right::View, |_, _| now(probes::liveness())),
    route(Method::GET, "/readyz", Right::View, |services, _| {
        now(probes::readiness(&services.gate.health()))
    }),
    route(Method::GET, "/healthz", Right::View, |services, _| {
        now(probes::details(&services.gate.health(), services.further_health()))
    }),
    route(Method::GET, "/metrics", Right::View, |services, call| {
        now(metrics::render(services, &call))
    }),
    route(Method::GET, "/v1/apps", Right::View, |services, call| now(apps::list(services, &call))),
    route(Method::GET, "/v1/apps/{name}", Right::View, |services, call| {
        now(apps::show(services, &call))
    }),
    route(Method::POST, "/v1/apps/{name}/wake", Right::Operate, |services, call| {
        Box::pin(apps::operate(services, call, Operation::Wake))
    }),
    route(Method::POST, "/v1/apps/{name}/sleep", Right::Operate, |services, call| {
        Box::pin(apps::operate(services, call, Operation::Sleep))
    }),
    route(Method::POST, "/v1/apps/{name}/pause", Right::Operate, |services, call| {
        Box::pin(apps::operate(services, call, Operation::Pause))
    }),
    route(Method::GET, "/v1/requests", Right::View, |services, call| {
        problem::answered(ledger::list(services, call))
    }),
    route(Method::GET, "/v1/requests/{id}", Right::View, |services, call| {
        problem::answered(ledger::show(services, call))
    }),
    route(Method::GET, "/v1/events", Right::View, |services, call| {
        problem::answered(ledger::follow(services, call))
    }),
    route(Method::GET, "/v1/audit/checkpoint", Right::View, |services, call| {
        problem::answered(ledger::checkpoint(services, call))
    }),
    route(Method::GET, "/v1/audit/{id}", Right::View, |services, call| {
        problem::answered(ledger::prove(services, call))
    }),
    route(Method::GET, "/v1/deadletter", Right::View, |services, call| {
        problem::answered(ledger::list_letters(services, call))
    }),
    route(Method::GET, "/v1/deadletter/stats", Right::View, |services, call| {
        problem::answered(ledger::stats(services, call))
    }),
    route(Method::GET, "/v1/deadletter/{id}", Right::View, |services, call| {
        problem::answered(ledger::show_letter(services, call))
    }),
    route(Method::POST, "/v1/deadletter/{id}/replay", Right::Operate, |services, call| {
        problem::answered(ledger::replay(services, call))
    }),
    route(Method::POST, "/v1/deadletter/{id}/dismiss", Right::Operate, |services, call| {
        problem::answered(ledger::dismiss(services, call))
    }),
    route(Method::GET, "/v1/jobs", Right::View, |services, _| {
        problem::answered(jobs::list(services))
    }),
    route(Method::POST, "/v1/jobs/{name}/run", Right::Operate, |services, call| {
        Box::pin(jobs::run_now(services, call))
    }),
];

/// What handlers work with.
struct Services {
    gate: Arc<Gate>,
    apps: Apps,
    /// `None` if nothing is recorded.
    history: Option<History>,
    /// `None` if nothing is recorded.
    jobs: Option<Arc<Jobs>>,
}

impl Services {
    /// Returns what `/healthz` says of the ledger and of jobs.
    fn further_health(&self) -> Further {
        Further {
            ledger: self.history.as_ref().map(History::health),
            job_problems: self.jobs.as_ref().map(|jobs| jobs.problems()),
        }
    }

    /// Returns the apps that belong to a tenant.
    fn apps(&self, tenant: Tenant) -> &Apps {
        match tenant {
            Tenant::Own => &self.apps,
        }
    }
}

/// One request to a handler.
struct Call<'a> {
    principal: &'a Principal,
    parameters: Parameters,
    request: Request<Body>,
}

/// The segments that a pattern's parameters stand for, percent-decoded.
#[derive(Debug, Default, PartialEq, Eq)]
struct Parameters(Vec<(String, String)>);

impl Parameters {
    /// Returns `None` if a segment is not UTF-8.
    fn decode(matched: &matchit::Params<'_, '_>) -> Option<Self> {
        let decode = |(name, raw): (&str, &str)| {
            let value = percent_decode_str(raw).decode_utf8().ok()?;
            Some((name.to_owned(), value.into_owned()))
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

    fn find(&self, method: &Method, path: &str) -> Found {
        let Ok(matched) = self.0.at(path) else { return Found::Nothing };
        let method = if method == Method::HEAD { &Method::GET } else { method };
        let Some(route) = matched.value.iter().find(|route| route.method == *method) else {
            return Found::OtherMethod(allowed(matched.value));
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
    services: Services,
}

impl Api {
    pub(crate) fn new(
        gate: Arc<Gate>,
        apps: Apps,
        history: Option<History>,
        jobs: Option<Arc<Jobs>>,
        config: &config::Ops,
    ) -> Self {
        let (guard, table) = (Guard::new(config), Table::new(&ROUTES));
        Self { guard, table, services: Services { gate, apps, history, jobs } }
    }
}

impl Handler for Api {
    async fn handle(&self, request: Request<Body>) -> Response {
        let principal = match self.guard.admit(&request) {
            Ok(principal) => principal,
            Err(refusal) => return refusal.answer(),
        };
        let (route, parameters) = match self.table.find(request.method(), request.uri().path()) {
            Found::Route(route, parameters) => (route, parameters),
            Found::OtherMethod(allowed) => return answer::method_not_allowed(&allowed),
            Found::Nothing => return answer::not_found(),
        };
        if !principal.may(route.right) {
            return answer::forbidden();
        }
        let is_head = request.method() == Method::HEAD;
        let call = Call { principal: &principal, parameters, request };
        let response = (route.handle)(&self.services, call).await;
        if is_head { without_body(response) } else { response }
    }
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
mod tests {
    use super::*;

    #[test]
    fn every_route_is_found_by_its_own_path_and_method() {
        let table = Table::new(&ROUTES);
        for expected in &ROUTES {
            let path = expected.pattern.replace("{name}", "a%20b").replace("{id}", "a%20b");
            let Found::Route(route, parameters) = table.find(&expected.method, &path) else {
                panic!("{} {path} is not found", expected.method);
            };
            assert!(std::ptr::eq(route, expected), "{path}");
            for name in ["name", "id"] {
                let has_it = expected.pattern.contains(&format!("{{{name}}}"));
                assert_eq!(parameters.get(name), if has_it { "a b" } else { "" }, "{path}");
            }
        }
    }

    #[test]
    fn other_methods_and_other_paths_are_told_apart() {
        let table = Table::new(&ROUTES);
        for (method, path, expected) in [
            (Method::POST, "/metrics", "GET, HEAD"),
            (Method::OPTIONS, "/v1/apps", "GET, HEAD"),
            (Method::DELETE, "/v1/apps/notes", "GET, HEAD"),
            (Method::GET, "/v1/apps/notes/wake", "POST"),
            (Method::HEAD, "/v1/apps/notes/wake", "POST"),
        ] {
            match table.find(&method, path) {
                Found::OtherMethod(allowed) => assert_eq!(allowed, expected, "{method} {path}"),
                _ => panic!("{method} {path}"),
            }
        }
        for (method, path) in [
            (Method::GET, "/"),
            (Method::GET, "/v1"),
            (Method::GET, "/v1/appsX"),
            (Method::GET, "/v1/apps/"),
            (Method::GET, "/v1/apps/notes/"),
            (Method::POST, "/v1/apps//wake"),
            (Method::POST, "/v1/apps/notes/delete"),
            (Method::POST, "/v1/apps/notes/wake/now"),
            (Method::GET, "/v1/apps/%ff"),
            (Method::GET, "*"),
            (Method::GET, ""),
        ] {
            assert!(matches!(table.find(&method, path), Found::Nothing), "{method} {path}");
        }
    }

    #[test]
    fn parameters_are_decoded_once_and_stay_one_segment() {
        let table = Table::new(&ROUTES);
        for (path, name) in [
            ("/v1/apps/notes", "notes"),
            ("/v1/apps/a%2Fwake", "a/wake"),
            ("/v1/apps/%2525", "%25"),
            ("/v1/apps/%C3%A9%20+", "é +"),
            ("/v1/apps/{name}", "{name}"),
            ("/v1/apps/%", "%"),
        ] {
            let Found::Route(route, parameters) = table.find(&Method::HEAD, path) else {
                panic!("{path}");
            };
            assert_eq!((route.pattern, parameters.get("name")), ("/v1/apps/{name}", name));
        }
    }

    #[test]
    fn a_response_to_head_keeps_the_length_of_what_it_leaves_out() {
        let response = without_body(answer::fixed(http::StatusCode::OK, "null"));
        assert_eq!(response.headers()[header::CONTENT_LENGTH], "4");
        assert_eq!(response.body().size_hint().exact(), Some(0));
    }
}
