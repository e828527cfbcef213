//! Requests with an `Idempotency-Key`: done once, on any replica.

mod inputs;
mod killed;
mod over_http;
mod replicas;
mod secrets;
mod table;
