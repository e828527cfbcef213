//! What the ledger keeps: records with their steps and notes.
//!
//! An [`Entry`] is what happened, as its observer describes it. Accepted, it becomes a
//! [`Record`]: it has an identity, belongs to a tenant and is hashed.

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;
use std::ops::Deref;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// One life of a process that writes records: a random positive number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WriterId(pub i64);

/// The identity of a record, given when it is accepted. It is unique in every table, so a
/// record that is written again changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RecordId {
    pub writer: WriterId,
    /// Counts the records of a writer from 1, without gaps.
    pub seq: i64,
}

impl fmt::Display for RecordId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{}", self.writer.0, self.seq)
    }
}

/// An id of a record that is not in the form `4f1d...-12`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid record id {0:?}: expected 16 hexadecimal digits, a hyphen and a number")]
pub struct InvalidRecordId(String);

impl FromStr for RecordId {
    type Err = InvalidRecordId;

    fn from_str(text: &str) -> Result<Self, InvalidRecordId> {
        let parse = || {
            let (writer, seq) = text.split_once('-')?;
            let writer = i64::from_str_radix(writer, 16).ok().filter(|writer| *writer > 0)?;
            let seq = seq.parse().ok().filter(|seq| *seq > 0)?;
            Some(Self { writer: WriterId(writer), seq })
        };
        // Only the canonical form, so that an id is one text.
        parse()
            .filter(|id| id.to_string() == text)
            .ok_or_else(|| InvalidRecordId(text.chars().take(80).collect()))
    }
}

/// A time in microseconds since the Unix epoch, as it is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Micros(pub i64);

impl From<SystemTime> for Micros {
    fn from(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(micros(since))
    }
}

impl Micros {
    /// Returns the time as the clock gives it; one before 1970 is 1970.
    #[must_use]
    pub fn time(self) -> SystemTime {
        UNIX_EPOCH + Duration::from_micros(u64::try_from(self.0).unwrap_or(0))
    }
}

/// Returns a duration in whole microseconds.
#[must_use]
pub fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

/// What a record is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A decided request.
    Visit,
    /// A number of grants to one client for one app by one rule within one minute.
    Grants,
    /// A number of denials of one reason within one minute, of a client that was denied more
    /// often than is recorded one by one.
    Denials,
    Wake,
    Sleep,
    /// What an operator asked for: pair, revoke, wake, sleep, dismiss.
    Act,
    Job,
    /// Records that were accepted and dropped since.
    Loss,
    /// Records that retention has removed.
    Cut,
}

impl Kind {
    pub const ALL: [Self; 9] = [
        Self::Visit,
        Self::Grants,
        Self::Denials,
        Self::Wake,
        Self::Sleep,
        Self::Act,
        Self::Job,
        Self::Loss,
        Self::Cut,
    ];

    /// Returns its name, as it is stored and shown.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Visit => "visit",
            Self::Grants => "grants",
            Self::Denials => "denials",
            Self::Wake => "wake",
            Self::Sleep => "sleep",
            Self::Act => "act",
            Self::Job => "job",
            Self::Loss => "loss",
            Self::Cut => "cut",
        }
    }

    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }
}

/// A text that is mostly a constant.
pub type Word = Cow<'static, str>;

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub kind: Kind,
    /// When it began; for `Grants` and `Denials` the minute.
    pub at: Micros,
    pub app: Option<Arc<str>>,
    pub host: Option<Box<str>>,
    /// The path without its query.
    pub path: Option<Box<str>>,
    /// The key of `paths` whose rule governed.
    pub rule: Option<Arc<str>>,
    /// `terminal`, `peer`, `pass`, `anonymous`, `operator`, or the name of a job.
    pub client: Option<Word>,
    pub client_id: Option<Arc<str>>,
    pub client_name: Option<Arc<str>>,
    pub address: Option<IpAddr>,
    /// `grant`, `deny`, `asleep`, `kept_asleep`; of what is not a visit: `done`, `failed`,
    /// `refused`; of an act, which is recorded before it is done: `accepted`.
    pub verdict: Option<Word>,
    pub reason: Option<Word>,
    /// The trace id of `traceparent` (W3C Trace Context), 32 hexadecimal digits.
    pub trace: Option<Box<str>>,
    pub duration: Micros,
    /// How many requests the record stands for; 1 except for `Grants`, `Denials`, `Loss` and
    /// `Cut`.
    pub count: i64,
    pub steps: Vec<Step>,
    pub notes: Vec<Note>,
}

impl Entry {
    /// Returns an entry of which only the kind and the time are known.
    #[must_use]
    pub fn new(kind: Kind, at: Micros) -> Self {
        Self {
            kind,
            at,
            app: None,
            host: None,
            path: None,
            rule: None,
            client: None,
            client_id: None,
            client_name: None,
            address: None,
            verdict: None,
            reason: None,
            trace: None,
            duration: Micros(0),
            count: 1,
            steps: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// Replaces NULs, which neither database stores in a text, as invalid UTF-8 is replaced.
    pub(super) fn without_nul(mut self) -> Self {
        fn replace<T: Deref<Target = str> + From<String>>(text: &mut T) {
            if text.contains('\0') {
                *text = text.replace('\0', "\u{fffd}").into();
            }
        }
        let shared = [&mut self.app, &mut self.rule, &mut self.client_id, &mut self.client_name];
        shared.into_iter().flatten().for_each(replace);
        [&mut self.host, &mut self.path, &mut self.trace].into_iter().flatten().for_each(replace);
        let words = [&mut self.client, &mut self.verdict, &mut self.reason].into_iter().flatten();
        let of_steps = self.steps.iter_mut().flat_map(|step| [&mut step.name, &mut step.outcome]);
        let of_notes = self.notes.iter_mut().map(|note| &mut note.topic);
        words.chain(of_steps).chain(of_notes).for_each(replace);
        self.notes.iter_mut().map(|note| &mut note.text).for_each(replace);
        self
    }
}

/// A part of what happened, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// `app`, `client`, `decide`, `wake`, ...
    pub name: Word,
    pub duration: Micros,
    /// `ok`, or what came of it.
    pub outcome: Word,
}

/// What went wrong on the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// What the text is about, such as `wake`, `range` or `dropped`.
    pub topic: Word,
    pub text: Box<str>,
}

/// A value that identifies a person: clear, or only its digest after it was masked or erased.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Personal {
    Clear(Arc<str>),
    Digest([u8; 32]),
}

/// Random bytes that keep the digest of a short value, such as an address, from being guessed.
pub type Salt = [u8; 16];

/// The RFC 9162 leaf hash of a record's canonical form.
pub type Leaf = [u8; 32];

/// An accepted entry: what is stored and proved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub id: RecordId,
    /// The id of the box; empty while the box has no identity.
    pub tenant: Arc<str>,
    pub kind: Kind,
    pub at: Micros,
    pub app: Option<Arc<str>>,
    pub host: Option<Box<str>>,
    pub path: Option<Box<str>>,
    pub rule: Option<Arc<str>>,
    pub client: Option<Word>,
    pub client_id: Option<Personal>,
    pub client_name: Option<Personal>,
    pub address: Option<Personal>,
    pub verdict: Option<Word>,
    pub reason: Option<Word>,
    pub trace: Option<Box<str>>,
    pub duration: Micros,
    pub count: i64,
    pub steps: Vec<Step>,
    pub notes: Vec<Note>,
    /// `None` once a personal value was erased: the salt would let it be guessed.
    pub salt: Option<Salt>,
    pub leaf: Leaf,
    /// A code of the leaf and the id under a key that is not in the database: shows that a
    /// record was altered before a checkpoint covered it.
    pub seal: [u8; 16],
}

/// A record as an archive returns it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    pub record: Record,
    /// Its place in the tree, from 0; `None` until the integrity job has given it one.
    pub position: Option<i64>,
}

/// A row of an archive, which holds a record that may be one that this version cannot read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordRow {
    pub id: RecordId,
    /// As [`Stored::position`].
    pub position: Option<i64>,
    /// The record, or what of it cannot be read, without the value itself: a later version has
    /// written it, or it was altered.
    pub record: Result<Record, Box<str>>,
}

impl RecordRow {
    /// Returns the record, if it can be read.
    #[must_use]
    pub fn into_stored(self) -> Option<Stored> {
        let Self { id: _, position, record } = self;
        record.ok().map(|record| Stored { record, position })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_of_an_entry_has_a_nul() {
        let with = "a\0b";
        let mut entry = Entry {
            app: Some(with.into()),
            host: Some(with.into()),
            path: Some(with.into()),
            rule: Some(with.into()),
            client: Some(with.into()),
            client_id: Some(with.into()),
            client_name: Some(with.into()),
            verdict: Some(with.into()),
            reason: Some(with.into()),
            trace: Some(with.into()),
            ..Entry::new(Kind::Visit, Micros(0))
        };
        let outcome = Word::from(with);
        entry.steps.push(Step { name: with.into(), duration: Micros(0), outcome });
        entry.notes.push(Note { topic: with.into(), text: with.into() });
        let replaced = format!("{:?}", entry.without_nul());
        assert!(!replaced.contains("\\0"), "{replaced}");
        assert_eq!(replaced.matches("a\u{fffd}b").count(), 14, "{replaced}");
    }
}
