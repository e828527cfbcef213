//! Requests of the API that are repeated with the same `Idempotency-Key` are done once
//! (draft-ietf-httpapi-idempotency-key-header).
//!
//! A [`Key`](key::Key) is claimed in a short transaction of its own before the request is
//! done, and whoever claims it first does it, on whatever replica. While it is done, its row
//! has a *lease*, which is extended; a process that dies leaves a row whose lease ends. The
//! answer is stored in the transaction of the effect if there is one, under the condition
//! that the row is still the claimant's: an effect whose lease was lost is rolled back.

pub mod answer;
pub mod fingerprint;
pub mod key;
pub mod table;

use std::time::Duration;

/// How long a row is "running" after its process was last heard of.
pub const LEASE: Duration = Duration::from_secs(60);

/// How long an answer is kept.
pub const KEEP: Duration = Duration::from_secs(24 * 3600);

/// How many keys of one token are kept at most. As many requests as begin at the same moment
/// may exceed it.
pub const MAX_KEYS: i64 = 1_000;
