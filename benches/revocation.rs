//! Measures the time from a commit to the changed verdict, for every kind of change, on
//! both stores, at 5,000 requests/s: `cargo bench --bench revocation`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a benchmark prints figures and panics if it cannot continue"
)]
#![allow(unreachable_pub, reason = "modules are shared with the tests")]

#[path = "../tests/it/revocation/measure.rs"]
mod measure;
#[allow(dead_code, unused_imports, reason = "a part of the tests' support is used here")]
#[path = "../tests/it/support/mod.rs"]
mod support;

use std::time::Duration;

use measure::{Kind, Load, Scene, Times};
use support::boxes::Store;

/// The design's target for the 99th percentile.
const TARGET: Duration = Duration::from_millis(10);
const LOAD: u64 = 5_000;
const CHANGES: usize = 400;

#[tokio::main]
async fn main() {
    for store in Store::BOTH {
        let scene = Scene::new(store).await;
        let load = Load::begin(scene.porter.gate, LOAD);
        let mut all = Vec::new();
        for kind in Kind::of(store) {
            let times = scene.time(kind, CHANGES).await;
            println!("{store:?}  {:<9} {times}", format!("{kind:?}"));
            all.push(times);
        }
        let all = Times::together(&all);
        let verdict = if all.percentile(99) <= TARGET { "met" } else { "missed" };
        println!("{store:?}  all       {all}; target p99 {TARGET:?}: {verdict}");
        println!(
            "{store:?}  meanwhile {:.0} requests/s of {LOAD}, all granted\n",
            load.end().await
        );
    }
}
