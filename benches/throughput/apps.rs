//! What a request costs on boxes with few and with many apps: each request is for another app
//! than the one before.

use std::time::Duration;

use crate::footprint::{float, mebibytes, pairs, start};
use crate::load::{Load, Slice};
use crate::process::Process;
use crate::sample::SampleBox;
use crate::{Length, ask, median, start_load};

/// How many terminals the requests come from.
const TERMINALS: usize = 10;

/// The threads that answer requests.
const GATE: &str = "gate-";

/// How long requests for every app may take, once each.
const WARM_UP: Duration = Duration::from_secs(600);

/// A box with its nightporter and a load generator.
struct Running {
    apps: usize,
    target: std::net::SocketAddr,
    server: Process,
    load: Process,
    _sample: SampleBox,
}

/// Processor time per request in microseconds.
#[derive(Clone, Copy)]
struct Cost {
    gate: f64,
    process: f64,
}

pub fn print(length: &Length) {
    println!("\nprocessor time per request by number of apps, {TERMINALS} terminals\n");
    let mut boxes: Vec<_> = length.boxes.iter().map(|apps| run(*apps)).collect();
    // All take turns, so that other load on the machine affects all of them.
    let rounds: Vec<Vec<Cost>> = (0..length.pairs)
        .map(|_| boxes.iter_mut().map(|running| cost(running, length.slice)).collect())
        .collect();
    for (place, running) in boxes.iter().enumerate() {
        let of = |cost: fn(&Cost) -> f64| median(rounds.iter().map(|round| cost(&round[place]))).0;
        let ratio = rounds.iter().map(|round| round[place].gate / round[0].gate);
        let (ratio, [least, most]) = median(ratio);
        println!(
            "  {:>7} apps  gate {:>6.2} µs  all threads {:>6.2} µs  ratio {ratio:.3} \
             [{least:.3}, {most:.3}]  (target ≤ 1.20)  {:>6.1} MiB resident",
            running.apps,
            of(|cost| cost.gate),
            of(|cost| cost.process),
            mebibytes(running.server.resident())
        );
    }
}

/// Starts a box and requests each of its apps once.
fn run(apps: usize) -> Running {
    let sample = SampleBox::new(apps, TERMINALS);
    let ((target, server), _) = start(&sample.config(""));
    let settings = pairs(apps, (0..TERMINALS).map(SampleBox::cookie).collect());
    let mut load = start_load(&sample, "load.json", &settings);
    ask(&mut load, Slice { target, longest: WARM_UP, most: apps });
    Running { apps, target, server, load, _sample: sample }
}

fn cost(running: &mut Running, longest: Duration) -> Cost {
    let Running { target, server, load, .. } = running;
    let before = [server.cpu_of(GATE), server.cpu()];
    let Load { requests, .. } = ask(load, Slice { target: *target, longest, most: usize::MAX });
    let after = [server.cpu_of(GATE), server.cpu()];
    let [gate, process] = [0, 1].map(|of| float(after[of] - before[of]) / float(requests as u64));
    Cost { gate, process }
}
