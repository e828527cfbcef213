//! Jobs that fail, panic or hang.

use std::sync::atomic::Ordering;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nightporter::jobs::{Done, Job, JobError, Plan, Run, ShortJob};
use nightporter::ledger::archive::{StoredCheckpoint, Transaction};
use nightporter::ledger::record::{Kind, Micros};

use super::super::samples::TENANT;
use super::{Counts, HOUR, Instance, LONG, Place, Sample, until_runs};
use crate::support::client::poll;

const SOON: Duration = Duration::from_millis(200);

/// Does part of its work and then panics.
#[derive(Debug)]
struct Halfway;

impl ShortJob for Halfway {
    fn plan(&self) -> Plan {
        Plan::new("halfway", SOON, LONG)
    }

    fn run<'a>(&'a self, tenant: &'a Arc<str>, transaction: &'a mut Transaction<'_>) -> Run<'a> {
        Box::pin(async move {
            let checkpoint = StoredCheckpoint { size: 1, at: Micros(1), note: "half".into() };
            transaction.put_checkpoint(tenant, &checkpoint).await?;
            panic!("on purpose");
        })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_panics_or_hangs_touches_no_other() {
    for place in Place::both().await {
        let counts = Arc::<Counts>::default();
        let mut hanging = Sample::new("hanging", SOON, || Box::pin(std::future::pending()));
        hanging.plan.limit = Duration::from_millis(300);
        let panicking = Sample::new("panicking", SOON, || Box::pin(async { panic!("oh no") }));
        let jobs = vec![
            Job::Short(Box::new(Halfway)),
            hanging.long(),
            panicking.long(),
            Sample::counted("healthy", SOON, Duration::ZERO, &counts).short(),
        ];
        let instance = Instance::start(&place, 7, jobs);
        let healthy = until_runs(&place, "healthy", 10).await;
        assert!(healthy.iter().all(|run| run.outcome == "done"));
        for (job, expected) in [
            ("halfway", "failed: panicked: on purpose"),
            ("hanging", "failed: took longer than 300ms"),
            ("panicking", "failed: panicked: oh no"),
        ] {
            let runs = until_runs(&place, job, 3).await;
            assert_eq!(runs[0].outcome, expected, "{job}");
            let repeated = expected.replacen("failed", "failed 3 times in a row", 1);
            assert_eq!(runs[2].outcome, repeated, "{job}");
            // The wait doubles: 0.2 s, 0.4 s.
            let waits = [runs[1].started - runs[0].ended, runs[2].started - runs[1].ended];
            assert!(waits[0] >= 190_000 && waits[1] >= 390_000, "{job}: {waits:?}");
            let problem = format!("the job {job} fails: ");
            let problems = instance.jobs.problems();
            assert!(problems.iter().any(|text| text.starts_with(&problem)), "{problems:?}");
        }
        let archive = place.archive();
        let mut snapshot = archive.snapshot().await.expect("a snapshot");
        let left = snapshot.checkpoints(TENANT).await.expect("checkpoints");
        assert!(left.is_empty(), "half of the work has taken effect: {left:?}");
        assert_eq!(instance.jobs.problems().len(), 3, "the healthy one has none");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_recovers_is_recorded_twice_and_waits_no_longer_than_before() {
    for place in Place::both().await {
        let outcomes = Arc::new(Mutex::new(vec![true, true, false, false, true]));
        let left = Arc::clone(&outcomes);
        let job = Sample::new("unsteady", SOON, move || {
            let is_good = left.lock().expect("not poisoned").pop().unwrap_or(true);
            Box::pin(async move {
                if is_good {
                    Ok(Done::new("as planned".into()))
                } else {
                    Err(JobError::Failed("not now".into()))
                }
            })
        });
        let instance = Instance::start(&place, 7, vec![job.long()]);
        let runs = until_runs(&place, "unsteady", 5).await;
        let outcomes: Vec<_> = runs.iter().map(|run| &*run.outcome).take(5).collect();
        let done = "done: as planned";
        let expected = [done, "failed: not now", "failed 2 times in a row: not now", done, done];
        assert_eq!(outcomes, expected);
        let wait = runs[4].started - runs[3].ended;
        assert!(wait < 2_000_000, "{wait}");
        let records = instance.records.lock().expect("not poisoned").clone();
        let verdicts: Vec<_> = records.iter().map(|entry| entry.verdict.as_deref()).collect();
        assert_eq!(verdicts, [Some("failed"), Some("done")], "{records:?}");
        assert!(records.iter().all(|entry| entry.kind == Kind::Job));
        assert_eq!(&*records[0].notes[0].text, "not now");
        assert!(instance.jobs.problems().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_follows_the_commit_is_done_once_and_its_failure_is_shown() {
    for place in Place::both().await {
        let counts = Arc::<Counts>::default();
        let followed = Arc::clone(&counts);
        let job = Sample::new("followed", SOON, move || {
            let followed = Arc::clone(&followed);
            Box::pin(async move {
                let after_commit = move || {
                    followed.runs.fetch_add(1, Ordering::SeqCst);
                    Err(std::io::Error::other("no space"))
                };
                Ok(Done { after_commit: Some(Box::new(after_commit)), ..Done::default() })
            })
        });
        let instance = Instance::start(&place, 7, vec![job.short()]);
        let runs = until_runs(&place, "followed", 3).await.len();
        assert!(counts.runs() + 1 >= runs && counts.runs() <= place.runs("followed").await.len());
        assert_eq!(instance.jobs.problems(), ["the job followed: no space"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_follows_the_commit_and_takes_too_long_does_not_stop_the_job() {
    for place in Place::both().await {
        let (release, held) = channel::<()>();
        let held = Arc::new(Mutex::new(held));
        let mut job = Sample::new("slow", SOON, move || {
            let held = Arc::clone(&held);
            Box::pin(async move {
                // Returns when the sender is gone.
                let then = move || {
                    let _ended = held.lock().expect("not poisoned").recv();
                    Ok(())
                };
                Ok(Done { after_commit: Some(Box::new(then)), ..Done::default() })
            })
        });
        job.plan.limit = Duration::from_millis(300);
        let instance = Instance::start(&place, 7, vec![job.short()]);
        until_runs(&place, "slow", 3).await;
        let expected = ["the job slow: what follows its run took longer than 300ms"];
        poll("it is said", LONG, async || instance.jobs.problems() == expected).await;
        drop(release);
        poll("it is over", LONG, async || instance.jobs.problems().is_empty()).await;
    }
}

/// The lock's name is that of the tenant's job, and this is the namespace of such locks.
const TAKE: &str = "BEGIN; SELECT pg_advisory_xact_lock(
    hashtextextended('box/late', x'6c65646765726a6f'::bit(64)::int8));
    SELECT pg_sleep(0.3); COMMIT";

const WAITING: &str = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";

/// Another session may get the lock between the failure of a run and the record of it, such as
/// the run's own session, which the server has not ended yet.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_a_run_is_written_although_its_lock_is_taken_for_a_moment() {
    let place = Place::postgres().await;
    let Place::Postgres(database) = &place else { panic!("not Postgres") };
    let taking = Arc::new(database.connect().await);
    let looking = Arc::new(database.connect().await);
    let counts = Arc::<Counts>::default();
    let counted = Arc::clone(&counts);
    let job = Sample::new("late", HOUR, move || {
        let (taking, looking) = (Arc::clone(&taking), Arc::clone(&looking));
        counted.runs.fetch_add(1, Ordering::SeqCst);
        Box::pin(async move {
            // Whoever waits for the lock has it as soon as the run's transaction is given up.
            tokio::spawn(async move { taking.batch_execute(TAKE).await });
            loop {
                let row = looking.query_one(WAITING, &[]).await.expect("an answer");
                if row.get::<_, i64>(0) == 1 {
                    return Err(JobError::Failed("on purpose".into()));
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
    });
    let _instance = Instance::start(&place, 7, vec![job.short()]);
    let runs = until_runs(&place, "late", 1).await;
    assert_eq!(runs[0].outcome, "failed: on purpose");
    assert_eq!(counts.runs(), 1, "no run whose end was not written");
}
