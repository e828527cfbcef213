//! Finds out whose token a request carries, and adds and removes tokens.
//!
//! A token that was found is remembered for [`REMEMBERED`]. What was not found is not
//! remembered, so nothing that strangers send is; they wait for each other, and for no one
//! whose token is remembered.

use std::sync::Arc;
use std::time::Duration;

use moka::sync::Cache;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tracing::debug;

use super::table;
use super::token::{Token, TokenHash};
use super::{Principal, Scope};
use crate::ledger::archive::{Archive, ArchiveError, Transaction};
use crate::ledger::clock;
use crate::ledger::record::{Micros, micros};

/// How long after a look-up a token is believed: as long, at most, a token that another
/// process has removed is still accepted.
pub const REMEMBERED: Duration = Duration::from_secs(2);

/// The most tokens that are remembered, some 200 bytes each.
const MAX_REMEMBERED: u64 = 1_000;

/// Look-ups at the same time, and how long one waits for others.
const LOOK_UPS: u32 = 2;
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// How long, at most, a look-up takes that began before a removal was committed.
const LOOKING_UP: Duration = Duration::from_secs(30);

/// How often the use of a token is noted in its row, at most.
const USE_PERIOD: Duration = Duration::from_secs(60 * 60);

/// Why a token is not accepted although it may be valid.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LookUpError {
    #[error("tokens cannot be looked up: {0}")]
    Archive(#[from] ArchiveError),
    /// What is missing is for the operator, and not for the token's owner.
    #[error("the database does not keep tenants apart; `/healthz` tells the operator why")]
    NotIsolated,
}

/// The tokens of the operator's API.
#[derive(Debug)]
pub struct Tokens {
    archive: Arc<Archive>,
    known: Cache<TokenHash, Arc<Token>>,
    /// What was removed a moment ago: a look-up that began before the commit may still find it.
    removed: Cache<TokenHash, ()>,
    look_ups: Semaphore,
}

impl Tokens {
    #[must_use]
    pub fn new(archive: Arc<Archive>) -> Self {
        let known = Cache::builder().max_capacity(MAX_REMEMBERED).time_to_live(REMEMBERED).build();
        let removed = Cache::builder().max_capacity(MAX_REMEMBERED).time_to_live(LOOKING_UP);
        Self {
            archive,
            known,
            removed: removed.build(),
            look_ups: Semaphore::new(LOOK_UPS as usize),
        }
    }

    /// Returns whose token a credential is; `None` if it is no token, or no longer one.
    ///
    /// # Errors
    /// The archive cannot say, or does not keep tenants apart.
    pub async fn principal(&self, credential: &[u8]) -> Result<Option<Principal>, LookUpError> {
        let Some(hash) = TokenHash::from_credential(credential) else { return Ok(None) };
        if self.removed.contains_key(&hash) {
            return Ok(None);
        }
        let token = match self.known.get(&hash) {
            Some(token) => Some(token),
            None => self.look_up(&hash).await?,
        };
        let now = clock::now();
        // The hash that was found is compared with the one that was looked for, whatever the
        // database takes to be equal.
        let is_valid = |token: &Arc<Token>| token.hash.matches(&hash) && token.is_valid(now);
        let Some(token) = token.filter(is_valid) else { return Ok(None) };
        if token.scope != Scope::All && self.archive.isolation_problem().is_some() {
            return Err(LookUpError::NotIsolated);
        }
        Ok(Some(token.principal()))
    }

    async fn look_up(&self, hash: &TokenHash) -> Result<Option<Arc<Token>>, ArchiveError> {
        let permit = timeout(LONGEST_WAIT, self.look_ups.acquire()).await;
        let busy = || ArchiveError::Unavailable("too many tokens are being looked up".into());
        let _permit = permit.map_err(|_| busy())?.map_err(|_| busy())?;
        // Another request with the same token may have waited for it before this one.
        if let Some(token) = self.known.get(hash) {
            return Ok(Some(token));
        }
        let mut snapshot = self.archive.snapshot().await?;
        let Some(token) = table::by_hash(&mut snapshot, hash).await? else { return Ok(None) };
        if token.scope != Scope::All {
            // What keeps tenants apart may have been taken away since the last look.
            self.archive.check_isolation().await?;
        }
        let token = Arc::new(token);
        self.known.insert(*hash, Arc::clone(&token));
        self.note_use(&token);
        Ok(Some(token))
    }

    /// Notes that a token is in use, without having its request wait for that.
    fn note_use(&self, token: &Token) {
        let now = clock::now();
        let unless_since = Micros(now.0 - micros(USE_PERIOD));
        if !token.is_valid(now) || token.last_use.is_some_and(|last| last >= unless_since) {
            return;
        }
        let (archive, id) = (Arc::clone(&self.archive), Arc::clone(&token.id));
        tokio::spawn(async move {
            let noted = async {
                let mut transaction = archive.begin().await?;
                table::note_use(&mut transaction, &id, now, unless_since).await?;
                transaction.commit().await
            };
            if let Err(error) = noted.await {
                debug!(%error, token = &*id, "the use of a token is not noted");
            }
        });
    }

    /// Begins a transaction for what follows.
    pub async fn begin(&self) -> Result<Transaction<'_>, ArchiveError> {
        self.archive.begin().await
    }

    /// Adds a token, in the transaction that records it.
    pub async fn insert(
        &self,
        transaction: &mut Transaction<'_>,
        token: &Token,
    ) -> Result<(), ArchiveError> {
        table::insert(transaction, token).await
    }

    /// Removes a token that `scope` includes, in the transaction that records it; returns
    /// whether there was one. After the commit, [`Self::note_removal`] has this process refuse
    /// it at once; another one does from [`REMEMBERED`] after the commit at the latest.
    pub async fn delete(
        &self,
        transaction: &mut Transaction<'_>,
        scope: &Scope,
        token: &Token,
    ) -> Result<bool, ArchiveError> {
        table::remove(transaction, scope, &token.id).await
    }

    /// Refuses a token whose removal is committed.
    pub fn note_removal(&self, hash: &TokenHash) {
        self.removed.insert(*hash, ());
    }

    /// Returns the tokens that `scope` includes, the oldest first.
    pub async fn list(&self, scope: &Scope) -> Result<Vec<Token>, ArchiveError> {
        let mut snapshot = self.archive.snapshot().await?;
        table::list(&mut snapshot, scope).await
    }
}
