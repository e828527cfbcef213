//! What is read from the ledger's archive: whether jobs are done, whether checkpoints follow
//! the records, and whether endpoints get messages.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;

use super::measurement;
use crate::alerts::measurement::{Measure, MeasureContext, Measurement};
use crate::alerts::rule::Rule;
use crate::alerts::subject::Subject;
use crate::jobs::{self, Jobs};
use crate::ledger::Ledger;
use crate::ledger::archive::{ArchiveError, JobRow};
use crate::webhooks::manage;

/// How often the archive is asked.
const EVERY: Duration = Duration::from_secs(10);

/// How many failed runs in a row are as bad as no run.
const FAILED_RUNS: u32 = 3;

/// Measures what is read from the archive.
#[derive(Debug)]
pub struct ArchiveMeasures {
    ledger: Arc<Ledger>,
    jobs: Arc<Jobs>,
    /// How long a job may be overdue.
    job_limit: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    asked: Option<Duration>,
    uncovered: Option<UncoveredRecords>,
}

/// Records that no checkpoint covers yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct UncoveredRecords {
    /// The number of records that the last checkpoint covers.
    covered: i64,
    /// When there were first some more of them.
    since: Duration,
}

/// What is read in one snapshot.
#[derive(Debug)]
struct ArchiveState {
    jobs: Vec<JobRow>,
    covered: i64,
    has_more: bool,
    /// The endpoints that get no messages, and why.
    disabled: Vec<(String, String)>,
}

impl ArchiveMeasures {
    #[must_use]
    pub fn new(ledger: Arc<Ledger>, jobs: Arc<Jobs>, job_limit: Duration) -> Self {
        Self { ledger, jobs, job_limit, state: Mutex::default() }
    }

    async fn look(&self, now: Duration) -> Option<Vec<Measurement>> {
        if !self.is_due(now) {
            return None;
        }
        let read = self.read().await.ok()?;
        let mut measurements: Vec<_> = self
            .jobs
            .runners()
            .filter_map(|runner| {
                let row = read.jobs.iter().find(|row| row.name == runner.plan().row)?;
                overdue(row, runner.overdue(), self.job_limit)
            })
            .collect();
        measurements.extend(read.disabled.into_iter().map(|(endpoint, reason)| {
            measurement(Rule::EndpointDisabled, Subject::Endpoint(endpoint.into()), 1, reason)
        }));
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.uncovered = state.uncovered.follow(read.covered, read.has_more, now);
        if let Some(UncoveredRecords { covered, since }) = state.uncovered {
            let waits = now.saturating_sub(since);
            let waits = waits.saturating_sub(self.ledger.checkpoint_interval).as_secs();
            let detail = format!("the last checkpoint covers {covered} records");
            measurements.push(measurement(Rule::CheckpointOverdue, Subject::Box, waits, detail));
        }
        Some(measurements)
    }

    fn is_due(&self, now: Duration) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = state.asked.is_none_or(|asked| now.saturating_sub(asked) >= EVERY);
        if is_due {
            state.asked = Some(now);
        }
        is_due
    }

    async fn read(&self) -> Result<ArchiveState, ArchiveError> {
        let tenant = self.ledger.tenant.get();
        let mut snapshot = self.ledger.archive.snapshot().await?;
        let jobs = snapshot.jobs(&tenant).await?;
        let covered = snapshot.checkpoint(&tenant).await?.map_or(0, |checkpoint| checkpoint.size);
        let has_more = snapshot.tree_size(&tenant).await? > covered
            || !snapshot.unplaced(&tenant, None, 1).await?.is_empty();
        let disabled = manage::disabled(&mut snapshot, &tenant).await?;
        Ok(ArchiveState { jobs, covered, has_more, disabled })
    }
}

impl Measure for ArchiveMeasures {
    fn rules(&self) -> &'static [Rule] {
        &[Rule::JobOverdue, Rule::CheckpointOverdue, Rule::EndpointDisabled]
    }

    fn measure<'a>(
        &'a self,
        context: MeasureContext<'a>,
    ) -> BoxFuture<'a, Option<Vec<Measurement>>> {
        Box::pin(self.look(context.now))
    }
}

trait Follow {
    fn follow(self, covered: i64, has_more: bool, now: Duration) -> Option<UncoveredRecords>;
}

impl Follow for Option<UncoveredRecords> {
    /// Begins anew with each checkpoint: on a busy box there are always newer records.
    fn follow(self, covered: i64, has_more: bool, now: Duration) -> Self {
        if !has_more {
            return None;
        }
        let known = self.filter(|known| known.covered == covered);
        Some(known.unwrap_or(UncoveredRecords { covered, since: now }))
    }
}

/// Returns for how long a job has not been done, if it should have been. Its row does not say
/// that: a run that finds nothing to do leaves it as it is.
fn overdue(row: &JobRow, hindered: Option<Duration>, limit: Duration) -> Option<Measurement> {
    let failures = jobs::failures(row);
    let late = hindered.unwrap_or_default().as_secs();
    let value = if failures >= FAILED_RUNS { late.max(limit.as_secs()).max(1) } else { late };
    if value == 0 {
        return None;
    }
    let outcome = row.outcome.as_deref().unwrap_or("it has not ended yet");
    let detail = format!("for {late} s it could not be run; last run: {outcome}");
    Some(measurement(Rule::JobOverdue, Subject::Job(row.name.as_str().into()), value, detail))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::record::Micros;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_checkpoint_is_waited_for_since_the_one_before() {
        let follow = |known: Option<UncoveredRecords>, covered, at: u32| {
            known.follow(covered, true, SECOND * at)
        };
        let first = follow(None, 0, 10);
        assert_eq!(follow(first, 0, 50), Some(UncoveredRecords { covered: 0, since: SECOND * 10 }));
        assert_eq!(follow(first, 7, 60), Some(UncoveredRecords { covered: 7, since: SECOND * 60 }));
        assert_eq!(first.follow(7, false, SECOND * 60), None);
    }

    #[test]
    fn a_job_is_overdue_by_its_row_or_after_three_failures() {
        let row = |outcome: &str| JobRow {
            name: "integrity".into(),
            due: Micros(1),
            started: None,
            ended: None,
            outcome: Some(outcome.into()),
            by: None,
        };
        for (late, outcome, expected) in [
            (None, "done", None),
            (Some(0), "done", None),
            (Some(30), "done", Some(30)),
            (None, "failed: why", None),
            (None, "failed 2 times in a row: why", None),
            (None, "failed 3 times in a row: why", Some(60)),
            (Some(90), "failed 3 times in a row: why", Some(90)),
        ] {
            let hindered = late.map(Duration::from_secs);
            let found =
                overdue(&row(outcome), hindered, SECOND * 60).map(|measurement| measurement.value);
            assert_eq!(found, expected, "{late:?} {outcome}");
        }
    }
}
