//! The folder as a store, where the system itself plays its part.

mod first_screen;
pub(crate) mod hung_mount;
