//! What besides granted requests keeps an app awake.

/// Which signs of life count as use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Activity {
    /// Bytes that move both to and from the containers that requests go to, less what
    /// they exchange with other parts of the app.
    pub traffic: bool,
    /// A command that somebody runs in a container, as a backup is.
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

    /// Reads `traffic+exec+cpu`, any of them alone, or `none`.
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

/// Bytes that a container, or several, have moved in one interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Moved {
    pub received: u64,
    pub sent: u64,
}

/// What other parts may have moved beyond what they exchange with the entrypoint for it
/// to be still told apart: requests for addresses and the like.
const SLACK: u64 = 2048;

impl Moved {
    /// Whether somebody outside of the app was served: bytes have moved both ways, since
    /// what only comes in is the chatter of a network.
    ///
    /// The app's other containers have moved `most` or less and `least` or more, since
    /// not all can be counted at one moment. What they have sent the entrypoint may have
    /// received, and the other way round. Where they have moved more than they can have
    /// exchanged with it, they talk among themselves or with others, and nobody can
    /// tell: that keeps the app awake.
    #[must_use]
    pub fn is_use(self, most: Self, least: Self, threshold: u64) -> bool {
        let is_much = |moved: Self| moved.received.min(moved.sent) >= threshold.max(1);
        let exceeds = |part: u64, own: u64| part > own.saturating_add(own / 4 + SLACK);
        let outside = Self {
            received: self.received.saturating_sub(most.sent),
            sent: self.sent.saturating_sub(most.received),
        };
        let is_unclear = exceeds(least.sent, self.received) || exceeds(least.received, self.sent);
        is_much(outside) || (is_unclear && is_much(self))
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
        let moved = |received, sent| Moved { received, sent };
        let nothing = Moved::default();
        for (own, parts, expected, why) in [
            (nothing, nothing, false, "silence"),
            (moved(54, 54), nothing, true, "a segment and its answer"),
            (moved(1_000_000, 53), nothing, false, "only heard"),
            (moved(5000, 5000), moved(5000, 5000), false, "a poll of the database"),
            (moved(5000, 5000), moved(5200, 5200), false, "and requests for addresses"),
            (moved(5200, 9000), moved(5000, 5000), true, "a download beside it"),
            (moved(5100, 5100), moved(5000, 5000), true, "a ping beside it"),
            (moved(5000, 5000), moved(90_000, 90_000), true, "nobody can tell"),
            (nothing, moved(90_000, 90_000), false, "all behind the entrypoint"),
            (moved(40, 40), moved(90_000, 90_000), false, "and it is silent"),
        ] {
            assert_eq!(own.is_use(parts, parts, 54), expected, "{why}");
        }
        // Counted over a longer time, and over a shorter one, than the entrypoint was.
        assert!(!moved(5000, 5000).is_use(moved(30_000, 30_000), moved(3000, 3000), 54));
    }
}
