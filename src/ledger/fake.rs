//! A stand-in for the archive, and entries, for tests.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;

use super::archive::ArchiveError;
use super::link::Target;
use super::record::{Entry, Kind, Micros, Note, Record, RecordId, Step, WriterId};
use super::seal::{SealKey, Sealer};
use super::writer::Seal;

/// How the archive answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Mode {
    #[default]
    Works,
    Fails,
    Panics,
    Hangs,
    /// It writes, and the answer is lost.
    WritesAndFails,
}

/// An archive in memory.
#[derive(Debug, Default)]
pub(super) struct FakeArchive(Mutex<Inner>);

#[derive(Debug, Default)]
pub(super) struct Inner {
    pub(super) mode: Mode,
    /// The numbers of records that are refused for their content.
    pub(super) poisoned: BTreeSet<i64>,
    pub(super) records: BTreeMap<RecordId, Record>,
    /// How many records each write had.
    pub(super) writes: Vec<usize>,
    pub(super) probes: usize,
}

impl FakeArchive {
    pub(super) fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set(&self, mode: Mode) {
        self.inner().mode = mode;
    }

    /// Returns the numbers of all records that were written.
    pub(super) fn numbers(&self) -> Vec<i64> {
        self.inner().records.keys().map(|id| id.seq).collect()
    }

    pub(super) fn of_kind(&self, kind: Kind) -> Vec<Record> {
        let inner = self.inner();
        inner.records.values().filter(|record| record.kind == kind).cloned().collect()
    }
}

impl Target for FakeArchive {
    async fn prepare(&self) -> Result<(), ArchiveError> {
        Ok(())
    }

    async fn write(&self, records: &[Record]) -> Result<(), ArchiveError> {
        let unavailable = || Err(ArchiveError::Unavailable("gone".into()));
        let mode = self.inner().mode;
        match mode {
            Mode::Works | Mode::WritesAndFails => {}
            Mode::Fails => return unavailable(),
            Mode::Panics => panic!("on purpose"),
            Mode::Hangs => std::future::pending().await,
        }
        let mut inner = self.inner();
        inner.writes.push(records.len());
        if let Some(bad) = records.iter().find(|record| inner.poisoned.contains(&record.id.seq)) {
            return Err(ArchiveError::Content(format!("{} is refused", bad.id.seq).into()));
        }
        for record in records {
            inner.records.entry(record.id).or_insert_with(|| record.clone());
        }
        if mode == Mode::WritesAndFails { unavailable() } else { Ok(()) }
    }

    async fn probe(&self) -> Result<(), ArchiveError> {
        self.inner().probes += 1;
        let mode = self.inner().mode;
        match mode {
            Mode::Works => Ok(()),
            Mode::Fails | Mode::WritesAndFails => Err(ArchiveError::Unavailable("gone".into())),
            Mode::Panics => panic!("on purpose"),
            Mode::Hangs => std::future::pending().await,
        }
    }
}

/// Seals with a key of its own, and panics for one app.
#[derive(Debug)]
pub(super) struct FakeSeal(pub(super) Sealer);

/// The app of entries that cannot be sealed.
pub(super) const UNSEALABLE: &str = "unsealable";

impl FakeSeal {
    pub(super) fn new() -> Self {
        Self(Sealer::new(SealKey::derive(b"a seed")).expect("random numbers"))
    }
}

impl Seal for FakeSeal {
    fn prepare(&mut self) -> BoxFuture<'_, Result<(), String>> {
        async { Ok(()) }.boxed()
    }

    fn seal(&mut self, id: RecordId, tenant: &Arc<str>, entry: Entry) -> Option<Record> {
        assert_ne!(entry.app.as_deref(), Some(UNSEALABLE), "on purpose");
        Some(self.0.seal(id, tenant, entry))
    }
}

/// Returns an entry with every field.
pub(super) fn entry(kind: Kind) -> Entry {
    Entry {
        app: Some("notes".into()),
        host: Some("notes.box.example".into()),
        path: Some("/a \"path\" with ümläuts \\ and \u{1f512}".into()),
        rule: Some("".into()),
        client: Some("terminal".into()),
        client_id: Some("4f2a".into()),
        client_name: Some("Paul's phone".into()),
        address: "2001:db8::7".parse().ok(),
        verdict: Some("deny".into()),
        reason: Some("terminal_required".into()),
        trace: Some("4bf92f3577b34da6a3ce929d0e0e4736".into()),
        duration: Micros(1234),
        count: 1,
        steps: vec![Step { name: "app".into(), duration: Micros(7), outcome: "ok".into() }],
        notes: vec![Note { topic: "wake".into(), text: "it\ndid not start".into() }],
        ..Entry::new(kind, Micros(1_800_000_000_000_000))
    }
}

/// Returns sealed records with these numbers.
pub(crate) fn records(kind: Kind, numbers: impl IntoIterator<Item = i64>) -> Vec<Record> {
    let (mut seal, tenant) = (FakeSeal::new(), "box".into());
    let numbers = numbers.into_iter().map(|seq| RecordId { writer: WriterId(0x4f), seq });
    numbers.filter_map(|id| seal.seal(id, &tenant, entry(kind))).collect()
}
