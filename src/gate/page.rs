//! What a page says of an app: to whoever may use it everything, to anybody else the
//! app's name and icon, which say no more than its address does.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use http::header::HOST;

use super::client::Once;
use super::forwarded;
use super::memory::{App, Found};
use super::{Gate, Now};
use crate::domain::lifecycle::Phase;
use crate::domain::policy::govern;
use crate::domain::request::{Readings, app_label};
use crate::wake::Shown;

/// What a page says of an app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageApp {
    pub name: Arc<str>,
    pub pretty_name: String,
    /// The icon's file name in the app's folder; empty where there is none.
    pub icon: String,
    /// Whether whoever asks may use the app. Of anybody else's page the rest is empty.
    pub is_granted: bool,
    /// The contract's word for the state the store keeps.
    pub status: String,
    pub shown: Shown,
    /// Where the proxy sends its requests.
    pub port: Option<u16>,
    /// For how long it has not answered although it is awake, where that is known.
    pub unanswered: Option<Duration>,
}

impl PageApp {
    pub(super) fn of(app: &App) -> Self {
        let facts = app.wake.facts();
        let target = facts.entrypoints.first().filter(|target| target.speaks_http);
        Self {
            is_granted: true,
            status: app.row.status.clone(),
            shown: app.wake.shown(),
            port: target.map(|target| target.port),
            ..Self::withheld(app)
        }
    }

    /// For whoever may use it, where its proxy has got no answer from it.
    fn unanswered(app: &App) -> Self {
        let is_known = app.wake.is_awake() && !app.wake.shown().containers.is_empty();
        let unanswered = is_known.then(|| app.wake.note_unanswered());
        Self { unanswered, ..Self::of(app) }
    }

    /// For whoever may not use it.
    fn withheld(app: &App) -> Self {
        let meta = app.described.as_ref().ok().map(|described| &described.meta);
        let shown = app.wake.shown();
        Self {
            pretty_name: meta.map_or(&*app.row.name, |meta| &meta.pretty_name).to_owned(),
            icon: meta.map_or("", |meta| &meta.icon).to_owned(),
            name: Arc::clone(&app.row.name),
            is_granted: false,
            status: String::new(),
            shown: Shown {
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
    /// The app that a page is about, by the first label of `Host`, as far as whoever
    /// asks may know it. `status` is that of the answer which it stands for.
    ///
    /// `uri` is path and query of the request that the page answers. A proxy that does
    /// not say them has the app's front page decide.
    pub async fn app_for_page(
        &self,
        status: Option<u16>,
        headers: &HeaderMap,
        uri: Option<&str>,
    ) -> Option<PageApp> {
        let now = self.now();
        let found = self.found(headers.get(HOST)?.to_str().ok()?, now).await?;
        let is_granted = self.may_use(&found, headers, uri.unwrap_or("/"), now).await;
        found.app().map(match (is_granted, status) {
            (false, _) => PageApp::withheld,
            // What a proxy says where nobody, or nobody in time, has answered it.
            (true, Some(502 | 504)) => PageApp::unanswered,
            (true, _) => PageApp::of,
        })
    }

    /// The app that a denied request was for, where there is one.
    pub async fn app_denied(&self, headers: &HeaderMap) -> Option<PageApp> {
        let host = std::str::from_utf8(headers.get(forwarded::HOST)?.as_bytes()).ok()?;
        self.found(host, self.now()).await?.app().map(PageApp::withheld)
    }

    async fn found(&self, host: &str, now: Now) -> Option<Found> {
        let label = app_label(host, self.config.domain.as_deref()).ok()?;
        self.memory.app(&label, now.moment).await.ok()
    }

    /// Whether a request of this client's for that path would be granted. Its signature
    /// is not looked at: peers are programs, and are shown nothing.
    async fn may_use(&self, found: &Found, headers: &HeaderMap, uri: &str, now: Now) -> bool {
        let Ok((_, described)) = found.described() else { return false };
        let Ok(readings) = Readings::of(uri) else { return false };
        let Ok(governed) = govern(&described.rules, &readings) else { return false };
        let mut once = Once::already_judged();
        let Ok(identified) = self.identify(headers, None, now, &mut once).await else {
            return false;
        };
        let now = self.freshness.now();
        governed.admit(identified.client()).is_ok()
            && described.templates[governed.rule].is_ok()
            && identified.is_usable(&self.freshness, now)
            && found.is_usable(&self.freshness, now)
    }

    /// The domain that the box's apps are labels before, where it is known.
    pub async fn box_domain(&self) -> Option<String> {
        if let Some(domain) = &self.config.domain {
            return Some(domain.clone());
        }
        let identity = self.memory.identity.get("", self.now().moment).await.ok()?;
        identity.value.as_ref().map(|identity| identity.domain.clone())
    }
}
