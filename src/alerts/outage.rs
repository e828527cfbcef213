//! For how long this process could not use the archive.
//!
//! Meanwhile the other processes of the box could not say either that they still observe what
//! they did. So what has expired then counts until they have had time to say it again: or else
//! each of their alerts would resolve and fire anew.

use std::time::Duration;

use tokio::time::Instant;

/// How long the archive is not used at most while it works.
const USUAL: Duration = Duration::from_secs(60);

/// How long all processes need to write what they observe, once the archive is back.
const RETURN: Duration = Duration::from_secs(60);

/// When the archive was used, and its last outage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Outage {
    used: Instant,
    /// The last use before the outage, and the first one after it.
    last: Option<(Instant, Instant)>,
}

impl Outage {
    pub(super) fn new(now: Instant) -> Self {
        Self { used: now, last: None }
    }

    /// Notes that the archive has answered.
    pub(super) fn note_use(&mut self, now: Instant) {
        if now.duration_since(self.used) > USUAL {
            self.last = Some((self.used, now));
        }
        self.used = now;
    }

    /// Returns how long ago an observation must have expired not to count any more.
    pub(super) fn grace(&self, now: Instant) -> Duration {
        match self.last {
            Some((began, ended)) if now.duration_since(ended) < RETURN => now.duration_since(began),
            _ => Duration::ZERO,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_expired_in_an_outage_counts_until_all_had_time_to_write() {
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let mut outage = Outage::new(begun);
        for second in (0..=100).step_by(10) {
            outage.note_use(at(second));
            assert_eq!(outage.grace(at(second)), Duration::ZERO);
        }
        // Away for 10 minutes.
        outage.note_use(at(700));
        assert_eq!(outage.grace(at(700)), Duration::from_secs(600));
        outage.note_use(at(710));
        assert_eq!(outage.grace(at(710)), Duration::from_secs(610));
        assert_eq!(outage.grace(at(759)), Duration::from_secs(659));
        assert_eq!(outage.grace(at(760)), Duration::ZERO);
        // A process that began while the archive was away.
        let mut outage = Outage::new(begun);
        outage.note_use(at(300));
        assert_eq!(outage.grace(at(301)), Duration::from_secs(301));
    }
}
