//! Forwards requests now and then, so that shard_core knows which apps are in use.
//!
//! It pauses an app after a minute without a request; one request every half minute
//! prevents that.

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

/// Shortest interval of requests forwarded for one app. A request times out before, so no
/// app has two in flight.
const INTERVAL: Duration = Duration::from_secs(30);
const _: () = assert!(TIMEOUT.as_secs() < INTERVAL.as_secs());

/// Maximum number of requests in flight, over all apps.
const MAX_IN_FLIGHT: usize = 16;

/// Time after which an app that was skipped, because all permits were in use, tries
/// again.
const RETRY: Duration = Duration::from_secs(1);

/// Number of apps above which those that are no longer referenced are forgotten.
const FORGET_ABOVE: usize = 1024;

/// Forwards the requests that are due.
#[derive(Debug)]
pub(super) struct Mirror {
    shared: Arc<Shared>,
    apps: Mutex<HashMap<Arc<str>, Arc<Mirrored>>>,
}

/// The state that all apps share.
#[derive(Debug)]
struct Shared {
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

/// The mirror of one app's requests. It outlives the cached rows that refer to it, so
/// that a change of a row does not make the app due.
#[derive(Debug)]
pub struct Mirrored {
    shared: Arc<Shared>,
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
        let permits = Arc::new(Semaphore::new(MAX_IN_FLIGHT));
        let shared = Shared { client, started: Instant::now(), permits, outcomes };
        Self { shared: Arc::new(shared), apps: Mutex::default() }
    }

    pub(super) fn for_app(&self, app: &Arc<str>) -> Arc<Mirrored> {
        let mut apps = self.apps.lock().unwrap_or_else(PoisonError::into_inner);
        if apps.len() > FORGET_ABOVE {
            apps.retain(|_, mirrored| Arc::strong_count(mirrored) > 1);
        }
        let mirrored = apps.entry(Arc::clone(app)).or_insert_with(|| {
            Arc::new(Mirrored {
                shared: Arc::clone(&self.shared),
                app: Arc::clone(app),
                due: AtomicU64::new(0),
                is_refused: AtomicBool::new(false),
            })
        });
        Arc::clone(mirrored)
    }
}

impl Mirrored {
    /// Forwards a granted request after its answer, if one is due. Otherwise only reads
    /// one number.
    pub fn forward(self: &Arc<Self>, headers: &HeaderMap) {
        let Shared { started, permits, outcomes, .. } = &*self.shared;
        let now = started.elapsed();
        let due = self.due.load(Ordering::Relaxed);
        if millis(now) < due || !self.claim(due, now + INTERVAL) {
            return;
        }
        let Ok(permit) = Arc::clone(permits).try_acquire_owned() else {
            outcomes.skipped.increment(1);
            self.due.store(millis(now + RETRY), Ordering::Relaxed);
            return;
        };
        let mirrored = Arc::clone(self);
        let headers = forwardable(headers);
        self.shared.client.spawn(async move {
            mirrored.send(headers).await;
            drop(permit);
        });
    }

    fn claim(&self, due: u64, next: Duration) -> bool {
        let next = millis(next);
        self.due.compare_exchange(due, next, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    async fn send(&self, headers: HeaderMap) {
        let Self { shared, app, is_refused, .. } = self;
        let Outcomes { granted, denied, failed, .. } = &shared.outcomes;
        // The client logs that the upstream does not answer.
        let Ok(answer) = shared.client.ask(Endpoint::Auth, headers).await else {
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
                tracing::warn!(
                    %app,
                    status,
                    "shard_core denies a request granted here; it may put the app to sleep"
                );
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
    use super::super::test_server::{Reply, TestServer};
    use super::*;

    async fn mirror() -> (TestServer, Mirror) {
        let core = TestServer::start().await;
        let client = Client::new(&core.url()).unwrap();
        (core, Mirror::new(Arc::new(client)))
    }

    fn in_flight(mirror: &Mirror) -> usize {
        MAX_IN_FLIGHT - mirror.shared.permits.available_permits()
    }

    async fn all_answered(mirror: &Mirror) {
        while in_flight(mirror) > 0 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn an_app_is_due_once_in_half_a_minute_however_often_it_is_loaded() {
        let (core, mirror) = mirror().await;
        tokio::time::pause();
        for turn in 1..=3 {
            for _ in 0..1000 {
                mirror.for_app(&"notes".into()).forward(&HeaderMap::new());
            }
            core.wait_for_requests(turn).await;
            all_answered(&mirror).await;
            tokio::time::advance(INTERVAL / 2).await;
            mirror.for_app(&"notes".into()).forward(&HeaderMap::new());
            assert_eq!(in_flight(&mirror), 0);
            tokio::time::advance(INTERVAL / 2).await;
        }
        mirror.for_app(&"wiki".into()).forward(&HeaderMap::new());
        core.wait_for_requests(4).await;
        assert_eq!(core.requests().len(), 4);
    }

    #[tokio::test]
    async fn an_upstream_that_hangs_costs_a_bounded_number_of_requests() {
        let (core, mirror) = mirror().await;
        core.reply_with(Reply::Hang);
        let apps: Vec<Arc<str>> = (0..100).map(|app| format!("app{app}").into()).collect();
        let forward_all = || {
            for app in &apps {
                let host = http::HeaderValue::from_str(app).unwrap();
                let name = http::HeaderName::from_static("x-forwarded-host");
                mirror.for_app(app).forward(&HeaderMap::from_iter([(name, host)]));
            }
        };
        forward_all();
        core.wait_for_requests(MAX_IN_FLIGHT).await;
        tokio::time::pause();
        tokio::time::advance(RETRY * 2).await;
        forward_all();
        assert_eq!(in_flight(&mirror), MAX_IN_FLIGHT);
        tokio::time::advance(TIMEOUT).await;
        all_answered(&mirror).await;
        // The apps that were skipped are next, not those that were served.
        core.reply_with(Reply::status(200));
        forward_all();
        core.wait_for_requests(2 * MAX_IN_FLIGHT).await;
        let hosts: std::collections::HashSet<_> = core.requests().into_iter().collect();
        assert_eq!(hosts.len(), 2 * MAX_IN_FLIGHT);
    }

    #[tokio::test]
    async fn an_app_that_nobody_holds_is_forgotten() {
        let (_core, mirror) = mirror().await;
        let held = mirror.for_app(&"held".into());
        for app in 0..2 * FORGET_ABOVE {
            mirror.for_app(&format!("app{app}").into());
        }
        assert!(mirror.apps.lock().unwrap().len() <= FORGET_ABOVE + 1);
        assert!(Arc::ptr_eq(&held, &mirror.for_app(&"held".into())));
    }
}
