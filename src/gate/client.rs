//! Identifies the client of a request: a terminal, else a peer, else anonymous.

use std::sync::Arc;

use http::HeaderMap;

use crate::domain::client::{Client, KnownClient};
use crate::store::cache::{Entry, EntryId, Handle};
use crate::store::freshness::Moment;
use crate::store::{Freshness, Unavailable};

use super::caches::{PairedTerminal, VerifiedSignature};
use super::credentials::peer::{self, PeerKeys, SignatureError, Signed, Verified};
use super::credentials::signature_cache;
use super::credentials::terminal::{self, Claims, TokenError, TokenKey};
use super::forwarded::Forwarded;
use super::{Gate, Now};

/// A client and the cache entries that it was identified with.
#[derive(Debug)]
pub(super) struct Identified {
    /// The peer whose signature matches.
    peer: Option<KnownClient>,
    secret: Option<Handle<Option<TokenKey>>>,
    terminal: Option<Handle<Option<PairedTerminal>>>,
    peers: Option<Handle<PeerKeys>>,
    /// Whether its token or its signature is a wrong guess.
    is_token_refused: bool,
    is_signature_refused: bool,
}

/// The replay check of one request, which must run only once although the decision may be
/// repeated.
#[derive(Debug, Default)]
pub(super) struct ReplayCheck {
    /// Whether the signature had been used before this request.
    replayed: Option<bool>,
}

impl ReplayCheck {
    /// Creates a check that treats the signature as unused and does not record it.
    pub(super) fn skipped() -> Self {
        Self { replayed: Some(false) }
    }
}

impl Identified {
    pub(super) fn is_usable(&self, freshness: &Freshness, now: Moment) -> bool {
        let Self { peer: _, secret, terminal, peers, is_token_refused: _, is_signature_refused: _ } =
            self;
        secret.as_ref().is_none_or(|entry| entry.is_usable(freshness, now))
            && terminal.as_ref().is_none_or(|entry| entry.is_usable(freshness, now))
            && peers.as_ref().is_none_or(|entry| entry.is_usable(freshness, now))
    }

    pub(super) fn client(&self) -> Client<'_> {
        let terminal = self.terminal.as_ref().and_then(|entry| entry.value.as_ref());
        match (terminal, &self.peer) {
            (Some(terminal), _) => Client::Terminal(&terminal.known),
            (None, Some(peer)) => Client::Peer(peer),
            (None, None) => Client::Anonymous,
        }
    }

    /// Returns the credential of a request that was refused because it is wrong.
    pub(super) fn refused(&self, headers: &HeaderMap) -> Option<Vec<u8>> {
        if self.is_token_refused {
            return terminal::token(headers).map(|token| token.into_owned().into_bytes());
        }
        let signature = || headers.get("signature").map(|value| value.as_bytes().to_vec());
        self.is_signature_refused.then(signature).flatten()
    }

    /// Returns the id of the cache entry that the client was read from.
    pub(super) fn entry(&self) -> EntryId {
        match self.client() {
            Client::Terminal(_) => self.terminal.as_ref().map_or(EntryId::NONE, |entry| entry.id),
            Client::Peer(_) => self.peers.as_ref().map_or(EntryId::NONE, |entry| entry.id),
            Client::Anonymous => EntryId::NONE,
        }
    }

    pub(super) fn peer_id(&self) -> Option<Arc<str>> {
        match self.client() {
            Client::Peer(known) => Some(Arc::clone(&known.id)),
            Client::Terminal(_) | Client::Anonymous => None,
        }
    }
}

impl Gate {
    /// Identifies the client by the credentials of a request. Without `forwarded`, only a
    /// terminal can be identified, because a signature covers the forwarded request.
    pub(super) async fn identify(
        &self,
        headers: &HeaderMap,
        forwarded: Option<&Forwarded<'_>>,
        now: Now,
        replay_check: &mut ReplayCheck,
    ) -> Result<Identified, Unavailable> {
        let mut identified = Identified {
            peer: None,
            secret: None,
            terminal: None,
            peers: None,
            is_token_refused: false,
            is_signature_refused: false,
        };
        let has_cookie = forwarded.is_none_or(|forwarded| forwarded.present.cookie);
        if let Some(token) = has_cookie.then(|| terminal::token(headers)).flatten() {
            self.identify_terminal(&token, now, &mut identified).await?;
        }
        if let (Client::Anonymous, Some(forwarded)) = (identified.client(), forwarded)
            && forwarded.present.signature
        {
            self.identify_peer(headers, forwarded, now, replay_check, &mut identified).await?;
        }
        Ok(identified)
    }

    async fn identify_terminal(
        &self,
        token: &str,
        now: Now,
        identified: &mut Identified,
    ) -> Result<(), Unavailable> {
        let secret = self.caches.terminal_secret.get("", now.moment).await?;
        let claims = self.claims(token, &secret, now);
        identified.secret = Some(secret);
        let claims = match claims {
            Ok(claims) => claims,
            Err(error) => {
                identified.is_token_refused = error.is_guess();
                return Ok(());
            }
        };
        let terminal = self.caches.terminals.get(&claims.sub, now.moment).await?;
        if let Some(paired) = &terminal.value {
            self.touches.touch(&paired.used, now.wall);
        }
        identified.terminal = Some(terminal);
        Ok(())
    }

    /// Returns the claims of a token if it is valid now.
    fn claims(
        &self,
        token: &str,
        secret: &Entry<Option<TokenKey>>,
        now: Now,
    ) -> Result<Claims, TokenError> {
        if let Some(claims) = self.caches.verified_claims(token, secret.id) {
            return if claims.is_valid_at(now.wall) {
                Ok(claims)
            } else {
                Err(TokenError::Expired)
            };
        }
        let key = secret.value.as_ref().ok_or(TokenError::NoKey)?;
        let claims = terminal::verify(token, key, now.wall).inspect_err(|error| {
            tracing::debug!(%error, "a terminal token was refused");
        })?;
        self.caches.remember_token(token, secret.id, claims.clone());
        Ok(claims)
    }

    async fn identify_peer(
        &self,
        headers: &HeaderMap,
        forwarded: &Forwarded<'_>,
        now: Now,
        replay_check: &mut ReplayCheck,
        identified: &mut Identified,
    ) -> Result<(), Unavailable> {
        let (Some(method), Some(proto)) = (forwarded.method, forwarded.proto) else {
            tracing::debug!("the proxy forwarded a signed request without its method or scheme");
            return Ok(());
        };
        let peers = self.caches.peers.get("", now.moment).await?;
        let signed = Signed { method, proto, host: forwarded.host, uri: forwarded.uri, headers };
        let cache_key =
            if self.config.refuse_replays { None } else { signature_cache::cache_key(&signed) };
        let cached =
            cache_key.as_deref().and_then(|key| self.caches.verified_signature(key, peers.id));
        identified.peer = if let Some(cached) = cached {
            cached.times.check(now.wall).ok().map(|()| cached.peer)
        } else {
            let refused = &mut identified.is_signature_refused;
            self.verified_peer(&signed, &peers, cache_key, now, replay_check, refused)
        };
        identified.peers = Some(peers);
        Ok(())
    }

    /// Verifies a signature and returns its peer. Caches the signature if it may be used
    /// again.
    fn verified_peer(
        &self,
        signed: &Signed<'_>,
        peers: &Entry<PeerKeys>,
        cache_key: Option<Vec<u8>>,
        now: Now,
        replay_check: &mut ReplayCheck,
        is_refused: &mut bool,
    ) -> Option<KnownClient> {
        match peer::verify(signed, &peers.value, now.wall) {
            Ok(verified) if self.is_replay(&verified, now, replay_check) => {
                tracing::debug!("a peer signature was used before");
                None
            }
            Ok(Verified { peer, nonce, times, .. }) => {
                if let (Some(cache_key), None) = (cache_key, nonce) {
                    let verified = VerifiedSignature { peers: peers.id, peer: peer.clone(), times };
                    self.caches.remember_signature(cache_key, verified);
                }
                Some(peer)
            }
            Err(error) => {
                tracing::debug!(%error, "a peer signature was refused");
                *is_refused = error == SignatureError::Mismatch;
                None
            }
        }
    }

    fn is_replay(&self, verified: &Verified, now: Now, replay_check: &mut ReplayCheck) -> bool {
        if verified.nonce.is_none() && !self.config.refuse_replays {
            return false;
        }
        *replay_check.replayed.get_or_insert_with(|| !self.replays.admit(verified, now.wall))
    }
}
