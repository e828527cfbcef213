//! The ledger's clock.

use std::time::SystemTime;

use super::record::Micros;

/// Returns the wall-clock time.
#[expect(clippy::disallowed_methods, reason = "the edge where the ledger reads the clock")]
pub(crate) fn now() -> Micros {
    Micros::from(SystemTime::now())
}
