//! What pages say, in each language.
//!
//! A language is one file beside this one, named in [`LANGUAGES`]. The compiler
//! asks for every text; the tests, for every hole `{{...}}` that the English has.

mod de;
mod en;

use http::HeaderMap;
use http::header::ACCEPT_LANGUAGE;

/// English first: for those who ask for none of these.
static LANGUAGES: [&Words; 2] = [&en::WORDS, &de::WORDS];

/// Everything a page says in one language.
#[derive(Debug)]
#[cfg_attr(test, derive(serde::Serialize))]
pub(super) struct Words {
    /// BCP 47; the primary subtag alone, for all its regions.
    pub lang: &'static str,
    pub phases: Phases,
    pub failures: Failures,
    /// `{{reason}}` is one of [`Words::failures`].
    pub last_attempt: &'static str,
    /// After a failure's reason; `{{time}}` is the longest it takes.
    pub next_attempt: &'static str,
    /// When that time is over.
    pub next_now: &'static str,
    /// While an app starts; `{{usual}}` is what it took the last time, `{{time}}` what it
    /// has taken now.
    pub usual: &'static str,
    pub usual_so_far: &'static str,
    pub longer: &'static str,
    /// Where it is not known what it takes.
    pub so_far: &'static str,
    /// `{{count}}` of each.
    pub seconds: &'static str,
    pub minutes: &'static str,
    pub denied: Said,
    /// After [`Words::denied`]; `{{domain}}` is the box's.
    pub sign_in_at: &'static str,
    pub sign_in: &'static str,
    /// In place of the detail of [`Words::denied`] where nobody may see it.
    pub forbidden: &'static str,
    /// The app answered 500.
    pub error: Said,
    pub unanswered: Unanswered,
    /// `{{port}}` is a number.
    pub on_port: &'static str,
    pub statuses: Statuses,
    pub states: States,
    /// Under what is under way.
    pub opens_itself: &'static str,
    /// The same without a script, which would see that nothing else is opened.
    pub may_be_download: &'static str,
    pub try_again: &'static str,
    pub go_back: &'static str,
    /// Above the containers.
    pub details: &'static str,
    pub status: &'static str,
    pub container: &'static str,
    /// The app is awake, and the page is still there.
    pub delivered: Said,
    /// No news comes through; `{{time}}` is when the page is loaded again.
    pub no_news: &'static str,
    pub offline: &'static str,
}

/// A headline, and a sentence about it.
#[derive(Debug, Clone, Copy)]
#[cfg_attr(test, derive(PartialEq, Eq, serde::Serialize))]
pub(super) struct Said {
    pub text: &'static str,
    pub detail: &'static str,
}

/// One for each [`crate::domain::lifecycle::Phase`].
#[derive(Debug)]
#[cfg_attr(test, derive(serde::Serialize))]
pub(super) struct Phases {
    pub awake: Said,
    pub stopped: Said,
    pub paused: Said,
    pub missing: Said,
    /// `{{place}}` is a number, never 1.
    pub queued: Said,
    pub next: Said,
    pub starting: Said,
    pub unpausing: Said,
    pub awaiting_health: Said,
    /// `{{port}}` is [`Words::on_port`], or left out.
    pub awaiting_port: Said,
    pub failed: &'static str,
    pub low_disk: Said,
    /// `{{size}}` is `S`, say.
    pub too_small: Said,
}

/// One for each [`crate::domain::lifecycle::FailureKind`].
#[derive(Debug)]
#[cfg_attr(test, derive(serde::Serialize))]
pub(super) struct Failures {
    pub exited: &'static str,
    pub out_of_memory: &'static str,
    /// `{{image}}` is its name, or left out.
    pub image_missing: &'static str,
    pub image_not_fetched: &'static str,
    pub unhealthy: &'static str,
    /// `{{time}}` is how long it had.
    pub not_ready: &'static str,
    pub interrupted: &'static str,
    pub refused: &'static str,
    pub engine_away: &'static str,
    pub not_made: &'static str,
    pub store_away: &'static str,
    pub internal: &'static str,
}

/// An app that counts as awake, and whose proxy has got no answer from it. `{{port}}` is
/// [`Words::on_port`], or left out; `{{time}}` is for how long.
#[derive(Debug)]
#[cfg_attr(test, derive(serde::Serialize))]
pub(super) struct Unanswered {
    pub soon: Said,
    pub runs: Said,
    /// It is not known whether it runs.
    pub unknown: Said,
    /// Something has answered that it serves nobody now.
    pub busy: Said,
}

/// The status that the store keeps of an app.
#[derive(Debug)]
#[cfg_attr(test, derive(serde::Serialize))]
pub(super) struct Statuses {
    pub unknown: Said,
    pub running: Said,
    pub stopped: Said,
    pub paused: Said,
    pub down: Said,
    pub error: Said,
    pub installation_queued: Said,
    pub installing: Said,
    pub reinstallation_queued: Said,
    pub reinstalling: Said,
    pub uninstallation_queued: Said,
    pub uninstalling: Said,
    /// Any other.
    pub other: Said,
}

/// The engine's words for one container.
#[derive(Debug)]
#[cfg_attr(test, derive(serde::Serialize))]
pub(super) struct States {
    pub created: &'static str,
    pub running: &'static str,
    pub restarting: &'static str,
    pub removing: &'static str,
    pub paused: &'static str,
    pub exited: &'static str,
    pub dead: &'static str,
}

impl Words {
    /// Those of the language that a client likes best (RFC 9110 section 12.5.4).
    pub fn for_client(headers: &HeaderMap) -> &'static Self {
        let ranges: Vec<_> = headers
            .get_all(ACCEPT_LANGUAGE)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .filter_map(weighed)
            .collect();
        let mut best = (LANGUAGES[0], 0.0);
        for words in LANGUAGES {
            // A language that is named is not what `*` stands for.
            let named = ranges.iter().filter(|(range, _)| primary(range) == words.lang);
            let any = ranges.iter().filter(|(range, _)| range == "*");
            let heaviest = |weights: f32, (_, weight): &(String, f32)| weights.max(*weight);
            let weight = match named.clone().next() {
                Some(_) => named.fold(0.0, heaviest),
                None => any.fold(0.0, heaviest),
            };
            if weight > best.1 {
                best = (words, weight);
            }
        }
        best.0
    }

    /// The word for the state of a container.
    pub fn state<'a>(&self, word: &'a str) -> &'a str {
        let States { created, running, restarting, removing, paused, exited, dead } = self.states;
        match word {
            "created" => created,
            "running" => running,
            "restarting" => restarting,
            "removing" => removing,
            "paused" => paused,
            "exited" => exited,
            "dead" => dead,
            _ => word,
        }
    }

    /// What is said of an app whose row has that status.
    pub fn status(&self, word: &str) -> Said {
        match word {
            "unknown" => self.statuses.unknown,
            "running" => self.statuses.running,
            "stopped" => self.statuses.stopped,
            "paused" => self.statuses.paused,
            "down" => self.statuses.down,
            "error" => self.statuses.error,
            "installation_queued" => self.statuses.installation_queued,
            "installing" => self.statuses.installing,
            "reinstallation_queued" => self.statuses.reinstallation_queued,
            "reinstalling" => self.statuses.reinstalling,
            "uninstallation_queued" => self.statuses.uninstallation_queued,
            "uninstalling" => self.statuses.uninstalling,
            _ => self.statuses.other,
        }
    }
}

/// A language range in lower case, and its weight.
fn weighed(item: &str) -> Option<(String, f32)> {
    let mut parts = item.split(';').map(str::trim);
    let range = parts.next()?.to_ascii_lowercase();
    let weight = match parts.find_map(|part| part.strip_prefix(['q', 'Q'])) {
        Some(weight) => weight.trim_start().strip_prefix('=')?.trim_start().parse().ok()?,
        None => 1.0,
    };
    (0.0..=1.0).contains(&weight).then_some((range, weight))
}

fn primary(range: &str) -> &str {
    range.split_once('-').map_or(range, |(primary, _)| primary)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::Value;

    use super::*;

    #[test]
    fn the_language_is_the_one_liked_best() {
        for (accepted, lang) in [
            (&[][..], "en"),
            (&[""], "en"),
            (&["de"], "de"),
            (&["de-AT,de;q=0.9,en;q=0.8"], "de"),
            (&["DE-ch"], "de"),
            (&["en-GB,en;q=0.9,de;q=0.8"], "en"),
            (&["fr, de;q=0.4, en;q=0.3"], "de"),
            (&["fr"], "en"),
            (&["fr", "de;q=0.1"], "de"),
            (&["en;q=0.2;x=1, de ; Q = 0.3"], "de"),
            (&["*"], "en"),
            (&["en;q=0, *"], "de"),
            (&["en;q=0.1, *;q=0.5"], "de"),
            (&["de;q=0"], "en"),
            (&["den"], "en"),
            (&["de;q=2"], "en"),
            (&["de;q=NaN"], "en"),
            (&["de;q"], "en"),
            (&["de;q=-1, , ;q=1"], "en"),
        ] {
            let mut headers = HeaderMap::new();
            for value in accepted {
                headers.append(ACCEPT_LANGUAGE, value.parse().expect("a value"));
            }
            assert_eq!(Words::for_client(&headers).lang, lang, "{accepted:?}");
        }
    }

    #[test]
    fn every_language_says_everything_and_fills_the_same_holes() {
        let english = texts(LANGUAGES[0]);
        for words in LANGUAGES {
            for (name, text) in texts(words) {
                assert!(!text.trim().is_empty(), "{}: {name} is empty", words.lang);
                assert_eq!(text.trim(), text, "{}: {name}", words.lang);
                assert_eq!(holes(&text), holes(&english[&name]), "{}: {name}", words.lang);
            }
        }
        let mut langs: Vec<_> = LANGUAGES.iter().map(|words| words.lang).collect();
        langs.dedup();
        assert_eq!(langs.len(), LANGUAGES.len(), "{langs:?}");
    }

    /// Every text of a language by its name.
    fn texts(words: &Words) -> BTreeMap<String, String> {
        let mut texts = BTreeMap::new();
        let mut left = vec![(String::new(), serde_json::to_value(words).expect("plain"))];
        while let Some((name, value)) = left.pop() {
            match value {
                Value::Object(map) => {
                    left.extend(
                        map.into_iter().map(|(key, value)| (format!("{name}.{key}"), value)),
                    );
                }
                Value::String(text) => {
                    texts.insert(name, text);
                }
                other => panic!("{name} is no text: {other}"),
            }
        }
        assert!(texts.len() > 60, "{texts:?}");
        texts
    }

    fn holes(text: &str) -> Vec<&str> {
        let mut holes: Vec<_> =
            text.split("{{").skip(1).filter_map(|part| part.split("}}").next()).collect();
        holes.sort_unstable();
        holes
    }
}
