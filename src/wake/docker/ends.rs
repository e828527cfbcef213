//! Who has ended which container, as the engine's events tell: an inspection does not.
//!
//! A stop is `kill`, `die`, `stop`; what ends by itself is `die` alone. An engine that
//! ends itself stops everything first, and may have told so: what was heard just before
//! its events broke off says nothing of what anybody wants.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bollard::models::EventMessage;
use tokio::time::Instant;

use super::{Container, EndedBy, State};

/// How long an engine that ends takes to stop its containers.
const ENGINE_STOP: Duration = Duration::from_secs(15);

/// Signals that end a program which does nothing about them: SIGINT, SIGQUIT, SIGKILL
/// and SIGTERM, by number and by name.
const ENDING: [&str; 8] = ["2", "3", "9", "15", "SIGINT", "SIGQUIT", "SIGKILL", "SIGTERM"];

#[derive(Debug, Default)]
pub(super) struct Ends(HashMap<Arc<str>, Heard>);

/// How far an event may come from the past where a stream that was opened anew tells it
/// once more, in nanoseconds; what is older was told by another clock.
const TOLD_AGAIN: i64 = 60_000_000_000;

#[derive(Debug, Default)]
struct Heard {
    ended: EndedBy,
    /// Whether the run that has ended came to an end of code 0.
    is_well: bool,
    /// Whether an earlier run has done so by itself.
    has_finished: bool,
    /// Who has told it to end, in its current run.
    told: Option<EndedBy>,
    /// The latest event, in nanoseconds since 1970: a stream that is opened anew tells
    /// the last seconds again.
    last: i64,
    at: Option<Instant>,
}

impl Heard {
    /// Somebody has told it to end; the engine may say so when it has ended already.
    fn was_told(&mut self) {
        self.told = self.told.or(Some(EndedBy::Somebody));
        if self.ended == EndedBy::Itself {
            self.ended = EndedBy::Somebody;
        }
    }
}

impl Ends {
    pub(super) fn hear(&mut self, event: &EventMessage, now: Instant) {
        let (Some(action), Some(actor)) = (event.action.as_deref(), &event.actor) else { return };
        let Some(id) = actor.id.as_deref() else { return };
        let attribute = |name: &str| actor.attributes.as_ref()?.get(name).map(String::as_str);
        if matches!(action, "destroy" | "remove") {
            self.0.remove(id);
            return;
        }
        if !matches!(action, "start" | "kill" | "die" | "died" | "stop") {
            return;
        }
        let heard = self.0.entry(id.into()).or_default();
        let time = event.time_nano.unwrap_or(heard.last);
        if (heard.last.saturating_sub(TOLD_AGAIN)..heard.last).contains(&time) {
            return;
        }
        heard.last = time;
        heard.at = Some(now);
        match action {
            "start" => {
                heard.has_finished |= heard.ended == EndedBy::Itself && heard.is_well;
                heard.told = None;
            }
            "kill" if attribute("signal").is_none_or(|signal| ENDING.contains(&signal)) => {
                heard.was_told();
            }
            "die" | "died" => {
                heard.ended = heard.told.unwrap_or(EndedBy::Itself);
                let code = attribute("exitCode").or(attribute("containerExitCode"));
                heard.is_well = code == Some("0");
            }
            "stop" => heard.was_told(),
            _ => {}
        }
    }

    /// What is known here of an end: one that is about to come, or a start that the
    /// engine has refused.
    pub(super) fn tell(&mut self, id: &Arc<str>, by: EndedBy) {
        let heard = self.0.entry(Arc::clone(id)).or_default();
        heard.told = Some(by);
        if heard.ended != EndedBy::Unknown || by == EndedBy::Refused {
            heard.ended = by;
        }
    }

    /// The events have broken off.
    pub(super) fn lost(&mut self, now: Instant) {
        for heard in self.0.values_mut() {
            let is_recent = heard.at.is_some_and(|at| now.duration_since(at) < ENGINE_STOP);
            if is_recent && matches!(heard.ended, EndedBy::Itself | EndedBy::Somebody) {
                (heard.ended, heard.told) = (EndedBy::Unknown, None);
            }
        }
    }

    /// A container was found to be up when the events were followed anew: what was heard
    /// of it before is of an earlier run.
    pub(super) fn found(&mut self, container: &Container) {
        if let Some(heard) = self.0.get_mut(&container.id).filter(|_| !is_down(container)) {
            (heard.ended, heard.told) = (EndedBy::Unknown, None);
        }
    }

    /// Adds to a container what was heard of it.
    pub(super) fn mark(&self, container: &mut Container) {
        if let Some(heard) = self.0.get(&container.id) {
            container.ended = heard.ended;
            container.has_finished = heard.has_finished;
        }
    }

    /// Forgets what there is no more.
    pub(super) fn keep(&mut self, is_there: impl Fn(&Arc<str>) -> bool) {
        self.0.retain(|id, _| is_there(id));
    }
}

fn is_down(container: &Container) -> bool {
    matches!(container.state, State::Exited | State::Created)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bollard::models::EventActor;

    fn event(action: &str, attribute: &[(&str, &str)], time: i64) -> EventMessage {
        let attributes = attribute.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        let actor = EventActor { id: Some("web".into()), attributes: Some(attributes.collect()) };
        let (action, time_nano) = (Some(action.into()), Some(time));
        EventMessage { action, actor: Some(actor), time_nano, ..EventMessage::default() }
    }

    fn kill(signal: &str) -> (&'static str, Vec<(&str, &str)>) {
        ("kill", vec![("signal", signal)])
    }

    fn die(code: &str) -> (&'static str, Vec<(&str, &str)>) {
        ("die", vec![("exitCode", code)])
    }

    fn is(ends: &Ends) -> (EndedBy, bool) {
        let mut container = Container::sample("wiki", "web", State::Exited);
        ends.mark(&mut container);
        (container.ended, container.has_finished)
    }

    #[test]
    fn who_ended_a_container_is_told_by_the_order_of_events() {
        let plain = |word| (word, Vec::new());
        for (heard, expected) in [
            (vec![], (EndedBy::Unknown, false)),
            (vec![die("0")], (EndedBy::Itself, false)),
            (vec![die("145")], (EndedBy::Itself, false)),
            (vec![kill("15"), die("0"), plain("stop")], (EndedBy::Somebody, false)),
            (vec![kill("9"), die("137")], (EndedBy::Somebody, false)),
            // A signal that asks for something else than the end.
            (vec![kill("1"), die("0")], (EndedBy::Itself, false)),
            // Told in the wrong order: it was quick.
            (vec![die("0"), kill("15"), plain("stop")], (EndedBy::Somebody, false)),
            (vec![die("0"), kill("15"), plain("start")], (EndedBy::Somebody, false)),
            // One that this program alone ends by.
            (vec![kill("28"), die("1"), plain("stop")], (EndedBy::Somebody, false)),
            // As Podman tells it.
            (vec![plain("stop"), ("died", vec![])], (EndedBy::Somebody, false)),
            (vec![kill("15"), plain("start"), die("1")], (EndedBy::Itself, false)),
            (vec![die("0"), plain("start"), kill("15"), die("143")], (EndedBy::Somebody, true)),
            (vec![die("0"), plain("start")], (EndedBy::Itself, true)),
        ] {
            let mut ends = Ends::default();
            for (time, (action, attributes)) in (1..).zip(&heard) {
                ends.hear(&event(action, attributes, time), Instant::now());
            }
            assert_eq!(is(&ends), expected, "{heard:?}");
            // A stream that is opened anew tells the end of it again.
            if let Some((action, attributes)) = heard.last() {
                let time = i64::try_from(heard.len()).expect("few");
                ends.hear(&event(action, attributes, time), Instant::now());
                assert_eq!(is(&ends), expected, "again: {heard:?}");
            }
        }
    }

    #[test]
    fn what_is_stopped_here_is_stopped_by_nobody_else() {
        let mut ends = Ends::default();
        ends.tell(&"web".into(), EndedBy::Us);
        let (_, attributes) = kill("15");
        ends.hear(&event("kill", &attributes, 1), Instant::now());
        ends.hear(&event("die", &[("exitCode", "0")], 2), Instant::now());
        ends.hear(&event("stop", &[], 3), Instant::now());
        assert_eq!(is(&ends), (EndedBy::Us, false));
        // Told too late.
        ends.hear(&event("start", &[], 4), Instant::now());
        ends.hear(&event("kill", &attributes, 5), Instant::now());
        ends.hear(&event("die", &[("exitCode", "0")], 6), Instant::now());
        ends.tell(&"web".into(), EndedBy::Us);
        assert_eq!(is(&ends), (EndedBy::Us, false));
    }

    #[test]
    fn what_is_up_again_has_a_new_end_before_it() {
        let mut ends = Ends::default();
        let (_, attributes) = kill("15");
        ends.hear(&event("kill", &attributes, 1), Instant::now());
        ends.hear(&event("die", &[("exitCode", "0")], 2), Instant::now());
        // Nobody heard it start.
        ends.found(&Container::sample("wiki", "web", State::Running));
        ends.hear(&event("die", &[("exitCode", "1")], 3), Instant::now());
        assert_eq!(is(&ends), (EndedBy::Itself, false));
        // What was told by a clock that was ahead is no measure.
        ends.hear(&event("start", &[], 3 * TOLD_AGAIN), Instant::now());
        ends.hear(&event("die", &[("exitCode", "1")], TOLD_AGAIN), Instant::now());
        assert_eq!(is(&ends), (EndedBy::Itself, false));
    }

    #[tokio::test(start_paused = true)]
    async fn an_engine_that_ends_is_nobodys_will() {
        for (later, expected) in [(1, EndedBy::Unknown), (60, EndedBy::Somebody)] {
            let mut ends = Ends::default();
            let (_, attributes) = kill("15");
            ends.hear(&event("kill", &attributes, 1), Instant::now());
            ends.hear(&event("die", &[("exitCode", "143")], 2), Instant::now());
            ends.lost(Instant::now() + Duration::from_secs(later));
            assert_eq!(is(&ends).0, expected, "{later} s");
        }
        let mut ends = Ends::default();
        ends.hear(&event("die", &[("exitCode", "0")], 2), Instant::now());
        ends.lost(Instant::now());
        ends.hear(&event("start", &[], 3), Instant::now());
        assert_eq!(is(&ends), (EndedBy::Unknown, false), "it may not have come by itself");
    }
}
