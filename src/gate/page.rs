//! Selects what a page shows about an app: everything to a client that may use the app, and
//! to any other client only its name and icon, which reveal no more than its address does.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use http::header::HOST;

use super::caches::{App, AppLookup};
use super::client::ReplayCheck;
use super::forwarded;
use super::{Gate, Now};
use crate::domain::lifecycle::Phase;
use crate::domain::names::Contested;
use crate::domain::policy::match_rules;
use crate::domain::request::{Host, Readings};
use crate::store::Unavailable;
use crate::wake::AppView;

/// What a page shows about an app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageApp {
    pub name: Arc<str>,
    pub pretty_name: String,
    /// The icon's file name in the app's folder; empty if the app has no icon.
    pub icon: String,
    /// Whether the client may use the app. If not, the fields below are empty.
    pub is_granted: bool,
    /// The app's state in the store, in the contract's words.
    pub status: String,
    pub shown: AppView,
    /// The port that the proxy sends the app's requests to.
    pub port: Option<u16>,
    /// How long the app has not answered although it is awake, if known.
    pub unanswered: Option<Duration>,
}

impl PageApp {
    pub(super) fn new(app: &App) -> Self {
        let spec = app.wake.spec();
        let target = spec.entrypoints.first().filter(|target| target.speaks_http);
        Self {
            is_granted: true,
            status: app.row.status.clone(),
            shown: app.wake.shown(),
            port: target.map(|target| target.port),
            ..Self::withheld(app)
        }
    }

    /// Returns the app as shown to a client that may use it, if the proxy has received no
    /// answer from the app.
    fn unanswered(app: &App) -> Self {
        let is_known = app.wake.is_awake() && !app.wake.shown().containers.is_empty();
        let unanswered = is_known.then(|| app.wake.note_unanswered());
        Self { unanswered, ..Self::new(app) }
    }

    /// Returns the app as shown to a client that a proxy says has got no answer from it.
    ///
    /// The gate itself never answers so, so the request was granted; but the token that would
    /// show it is gone if the proxy has put the app's cookies in its place. What the containers
    /// do is left out: it tells more than the proxy's own answer would.
    fn unanswered_by_proxy(app: &App) -> Self {
        let mut page = Self::unanswered(app);
        page.shown.containers = Arc::default();
        page.shown.last_failure = None;
        page
    }

    /// Returns the app as shown to a client that may not use it.
    fn withheld(app: &App) -> Self {
        let description = app.description.as_ref().ok();
        let shown = app.wake.shown();
        Self {
            pretty_name: description.map_or(&*app.row.name, |app| &app.pretty_name).to_owned(),
            icon: description.map_or("", |app| &app.icon).to_owned(),
            name: Arc::clone(&app.row.name),
            is_granted: false,
            status: String::new(),
            shown: AppView {
                version: 0,
                phase: Phase::Unavailable { status: String::new() },
                since: shown.since,
                containers: Arc::default(),
                began: None,
                usual: None,
                last_failure: None,
            },
            port: None,
            unanswered: None,
        }
    }
}

impl Gate {
    /// Returns the app that a page is about, by `Host`, with only what
    /// the client may see. `status` is the status of the answer that the page replaces.
    ///
    /// `uri` is path and query of the request that the page answers. If the proxy does not
    /// send them, the rule of the app's front page decides.
    pub async fn app_for_page(
        &self,
        status: Option<u16>,
        headers: &HeaderMap,
        uri: Option<&str>,
    ) -> Option<PageApp> {
        let now = self.now();
        let lookup = self.lookup(headers.get(HOST)?.to_str().ok()?, now).await?;
        let is_granted = self.may_use(&lookup, headers, uri.unwrap_or("/"), now).await;
        let hides_token = self.config.hide_token;
        lookup.app().map(match (is_granted, status) {
            // A proxy sends these if the app has not answered, or not in time.
            (false, Some(502 | 504)) if hides_token => PageApp::unanswered_by_proxy,
            (false, _) => PageApp::withheld,
            (true, Some(502 | 504)) => PageApp::unanswered,
            (true, _) => PageApp::new,
        })
    }

    /// Returns the app that a denied request was for, if there is one.
    pub async fn app_denied(&self, headers: &HeaderMap) -> Option<PageApp> {
        let host = std::str::from_utf8(headers.get(forwarded::HOST)?.as_bytes()).ok()?;
        self.lookup(host, self.now()).await?.app().map(PageApp::withheld)
    }

    async fn lookup(&self, host: &str, now: Now) -> Option<AppLookup> {
        self.caches.app(Host::parse(host).ok()?, now.moment).await.ok()
    }

    /// Returns whether a request of this client for that path would be granted. A signature
    /// is not considered: peers are programs and are not shown pages.
    async fn may_use(&self, lookup: &AppLookup, headers: &HeaderMap, uri: &str, now: Now) -> bool {
        let Ok((_, description)) = lookup.description() else { return false };
        let Ok(readings) = Readings::new(uri) else { return false };
        let Ok(governed) = match_rules(&description.paths.rules, &readings) else { return false };
        let mut replay_check = ReplayCheck::skipped();
        let Ok(identified) = self.identify(headers, None, now, &mut replay_check).await else {
            return false;
        };
        let now = self.freshness.now();
        governed.admit(identified.client()).is_ok()
            && description.paths.templates[governed.rule].is_ok()
            && identified.is_usable(&self.freshness, now)
            && lookup.is_usable(&self.freshness, now)
    }

    /// Returns the box's id, if it is known.
    pub(crate) async fn box_id(&self) -> Option<String> {
        let identity = self.caches.identity.get("", self.now().moment).await.ok()?;
        identity.value.as_ref().map(|identity| identity.id.clone())
    }

    /// Returns the app that a host names, without loading it.
    pub(crate) async fn app_of_host(&self, host: &str) -> Option<Arc<str>> {
        let host = Host::parse(host).ok()?;
        let names = self.caches.names.get("", self.now().moment).await.ok()?;
        names.value.app(host, self.config.domain.as_deref()).cloned()
    }

    /// Returns the hosts that several apps claim; none if the store cannot answer.
    pub(crate) async fn contested_hosts(&self) -> Vec<Contested> {
        let names = self.caches.names.get("", self.now().moment).await;
        names.map_or_else(|_| Vec::new(), |names| names.value.contested.clone())
    }

    /// Returns the domain whose subdomains are the box's apps, if it is known and can be read.
    pub async fn box_domain(&self) -> Option<String> {
        self.read_box_domain().await.ok().flatten()
    }

    /// Returns the domain whose subdomains are the box's apps; `None` if the box has none.
    ///
    /// # Errors
    /// The store cannot answer.
    pub(crate) async fn read_box_domain(&self) -> Result<Option<String>, Unavailable> {
        if let Some(domain) = &self.config.domain {
            return Ok(Some(domain.clone()));
        }
        let identity = self.caches.identity.get("", self.now().moment).await?;
        Ok(identity.value.as_ref().map(|identity| identity.domain.clone()))
    }
}
