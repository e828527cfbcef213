//! A token bucket.

use std::sync::atomic::{AtomicI64, Ordering};

use crate::ledger::record::Micros;

/// The time between two events at the highest lasting rate, in microseconds: 200 a second. A
/// record costs some 100 µs of processor time from the request to its place in the tree
/// (`cargo bench --bench throughput -- --only ledger`), so a flood costs a fiftieth of a
/// processor.
const INTERVAL: i64 = 5_000;

/// How many events may follow each other at once.
const BURST: i64 = 1_000;

/// Admits events at a bounded rate.
///
/// It remembers one number, the time at which it would be full again (the generic cell rate
/// algorithm, ITU-T I.371), so that an event that is not admitted writes to nothing that
/// threads share.
#[derive(Debug, Default)]
pub(super) struct Bucket(AtomicI64);

impl Bucket {
    pub(super) fn admit(&self, now: Micros) -> bool {
        let mut full_at = self.0.load(Ordering::Relaxed);
        loop {
            // Further ahead only if the clock was set back.
            let is_possible = full_at <= now.0.saturating_add(BURST * INTERVAL);
            let from = if is_possible { full_at.max(now.0) } else { now.0 };
            let next = from.saturating_add(INTERVAL);
            if next > now.0.saturating_add(BURST * INTERVAL) {
                return false;
            }
            let (set, failed) = (Ordering::Relaxed, Ordering::Relaxed);
            match self.0.compare_exchange_weak(full_at, next, set, failed) {
                Ok(_) => return true,
                Err(current) => full_at = current,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: i64 = 1_000_000_000_000;

    /// Returns how many of a number of events at one time are admitted.
    fn admitted(bucket: &Bucket, at: i64, events: usize) -> usize {
        (0..events).filter(|_| bucket.admit(Micros(at))).count()
    }

    #[test]
    fn a_burst_is_admitted_and_then_the_rate() {
        let bucket = Bucket::default();
        assert_eq!(admitted(&bucket, START, 50_000), 1_000);
        let later = (1..=1000).map(|millis| admitted(&bucket, START + millis * 1000, 100));
        assert_eq!(later.sum::<usize>(), 200);
        assert_eq!(admitted(&bucket, START + 60_000_000, 50_000), 1_000, "full after a while");
    }

    #[test]
    fn a_clock_that_is_set_back_does_not_close_it() {
        let bucket = Bucket::default();
        assert_eq!(admitted(&bucket, START, 50_000), 1_000);
        assert_eq!(admitted(&bucket, START - 3_600_000_000, 50_000), 1_000);
    }

    #[test]
    fn threads_share_it() {
        let bucket = Bucket::default();
        let admitted: usize = std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..4).map(|_| scope.spawn(|| admitted(&bucket, START, 20_000))).collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).sum()
        });
        assert_eq!(admitted, 1_000);
    }
}
