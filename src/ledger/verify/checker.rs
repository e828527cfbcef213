//! Compares records, leaves, tiles and checkpoints, in the order of the positions.

use std::sync::Arc;

use super::checkpoints::KnownCheckpoint;
use super::finding::{Finding, MAX_FINDINGS};
use super::writers::Writers;
use crate::ledger::archive::TileKey;
use crate::ledger::canonical::{Hasher, Version};
use crate::ledger::checkpoint::Checkpoint;
use crate::ledger::ranges::Ranges;
use crate::ledger::record::{Kind, Leaf, Record, RecordId, RecordRow};
use crate::ledger::references::cut_positions;
use crate::ledger::seal::SealKey;
use crate::ledger::tree::{Edge, Tiles};

/// Records and tiles of consecutive positions.
#[derive(Debug)]
pub(super) struct Window {
    pub(super) positions: std::ops::Range<u64>,
    pub(super) records: Vec<RecordRow>,
    pub(super) tiles: Tiles,
}

/// The first position at which record and tile differ.
#[derive(Debug)]
struct Suspect {
    id: RecordId,
    position: u64,
    /// The leaf of the record's content; `None` if it cannot have one.
    content: Option<Leaf>,
    /// The leaf that is stored beside it.
    column: Leaf,
    tile: Option<Leaf>,
    /// The position of another record with the tile's leaf.
    is_elsewhere: bool,
    /// The position of the tile's hash that is the content's leaf.
    belongs: Option<u64>,
    /// Whether the first checkpoint that covers the position has the root of these records, and
    /// that of these tiles.
    verdict: Option<(bool, bool)>,
}

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Checked {
    pub(super) findings: Vec<Finding>,
    /// The last checkpoint that has the root of the records.
    pub(super) proved: Option<Checkpoint>,
    /// How many records follow the first altered one and differ from their tiles, too.
    pub(super) others: u64,
    /// How many records cannot be read.
    pub(super) unreadable: u64,
    /// How many records retention has removed.
    pub(super) cut: u64,
    /// How many records explain what is missing, and may be forged.
    pub(super) unbelieved: u64,
    /// The tiles above the lowest level, as they must be.
    pub(super) tiles: Vec<(TileKey, Vec<u8>)>,
}

#[derive(Debug)]
pub(super) struct Checker {
    hasher: Hasher,
    /// `None` if the private key is not at hand: then what no checkpoint covers may be forged.
    seals: Option<SealKey>,
    known: Arc<[KnownCheckpoint]>,
    /// How many records the checkpoints cover.
    covered: u64,
    /// How many records explain what is missing, and may be forged.
    unbelieved: u64,
    /// How many of `known` have been compared.
    compared: usize,
    /// The tree of the records; of the tiles where there is no record.
    records: Edge,
    /// The tree of the tiles, if it is another one.
    tiles: Option<Edge>,
    upper: Vec<(TileKey, Vec<u8>)>,
    gaps: Ranges,
    cuts: Ranges,
    pub(super) writers: Writers,
    suspect: Option<Suspect>,
    others: u64,
    /// How many records cannot be read, and the first of them.
    unreadable: u64,
    unreadable_named: Vec<Finding>,
    findings: Vec<Finding>,
    proved: Option<Checkpoint>,
    rewritten: Option<Finding>,
}

impl Checker {
    pub(super) fn new(
        known: Arc<[KnownCheckpoint]>,
        seals: Option<SealKey>,
        writers: Writers,
    ) -> Self {
        let covered = known.iter().map(|known| known.checkpoint.size).max().unwrap_or(0);
        Self {
            hasher: Hasher::default(),
            seals,
            known,
            covered,
            unbelieved: 0,
            compared: 0,
            records: Edge::default(),
            tiles: None,
            upper: Vec::new(),
            gaps: Ranges::default(),
            cuts: Ranges::default(),
            writers,
            suspect: None,
            others: 0,
            unreadable: 0,
            unreadable_named: Vec::new(),
            findings: Vec::new(),
            proved: None,
            rewritten: None,
        }
    }

    /// Checks the records of a window. Windows are passed in order.
    pub(super) fn window(&mut self, window: Window) {
        let Window { positions, records, tiles } = window;
        let mut records = records.into_iter().peekable();
        for position in positions {
            let at = i64::try_from(position).unwrap_or(i64::MAX);
            let tile = tiles.leaf(position);
            let leaf = match records.next_if(|row| row.position == Some(at)) {
                Some(RecordRow { record: Ok(record), .. }) => self.placed(position, &record, tile),
                Some(RecordRow { id, record: Err(problem), .. }) => {
                    self.unreadable(id, Some(position), problem);
                    tile.unwrap_or_default()
                }
                None => {
                    self.gaps.insert(at);
                    tile.unwrap_or_default()
                }
            };
            self.push(leaf, tile.unwrap_or_default());
            self.compare();
        }
    }

    /// Checks a record that has a position. Returns its leaf.
    fn placed(&mut self, position: u64, record: &Record, tile: Option<Leaf>) -> Leaf {
        let content = self.content(record, tile);
        self.writers.add(record);
        let is_sealed = self.is_sealed(record);
        let column = record.leaf;
        if let Some(suspect) = &mut self.suspect {
            suspect.is_elsewhere |= suspect.tile == Some(column);
            if suspect.content.is_some() && suspect.content == tile {
                suspect.belongs = Some(position);
            }
        }
        if is_sealed && content == Some(column) && tile == content {
            self.account_placed(position, record);
        } else if self.suspect.is_some() {
            self.others += 1;
        } else {
            let id = record.id;
            self.suspect = Some(Suspect {
                id,
                position,
                content,
                column,
                tile,
                is_elsewhere: false,
                belongs: None,
                verdict: None,
            });
        }
        content.unwrap_or(column)
    }

    /// Returns the leaf that a record's content gives, in the version that its column or its
    /// tile shows it to be of; if neither does, in the newest.
    fn content(&mut self, record: &Record, tile: Option<Leaf>) -> Option<Leaf> {
        let mut newest = None;
        for version in Version::ALL {
            let leaf = self.hasher.leaf_in(version, record);
            if leaf.is_some() && (leaf == Some(record.leaf) || leaf == tile) {
                return leaf;
            }
            newest = newest.or(leaf);
        }
        newest
    }

    /// Notes a row that cannot be read. It is there, so its number is not missing.
    fn unreadable(&mut self, id: RecordId, position: Option<u64>, problem: Box<str>) {
        self.writers.account_for(id);
        self.unreadable += 1;
        if self.unreadable_named.len() < MAX_FINDINGS {
            self.unreadable_named.push(Finding::Unreadable { id, position, problem });
        }
    }

    /// Checks a record that has no position yet.
    pub(super) fn unplaced(&mut self, row: RecordRow) {
        let record = match row.record {
            Ok(record) => record,
            Err(problem) => return self.unreadable(row.id, None, problem),
        };
        let record = &record;
        self.writers.add(record);
        if self.hasher.version(record).is_some() && self.is_sealed(record) {
            self.account(record);
        } else if self.findings.len() < MAX_FINDINGS {
            self.findings.push(Finding::EditedUncovered { id: record.id });
        } else {
            self.others += 1;
        }
    }

    /// Checks a record of no tenant, which the box may have written before it had an identity.
    /// If it is this box's and unaltered, it is not missing.
    pub(super) fn tenantless(&mut self, row: RecordRow) {
        match row.record {
            Ok(record) => {
                if self.hasher.version(&record).is_some() && self.is_sealed(&record) {
                    self.writers.account_for(record.id);
                }
            }
            // One of a writer that wrote for this box, too, is this box's.
            Err(problem) if self.writers.knows(row.id.writer) => {
                self.unreadable(row.id, None, problem);
            }
            Err(_) => {}
        }
    }

    /// Notes a record at a position that the tree does not have.
    pub(super) fn outside(&mut self, id: RecordId, position: i64) {
        self.writers.account_for(id);
        if self.findings.len() < MAX_FINDINGS {
            self.findings.push(Finding::Inserted { id, position });
        } else {
            self.others += 1;
        }
    }

    /// Notes what an unaltered record that no checkpoint covers says about others, if its seal
    /// was checked: without the private key it may be forged.
    fn account(&mut self, record: &Record) {
        if self.seals.is_some() {
            self.believe(record);
        } else {
            self.unbelieved += u64::from(matches!(record.kind, Kind::Cut | Kind::Loss));
        }
    }

    /// The same for a record that has a position, which a checkpoint may cover.
    fn account_placed(&mut self, position: u64, record: &Record) {
        if position < self.covered {
            self.believe(record);
        } else {
            self.account(record);
        }
    }

    fn believe(&mut self, record: &Record) {
        for (first, last) in cut_positions(record).iter() {
            self.cuts.insert_range(first, last);
        }
        self.writers.account_for_referenced(record);
    }

    fn is_sealed(&self, record: &Record) -> bool {
        let is_sealed = |seals: &SealKey| seals.matches(record.id, &record.leaf, &record.seal);
        self.seals.as_ref().is_none_or(is_sealed)
    }

    /// Appends a position to both trees.
    fn push(&mut self, record: Leaf, tile: Leaf) {
        if self.tiles.is_none() && record != tile {
            self.tiles = Some(self.records.clone());
        }
        let upper = &mut self.upper;
        let mut complete = |key: TileKey, hashes: &[u8]| {
            if key.level > 0 {
                upper.push((key, hashes.to_vec()));
            }
        };
        match &mut self.tiles {
            None => self.records.push(&record, complete),
            Some(tiles) => {
                tiles.push(&tile, &mut complete);
                self.records.push(&record, |_, _| {});
            }
        }
    }

    /// Compares the trees with the checkpoints of their size.
    fn compare(&mut self) {
        let size = self.records.size();
        let is_next = |known: &KnownCheckpoint| known.checkpoint.size <= size;
        if !self.known.get(self.compared).is_some_and(is_next) {
            return;
        }
        let known = Arc::clone(&self.known);
        while let Some(KnownCheckpoint { checkpoint, source }) = known.get(self.compared)
            && checkpoint.size <= size
        {
            self.compared += 1;
            // Of an empty tree, there is nothing to compare.
            if checkpoint.size < size {
                continue;
            }
            let by_records = self.records.root() == checkpoint.root;
            let by_tiles =
                self.tiles.as_ref().map_or(by_records, |tiles| tiles.root() == checkpoint.root);
            if by_records {
                self.proved = Some(checkpoint.clone());
            } else if !by_tiles && self.rewritten.is_none() {
                let matches_until = self.proved.as_ref().map_or(0, |proved| proved.size);
                let (source, at) = (source.clone(), checkpoint.at);
                self.rewritten = Some(Finding::Rewritten { source, size, at, matches_until });
            }
            if let Some(suspect) = &mut self.suspect {
                suspect.verdict.get_or_insert((by_records, by_tiles));
            }
        }
    }

    /// Returns everything that was found, the first altered record first.
    pub(super) fn finish(mut self) -> Checked {
        let size = self.records.size();
        // The largest says how much is gone.
        if let Some(KnownCheckpoint { checkpoint, source }) = self.known[self.compared..].last() {
            let (source, covered, at) = (source.clone(), checkpoint.size, checkpoint.at);
            self.findings.push(Finding::CutTail { source, covered, at, size });
        }
        let cut = self.cuts.count();
        let inserted_in_cut = self.suspect.as_ref().is_some_and(|suspect| {
            i64::try_from(suspect.position).is_ok_and(|position| self.cuts.contains(position))
        });
        self.gaps.remove_all(&self.cuts);
        let deleted = self.gaps.iter().map(|(first, _)| Finding::Deleted {
            position: u64::try_from(first).unwrap_or_default(),
        });
        let mut findings: Vec<_> = deleted.take(MAX_FINDINGS).collect();
        if let Some(suspect) = self.suspect {
            findings.push(suspect.finding(inserted_in_cut));
        }
        findings.extend(self.unreadable_named);
        findings.extend(self.findings);
        findings.extend(self.rewritten);
        findings.extend(self.writers.missing());
        // Stable: what concerns no position keeps its order and comes last.
        findings.sort_by_key(|finding| finding.position().unwrap_or(u64::MAX));
        let edge = self.tiles.unwrap_or(self.records);
        let incomplete = edge.incomplete().filter(|(key, _)| key.level > 0);
        self.upper.extend(incomplete.map(|(key, hashes)| (key, hashes.to_vec())));
        Checked {
            findings,
            proved: self.proved,
            others: self.others,
            unreadable: self.unreadable,
            cut,
            unbelieved: self.unbelieved,
            tiles: self.upper,
        }
    }
}

impl Suspect {
    /// Returns what was done to the record.
    fn finding(&self, is_cut: bool) -> Finding {
        let Self { id, position, content, column, tile, .. } = *self;
        // What a checkpoint has signed is right.
        let (records_are_right, tiles_are_right) = self.verdict.unwrap_or((false, true));
        if records_are_right && !tiles_are_right {
            let (key, _) = crate::ledger::tree::leaf_tile(position);
            return Finding::Tile { key };
        }
        let inserted =
            || Finding::Inserted { id, position: i64::try_from(position).unwrap_or(i64::MAX) };
        if is_cut {
            return inserted();
        }
        if content == tile || Some(column) == tile {
            return Finding::Edited { id, position };
        }
        match (self.is_elsewhere, self.belongs) {
            (true, Some(from)) => Finding::Moved { id, from, to: position },
            (true, None) => inserted(),
            (false, Some(_)) => Finding::Deleted { position },
            (false, None) => Finding::Edited { id, position },
        }
    }
}
