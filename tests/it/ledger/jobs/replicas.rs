//! Three instances do each piece of work once an interval.
#![allow(clippy::print_stdout, reason = "figures are part of what a test says")]

use std::sync::Arc;
use std::time::Duration;

use super::{Counts, Instance, Place, RunRow, Sample};
use crate::support::soak;

const INTERVAL: Duration = Duration::from_secs(2);

/// Checks that runs do not overlap and keep their interval.
fn check(name: &str, runs: &[RunRow], seconds: u64) {
    for two in runs.windows(2) {
        assert!(two[0].started <= two[0].ended, "{name}: {two:?}");
        assert!(two[0].ended <= two[1].started, "{name}: {two:?}");
    }
    let expected = usize::try_from(seconds / INTERVAL.as_secs()).expect("small");
    let mut by: Vec<_> = runs.iter().map(|run| run.by).collect();
    by.sort_unstable();
    by.dedup();
    println!("{name}: {} runs in {seconds} s by {} instances", runs.len(), by.len());
    let count = runs.len();
    assert!(soak::job_runs(expected).contains(&count), "{name}: {count} runs in {seconds} s");
    assert!(runs.iter().all(|run| run.outcome == "done"), "{name}: {runs:?}");
}

async fn three_instances_on(place: Place) {
    let seconds = u64::from(soak::JOB_SECONDS.count());
    let (short, long) = (Arc::<Counts>::default(), Arc::<Counts>::default());
    let instances: Vec<_> = (1..=3)
        .map(|writer| {
            let (brief, lengthy) = (Duration::from_millis(50), Duration::from_millis(500));
            let jobs = vec![
                Sample::counted("short", INTERVAL, brief, &short).short(),
                Sample::counted("long", INTERVAL, lengthy, &long).long(),
            ];
            Instance::start(&place, writer, jobs)
        })
        .collect();
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    drop(instances);
    for (name, counts) in [("short", &short), ("long", &long)] {
        let runs = place.runs(name).await;
        check(name, &runs, seconds);
        // One may have been cut off by the end.
        assert!(counts.runs() - runs.len() <= 1, "{name}: {} runs, {runs:?}", counts.runs());
        let most = counts.most.load(std::sync::atomic::Ordering::SeqCst);
        assert_eq!(most, 1, "{name} overlaps");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_instances_run_each_job_once_an_interval_on_sqlite() {
    three_instances_on(Place::sqlite().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_instances_run_each_job_once_an_interval_on_postgres() {
    three_instances_on(Place::postgres().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_is_set_causes_neither_a_storm_nor_a_stall() {
    const HOUR: i64 = 3600 * 1_000_000;
    let interval = Duration::from_millis(500);
    for place in Place::both().await {
        let counts = Arc::<Counts>::default();
        let short = || Sample::counted("short", interval, Duration::ZERO, &counts).short();
        let long = || Sample::counted("long", interval, Duration::ZERO, &counts).long();
        let _instances = [1, 2].map(|n| Instance::start(&place, n, vec![short(), long()]));
        for jump in [HOUR, -HOUR, 24 * HOUR, -24 * HOUR] {
            for job in ["short", "long"] {
                // Before anything is read: no run of that time counts without its time.
                let began = std::time::Instant::now();
                let before = super::until_runs(&place, job, 1).await.len();
                place.delay(job, jump).await;
                // The stored time is corrected when it is read, which costs two intervals at
                // most; the next runs follow.
                let runs = super::until_runs(&place, job, before + 4).await.len() - before;
                let most = began.elapsed().as_secs_f64() / interval.as_secs_f64() + 2.0;
                let runs = u32::try_from(runs).expect("few");
                assert!(
                    f64::from(runs) <= most,
                    "{job} {jump}: {runs} runs, {:?}",
                    began.elapsed()
                );
            }
        }
    }
}
