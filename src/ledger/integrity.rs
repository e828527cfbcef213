//! The integrity job's work: gives records their positions in the tree and signs its head.
//!
//! It runs in a transaction under the job's lock: [`Integrity::extend`], then the commit, then
//! [`Integrity::settle`].

mod adoption;

use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::archive::{ArchiveError, StoredCheckpoint, Transaction};
use super::checkpoint::file::CheckpointFile;
use super::checkpoint::{Checkpoint, CheckpointError};
use super::direct::{DirectWriter, WriterPool};
use super::key::SigningKey;
use super::record::{Leaf, RecordId, micros};
use super::tree::{self, Edge, Hash, Tiles, TreeError, TreeQuery};

/// How many records one run gives positions at most.
const BATCH: usize = 5_000;

/// How many altered records, which stay without a position, one run passes over at most.
const MAX_ALTERED: usize = 100_000;

/// Why the tree cannot be extended. In all cases but the first it stays as it is until the
/// operator has looked at it: a new checkpoint would vouch for what was done to it.
#[derive(Debug, thiserror::Error)]
pub enum IntegrityError {
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    #[error("the checkpoint of {size} records in the database is {problem}")]
    Checkpoint { size: i64, problem: CheckpointError },
    #[error("the tree has {tree} records, but a checkpoint has covered {covered}")]
    Cut { tree: u64, covered: u64 },
    #[error("the tree was rewritten: its first {size} records do not hash to what they did")]
    Rewritten { size: u64 },
    #[error(transparent)]
    Tree(#[from] TreeError),
    #[error("the system provides no random numbers")]
    NoRandomNumbers,
}

/// Extends trees, and remembers the last head of the tree between its runs.
#[derive(Debug)]
pub struct Integrity {
    key: SigningKey,
    file: CheckpointFile,
    /// The shortest time between two checkpoints.
    interval: Duration,
    state: Mutex<State>,
    /// What says which records were adopted.
    writer: WriterPool,
}

#[derive(Debug, Default)]
struct State {
    /// The head that this process committed last.
    head: Option<Head>,
    /// How many records were found altered; they come before all others in the next run.
    altered: usize,
    /// Which records of no tenant were looked at; not all of them are this box's.
    passed: Option<adoption::Passed>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Head {
    tenant: Arc<str>,
    size: u64,
    root: Hash,
}

/// What a run did.
#[derive(Debug)]
#[must_use = "after the commit, it is passed to `Integrity::settle`"]
pub struct Extended {
    /// How many records were given a position.
    pub placed: usize,
    /// How many records of no tenant became this box's.
    pub adopted: usize,
    /// Records whose seal is broken: they were altered before they had a position, and get
    /// none.
    pub altered: Vec<RecordId>,
    /// Whether more records wait for a position.
    pub is_more: bool,
    /// The last checkpoint of the tree, and whether it is a new one.
    pub checkpoint: Option<StoredCheckpoint>,
    pub is_new: bool,
    head: Head,
    /// How many of the altered ones belong to the tenant.
    skipped: usize,
    passed: Option<adoption::Passed>,
    writer: Mutex<Option<DirectWriter>>,
}

impl Extended {
    /// Returns how many records the tree has.
    pub fn size(&self) -> u64 {
        self.head.size
    }

    /// Returns whether nothing was written.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.placed == 0 && self.adopted == 0 && !self.is_new
    }
}

impl Integrity {
    #[must_use]
    pub fn new(key: SigningKey, file: CheckpointFile, interval: Duration) -> Self {
        Self { key, file, interval, state: Mutex::default(), writer: WriterPool::default() }
    }

    /// Gives positions to records that have none, and signs the tree's head if that is due.
    /// Records of no tenant become the tenant's first.
    pub async fn extend(
        &self,
        transaction: &mut Transaction<'_>,
        tenant: &Arc<str>,
    ) -> Result<Extended, IntegrityError> {
        let size = tree::size(transaction.tree_size(tenant).await?)?;
        let last = transaction.checkpoint(tenant).await?;
        let verified = last.as_ref().map(|stored| self.verify(tenant, stored)).transpose()?;
        let covered = verified.as_ref().map_or(0, |checkpoint| checkpoint.size);
        if covered > size {
            return Err(IntegrityError::Cut { tree: size, covered });
        }
        let query = TreeQuery::Root { size: covered };
        let keys: BTreeSet<_> = Edge::keys(size).into_iter().chain(query.keys()?).collect();
        let keys: Vec<_> = keys.into_iter().collect();
        let tiles: Tiles = transaction.tiles(tenant, &keys).await?.into_iter().collect();
        let mut edge = Edge::read(size, &tiles)?;
        let was_rewritten = |checkpoint: &Checkpoint| {
            query.answer(&tiles).map(|hashes| hashes != [checkpoint.root])
        };
        if let Some(checkpoint) = &verified
            && was_rewritten(checkpoint)?
        {
            return Err(IntegrityError::Rewritten { size: covered });
        }
        self.compare(tenant, &edge)?;

        let passed = self.state().passed;
        let adopted = adoption::adopt(transaction, tenant, self.key.seal_key(), passed).await?;
        let mut writer = None;
        if !adopted.ids.is_empty() {
            let taken = self.writer.take(self.key.seal_key());
            let mut taken = taken.map_err(|_| IntegrityError::NoRandomNumbers)?;
            let entry = adoption::entry(transaction.now().await?, &adopted.ids);
            transaction.write(&[taken.record(tenant, entry)]).await?;
            writer = Some(taken);
        }

        let skipped = self.state().altered.min(MAX_ALTERED);
        let unplaced = transaction.unplaced(tenant, BATCH + skipped).await?;
        let is_more = unplaced.len() == BATCH + skipped;
        let (mut ids, mut leaves, mut altered) = (Vec::new(), Vec::<Leaf>::new(), Vec::new());
        for record in unplaced {
            if self.key.seal_key().matches(record.id, &record.leaf, &record.seal) {
                ids.push(record.id);
                leaves.push(record.leaf);
            } else {
                altered.push(record.id);
            }
        }
        if !ids.is_empty() {
            let first = stored(size);
            transaction.place(tenant, first, &ids).await?;
            let tiles = edge.append(&leaves);
            transaction.put_tiles(tenant, &tiles).await?;
            transaction.set_tree_size(tenant, stored(edge.size())).await?;
        }
        let skipped = altered.len();
        altered.extend(&adopted.altered);
        let (size, root) = (edge.size(), edge.root());
        let new = self.sign(transaction, tenant, verified.as_ref(), size, &root).await?;
        Ok(Extended {
            placed: ids.len(),
            adopted: adopted.ids.len(),
            is_more: adopted.is_more || (is_more && !ids.is_empty()),
            altered,
            skipped,
            passed: adopted.passed,
            writer: Mutex::new(writer),
            is_new: new.is_some(),
            checkpoint: new.or(last),
            head: Head { tenant: Arc::clone(tenant), size, root },
        })
    }

    /// Notes what is committed, and appends the last checkpoint to the file beside the key if
    /// it is not there yet. May block.
    pub fn settle(&self, extended: &Extended) -> io::Result<()> {
        *self.state() = State {
            head: Some(extended.head.clone()),
            altered: extended.skipped,
            passed: extended.passed,
        };
        let writer = extended.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(writer) = writer {
            self.writer.give_back(writer);
        }
        match &extended.checkpoint {
            Some(checkpoint) => self.file.append(&checkpoint.note),
            None => Ok(()),
        }
    }

    fn verify(
        &self,
        tenant: &str,
        stored: &StoredCheckpoint,
    ) -> Result<Checkpoint, IntegrityError> {
        Checkpoint::verify(&stored.note, &self.key.verifier(tenant))
            .map_err(|problem| IntegrityError::Checkpoint { size: stored.size, problem })
    }

    /// Compares the tree with the one that this process left. Between two checkpoints, nothing
    /// else shows that its edge was rewritten.
    fn compare(&self, tenant: &str, edge: &Edge) -> Result<(), IntegrityError> {
        let state = self.state();
        match state.head.as_ref().filter(|head| *head.tenant == *tenant) {
            Some(head) if head.size > edge.size() => {
                Err(IntegrityError::Cut { tree: edge.size(), covered: head.size })
            }
            Some(head) if head.size == edge.size() && head.root != edge.root() => {
                Err(IntegrityError::Rewritten { size: head.size })
            }
            _ => Ok(()),
        }
    }

    /// Signs and stores a checkpoint if the tree has grown and the last one is old enough.
    async fn sign(
        &self,
        transaction: &mut Transaction<'_>,
        tenant: &str,
        last: Option<&Checkpoint>,
        size: u64,
        root: &Hash,
    ) -> Result<Option<StoredCheckpoint>, IntegrityError> {
        if size == last.map_or(0, |last| last.size) {
            return Ok(None);
        }
        let at = transaction.now().await?;
        let is_due = last.is_none_or(|last| {
            // If the last one is later than now, the clock was set back.
            at < last.at || at.0.saturating_sub(last.at.0) >= micros(self.interval)
        });
        if !is_due {
            return Ok(None);
        }
        let note = Checkpoint::sign(tenant, size, root, at, &self.key);
        let checkpoint = StoredCheckpoint { size: stored(size), at, note };
        transaction.put_checkpoint(tenant, &checkpoint).await?;
        Ok(Some(checkpoint))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns a size or a position as it is stored.
fn stored(number: u64) -> i64 {
    // The tree's size is bounded far below.
    i64::try_from(number).unwrap_or(i64::MAX)
}
