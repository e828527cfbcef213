//! A grant for an app that is not awake: passed on, held, or answered in its place.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use tokio::sync::SemaphorePermit;
use tokio::time::{Instant, timeout_at};

use super::asker::{is_navigation, poll_version, wants_retry};
use super::client::Once;
use super::forwarded::Forwarded;
use super::memory::App;
use super::verdict::{Asleep, Form, Headers, Verdict, sent_for};
use super::{AsleepApp, Gate, Granted, PageApp};
use crate::domain::lifecycle::Phase;
use crate::domain::reason::Reason;
use crate::domain::strategy::Strategy;
use crate::wake::{AppWake, Shown};

/// Longest that a page's question is kept open: under the 30 s of Traefik, and
/// long enough that an open page costs three requests a minute.
const LONGEST_POLL: Duration = Duration::from_secs(20);

/// Bytes of a head that one place is for.
const PLACE: usize = 16 * 1024;

impl Gate {
    /// Answers a request that is granted for an app that is not awake, or that a
    /// waiting page has marked.
    pub(super) async fn answer_asleep(
        &self,
        headers: &HeaderMap,
        granted: Headers,
        asleep: AsleepApp,
        once: &mut Once,
    ) -> Verdict {
        let AsleepApp { entry, is_ignored, is_prefetch, is_kept_asleep } = asleep;
        let Some(app) = entry.value.as_ref() else {
            return Verdict::Deny(Reason::UnknownApp);
        };
        if !is_ignored && !app.wake.is_awake() {
            if let Ok(forwarded) = Forwarded::read(headers) {
                app.wake.asked_by(forwarded.host);
            }
            app.wake.ask();
        }
        let place = self.place(headers);
        if let Some(version) = poll_version(headers) {
            if !is_ignored && wants_retry(headers) {
                app.wake.retry();
            }
            if place.is_some() {
                self.changed_since(&app.wake, version).await;
            }
            return instead(app, Form::Poll);
        }
        // What is not there yet must not be shown later as what was fetched.
        if is_prefetch {
            return instead(app, Form::Problem);
        }
        if is_kept_asleep {
            return instead(app, Form::KeptAsleep);
        }
        if is_ignored {
            return instead(app, Form::Ignored(sent_for(self.wake.ignore.status)));
        }
        let Ok(forwarded) = Forwarded::read(headers) else {
            return Verdict::Deny(Reason::MalformedRequest);
        };
        match self.strategy(app, is_navigation(headers, forwarded.method)) {
            Strategy::Pass => Verdict::Grant(granted),
            Strategy::Page => instead(app, Form::Page),
            Strategy::Hold if place.is_none() => instead(app, Form::Problem),
            Strategy::Hold => self.hold(headers, &forwarded, &app.wake, once).await,
        }
    }

    /// A place among those who wait.
    fn place(&self, headers: &HeaderMap) -> Option<SemaphorePermit<'_>> {
        self.held.try_acquire_many(places(headers, self.wake.max_held)).ok()
    }

    fn strategy(&self, app: &App, is_navigation: bool) -> Strategy {
        let own = app.described.as_ref().ok().and_then(|described| described.meta.wake);
        let configured = self.wake.apps.get(&*app.row.name).copied();
        let choice = configured.or(own).unwrap_or(self.wake.strategy);
        choice.resolve(is_navigation, self.beside_upstream)
    }

    /// Waits until the app is awake, and decides anew then: what was granted before
    /// may be forbidden by now.
    async fn hold(
        &self,
        headers: &HeaderMap,
        forwarded: &Forwarded<'_>,
        first: &Arc<AppWake>,
        once: &mut Once,
    ) -> Verdict {
        let deadline = Instant::now() + self.wake.hold_timeout;
        let mut wake = Arc::clone(first);
        loop {
            let waited = self.until_awake(&wake, deadline).await;
            let (granted, asleep) = match self.decide(headers, once).await {
                Ok(Granted { headers, asleep: None }) => return Verdict::Grant(headers),
                Ok(Granted { headers, asleep: Some(asleep) }) => (headers, asleep),
                Err(reason) => return Verdict::Deny(reason),
            };
            let Some(app) = asleep.entry.value.as_ref() else {
                return Verdict::Deny(Reason::UnknownApp);
            };
            if app.wake.is_awake() {
                return Verdict::Grant(granted);
            }
            match waited {
                Waited::Woken => {}
                Waited::TooLong => {
                    let again = self.redirects.next(headers, forwarded, Instant::now());
                    return instead(app, again.map_or(Form::Problem, Form::Again));
                }
                Waited::InVain => return instead(app, Form::Problem),
            }
            // Put to sleep again, or described anew, in between.
            app.wake.ask();
            wake = Arc::clone(&app.wake);
        }
    }

    /// Waits for the app to wake, in time and before anything makes waiting useless.
    async fn until_awake(&self, wake: &AppWake, deadline: Instant) -> Waited {
        let mut shown = wake.follow();
        let settled = shown.wait_for(|shown| is_settled(wake, shown, deadline));
        tokio::select! {
            biased;
            settled = timeout_at(deadline, settled) => match settled {
                Ok(Ok(shown)) if shown.phase == Phase::Awake => Waited::Woken,
                Ok(_) => Waited::InVain,
                Err(_) => Waited::TooLong,
            },
            () = self.wakes.closed() => Waited::InVain,
        }
    }

    /// Returns when what is shown of the app is no longer that version, or after a while.
    async fn changed_since(&self, wake: &AppWake, version: u64) {
        let mut shown = wake.follow();
        let deadline = Instant::now() + LONGEST_POLL;
        let changed = shown.wait_for(|shown| shown.version != version || wake.is_awake());
        tokio::select! {
            _ = timeout_at(deadline, changed) => {}
            () = self.wakes.closed() => {}
        }
    }
}

/// How many places a request takes, all of them at most: its head is kept as long as it
/// waits. Sizes are those of RFC 9113 section 6.5.2.
fn places(headers: &HeaderMap, all: usize) -> u32 {
    let size: usize =
        headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum();
    u32::try_from(size.div_ceil(PLACE).min(all).max(1)).unwrap_or(u32::MAX)
}

/// What came of waiting for an app.
enum Waited {
    /// It woke.
    Woken,
    /// It may yet wake.
    TooLong,
    /// Waiting on changes nothing.
    InVain,
}

/// An answer in the app's place.
fn instead(app: &App, form: Form) -> Verdict {
    Verdict::Asleep(Box::new(Asleep { app: PageApp::of(app), form }))
}

/// Whether waiting on until the deadline would change nothing.
fn is_settled(wake: &AppWake, shown: &Shown, deadline: Instant) -> bool {
    match &shown.phase {
        Phase::Awake => true,
        // Nothing more is done before the deadline.
        Phase::Failed { retry_after, .. } => shown.since + *retry_after > deadline,
        // Also where it was awake for so short a time that this request did not see it:
        // the order that woke it is spent.
        Phase::Stopped | Phase::Paused | Phase::Missing => {
            wake.ask();
            false
        }
        phase => phase.is_final(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::lifecycle::Failure;
    use crate::wake::{Order, Wakes};

    #[test]
    fn what_is_kept_of_those_who_wait_is_bounded_by_size_too() {
        let places = |length: usize, all| {
            let mut headers = HeaderMap::new();
            headers.insert("cookie", "c".repeat(length).parse().expect("a value"));
            places(&headers, all)
        };
        for (length, all, taken) in [
            (0, 4096, 1),
            (16_000, 4096, 1),
            (17_000, 4096, 2),
            (80_000, 4096, 5),
            (80_000, 3, 3),
            (80_000, 0, 1),
        ] {
            assert_eq!(places(length, all), taken, "{length} bytes of {all} places");
        }
        let tiny: HeaderMap = (0..1000)
            .map(|n| (format!("x{n}").parse().expect("a name"), "".parse().expect("a value")))
            .collect::<HeaderMap>();
        assert_eq!(super::places(&tiny, 4096), 3, "fields cost more than their bytes");
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_is_held_asks_again_and_waits_for_the_next_attempt() {
        let (wakes, mut orders) = Wakes::new();
        let wake = wakes.of(&"notes".into(), None);
        assert!(matches!(orders.try_recv(), Ok(Order::Look(_))));
        let began = Instant::now();
        let deadline = began + Duration::from_secs(25);
        let settled = |phase, since| {
            let shown = Shown { version: 1, phase, since, ..wake.shown() };
            is_settled(&wake, &shown, deadline)
        };
        assert!(!settled(Phase::Stopped, began));
        assert!(matches!(orders.try_recv(), Ok(Order::Wake(_))));
        let failed = |seconds| {
            let retry_after = Duration::from_secs(seconds);
            Phase::Failed { failure: Failure::EngineAway, retry_after }
        };
        assert!(!settled(failed(20), began));
        assert!(settled(failed(40), began));
        tokio::time::advance(Duration::from_secs(3600)).await;
        let deadline = Instant::now() + Duration::from_secs(25);
        let shown = Shown { version: 1, phase: failed(40), since: began, ..wake.shown() };
        assert!(!is_settled(&wake, &shown, deadline), "it is due, and made now");
        assert!(settled(Phase::LowDisk, began) && settled(Phase::Awake, began));
        assert!(orders.try_recv().is_err());
    }
}
