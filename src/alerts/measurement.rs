//! What is measured, and by whom.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use futures_util::future::BoxFuture;

use super::plan::Key;
use super::rule::Rule;
use super::subject::Subject;

/// A number that was measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Measurement {
    pub rule: Rule,
    pub subject: Subject,
    pub value: u64,
    /// What is known besides, for people. Not about persons.
    pub detail: String,
}

/// When something is measured, and what fires already.
#[derive(Debug, Clone, Copy)]
pub struct MeasureContext<'a> {
    /// The time of a monotonic clock.
    pub now: Duration,
    pub firing: &'a BTreeSet<Key>,
}

/// Measures what some rules are about.
pub trait Measure: fmt::Debug + Send + Sync {
    /// Returns the rules that it is for.
    fn rules(&self) -> &'static [Rule];

    /// Returns all that is worth a number now; what is left out is well. `None` if that is not
    /// known now: then all stays as it is.
    fn measure<'a>(
        &'a self,
        context: MeasureContext<'a>,
    ) -> BoxFuture<'a, Option<Vec<Measurement>>>;
}
