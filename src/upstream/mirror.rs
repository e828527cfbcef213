//! Requests passed on now and then, so that shard_core knows which apps are in use.
//!
//! Its clock pauses an app after a minute without a request; one in half of that
//! keeps it awake there.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::{HeaderMap, StatusCode};
use metrics::Counter;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::client::{Client, TIMEOUT, forwardable};
use crate::domain::endpoint::Endpoint;
use crate::telemetry::meters;

/// Shortest time between two requests passed on for one app. An answer is given up
/// before, so no app has two under way.
const EVERY: Duration = Duration::from_secs(30);
const _: () = assert!(TIMEOUT.as_secs() < EVERY.as_secs());

/// Requests under way, over all apps.
const MAX_UNDER_WAY: usize = 16;

/// When all are under way, the next look of an app that was left out.
const RETRY: Duration = Duration::from_secs(1);

/// Apps above which those that nobody holds any more are forgotten.
const FORGET_ABOVE: usize = 1024;

/// Passes on what is due.
#[derive(Debug)]
pub(super) struct Mirror {
    outlet: Arc<Outlet>,
    apps: Mutex<HashMap<Arc<str>, Arc<Mirrored>>>,
}

/// What all apps share.
#[derive(Debug)]
struct Outlet {
    client: Arc<Client>,
    started: Instant,
    permits: Arc<Semaphore>,
    outcomes: Outcomes,
}

struct Outcomes {
    granted: Counter,
    denied: Counter,
    failed: Counter,
    skipped: Counter,
}

/// One app as the upstream gets to know of it. It outlives the rows it is held with,
/// or every change of one would make the app due.
#[derive(Debug)]
pub struct Mirrored {
    outlet: Arc<Outlet>,
    app: Arc<str>,
    /// When a request is due, in milliseconds since `outlet.started`.
    due: AtomicU64,
    is_refused: AtomicBool,
}

impl std::fmt::Debug for Outcomes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outcomes").finish_non_exhaustive()
    }
}

impl Mirror {
    pub(super) fn new(client: Arc<Client>) -> Self {
        let outcomes = Outcomes {
            granted: meters::mirrored("granted"),
            denied: meters::mirrored("denied"),
            failed: meters::mirrored("failed"),
            skipped: meters::mirrored("skipped"),
        };
        let permits = Arc::new(Semaphore::new(MAX_UNDER_WAY));
        let outlet = Outlet { client, started: Instant::now(), permits, outcomes };
        Self { outlet: Arc::new(outlet), apps: Mutex::default() }
    }

    pub(super) fn of(&self, app: &Arc<str>) -> Arc<Mirrored> {
        let mut apps = self.apps.lock().unwrap_or_else(PoisonError::into_inner);
        if apps.len() > FORGET_ABOVE {
            apps.retain(|_, mirrored| Arc::strong_count(mirrored) > 1);
        }
        let mirrored = apps.entry(Arc::clone(app)).or_insert_with(|| {
            Arc::new(Mirrored {
                outlet: Arc::clone(&self.outlet),
                app: Arc::clone(app),
                due: AtomicU64::new(0),
                is_refused: AtomicBool::new(false),
            })
        });
        Arc::clone(mirrored)
    }
}

impl Mirrored {
    /// Passes a granted request on, behind its answer, where one is due. Otherwise
    /// looks at one number.
    pub fn pass_on(self: &Arc<Self>, headers: &HeaderMap) {
        let Outlet { started, permits, outcomes, .. } = &*self.outlet;
        let now = started.elapsed();
        let due = self.due.load(Ordering::Relaxed);
        if millis(now) < due || !self.take(due, now + EVERY) {
            return;
        }
        let Ok(permit) = Arc::clone(permits).try_acquire_owned() else {
            outcomes.skipped.increment(1);
            self.due.store(millis(now + RETRY), Ordering::Relaxed);
            return;
        };
        let mirrored = Arc::clone(self);
        let headers = forwardable(headers);
        self.outlet.client.spawn(async move {
            mirrored.send(headers).await;
            drop(permit);
        });
    }

    fn take(&self, due: u64, next: Duration) -> bool {
        let next = millis(next);
        self.due.compare_exchange(due, next, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    async fn send(&self, headers: HeaderMap) {
        let Self { outlet, app, is_refused, .. } = self;
        let Outcomes { granted, denied, failed, .. } = &outlet.outcomes;
        // The client says when nobody answers at all.
        let Ok(answer) = outlet.client.ask(Endpoint::Auth, headers).await else {
            return failed.increment(1);
        };
        let status = answer.status;
        match status {
            StatusCode::OK => granted,
            _ if status.is_client_error() => denied,
            _ => failed,
        }
        .increment(1);
        let refused = status != StatusCode::OK;
        if is_refused.swap(refused, Ordering::Relaxed) != refused {
            let status = status.as_u16();
            if refused {
                tracing::warn!(%app, status, "shard_core refuses what was granted here; it may put the app to sleep");
            } else {
                tracing::info!(%app, "shard_core grants requests for the app again");
            }
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::stand_in::{StandIn, Told};
    use super::*;

    async fn mirror() -> (StandIn, Mirror) {
        let core = StandIn::start().await;
        let client = Client::new(&core.url()).unwrap();
        (core, Mirror::new(Arc::new(client)))
    }

    fn under_way(mirror: &Mirror) -> usize {
        MAX_UNDER_WAY - mirror.outlet.permits.available_permits()
    }

    async fn all_answered(mirror: &Mirror) {
        while under_way(mirror) > 0 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn an_app_is_due_once_in_half_a_minute_however_often_it_is_loaded() {
        let (core, mirror) = mirror().await;
        tokio::time::pause();
        for turn in 1..=3 {
            for _ in 0..1000 {
                mirror.of(&"notes".into()).pass_on(&HeaderMap::new());
            }
            core.was_asked(turn).await;
            all_answered(&mirror).await;
            tokio::time::advance(EVERY / 2).await;
            mirror.of(&"notes".into()).pass_on(&HeaderMap::new());
            assert_eq!(under_way(&mirror), 0);
            tokio::time::advance(EVERY / 2).await;
        }
        mirror.of(&"wiki".into()).pass_on(&HeaderMap::new());
        core.was_asked(4).await;
        assert_eq!(core.asked().len(), 4);
    }

    #[tokio::test]
    async fn an_upstream_that_hangs_costs_a_bounded_number_of_requests() {
        let (core, mirror) = mirror().await;
        core.tell(Told::Hang);
        let apps: Vec<Arc<str>> = (0..100).map(|app| format!("app{app}").into()).collect();
        let all_pass_on = || {
            for app in &apps {
                let host = http::HeaderValue::from_str(app).unwrap();
                let name = http::HeaderName::from_static("x-forwarded-host");
                mirror.of(app).pass_on(&HeaderMap::from_iter([(name, host)]));
            }
        };
        all_pass_on();
        core.was_asked(MAX_UNDER_WAY).await;
        tokio::time::pause();
        tokio::time::advance(RETRY * 2).await;
        all_pass_on();
        assert_eq!(under_way(&mirror), MAX_UNDER_WAY);
        tokio::time::advance(TIMEOUT).await;
        all_answered(&mirror).await;
        // Whoever was left out has the next turns, not those that had theirs.
        core.tell(Told::status(200));
        all_pass_on();
        core.was_asked(2 * MAX_UNDER_WAY).await;
        let hosts: std::collections::HashSet<_> = core.asked().into_iter().collect();
        assert_eq!(hosts.len(), 2 * MAX_UNDER_WAY);
    }

    #[tokio::test]
    async fn an_app_that_nobody_holds_is_forgotten() {
        let (_core, mirror) = mirror().await;
        let held = mirror.of(&"held".into());
        for app in 0..2 * FORGET_ABOVE {
            mirror.of(&format!("app{app}").into());
        }
        assert!(mirror.apps.lock().unwrap().len() <= FORGET_ABOVE + 1);
        assert!(Arc::ptr_eq(&held, &mirror.of(&"held".into())));
    }
}
