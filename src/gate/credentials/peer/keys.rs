//! The public keys of peers, and which of the texts that may have been signed each one's owner
//! signs.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::SystemTime;

use aws_lc_rs::signature::{ParsedPublicKey, RSA_PSS_2048_8192_SHA512};

use super::unix_seconds;
use crate::domain::client::KnownClient;
use crate::domain::identity::{Identity, short_id};
use crate::store;

/// Smallest and largest accepted key, in bits. The time of a check grows with the square of
/// the key, and a stranger can cause a check without any key: one with 4,096 bits, which
/// FreeShard's keys have, takes about 70 µs and one with 6,144 bits 140 µs, where a plain
/// request takes 10 (`cargo bench --bench throughput -- --only stranger`).
const MIN_KEY_BITS: usize = 2048;
const MAX_KEY_BITS: usize = 6144;

/// The parsed public keys of all peers.
#[derive(Default)]
pub struct PeerKeys {
    by_key_id: HashMap<Box<str>, Vec<PeerKey>, foldhash::fast::RandomState>,
}

/// A peer's key.
pub(super) struct PeerKey {
    pub(super) peer: KnownClient,
    pub(super) key: ParsedPublicKey,
    /// Length of the key's signatures, in bytes.
    pub(super) signature_len: usize,
    pub(super) choice: TextChoice,
}

/// Which of the texts that may have been signed the owner of a key signs.
///
/// A sender always signs the same one, so what has verified before is tried first, and the
/// others at a bounded rate: a forged signature costs one check, not one for each text.
#[derive(Default)]
pub(super) struct TextChoice {
    /// Index of the text that verified last.
    last: AtomicUsize,
    /// A second, and above [`COUNT_BITS`] the number of other texts tried in it.
    tried: AtomicU64,
}

/// Other texts that are tried for one key in a second: with 4,096 bits they take 2 % of a
/// core.
pub(super) const MAX_OTHER_TEXTS: u64 = 256;
const COUNT_BITS: u32 = 16;

impl TextChoice {
    /// Returns the index of the text to try first.
    pub(super) fn first(&self, texts: usize) -> usize {
        let last = self.last.load(Ordering::Relaxed);
        if last < texts { last } else { 0 }
    }

    pub(super) fn verified(&self, index: usize) {
        self.last.store(index, Ordering::Relaxed);
    }

    /// Whether another text may be tried now.
    pub(super) fn admits_another(&self, now: SystemTime) -> bool {
        let second = u64::try_from(unix_seconds(now)).unwrap_or(0) << COUNT_BITS;
        let admit = |tried: u64| {
            let is_same = tried >> COUNT_BITS << COUNT_BITS == second;
            let tried = if is_same { tried } else { second };
            (tried - second < MAX_OTHER_TEXTS).then_some(tried + 1)
        };
        self.tried.fetch_update(Ordering::Relaxed, Ordering::Relaxed, admit).is_ok()
    }
}

impl fmt::Debug for PeerKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerKeys").field("key_ids", &self.by_key_id.len()).finish()
    }
}

/// Why a peer's row cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum KeyError {
    #[error("its id is shorter than {} characters", Identity::SHORT)]
    Id,
    #[error("its public key is not a SubjectPublicKeyInfo in PEM")]
    Pem,
    #[error("its public key is not an RSA key of {MIN_KEY_BITS} to {MAX_KEY_BITS} bits")]
    Key,
}

impl PeerKeys {
    /// Parses the keys of all peers. Logs a warning for each row that cannot be used and
    /// skips it.
    #[must_use]
    pub fn new(peers: &[store::Peer]) -> Self {
        let mut keys = Self::default();
        for peer in peers {
            match parse_key(peer) {
                Ok((key_id, key)) => keys.by_key_id.entry(key_id).or_default().push(key),
                Err(error) => {
                    let prefix: String = peer.id.chars().take(3).collect();
                    tracing::warn!("the peer whose id begins with {prefix:?} is skipped: {error}");
                }
            }
        }
        keys
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_key_id.is_empty()
    }

    /// Returns the keys that a key id may mean.
    pub(super) fn candidates(&self, key_id: &str) -> Option<&[PeerKey]> {
        self.by_key_id.get(key_id).map(Vec::as_slice)
    }
}

pub(super) fn parse_key(peer: &store::Peer) -> Result<(Box<str>, PeerKey), KeyError> {
    let key_id = short_id(&peer.id);
    if key_id.chars().count() != Identity::SHORT {
        return Err(KeyError::Id);
    }
    let pem = pem::parse(&peer.public_key_pem).map_err(|_| KeyError::Pem)?;
    if pem.tag() != "PUBLIC KEY" {
        return Err(KeyError::Pem);
    }
    // Each verification checks the range of sizes again.
    let key = ParsedPublicKey::new(&RSA_PSS_2048_8192_SHA512, pem.contents())
        .map_err(|_| KeyError::Key)?;
    let signature_len = signature_len(pem.contents())?;
    let peer = KnownClient { id: Arc::clone(&peer.id), name: Arc::clone(&peer.name) };
    let choice = TextChoice::default();
    Ok((key_id.into(), PeerKey { peer, key, signature_len, choice }))
}

/// A signature is as long as its key's modulus (RFC 8017 section 8.1.1).
fn signature_len(spki: &[u8]) -> Result<usize, KeyError> {
    use x509_parser::prelude::{FromDer, SubjectPublicKeyInfo};
    use x509_parser::public_key::PublicKey;

    let (_, spki) = SubjectPublicKeyInfo::from_der(spki).map_err(|_| KeyError::Pem)?;
    match spki.parsed() {
        Ok(PublicKey::RSA(key)) if (MIN_KEY_BITS..=MAX_KEY_BITS).contains(&key.key_size()) => {
            Ok(key.key_size().div_ceil(8))
        }
        _ => Err(KeyError::Key),
    }
}
