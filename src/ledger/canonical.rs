//! The canonical form of a record: the bytes that its leaf is the hash of.
//!
//! Every field is a tag, the length of its value and the value, in a fixed order; an absent
//! field is left out, so that it differs from an empty one. Values that identify a person
//! enter as salted digests: a record verifies whether they are clear, masked or erased.

use aws_lc_rs::digest::{SHA256, digest};

use super::record::{Leaf, Personal, Record, Salt};

/// The first byte of the canonical form: which values enter as digests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Version {
    /// Those of the client: its id, name and address.
    One = 1,
    /// Also the path and the texts of notes.
    Two,
}

impl Version {
    /// The newest, which new records are hashed in, is the first.
    pub const ALL: [Self; 2] = [Self::Two, Self::One];
}

/// Precedes a leaf's data (RFC 9162 section 2.1.1).
const LEAF_PREFIX: u8 = 0;

/// Separates these digests from all others of the same text.
const PERSONAL: &[u8] = b"nightporter personal v1";

/// Separates the salt of texts from digests.
const TEXTS: &[u8] = b"nightporter texts v2";

/// The digest of a value that identifies a person.
pub type PersonalDigest = [u8; 32];

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

/// What is digests in place of a record's texts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Texts {
    pub path: Option<PersonalDigest>,
    /// One for each note.
    pub notes: Vec<PersonalDigest>,
}

/// A record without its personal values and without the salt that would let them be guessed.
/// Its leaf stays the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Masked {
    /// If there are digests of its texts, its path is absent and the texts of its notes are
    /// empty.
    pub record: Record,
    /// `None` if the texts are clear.
    pub texts: Option<Texts>,
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
        self.leaf_in(Version::Two, record)
    }

    /// As [`Hasher::leaf`], in the form of a version.
    pub fn leaf_in(&mut self, version: Version, record: &Record) -> Option<Leaf> {
        self.hash(version, record, None)
    }

    /// Returns the leaf of a record as what is left of it gives it.
    pub fn masked_leaf_in(&mut self, version: Version, masked: &Masked) -> Option<Leaf> {
        self.hash(version, &masked.record, masked.texts.as_ref())
    }

    /// Returns the version in which a record's content gives its `leaf`; `None` if the record
    /// was altered.
    pub fn version(&mut self, record: &Record) -> Option<Version> {
        let is_of = |version: &Version| self.leaf_in(*version, record) == Some(record.leaf);
        Version::ALL.into_iter().find(is_of)
    }

    fn hash(&mut self, version: Version, record: &Record, texts: Option<&Texts>) -> Option<Leaf> {
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
        if salt.is_some() != needs_salt(version, record, texts) {
            return None;
        }
        // Texts are hidden all together.
        let is_hidden = |texts: &Texts| {
            version == Version::Two
                && path.is_none()
                && texts.notes.len() == notes.len()
                && notes.iter().all(|note| note.text.is_empty())
        };
        if texts.is_some_and(|texts| !is_hidden(texts)) {
            return None;
        }
        let salt_of_texts = salt.map(|salt| texts_salt(record, salt));
        self.form.clear();
        self.form.extend([LEAF_PREFIX, version as u8]);
        self.number(Tag::Writer, id.writer.0);
        self.number(Tag::Seq, id.seq);
        self.text(Tag::Tenant, tenant);
        self.text(Tag::Kind, kind.as_str());
        self.number(Tag::At, at.0);
        self.optional(Tag::App, app.as_deref());
        self.optional(Tag::Host, host.as_deref());
        match (version, texts) {
            (Version::One, _) => self.optional(Tag::Path, path.as_deref()),
            (Version::Two, Some(Texts { path: Some(digest), .. })) => self.bytes(Tag::Path, digest),
            (Version::Two, _) => {
                if let Some(path) = path {
                    self.digest(Tag::Path, salt_of_texts, path.as_bytes());
                }
            }
        }
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
        for (n, note) in notes.iter().enumerate() {
            self.text(Tag::NoteTopic, &note.topic);
            match (version, texts) {
                (Version::One, _) => self.text(Tag::NoteText, &note.text),
                (Version::Two, Some(texts)) => self.bytes(Tag::NoteText, texts.notes.get(n)?),
                (Version::Two, None) => {
                    self.digest(Tag::NoteText, salt_of_texts, &numbered(n, &note.text));
                }
            }
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
        match value {
            None => {}
            Some(Personal::Digest(digest)) => self.bytes(tag, digest),
            Some(Personal::Clear(value)) => self.digest(tag, salt, value.as_bytes()),
        }
    }

    fn digest(&mut self, tag: Tag, salt: Option<Salt>, value: &[u8]) {
        // A record with a clear value has one.
        let salt = salt.unwrap_or_default();
        let digest = personal_digest(&mut self.personal, tag, &salt, value);
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

/// Returns the record with digests in place of its personal values. Texts of a record that was
/// hashed in version 1, or was altered since, stay clear: nothing would show that they are its
/// own.
#[must_use]
pub fn masked(record: Record) -> Masked {
    let texts = (Hasher::default().version(&record) == Some(Version::Two)).then(|| {
        let salt = record.salt.map(|salt| texts_salt(&record, salt)).unwrap_or_default();
        let mut buffer = Vec::new();
        let mut digest = |tag, value: &[u8]| personal_digest(&mut buffer, tag, &salt, value);
        let path = record.path.as_ref().map(|path| digest(Tag::Path, path.as_bytes()));
        let texts = record.notes.iter().enumerate();
        let notes = texts.map(|(n, note)| digest(Tag::NoteText, &numbered(n, &note.text)));
        Texts { path, notes: notes.collect() }
    });
    let mut record = erased(record);
    if texts.is_some() {
        record.salt = None;
        record.path = None;
        record.notes.iter_mut().for_each(|note| note.text = Box::default());
    }
    Masked { record, texts }
}

/// Returns the record with digests in place of what identifies its client. Its leaf stays the
/// same.
#[must_use]
pub fn erased(mut record: Record) -> Record {
    let Some(salt) = record.salt else { return record };
    // What is left lets only the texts be guessed, which are there.
    record.salt = match Hasher::default().version(&record) {
        Some(Version::Two) if has_texts(&record) => Some(texts_salt(&record, salt)),
        _ => None,
    };
    let mut buffer = Vec::new();
    let mut erase = |tag: Tag, value: &mut Option<Personal>| {
        if let Some(Personal::Clear(clear)) = value {
            let digest = personal_digest(&mut buffer, tag, &salt, clear.as_bytes());
            *value = Some(Personal::Digest(digest));
        }
    };
    erase(Tag::ClientId, &mut record.client_id);
    erase(Tag::ClientName, &mut record.client_name);
    erase(Tag::Address, &mut record.address);
    record
}

fn needs_salt(version: Version, record: &Record, texts: Option<&Texts>) -> bool {
    let has_clear_texts = version == Version::Two && texts.is_none() && has_texts(record);
    has_clear_texts || has_clear_client(record)
}

fn has_texts(record: &Record) -> bool {
    record.path.is_some() || !record.notes.is_empty()
}

fn has_clear_client(record: &Record) -> bool {
    [&record.client_id, &record.client_name, &record.address]
        .into_iter()
        .any(|value| matches!(value, Some(Personal::Clear(_))))
}

/// Returns the salt of a record's path and notes. It is derived from the salt of its client's
/// values, which it does not let be guessed; once those are erased, it is the one that is left.
fn texts_salt(record: &Record, salt: Salt) -> Salt {
    if !has_clear_client(record) {
        return salt;
    }
    let mut derived = Salt::default();
    let hash = sha256(&[TEXTS, salt.as_slice()].concat());
    derived.copy_from_slice(&hash[..size_of::<Salt>()]);
    derived
}

/// Returns a note's text after its number, so that two notes of the same text have different
/// digests.
fn numbered(n: usize, text: &str) -> Vec<u8> {
    let n = u32::try_from(n).unwrap_or(u32::MAX);
    [n.to_be_bytes().as_slice(), text.as_bytes()].concat()
}

fn personal_digest(buffer: &mut Vec<u8>, tag: Tag, salt: &Salt, value: &[u8]) -> PersonalDigest {
    buffer.clear();
    buffer.extend_from_slice(PERSONAL);
    buffer.push(tag as u8);
    buffer.extend_from_slice(salt);
    buffer.extend_from_slice(value);
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
