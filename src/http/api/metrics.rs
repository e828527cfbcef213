//! `/metrics`, in Prometheus' text format.

use http::{HeaderValue, StatusCode};

use super::Services;
use crate::gate::Health;
use crate::http::{Response, answer};
use crate::telemetry::meters;
use crate::wake::Backlog;

/// The content type of the text format, version 0.0.4.
const METRICS: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

pub(super) fn render(services: &Services) -> Response {
    let apps = &services.apps;
    let (engine_live, counts) = apps.counts();
    meters::note_apps(engine_live, counts);
    let (Backlog { length, age }, start_age) = apps.queues();
    meters::note_queues(length, age, start_age);
    let Health { live, ready: _, verified_ago, store: _, touches_waiting, caches } =
        services.gate.health();
    meters::note_store(live, verified_ago);
    meters::note_memory(touches_waiting, &caches);
    meters::note_limited(services.gate.limited().len());
    if let Some(history) = &services.history {
        meters::note_ledger(&history.health());
    }
    if let Some(alerts) = &services.alerts {
        for (rule, firing) in alerts.firing_alerts().counts() {
            meters::note_alerts(rule, firing);
        }
    }
    answer::typed(StatusCode::OK, METRICS, meters::render().into())
}
