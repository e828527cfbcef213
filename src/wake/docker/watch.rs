//! Follows the state of the engine by its events.
//!
//! An event is a hint and an inspection the truth: every event triggers an inspection of
//! its container, so that neither the order nor the content of events, nor clocks that
//! differ, can result in a wrong state. The stream is opened before the listing (with
//! `since`, as far back as the two clocks may differ). Every error is handled in the same
//! way: everything starts again.

mod inspections;

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bollard::models::{EventMessage, EventMessageTypeEnum};
use futures_util::stream::{self, FuturesUnordered};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_stream::{Stream, StreamExt};
use tracing::{debug, info, warn};

use self::inspections::{CONCURRENT, Inspections};
use super::container::SWARM_SERVICE;
use super::ends::EndTracker;
use super::{Container, EndedBy, Engine, EngineError, Service, Snapshot};
use crate::backoff::{doubled, jittered};

/// Waits between attempts to reach the engine. The longest is short, because the engine
/// is usually on this machine, and an attempt is a single connect.
const FIRST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// How much the engine's clock and ours may differ without an event being missed between
/// the listing and the stream. A repeated event costs one inspection.
const CLOCK_DIFFERENCE: Duration = Duration::from_secs(10);

/// Interval at which everything is listed again, in case an event gets lost.
const RESYNC: Duration = Duration::from_secs(300);

/// Interval of probes: a connection can be half open without either end noticing it, and
/// an engine can hang with its event stream open.
const PROBE: Duration = Duration::from_secs(30);

/// Shortest and longest interval at which a swarm is polled while a service has no
/// running task yet.
const SWARM_EVERY: Duration = Duration::from_millis(100);
const LONGEST_SWARM_WAIT: Duration = Duration::from_secs(1);

/// A request to inspect something again, because it was changed from here.
#[derive(Debug)]
pub struct InspectRequest {
    target: InspectTarget,
    done: oneshot::Sender<()>,
}

#[derive(Debug)]
enum InspectTarget {
    Container(Arc<str>),
    /// All services, which takes one call.
    Services,
    /// A container about whose end nightporter knows more than the events report.
    End(Arc<str>, EndedBy),
}

/// A handle to the state of the engine: its snapshot, and requests to inspect a part of
/// it again.
#[derive(Debug, Clone)]
pub struct View {
    snapshot: watch::Receiver<Arc<Snapshot>>,
    requests: mpsc::UnboundedSender<InspectRequest>,
}

/// Follows the engine; owned by one task.
#[derive(Debug)]
pub struct Watch {
    engine: Arc<Engine>,
    snapshot: watch::Sender<Arc<Snapshot>>,
    requests: mpsc::UnboundedReceiver<InspectRequest>,
    ends: EndTracker,
}

impl View {
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshot.borrow())
    }

    /// Waits for the next change.
    pub async fn changed(&mut self) {
        if self.snapshot.changed().await.is_err() {
            // The process ends.
            std::future::pending::<()>().await;
        }
    }

    /// Has containers inspected. Returns when the snapshot shows their state at some time
    /// after the call, or when the engine is away.
    pub async fn refresh(&self, ids: impl IntoIterator<Item = Arc<str>>) {
        let waits: Vec<_> =
            ids.into_iter().map(|id| self.request(InspectTarget::Container(id))).collect();
        for wait in waits {
            let _ = wait.await;
        }
    }

    /// Does the same for all services.
    pub async fn refresh_services(&self) {
        let _ = self.request(InspectTarget::Services).await;
    }

    /// Notes that an end is caused by nightporter, or that a start was refused.
    /// Inspections that are requested after this call show it.
    pub fn note_end(&self, id: &Arc<str>, by: EndedBy) {
        let _nobody_waits = self.request(InspectTarget::End(Arc::clone(id), by));
    }

    fn request(&self, target: InspectTarget) -> oneshot::Receiver<()> {
        let (done, wait) = oneshot::channel();
        // If the request is not accepted, the wait is over at once.
        let _ = self.requests.send(InspectRequest { target, done });
        wait
    }

    /// Returns when the engine was listed, or could not be reached.
    pub async fn listed_or_away(&mut self) {
        let _ = self.snapshot.changed().await;
    }
}

impl Watch {
    #[must_use]
    pub fn new(engine: Arc<Engine>) -> (Self, View) {
        let (snapshot, receiver) = watch::channel(Arc::default());
        let (sender, requests) = mpsc::unbounded_channel();
        (
            Self { engine, snapshot, requests, ends: EndTracker::default() },
            View { snapshot: receiver, requests: sender },
        )
    }

    /// Sets the snapshot, for tests.
    #[cfg(test)]
    pub fn shows(&self, snapshot: Snapshot) {
        self.snapshot.send_replace(Arc::new(snapshot));
    }

    /// Follows the engine for as long as the process runs, reconnecting after every
    /// failure.
    pub async fn run(mut self) -> Infallible {
        let mut failures = 0;
        let mut is_known = false;
        loop {
            let mut live_since: Option<Instant> = None;
            let Err(lost) = self.follow(&mut live_since).await;
            // Also if it never was live: a caller may wait for the first update.
            self.update(|snapshot| snapshot.live = false);
            self.ends.stream_lost(Instant::now());
            if let Some(since) = live_since {
                // If an engine, or a proxy in front of it, ends every stream at once, the
                // wait between two attempts must grow.
                if since.elapsed() >= LONGEST_WAIT {
                    failures = 0;
                }
                is_known = true;
                warn!(error = %lost, "lost the container engine; its last state is kept");
            } else {
                debug!(error = %lost, "container engine not reachable");
                if !is_known {
                    is_known = true;
                    info!(error = %lost, "no container engine; every app counts as awake");
                }
            }
            // Releases the callers that wait for inspections, which will not be made now.
            while self.requests.try_recv().is_ok() {}
            failures += 1;
            sleep(jittered(doubled(FIRST_WAIT, failures, LONGEST_WAIT))).await;
        }
    }

    fn update(&self, change: impl FnOnce(&mut Snapshot)) {
        self.snapshot.send_modify(|snapshot| change(Arc::make_mut(snapshot)));
    }

    /// Connects, lists everything, and processes events until the stream ends.
    async fn follow(
        &mut self,
        live_since: &mut Option<Instant>,
    ) -> Result<Infallible, EngineError> {
        self.engine.connect().await?;
        let since = seconds_since_1970().saturating_sub(CLOCK_DIFFERENCE.as_secs());
        let events = self.engine.events(since)?;
        let mut events = std::pin::pin!(events);
        // The stream is requested when it is first polled; events that arrive during the
        // listing are processed after it.
        let mut early_events = Vec::new();
        let known = Arc::clone(&self.snapshot.borrow());
        let listing = list(Arc::clone(&self.engine), known);
        let mut listing = std::pin::pin!(listing);
        let mut listed = loop {
            tokio::select! {
                biased;
                event = events.next() => early_events.push(next_event(event)?),
                listed = &mut listing => break listed?,
            }
        };
        self.ends.retain(|id| listed.containers.contains_key(id));
        for container in listed.containers.values() {
            self.ends.note_running(container);
        }
        for event in &early_events {
            self.ends.note_event(event, Instant::now());
        }
        for container in listed.containers.values_mut() {
            self.ends.apply_to(Arc::make_mut(container));
        }
        self.snapshot.send_replace(Arc::new(listed));
        *live_since = Some(Instant::now());
        info!(
            containers = self.snapshot.borrow().containers.len(),
            "following the container engine"
        );
        self.process_events(events, early_events).await
    }

    /// Inspects what events and requests name.
    async fn process_events(
        &mut self,
        mut events: impl Stream<Item = Result<EventMessage, bollard::errors::Error>> + Unpin,
        early_events: Vec<EventMessage>,
    ) -> Result<Infallible, EngineError> {
        let mut inspections = Inspections::default();
        let mut inspecting = FuturesUnordered::new();
        let mut services_changed = false;
        let mut unchanged = 0;
        let mut service_requests = Vec::new();
        for id in &self.snapshot.borrow().unread {
            inspections.hint(Arc::clone(id));
        }
        for event in &early_events {
            take_hints(event, &mut inspections, &mut services_changed);
        }
        let mut services_polled = Instant::now();
        let mut resync = Instant::now() + RESYNC;
        let mut probe = Instant::now() + PROBE;
        loop {
            while let Some(id) = inspections.begin() {
                inspecting.push(inspect(Arc::clone(&self.engine), id));
            }
            if std::mem::take(&mut services_changed) || !service_requests.is_empty() {
                let known = || self.snapshot.borrow().services.clone();
                let services = services(&self.engine, known).await?;
                let changed = self.snapshot.send_if_modified(|snapshot| {
                    let changed = snapshot.services != services;
                    if changed {
                        Arc::make_mut(snapshot).services = services;
                    }
                    changed
                });
                unchanged = if changed { 0 } else { unchanged + 1 };
                services_polled = Instant::now();
                for done in service_requests.drain(..) {
                    let _ = oneshot::Sender::send(done, ());
                }
            }
            // From the last poll on: events that come more often do not put it off.
            let swarm_poll = services_polled + doubled(SWARM_EVERY, unchanged, LONGEST_SWARM_WAIT);
            tokio::select! {
                biased;
                Some((id, found)) = inspecting.next(), if !inspecting.is_empty() => {
                    match found {
                        Ok(found) => self.note(&id, found),
                        Err(away @ EngineError::Away(_)) => return Err(away),
                        // Only this container cannot be inspected; its last state stays.
                        Err(error) => warn!(container = %id, %error, "cannot inspect container"),
                    }
                    inspections.end(&id);
                }
                event = events.next() => {
                    let event = next_event(event)?;
                    self.ends.note_event(&event, Instant::now());
                    take_hints(&event, &mut inspections, &mut services_changed);
                }
                Some(InspectRequest { target, done }) = self.requests.recv() => match target {
                    InspectTarget::Container(id) => inspections.request(id, done),
                    InspectTarget::Services => service_requests.push(done),
                    InspectTarget::End(id, by) => {
                        self.ends.note_known(&id, by);
                        inspections.request(id, done);
                    }
                },
                () = sleep_until(swarm_poll), if self.snapshot.borrow().is_scaling() => {
                    services_changed = true;
                }
                () = sleep_until(resync) => {
                    resync = Instant::now() + RESYNC;
                    let listed = self.engine.list().await?;
                    let known = self.snapshot.borrow().containers.keys().cloned().collect();
                    [listed, known].concat().into_iter().for_each(|id| inspections.hint(id));
                    services_changed = true;
                }
                () = sleep_until(probe) => {
                    probe = Instant::now() + PROBE;
                    self.engine.probe().await?;
                }
            }
        }
    }

    /// Stores the result of an inspection; `None` if the container does not exist.
    fn note(&self, id: &Arc<str>, found: Option<Container>) {
        let found = found.map(|mut container| {
            self.ends.apply_to(&mut container);
            Arc::new(container)
        });
        self.snapshot.send_if_modified(|snapshot| {
            if snapshot.containers.get(id) == found.as_ref() && !snapshot.unread.contains(id) {
                return false;
            }
            let Snapshot { containers, unread, .. } = Arc::make_mut(snapshot);
            unread.remove(id);
            match found {
                Some(container) => containers.insert(Arc::clone(id), container),
                None => containers.remove(id),
            };
            true
        });
    }
}

async fn inspect(
    engine: Arc<Engine>,
    id: Arc<str>,
) -> (Arc<str>, Result<Option<Container>, EngineError>) {
    let found = engine.inspect(&id).await;
    (id, found)
}

/// Returns the state of an engine that is not followed.
///
/// # Errors
/// If the engine does not answer.
pub async fn snapshot_once(engine: &Arc<Engine>) -> Result<Snapshot, EngineError> {
    engine.connect().await?;
    list(Arc::clone(engine), Arc::default()).await
}

/// Lists and inspects all containers and services. What cannot be read stays as it is known.
async fn list(engine: Arc<Engine>, known: Arc<Snapshot>) -> Result<Snapshot, EngineError> {
    let ids = engine.list().await?;
    let mut found = futures_util::StreamExt::buffer_unordered(
        stream::iter(ids).map(|id| inspect(Arc::clone(&engine), id)),
        CONCURRENT,
    );
    let mut snapshot = Snapshot { live: true, was_listed: true, ..Snapshot::default() };
    while let Some((id, container)) = found.next().await {
        match container {
            Ok(Some(container)) => {
                snapshot.containers.insert(id, Arc::new(container));
            }
            Ok(None) => {}
            Err(away @ EngineError::Away(_)) => return Err(away),
            Err(error) => {
                warn!(container = %id, %error, "cannot inspect container");
                if let Some(container) = known.containers.get(&id) {
                    snapshot.containers.insert(Arc::clone(&id), Arc::clone(container));
                }
                snapshot.unread.insert(id);
            }
        }
    }
    snapshot.services = services(&engine, || known.services.clone()).await?;
    Ok(snapshot)
}

type Services = HashMap<Arc<str>, Arc<Service>>;

/// Returns all services; those that are known if the engine cannot list them now, as when its
/// swarm has no leader.
async fn services(
    engine: &Engine,
    known: impl FnOnce() -> Services,
) -> Result<Services, EngineError> {
    match engine.services().await {
        Err(error @ EngineError::Refused { .. }) => {
            debug!(%error, "services cannot be listed");
            Ok(known())
        }
        listed => listed,
    }
}

fn next_event(
    event: Option<Result<EventMessage, bollard::errors::Error>>,
) -> Result<EventMessage, EngineError> {
    match event {
        Some(event) => Ok(event?),
        None => Err(EngineError::Away("the event stream ended".into())),
    }
}

/// Queues the inspection of what an event refers to.
fn take_hints(event: &EventMessage, inspections: &mut Inspections, services: &mut bool) {
    let labels = event.actor.as_ref().and_then(|actor| actor.attributes.as_ref());
    // The events of its tasks are the only events about a service's state.
    *services |= labels.is_some_and(|labels| labels.contains_key(SWARM_SERVICE));
    match (&event.typ, event.actor.as_ref().and_then(|actor| actor.id.as_deref())) {
        (Some(EventMessageTypeEnum::SERVICE), _) => *services = true,
        (Some(EventMessageTypeEnum::CONTAINER) | None, Some(id)) => inspections.hint(id.into()),
        _ => {}
    }
}

#[expect(clippy::disallowed_methods, reason = "sent to the engine, which has a clock of its own")]
fn seconds_since_1970() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
