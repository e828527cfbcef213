//! The bytes of a dead letter: a batch of records exactly as they were sealed.
//!
//! A head of fixed length, and JSON. Each byte of the file is covered: those of the head by
//! comparison, the rest by its SHA-256.

use std::borrow::Cow;

use aws_lc_rs::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

use super::wire::WireRecord;
use crate::ledger::record::Record;

/// Begins every dead letter of every version.
const MAGIC: &[u8; 16] = b"nightporter-dl\r\n";

const VERSION: u32 = 1;

/// Magic, version, length of the content, SHA-256 of the content.
const HEAD: usize = 16 + 4 + 8 + 32;

/// The content of a dead letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Letter {
    pub records: Vec<Record>,
    /// Why the archive refuses it; `None` if it was never refused for its content.
    pub error: Option<Box<str>>,
}

/// Why a file is not a dead letter, or not a whole one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    #[error("is not a dead letter of nightporter")]
    Foreign,
    #[error("has version {0}, and this program reads version {VERSION}")]
    Version(u32),
    #[error("is torn: it has {found} bytes of {expected}")]
    Torn { found: u64, expected: u64 },
    #[error("has {0} bytes too many")]
    Longer(u64),
    #[error("is damaged: its checksum differs")]
    Checksum,
    #[error("cannot be read: {0}")]
    Content(String),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire<'a> {
    #[serde(borrow)]
    error: Option<Cow<'a, str>>,
    #[serde(borrow)]
    records: Vec<WireRecord<'a>>,
}

/// Returns the bytes of a dead letter.
pub(super) fn encode(
    records: &[Record],
    error: Option<&str>,
) -> Result<Vec<u8>, serde_json::Error> {
    let wire = Wire {
        error: error.map(Cow::Borrowed),
        records: records.iter().map(WireRecord::from).collect(),
    };
    let mut bytes = vec![0; HEAD];
    serde_json::to_writer(&mut bytes, &wire)?;
    fill_head(&mut bytes);
    Ok(bytes)
}

/// Returns a letter with this content, whatever it is.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn sealed(content: &[u8]) -> Vec<u8> {
    let mut bytes = [&[0; HEAD], content].concat();
    fill_head(&mut bytes);
    bytes
}

/// Writes the head over the first bytes.
fn fill_head(bytes: &mut [u8]) {
    let (head, content) = bytes.split_at_mut(HEAD);
    head[..16].copy_from_slice(MAGIC);
    head[16..20].copy_from_slice(&VERSION.to_be_bytes());
    head[20..28].copy_from_slice(&(content.len() as u64).to_be_bytes());
    head[28..].copy_from_slice(digest(&SHA256, content).as_ref());
}

pub(super) fn decode(bytes: &[u8]) -> Result<Letter, Damage> {
    let found = bytes.len() as u64;
    let Some((head, content)) = bytes.split_at_checked(HEAD) else {
        // What there is of the magic tells a torn letter from another file.
        let is_ours = bytes.iter().zip(MAGIC).all(|(byte, expected)| byte == expected);
        let torn = Damage::Torn { found, expected: HEAD as u64 };
        return Err(if is_ours { torn } else { Damage::Foreign });
    };
    if !head.starts_with(MAGIC) {
        return Err(Damage::Foreign);
    }
    let version = head[16..20].try_into().map_or(0, u32::from_be_bytes);
    if version != VERSION {
        return Err(Damage::Version(version));
    }
    let length = head[20..28].try_into().map_or(0, u64::from_be_bytes);
    let expected = length.saturating_add(HEAD as u64);
    if found < expected {
        return Err(Damage::Torn { found, expected });
    }
    if found > expected {
        return Err(Damage::Longer(found - expected));
    }
    if digest(&SHA256, content).as_ref() != &head[28..] {
        return Err(Damage::Checksum);
    }
    let damage = |problem: String| Damage::Content(problem);
    let wire: Wire<'_> =
        serde_json::from_slice(content).map_err(|error| damage(error.to_string()))?;
    let records = wire.records.into_iter().map(Record::try_from).collect::<Result<_, _>>();
    Ok(Letter {
        records: records.map_err(|problem: &str| damage(problem.to_owned()))?,
        error: wire.error.map(|error| error.into_owned().into()),
    })
}
