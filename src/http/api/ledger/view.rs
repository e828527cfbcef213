//! Records as they are shown to the operator.

use serde::Serialize;

use crate::ledger::form::RecordForm;
use crate::ledger::record::Stored;

/// A record and its place in the tree, which is `null` until the integrity job has given it
/// one.
#[derive(Debug, Serialize)]
pub(super) struct Shown {
    position: Option<i64>,
    #[serde(flatten)]
    record: RecordForm,
}

impl From<&Stored> for Shown {
    fn from(Stored { record, position }: &Stored) -> Self {
        // Only a proof needs the salt.
        Self { position: *position, record: RecordForm::from(record).without_salt() }
    }
}
