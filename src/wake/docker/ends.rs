//! Tracks who ended each container, from the engine's events: an inspection does not show
//! it.
//!
//! A stop appears as `kill`, `die`, `stop`; a container that ends by itself appears as
//! `die` alone. An engine that shuts down stops all containers first, and may still send
//! these events. So ends that were reported just before the events broke off do not show
//! anyone's intention.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bollard::models::EventMessage;
use tokio::time::Instant;

use super::{Container, EndedBy, State};

/// How long an engine that shuts down takes to stop its containers.
const ENGINE_STOP: Duration = Duration::from_secs(15);

/// Signals that end a program which does not handle them: SIGINT, SIGQUIT, SIGKILL and
/// SIGTERM, by number and by name.
const ENDING_SIGNALS: [&str; 8] = ["2", "3", "9", "15", "SIGINT", "SIGQUIT", "SIGKILL", "SIGTERM"];

#[derive(Debug, Default)]
pub(super) struct EndTracker(HashMap<Arc<str>, EndRecord>);

/// How old an event may be, in nanoseconds, to be taken for a repetition by a reopened
/// stream; an older one comes from a different clock.
const REPEAT_WINDOW: i64 = 60_000_000_000;

#[derive(Debug, Default)]
struct EndRecord {
    ended: EndedBy,
    /// Whether the run that has ended returned exit code 0.
    exited_cleanly: bool,
    /// Whether an earlier run has ended by itself with exit code 0.
    has_finished: bool,
    /// Who has asked it to end, in its current run.
    asked_by: Option<EndedBy>,
    /// Time of the latest event, in nanoseconds since 1970: a reopened stream repeats the
    /// events of the last seconds.
    last: i64,
    at: Option<Instant>,
}

impl EndRecord {
    /// Notes that another client has asked it to end; the engine may report this after
    /// the end.
    fn note_signal(&mut self) {
        self.asked_by = self.asked_by.or(Some(EndedBy::OtherClient));
        if self.ended == EndedBy::Itself {
            self.ended = EndedBy::OtherClient;
        }
    }
}

impl EndTracker {
    pub(super) fn note_event(&mut self, event: &EventMessage, now: Instant) {
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
        let record = self.0.entry(id.into()).or_default();
        let time = event.time_nano.unwrap_or(record.last);
        if (record.last.saturating_sub(REPEAT_WINDOW)..record.last).contains(&time) {
            return;
        }
        record.last = time;
        record.at = Some(now);
        match action {
            "start" => {
                record.has_finished |= record.ended == EndedBy::Itself && record.exited_cleanly;
                record.asked_by = None;
            }
            "kill" if attribute("signal").is_none_or(|signal| ENDING_SIGNALS.contains(&signal)) => {
                record.note_signal();
            }
            "die" | "died" => {
                record.ended = record.asked_by.unwrap_or(EndedBy::Itself);
                let code = attribute("exitCode").or(attribute("containerExitCode"));
                record.exited_cleanly = code == Some("0");
            }
            "stop" => record.note_signal(),
            _ => {}
        }
    }

    /// Notes what nightporter itself knows of an end: one that it is about to cause, or a
    /// start that the engine has refused.
    pub(super) fn note_known(&mut self, id: &Arc<str>, by: EndedBy) {
        let record = self.0.entry(Arc::clone(id)).or_default();
        record.asked_by = Some(by);
        if record.ended != EndedBy::Unknown || by == EndedBy::Refused {
            record.ended = by;
        }
    }

    /// Handles the loss of the event stream.
    pub(super) fn stream_lost(&mut self, now: Instant) {
        for record in self.0.values_mut() {
            let is_recent = record.at.is_some_and(|at| now.duration_since(at) < ENGINE_STOP);
            if is_recent && matches!(record.ended, EndedBy::Itself | EndedBy::OtherClient) {
                (record.ended, record.asked_by) = (EndedBy::Unknown, None);
            }
        }
    }

    /// Handles a container that was found to be up when the event stream was reopened:
    /// earlier events of it concern an earlier run.
    pub(super) fn note_running(&mut self, container: &Container) {
        if let Some(record) = self.0.get_mut(&container.id).filter(|_| !is_down(container)) {
            (record.ended, record.asked_by) = (EndedBy::Unknown, None);
        }
    }

    /// Sets the fields of a container that are known from events.
    pub(super) fn apply_to(&self, container: &mut Container) {
        if let Some(record) = self.0.get(&container.id) {
            container.ended = record.ended;
            container.has_finished = record.has_finished;
        }
    }

    /// Forgets containers that no longer exist.
    pub(super) fn retain(&mut self, is_there: impl Fn(&Arc<str>) -> bool) {
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

    fn is(ends: &EndTracker) -> (EndedBy, bool) {
        let mut container = Container::sample("wiki", "web", State::Exited);
        ends.apply_to(&mut container);
        (container.ended, container.has_finished)
    }

    #[test]
    fn who_ended_a_container_is_told_by_the_order_of_events() {
        let plain = |word| (word, Vec::new());
        for (events, expected) in [
            (vec![], (EndedBy::Unknown, false)),
            (vec![die("0")], (EndedBy::Itself, false)),
            (vec![die("145")], (EndedBy::Itself, false)),
            (vec![kill("15"), die("0"), plain("stop")], (EndedBy::OtherClient, false)),
            (vec![kill("9"), die("137")], (EndedBy::OtherClient, false)),
            // A signal that does not ask for the end.
            (vec![kill("1"), die("0")], (EndedBy::Itself, false)),
            // Reported in the wrong order, since it ended quickly.
            (vec![die("0"), kill("15"), plain("stop")], (EndedBy::OtherClient, false)),
            (vec![die("0"), kill("15"), plain("start")], (EndedBy::OtherClient, false)),
            // A signal that only this program ends on.
            (vec![kill("28"), die("1"), plain("stop")], (EndedBy::OtherClient, false)),
            // As Podman reports it.
            (vec![plain("stop"), ("died", vec![])], (EndedBy::OtherClient, false)),
            (vec![kill("15"), plain("start"), die("1")], (EndedBy::Itself, false)),
            (vec![die("0"), plain("start"), kill("15"), die("143")], (EndedBy::OtherClient, true)),
            (vec![die("0"), plain("start")], (EndedBy::Itself, true)),
        ] {
            let mut ends = EndTracker::default();
            for (time, (action, attributes)) in (1..).zip(&events) {
                ends.note_event(&event(action, attributes, time), Instant::now());
            }
            assert_eq!(is(&ends), expected, "{events:?}");
            // A reopened stream repeats the last events.
            if let Some((action, attributes)) = events.last() {
                let time = i64::try_from(events.len()).expect("few");
                ends.note_event(&event(action, attributes, time), Instant::now());
                assert_eq!(is(&ends), expected, "again: {events:?}");
            }
        }
    }

    #[test]
    fn what_is_stopped_here_is_stopped_by_nobody_else() {
        let mut ends = EndTracker::default();
        ends.note_known(&"web".into(), EndedBy::Nightporter);
        let (_, attributes) = kill("15");
        ends.note_event(&event("kill", &attributes, 1), Instant::now());
        ends.note_event(&event("die", &[("exitCode", "0")], 2), Instant::now());
        ends.note_event(&event("stop", &[], 3), Instant::now());
        assert_eq!(is(&ends), (EndedBy::Nightporter, false));
        // Noted too late.
        ends.note_event(&event("start", &[], 4), Instant::now());
        ends.note_event(&event("kill", &attributes, 5), Instant::now());
        ends.note_event(&event("die", &[("exitCode", "0")], 6), Instant::now());
        ends.note_known(&"web".into(), EndedBy::Nightporter);
        assert_eq!(is(&ends), (EndedBy::Nightporter, false));
    }

    #[test]
    fn what_is_up_again_has_a_new_end_before_it() {
        let mut ends = EndTracker::default();
        let (_, attributes) = kill("15");
        ends.note_event(&event("kill", &attributes, 1), Instant::now());
        ends.note_event(&event("die", &[("exitCode", "0")], 2), Instant::now());
        // Its start was not observed.
        ends.note_running(&Container::sample("wiki", "web", State::Running));
        ends.note_event(&event("die", &[("exitCode", "1")], 3), Instant::now());
        assert_eq!(is(&ends), (EndedBy::Itself, false));
        // Times of a clock that was ahead do not count.
        ends.note_event(&event("start", &[], 3 * REPEAT_WINDOW), Instant::now());
        ends.note_event(&event("die", &[("exitCode", "1")], REPEAT_WINDOW), Instant::now());
        assert_eq!(is(&ends), (EndedBy::Itself, false));
    }

    #[tokio::test(start_paused = true)]
    async fn an_engine_that_ends_is_nobodys_will() {
        for (later, expected) in [(1, EndedBy::Unknown), (60, EndedBy::OtherClient)] {
            let mut ends = EndTracker::default();
            let (_, attributes) = kill("15");
            ends.note_event(&event("kill", &attributes, 1), Instant::now());
            ends.note_event(&event("die", &[("exitCode", "143")], 2), Instant::now());
            ends.stream_lost(Instant::now() + Duration::from_secs(later));
            assert_eq!(is(&ends).0, expected, "{later} s");
        }
        let mut ends = EndTracker::default();
        ends.note_event(&event("die", &[("exitCode", "0")], 2), Instant::now());
        ends.stream_lost(Instant::now());
        ends.note_event(&event("start", &[], 3), Instant::now());
        assert_eq!(is(&ends), (EndedBy::Unknown, false), "it may not have ended by itself");
    }
}
