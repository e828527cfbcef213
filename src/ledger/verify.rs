//! Verification: whether the record is what it was when a checkpoint was signed.
//!
//! The tree is rebuilt from the records in one snapshot; where retention has removed records,
//! from the leaves that stay. Everything is compared: a record's content with its leaf, the leaf
//! with the tile, the roots with the checkpoints, and those with the key.

mod checker;
mod checkpoints;
mod finding;
mod writers;

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use tokio::task::spawn_blocking;

use super::archive::{ArchiveError, Snapshot};
use super::checkpoint::Checkpoint;
use super::key::{SigningKey, VerifierKey};
use super::ranges::Ranges;
use super::record::{Micros, RecordId, RecordRow, WriterId};
use super::tree::{self, Tiles};

pub use checkpoints::SavedCheckpoints;
pub use finding::{Finding, Source};

use checker::{Checker, Window};
use checkpoints::Checkpoints;
use writers::Writers;

/// How many positions are checked together: 16 tiles.
const WINDOW: u64 = 4096;

/// How many tiles are read together.
const TILES: usize = 64;

/// What the records are verified with.
#[derive(Debug)]
pub struct Evidence {
    pub tenant: Arc<str>,
    /// The public key that signed the checkpoints.
    pub key: VerifierKey,
    /// The private key, which also seals; without it, records that no checkpoint covers prove
    /// nothing, and explain nothing.
    pub signer: Option<SigningKey>,
    /// Checkpoints that were kept outside the database.
    pub kept: Vec<SavedCheckpoints>,
    /// Records that wait in the spool.
    pub spooled: BTreeMap<WriterId, Ranges>,
    /// The time by the database's clock, which the records' times are compared with.
    pub now: Micros,
}

/// The result of a verification.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// What was altered, the first altered record first.
    pub findings: Vec<Finding>,
    /// How many more records, after the first altered one, are not what they were or not where
    /// they were.
    pub others: u64,
    /// How many records cannot be read; the first of them are among the findings.
    pub unreadable: u64,
    /// What is odd and no proof of alteration.
    pub remarks: Vec<String>,
    /// The last checkpoint since which the records that it covers are unaltered.
    pub proved: Option<Checkpoint>,
    /// How many records there are, those without a position included.
    pub records: u64,
    /// How many records no checkpoint covers yet.
    pub uncovered: u64,
    /// How many records retention has removed; their leaves are covered.
    pub cut: u64,
}

impl Report {
    /// Returns the checkpoint that the claim "unaltered" is about; `None` if it cannot be made.
    #[must_use]
    pub fn unaltered_since(&self) -> Option<&Checkpoint> {
        self.proved.as_ref().filter(|_| self.findings.is_empty())
    }
}

/// Verifies all records of a tenant. `progress` is told how many of how many were checked.
pub async fn verify(
    snapshot: &mut Snapshot<'_>,
    evidence: Evidence,
    mut progress: impl FnMut(u64, u64),
) -> Result<Report, ArchiveError> {
    let Evidence { tenant, key, signer, kept, spooled, now } = evidence;
    let is_ours = |signer: &SigningKey| signer.verifier(&tenant) == key;
    let mut is_replaced = signer.as_ref().is_some_and(|signer| !is_ours(signer));
    let stored = snapshot.checkpoints(&tenant).await?;
    let checkpoints = blocking(move || Checkpoints::new(&stored, &kept, &key)).await;
    is_replaced |= checkpoints.is_another_key();
    let Checkpoints { known, mut findings, mut remarks } = checkpoints;
    if is_replaced {
        findings.insert(0, Finding::Key);
    }
    // Records that another key sealed would all look edited.
    let seals = signer.filter(|_| !is_replaced).map(|signer| signer.seal_key().clone());
    let has_seals = seals.is_some();
    let mut writers = Writers::new(now);
    for (writer, numbers) in &spooled {
        writers.account(*writer, numbers);
    }
    let mut checker = Checker::new(known.into(), seals, writers);

    let stored_size = snapshot.tree_size(&tenant).await?;
    let size = tree::size(stored_size).unwrap_or_else(|_| {
        findings.push(Finding::Size { stored: stored_size });
        0
    });
    let mut reader = Reader::new(snapshot, &tenant, size);
    let mut next = reader.window().await?;
    while let Some(window) = next {
        let end = window.positions.end;
        let check = blocking(move || {
            checker.window(window);
            checker
        });
        let (read, checked) = tokio::join!(reader.window(), check);
        checker = checked;
        next = read?;
        progress(end, size);
    }
    let (placed, outside) = reader.finish().await?;
    for (id, position) in outside {
        checker.outside(id, position);
    }
    let unplaced = unplaced(snapshot, &tenant, &mut checker).await?;

    // Until the box had an identity, its writers wrote for no tenant. Without the private key
    // nobody can say which of these records are its own.
    if !tenant.is_empty() && has_seals {
        tenantless(snapshot, &mut checker).await?;
    }

    let checked = blocking(move || checker.finish()).await;
    let mut all = checked.findings;
    for tiles in checked.tiles.chunks(TILES) {
        let keys: Vec<_> = tiles.iter().map(|(key, _)| *key).collect();
        let stored: Tiles = snapshot.tiles(&tenant, &keys).await?.into_iter().collect();
        let is_edited = |(key, hashes): &&(_, Vec<u8>)| {
            stored.get(*key).and_then(|stored| stored.get(..hashes.len())) != Some(hashes)
        };
        all.extend(tiles.iter().filter(is_edited).map(|(key, _)| Finding::Tile { key: *key }));
    }
    all.extend(findings);
    if checked.unbelieved > 0 {
        remarks.push(format!(
            "records of cuts and losses that no checkpoint covers yet: {}. Without the private key \
             they may be forged, so what they explain counts as missing; verify again once the \
             next checkpoint covers them",
            checked.unbelieved
        ));
    }
    let covered = checked.proved.as_ref().map_or(0, |proved| proved.size);
    Ok(Report {
        findings: all,
        others: checked.others,
        unreadable: checked.unreadable,
        remarks,
        uncovered: size.saturating_sub(covered) + unplaced,
        proved: checked.proved,
        records: placed + unplaced,
        cut: checked.cut,
    })
}

/// Checks the records without a position. Returns how many there are.
async fn unplaced(
    snapshot: &mut Snapshot<'_>,
    tenant: &str,
    checker: &mut Checker,
) -> Result<u64, ArchiveError> {
    let (mut after, mut count) = (None, 0);
    loop {
        let limit = usize::try_from(WINDOW).unwrap_or(usize::MAX);
        let page = snapshot.unplaced(tenant, after, limit).await?;
        let Some(last) = page.last() else { return Ok(count) };
        after = Some(last.id);
        for row in page {
            checker.unplaced(row);
            count += 1;
        }
    }
}

async fn tenantless(
    snapshot: &mut Snapshot<'_>,
    checker: &mut Checker,
) -> Result<(), ArchiveError> {
    let limit = usize::try_from(WINDOW).unwrap_or(usize::MAX);
    let mut after = None;
    loop {
        let page = snapshot.unplaced("", after, limit).await?;
        let Some(last) = page.last() else { return Ok(()) };
        after = Some(last.id);
        for row in page {
            checker.tenantless(row);
        }
    }
}

/// Reads records and tiles of consecutive positions.
struct Reader<'a, 's> {
    snapshot: &'a mut Snapshot<'s>,
    tenant: &'a str,
    size: u64,
    next: u64,
    /// Records that were read and not returned yet.
    ahead: VecDeque<RecordRow>,
    /// Where the next records are read; `None` after the last.
    from: Option<i64>,
    records: u64,
    /// Records at positions that cannot be.
    outside: Vec<(RecordId, i64)>,
}

impl<'a, 's> Reader<'a, 's> {
    fn new(snapshot: &'a mut Snapshot<'s>, tenant: &'a str, size: u64) -> Self {
        Self {
            snapshot,
            tenant,
            size,
            next: 0,
            ahead: VecDeque::new(),
            // A record at a negative position must not hide.
            from: Some(i64::MIN),
            records: 0,
            outside: Vec::new(),
        }
    }

    /// Returns the next window; `None` after the last position.
    async fn window(&mut self) -> Result<Option<Window>, ArchiveError> {
        let positions = self.next..self.size.min(self.next + WINDOW);
        if positions.is_empty() {
            return Ok(None);
        }
        self.next = positions.end;
        let end = i64::try_from(positions.end).unwrap_or(i64::MAX);
        while self.ahead.back().is_none_or(|last| last.position < Some(end)) && self.read().await? {
        }
        let count = self.ahead.partition_point(|row| row.position < Some(end));
        let records = self.ahead.drain(..count).collect();
        let tiles = self.tiles(&positions).await?;
        Ok(Some(Window { positions, records, tiles }))
    }

    /// Reads more records; returns `false` if there are none.
    async fn read(&mut self) -> Result<bool, ArchiveError> {
        let Some(from) = self.from else { return Ok(false) };
        let limit = usize::try_from(WINDOW).unwrap_or(usize::MAX);
        let page = self.snapshot.records(self.tenant, from, limit).await?;
        let last = page.last().and_then(|row| row.position);
        self.from = last.and_then(|last| last.checked_add(1)).filter(|_| page.len() == limit);
        self.records += page.len() as u64;
        for row in page {
            match row.position {
                Some(position) if u64::try_from(position).is_ok_and(|at| at < self.size) => {
                    self.ahead.push_back(row);
                }
                position => self.outside.push((row.id, position.unwrap_or_default())),
            }
        }
        Ok(true)
    }

    async fn tiles(&mut self, positions: &Range<u64>) -> Result<Tiles, ArchiveError> {
        let keys: Vec<_> =
            positions.clone().step_by(256).map(|position| tree::leaf_tile(position).0).collect();
        Ok(self.snapshot.tiles(self.tenant, &keys).await?.into_iter().collect())
    }

    /// Returns how many records there are, and those at positions that the tree does not have.
    async fn finish(mut self) -> Result<(u64, Vec<(RecordId, i64)>), ArchiveError> {
        while self.read().await? {}
        Ok((self.records, self.outside))
    }
}

/// Runs work that keeps a thread busy beside the reads.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
