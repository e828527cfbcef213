//! Seals: codes under a key that is not in the database.
//!
//! Until a checkpoint covers a record, its seal is what shows that it was altered.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::error::Unspecified;
use aws_lc_rs::{hmac, rand};

use super::canonical::Hasher;
use super::record::{Entry, Leaf, Personal, Record, RecordId, Salt};

/// The code of a leaf and an id.
pub type Seal = [u8; 16];

/// The key of the seals, derived from the ledger's private key.
#[derive(Clone)]
pub struct SealKey(hmac::Key);

impl SealKey {
    /// Derives the key from the seed of the ledger's signing key.
    pub(super) fn derive(seed: &[u8]) -> Self {
        let seed = hmac::Key::new(hmac::HMAC_SHA256, seed);
        let derived = hmac::sign(&seed, b"nightporter seal v1");
        Self(hmac::Key::new(hmac::HMAC_SHA256, derived.as_ref()))
    }

    /// Returns the seal of a record.
    #[must_use]
    pub fn seal(&self, id: RecordId, leaf: &Leaf) -> Seal {
        let mut message = [0; 48];
        message[..32].copy_from_slice(leaf);
        message[32..40].copy_from_slice(&id.writer.0.to_be_bytes());
        message[40..].copy_from_slice(&id.seq.to_be_bytes());
        truncated(&hmac::sign(&self.0, &message))
    }

    /// Returns whether a record's seal is the one that was given to its leaf.
    #[must_use]
    pub fn matches(&self, id: RecordId, leaf: &Leaf, seal: &Seal) -> bool {
        // In constant time, though somebody who may write rows cannot time it.
        aws_lc_rs::constant_time::verify_slices_are_equal(&self.seal(id, leaf), seal).is_ok()
    }
}

impl fmt::Debug for SealKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealKey(***)")
    }
}

/// Makes records of entries, for one writer.
pub struct Sealer {
    key: SealKey,
    /// Salts are derived from it and the record's number. It is kept nowhere else.
    secret: hmac::Key,
    hasher: Hasher,
}

impl Sealer {
    /// Creates the sealer of a writer, with a secret of its own.
    ///
    /// # Errors
    /// The system provides no random numbers.
    pub fn new(key: SealKey) -> Result<Self, Unspecified> {
        let mut secret = [0; 32];
        rand::fill(&mut secret)?;
        let secret = hmac::Key::new(hmac::HMAC_SHA256, &secret);
        Ok(Self { key, secret, hasher: Hasher::default() })
    }

    /// Returns the record of an entry: salted, hashed and sealed.
    #[must_use]
    pub fn seal(&mut self, id: RecordId, tenant: &Arc<str>, entry: Entry) -> Record {
        let Entry {
            kind,
            at,
            app,
            host,
            path,
            rule,
            client,
            client_id,
            client_name,
            address,
            verdict,
            reason,
            trace,
            duration,
            count,
            steps,
            notes,
        } = entry.without_nul();
        let has_client = client_id.is_some() || client_name.is_some() || address.is_some();
        let is_personal = has_client || path.is_some() || !notes.is_empty();
        let mut record = Record {
            id,
            tenant: Arc::clone(tenant),
            kind,
            at,
            app,
            host,
            path,
            rule,
            client,
            client_id: client_id.map(Personal::Clear),
            client_name: client_name.map(Personal::Clear),
            address: address.map(|address| Personal::Clear(address.to_string().into())),
            verdict,
            reason,
            trace,
            duration,
            count,
            steps,
            notes,
            salt: is_personal.then(|| self.salt(id)),
            leaf: [0; 32],
            seal: [0; 16],
        };
        // A record that was just made has a salt exactly if it needs one.
        record.leaf = self.hasher.leaf(&record).unwrap_or_default();
        record.seal = self.key.seal(id, &record.leaf);
        record
    }

    fn salt(&self, id: RecordId) -> Salt {
        truncated(&hmac::sign(&self.secret, &id.seq.to_be_bytes()))
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sealer(***)")
    }
}

/// Returns the first 16 bytes of a code.
fn truncated(tag: &hmac::Tag) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&tag.as_ref()[..16]);
    bytes
}
