//! Runs that somebody asks for.

use std::sync::Arc;
use std::time::Duration;

use super::{Counts, HOUR, Instance, LONG, Place, Sample, until_runs};
use crate::support::client::poll;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_is_run_when_somebody_asks_for_it() {
    for place in Place::both().await {
        let counts = Arc::<Counts>::default();
        let short = || Sample::counted("short", HOUR, Duration::ZERO, &counts).short();
        let long = || Sample::counted("long", HOUR, Duration::ZERO, &counts).long();
        let [one, _other] = [1, 2].map(|n| Instance::start(&place, n, vec![short(), long()]));
        for job in ["short", "long"] {
            until_runs(&place, job, 1).await;
            let asked = one.jobs.run_now(job).await.expect("a job").expect("asked");
            let due = asked.commit().await.expect("it is due");
            let runs = until_runs(&place, job, 2).await;
            assert!(runs[1].started >= due.0 - 1_000_000, "{due:?} {runs:?}");
            let status = one.jobs.list().await.expect("answers");
            let status = status.iter().find(|status| status.plan.name == job).expect("listed");
            let row = status.row.as_ref().expect("it was run");
            let next = row.due.0 - row.started.expect("it was run").0;
            assert!((3_590_000_000..=3_600_000_000).contains(&next), "in an hour: {next}");
            // The run is on record before its lease is given back.
            poll("nobody runs it", LONG, async || {
                let listed = one.jobs.list().await.expect("answers");
                let status = listed.iter().find(|status| status.plan.name == job);
                status.expect("listed").holder.is_none()
            })
            .await;
        }
        assert_eq!(counts.runs(), 4, "nobody has asked for more");
        assert!(one.jobs.run_now("nothing").await.is_none());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_is_running_is_run_once_more() {
    for place in Place::both().await {
        let counts = Arc::<Counts>::default();
        let takes = Duration::from_secs(4);
        let job = || Sample::counted("long", HOUR, takes, &counts).long();
        let [one, other] = [1, 2].map(|n| Instance::start(&place, n, vec![job()]));
        poll("it is running", LONG, async || counts.runs() == 1).await;
        let status = one.jobs.list().await.expect("answers");
        let holder = status[0].holder.as_deref().unwrap_or_default();
        assert!(holder.starts_with("process "), "{status:?}");
        // Whichever of the two runs it.
        let ask = async |instance: &Instance| {
            let asked = instance.jobs.run_now("long").await.expect("a job").expect("asked");
            asked.commit().await.expect("it is due");
        };
        tokio::join!(ask(&one), ask(&other));
        let runs = until_runs(&place, "long", 2).await;
        assert!(runs[0].ended <= runs[1].started, "{runs:?}");
        assert_eq!(counts.most.load(std::sync::atomic::Ordering::SeqCst), 1);
    }
}
