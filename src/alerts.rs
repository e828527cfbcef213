//! Alerts: what the operator has to know, told once when it begins and once when it ends.
//!
//! A [rule](rule) says what is measured and when that is bad. Each process
//! [measures](measures) its own facts every few seconds, denials together with the others
//! ([`shared_counts`]), and keeps their states, with hysteresis ([`transition`]); what it takes
//! for bad, it writes as an observation. In the same transaction, under a lock of the box,
//! [`plan`] says which alerts fire and resolve by what all processes observe; each change is
//! written with its history and its message. So it is told once, whatever the number of
//! processes, and a restart tells nothing again.
//!
//! What strangers can cause is bounded: in memory ([`denials`]), in rows and in messages
//! ([`rule::max_subjects`]).

pub mod denials;
mod evaluator;
pub mod firing;
mod heavy_hitters;
pub mod measurement;
pub mod measures;
pub mod message;
mod outage;
pub mod plan;
pub mod rule;
pub mod shared_counts;
pub mod silence;
pub mod starts;
pub mod subject;
pub mod table;
mod tracked;
pub mod transition;

pub use self::evaluator::{Evaluator, TenantSource};
pub use self::firing::FiringAlerts;
pub use self::rule::Rule;
