//! Who asks: terminal, then peer, else anonymous.

use std::sync::Arc;

use http::{HeaderMap, HeaderName};

use crate::domain::client::{Client, Known};
use crate::store::cache::{Entry, EntryId, Handle};
use crate::store::freshness::Moment;
use crate::store::{Freshness, Unavailable};

use super::credentials::peer::{self, PeerKeys, Signed, Verified};
use super::credentials::repeats;
use super::credentials::terminal::{self, Claims, TokenKey};
use super::forwarded::Forwarded;
use super::memory::{PairedTerminal, VerifiedSignature};
use super::{Gate, Now};

/// RFC 9421 section 4.2.
const SIGNATURE: HeaderName = HeaderName::from_static("signature");

/// A client and the rows that vouch for it.
#[derive(Debug)]
pub(super) struct Identified {
    /// A peer whose signature fits.
    peer: Option<Known>,
    secret: Option<Handle<Option<TokenKey>>>,
    terminal: Option<Handle<Option<PairedTerminal>>>,
    peers: Option<Handle<PeerKeys>>,
}

/// What may happen only once for a request, however often it is decided anew.
#[derive(Debug, Default)]
pub(super) struct Once {
    /// Whether the signature had been seen before this request.
    replayed: Option<bool>,
}

impl Once {
    /// For a look that must leave no trace.
    pub(super) fn already_judged() -> Self {
        Self { replayed: Some(false) }
    }
}

impl Identified {
    pub(super) fn is_usable(&self, freshness: &Freshness, now: Moment) -> bool {
        let Self { peer: _, secret, terminal, peers } = self;
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

    /// The entry that the client was read from.
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
    /// Reads the credentials of a request. Without `forwarded` only a terminal
    /// can be known: a signature is about the forwarded request.
    pub(super) async fn identify(
        &self,
        headers: &HeaderMap,
        forwarded: Option<&Forwarded<'_>>,
        now: Now,
        once: &mut Once,
    ) -> Result<Identified, Unavailable> {
        let mut identified = Identified { peer: None, secret: None, terminal: None, peers: None };
        if let Some(token) = terminal::token(headers) {
            self.identify_terminal(&token, now, &mut identified).await?;
        }
        if let (Client::Anonymous, Some(forwarded)) = (identified.client(), forwarded)
            && headers.contains_key(SIGNATURE)
        {
            self.identify_peer(headers, forwarded, now, once, &mut identified).await?;
        }
        Ok(identified)
    }

    async fn identify_terminal(
        &self,
        token: &str,
        now: Now,
        identified: &mut Identified,
    ) -> Result<(), Unavailable> {
        let secret = self.memory.terminal_secret.get("", now.moment).await?;
        let claims = self.claims(token, &secret, now);
        identified.secret = Some(secret);
        let Some(claims) = claims else {
            return Ok(());
        };
        let terminal = self.memory.terminals.get(&claims.sub, now.moment).await?;
        if let Some(paired) = &terminal.value {
            self.touches.touch(&paired.used, now.wall);
        }
        identified.terminal = Some(terminal);
        Ok(())
    }

    /// What a token claims, if it is valid now.
    fn claims(&self, token: &str, secret: &Entry<Option<TokenKey>>, now: Now) -> Option<Claims> {
        if let Some(claims) = self.memory.verified(token, secret.id) {
            return claims.is_valid_at(now.wall).then_some(claims);
        }
        match terminal::verify(token, secret.value.as_ref()?, now.wall) {
            Ok(claims) => {
                self.memory.remember_token(token, secret.id, claims.clone());
                Some(claims)
            }
            Err(error) => {
                tracing::debug!(%error, "a terminal token was refused");
                None
            }
        }
    }

    async fn identify_peer(
        &self,
        headers: &HeaderMap,
        forwarded: &Forwarded<'_>,
        now: Now,
        once: &mut Once,
        identified: &mut Identified,
    ) -> Result<(), Unavailable> {
        let (Some(method), Some(proto)) = (forwarded.method, forwarded.proto) else {
            tracing::debug!("a signed request came without its method or scheme");
            return Ok(());
        };
        let peers = self.memory.peers.get("", now.moment).await?;
        let signed = Signed { method, proto, host: forwarded.host, uri: forwarded.uri, headers };
        let of = if self.config.refuse_replays { None } else { repeats::verified_of(&signed) };
        let known = of.as_deref().and_then(|of| self.memory.verified_signature(of, peers.id));
        identified.peer = match known {
            Some(known) => known.times.check(now.wall).ok().map(|()| known.peer),
            None => self.verified_peer(&signed, &peers, of, now, once),
        };
        identified.peers = Some(peers);
        Ok(())
    }

    /// The peer whose signature fits, which is remembered if it may come again.
    fn verified_peer(
        &self,
        signed: &Signed<'_>,
        peers: &Entry<PeerKeys>,
        of: Option<Vec<u8>>,
        now: Now,
        once: &mut Once,
    ) -> Option<Known> {
        match peer::verify(signed, &peers.value, now.wall) {
            Ok(verified) if self.is_replay(&verified, now, once) => {
                tracing::debug!("a signature was seen before");
                None
            }
            Ok(Verified { peer, nonce, times, .. }) => {
                if let (Some(of), None) = (of, nonce) {
                    let verified = VerifiedSignature { peers: peers.id, peer: peer.clone(), times };
                    self.memory.remember_signature(of, verified);
                }
                Some(peer)
            }
            Err(error) => {
                tracing::debug!(%error, "a peer signature was refused");
                None
            }
        }
    }

    fn is_replay(&self, verified: &Verified, now: Now, once: &mut Once) -> bool {
        if verified.nonce.is_none() && !self.config.refuse_replays {
            return false;
        }
        *once.replayed.get_or_insert_with(|| !self.replays.admit(verified, now.wall))
    }
}
