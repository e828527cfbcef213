//! Records as they are shown to the operator.

use schemars::JsonSchema;
use serde::Serialize;

use crate::access::Viewer;
use crate::ledger::form::RecordForm;
use crate::ledger::record::Stored;

/// A record and its place in the tree, which is `null` until the integrity job has given it
/// one.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "ShownRecord")]
pub(in super::super) struct RecordView {
    position: Option<i64>,
    #[serde(flatten)]
    record: RecordForm,
}

impl RecordView {
    pub(super) fn new(Stored { record, position }: &Stored, viewer: &Viewer) -> Self {
        // Only a proof needs the salt.
        Self { position: *position, record: RecordForm::new(record, viewer).without_salt() }
    }
}
