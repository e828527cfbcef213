//! The folder as a store, where the system itself plays its part.

mod first_screen;
mod hung_mount;
