//! The integration tests: real Postgres, real sockets, real signatures.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    unreachable_pub,
    reason = "a test that cannot go on fails"
)]

mod support;

mod access;
mod alerts;
mod api;
mod burst;
mod cli;
mod config;
mod contract;
mod disorder;
mod ends;
mod faults;
mod heads;
mod hostile;
mod idempotency;
mod labels;
mod ledger;
mod migrations;
mod openapi;
mod pages;
mod pairing;
mod postgres;
mod process;
mod proxies;
mod queries;
mod revocation;
mod server;
mod starts;
mod store_files;
mod store_postgres;
mod traces;
mod untrusted;
mod upstream;
mod wake;
mod webhooks;
