//! What happens in the engine, followed from its events.
//!
//! An event is a hint and an inspection the truth: every event has its container
//! looked at anew, so that neither the order nor the words of events, nor two clocks
//! that differ, can leave a state behind that is not so. The stream is opened before
//! the listing (with `since`, as far back as two clocks may be apart); whatever goes
//! wrong has one answer, which is to begin anew.

use std::collections::{HashMap, HashSet, VecDeque};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bollard::models::{EventMessage, EventMessageTypeEnum};
use futures_util::stream::{self, FuturesUnordered};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_stream::{Stream, StreamExt};
use tracing::{debug, info, warn};

use super::container::SWARM_SERVICE;
use super::ends::Ends;
use super::{Container, EndedBy, Engine, EngineError, Snapshot};
use crate::backoff::{doubled, jittered};

/// Waits between attempts to reach the engine. It is on this machine more often than
/// not, and an attempt is one connect: the longest is short.
const FIRST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// How far apart the engine's clock and ours may be for nothing to be missed between
/// the listing and the events. Events that come twice cost an inspection each.
const CLOCK_DIFFERENCE: Duration = Duration::from_secs(10);

/// Containers inspected at one time.
const INSPECTIONS: usize = 8;

/// Everything is listed anew so often, should an event ever get lost.
const RESYNC: Duration = Duration::from_secs(300);

/// A connection can be half open without either end knowing, and an engine can hang
/// with its events' stream open; one that is asked so often is found out.
const PROBE: Duration = Duration::from_secs(30);

/// How often a swarm is asked while a service has no task yet that runs.
const SWARM_EVERY: Duration = Duration::from_millis(100);
const LONGEST_SWARM_WAIT: Duration = Duration::from_secs(1);

/// Have something looked at, because something was done to it.
#[derive(Debug)]
pub struct Look {
    at: Subject,
    seen: oneshot::Sender<()>,
}

#[derive(Debug)]
enum Subject {
    Container(Arc<str>),
    /// All of them: it is one call.
    Services,
    /// Somebody here knows more of a container's end than events tell.
    End(Arc<str>, EndedBy),
}

/// The engine as others see it: what is in it, and the means to have a part of it
/// looked at anew.
#[derive(Debug, Clone)]
pub struct View {
    snapshot: watch::Receiver<Arc<Snapshot>>,
    looks: mpsc::UnboundedSender<Look>,
}

/// Follows the engine; owned by one task.
#[derive(Debug)]
pub struct Watch {
    engine: Arc<Engine>,
    snapshot: watch::Sender<Arc<Snapshot>>,
    looks: mpsc::UnboundedReceiver<Look>,
    ends: Ends,
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

    /// Has containers inspected; returns when the snapshot shows what they are at
    /// some moment after the call, or the engine is away.
    pub async fn look(&self, ids: impl IntoIterator<Item = Arc<str>>) {
        let waits: Vec<_> = ids.into_iter().map(|id| self.order(Subject::Container(id))).collect();
        for wait in waits {
            let _ = wait.await;
        }
    }

    /// The same of all services.
    pub async fn look_at_services(&self) {
        let _ = self.order(Subject::Services).await;
    }

    /// Has an end taken for what it is: ours, or that of a start which was refused.
    /// Whoever looks after this sees it so.
    pub fn note_end(&self, id: &Arc<str>, by: EndedBy) {
        let _nobody_waits = self.order(Subject::End(Arc::clone(id), by));
    }

    fn order(&self, at: Subject) -> oneshot::Receiver<()> {
        let (seen, wait) = oneshot::channel();
        // Where nobody takes it, the wait is over at once.
        let _ = self.looks.send(Look { at, seen });
        wait
    }

    /// Returns when the engine was listed, or could not be.
    pub async fn listed_or_away(&mut self) {
        let _ = self.snapshot.changed().await;
    }
}

/// Inspections that are under way, and those that have to be made again after.
#[derive(Default)]
struct Inspecting {
    running: HashSet<Arc<str>>,
    again: HashSet<Arc<str>>,
    waiting: HashMap<Arc<str>, Vec<oneshot::Sender<()>>>,
    waiting_again: HashMap<Arc<str>, Vec<oneshot::Sender<()>>>,
}

impl Watch {
    #[must_use]
    pub fn new(engine: Arc<Engine>) -> (Self, View) {
        let (snapshot, seen) = watch::channel(Arc::default());
        let (orders, looks) = mpsc::unbounded_channel();
        (
            Self { engine, snapshot, looks, ends: Ends::default() },
            View { snapshot: seen, looks: orders },
        )
    }

    /// What an engine would show.
    #[cfg(test)]
    pub fn shows(&self, snapshot: Snapshot) {
        self.snapshot.send_replace(Arc::new(snapshot));
    }

    /// Follows the engine through every fault, as long as the process runs.
    pub async fn run(mut self) -> Infallible {
        let mut failures = 0;
        let mut is_known = false;
        loop {
            let mut live_since: Option<Instant> = None;
            let Err(lost) = self.follow(&mut live_since).await;
            // Also where it never was: somebody may wait for the first word.
            self.update(|snapshot| snapshot.live = false);
            self.ends.lost(Instant::now());
            if let Some(since) = live_since {
                // An engine, or a proxy before it, that ends every stream at once is
                // listed less and less often.
                if since.elapsed() >= LONGEST_WAIT {
                    failures = 0;
                }
                is_known = true;
                warn!(error = %lost, "no word from the container engine; its last state is kept");
            } else {
                debug!(error = %lost, "no container engine");
                if !is_known {
                    is_known = true;
                    info!(error = %lost, "no container engine yet; until there is, every app counts as awake");
                }
            }
            // Nobody is left waiting for a look that will not be taken.
            while self.looks.try_recv().is_ok() {}
            failures += 1;
            sleep(jittered(doubled(FIRST_WAIT, failures, LONGEST_WAIT))).await;
        }
    }

    fn update(&self, change: impl FnOnce(&mut Snapshot)) {
        self.snapshot.send_modify(|snapshot| change(Arc::make_mut(snapshot)));
    }

    /// One life of the event stream.
    async fn follow(
        &mut self,
        live_since: &mut Option<Instant>,
    ) -> Result<Infallible, EngineError> {
        self.engine.connect().await?;
        let since = seconds_since_1970().saturating_sub(CLOCK_DIFFERENCE.as_secs());
        let events = self.engine.events(since)?;
        let mut events = std::pin::pin!(events);
        // The stream is asked for when it is first polled; what it tells while the
        // listing is made is looked at after it.
        let mut early = Vec::new();
        let listing = list(Arc::clone(&self.engine));
        let mut listing = std::pin::pin!(listing);
        let mut listed = loop {
            tokio::select! {
                biased;
                event = events.next() => early.push(heard(event)?),
                listed = &mut listing => break listed?,
            }
        };
        self.ends.keep(|id| listed.containers.contains_key(id));
        for container in listed.containers.values() {
            self.ends.found(container);
        }
        for event in &early {
            self.ends.hear(event, Instant::now());
        }
        for container in listed.containers.values_mut() {
            self.ends.mark(Arc::make_mut(container));
        }
        self.snapshot.send_replace(Arc::new(listed));
        *live_since = Some(Instant::now());
        info!(
            containers = self.snapshot.borrow().containers.len(),
            "the container engine is followed"
        );
        self.attend(events, early).await
    }

    /// Looks at whatever events and others name.
    async fn attend(
        &mut self,
        mut events: impl Stream<Item = Result<EventMessage, bollard::errors::Error>> + Unpin,
        early: Vec<EventMessage>,
    ) -> Result<Infallible, EngineError> {
        let mut inspecting = Inspecting::default();
        let mut inspections = FuturesUnordered::new();
        let mut services_changed = false;
        let mut unchanged = 0;
        let mut service_looks = Vec::new();
        let mut hints: Vec<Arc<str>> = Vec::new();
        let mut waiting: VecDeque<Arc<str>> = VecDeque::new();
        for event in &early {
            sort(event, &mut hints, &mut services_changed);
        }
        let mut resync = Instant::now() + RESYNC;
        let mut probe = Instant::now() + PROBE;
        loop {
            // One inspection is for all hints at a container that came before it.
            hints.sort_unstable();
            hints.dedup();
            waiting.extend(hints.drain(..));
            while inspections.len() < INSPECTIONS
                && let Some(id) = waiting.pop_front()
            {
                if inspecting.begin(&id) {
                    inspections.push(inspect(Arc::clone(&self.engine), id));
                }
            }
            if std::mem::take(&mut services_changed) || !service_looks.is_empty() {
                let services = self.engine.services().await?;
                let changed = self.snapshot.send_if_modified(|snapshot| {
                    let changed = snapshot.services != services;
                    if changed {
                        Arc::make_mut(snapshot).services = services;
                    }
                    changed
                });
                unchanged = if changed { 0 } else { unchanged + 1 };
                for seen in service_looks.drain(..) {
                    let _ = oneshot::Sender::send(seen, ());
                }
            }
            let swarm_wait = doubled(SWARM_EVERY, unchanged, LONGEST_SWARM_WAIT);
            tokio::select! {
                biased;
                Some((id, found)) = inspections.next(), if !inspections.is_empty() => {
                    match found {
                        Ok(found) => self.note(&id, found),
                        Err(away @ EngineError::Away(_)) => return Err(away),
                        // This one alone cannot be told; what was last seen stays.
                        Err(error) => warn!(container = %id, %error, "not inspected"),
                    }
                    if inspecting.end(&id) {
                        inspections.push(inspect(Arc::clone(&self.engine), id));
                    }
                }
                event = events.next() => {
                    let event = heard(event)?;
                    self.ends.hear(&event, Instant::now());
                    sort(&event, &mut hints, &mut services_changed);
                }
                Some(Look { at, seen }) = self.looks.recv() => match at {
                    Subject::Container(id) => {
                        inspecting.wait(&id, seen);
                        hints.push(id);
                    }
                    Subject::Services => service_looks.push(seen),
                    Subject::End(id, by) => {
                        self.ends.tell(&id, by);
                        inspecting.wait(&id, seen);
                        hints.push(id);
                    }
                },
                () = sleep(swarm_wait), if self.snapshot.borrow().is_scaling() => {
                    services_changed = true;
                }
                () = sleep_until(resync) => {
                    resync = Instant::now() + RESYNC;
                    hints.extend(self.engine.list().await?);
                    hints.extend(self.snapshot.borrow().containers.keys().cloned());
                    services_changed = true;
                }
                () = sleep_until(probe) => {
                    probe = Instant::now() + PROBE;
                    self.engine.probe().await?;
                }
            }
        }
    }

    /// Takes what an inspection has found; `None` where the container is gone.
    fn note(&self, id: &Arc<str>, found: Option<Container>) {
        let found = found.map(|mut container| {
            self.ends.mark(&mut container);
            Arc::new(container)
        });
        self.snapshot.send_if_modified(|snapshot| {
            if snapshot.containers.get(id) == found.as_ref() {
                return false;
            }
            let containers = &mut Arc::make_mut(snapshot).containers;
            match found {
                Some(container) => containers.insert(Arc::clone(id), container),
                None => containers.remove(id),
            };
            true
        });
    }
}

impl Inspecting {
    /// Whether an inspection is to be begun; one that runs already may have been
    /// answered before whatever was hinted at, and is made again.
    fn begin(&mut self, id: &Arc<str>) -> bool {
        if self.running.insert(Arc::clone(id)) {
            return true;
        }
        self.again.insert(Arc::clone(id));
        false
    }

    /// Lets `seen` know of the first inspection that begins from now on.
    fn wait(&mut self, id: &Arc<str>, seen: oneshot::Sender<()>) {
        let waiting =
            if self.running.contains(id) { &mut self.waiting_again } else { &mut self.waiting };
        waiting.entry(Arc::clone(id)).or_default().push(seen);
    }

    /// Whether the inspection is to be made once more.
    fn end(&mut self, id: &Arc<str>) -> bool {
        for seen in self.waiting.remove(id).unwrap_or_default() {
            let _ = seen.send(());
        }
        if self.again.remove(id) {
            if let Some(waiting) = self.waiting_again.remove(id) {
                self.waiting.insert(Arc::clone(id), waiting);
            }
            return true;
        }
        self.running.remove(id);
        false
    }
}

async fn inspect(
    engine: Arc<Engine>,
    id: Arc<str>,
) -> (Arc<str>, Result<Option<Container>, EngineError>) {
    let found = engine.inspect(&id).await;
    (id, found)
}

/// Everything there is in an engine that is not followed.
///
/// # Errors
/// Where it does not answer.
pub async fn look_once(engine: &Arc<Engine>) -> Result<Snapshot, EngineError> {
    engine.connect().await?;
    list(Arc::clone(engine)).await
}

/// Everything there is, each looked at.
async fn list(engine: Arc<Engine>) -> Result<Snapshot, EngineError> {
    let ids = engine.list().await?;
    let mut found = futures_util::StreamExt::buffer_unordered(
        stream::iter(ids).map(|id| inspect(Arc::clone(&engine), id)),
        INSPECTIONS,
    );
    let mut snapshot = Snapshot { live: true, was_listed: true, ..Snapshot::default() };
    while let Some((id, container)) = found.next().await {
        match container {
            Ok(Some(container)) => {
                snapshot.containers.insert(id, Arc::new(container));
            }
            Ok(None) => {}
            Err(away @ EngineError::Away(_)) => return Err(away),
            Err(error) => warn!(container = %id, %error, "not inspected"),
        }
    }
    snapshot.services = engine.services().await?;
    Ok(snapshot)
}

fn heard(
    event: Option<Result<EventMessage, bollard::errors::Error>>,
) -> Result<EventMessage, EngineError> {
    match event {
        Some(event) => Ok(event?),
        None => Err(EngineError::Away("the event stream ended".into())),
    }
}

/// What an event asks to be looked at.
fn sort(event: &EventMessage, containers: &mut Vec<Arc<str>>, services: &mut bool) {
    let labels = event.actor.as_ref().and_then(|actor| actor.attributes.as_ref());
    // What a task of a service does is all that is told of the service's state.
    *services |= labels.is_some_and(|labels| labels.contains_key(SWARM_SERVICE));
    match (&event.typ, event.actor.as_ref().and_then(|actor| actor.id.as_deref())) {
        (Some(EventMessageTypeEnum::SERVICE), _) => *services = true,
        (Some(EventMessageTypeEnum::CONTAINER) | None, Some(id)) => containers.push(id.into()),
        _ => {}
    }
}

#[expect(clippy::disallowed_methods, reason = "told to the engine, which has a clock of its own")]
fn seconds_since_1970() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inspection_that_runs_does_not_answer_a_later_hint() {
        let (id, mut inspecting) = (Arc::from("a"), Inspecting::default());
        let (seen, mut first) = oneshot::channel();
        inspecting.wait(&id, seen);
        assert!(inspecting.begin(&id));
        let (seen, mut second) = oneshot::channel();
        inspecting.wait(&id, seen);
        assert!(!inspecting.begin(&id));
        assert!(inspecting.end(&id), "once more");
        assert!(first.try_recv().is_ok());
        assert!(second.try_recv().is_err());
        assert!(!inspecting.end(&id));
        assert!(second.try_recv().is_ok());
        assert!(inspecting.begin(&id));
    }
}
