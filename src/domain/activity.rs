//! The activity that keeps an app awake besides granted requests.

/// Which kinds of activity count as use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Activity {
    /// Bytes transferred both to and from the containers that serve requests, minus what
    /// these exchange with the app's other containers.
    pub traffic: bool,
    /// A command that runs in a container by `docker exec`, such as a backup.
    pub exec: bool,
    /// Processor time above a threshold.
    pub cpu: bool,
}

impl Default for Activity {
    fn default() -> Self {
        Self { traffic: true, exec: true, cpu: false }
    }
}

impl Activity {
    /// Nothing but requests.
    pub const NONE: Self = Self { traffic: false, exec: false, cpu: false };

    /// Parses any combination of `traffic`, `exec` and `cpu`, joined by `+`, or `none`.
    #[must_use]
    pub fn named(text: &str) -> Option<Self> {
        let mut activity = Self::NONE;
        if text.trim() == "none" {
            return Some(activity);
        }
        for word in text.split('+') {
            match word.trim() {
                "traffic" => activity.traffic = true,
                "exec" => activity.exec = true,
                "cpu" => activity.cpu = true,
                _ => return None,
            }
        }
        Some(activity)
    }
}

/// Bytes that one or several containers have transferred in one interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traffic {
    pub received: u64,
    pub sent: u64,
}

/// Bytes that other containers may transfer beyond what they exchange with the entrypoint
/// before the exchange can no longer be separated: DNS requests and the like.
const SLACK: u64 = 2048;

impl Traffic {
    /// Returns whether a client outside of the app was served. Bytes must have been
    /// transferred both ways, since incoming bytes alone are the background traffic of a
    /// network.
    ///
    /// The app's other containers have transferred between `least` and `most`, since not
    /// all can be counted at the same moment. The entrypoint may have received what they
    /// have sent, and the other way round. If they have transferred more than they can
    /// have exchanged with it, they communicate with each other or with others, which
    /// cannot be told apart: that keeps the app awake.
    #[must_use]
    pub fn is_use(self, most: Self, least: Self, threshold: u64) -> bool {
        let exceeds_threshold =
            |traffic: Self| traffic.received.min(traffic.sent) >= threshold.max(1);
        let exceeds = |part: u64, own: u64| part > own.saturating_add(own / 4 + SLACK);
        let outside = Self {
            received: self.received.saturating_sub(most.sent),
            sent: self.sent.saturating_sub(most.received),
        };
        let is_unclear = exceeds(least.sent, self.received) || exceeds(least.received, self.sent);
        exceeds_threshold(outside) || (is_unclear && exceeds_threshold(self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn activity_is_named_by_its_parts() {
        let all = Activity { traffic: true, exec: true, cpu: true };
        assert_eq!(Activity::named("traffic+exec+cpu"), Some(all));
        assert_eq!(Activity::named(" exec + traffic "), Some(Activity::default()));
        assert_eq!(Activity::named("none"), Some(Activity::NONE));
        for text in ["", "traffic,exec", "none+exec", "Traffic", "cpu+"] {
            assert_eq!(Activity::named(text), None, "{text}");
        }
    }

    #[test]
    fn what_parts_say_to_each_other_is_no_use() {
        let moved = |received, sent| Traffic { received, sent };
        let nothing = Traffic::default();
        for (own, parts, expected, why) in [
            (nothing, nothing, false, "silence"),
            (moved(54, 54), nothing, true, "a segment and its answer"),
            (moved(1_000_000, 53), nothing, false, "only received"),
            (moved(5000, 5000), moved(5000, 5000), false, "a poll of the database"),
            (moved(5000, 5000), moved(5200, 5200), false, "and DNS requests"),
            (moved(5200, 9000), moved(5000, 5000), true, "a download beside it"),
            (moved(5100, 5100), moved(5000, 5000), true, "a ping beside it"),
            (moved(5000, 5000), moved(90_000, 90_000), true, "it cannot be told apart"),
            (nothing, moved(90_000, 90_000), false, "all behind the entrypoint"),
            (moved(40, 40), moved(90_000, 90_000), false, "and it is silent"),
        ] {
            assert_eq!(own.is_use(parts, parts, 54), expected, "{why}");
        }
        // Counted over a longer time, and over a shorter one, than the entrypoint.
        assert!(!moved(5000, 5000).is_use(moved(30_000, 30_000), moved(3000, 3000), 54));
    }
}
