//! What the gate's listener answers.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use http::HeaderMap;
use http::request::Parts;
use tracing::debug;

use super::pages::Pages;
use super::{Handler, Response, answer, ops};
use crate::domain::endpoint::{Endpoint, Said};
use crate::gate::Gate;
use crate::gate::asker::poll_version;
use crate::gate::verdict::Verdict;
use crate::telemetry::meters::Verdicts;
use crate::upstream::Shadow;

const APP_ERROR: &str = "/internal/app_error/";

/// The contract's endpoints, and the probes.
pub(crate) struct GateRoutes {
    gate: Arc<Gate>,
    pages: Pages,
    verdicts: Arc<Verdicts>,
    shadow: Option<Arc<Shadow>>,
}

impl GateRoutes {
    pub(crate) fn new(
        gate: Arc<Gate>,
        installed_apps_dir: PathBuf,
        shadow: Option<Arc<Shadow>>,
    ) -> Self {
        let pages = Pages::new(installed_apps_dir);
        Self { gate, pages, verdicts: Verdicts::new(), shadow }
    }

    async fn decide(&self, endpoint: Endpoint, head: &Parts) -> Response {
        let began = Instant::now();
        let verdict = match endpoint {
            Endpoint::Auth => self.gate.auth(&head.headers).await,
            Endpoint::Terminal => self.gate.authenticate_terminal(&head.headers).await,
            Endpoint::Management => self.gate.authenticate_management(&head.headers).await,
        };
        let said = match &verdict {
            Verdict::Grant(_) => {
                debug!(endpoint = endpoint.as_str(), "granted");
                Said::Grant
            }
            Verdict::Asleep(asleep) => {
                let phase = asleep.app.shown.phase.as_str();
                debug!(endpoint = endpoint.as_str(), phase, "granted, not awake");
                Said::Asleep
            }
            Verdict::Deny(reason) => {
                debug!(endpoint = endpoint.as_str(), reason = reason.as_str(), "denied");
                Said::Deny(*reason)
            }
        };
        self.verdicts.count(endpoint, said, began);
        let response = match verdict {
            Verdict::Grant(headers) => answer::grant(&headers),
            Verdict::Asleep(asleep) => self.pages.asleep(&asleep, &head.headers).await,
            Verdict::Deny(reason) => answer::deny(reason),
        };
        if let Some(shadow) = &self.shadow {
            let (status, headers) = (response.status(), response.headers());
            shadow.follow(endpoint, &head.headers, said, status, headers);
        }
        response
    }
}

impl GateRoutes {
    /// A page in place of an app's answer; or, where a page asks how things stand,
    /// that.
    async fn page(&self, status: Option<u16>, headers: &HeaderMap) -> Response {
        let denied = status == Some(401);
        let app = match poll_version(headers) {
            Some(version) if !denied => self.gate.app_after(headers, version).await,
            _ => self.gate.app_for_page(headers).await,
        };
        self.pages.app_error(status, app, headers).await
    }
}

impl Handler for GateRoutes {
    async fn handle(&self, mut head: Parts) -> Response {
        let endpoint = match head.uri.path() {
            "/internal/auth" => Endpoint::Auth,
            "/internal/authenticate_terminal" => Endpoint::Terminal,
            "/internal/authenticate_management" => Endpoint::Management,
            path => {
                if let Some(status) = path.strip_prefix(APP_ERROR) {
                    let status = status.parse();
                    take_host_of_target(&mut head);
                    return self.page(status.ok(), &head.headers).await;
                }
                return ops::probe(path, || self.gate.health()).unwrap_or_else(answer::not_found);
            }
        };
        self.decide(endpoint, &head).await
    }
}

/// An authority in the request target stands for the Host header (RFC 9113
/// section 8.3.1, RFC 9112 section 3.2.2).
fn take_host_of_target(head: &mut Parts) {
    let Some(authority) = head.uri.authority() else { return };
    if let Ok(host) = authority.as_str().parse() {
        head.headers.insert(http::header::HOST, host);
    }
}
