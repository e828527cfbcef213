//! The routes of the gate's listener.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;

use http::header::WWW_AUTHENTICATE;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Request, StatusCode, Uri};
use percent_encoding::percent_decode_str;
use tracing::error;

use super::body::Body;
use super::pages::{PageContext, Pages, Pairs, accepts_json_only};
use super::pairing::{self, PairingRoutes, is_within};
use super::{Handler, Response, answer, probes};
use crate::domain::endpoint::Endpoint;
use crate::domain::observation::{Observation, Observer};
use crate::domain::reason::Reason;
use crate::gate::request_kind::{is_navigation, is_prefetch, poll_version};
use crate::gate::verdict::{ASLEEP, Asleep, AsleepResponse, Verdict};
use crate::gate::{Gate, PageApp};
use crate::telemetry::{identified, meters};

/// What a client without credentials is told (RFC 6750 section 3). No browser asks for a password
/// because of it.
const BEARER: HeaderValue = HeaderValue::from_static("Bearer");

const APP_ERROR: &str = "/internal/app_error/";

/// Serves the contract's endpoints and the health probes.
pub(crate) struct GateRoutes {
    gate: Arc<Gate>,
    pages: Pages,
    /// `None` if devices are not paired here.
    pairing: Option<PairingRoutes>,
    observers: Box<[Box<dyn Observer>]>,
}

impl GateRoutes {
    pub(crate) fn new(
        gate: Arc<Gate>,
        installed_apps_dir: PathBuf,
        pairing: Option<PairingRoutes>,
        observers: Box<[Box<dyn Observer>]>,
    ) -> Self {
        Self { gate, pages: Pages::new(installed_apps_dir), pairing, observers }
    }

    async fn decide(&self, endpoint: Endpoint, head: &Parts) -> Response {
        let decision = match endpoint {
            Endpoint::Auth => self.gate.auth(&head.headers).await,
            Endpoint::Terminal => self.gate.authenticate_terminal(&head.headers).await,
            Endpoint::Management => self.gate.authenticate_management(&head.headers).await,
        };
        let wait = decision.wait();
        let response = match &decision.verdict {
            Verdict::Grant(headers) => answer::grant(headers),
            Verdict::Asleep(asleep) => {
                let domain = self.domain_for(asleep.form == AsleepResponse::Page).await;
                let uri = header(&head.headers, FORWARDED_URI);
                let context = self.context(uri, domain.as_deref(), &head.headers);
                self.pages.asleep(asleep, &head.headers, context).await
            }
            Verdict::Deny(reason) => match wait {
                Some(wait) => answer::too_many(wait),
                None if endpoint == Endpoint::Auth => self.denied(*reason, &head.headers).await,
                None => answer::deny(*reason),
            },
        };
        let observation = decision.observed(endpoint, &head.headers, &response);
        notify(&self.observers, &observation);
        response
    }
}

impl GateRoutes {
    /// Answers a denial: with a page if a person opens an app in a browser, otherwise with
    /// the contract's JSON.
    async fn denied(&self, reason: Reason, headers: &HeaderMap) -> Response {
        let answer = self.challenged(answer::deny(reason), headers);
        let concerns_app = matches!(
            reason,
            Reason::TerminalRequired
                | Reason::PeerRequired
                | Reason::NoMatchingRule
                | Reason::BrokenApp
        );
        let is_shown = concerns_app
            && poll_version(headers).is_none()
            // Nobody may ever look at it.
            && !is_prefetch(headers)
            && is_navigation(headers, header(headers, FORWARDED_METHOD));
        if !is_shown {
            return answer;
        }
        let Some(app) = self.gate.app_denied(headers).await else { return answer };
        let domain = self.gate.box_domain().await;
        let uri = header(headers, FORWARDED_URI);
        let context = self.context(uri, domain.as_deref(), headers);
        let page = self.pages.denied(answer.status(), &app, headers, context).await;
        self.with_scheme(page)
    }

    /// Makes a 401 one that HTTP clients understand (RFC 9110 section 15.5.2), and a problem
    /// document for those that read JSON. Beside FreeShard it stays as the contract has it.
    fn challenged(&self, response: Response, headers: &HeaderMap) -> Response {
        let is_plain = self.pairing.is_none() || response.status() != StatusCode::UNAUTHORIZED;
        let response = if is_plain || !accepts_json_only(headers) {
            response
        } else {
            answer::unauthorized_problem()
        };
        self.with_scheme(response)
    }

    fn with_scheme(&self, mut response: Response) -> Response {
        if self.pairing.is_some() && response.status() == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(WWW_AUTHENTICATE, BEARER);
        }
        response
    }

    fn context<'a>(
        &self,
        uri: Option<&'a str>,
        domain: Option<&'a str>,
        headers: &HeaderMap,
    ) -> PageContext<'a> {
        let is_outside = || {
            domain
                .zip(pairing::host(headers))
                .is_some_and(|(domain, host)| !is_within(host, domain))
        };
        let pairs = match &self.pairing {
            None => Pairs::Elsewhere,
            Some(_) if is_outside() => Pairs::Nowhere,
            Some(_) => Pairs::Here,
        };
        PageContext { uri, domain, pairs }
    }

    async fn domain_for(&self, is_page: bool) -> Option<String> {
        if is_page { self.gate.box_domain().await } else { None }
    }

    /// Returns a page in place of an app's response, or in place of the gate's own response
    /// if the proxy has replaced that. If a waiting page polls, returns the app's state.
    ///
    /// Requests are held at `/internal/auth` only, never here, where access is not decided.
    async fn page(&self, status: Option<u16>, head: &Parts) -> Response {
        let headers = &head.headers;
        let uri = original_uri(head);
        let app = self.gate.app_for_page(status, headers, uri.as_deref()).await;
        let domain = self.domain_for(app.is_some()).await;
        let context = self.context(uri.as_deref(), domain.as_deref(), headers);
        if let (Some(status), true) = (status, is_gate_status(head)) {
            return self.gate_response(status, app, headers, context).await;
        }
        self.pages.app_error(status, app, headers, context).await
    }
}

impl GateRoutes {
    /// Reproduces the gate's own response, for a proxy that kept only its status.
    async fn gate_response(
        &self,
        status: u16,
        app: Option<PageApp>,
        headers: &HeaderMap,
        context: PageContext<'_>,
    ) -> Response {
        let is_poll = poll_version(headers).is_some();
        // The gate answers other statuses without a page, too.
        let is_shown = matches!(status, 401 | 403 | 503)
            && is_navigation(headers, header(headers, FORWARDED_METHOD));
        let is_page = status == ASLEEP || is_poll || is_shown;
        match app {
            Some(app) if is_page => {
                self.pages.app_error(Some(status), Some(app), headers, context).await
            }
            // The request was held until its time limit: a denial would be 401.
            Some(app) if status == 503 && app.is_granted => {
                let asleep = Asleep { app, form: AsleepResponse::Problem };
                self.pages.asleep(&asleep, headers, context).await
            }
            _ => self.challenged(answer::of_status(status), headers),
        }
    }
}

/// Tells the observers of a decision. One that panics affects neither the response nor the
/// others.
fn notify(observers: &[Box<dyn Observer>], observation: &Observation<'_>) {
    for observer in observers {
        let observe = AssertUnwindSafe(|| observer.observe(observation));
        if catch_unwind(observe).is_err() {
            meters::panics().increment(1);
            error!("an observer panicked; the response is not affected");
        }
    }
}

/// Whether the proxy says that the status came from the gate and not from the app.
fn is_gate_status(head: &Parts) -> bool {
    head.uri.query().unwrap_or_default().split('&').any(|pair| pair == "gate")
}

const FORWARDED_METHOD: &str = "x-forwarded-method";
const FORWARDED_URI: &str = "x-forwarded-uri";

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    std::str::from_utf8(headers.get(name)?.as_bytes()).ok()
}

/// Returns the path and query of the request that a page answers, if the proxy passes
/// them on: Traefik does so in the query, other proxies in a header.
fn original_uri(head: &Parts) -> Option<String> {
    let query = head.uri.query().unwrap_or_default();
    let parameter = query.split('&').find_map(|pair| pair.strip_prefix("url="));
    let text = match parameter {
        // Escaped by Go's url.QueryEscape.
        Some(url) => percent_decode_str(&url.replace('+', " ")).decode_utf8().ok()?.into_owned(),
        None => header(&head.headers, FORWARDED_URI)?.to_owned(),
    };
    if text.starts_with('/') {
        return Some(text);
    }
    // The request target was an absolute URL.
    let uri: Uri = text.parse().ok()?;
    let path = uri.path_and_query()?.as_str();
    path.starts_with('/').then(|| path.to_owned())
}

impl Handler for GateRoutes {
    async fn handle(&self, request: Request<Body>) -> Response {
        let (mut head, body) = request.into_parts();
        if head.uri.path().starts_with(pairing::PREFIX)
            && let Some(pairing) = &self.pairing
        {
            apply_target_authority(&mut head);
            return identified(&head.headers, pairing.answer(&head, body)).await;
        }
        // Dropped before anything is waited for: what arrives of the body is not kept.
        drop(body);
        let endpoint = match head.uri.path() {
            "/internal/auth" => Endpoint::Auth,
            "/internal/authenticate_terminal" => Endpoint::Terminal,
            "/internal/authenticate_management" => Endpoint::Management,
            path => {
                if let Some(status) = path.strip_prefix(APP_ERROR) {
                    let status = status.parse();
                    apply_target_authority(&mut head);
                    let page = self.page(status.ok(), &head);
                    return identified(&head.headers, page).await;
                }
                return probes::probe(path, || self.gate.health())
                    .unwrap_or_else(answer::not_found);
            }
        };
        identified(&head.headers, self.decide(endpoint, &head)).await
    }
}

/// Replaces the Host header by the authority of the request target, if it has one
/// (RFC 9113 section 8.3.1, RFC 9112 section 3.2.2).
fn apply_target_authority(head: &mut Parts) {
    let Some(authority) = head.uri.authority() else { return };
    if let Ok(host) = authority.as_str().parse() {
        head.headers.insert(http::header::HOST, host);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::domain::client::Client;
    use crate::domain::endpoint::VerdictKind;
    use crate::domain::observation::Timings;

    #[derive(Debug)]
    struct Panicking;

    impl Observer for Panicking {
        fn observe(&self, _: &Observation<'_>) {
            panic!("on purpose")
        }
    }

    #[derive(Debug)]
    struct Counting(Arc<AtomicUsize>);

    impl Observer for Counting {
        fn observe(&self, observation: &Observation<'_>) {
            assert_eq!(observation.app, Some("notes"));
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn an_observer_that_panics_keeps_the_others_informed() {
        let told = Arc::new(AtomicUsize::new(0));
        let counting = || Box::new(Counting(Arc::clone(&told)));
        let observers: [Box<dyn Observer>; 3] = [counting(), Box::new(Panicking), counting()];
        let (mut request, response) = (HeaderMap::new(), HeaderMap::new());
        request.insert("cookie", "authorization=secret".parse().expect("a value"));
        let observation = Observation {
            endpoint: Endpoint::Auth,
            verdict: VerdictKind::Grant,
            app: Some("notes"),
            rule: Some(""),
            client: Client::Anonymous,
            at: std::time::UNIX_EPOCH,
            timings: Timings::default(),
            span: None,
            request: &request,
            status: StatusCode::OK,
            response: &response,
        };
        notify(&observers, &observation);
        assert_eq!(told.load(Ordering::Relaxed), 2);
        assert!(!format!("{observation:?}").contains("secret"), "credentials are not printed");
    }

    #[test]
    fn the_address_that_a_page_stands_for_is_read_as_proxies_write_it() {
        for (target, header, expected) in [
            ("/internal/app_error/502?url=%2Fa%3Fb%3Dc%2520d", None, Some("/a?b=c%20d")),
            ("/internal/app_error/502?x=y&url=%2F%2Fa", Some("/other"), Some("//a")),
            ("/internal/app_error/502?url=http%3A%2F%2Fnotes.box%2Fa%3Fb", None, Some("/a?b")),
            ("/internal/app_error/502?url=", None, None),
            ("/internal/app_error/502?url=a%2Fb", None, None),
            ("/internal/app_error/502?url=%ff", None, None),
            ("/internal/app_error/502", Some("/a?b"), Some("/a?b")),
            ("/internal/app_error/502", None, None),
        ] {
            let mut request = Request::get(target);
            if let Some(uri) = header {
                request = request.header(FORWARDED_URI, uri);
            }
            let (head, ()) = request.body(()).expect("a request").into_parts();
            assert_eq!(original_uri(&head).as_deref(), expected, "{target} {header:?}");
        }
    }
}
