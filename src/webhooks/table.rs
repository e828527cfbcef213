//! The tables of endpoints, of deliveries with their attempts, and of the cursor up to which
//! records have been told.

pub mod deliveries;
pub(super) mod records;
pub(super) mod rows;
