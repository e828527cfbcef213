//! Requests with an `Idempotency-Key`: done once, on any replica.

mod over_http;
mod replicas;
mod table;
