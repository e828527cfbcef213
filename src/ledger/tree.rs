//! The Merkle tree over a tenant's records (RFC 9162 section 2.1), kept as tiles (C2SP
//! tlog-tiles): the hashes of each eighth level, 256 to a tile.
//!
//! Nothing here reads a database: functions that need tiles say which, and are then given them.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};

use tlog_tiles::{Error, HashReader, Tile, tlog};

use super::archive::TileKey;
use super::record::Leaf;

/// A hash of the tree.
pub type Hash = [u8; HASH];

const HASH: usize = 32;

/// The height of a tile, in levels of the tree.
const HEIGHT: u8 = 8;

/// The bytes of a complete tile.
const FULL: usize = HASH << HEIGHT;

/// The largest tree: a million records a second for 12 days. A size beyond it was not made here.
const MAX_SIZE: u64 = 1 << 40;

/// Why something cannot be computed from tiles.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    #[error("invalid size of the tree: {0}")]
    Size(i64),
    #[error("tile {} of level {} is missing or too short", .0.number, .0.level)]
    Tile(TileKey),
    #[error("the tree of {size} records has no record at position {position}")]
    Position { size: u64, position: u64 },
}

/// Returns the size of a tree as it is stored.
pub fn size(stored: i64) -> Result<u64, TreeError> {
    u64::try_from(stored).ok().filter(|size| *size <= MAX_SIZE).ok_or(TreeError::Size(stored))
}

/// Returns the tile whose hashes include that of a record, and the hash's index in it.
#[must_use]
pub fn leaf_tile(position: u64) -> (TileKey, usize) {
    (key(0, position >> HEIGHT), usize::from(position.to_le_bytes()[0]))
}

/// The right edge of a tree: what is needed to append to it and to compute its root.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Edge {
    size: u64,
    /// The hashes of the last, incomplete tile of each level.
    levels: Vec<Vec<u8>>,
}

impl Edge {
    /// Returns the tiles that [`Edge::read`] needs.
    #[must_use]
    pub fn keys(size: u64) -> Vec<TileKey> {
        incomplete_tiles(size).map(|(_, key, _)| key).collect()
    }

    /// Returns the edge of a tree of `size` records. The tiles may be those of a larger tree.
    pub fn read(size: u64, tiles: &Tiles) -> Result<Self, TreeError> {
        let mut edge = Self { size, levels: vec![Vec::new(); levels(size)] };
        for (level, key, length) in incomplete_tiles(size) {
            let hashes = tiles.get(key).and_then(|hashes| hashes.get(..length));
            edge.levels[level] = hashes.ok_or(TreeError::Tile(key))?.to_vec();
        }
        Ok(edge)
    }

    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Appends a leaf, and passes each tile that is complete with it to `complete`.
    pub fn push(&mut self, leaf: &Leaf, mut complete: impl FnMut(TileKey, &[u8])) {
        let mut hash = *leaf;
        for level in 0.. {
            if level == self.levels.len() {
                self.levels.push(Vec::new());
            }
            let tile = &mut self.levels[level];
            tile.extend_from_slice(&hash);
            if tile.len() < FULL {
                break;
            }
            complete(key(level, self.tile_number(level)), &self.levels[level]);
            hash = Tile::subtree_hash(&self.levels[level]).0;
            self.levels[level].clear();
        }
        self.size += 1;
    }

    /// Appends leaves. Returns every tile that they changed.
    pub fn append<'a>(
        &mut self,
        leaves: impl IntoIterator<Item = &'a Leaf>,
    ) -> Vec<(TileKey, Vec<u8>)> {
        let before = self.size;
        let mut changed = Vec::new();
        for leaf in leaves {
            self.push(leaf, |key, hashes| changed.push((key, hashes.to_vec())));
        }
        let grew = |level: usize| self.size >> (8 * level) != before >> (8 * level);
        changed.extend(
            self.incomplete()
                .filter(|(key, _)| usize::try_from(key.level).is_ok_and(grew))
                .map(|(key, hashes)| (key, hashes.to_vec())),
        );
        changed
    }

    /// Returns the incomplete tiles.
    pub fn incomplete(&self) -> impl Iterator<Item = (TileKey, &[u8])> {
        self.levels
            .iter()
            .enumerate()
            .filter(|(_, hashes)| !hashes.is_empty())
            .map(|(level, hashes)| (key(level, self.tile_number(level)), hashes.as_slice()))
    }

    /// Returns the hash of the tree (RFC 9162 section 2.1.1).
    #[must_use]
    pub fn root(&self) -> Hash {
        // A tree is split into complete subtrees, the largest to the left: within each tile,
        // the bits of its number of hashes are their sizes.
        let mut subtrees = self.levels.iter().flat_map(|hashes| {
            let (mut rest, count) = (hashes.as_slice(), hashes.len() / HASH);
            let mut subtrees = Vec::new();
            for bit in (0..HEIGHT).filter(|bit| count >> bit & 1 == 1) {
                let (before, subtree) = rest.split_at(rest.len() - (HASH << bit));
                subtrees.push(Tile::subtree_hash(subtree));
                rest = before;
            }
            subtrees
        });
        let last = subtrees.next().unwrap_or(tlog::EMPTY_HASH);
        subtrees.fold(last, |right, left| tlog::node_hash(left, right)).0
    }

    /// Returns the number of the tile of a level that the next leaf changes.
    fn tile_number(&self, level: usize) -> u64 {
        self.size >> (8 * level) >> HEIGHT
    }
}

/// Tiles in memory.
#[derive(Debug, Clone, Default)]
pub struct Tiles(HashMap<TileKey, Vec<u8>>);

impl Tiles {
    #[must_use]
    pub fn get(&self, key: TileKey) -> Option<&[u8]> {
        self.0.get(&key).map(Vec::as_slice)
    }

    /// Returns the hash of the record at a position.
    #[must_use]
    pub fn leaf(&self, position: u64) -> Option<Leaf> {
        let (key, index) = leaf_tile(position);
        let hash = self.get(key)?.get(index * HASH..(index + 1) * HASH)?;
        hash.try_into().ok()
    }

    fn read(&self, index: u64) -> Result<tlog::Hash, TileKey> {
        let key = tile_of(index);
        let read = || {
            let hashes = self.get(key)?;
            let width = u32::try_from(hashes.len() / HASH).ok()?;
            // `Tile::new` panics if a tile is empty or too wide.
            let is_tile = hashes.len() % HASH == 0 && (1..=FULL).contains(&hashes.len());
            let level = u8::try_from(key.level).ok()?;
            let number = u64::try_from(key.number).ok()?;
            let tile = is_tile.then(|| Tile::new(HEIGHT, level, number, width, false))?;
            tile.hash_at_index(hashes, index).ok()
        };
        read().ok_or(key)
    }
}

impl FromIterator<(TileKey, Vec<u8>)> for Tiles {
    fn from_iter<T: IntoIterator<Item = (TileKey, Vec<u8>)>>(tiles: T) -> Self {
        Self(tiles.into_iter().collect())
    }
}

impl Extend<(TileKey, Vec<u8>)> for Tiles {
    fn extend<T: IntoIterator<Item = (TileKey, Vec<u8>)>>(&mut self, tiles: T) {
        self.0.extend(tiles);
    }
}

/// What can be computed from the tiles of a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TreeQuery {
    /// The hash of the tree that had `size` records: one hash.
    Root { size: u64 },
    /// That the tree of `size` records has the one at `position` (RFC 9162 section 2.1.3).
    Inclusion { size: u64, position: u64 },
    /// That the tree of `size` records begins with all those of the tree that had `earlier`
    /// (RFC 9162 section 2.1.4).
    Consistency { size: u64, earlier: u64 },
}

impl TreeQuery {
    /// Returns the tiles that the answer needs.
    pub fn keys(self) -> Result<Vec<TileKey>, TreeError> {
        let wanted = WantedTiles::default();
        self.ask(&wanted)?;
        Ok(wanted.0.into_inner().into_iter().collect())
    }

    /// Returns the hashes of the answer. The tiles may be those of a larger tree.
    pub fn answer(self, tiles: &Tiles) -> Result<Vec<Hash>, TreeError> {
        let missing = RefCell::new(None);
        let reader = Reader { tiles, missing: &missing };
        let answer = self.ask(&reader)?;
        match missing.into_inner() {
            Some(key) => Err(TreeError::Tile(key)),
            None => Ok(answer),
        }
    }

    fn ask(self, reader: &impl HashReader) -> Result<Vec<Hash>, TreeError> {
        let (size, position) = match self {
            Self::Root { size } => (size, None),
            Self::Inclusion { size, position } => (size, Some(position)),
            Self::Consistency { size, earlier } => (size, Some(earlier.wrapping_sub(1))),
        };
        if size > MAX_SIZE {
            return Err(TreeError::Size(i64::try_from(size).unwrap_or(i64::MAX)));
        }
        let outside = |position| TreeError::Position { size, position };
        if let Some(position) = position.filter(|position| *position >= size) {
            return Err(outside(position));
        }
        let hashes = match self {
            Self::Root { size } => tlog::tree_hash(size, reader).map(|hash| vec![hash]),
            Self::Inclusion { size, position } => tlog::prove_record(size, position, reader),
            Self::Consistency { size, earlier } => tlog::prove_tree(size, earlier, reader),
        };
        // The readers below never fail, and the bounds were checked.
        let hashes = hashes.map_err(|_| outside(size))?;
        Ok(hashes.into_iter().map(|hash| hash.0).collect())
    }
}

/// Checks a proof of [`TreeQuery::Inclusion`].
#[must_use]
pub fn includes(root: &Hash, size: u64, proof: &[Hash], position: u64, leaf: &Leaf) -> bool {
    let proof = proof.iter().map(|hash| tlog::Hash(*hash)).collect();
    let (root, leaf) = (tlog::Hash(*root), tlog::Hash(*leaf));
    size <= MAX_SIZE && tlog::check_record(&proof, size, root, position, leaf).is_ok()
}

/// Notes which tiles are read; all hashes are zero.
#[derive(Default)]
struct WantedTiles(RefCell<BTreeSet<TileKey>>);

impl HashReader for WantedTiles {
    fn read_hashes(&self, indexes: &[u64]) -> Result<Vec<tlog::Hash>, Error> {
        self.0.borrow_mut().extend(indexes.iter().map(|index| tile_of(*index)));
        Ok(vec![tlog::Hash::default(); indexes.len()])
    }
}

/// Reads from tiles, and notes the first that is missing.
struct Reader<'a> {
    tiles: &'a Tiles,
    missing: &'a RefCell<Option<TileKey>>,
}

impl HashReader for Reader<'_> {
    fn read_hashes(&self, indexes: &[u64]) -> Result<Vec<tlog::Hash>, Error> {
        let read = |index: &u64| {
            self.tiles.read(*index).unwrap_or_else(|key| {
                self.missing.borrow_mut().get_or_insert(key);
                tlog::Hash::default()
            })
        };
        Ok(indexes.iter().map(read).collect())
    }
}

/// Returns the tile that holds a hash, by its stored index.
fn tile_of(index: u64) -> TileKey {
    let tile = Tile::from_index(HEIGHT, index);
    key(usize::from(tile.level()), tile.level_index())
}

/// Returns the number of levels of tiles that a tree has.
fn levels(size: u64) -> usize {
    (0..8).take_while(|level| size >> (8 * level) > 0).count()
}

/// Returns the tiles of a tree that are incomplete: level, key and number of bytes.
fn incomplete_tiles(size: u64) -> impl Iterator<Item = (usize, TileKey, usize)> {
    (0..levels(size)).filter_map(move |level| {
        let hashes = size >> (8 * level);
        let length = usize::from(hashes.to_le_bytes()[0]) * HASH;
        (length > 0).then(|| (level, key(level, hashes >> HEIGHT), length))
    })
}

fn key(level: usize, number: u64) -> TileKey {
    // Within `MAX_SIZE`, both are small.
    TileKey {
        level: i16::try_from(level).unwrap_or(i16::MAX),
        number: i64::try_from(number).unwrap_or(i64::MAX),
    }
}

#[cfg(test)]
mod tests;
