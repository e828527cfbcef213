//! A sentence with a running time: the page's script updates it every second; without the
//! script it changes each time the page is loaded.

use std::time::Duration;

use serde::Serialize;

use super::template::fill;
use super::words::Words;

/// A time in seconds, and the sentences to show as it changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Clock {
    at: u64,
    /// The amount that each second adds.
    by: i8,
    /// Each sentence with the time from which on it is shown; `{{time}}` in it stands for
    /// the current time.
    said: Vec<(u64, String)>,
    /// The texts for seconds and minutes; the page has its own copy.
    #[serde(skip)]
    units: [&'static str; 2],
}

/// The number of seconds from which on times are written in minutes.
const MINUTES: u64 = 120;

/// The number of seconds from which on the duration of a start is shown.
const SHOWN_FROM: u64 = 3;

impl Clock {
    pub fn until_next_attempt(seconds: u64, words: &Words) -> Self {
        let said = vec![(0, words.next_now.to_owned()), (1, words.next_attempt.to_owned())];
        Self { at: seconds, by: -1, said, units: units(words) }
    }

    /// Describes a start that has taken `elapsed` so far; `usual` is how long the last one
    /// took.
    pub fn of_start(elapsed: Duration, usual: Option<Duration>, words: &Words) -> Self {
        let said = match usual.map(|usual| estimate(usual.as_secs())) {
            Some(usual) if usual >= SHOWN_FROM => {
                let with_usual = |text: &str| {
                    fill(text, |hole| match hole {
                        "usual" => time(usual, words),
                        other => format!("{{{{{other}}}}}"),
                    })
                };
                vec![
                    (0, with_usual(words.usual)),
                    (SHOWN_FROM, with_usual(words.usual_so_far)),
                    (usual + usual / 2 + SHOWN_FROM, words.longer.to_owned()),
                ]
            }
            _ => vec![(0, String::new()), (SHOWN_FROM, words.so_far.to_owned())],
        };
        Self { at: elapsed.as_secs(), by: 1, said, units: units(words) }
    }

    /// Returns the current sentence.
    pub fn now(&self) -> String {
        let Self { at, said, units, .. } = self;
        let (_, text) = said.iter().rev().find(|(from, _)| from <= at).unwrap_or(&said[0]);
        fill(text, |_| format_time(*at, units))
    }

    pub fn to_json(&self) -> String {
        // Serializing strings and numbers does not fail.
        serde_json::to_string(self).unwrap_or_default()
    }
}

fn units(words: &Words) -> [&'static str; 2] {
    [words.seconds, words.minutes]
}

/// Formats a time for people.
pub(super) fn time(seconds: u64, words: &Words) -> String {
    format_time(seconds, &units(words))
}

fn format_time(seconds: u64, [in_seconds, in_minutes]: &[&str; 2]) -> String {
    if seconds < MINUTES {
        fill(in_seconds, |_| seconds.to_string())
    } else {
        fill(in_minutes, |_| (seconds / 60).to_string())
    }
}

/// Rounds a time up to an estimate as a person would give it.
fn estimate(seconds: u64) -> u64 {
    match seconds {
        0..10 => seconds + 1,
        10..60 => (seconds + 5) / 5 * 5,
        _ => (seconds + 30) / 30 * 30,
    }
}

/// Rounds up to whole seconds, at least one.
pub(super) fn rounded_up(duration: Duration) -> u64 {
    let seconds = duration.as_secs();
    if duration.subsec_nanos() > 0 { seconds.saturating_add(1) } else { seconds.max(1) }
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;

    #[test]
    fn a_start_is_said_to_take_as_long_as_the_last_one_did() {
        let words = Words::for_client(&HeaderMap::new());
        for (elapsed, usual, said) in [
            (0, None, ""),
            (2, None, ""),
            (3, None, "3\u{a0}s so far."),
            (130, None, "2\u{a0}min so far."),
            (0, Some(1), ""),
            (0, Some(7), "Usually ready in about 8\u{a0}s."),
            (0, Some(18), "Usually ready in about 20\u{a0}s."),
            (7, Some(18), "Usually ready in about 20\u{a0}s, 7\u{a0}s so far."),
            (32, Some(18), "Usually ready in about 20\u{a0}s, 32\u{a0}s so far."),
            (33, Some(18), "Takes longer than usual: 33\u{a0}s so far."),
            (1, Some(170), "Usually ready in about 3\u{a0}min."),
        ] {
            let usual = usual.map(Duration::from_secs);
            let clock = Clock::of_start(Duration::from_secs(elapsed), usual, words);
            assert_eq!(clock.now(), said, "{elapsed} {usual:?}");
        }
    }

    #[test]
    fn the_next_attempt_is_told_until_it_is_made() {
        let words = Words::for_client(&HeaderMap::new());
        for (seconds, said) in [
            (0, "The next attempt is about to begin."),
            (1, "Next attempt within 1\u{a0}s."),
            (119, "Next attempt within 119\u{a0}s."),
            (120, "Next attempt within 2\u{a0}min."),
        ] {
            assert_eq!(Clock::until_next_attempt(seconds, words).now(), said);
        }
    }
}
