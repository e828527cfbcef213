//! One subrequest: its headers in, a [`Verdict`] out.
//!
//! The order is the contract's: app, path rule, client, access, headers, touch.
//! No error becomes a grant: nothing converts into [`Verdict::Grant`], and each
//! is made at the end of its method, after everything was checked.

mod again;
pub mod asker;
mod client;
pub mod credentials;
pub mod explain;
mod forwarded;
pub mod headers;
mod memory;
mod page;
pub mod verdict;
mod wait;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::sync::Semaphore;

use crate::config::{self, Config};
use crate::domain::client::Client;
use crate::domain::identity::Identity;
use crate::domain::policy::govern;
use crate::domain::reason::Reason;
use crate::domain::request::{Readings, app_label};
use crate::store::cache::{Counts, EntryId, Handle};
use crate::store::freshness::Moment;
use crate::store::touch::Touches;
use crate::store::{self, Freshness, Source, Unavailable};
use crate::upstream::Upstream;
use crate::wake::Wakes;

pub use self::page::PageApp;
use again::Redirects;
use client::{Identified, Once};
use credentials::management;
use credentials::replays::Replays;
use forwarded::Forwarded;
use headers::HeaderTemplates;
use memory::{App, Described, Found, Memory, Rendering};
use verdict::{Headers, Verdict};

/// How often a decision is made anew because a row changed while it was made.
/// Each attempt needs a change within its own few microseconds (or one load).
const ATTEMPTS: usize = 16;

/// What the proxy says of the host and the URI, for the fuzz targets.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn fuzz_forwarded(headers: &HeaderMap) -> Option<(&str, &str)> {
    Forwarded::read(headers).ok().map(|forwarded| (forwarded.host, forwarded.uri))
}

/// Decides every subrequest of one box.
#[derive(Debug)]
pub struct Gate {
    config: config::Gate,
    wake: config::Wake,
    /// Places of those who wait for an app.
    held: Semaphore,
    redirects: Redirects,
    beside_upstream: bool,
    memory: Memory,
    replays: Replays,
    source: Arc<Source>,
    freshness: Arc<Freshness>,
    touches: Arc<Touches>,
    wakes: Arc<Wakes>,
    upstream: Option<Arc<Upstream>>,
}

/// One subrequest, read.
struct Request<'a> {
    label: &'a str,
    readings: &'a Readings<'a>,
    forwarded: Forwarded<'a>,
    headers: &'a HeaderMap,
}

/// The outcome of a decision that grants.
struct Granted {
    headers: Headers,
    /// Set where the request is not simply passed on: the app is not awake, or the
    /// request is a page's question how things stand.
    asleep: Option<AsleepApp>,
}

/// An app that a grant has to wait for.
struct AsleepApp {
    entry: Handle<Option<App>>,
    /// Whether the request is to wake nothing.
    is_ignored: bool,
    /// Whether that is since a browser asks in advance for what nobody may ever open.
    is_prefetch: bool,
    /// Whether that is since it is a stream of a tab that may be forgotten.
    is_kept_asleep: bool,
}

/// The rows that a decision was made from.
#[derive(Default)]
struct Evidence {
    found: Option<Found>,
    identified: Option<Identified>,
    identity: Option<Handle<Option<Identity>>>,
}

impl Evidence {
    /// Whether neither a notification nor time has outdated any of them.
    fn is_usable(&self, freshness: &Freshness, now: Moment) -> bool {
        let Self { found, identified, identity } = self;
        found.as_ref().is_none_or(|found| found.is_usable(freshness, now))
            && identified.as_ref().is_none_or(|identified| identified.is_usable(freshness, now))
            && identity.as_ref().is_none_or(|identity| identity.is_usable(freshness, now))
    }
}

/// The moment a subrequest is decided at, on both clocks.
#[derive(Debug, Clone, Copy)]
struct Now {
    moment: Moment,
    wall: SystemTime,
}

/// What the gate says of itself to probes.
#[derive(Debug, Clone)]
pub struct Health {
    /// Notifications are known to arrive.
    pub live: bool,
    /// Requests can be answered: the store was heard of within `cache.max_stale`.
    pub ready: bool,
    /// Time since the heartbeat that came back last was sent.
    pub verified_ago: Duration,
    pub store: store::Health,
    /// Uses that wait to be written.
    pub touches_waiting: usize,
    /// What each cache did and holds, by its name.
    pub caches: [(&'static str, Counts); 10],
}

impl Gate {
    #[must_use]
    pub fn new(
        config: &Config,
        source: Arc<Source>,
        freshness: Arc<Freshness>,
        touches: Arc<Touches>,
        wakes: Arc<Wakes>,
        upstream: Option<Arc<Upstream>>,
    ) -> Self {
        Self {
            config: config.gate.clone(),
            wake: config.wake.clone(),
            held: Semaphore::new(config.wake.max_held),
            redirects: Redirects::new(config.wake.max_redirects, config.wake.hold_timeout),
            beside_upstream: config.upstream.is_some(),
            memory: Memory::new(config, &source, &freshness, &touches, &wakes, upstream.as_ref()),
            replays: Replays::default(),
            source,
            freshness,
            touches,
            wakes,
            upstream,
        }
    }

    #[expect(clippy::disallowed_methods, reason = "read once for each attempt, then passed on")]
    fn now(&self) -> Now {
        Now { moment: self.freshness.now(), wall: SystemTime::now() }
    }

    /// `/internal/auth`: may this request pass to its app, and with which headers?
    ///
    /// Waits only where the app is not awake and its strategy is to hold, or where a
    /// waiting page asks.
    pub async fn auth(&self, headers: &HeaderMap) -> Verdict {
        let mut once = Once::default();
        match self.decide(headers, &mut once).await {
            Ok(Granted { headers, asleep: None }) => Verdict::Grant(headers),
            Ok(Granted { headers: granted, asleep: Some(asleep) }) => {
                self.answer_asleep(headers, granted, asleep, &mut once).await
            }
            Err(reason) => Verdict::Deny(reason),
        }
    }

    async fn decide(&self, headers: &HeaderMap, once: &mut Once) -> Result<Granted, Reason> {
        let forwarded = Forwarded::read(headers)?;
        let label = app_label(forwarded.host, self.config.domain.as_deref())?;
        let readings = Readings::of(forwarded.uri)?;
        let request = Request { label: &label, readings: &readings, forwarded, headers };
        for _ in 0..ATTEMPTS {
            let mut evidence = Evidence::default();
            let outcome = self.attempt(&request, self.now(), once, &mut evidence).await;
            // Rows were read one after the other; a change of one while the next
            // was loaded makes the whole outdated. So does a process that was
            // stopped between reading and answering.
            if evidence.is_usable(&self.freshness, self.freshness.now()) {
                return outcome;
            }
        }
        tracing::warn!("rows changed faster than a request could be decided");
        Err(Reason::StoreUnavailable)
    }

    async fn attempt(
        &self,
        request: &Request<'_>,
        now: Now,
        once: &mut Once,
        evidence: &mut Evidence,
    ) -> Result<Granted, Reason> {
        let Evidence { found, identified, identity } = evidence;
        let found = found.insert(self.memory.app(request.label, now.moment).await?);
        let (app, described) = found.described()?;
        let governed = govern(&described.rules, request.readings)?;
        let forwarded = Some(&request.forwarded);
        let identified =
            identified.insert(self.identify(request.headers, forwarded, now, once).await?);
        if let Err(reason) = governed.admit(identified.client()) {
            return if self.passes_preflight(app, described, request) {
                Ok(Granted { headers: Headers::default(), asleep: None })
            } else {
                Err(reason)
            };
        }
        let templates =
            described.templates[governed.rule].as_ref().map_err(|_| Reason::BrokenApp)?;
        let headers = if templates.is_empty() {
            Headers::default()
        } else {
            let identity = identity.insert(self.memory.identity.get("", now.moment).await?);
            let rendering = Rendering {
                app: found.app_entry(),
                rule: governed.rule,
                identity: identity.id,
                client: identified.entry(),
                peer: identified.peer_id(),
            };
            self.render(templates, rendering, identified.client(), identity.value.as_ref())?
        };
        let is_covered = self.wake.ignore.covers(request.headers, request.forwarded.uri);
        let is_prefetch = !is_covered && asker::is_prefetch(request.headers);
        let is_kept_asleep = !is_covered && self.keeps_asleep(app, request);
        let is_ignored = is_covered || is_prefetch || is_kept_asleep;
        if !is_ignored {
            // Before the look: whoever puts the app to sleep does both the other way round.
            self.touches.touch(&app.used, now.wall);
            // An attempt that proves outdated does no harm there: the core decides itself.
            if let Some(mirrored) = &app.mirrored {
                mirrored.pass_on(request.headers);
            }
        }
        let is_poll = request.headers.contains_key(asker::POLL);
        if app.wake.is_awake() && !is_poll && !is_kept_asleep {
            return Ok(Granted { headers, asleep: None });
        }
        let app = found.app.clone().ok_or(Reason::UnknownApp)?;
        let asleep = AsleepApp { entry: app, is_ignored, is_prefetch, is_kept_asleep };
        Ok(Granted { headers, asleep: Some(asleep) })
    }

    /// Whether a request is to leave an app asleep that nobody has opened since it fell
    /// asleep: a script opens a stream anew as often as it is closed.
    fn keeps_asleep(&self, app: &App, request: &Request<'_>) -> bool {
        let Request { forwarded, headers, .. } = request;
        !app.wake.is_called()
            && asker::is_stream(headers, forwarded.method)
            && !self.wake.streams.of(&app.row.name).covers(asker::is_of_browser(headers))
    }

    /// Whether a request that nobody signs in for is passed on all the same, as the app
    /// or its owner wants it: it is told nothing, wakes nothing and counts for nothing.
    fn passes_preflight(&self, app: &App, described: &Described, request: &Request<'_>) -> bool {
        let is_wanted = described.meta.cors_preflight
            || self.config.cors_preflight.iter().any(|name| **name == *app.row.name);
        is_wanted && asker::is_preflight(request.headers, request.forwarded.method)
    }

    /// The headers of one rule for one client, rendered once.
    fn render(
        &self,
        templates: &HeaderTemplates,
        rendering: Rendering,
        client: Client<'_>,
        identity: Option<&Identity>,
    ) -> Result<Headers, Reason> {
        if let Some(headers) = self.memory.rendered(&rendering) {
            return Ok(headers);
        }
        let rendered = templates.render(client, identity, self.config.header_encoding);
        let headers = rendered.map_err(|error| {
            tracing::warn!(%error, "a header cannot be rendered; its paths answer 503");
            Reason::BrokenApp
        })?;
        self.memory.remember_headers(rendering, Arc::clone(&headers));
        Ok(headers)
    }

    /// `/internal/authenticate_terminal`: who is the terminal that asks?
    pub async fn authenticate_terminal(&self, headers: &HeaderMap) -> Verdict {
        let mut once = Once::default();
        for _ in 0..ATTEMPTS {
            let identified = match self.identify(headers, None, self.now(), &mut once).await {
                Ok(identified) => identified,
                Err(error) => return Verdict::Deny(error.into()),
            };
            if identified.is_usable(&self.freshness, self.freshness.now()) {
                return match identified.client() {
                    Client::Terminal(_) => Verdict::Grant(self.introduce(identified.client())),
                    Client::Peer(_) | Client::Anonymous => Verdict::Deny(Reason::TerminalRequired),
                };
            }
        }
        Verdict::Deny(Reason::StoreUnavailable)
    }

    /// The contract's three headers about a client.
    fn introduce(&self, client: Client<'_>) -> Headers {
        let known = client.known();
        let values = [
            ("x-ptl-client-type", client.kind()),
            ("x-ptl-client-id", known.map_or("", |known| &known.id)),
            ("x-ptl-client-name", known.map_or("", |known| &known.name)),
        ];
        values
            .map(|(name, value)| {
                // A name too long for a header is left out rather than cut.
                let value = headers::encode(value, self.config.header_encoding)
                    .unwrap_or(HeaderValue::from_static(""));
                (HeaderName::from_static(name), value)
            })
            .into()
    }

    /// `/internal/authenticate_management`: does the caller know the shared secret?
    ///
    /// The one verdict that may be somebody else's: beside an upstream, a secret that
    /// is not the stored one is asked of it.
    pub async fn authenticate_management(&self, headers: &HeaderMap) -> Verdict {
        for _ in 0..ATTEMPTS {
            let now = self.now();
            let secret = match self.memory.management_secret.get("", now.moment).await {
                Ok(secret) => secret,
                Err(error) => return Verdict::Deny(error.into()),
            };
            let offered = headers.get(AUTHORIZATION);
            let matches = secret.value.as_ref().is_some_and(|s| management::matches(offered, s));
            if secret.is_usable(&self.freshness, self.freshness.now()) {
                return if matches || self.upstream_vouches_for(headers).await {
                    Verdict::Grant(Headers::default())
                } else {
                    Verdict::Deny(Reason::ManagementSecret)
                };
            }
        }
        Verdict::Deny(Reason::StoreUnavailable)
    }

    async fn upstream_vouches_for(&self, headers: &HeaderMap) -> bool {
        match &self.upstream {
            Some(upstream) => upstream.vouches_for(headers).await,
            None => false,
        }
    }

    #[must_use]
    pub fn health(&self) -> Health {
        let now = self.freshness.now();
        let live = self.freshness.is_live(now);
        let verified_ago = self.freshness.verified_ago(now);
        Health {
            live,
            ready: self.freshness.was_verified()
                && (live || verified_ago < self.freshness.times().max_stale),
            verified_ago,
            store: self.source.health(),
            touches_waiting: self.touches.waiting(),
            caches: self.memory.counts(),
        }
    }
}

/// The store cannot answer: a denial, and never anything else.
impl From<Unavailable> for Reason {
    fn from(error: Unavailable) -> Self {
        tracing::debug!(%error, "the store cannot answer");
        Self::StoreUnavailable
    }
}

impl Found {
    fn app(&self) -> Option<&App> {
        self.app.as_ref()?.value.as_ref()
    }

    fn described(&self) -> Result<(&App, &Described), Reason> {
        let app = self.app().ok_or(Reason::UnknownApp)?;
        let described = app.described.as_ref().map_err(|_| Reason::BrokenApp)?;
        Ok((app, described))
    }

    fn app_entry(&self) -> EntryId {
        self.app.as_ref().map_or(EntryId::NONE, |app| app.id)
    }

    fn is_usable(&self, freshness: &Freshness, now: Moment) -> bool {
        self.names.is_usable(freshness, now)
            && self.app.as_ref().is_none_or(|app| app.is_usable(freshness, now))
    }
}
