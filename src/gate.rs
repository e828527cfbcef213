//! Decides one subrequest: takes its headers and returns a [`Verdict`].
//!
//! The contract defines the order: app, path rule, client, access, headers, touch.
//! No error becomes a grant: nothing converts into [`Verdict::Grant`], and each
//! grant is created at the end of its method, after everything has been checked.

mod caches;
mod client;
mod cookies;
pub mod credentials;
pub mod decision;
mod description;
pub mod explain;
mod forwarded;
pub mod headers;
mod interner;
pub mod limits;
mod page;
mod redirects;
pub mod request_kind;
pub mod verdict;
mod wait;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::config::{self, Config};
use crate::domain::client::Client;
use crate::domain::identity::Identity;
use crate::domain::origin::Origin;
use crate::domain::policy::match_rules;
use crate::domain::reason::Reason;
use crate::domain::request::{Host, Readings};
use crate::store::cache::{Counts, EntryId, Handle};
use crate::store::freshness::Moment;
use crate::store::touch::Touches;
use crate::store::{self, Freshness, Source, Table, Unavailable};
use crate::upstream::Upstream;
use crate::wake::Registry;

pub use self::page::PageApp;
use caches::{App, AppLookup, Caches, Rendering};
use client::{Identified, ReplayCheck};
use credentials::management;
use credentials::replays::Replays;
use decision::{Basis, Decision};
use description::Description;
use forwarded::Forwarded;
use headers::HeaderTemplates;
use limits::{Limited, Limits};
use redirects::Redirects;
use verdict::{Headers, Verdict};

/// How often a decision is attempted before the gate gives up, if a row changes during
/// every attempt. A change has to fall within the few microseconds of an attempt (or
/// within one load) to cause another one.
const ATTEMPTS: usize = 16;

/// Returns the host and the URI that the proxy forwards, for the fuzz targets.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn fuzz_forwarded(headers: &HeaderMap) -> Option<(&str, &str)> {
    Forwarded::read(headers).ok().map(|forwarded| (forwarded.host, forwarded.uri))
}

/// Decides every subrequest of one box.
#[derive(Debug)]
pub struct Gate {
    config: config::Gate,
    wake: config::Wake,
    /// Permits for requests that wait for an app.
    hold_permits: Semaphore,
    redirects: Redirects,
    has_upstream: bool,
    caches: Caches,
    replays: Replays,
    limits: Limits,
    source: Arc<Source>,
    freshness: Arc<Freshness>,
    touches: Arc<Touches>,
    registry: Arc<Registry>,
    upstream: Option<Arc<Upstream>>,
}

/// One subrequest whose headers have been parsed.
struct Request<'a> {
    host: Host<'a>,
    readings: &'a Readings<'a>,
    forwarded: Forwarded<'a>,
    headers: &'a HeaderMap,
}

/// The outcome of a decision that grants.
struct Granted {
    headers: Headers,
    /// Set if the request is not simply passed on: the app is not awake, or the request
    /// is a status poll of a waiting page.
    asleep: Option<AsleepApp>,
}

/// An app that is not awake and that a granted request needs.
struct AsleepApp {
    entry: Handle<Option<App>>,
    /// Whether the request must not wake the app.
    is_ignored: bool,
    /// Whether the reason is that a browser prefetches a page that may never be opened.
    is_prefetch: bool,
    /// Whether the reason is that it is a stream of a tab that may be forgotten.
    is_kept_asleep: bool,
}

/// The time at which a subrequest is decided, on the monotonic and the wall clock.
#[derive(Debug, Clone, Copy)]
struct Now {
    moment: Moment,
    wall: SystemTime,
}

/// The state of the gate that probes report.
#[derive(Debug, Clone)]
pub struct Health {
    /// Whether notifications are known to arrive.
    pub live: bool,
    /// Whether requests can be answered: the store was verified within `cache.max_stale`.
    pub ready: bool,
    /// Time since the last heartbeat that came back was sent.
    pub verified_ago: Duration,
    pub store: store::Health,
    /// Number of uses that have not been written yet.
    pub touches_waiting: usize,
    /// The counts of each cache, by its name.
    pub caches: [(&'static str, Counts); 10],
}

impl Gate {
    #[must_use]
    pub fn new(
        config: &Config,
        source: Arc<Source>,
        freshness: Arc<Freshness>,
        touches: Arc<Touches>,
        registry: Arc<Registry>,
        upstream: Option<Arc<Upstream>>,
    ) -> Self {
        Self {
            config: config.gate.clone(),
            wake: config.wake.clone(),
            hold_permits: Semaphore::new(config.wake.max_held),
            redirects: Redirects::new(config.wake.max_redirects, config.wake.hold_timeout),
            has_upstream: config.upstream.is_some(),
            caches: Caches::new(
                config,
                &source,
                &freshness,
                &touches,
                &registry,
                upstream.as_ref(),
            ),
            replays: Replays::default(),
            limits: Limits::default(),
            source,
            freshness,
            touches,
            registry,
            upstream,
        }
    }

    #[expect(clippy::disallowed_methods, reason = "read once for each attempt, then passed on")]
    fn now(&self) -> Now {
        Now { moment: self.freshness.now(), wall: SystemTime::now() }
    }

    /// Answers `/internal/auth`: whether this request may pass to its app, and with which
    /// headers.
    ///
    /// Waits only if the app is not awake and its strategy is to hold, or if a waiting page
    /// polls the app's state.
    pub async fn auth(&self, headers: &HeaderMap) -> Decision {
        let (mut replay_check, mut basis) = (ReplayCheck::default(), Basis::default());
        let began = self.now();
        let verdict = match self.decide(headers, began, &mut replay_check, &mut basis).await {
            Ok(Granted { headers, asleep: None }) => Verdict::Grant(headers),
            Ok(Granted { headers: granted, asleep: Some(asleep) }) => {
                let decided = basis.ended.unwrap_or(began.moment);
                let verdict =
                    self.answer_asleep(headers, granted, asleep, &mut replay_check, &mut basis);
                let verdict = verdict.await;
                let ended = self.freshness.now();
                basis.ended = Some(ended);
                basis.waited = ended.since(decided);
                verdict
            }
            Err(reason) => Verdict::Deny(reason),
        };
        let refused = basis.identified.as_ref().and_then(|client| self.refuse(client, headers));
        let verdict = self.with_cookies(verdict, headers);
        self.decided(verdict, basis, began).with_wait(refused)
    }

    /// Counts the credential of a request if it was refused. Returns how long its origin has to
    /// wait before another one is looked at.
    fn refuse(&self, client: &Identified, headers: &HeaderMap) -> Option<Duration> {
        let credential = client.refused(headers)?;
        self.limits.refuse(Origin::from_headers(headers)?, &credential, Instant::now())
    }

    /// Gives a grant the cookies that the app gets in place of the client's.
    fn with_cookies(&self, verdict: Verdict, headers: &HeaderMap) -> Verdict {
        match verdict {
            Verdict::Grant(granted) if self.config.hide_token => {
                Verdict::Grant(granted.with_cookie(cookies::without_token(headers)))
            }
            verdict => verdict,
        }
    }

    /// Decides a request, and leaves in `basis` what the decision was made from.
    async fn decide(
        &self,
        headers: &HeaderMap,
        mut now: Now,
        replay_check: &mut ReplayCheck,
        basis: &mut Basis,
    ) -> Result<Granted, Reason> {
        let forwarded = Forwarded::read(headers)?;
        let host = Host::parse(forwarded.host)?;
        let readings = Readings::new(forwarded.uri)?;
        let request = Request { host, readings: &readings, forwarded, headers };
        for _ in 0..ATTEMPTS {
            *basis = Basis { began: Some(now.moment), span: basis.span, ..Basis::default() };
            let outcome = self.attempt(&request, now, replay_check, basis).await;
            // Rows are read one after the other. If one changes while the next is loaded,
            // the decision as a whole is outdated. The same holds if the process was
            // suspended between reading and answering.
            let ended = self.freshness.now();
            if basis.is_usable(&self.freshness, ended) {
                basis.ended = Some(ended);
                return outcome;
            }
            now = self.now();
        }
        tracing::warn!("rows changed faster than a request could be decided");
        Err(Reason::StoreUnavailable)
    }

    async fn attempt(
        &self,
        request: &Request<'_>,
        now: Now,
        replay_check: &mut ReplayCheck,
        basis: &mut Basis,
    ) -> Result<Granted, Reason> {
        let Basis { lookup, rule, identified, identity, .. } = basis;
        let lookup = lookup.insert(self.caches.app(request.host, now.moment).await?);
        let (app, description) = lookup.description()?;
        let paths = &*description.paths;
        let governed = match_rules(&paths.rules, request.readings)?;
        *rule = Some(governed.rule);
        basis.rule_found = Some(self.freshness.now());
        let forwarded = Some(&request.forwarded);
        let identified =
            identified.insert(self.identify(request.headers, forwarded, now, replay_check).await?);
        basis.client_known = Some(self.freshness.now());
        if let Err(reason) = governed.admit(identified.client()) {
            return if self.allows_preflight(app, description, request) {
                Ok(Granted { headers: Headers::default(), asleep: None })
            } else {
                Err(reason)
            };
        }
        let templates = paths.templates[governed.rule].as_ref().map_err(|_| Reason::BrokenApp)?;
        let headers = if templates.is_empty() {
            Headers::default()
        } else {
            let identity = identity.insert(self.caches.identity.get("", now.moment).await?);
            let rendering = Rendering {
                app: lookup.app_entry(),
                rule: governed.rule,
                identity: identity.id,
                client: identified.entry(),
                peer: identified.peer_id(),
            };
            self.render(templates, rendering, identified.client(), identity.value.as_ref())?
        };
        let is_ignore_listed = self.wake.ignore.covers(request.headers, request.forwarded.uri);
        let present = request.forwarded.present;
        let is_prefetch =
            !is_ignore_listed && present.purpose && request_kind::is_prefetch(request.headers);
        let is_kept_asleep = !is_ignore_listed && self.must_stay_asleep(app, request);
        let is_ignored = is_ignore_listed || is_prefetch || is_kept_asleep;
        if !is_ignored {
            // The use is noted before the flag is read: the reconciler, when it puts the
            // app to sleep, clears the flag first and checks for uses afterwards.
            self.touches.touch(&app.used, now.wall);
            // Passing on an outdated attempt is harmless: the core makes its own decision.
            if let Some(mirrored) = &app.mirrored {
                mirrored.forward(request.headers);
            }
        }
        if app.wake.is_awake() && !present.poll && !is_kept_asleep {
            return Ok(Granted { headers, asleep: None });
        }
        let app = lookup.app.clone().ok_or(Reason::UnknownApp)?;
        let asleep = AsleepApp { entry: app, is_ignored, is_prefetch, is_kept_asleep };
        Ok(Granted { headers, asleep: Some(asleep) })
    }

    /// Returns whether a request must leave the app asleep because it opens a stream and
    /// nobody has opened the app since it was put to sleep: a script reopens its stream
    /// each time it is closed.
    fn must_stay_asleep(&self, app: &App, request: &Request<'_>) -> bool {
        let Request { forwarded, headers, .. } = request;
        !app.wake.is_requested()
            && request_kind::is_stream(headers, forwarded.method)
            && !self
                .wake
                .streams
                .for_app(&app.row.name)
                .covers(request_kind::is_from_browser(headers))
    }

    /// Returns whether a CORS preflight without credentials is passed on, because the app or
    /// the operator allows it. It gets no headers, wakes no app and does not count as a use.
    fn allows_preflight(
        &self,
        app: &App,
        description: &Description,
        request: &Request<'_>,
    ) -> bool {
        let is_allowed = description.cors_preflight
            || self.config.cors_preflight.iter().any(|name| **name == *app.row.name);
        is_allowed && request_kind::is_preflight(request.headers, request.forwarded.method)
    }

    /// Returns the headers of one rule for one client, rendered or from the cache.
    fn render(
        &self,
        templates: &HeaderTemplates,
        rendering: Rendering,
        client: Client<'_>,
        identity: Option<&Identity>,
    ) -> Result<Headers, Reason> {
        if let Some(headers) = self.caches.rendered(&rendering) {
            return Ok(headers);
        }
        let rendered = templates.render(client, identity, self.config.header_encoding);
        let headers = rendered.map_err(|error| {
            tracing::warn!(%error, "a header cannot be rendered; its paths answer 503");
            Reason::BrokenApp
        })?;
        let headers: Headers = headers.into_iter().collect();
        self.caches.remember_headers(rendering, headers.clone());
        Ok(headers)
    }

    /// Answers `/internal/authenticate_terminal`: which terminal sends the request.
    pub async fn authenticate_terminal(&self, headers: &HeaderMap) -> Decision {
        let mut replay_check = ReplayCheck::default();
        let began = self.now();
        let mut now = began;
        let mut basis = Basis::default();
        for _ in 0..ATTEMPTS {
            let identified = match self.identify(headers, None, now, &mut replay_check).await {
                Ok(identified) => identified,
                Err(error) => {
                    return self.decided(Verdict::Deny(error.into()), basis, began);
                }
            };
            if identified.is_usable(&self.freshness, self.freshness.now()) {
                let verdict = match identified.client() {
                    Client::Terminal(_) => Verdict::Grant(self.client_headers(identified.client())),
                    Client::Peer(_) | Client::Anonymous => Verdict::Deny(Reason::TerminalRequired),
                };
                let verdict = self.with_cookies(verdict, headers);
                let refused = self.refuse(&identified, headers);
                basis.identified = Some(identified);
                return self.decided(verdict, basis, began).with_wait(refused);
            }
            now = self.now();
        }
        self.decided(Verdict::Deny(Reason::StoreUnavailable), basis, began)
    }

    /// Returns the three headers about a client that the contract defines.
    fn client_headers(&self, client: Client<'_>) -> Headers {
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
            .into_iter()
            .collect()
    }

    /// Answers `/internal/authenticate_management`: whether the caller knows the shared
    /// secret.
    ///
    /// This is the only verdict that may come from elsewhere: if an upstream is configured,
    /// the gate asks it about a secret that differs from the stored one.
    pub async fn authenticate_management(&self, headers: &HeaderMap) -> Decision {
        let began = self.now();
        let verdict = self.check_management(headers).await;
        let refused = match (&verdict, headers.get(AUTHORIZATION), Origin::from_headers(headers)) {
            (Verdict::Deny(Reason::ManagementSecret), Some(secret), Some(origin)) => {
                self.limits.refuse(origin, secret.as_bytes(), Instant::now())
            }
            _ => None,
        };
        self.decided(verdict, Basis::default(), began).with_wait(refused)
    }

    async fn check_management(&self, headers: &HeaderMap) -> Verdict {
        for _ in 0..ATTEMPTS {
            let now = self.now();
            let secret = match self.caches.management_secret.get("", now.moment).await {
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
            Some(upstream) => upstream.accepts_secret(headers).await,
            None => false,
        }
    }

    /// Returns how long a pairing code from there has to wait before it is looked at.
    pub(crate) fn code_wait(&self, origin: Option<Origin>) -> Option<Duration> {
        let now = Instant::now();
        let own = origin.and_then(|origin| self.limits.wait_for_code(origin, now));
        own.or_else(|| self.limits.wait_for_codes(now))
    }

    /// Counts a wrong pairing code. Returns how long its origin has to wait from now on.
    pub(crate) fn refuse_code(&self, origin: Option<Origin>, code: &str) -> Option<Duration> {
        self.limits.refuse_code(origin?, code.as_bytes(), Instant::now())
    }

    /// Counts a wrong pairing code against the budget that all origins share.
    pub(crate) fn spend_code(&self) {
        self.limits.spend_code(Instant::now());
    }

    /// Reads terminals again: this process has added one, and need not wait for the store's
    /// notification.
    pub(crate) fn terminals_have_changed(&self) {
        self.freshness.invalidate_table(Table::Terminals);
    }

    /// Returns who has to wait after too many wrong credentials.
    #[must_use]
    pub fn limited(&self) -> Vec<Limited> {
        self.limits.list(Instant::now())
    }

    /// Forgets the wrong credentials of an origin. Returns whether it had to wait.
    pub fn lift_limit(&self, origin: Origin) -> bool {
        self.limits.lift(origin, Instant::now())
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
            caches: self.caches.counts(),
        }
    }
}

/// If the store cannot answer, the request is denied, and never anything else.
impl From<Unavailable> for Reason {
    fn from(error: Unavailable) -> Self {
        tracing::debug!(%error, "the store cannot answer");
        Self::StoreUnavailable
    }
}

impl AppLookup {
    fn app(&self) -> Option<&App> {
        self.app.as_ref()?.value.as_ref()
    }

    fn description(&self) -> Result<(&App, &Description), Reason> {
        let app = self.app().ok_or(Reason::UnknownApp)?;
        let description = app.description.as_ref().map_err(|_| Reason::BrokenApp)?;
        Ok((app, description))
    }

    fn app_entry(&self) -> EntryId {
        self.app.as_ref().map_or(EntryId::NONE, |app| app.id)
    }

    fn is_usable(&self, freshness: &Freshness, now: Moment) -> bool {
        self.names.is_usable(freshness, now)
            && self.app.as_ref().is_none_or(|app| app.is_usable(freshness, now))
    }
}
