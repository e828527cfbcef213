//! The texts of the pages in each language.
//!
//! A language is one file beside this one, listed in [`LANGUAGES`]. The compiler requires
//! every text; the tests require every placeholder `{{...}}` that the English text has.

mod de;
mod en;

use http::HeaderMap;
use http::header::ACCEPT_LANGUAGE;

/// English comes first: it is used if the client prefers none of these.
static LANGUAGES: [&Words; 2] = [&en::WORDS, &de::WORDS];

/// All texts of the pages in one language.
#[derive(Debug)]
#[cfg_attr(test, derive(serde::Serialize))]
pub(super) struct Words {
    /// The language tag (BCP 47): the primary subtag only, for all its regions.
    pub lang: &'static str,
    pub phases: Phases,
    pub failures: Failures,
    /// `{{reason}}` is one of [`Words::failures`].
    pub last_attempt: &'static str,
    /// Follows a failure's reason; `{{time}}` is the longest time until the attempt.
    pub next_attempt: &'static str,
    /// Shown when that time is over.
    pub next_now: &'static str,
    /// Shown while an app starts; `{{usual}}` is how long the last start took, `{{time}}`
    /// how long this one has taken so far.
    pub usual: &'static str,
    pub usual_so_far: &'static str,
    pub longer: &'static str,
    /// Shown if the usual time is not known.
    pub so_far: &'static str,
    /// `{{count}}` is the number of seconds or minutes; no line may end between it and the unit.
    pub seconds: &'static str,
    pub minutes: &'static str,
    pub denied: Message,
    /// Follows [`Words::denied`]; `{{domain}}` is the box's domain.
    pub sign_in_at: &'static str,
    pub sign_in: &'static str,
    /// Follows [`Words::denied`] where devices are paired with a code.
    pub pair_here: &'static str,
    /// Follows [`Words::denied`] on a host outside of the box's domain, which is `{{domain}}`.
    pub pair_nowhere: &'static str,
    pub pairing: PairingWords,
    /// Replaces the detail of [`Words::denied`] if no client has access.
    pub forbidden: &'static str,
    /// The app answered 500.
    pub error: Message,
    pub unanswered: Unanswered,
    /// `{{port}}` is a number.
    pub on_port: &'static str,
    pub statuses: Statuses,
    pub states: States,
    /// Shown below a start in progress.
    pub opens_itself: &'static str,
    /// An addition for browsers without scripts: a script notices if the app's response is
    /// a download and no page opens.
    pub may_be_download: &'static str,
    pub try_again: &'static str,
    pub go_back: &'static str,
    /// The heading of the containers.
    pub details: &'static str,
    pub status: &'static str,
    pub container: &'static str,
    /// The app is awake and has answered, but the page is still shown.
    pub delivered: Message,
    /// The page's polls fail; `{{time}}` is the time until the page is reloaded.
    pub no_news: &'static str,
    pub offline: &'static str,
}

/// The texts of the page that pairs a device.
#[derive(Debug)]
#[cfg_attr(test, derive(serde::Serialize))]
pub(super) struct PairingWords {
    /// The link on other pages, too.
    pub title: &'static str,
    /// `{{domain}}` is the box's.
    pub detail: &'static str,
    pub code: &'static str,
    pub code_hint: &'static str,
    pub name: &'static str,
    pub name_hint: &'static str,
    pub button: &'static str,
    pub wrong_code: &'static str,
    pub too_many: &'static str,
    pub other_site: &'static str,
    pub needs_https: &'static str,
    pub busy: &'static str,
    pub unavailable: &'static str,
    /// Names to begin with.
    pub phone: &'static str,
    pub tablet: &'static str,
    pub computer: &'static str,
}

/// A headline and a sentence that explains it.
#[derive(Debug, Clone, Copy)]
#[cfg_attr(test, derive(PartialEq, Eq, serde::Serialize))]
pub(super) struct Message {
    pub text: &'static str,
    pub detail: &'static str,
}

/// One message for each [`crate::domain::lifecycle::Phase`].
#[derive(Debug)]
#[cfg_attr(test, derive(serde::Serialize))]
pub(super) struct Phases {
    pub awake: Message,
    pub stopped: Message,
    pub paused: Message,
    pub missing: Message,
    /// `{{place}}` is a number, never 1.
    pub queued: Message,
    pub next: Message,
    pub starting: Message,
    pub unpausing: Message,
    pub awaiting_health: Message,
    /// `{{port}}` is [`Words::on_port`], or left out.
    pub awaiting_port: Message,
    pub failed: &'static str,
    pub low_disk: Message,
    /// `{{size}}` is a size such as `S`.
    pub too_small: Message,
}

/// One text for each [`crate::domain::lifecycle::WakeErrorKind`].
#[derive(Debug)]
#[cfg_attr(test, derive(serde::Serialize))]
pub(super) struct Failures {
    pub exited: &'static str,
    pub out_of_memory: &'static str,
    /// `{{image}}` is its name, or left out.
    pub image_missing: &'static str,
    pub image_not_fetched: &'static str,
    pub unhealthy: &'static str,
    /// `{{time}}` is the time limit.
    pub not_ready: &'static str,
    pub interrupted: &'static str,
    pub refused: &'static str,
    pub engine_away: &'static str,
    pub not_made: &'static str,
    pub store_away: &'static str,
    pub internal: &'static str,
}

/// Messages for an app that counts as awake but did not answer the proxy. `{{port}}` is
/// [`Words::on_port`], or left out; `{{time}}` is how long the app has not answered.
#[derive(Debug)]
#[cfg_attr(test, derive(serde::Serialize))]
pub(super) struct Unanswered {
    pub soon: Message,
    pub runs: Message,
    /// It is not known whether the app runs.
    pub unknown: Message,
    /// The app or a proxy has answered 503.
    pub busy: Message,
}

/// One message for each status of an app in the store.
#[derive(Debug)]
#[cfg_attr(test, derive(serde::Serialize))]
pub(super) struct Statuses {
    pub unknown: Message,
    pub running: Message,
    pub stopped: Message,
    pub paused: Message,
    pub down: Message,
    pub error: Message,
    pub installation_queued: Message,
    pub installing: Message,
    pub reinstallation_queued: Message,
    pub reinstalling: Message,
    pub uninstallation_queued: Message,
    pub uninstalling: Message,
    /// Any other.
    pub other: Message,
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
    /// Returns the texts in the language that the client prefers (RFC 9110 section 12.5.4).
    pub fn for_client(headers: &HeaderMap) -> &'static Self {
        let ranges: Vec<_> = headers
            .get_all(ACCEPT_LANGUAGE)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .filter_map(parse_range)
            .collect();
        let mut best = (LANGUAGES[0], 0.0);
        for words in LANGUAGES {
            // `*` does not apply to a language that is listed explicitly.
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

    /// Returns the word for the state of a container.
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

    /// Returns the message for an app with this status in the store.
    pub fn status(&self, word: &str) -> Message {
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

/// Parses a language range and its weight; the range is returned in lower case.
fn parse_range(item: &str) -> Option<(String, f32)> {
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
                let expected = placeholders(&english[&name]);
                assert_eq!(placeholders(&text), expected, "{}: {name}", words.lang);
            }
        }
        let mut langs: Vec<_> = LANGUAGES.iter().map(|words| words.lang).collect();
        langs.dedup();
        assert_eq!(langs.len(), LANGUAGES.len(), "{langs:?}");
    }

    /// Returns every text of a language by its name.
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
                other => panic!("{name} is not a text: {other}"),
            }
        }
        assert!(texts.len() > 60, "{texts:?}");
        texts
    }

    fn placeholders(text: &str) -> Vec<&str> {
        let mut placeholders: Vec<_> =
            text.split("{{").skip(1).filter_map(|part| part.split("}}").next()).collect();
        placeholders.sort_unstable();
        placeholders
    }
}
