//! Handles granted requests for an app that is not awake: passes them on, holds them, or
//! answers in place of the app.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use tokio::sync::SemaphorePermit;
use tokio::time::{Instant, timeout_at};

use super::caches::{App, AppLookup};
use super::client::ReplayCheck;
use super::decision::Basis;
use super::forwarded::Forwarded;
use super::request_kind::{is_navigation, poll_version, wants_retry};
use super::verdict::{Asleep, AsleepResponse, Headers, Verdict, sent_for};
use super::{AsleepApp, Gate, Granted, PageApp};
use crate::domain::lifecycle::Phase;
use crate::domain::reason::Reason;
use crate::domain::strategy::Strategy;
use crate::telemetry::new_span;
use crate::wake::{AppHandle, AppView};

/// Longest time that a status poll of a waiting page is kept open: shorter than the 30 s of
/// Traefik, and long enough that an open page costs three requests a minute.
const MAX_POLL: Duration = Duration::from_secs(20);

/// Bytes of a request's head that one permit covers.
const BYTES_PER_PERMIT: usize = 16 * 1024;

impl Gate {
    /// Answers a request that is granted for an app that is not awake, or that is a status
    /// poll of a waiting page.
    pub(super) async fn answer_asleep(
        &self,
        headers: &HeaderMap,
        granted: Headers,
        asleep: AsleepApp,
        replay_check: &mut ReplayCheck,
        basis: &mut Basis,
    ) -> Verdict {
        let AsleepApp { entry, is_ignored, is_prefetch, is_kept_asleep } = asleep;
        let Some(app) = entry.value.as_ref() else {
            return Verdict::Deny(Reason::UnknownApp);
        };
        if !is_ignored && !app.wake.is_awake() {
            if let Ok(forwarded) = Forwarded::read(headers) {
                app.wake.note_host(forwarded.host);
            }
            if poll_version(headers).is_none() {
                let span = *basis.span.get_or_insert_with(|| new_span(headers));
                app.wake.request_wake_for(span);
            } else {
                app.wake.request_wake();
            }
        }
        let permit = self.permit(headers);
        if let Some(version) = poll_version(headers) {
            if !is_ignored && wants_retry(headers) {
                app.wake.retry();
            }
            if permit.is_some() {
                self.wait_for_change(&app.wake, version).await;
            }
            return self.answer_poll(headers, app, replay_check, basis).await;
        }
        // The browser must not later show a waiting page as the prefetched page.
        if is_prefetch {
            return asleep_verdict(app, AsleepResponse::Problem);
        }
        if is_kept_asleep {
            return asleep_verdict(app, AsleepResponse::KeptAsleep);
        }
        if is_ignored {
            return asleep_verdict(app, AsleepResponse::Ignored(sent_for(self.wake.ignore.status)));
        }
        let Ok(forwarded) = Forwarded::read(headers) else {
            return Verdict::Deny(Reason::MalformedRequest);
        };
        match self.strategy(app, is_navigation(headers, forwarded.method)) {
            Strategy::Pass => Verdict::Grant(granted),
            Strategy::Page => asleep_verdict(app, AsleepResponse::Page),
            Strategy::Hold if permit.is_none() => asleep_verdict(app, AsleepResponse::Problem),
            Strategy::Hold => self.hold(headers, &forwarded, &app.wake, replay_check, basis).await,
        }
    }

    /// Answers a status poll after its wait. If the decision is outdated by then, the gate
    /// decides again: what is shown of an app is for granted requests only.
    async fn answer_poll(
        &self,
        headers: &HeaderMap,
        app: &App,
        replay_check: &mut ReplayCheck,
        basis: &mut Basis,
    ) -> Verdict {
        if basis.is_usable(&self.freshness, self.freshness.now()) {
            return asleep_verdict(app, AsleepResponse::Poll);
        }
        match self.decide(headers, self.now(), replay_check, basis).await {
            Ok(_) => match basis.lookup.as_ref().and_then(AppLookup::app) {
                Some(app) => asleep_verdict(app, AsleepResponse::Poll),
                None => Verdict::Deny(Reason::UnknownApp),
            },
            Err(reason) => Verdict::Deny(reason),
        }
    }

    /// Returns the permit to wait, or `None` if too many requests are waiting.
    fn permit(&self, headers: &HeaderMap) -> Option<SemaphorePermit<'_>> {
        self.hold_permits.try_acquire_many(permits_needed(headers, self.wake.max_held)).ok()
    }

    fn strategy(&self, app: &App, is_navigation: bool) -> Strategy {
        let own = app.description.as_ref().ok().and_then(|description| description.wake);
        let configured = self.wake.apps.get(&*app.row.name).copied();
        let choice = configured.or(own).unwrap_or(self.wake.strategy);
        choice.resolve(is_navigation, self.has_upstream)
    }

    /// Waits until the app is awake and then decides again, because a request that was
    /// granted before may be denied by now.
    async fn hold(
        &self,
        headers: &HeaderMap,
        forwarded: &Forwarded<'_>,
        first: &Arc<AppHandle>,
        replay_check: &mut ReplayCheck,
        basis: &mut Basis,
    ) -> Verdict {
        let deadline = Instant::now() + self.wake.hold_timeout;
        let mut wake = Arc::clone(first);
        loop {
            let outcome = self.wait_until_awake(&wake, deadline).await;
            let (granted, asleep) =
                match self.decide(headers, self.now(), replay_check, basis).await {
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
            match outcome {
                WaitOutcome::Woken => {}
                WaitOutcome::TimedOut => {
                    let redirect = self.redirects.next(headers, forwarded, Instant::now());
                    return asleep_verdict(
                        app,
                        redirect.map_or(AsleepResponse::Problem, AsleepResponse::Redirect),
                    );
                }
                WaitOutcome::GaveUp => return asleep_verdict(app, AsleepResponse::Problem),
            }
            // The app was put to sleep again, or its description changed, in the meantime.
            app.wake.request_wake();
            wake = Arc::clone(&app.wake);
        }
    }

    /// Waits until the app is awake, the deadline passes, or waiting becomes useless.
    async fn wait_until_awake(&self, wake: &Arc<AppHandle>, deadline: Instant) -> WaitOutcome {
        let mut shown = wake.follow();
        let settled = shown.wait_for(|shown| is_settled(wake, shown, deadline));
        tokio::select! {
            biased;
            settled = timeout_at(deadline, settled) => match settled {
                Ok(shown) if shown.phase == Phase::Awake => WaitOutcome::Woken,
                Ok(_) => WaitOutcome::GaveUp,
                Err(_) => WaitOutcome::TimedOut,
            },
            () = self.registry.closed() => WaitOutcome::GaveUp,
        }
    }

    /// Waits until the shown state has another version or the app is awake, for at most
    /// [`MAX_POLL`].
    async fn wait_for_change(&self, wake: &Arc<AppHandle>, version: u64) {
        let mut shown = wake.follow();
        let deadline = Instant::now() + MAX_POLL;
        let changed = shown.wait_for(|shown| shown.version != version || wake.is_awake());
        tokio::select! {
            _ = timeout_at(deadline, changed) => {}
            () = self.registry.closed() => {}
        }
    }
}

/// Returns how many permits a request needs, at most `max`: its head stays in memory while
/// it waits. Sizes are those of RFC 9113 section 6.5.2.
fn permits_needed(headers: &HeaderMap, max: usize) -> u32 {
    let size: usize =
        headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum();
    u32::try_from(size.div_ceil(BYTES_PER_PERMIT).min(max).max(1)).unwrap_or(u32::MAX)
}

/// The outcome of waiting for an app.
enum WaitOutcome {
    /// The app is awake.
    Woken,
    /// The deadline passed, but the app may still wake.
    TimedOut,
    /// Waiting longer is useless.
    GaveUp,
}

/// Returns the verdict that answers in place of the app.
fn asleep_verdict(app: &App, form: AsleepResponse) -> Verdict {
    Verdict::Asleep(Box::new(Asleep { app: PageApp::new(app), form }))
}

/// Returns whether waiting ends: the app is awake, or its state does not change before the
/// deadline. Asks for a wake if the app is down.
fn is_settled(wake: &AppHandle, shown: &AppView, deadline: Instant) -> bool {
    match &shown.phase {
        Phase::Awake => true,
        // The next attempt is after the deadline.
        Phase::Failed { retry_after, .. } => shown.since + *retry_after > deadline,
        // This also covers an app that was awake too briefly for this request to notice:
        // the command that woke it has already been used up.
        Phase::Stopped | Phase::Paused | Phase::Missing => {
            wake.request_wake();
            false
        }
        phase => phase.is_final(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::lifecycle::WakeError;
    use crate::wake::{Command, Registry};

    #[test]
    fn what_is_kept_of_those_who_wait_is_bounded_by_size_too() {
        let permits = |length: usize, max| {
            let mut headers = HeaderMap::new();
            headers.insert("cookie", "c".repeat(length).parse().expect("a value"));
            permits_needed(&headers, max)
        };
        for (length, max, expected) in [
            (0, 4096, 1),
            (16_000, 4096, 1),
            (17_000, 4096, 2),
            (80_000, 4096, 5),
            (80_000, 3, 3),
            (80_000, 0, 1),
        ] {
            assert_eq!(permits(length, max), expected, "{length} bytes of {max} permits");
        }
        let tiny: HeaderMap = (0..1000)
            .map(|n| (format!("x{n}").parse().expect("a name"), "".parse().expect("a value")))
            .collect::<HeaderMap>();
        assert_eq!(permits_needed(&tiny, 4096), 3, "each field costs more than its bytes");
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_is_held_asks_again_and_waits_for_the_next_attempt() {
        let (registry, mut commands) = Registry::new();
        let wake = registry.handle(&"notes".into(), None);
        assert!(matches!(commands.try_recv(), Some(Command::Observe(_))));
        let began = Instant::now();
        let deadline = began + Duration::from_secs(25);
        let settled = |phase, since| {
            let shown = AppView { version: 1, phase, since, ..wake.shown() };
            is_settled(&wake, &shown, deadline)
        };
        assert!(!settled(Phase::Stopped, began));
        assert!(matches!(commands.try_recv(), Some(Command::Wake(_))));
        let failed = |seconds| {
            let retry_after = Duration::from_secs(seconds);
            Phase::Failed { failure: WakeError::EngineAway, retry_after }
        };
        assert!(!settled(failed(20), began));
        assert!(settled(failed(40), began));
        tokio::time::advance(Duration::from_secs(3600)).await;
        let deadline = Instant::now() + Duration::from_secs(25);
        let shown = AppView { version: 1, phase: failed(40), since: began, ..wake.shown() };
        assert!(!is_settled(&wake, &shown, deadline), "the attempt is due and made now");
        assert!(settled(Phase::LowDisk, began) && settled(Phase::Awake, began));
        assert!(commands.try_recv().is_none());
    }
}
