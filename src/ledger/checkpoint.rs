//! Signed heads of a tree: C2SP tlog-checkpoint, in a C2SP signed-note.
//!
//! The time is an extension line, so that it is signed too.

pub mod file;
pub mod thinning;

use std::fmt;
use std::time::{Duration, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tlog_tiles::tlog;

use super::key::{SigningKey, VerifierKey};
use super::record::Micros;
use super::tree::Hash;

/// Begins a line of a signature.
const SIGNATURE: &str = "\u{2014} ";

/// The bytes of an Ed25519 signature.
const SIGNATURE_LENGTH: usize = 64;

/// Begins the extension line with the time (RFC 3339, in UTC).
const TIME: &str = "time ";

/// Longest note that is read; ours have about 400 bytes.
const MAX_NOTE: usize = 16 * 1024;

/// The head of a tree at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// The tree that it is of: the name of the key that signs it.
    pub origin: String,
    /// How many records the tree has.
    pub size: u64,
    pub root: Hash,
    pub at: Micros,
}

/// Why a note is not a checkpoint of a tree.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointError {
    #[error("not a checkpoint")]
    Malformed,
    #[error("a checkpoint of {0:?}, another ledger's")]
    OtherOrigin(String),
    #[error("signed by another key")]
    OtherKey,
    #[error("forged, or was altered after it was signed")]
    BadSignature,
}

impl Checkpoint {
    /// Returns the signed note.
    #[must_use]
    pub fn sign(tenant: &str, size: u64, root: &Hash, at: Micros, key: &SigningKey) -> String {
        let verifier = key.verifier(tenant);
        let name = verifier.name();
        let checkpoint = Self { origin: name.into(), size, root: *root, at };
        let text = checkpoint.to_string();
        let signature = [verifier.id().as_slice(), &key.sign(text.as_bytes())].concat();
        format!("{text}\n{SIGNATURE}{name} {}\n", STANDARD.encode(signature))
    }

    /// Returns the checkpoint in a note if that key has signed it. Signatures by others, such
    /// as those of witnesses, are ignored.
    pub fn verify(note: &str, key: &VerifierKey) -> Result<Self, CheckpointError> {
        let (text, signatures) = split(note)?;
        let checkpoint = Self::parse(text)?;
        if checkpoint.origin != key.name() {
            return Err(CheckpointError::OtherOrigin(checkpoint.origin));
        }
        let mut ours = None;
        for line in signatures.lines() {
            let (name, id, signature) = signature_of(line).ok_or(CheckpointError::Malformed)?;
            if name == key.name() && id == key.id() {
                if signature.len() != SIGNATURE_LENGTH {
                    return Err(CheckpointError::Malformed);
                }
                ours.get_or_insert(signature);
            }
        }
        match ours {
            None => Err(CheckpointError::OtherKey),
            Some(signature) if key.verifies(text.as_bytes(), &signature) => Ok(checkpoint),
            Some(_) => Err(CheckpointError::BadSignature),
        }
    }

    /// Returns what a note claims, whoever signed it.
    pub fn claimed(note: &str) -> Result<Self, CheckpointError> {
        Self::parse(split(note)?.0)
    }

    fn parse(text: &str) -> Result<Self, CheckpointError> {
        let parsed = tlog_tiles::Checkpoint::from_bytes(text.as_bytes())
            .map_err(|_| CheckpointError::Malformed)?;
        let time = parsed.extension().lines().find_map(|line| line.strip_prefix(TIME));
        let at = time.and_then(|time| humantime::parse_rfc3339(time).ok());
        Ok(Self {
            origin: parsed.origin().into(),
            size: parsed.size(),
            root: parsed.hash().0,
            at: at.ok_or(CheckpointError::Malformed)?.into(),
        })
    }
}

/// The text that is signed.
impl fmt::Display for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { origin, size, root, at } = self;
        write!(f, "{origin}\n{size}\n{}\n{TIME}{}\n", tlog::Hash(*root), rfc3339(*at))
    }
}

/// Returns a time as text, in UTC and with microseconds.
pub(crate) fn rfc3339(at: Micros) -> impl fmt::Display {
    let since = Duration::from_micros(u64::try_from(at.0).unwrap_or_default());
    // Nothing later than the year 9999 can be written.
    let last = Duration::from_secs(253_402_300_799);
    humantime::format_rfc3339_micros(UNIX_EPOCH + since.min(last))
}

/// Returns the key's name, its id and the signature of a line.
fn signature_of(line: &str) -> Option<(&str, [u8; 4], Vec<u8>)> {
    let (name, signature) = line.strip_prefix(SIGNATURE)?.split_once(' ')?;
    let bytes = STANDARD.decode(signature).ok()?;
    let (id, signature) = bytes.split_first_chunk::<4>()?;
    Some((name, *id, signature.to_vec()))
}

/// Splits a note into its text, with the last line feed, and the lines of signatures.
fn split(note: &str) -> Result<(&str, &str), CheckpointError> {
    let is_clean = note.len() <= MAX_NOTE && note.ends_with('\n');
    let end = note.rfind("\n\n").filter(|_| is_clean).ok_or(CheckpointError::Malformed)?;
    Ok((&note[..=end], &note[end + 2..]))
}

#[cfg(test)]
mod tests;
