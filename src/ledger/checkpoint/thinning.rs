//! Which checkpoints are kept: fewer the older they are.
//!
//! Any one of them proves everything before it. What is lost with the others is only how
//! narrowly the time of a later alteration can be told.

use std::collections::HashSet;
use std::time::Duration;

use crate::ledger::record::{Micros, micros};

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// How long checkpoints are kept: all, then the last of each hour, then the last of each day
/// for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Windows {
    pub all: Duration,
    pub hourly: Duration,
}

/// In the database.
pub const DATABASE: Windows =
    Windows { all: Duration::from_secs(24 * 3600), hourly: Duration::from_secs(30 * 24 * 3600) };

/// In the file beside the key, which is thinned at other times: it keeps each of those that
/// the database keeps.
pub const FILE: Windows = Windows {
    all: Duration::from_secs(2 * 24 * 3600),
    hourly: Duration::from_secs(60 * 24 * 3600),
};

/// Returns the sizes of the checkpoints that are no longer kept. The checkpoints are those of
/// one tree, the smallest first, each with its size and time.
#[must_use]
pub fn thinned<S: Copy>(checkpoints: &[(S, Micros)], now: Micros, windows: Windows) -> Vec<S> {
    let mut taken = HashSet::new();
    let mut removed = Vec::new();
    for (index, (size, at)) in checkpoints.iter().enumerate().rev() {
        let age = now.0.saturating_sub(at.0);
        let is_last = index + 1 == checkpoints.len();
        // The last of an hour may be the last of its day as well.
        let hour = at.0.div_euclid(micros(HOUR));
        let day = at.0.div_euclid(micros(DAY));
        let is_of_new_hour = taken.insert((HOUR, hour));
        let is_of_new_day = taken.insert((DAY, day));
        let is_kept = is_last
            || age <= micros(windows.all)
            || if age <= micros(windows.hourly) { is_of_new_hour } else { is_of_new_day };
        if !is_kept {
            removed.push(*size);
        }
    }
    removed.reverse();
    removed
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const MINUTE: i64 = 60 * 1_000_000;
    const NOW: Micros = Micros(20_000 * 24 * 60 * MINUTE + 7 * MINUTE);

    /// A checkpoint a minute for so many days.
    fn checkpoints(days: i64) -> Vec<(i64, Micros)> {
        let count = days * 24 * 60;
        (0..=count).map(|n| (n, Micros(NOW.0 - (count - n) * MINUTE))).collect()
    }

    fn kept(all: &[(i64, Micros)], windows: Windows) -> Vec<(i64, Micros)> {
        let removed: BTreeSet<_> = thinned(all, NOW, windows).into_iter().collect();
        all.iter().copied().filter(|(size, _)| !removed.contains(size)).collect()
    }

    #[test]
    fn the_older_they_are_the_fewer_are_kept() {
        let all = checkpoints(100);
        let kept = kept(&all, DATABASE);
        let between = |from: i64, to: i64| {
            let day = 24 * 60 * MINUTE;
            let age = |at: Micros| NOW.0 - at.0;
            let is_within = |(_, at): &&(i64, Micros)| (from * day..to * day).contains(&age(*at));
            kept.iter().filter(is_within).count()
        };
        assert_eq!(between(0, 1), 24 * 60);
        // At the ends of a window an hour or a day is only partly in it.
        assert!((28 * 24..=29 * 24 + 1).contains(&between(1, 30)), "{}", between(1, 30));
        assert!((69..=71).contains(&between(30, 101)), "{}", between(30, 101));
        assert_eq!(kept.last(), all.last());
    }

    #[test]
    fn the_file_keeps_what_the_database_keeps() {
        let all = checkpoints(100);
        let file: BTreeSet<_> = kept(&all, FILE).into_iter().collect();
        assert!(kept(&all, DATABASE).iter().all(|checkpoint| file.contains(checkpoint)));
    }

    #[test]
    fn thinning_again_and_again_changes_nothing() {
        let once = kept(&checkpoints(100), DATABASE);
        assert_eq!(kept(&once, DATABASE), once);
        assert_eq!(thinned::<i64>(&[], NOW, DATABASE), [0; 0]);
        let future = [(1, Micros(i64::MAX - 1)), (2, Micros(i64::MAX))];
        assert_eq!(thinned(&future, NOW, DATABASE), [0; 0], "the clock was set back");
        let old = [(1, Micros(0)), (2, Micros(1)), (3, Micros(2))];
        assert_eq!(thinned(&old, NOW, DATABASE), [1, 2], "the last one always stays");
    }
}
