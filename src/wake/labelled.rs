//! Tells the store what the labels of containers say.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tracing::{debug, warn};

use super::docker::watch::View;
use super::docker::{Snapshot, State};
use super::handle::AppHandle;
use super::registry::Registry;
use super::spec::AppSpec;
use crate::domain::app::labels::{APP, Labelled, PREFIX, is_host_label};
use crate::store::descriptions::Descriptions;
use crate::store::labels::Labels;

/// How long to wait before the file is written again that could not be written.
const SAVE_AGAIN: Duration = Duration::from_secs(10);

/// A time that is never reached: a year ahead.
const NEVER: Duration = Duration::from_hours(366 * 24);

/// Returns what describes apps, by the id of the container or service. A container that is
/// being removed, or could not be, describes none.
pub(super) fn labelled(snapshot: &Snapshot) -> BTreeMap<Arc<str>, Arc<Labelled>> {
    let of = |(id, labelled): (&Arc<str>, &Option<Arc<Labelled>>)| {
        labelled.as_ref().map(|labelled| (Arc::clone(id), Arc::clone(labelled)))
    };
    let containers = snapshot.containers.iter().filter(|(_, found)| found.state != State::Gone);
    let containers = containers.map(|(id, found)| (id, &found.labelled));
    let services = snapshot.services.iter().map(|(id, found)| (id, &found.labelled));
    containers.chain(services).filter_map(of).collect()
}

/// Follows the engine's view for the life of the process. While the engine is away, what was
/// last known stays in force.
pub(super) async fn follow(
    labels: Arc<Labels>,
    descriptions: Arc<Descriptions>,
    registry: Arc<Registry>,
    mut view: View,
) -> Infallible {
    let mut unnamed = Vec::new();
    let mut save_at = None;
    loop {
        let now = Instant::now();
        let snapshot = view.snapshot();
        let mut again = None;
        if snapshot.live {
            let present = labelled(&snapshot);
            report_unnamed(&present, &mut unnamed);
            let observed = labels.observe(&present, &snapshot.unread, now);
            again = observed.again;
            if observed.is_unsaved {
                save_at = Some(now);
            }
            let registered = if observed.apps.is_empty() { Vec::new() } else { registry.list() };
            for app in observed.apps {
                // Known to the operator at once, and not only when it is requested; not beside
                // itself, if its file spells its name otherwise.
                let is_known = |known: &Arc<AppHandle>| {
                    known.name != app && known.name.eq_ignore_ascii_case(&app)
                };
                if labels.get(&app).is_some() && !registered.iter().any(is_known) {
                    match descriptions.read(&app).await {
                        Ok(meta) => drop(registry.handle(&app, Some(AppSpec::new(&meta).into()))),
                        Err(error) => {
                            debug!(%app, %error, "labels describe no app");
                            drop(registry.handle(&app, None));
                        }
                    }
                }
            }
        }
        if save_at.is_some_and(|at| at <= now) {
            save_at = labels.save().await.err().map(|error| {
                warn!(%error, "what labels say cannot be kept; a restart would forget it");
                Instant::now() + SAVE_AGAIN
            });
        }
        let next = again.into_iter().chain(save_at).min();
        tokio::select! {
            () = view.changed() => {}
            () = sleep_until(next.unwrap_or_else(|| now + NEVER)) => {}
        }
    }
}

/// Logs, when that changes, which containers have labels of ours and name no app that a host
/// could name.
fn report_unnamed(present: &BTreeMap<Arc<str>, Arc<Labelled>>, known: &mut Vec<String>) {
    let without = unnamed(present).map(|labelled| {
        format!(
            "container {}: it has labels of ours, but no label `{PREFIX}{APP}`",
            labelled.container
        )
    });
    let wrong = present.values().flat_map(|labelled| {
        let names = labelled.apps().into_iter().filter(|name| !is_host_label(name));
        names.map(|name| {
            let container = &labelled.container;
            format!(
                "container {container}: label `{PREFIX}{APP}`: {name:?} cannot be part of a host"
            )
        })
    });
    let problems: Vec<_> = without.chain(wrong).collect();
    for problem in problems.iter().filter(|problem| !known.contains(problem)) {
        warn!("{problem}");
    }
    *known = problems;
}

/// Returns the containers whose labels describe an app without naming it.
pub(super) fn unnamed(
    present: &BTreeMap<Arc<str>, Arc<Labelled>>,
) -> impl Iterator<Item = &Labelled> {
    present.values().map(|labelled| &**labelled).filter(|labelled| labelled.apps().is_empty())
}
