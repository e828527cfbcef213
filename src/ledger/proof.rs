//! The proof that a record is in the ledger, for an auditor who has nothing but the public key.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::archive::{Archive, ArchiveError};
use super::canonical::{Hasher, Masked, Texts, Version, masked};
use super::checkpoint::{Checkpoint, CheckpointError};
use super::form::{InvalidForm, RecordForm};
use super::key::VerifierKey;
use super::record::{Record, RecordId, Stored};
use super::tree::{self, Hash, Tiles, TreeError, TreeQuery};
use crate::access::Viewer;

/// A record, its place and why it is there. As JSON it is a file of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Proof {
    record: RecordForm,
    position: u64,
    /// The hashes beside the path from the record to the root (RFC 9162 section 2.1.3), in
    /// base64.
    inclusion: Vec<String>,
    /// The signed head of the tree (C2SP tlog-checkpoint).
    checkpoint: String,
}

/// What a valid proof shows: this record is the one at `position` of the tree whose head was
/// signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proved {
    pub record: Record,
    /// What is proved of its path and notes, if these are masked.
    pub texts: Option<Texts>,
    pub position: u64,
    pub checkpoint: Checkpoint,
}

/// Why a proof shows nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    #[error("not a proof: {0}")]
    Malformed(Arc<str>),
    #[error("not a proof: {0}")]
    Record(#[from] InvalidForm),
    #[error("its checkpoint is {0}")]
    Checkpoint(#[from] CheckpointError),
    #[error("the record was altered, or is not the one that its proof was made for")]
    NotIncluded,
}

impl Proof {
    /// Reads a proof.
    pub fn parse(json: &str) -> Result<Self, ProofError> {
        serde_json::from_str(json).map_err(|error| ProofError::Malformed(error.to_string().into()))
    }

    /// Checks the proof with the public key alone.
    pub fn verify(self, key: &VerifierKey) -> Result<Proved, ProofError> {
        let Self { record, position, inclusion, checkpoint } = self;
        let checkpoint = Checkpoint::verify(&checkpoint, key)?;
        let mut masked = Masked::try_from(record)?;
        let hash = |text: &String| -> Option<Hash> { STANDARD.decode(text).ok()?.try_into().ok() };
        let path: Option<Vec<_>> = inclusion.iter().map(hash).collect();
        let path = path.ok_or_else(|| ProofError::Malformed("invalid hash".into()))?;
        let mut hasher = Hasher::default();
        let leaves = Version::ALL.into_iter().filter_map(|version| {
            let leaf = hasher.masked_leaf_in(version, &masked)?;
            let (root, size) = (&checkpoint.root, checkpoint.size);
            tree::includes(root, size, &path, position, &leaf).then_some(leaf)
        });
        masked.record.leaf = { leaves }.next().ok_or(ProofError::NotIncluded)?;
        let Masked { record, texts } = masked;
        Ok(Proved { record, texts, position, checkpoint })
    }
}

/// What can be said about a record now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Audit {
    /// There is no record with that id: there never was, or retention has removed it.
    Unknown,
    /// No checkpoint covers the record yet.
    Pending,
    Covered(Box<Proof>),
}

/// Why no proof can be made.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    #[error("no proof can be made: {0}")]
    Tree(#[from] TreeError),
    #[error("no proof can be made: the last checkpoint in the database is {0}")]
    Checkpoint(#[from] CheckpointError),
    /// Records of earlier versions were hashed with their paths and notes.
    #[error("the record can only be proved with texts that need the right `pii`")]
    NotMaskable,
}

/// Makes the proof of a record for someone, with or without the values that identify a client.
pub async fn audit(
    archive: &Archive,
    tenant: &str,
    id: RecordId,
    is_masked: bool,
    viewer: &Viewer,
) -> Result<Audit, AuditError> {
    let Some(Stored { record, position }) = archive.find(tenant, id).await? else {
        return Ok(Audit::Unknown);
    };
    let Some(position) = position else { return Ok(Audit::Pending) };
    let position = tree::size(position)?;
    let mut snapshot = archive.snapshot_of(tenant).await?;
    let Some(stored) = snapshot.checkpoint(tenant).await? else { return Ok(Audit::Pending) };
    let checkpoint = Checkpoint::claimed(&stored.note)?;
    if position >= checkpoint.size {
        return Ok(Audit::Pending);
    }
    let query = TreeQuery::Inclusion { size: checkpoint.size, position };
    let tiles: Tiles = snapshot.tiles(tenant, &query.keys()?).await?.into_iter().collect();
    let inclusion = query.answer(&tiles)?.iter().map(|hash| STANDARD.encode(hash)).collect();
    let form = if is_masked || viewer.is_masked() {
        let masked = masked(record);
        let form = RecordForm::of_masked(&masked, viewer);
        // With a mask that is not a digest nothing would be proved.
        if form != RecordForm::of_masked(&masked, &Viewer::clear()) {
            return Err(AuditError::NotMaskable);
        }
        form
    } else {
        RecordForm::new(&record, viewer)
    };
    let proof = Proof { record: form, position, inclusion, checkpoint: stored.note };
    Ok(Audit::Covered(Box::new(proof)))
}
