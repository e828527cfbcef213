//! The caches of the gate: every table it reads, prepared for deciding, and
//! values derived from these tables.
//!
//! Derived values refer to the entries they were derived from by [`EntryId`]. An
//! entry that is loaded again gets a new id, so values derived from its
//! predecessor are no longer found.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use crate::config::{Config, Secret};
use crate::domain::client::KnownClient;
use crate::domain::identity::Identity;
use crate::domain::names::{Contested, Names};
use crate::domain::request::Host;
use crate::store::app_meta::ReadError;
use crate::store::cache::{Counts, EntryId, Handle};
use crate::store::derived::{Derived, Packed};
use crate::store::freshness::Moment;
use crate::store::touch::{Touches, Use};
use crate::store::{AppRow, Cached, Freshness, Source, Table, Touched, Unavailable};
use crate::upstream::{Mirrored, Upstream};
use crate::wake::{AppHandle, AppSpec, Registry};

use super::credentials::peer::{PeerKeys, Times};
use super::credentials::terminal::{Claims, TokenKey};
use super::description::{Description, SharedPaths};
use super::verdict::{Headers, PackedHeaders};

/// An installed app, prepared for deciding.
#[derive(Debug)]
pub struct App {
    pub row: AppRow,
    /// The app's description, or the reason why it cannot be used.
    pub description: Result<Description, String>,
    pub used: Arc<Use>,
    pub wake: Arc<AppHandle>,
    /// Set if the app's use is reported to an upstream.
    pub mirrored: Option<Arc<Mirrored>>,
}

/// A paired terminal, prepared for deciding.
#[derive(Debug)]
pub struct PairedTerminal {
    pub known: KnownClient,
    pub used: Arc<Use>,
}

/// A token and the cache entry of the secret that it was verified with.
#[derive(Debug, Clone)]
struct VerifiedToken {
    secret: EntryId,
    claims: Claims,
}

/// A peer's signature and the cache entry of the keys that it was verified with.
#[derive(Debug, Clone)]
pub struct VerifiedSignature {
    pub peers: EntryId,
    pub peer: KnownClient,
    pub times: Times,
}

/// The cache key of one rendering of one rule's headers.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Rendering {
    pub app: EntryId,
    pub rule: usize,
    pub identity: EntryId,
    /// The terminal's entry, or the entry of the peers' keys together with `peer`.
    pub client: EntryId,
    pub peer: Option<Arc<str>>,
}

/// Largest number of cached signatures: at a few KiB each, they take a few MiB.
const MAX_SIGNATURES: u64 = 1024;

/// Bytes of all cached renderings: about 7,500 pairs of a rule and a client. A box of twenty
/// apps and ten devices has a few hundred, and what does not fit is rendered again.
const MAX_RENDERED: u64 = 4 * 1024 * 1024;

/// What a cached rendering takes besides its headers, in bytes: its key, and moka's own entry.
const ENTRY_SIZE: usize = 400;

/// All caches of the gate.
pub struct Caches {
    pub names: Arc<Cached<Names>>,
    domain: Option<Arc<str>>,
    pub apps: Arc<Cached<Option<App>>>,
    pub identity: Arc<Cached<Option<Identity>>>,
    pub terminals: Arc<Cached<Option<PairedTerminal>>>,
    pub peers: Arc<Cached<PeerKeys>>,
    pub terminal_secret: Arc<Cached<Option<TokenKey>>>,
    pub management_secret: Arc<Cached<Option<Secret>>>,
    tokens: Derived<String, VerifiedToken>,
    renderings: Derived<Rendering, Headers>,
    /// The key contains all verified input ([`super::credentials::signature_cache`]).
    signatures: Derived<Vec<u8>, VerifiedSignature>,
}

impl fmt::Debug for Caches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Caches").finish_non_exhaustive()
    }
}

impl Caches {
    pub fn new(
        config: &Config,
        source: &Arc<Source>,
        freshness: &Arc<Freshness>,
        touches: &Arc<Touches>,
        registry: &Arc<Registry>,
        upstream: Option<&Arc<Upstream>>,
    ) -> Self {
        let freshness = || Arc::clone(freshness);
        /// Creates a loader that reads one value from the source.
        macro_rules! loader {
            (|$source:ident| $load:expr) => {{
                let source = Arc::clone(source);
                move || {
                    let $source = Arc::clone(&source);
                    async move { $load }
                }
            }};
        }
        Self {
            names: names(config.gate.domain.clone(), source, freshness()),
            domain: config.gate.domain.as_deref().map(Arc::from),
            apps: apps(config, source, freshness(), touches, registry, upstream),
            identity: Cached::single(
                freshness(),
                Table::Identity,
                loader!(|source| source.identity().await),
            ),
            terminals: terminals(source, freshness(), touches),
            peers: Cached::single(
                freshness(),
                Table::Peers,
                loader!(|source| source.peers().await.map(|peers| PeerKeys::new(&peers))),
            ),
            terminal_secret: Cached::single(
                freshness(),
                Table::TerminalSecret,
                loader!(|source| {
                    let secret = source.terminal_secret().await?;
                    Ok(secret.map(|secret| TokenKey::new(&secret)))
                }),
            ),
            management_secret: Cached::single(
                freshness(),
                Table::ManagementSecret,
                loader!(|source| source.management_secret().await),
            ),
            tokens: Derived::new(config.cache.capacity),
            renderings: Derived::weighted(
                config.cache.capacity,
                MAX_RENDERED,
                |_: &Rendering, headers: &PackedHeaders| headers.size() + ENTRY_SIZE,
            ),
            signatures: Derived::new(config.cache.capacity.min(MAX_SIGNATURES)),
        }
    }

    /// Looks up the app that a host names.
    pub async fn app(&self, host: Host<'_>, now: Moment) -> Result<AppLookup, Unavailable> {
        let names = self.names.get("", now).await?;
        let app = match names.value.app(host, self.domain.as_deref()) {
            Some(name) => Some(self.apps.get(name, now).await?),
            None => None,
        };
        Ok(AppLookup { names, app })
    }

    /// Returns the claims of a token if it was verified with the secret of this entry.
    pub fn verified_claims(&self, token: &str, secret: EntryId) -> Option<Claims> {
        let verified = self.tokens.get(token, |verified| verified.secret == secret)?;
        Some(verified.claims)
    }

    pub fn remember_token(&self, token: &str, secret: EntryId, claims: Claims) {
        self.tokens.insert(token.into(), VerifiedToken { secret, claims });
    }

    /// Returns the signature with this key if it was verified with the peer keys of this entry.
    pub fn verified_signature(&self, key: &[u8], peers: EntryId) -> Option<VerifiedSignature> {
        self.signatures.get(key, |verified| verified.peers == peers)
    }

    pub fn remember_signature(&self, key: Vec<u8>, verified: VerifiedSignature) {
        self.signatures.insert(key, verified);
    }

    pub fn rendered(&self, rendering: &Rendering) -> Option<Headers> {
        self.renderings.get(rendering, |_| true)
    }

    pub fn remember_headers(&self, rendering: Rendering, headers: Headers) {
        self.renderings.insert(rendering, headers);
    }

    /// Returns the counts of each cache, by its name, for metrics.
    pub fn counts(&self) -> [(&'static str, Counts); 10] {
        let Self {
            names,
            domain: _,
            apps,
            identity,
            terminals,
            peers,
            terminal_secret,
            management_secret,
            tokens,
            renderings,
            signatures,
        } = self;
        [
            ("app_names", names.counts()),
            ("apps", apps.counts()),
            ("identity", identity.counts()),
            ("terminals", terminals.counts()),
            ("peers", peers.counts()),
            ("terminal_secret", terminal_secret.counts()),
            ("management_secret", management_secret.counts()),
            ("tokens", tokens.counts()),
            ("headers", renderings.counts()),
            ("signatures", signatures.counts()),
        ]
    }
}

impl Packed for VerifiedToken {
    type Packed = Self;

    fn pack(&self) -> Self {
        let Claims { sub, expires } = &self.claims;
        let claims = Claims { sub: Arc::from(&**sub), expires: *expires };
        Self { secret: self.secret, claims }
    }

    fn unpack(packed: &Self) -> Option<Self> {
        Some(packed.pack())
    }
}

impl Packed for VerifiedSignature {
    type Packed = Self;

    fn pack(&self) -> Self {
        let KnownClient { id, name } = &self.peer;
        let peer = KnownClient { id: Arc::from(&**id), name: Arc::from(&**name) };
        Self { peer, ..*self }
    }

    fn unpack(packed: &Self) -> Option<Self> {
        Some(packed.pack())
    }
}

/// The result of looking up a host.
#[derive(Debug)]
pub struct AppLookup {
    pub names: Handle<Names>,
    /// `None` if the host names no app.
    pub app: Option<Handle<Option<App>>>,
}

/// Caches which app a host names. Says in the log which hosts are nobody's, when that changes.
fn names(
    domain: Option<String>,
    source: &Arc<Source>,
    freshness: Arc<Freshness>,
) -> Arc<Cached<Names>> {
    let source = Arc::clone(source);
    let reported: Arc<Mutex<Vec<Contested>>> = Arc::default();
    Cached::single_of(freshness, [Table::AppNames, Table::Hosts], move || {
        let (source, domain) = (Arc::clone(&source), domain.clone());
        let reported = Arc::clone(&reported);
        async move {
            let names = source.names(domain.as_deref()).await?;
            let mut reported = reported.lock().unwrap_or_else(PoisonError::into_inner);
            if *reported != names.contested {
                for contested in &names.contested {
                    tracing::warn!("{contested}");
                }
                reported.clone_from(&names.contested);
            }
            Ok(names)
        }
    })
}

fn apps(
    config: &Config,
    source: &Arc<Source>,
    freshness: Arc<Freshness>,
    touches: &Arc<Touches>,
    registry: &Arc<Registry>,
    upstream: Option<&Arc<Upstream>>,
) -> Arc<Cached<Option<App>>> {
    let (source, touches, registry) =
        (Arc::clone(source), Arc::clone(touches), Arc::clone(registry));
    let upstream = upstream.cloned();
    let shared = Arc::new(SharedPaths::new(config.gate.path_matching));
    Cached::keyed(freshness, [Table::Apps, Table::AppMeta], move |name| {
        let source = Arc::clone(&source);
        let (touches, registry) = (Arc::clone(&touches), Arc::clone(&registry));
        let upstream = upstream.clone();
        let shared = Arc::clone(&shared);
        async move {
            let Some(mut row) = source.app(&name).await? else {
                return Ok(None);
            };
            let mut spec = None;
            let description = match source.descriptions().read(&name).await {
                Ok(meta) => {
                    spec = Some(AppSpec::new(&meta).into());
                    Ok(Description::new(meta, &shared))
                }
                Err(ReadError::Unusable(problem) | ReadError::Missing(problem)) => Err(problem),
                Err(ReadError::Unavailable(error)) => return Err(error),
            };
            let problems: Vec<String> = match &description {
                Ok(description) => description.paths.problems().cloned().collect(),
                Err(problem) => vec![problem.clone()],
            };
            let extent = if description.is_ok() { "some paths of the app" } else { "the app" };
            for reason in &problems {
                tracing::warn!(app = %name, %reason, "{extent} answer 503");
            }
            registry.find_compose_file(&row.name).await;
            let wake = registry.handle(&row.name, spec);
            wake.note_problems(problems);
            row.name = Arc::clone(&wake.name);
            let used = touches.get(Touched::App, &row.name);
            let mirrored = upstream.as_ref().and_then(|upstream| upstream.mirrored(&row.name));
            Ok(Some(App { row, description, used, wake, mirrored }))
        }
    })
}

fn terminals(
    source: &Arc<Source>,
    freshness: Arc<Freshness>,
    touches: &Arc<Touches>,
) -> Arc<Cached<Option<PairedTerminal>>> {
    let (source, touches) = (Arc::clone(source), Arc::clone(touches));
    Cached::keyed(freshness, [Table::Terminals; 2], move |id| {
        let (source, touches) = (Arc::clone(&source), Arc::clone(&touches));
        async move {
            let terminal = source.terminal(&id).await?;
            Ok(terminal.map(|terminal| PairedTerminal {
                used: touches.get(Touched::Terminal, &terminal.id),
                known: KnownClient { id: terminal.id, name: terminal.name },
            }))
        }
    })
}
