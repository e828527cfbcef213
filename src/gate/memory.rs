//! What the gate remembers: every table it reads, prepared for deciding, and
//! what was derived from it.
//!
//! Derived values name the entries they were derived from by [`EntryId`]. An
//! entry that was loaded again has a new one, so what was derived from its
//! predecessor is not found any more.

use std::collections::HashSet;
use std::collections::hash_map::Entry as Slot;
use std::fmt;
use std::sync::Arc;

use http::{HeaderName, HeaderValue};

use crate::config::{Config, Secret};
use crate::domain::app::AppMeta;
use crate::domain::client::Known;
use crate::domain::identity::Identity;
use crate::domain::policy::{PathMatching, Rules};
use crate::store::app_meta::{AppMetaDir, ReadError};
use crate::store::cache::{Counts, EntryId, Handle};
use crate::store::derived::{Derived, OwnCopy};
use crate::store::freshness::Moment;
use crate::store::touch::{Touches, Use};
use crate::store::{AppNames, AppRow, Cached, Freshness, Source, Table, Touched, Unavailable};
use crate::upstream::{Mirrored, Upstream};
use crate::wake::{AppWake, Facts, Wakes};

use super::credentials::peer::{PeerKeys, Times};
use super::credentials::terminal::{Claims, TokenKey};
use super::headers::HeaderTemplates;
use super::verdict::Headers;

/// An installed app, prepared.
#[derive(Debug)]
pub struct App {
    pub row: AppRow,
    /// Its description, or why that cannot be used.
    pub described: Result<Described, String>,
    pub used: Arc<Use>,
    pub wake: Arc<AppWake>,
    /// Set where an upstream is to know of its use.
    pub mirrored: Option<Arc<Mirrored>>,
}

/// An app's description with its templates compiled, one set for each of `meta.paths`, or
/// why those of that path cannot be used.
#[derive(Debug)]
pub struct Described {
    pub meta: AppMeta,
    pub rules: Rules,
    pub templates: Vec<Result<HeaderTemplates, String>>,
}

/// A paired terminal, prepared.
#[derive(Debug)]
pub struct PairedTerminal {
    pub known: Known,
    pub used: Arc<Use>,
}

/// A token that was verified with the secret of one entry.
#[derive(Debug, Clone)]
struct VerifiedToken {
    secret: EntryId,
    claims: Claims,
}

/// A peer's signature that was verified with the keys of one entry.
#[derive(Debug, Clone)]
pub struct VerifiedSignature {
    pub peers: EntryId,
    pub peer: Known,
    pub times: Times,
}

/// Names one rendering of one rule's headers.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Rendering {
    pub app: EntryId,
    pub rule: usize,
    pub identity: EntryId,
    /// The terminal's entry, or the peers' with the peer's id.
    pub client: EntryId,
    pub peer: Option<Arc<str>>,
}

/// Most signatures that are remembered: of a few KiB each, they are to take a few MiB.
const MAX_SIGNATURES: u64 = 1024;

/// All caches of the gate.
pub struct Memory {
    pub names: Arc<Cached<AppNames>>,
    pub apps: Arc<Cached<Option<App>>>,
    pub identity: Arc<Cached<Option<Identity>>>,
    pub terminals: Arc<Cached<Option<PairedTerminal>>>,
    pub peers: Arc<Cached<PeerKeys>>,
    pub terminal_secret: Arc<Cached<Option<TokenKey>>>,
    pub management_secret: Arc<Cached<Option<Secret>>>,
    tokens: Derived<String, VerifiedToken>,
    renderings: Derived<Rendering, Headers>,
    /// By what they were verified of ([`super::credentials::repeats`]).
    signatures: Derived<Vec<u8>, VerifiedSignature>,
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory").finish_non_exhaustive()
    }
}

impl Memory {
    pub fn new(
        config: &Config,
        source: &Arc<Source>,
        freshness: &Arc<Freshness>,
        touches: &Arc<Touches>,
        wakes: &Arc<Wakes>,
        upstream: Option<&Arc<Upstream>>,
    ) -> Self {
        let fresh = || Arc::clone(freshness);
        /// A loader of one value that asks the source.
        macro_rules! ask {
            (|$source:ident| $question:expr) => {{
                let source = Arc::clone(source);
                move || {
                    let $source = Arc::clone(&source);
                    async move { $question }
                }
            }};
        }
        Self {
            names: Cached::single(
                fresh(),
                Table::AppNames,
                ask!(|source| source.app_names().await.map(by_label)),
            ),
            apps: apps(config, source, fresh(), touches, wakes, upstream),
            identity: Cached::single(
                fresh(),
                Table::Identity,
                ask!(|source| source.identity().await),
            ),
            terminals: terminals(source, fresh(), touches),
            peers: Cached::single(
                fresh(),
                Table::Peers,
                ask!(|source| source.peers().await.map(|peers| PeerKeys::new(&peers))),
            ),
            terminal_secret: Cached::single(
                fresh(),
                Table::TerminalSecret,
                ask!(|source| {
                    let secret = source.terminal_secret().await?;
                    Ok(secret.map(|secret| TokenKey::new(&secret)))
                }),
            ),
            management_secret: Cached::single(
                fresh(),
                Table::ManagementSecret,
                ask!(|source| source.management_secret().await),
            ),
            tokens: Derived::new(config.cache.capacity),
            renderings: Derived::new(config.cache.capacity),
            signatures: Derived::new(config.cache.capacity.min(MAX_SIGNATURES)),
        }
    }

    /// The app a label names, if one is installed.
    pub async fn app(&self, label: &str, now: Moment) -> Result<Found, Unavailable> {
        let names = self.names.get("", now).await?;
        let app = match names.value.get(label) {
            Some(name) => Some(self.apps.get(name, now).await?),
            None => None,
        };
        Ok(Found { names, app })
    }

    /// What a token claims, if it was verified with the secret of this entry.
    pub fn verified(&self, token: &str, secret: EntryId) -> Option<Claims> {
        let verified = self.tokens.get(token, |verified| verified.secret == secret)?;
        Some(verified.claims)
    }

    pub fn remember_token(&self, token: &str, secret: EntryId, claims: Claims) {
        self.tokens.insert(token.into(), VerifiedToken { secret, claims });
    }

    /// The signature of a request, if it was verified with the keys of this entry.
    pub fn verified_signature(&self, of: &[u8], peers: EntryId) -> Option<VerifiedSignature> {
        self.signatures.get(of, |verified| verified.peers == peers)
    }

    pub fn remember_signature(&self, of: Vec<u8>, verified: VerifiedSignature) {
        self.signatures.insert(of, verified);
    }

    pub fn rendered(&self, rendering: &Rendering) -> Option<Headers> {
        self.renderings.get(rendering, |_| true)
    }

    pub fn remember_headers(&self, rendering: Rendering, headers: Headers) {
        self.renderings.insert(rendering, headers);
    }

    /// What each cache did and holds, by its name, for metrics.
    pub fn counts(&self) -> [(&'static str, Counts); 10] {
        let Self {
            names,
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

impl OwnCopy for VerifiedToken {
    fn own_copy(&self) -> Self {
        let Claims { sub, expires } = &self.claims;
        let claims = Claims { sub: Arc::from(&**sub), expires: *expires };
        Self { secret: self.secret, claims }
    }
}

impl OwnCopy for VerifiedSignature {
    fn own_copy(&self) -> Self {
        let Known { id, name } = &self.peer;
        let peer = Known { id: Arc::from(&**id), name: Arc::from(&**name) };
        Self { peer, ..*self }
    }
}

impl OwnCopy for Headers {
    fn own_copy(&self) -> Self {
        let copy = |(name, value): &(HeaderName, HeaderValue)| {
            // What is a header already is one again; else it is shared.
            let own_name = HeaderName::from_bytes(name.as_str().as_bytes());
            let own_value = HeaderValue::from_bytes(value.as_bytes());
            (own_name.unwrap_or_else(|_| name.clone()), own_value.unwrap_or_else(|_| value.clone()))
        };
        self.iter().map(copy).collect()
    }
}

/// What the store says of a label.
pub struct Found {
    pub names: Handle<AppNames>,
    /// `None` where no app has that name.
    pub app: Option<Handle<Option<App>>>,
}

/// Installed names by the label that hosts use for them. Of names that differ in
/// letter case alone the lower-case one has the label; without it none has, since
/// nobody knows which of them the proxy asks about.
fn by_label(names: Vec<String>) -> AppNames {
    let mut labels = AppNames::default();
    let mut contested = HashSet::new();
    for name in names {
        let label = name.to_ascii_lowercase();
        let is_exact = label == name;
        match labels.entry(label.into()) {
            Slot::Vacant(vacant) => drop(vacant.insert(name.into())),
            Slot::Occupied(mut taken) => {
                tracing::warn!(label = %taken.key(), "apps differ in letter case alone");
                if is_exact {
                    taken.insert(name.into());
                }
                contested.insert(taken.key().clone());
            }
        }
    }
    labels.retain(|label, name| **label == **name || !contested.contains(label));
    labels
}

fn apps(
    config: &Config,
    source: &Arc<Source>,
    freshness: Arc<Freshness>,
    touches: &Arc<Touches>,
    wakes: &Arc<Wakes>,
    upstream: Option<&Arc<Upstream>>,
) -> Arc<Cached<Option<App>>> {
    let dir = AppMetaDir::new(config.store.installed_apps_dir.clone());
    let matching = config.gate.path_matching;
    let (source, touches, wakes) = (Arc::clone(source), Arc::clone(touches), Arc::clone(wakes));
    let upstream = upstream.cloned();
    Cached::keyed(freshness, [Table::Apps, Table::AppMeta], move |name| {
        let (dir, source) = (dir.clone(), Arc::clone(&source));
        let (touches, wakes) = (Arc::clone(&touches), Arc::clone(&wakes));
        let upstream = upstream.clone();
        async move {
            let Some(row) = source.app(&name).await? else {
                return Ok(None);
            };
            let described = match dir.read(&name).await {
                Ok(meta) => Ok(Described::new(meta, matching)),
                Err(ReadError::Unusable(problem)) => Err(problem),
                Err(ReadError::Unavailable(error)) => return Err(error),
            };
            let problems: Vec<String> = match &described {
                Ok(described) => described.problems().cloned().collect(),
                Err(problem) => vec![problem.clone()],
            };
            let extent = if described.is_ok() { "some paths of the app" } else { "the app" };
            for reason in &problems {
                tracing::warn!(app = %name, %reason, "{extent} answer 503");
            }
            let used = touches.of(Touched::App, &row.name);
            let facts = described.as_ref().ok().map(|described| Facts::of(&described.meta));
            wakes.look_for(&row.name).await;
            let wake = wakes.of(&row.name, facts);
            wake.note_problems(problems);
            let mirrored = upstream.as_ref().and_then(|upstream| upstream.mirrored(&row.name));
            Ok(Some(App { row, described, used, wake, mirrored }))
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
                used: touches.of(Touched::Terminal, &terminal.id),
                known: Known { id: terminal.id, name: terminal.name },
            }))
        }
    })
}

impl Described {
    /// Prepares the rules and compiles the templates of every path.
    pub fn new(meta: AppMeta, matching: PathMatching) -> Self {
        let compile = |rule: &crate::domain::app::PathRule| {
            HeaderTemplates::compile(&rule.headers)
                .map_err(|error| format!("paths.\"{}\".headers: {error}", rule.prefix))
        };
        let templates = meta.paths.iter().map(compile).collect();
        Self { rules: Rules::new(&meta.paths, matching), meta, templates }
    }

    /// Why paths of it answer 503: the first header of each whose name or template cannot
    /// be used, for the operator.
    fn problems(&self) -> impl Iterator<Item = &String> {
        self.templates.iter().filter_map(|templates| templates.as_ref().err())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_differ_in_letter_case_alone_have_one_meaning() {
        let names = ["Notes", "notes", "WIKI", "Wiki", "Chat", "\u{212a}ube"];
        for turn in 0..names.len() {
            let mut names = names.map(String::from).to_vec();
            names.rotate_left(turn);
            let labels = by_label(names);
            let of = |label: &str| labels.get(label).map(|name| &**name);
            assert_eq!(of("notes"), Some("notes"));
            assert_eq!(of("wiki"), None);
            assert_eq!(of("chat"), Some("Chat"));
            assert_eq!(of("kube"), None, "no ASCII name, so no host has it");
        }
    }
}
