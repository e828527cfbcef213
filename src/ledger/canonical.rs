//! The canonical form of a record: the bytes that its leaf is the hash of.
//!
//! Every field is a tag, the length of its value and the value, in a fixed order; an absent
//! field is left out, so that it differs from an empty one. Values that identify a person
//! enter as salted digests: a record verifies whether they are clear, masked or erased.

use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};

use super::record::{Leaf, Personal, Record, Salt};

/// The first byte of the canonical form.
const VERSION: u8 = 1;

/// Precedes a leaf's data (RFC 9162 section 2.1.1).
const LEAF_PREFIX: u8 = 0;

/// Separates these digests from all others of the same text.
const PERSONAL: &[u8] = b"nightporter personal v1";

/// The fields in their order; the numbers are part of the form.
#[derive(Debug, Clone, Copy)]
#[repr(u8)]
enum Tag {
    Writer = 1,
    Seq,
    Tenant,
    Kind,
    At,
    App,
    Host,
    Path,
    Rule,
    Client,
    ClientId,
    ClientName,
    Address,
    Verdict,
    Reason,
    Trace,
    Duration,
    Count,
    Steps,
    StepName,
    StepDuration,
    StepOutcome,
    Notes,
    NoteTopic,
    NoteText,
}

/// Computes the leaves of records one after the other, in buffers that it keeps.
#[derive(Debug, Default)]
pub struct Hasher {
    form: Vec<u8>,
    personal: Vec<u8>,
}

impl Hasher {
    /// Returns the leaf of a record as its content gives it, whatever its `leaf` says.
    ///
    /// Returns `None` if the record is not one that can be hashed: a clear personal value
    /// needs a salt, and a record without clear values must not have one.
    pub fn leaf(&mut self, record: &Record) -> Option<Leaf> {
        let Record {
            id,
            tenant,
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
            salt,
            leaf: _,
            seal: _,
        } = record;
        if salt.is_some() != has_clear_values(record) {
            return None;
        }
        self.form.clear();
        self.form.extend([LEAF_PREFIX, VERSION]);
        self.number(Tag::Writer, id.writer.0);
        self.number(Tag::Seq, id.seq);
        self.text(Tag::Tenant, tenant);
        self.text(Tag::Kind, kind.as_str());
        self.number(Tag::At, at.0);
        self.optional(Tag::App, app.as_deref());
        self.optional(Tag::Host, host.as_deref());
        self.optional(Tag::Path, path.as_deref());
        self.optional(Tag::Rule, rule.as_deref());
        self.optional(Tag::Client, client.as_deref());
        self.personal(Tag::ClientId, client_id.as_ref(), *salt);
        self.personal(Tag::ClientName, client_name.as_ref(), *salt);
        self.personal(Tag::Address, address.as_ref(), *salt);
        self.optional(Tag::Verdict, verdict.as_deref());
        self.optional(Tag::Reason, reason.as_deref());
        self.optional(Tag::Trace, trace.as_deref());
        self.number(Tag::Duration, duration.0);
        self.number(Tag::Count, *count);
        self.length(Tag::Steps, steps.len());
        for step in steps {
            self.text(Tag::StepName, &step.name);
            self.number(Tag::StepDuration, step.duration.0);
            self.text(Tag::StepOutcome, &step.outcome);
        }
        self.length(Tag::Notes, notes.len());
        for note in notes {
            self.text(Tag::NoteTopic, &note.topic);
            self.text(Tag::NoteText, &note.text);
        }
        Some(sha256(&self.form))
    }

    fn number(&mut self, tag: Tag, value: i64) {
        self.bytes(tag, &value.to_be_bytes());
    }

    fn text(&mut self, tag: Tag, value: &str) {
        self.bytes(tag, value.as_bytes());
    }

    fn optional(&mut self, tag: Tag, value: Option<&str>) {
        if let Some(value) = value {
            self.text(tag, value);
        }
    }

    fn personal(&mut self, tag: Tag, value: Option<&Personal>, salt: Option<Salt>) {
        let digest = match value {
            None => return,
            Some(Personal::Digest(digest)) => *digest,
            Some(Personal::Clear(value)) => {
                personal_digest(&mut self.personal, tag, &salt.unwrap_or_default(), value)
            }
        };
        self.bytes(tag, &digest);
    }

    fn bytes(&mut self, tag: Tag, value: &[u8]) {
        self.length(tag, value.len());
        self.form.extend_from_slice(value);
    }

    /// Writes a tag with the number of bytes or items that follow.
    fn length(&mut self, tag: Tag, length: usize) {
        // No text is longer: observers bound them, and no database takes 4 GiB.
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        self.form.push(tag as u8);
        self.form.extend_from_slice(&length.to_be_bytes());
    }
}

/// Returns the record with digests in place of its personal values, and without the salt that
/// would let them be guessed. Its leaf stays the same.
#[must_use]
pub fn masked(mut record: Record) -> Record {
    let Some(salt) = record.salt.take() else { return record };
    let mut buffer = Vec::new();
    let mut mask = |tag: Tag, value: &mut Option<Personal>| {
        if let Some(Personal::Clear(clear)) = value {
            *value = Some(Personal::Digest(personal_digest(&mut buffer, tag, &salt, clear)));
        }
    };
    mask(Tag::ClientId, &mut record.client_id);
    mask(Tag::ClientName, &mut record.client_name);
    mask(Tag::Address, &mut record.address);
    record
}

fn has_clear_values(record: &Record) -> bool {
    [&record.client_id, &record.client_name, &record.address]
        .into_iter()
        .any(|value| matches!(value, Some(Personal::Clear(_))))
}

fn personal_digest(buffer: &mut Vec<u8>, tag: Tag, salt: &Salt, value: &Arc<str>) -> [u8; 32] {
    buffer.clear();
    buffer.extend_from_slice(PERSONAL);
    buffer.push(tag as u8);
    buffer.extend_from_slice(salt);
    buffer.extend_from_slice(value.as_bytes());
    sha256(buffer)
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let digest = digest(&SHA256, bytes);
    let mut hash = [0; 32];
    hash.copy_from_slice(digest.as_ref());
    hash
}

#[cfg(test)]
mod tests;
