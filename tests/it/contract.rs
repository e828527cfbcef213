//! The contract with a box's core and its proxy, row by row, on both stores.

mod access;
mod credentials;
mod headers;
mod peers;
mod requests;
mod rows;
