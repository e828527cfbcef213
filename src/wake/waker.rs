//! The task that decides which app is woken, put to sleep, or made to wait.
//!
//! It alone changes what is shown of an app, and an app has one thing done to it at a
//! time: that is single flight, and the lock between wake and sleep. What is done runs
//! in tasks beside it, so that it always has an ear for orders and for the engine.

use std::collections::{HashMap, HashSet, VecDeque};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::{AbortHandle, Id, JoinError, JoinSet};
use tokio::time::{Instant, sleep_until};
use tracing::{debug, error, info, warn};

use super::app::{milliseconds_since_1970, wall_clock};
use super::attempt::{Attempt, CANNOT_BE_PAUSED, Means, Outcome};
use super::docker::watch::View;
use super::job::{Ended, Job, Task};
use super::observed::EngineState;
use super::slot::{Doing, Reply, Sight, Slot};
use super::status::Statuses;
use super::{Noted, Order, Wakes};
use crate::backoff::{doubled, jittered};
use crate::domain::lifecycle::{Failure, Phase, Rest};
use crate::store::touch::Touches;
use crate::telemetry::meters;

/// How long a start keeps its place among those under way although the app is not
/// ready: what loads the box is the beginning, and one that hangs must not keep
/// others asleep.
const HELD_PLACE: Duration = Duration::from_secs(10);

/// Apps put to sleep at one time where nobody ordered it: stopping one may take ten
/// seconds in which it cannot be woken.
const MOST_RESTING: usize = 4;

/// An app that could not be put to sleep is left alone for so long, unless somebody
/// orders it: every attempt closes it to requests for a moment.
const RESTLESS: Duration = Duration::from_secs(60);

/// Longest time without a look at what is due.
const FAR: Duration = Duration::from_secs(3600);

/// What an attempt under way reports.
pub(super) type Progress = (Arc<str>, Phase);

/// Decides; owned by one task.
#[derive(Debug)]
pub(super) struct Waker {
    pub(super) means: Arc<Means>,
    pub(super) wakes: Arc<Wakes>,
    pub(super) touches: Arc<Touches>,
    pub(super) view: View,
    pub(super) statuses: Statuses,
    slots: HashMap<Arc<str>, Slot>,
    /// Apps that wait for their turn to be started.
    queue: VecDeque<Arc<str>>,
    running: JoinSet<Ended>,
    /// What each task does something to: an app that was removed and installed again
    /// is another one.
    tasks: HashMap<Id, (Task, AbortHandle)>,
    /// Whether something happened that may show an app otherwise.
    is_changed: bool,
    /// Whether the engine was live at the last look.
    was_live: bool,
    progress: mpsc::UnboundedSender<Progress>,
    told: mpsc::UnboundedReceiver<Progress>,
}

impl Waker {
    pub(super) fn new(
        means: Arc<Means>,
        wakes: Arc<Wakes>,
        touches: Arc<Touches>,
        view: View,
        statuses: Statuses,
    ) -> Self {
        let (progress, told) = mpsc::unbounded_channel();
        Self {
            means,
            wakes,
            touches,
            view,
            statuses,
            slots: HashMap::new(),
            queue: VecDeque::new(),
            running: JoinSet::new(),
            tasks: HashMap::new(),
            is_changed: true,
            was_live: false,
            progress,
            told,
        }
    }

    /// Takes orders as long as the process runs.
    pub(super) async fn run(mut self, mut orders: mpsc::UnboundedReceiver<Order>) -> Infallible {
        loop {
            let due = self.next_due();
            tokio::select! {
                // What was reported is older than the end of who reported it.
                biased;
                Some((name, phase)) = self.told.recv() => self.report(&name, phase),
                Some(ended) = self.running.join_next_with_id() => self.end(ended),
                Some(order) = orders.recv() => self.take(order),
                () = self.view.changed() => self.is_changed = true,
                () = sleep_until(due) => {}
            }
            if std::mem::take(&mut self.is_changed) {
                self.look_around();
            }
            self.make_due_attempts();
            self.fill_places();
        }
    }

    /// When something is to be done without anybody's order.
    fn next_due(&self) -> Instant {
        let (now, is_queue) = (Instant::now(), !self.queue.is_empty());
        let held_back = self.held_back();
        let free = self.slots.values().filter(|slot| !held_back.contains(&slot.app.name));
        let due = free.filter_map(|slot| slot.due(now, is_queue));
        due.min().unwrap_or(now + FAR)
    }

    /// Apps that are not woken now: something they share is being put to sleep.
    fn held_back(&self) -> HashSet<Arc<str>> {
        let resting = self.slots.values().filter(|slot| slot.doing == Doing::Resting);
        resting.flat_map(|slot| slot.partners.iter().cloned()).collect()
    }

    /// Whether something is being done, or about to be, to an app that shares containers.
    fn is_busy(&self, partner: &Arc<str>) -> bool {
        let slot = self.slots.get(partner);
        slot.is_some_and(|slot| slot.wanted || slot.doing != Doing::Nothing)
    }

    fn slot(&mut self, name: &Arc<str>) -> Option<&mut Slot> {
        if !self.slots.contains_key(name) {
            let slot = Slot::new(self.wakes.get(name)?, self.wakes.selector(name));
            self.slots.insert(Arc::clone(name), slot);
        }
        self.slots.get_mut(name)
    }

    fn take(&mut self, order: Order) {
        match order {
            Order::Look(name) => {
                self.slot(&name);
                self.is_changed = true;
            }
            Order::Wake(name) => {
                if let Some(slot) = self.slot(&name) {
                    slot.app.order_taken();
                    slot.wanted = !slot.app.is_awake();
                }
            }
            Order::Retry(name) => {
                let throttle = self.means.config.throttle;
                if let Some(slot) = self.slot(&name) {
                    slot.wanted = !slot.app.is_awake();
                    // For all visitors together no more than one in that time.
                    let soonest = slot.attempted.map(|at| at + throttle);
                    slot.not_before = slot.not_before.min(soonest);
                }
            }
            Order::WakeNow(name, reply) => {
                if let Some(slot) = self.slot(&name) {
                    slot.wanted = true;
                    // A person who asks knows what has changed.
                    slot.not_before = None;
                    slot.replies.push(reply);
                }
            }
            Order::Rest { app, rest, unless_used_since, reply } => {
                self.is_changed = true;
                self.rest(&app, rest, unless_used_since, reply);
            }
            Order::Forget(name) => {
                if let Some(slot) = self.slots.remove(&name) {
                    // Who still asks is the gate's matter; nobody is left waiting here.
                    slot.app.show(Phase::Awake, &Arc::default());
                }
                self.queue.retain(|queued| *queued != name);
            }
        }
    }

    /// How far an attempt has come.
    fn report(&mut self, name: &Arc<str>, phase: Phase) {
        if let Some(slot) = self.slots.get_mut(name)
            && matches!(slot.doing, Doing::Waking { .. } | Doing::Following)
        {
            slot.is_start |= phase == Phase::Starting;
            slot.show(phase, &self.view);
        }
    }

    fn end(&mut self, ended: Result<(Id, Ended), JoinError>) {
        let (id, ended) = match ended {
            Ok((id, ended)) => (id, Ok(ended)),
            Err(error) => (error.id(), Err(error)),
        };
        self.is_changed = true;
        let Some((Task { app, job, reply }, _)) = self.tasks.remove(&id) else { return };
        let ended = ended.unwrap_or_else(|error| {
            error!(app = %app.name, ?job, %error, "a task has panicked");
            job.panicked()
        });
        let name = Arc::clone(&app.name);
        let slot = self.slots.get_mut(&name).filter(|slot| Arc::ptr_eq(&slot.app, &app));
        let Some(slot) = slot else { return };
        slot.doing = Doing::Nothing;
        match ended {
            Ended::Woken(outcome) => self.woken(&name, outcome),
            Ended::Followed(outcome) => self.followed(&name, outcome),
            Ended::Rested(rest, done) => {
                // An engine that is away is no reason to leave it alone once it is back, and
                // what cannot be paused can be stopped.
                let is_refused = done.as_ref().is_err_and(|failure| {
                    !matches!(failure, Failure::EngineAway) && *failure != CANNOT_BE_PAUSED
                });
                let no_rest_before = is_refused.then(|| Instant::now() + RESTLESS);
                slot.app.note(|history| history.no_rest_before = no_rest_before);
                slot.partners.clear();
                match &done {
                    Ok(()) => {
                        meters::put_to_sleep(rest.as_str());
                        info!(app = %name, to = rest.as_str(), "put to sleep");
                    }
                    Err(failure @ Failure::Declined(_)) => {
                        debug!(app = %name, ?rest, %failure, "not put to sleep");
                    }
                    Err(failure) => warn!(app = %name, ?rest, %failure, "not put to sleep"),
                }
                let observed = slot.observe(&self.view);
                slot.dormant = (done.is_ok() && observed.is_kept()).then(|| phase_of(rest));
                // Looked at as if for the first time: some of it may have been done.
                slot.seen = None;
                if let Some(reply) = reply {
                    // Who asks next is shown what has become of it.
                    self.look_around();
                    let _ = reply.send(done);
                }
            }
        }
    }

    fn woken(&mut self, name: &Arc<str>, outcome: Outcome) {
        let (throttle, longest) = (self.means.config.throttle, self.means.config.longest_backoff);
        let Some(slot) = self.slots.get_mut(name) else { return };
        slot.seen = Some(slot.observe(&self.view).state);
        slot.not_before = slot.attempted.map(|at| at + throttle);
        slot.after = None;
        slot.wanted = false;
        let took = slot.attempted.map(|at| at.elapsed()).filter(|_| outcome == Outcome::Ready);
        meters::wake_ended(outcome.as_str(), took);
        // One that nobody could wait for says nothing of the next.
        if took.is_some() && slot.is_start && !slot.app.is_unanswered() {
            slot.app.note(|history| history.start_took = took);
        }
        let result = match outcome {
            Outcome::Ready => {
                slot.came_up(&self.view);
                Ok(())
            }
            Outcome::Failed(failure) => {
                slot.failures = slot.failures.saturating_add(1);
                slot.lacks_engine = failure == Failure::EngineAway || !self.view.snapshot().live;
                let retry_after = jittered(doubled(throttle, slot.failures, longest));
                warn!(app = %name, %failure, failures = slot.failures, ?retry_after, "not woken");
                slot.not_before = Some(Instant::now() + retry_after);
                slot.after = Some(Phase::Failed { failure: failure.clone(), retry_after });
                slot.app.note(|history| {
                    history.last_failure = Some((wall_clock(), failure.clone()));
                });
                // Those who are held wait on.
                slot.wanted = slot.app.is_waited_for();
                Err(failure)
            }
            // Put to sleep again meanwhile.
            Outcome::Declined(Phase::Paused) => {
                slot.wanted = slot.app.is_waited_for();
                Err(Failure::Declined("paused again"))
            }
            Outcome::Declined(phase) => {
                info!(app = %name, phase = phase.as_str(), "not woken");
                // What is being installed may be there before they have gone.
                slot.wanted = !phase.is_final() && slot.app.is_waited_for();
                let declined = Failure::Declined(phase.as_str());
                slot.after = Some(phase);
                Err(declined)
            }
            Outcome::Gone => Err(Failure::Declined("not installed")),
        };
        let replies = std::mem::take(&mut slot.replies);
        if !replies.is_empty() {
            // Who asks next is shown what has become of it.
            self.look_around();
        }
        for reply in replies {
            // Who has gone away needs no answer.
            let _ = reply.send(result.clone());
        }
    }

    fn followed(&mut self, name: &Arc<str>, outcome: Outcome) {
        let Some(slot) = self.slots.get_mut(name) else { return };
        slot.seen = Some(slot.observe(&self.view).state);
        match outcome {
            Outcome::Ready => {
                slot.came_up(&self.view);
                slot.reply(&Ok(()));
            }
            Outcome::Failed(failure) => {
                debug!(app = %name, %failure, "what somebody else started did not become ready");
                let retry_after = self.means.config.throttle;
                slot.after = Some(Phase::Failed { failure, retry_after });
            }
            Outcome::Declined(_) | Outcome::Gone => {}
        }
    }

    /// Puts an app to sleep, unless it was used since it was decided on.
    fn rest(
        &mut self,
        name: &Arc<str>,
        rest: Rest,
        unless_used_since: Option<Noted>,
        reply: Option<Reply>,
    ) {
        let (touches, view) = (Arc::clone(&self.touches), self.view.clone());
        let resting = self.slots.values().filter(|slot| slot.doing == Doing::Resting).count();
        if reply.is_none() && resting >= MOST_RESTING {
            // The idle loop comes again; until then its door stays open.
            return;
        }
        if reply.is_some() && view.snapshot().live {
            self.stop_following(name);
        }
        let Some(slot) = self.slot(name) else { return };
        let partners = slot.observe(&view).partners();
        let is_shared_busy = partners.iter().any(|partner| self.is_busy(partner));
        let Some(slot) = self.slots.get_mut(name) else { return };
        let refusal = if !view.snapshot().live {
            Some(Failure::EngineAway)
        } else if is_shared_busy {
            Some(Failure::Declined("something is being done to an app that shares its containers"))
        } else if slot.doing != Doing::Nothing {
            Some(Failure::Declined("something else is being done to it"))
        } else {
            None
        };
        match (refusal, reply.is_some()) {
            (Some(refusal), _) => {
                if let Some(reply) = reply {
                    let _ = reply.send(Err(refusal));
                }
                return;
            }
            (None, false) if slot.app.history().is_left_alone(Instant::now()) => return,
            (None, _) => {}
        }
        // First the door, then a last look who came in: a request that was let through
        // has noted its use before it looked at the door.
        slot.app.close();
        let noted = Noted(touches.last_use(name));
        if unless_used_since.is_some_and(|before| before != noted) {
            slot.seen = None;
            return;
        }
        slot.show(phase_of(rest), &view);
        slot.doing = Doing::Resting;
        slot.partners = partners;
        slot.wanted = false;
        slot.after = None;
        if let Some(attempt) = self.attempt(name) {
            let task = Task { app: Arc::clone(&attempt.app), job: Job::Rest(rest), reply };
            self.spawn(task, async move { Ended::Rested(rest, attempt.sleep(rest).await) });
        }
    }

    fn attempt(&self, name: &Arc<str>) -> Option<Attempt> {
        let slot = self.slots.get(name)?;
        Some(Attempt {
            means: Arc::clone(&self.means),
            wakes: Arc::clone(&self.wakes),
            app: Arc::clone(&slot.app),
            selector: slot.selector.clone(),
            view: self.view.clone(),
            chosen: HashSet::new(),
            progress: self.progress.clone(),
        })
    }

    fn spawn(&mut self, task: Task, doing: impl Future<Output = Ended> + Send + 'static) {
        let handle = self.running.spawn(doing);
        self.tasks.insert(handle.id(), (task, handle));
    }

    /// Waits no longer for what somebody else has started, unless an operator does.
    fn stop_following(&mut self, name: &Arc<str>) {
        let is_followed =
            |slot: &&mut Slot| slot.doing == Doing::Following && slot.replies.is_empty();
        let Some(slot) = self.slots.get_mut(name).filter(is_followed) else { return };
        slot.doing = Doing::Nothing;
        self.tasks.retain(|_, (task, handle)| {
            let is_it = matches!(task.job, Job::Follow) && Arc::ptr_eq(&task.app, &slot.app);
            if is_it {
                handle.abort();
            }
            !is_it
        });
    }

    /// The engine is live again: what failed for want of it waits no longer.
    fn free_those_without_engine(&mut self) {
        for slot in self.slots.values_mut().filter(|slot| slot.lacks_engine) {
            slot.lacks_engine = false;
            slot.failures = 0;
            slot.not_before = None;
            slot.after = None;
            slot.wanted |= slot.app.is_waited_for();
        }
    }

    /// Takes what the engine shows of every app that nothing is done to.
    fn look_around(&mut self) {
        let snapshot = self.view.snapshot();
        if !snapshot.was_listed {
            // Nothing is known to be asleep.
            return;
        }
        if snapshot.live && !self.was_live {
            self.free_those_without_engine();
        }
        self.was_live = snapshot.live;
        let now = milliseconds_since_1970(wall_clock());
        let mut came_up = Vec::new();
        for (name, slot) in &mut self.slots {
            if !matches!(slot.doing, Doing::Nothing | Doing::Queued) {
                continue;
            }
            let observed = slot.observe_in(&snapshot);
            let before = slot.seen.replace(observed.state);
            let can_be_made = observed.state == EngineState::Missing
                && self.means.compose.can_make(name, &slot.selector);
            let is_ours = observed.state != EngineState::Missing || can_be_made;
            if snapshot.live && is_ours && slot.written != Some(observed.state) {
                slot.written = Some(observed.state);
                self.statuses.write(name, observed.state);
            }
            let is_first = !std::mem::replace(&mut slot.was_seen, true);
            let may_start = is_first
                && observed.is_young(&slot.app.facts(), now, self.means.config.start_timeout);
            match slot.sight(&observed, before, can_be_made, may_start) {
                // It is shown its place.
                Sight::Show(_) if slot.doing == Doing::Queued => {}
                Sight::Show(phase) => slot.app.show(phase, &observed.states()),
                Sight::Follow { was_paused } => came_up.push((Arc::clone(name), was_paused)),
            }
        }
        for (name, was_paused) in came_up {
            self.follow(&name, was_paused);
        }
    }

    /// Waits for an app that somebody else has started.
    fn follow(&mut self, name: &Arc<str>, was_paused: bool) {
        let Some(attempt) = self.attempt(name) else { return };
        if let Some(slot) = self.slots.get_mut(name) {
            // Somebody asked for it; should it not become ready, it is woken all the same.
            slot.wanted |= slot.doing == Doing::Queued;
            slot.doing = Doing::Following;
            slot.after = None;
            slot.show(Phase::Starting, &self.view);
        }
        self.queue.retain(|queued| queued != name);
        let task = Task { app: Arc::clone(&attempt.app), job: Job::Follow, reply: None };
        self.spawn(task, async move { Ended::Followed(attempt.follow(was_paused).await) });
    }

    fn make_due_attempts(&mut self) {
        let now = Instant::now();
        let held_back = self.held_back();
        let is_due = |slot: &Slot| {
            slot.wanted
                && !held_back.contains(&slot.app.name)
                && slot.doing == Doing::Nothing
                && slot.not_before.is_none_or(|at| at <= now)
        };
        let due: Vec<_> = self
            .slots
            .iter()
            .filter(|(_, slot)| is_due(slot))
            .map(|(name, _)| Arc::clone(name))
            .collect();
        for name in due {
            let Some(slot) = self.slots.get_mut(&name) else { continue };
            slot.wanted = false;
            if slot.app.is_awake() {
                slot.reply(&Ok(()));
            } else if slot.seen == Some(EngineState::Paused) {
                // Unpausing costs the box nothing to speak of: it waits for nobody.
                self.wake(&name, None);
            } else {
                slot.doing = Doing::Queued;
                self.queue.push_back(name);
            }
        }
    }

    /// Starts as many as may be under way, and tells the others their places.
    fn fill_places(&mut self) {
        let now = Instant::now();
        let has_place = |slot: &&Slot| matches!(slot.doing, Doing::Waking { place_until: Some(until) } if until > now);
        let mut under_way = self.slots.values().filter(has_place).count();
        while under_way < self.means.config.max_concurrent {
            let Some(name) = self.queue.pop_front() else { break };
            self.wake(&name, Some(now + HELD_PLACE));
            under_way += 1;
        }
        for (ahead, name) in self.queue.iter().enumerate() {
            if let Some(slot) = self.slots.get(name) {
                slot.show(Phase::Queued { place: ahead + 1 }, &self.view);
            }
        }
    }

    fn wake(&mut self, name: &Arc<str>, place_until: Option<Instant>) {
        let Some(attempt) = self.attempt(name) else { return };
        if let Some(slot) = self.slots.get_mut(name) {
            slot.doing = Doing::Waking { place_until };
            slot.attempted = Some(Instant::now());
            slot.is_start = false;
            slot.after = None;
            slot.dormant = None;
        }
        let task = Task { app: Arc::clone(&attempt.app), job: Job::Wake, reply: None };
        self.spawn(task, async move { Ended::Woken(attempt.wake().await) });
    }
}

fn phase_of(rest: Rest) -> Phase {
    match rest {
        Rest::Paused => Phase::Paused,
        Rest::Stopped => Phase::Stopped,
    }
}

impl Slot {
    /// It is ready: requests pass from here on.
    fn came_up(&mut self, view: &View) {
        debug!(app = %self.app.name, "awake");
        self.failures = 0;
        self.lacks_engine = false;
        self.after = None;
        self.wanted = false;
        self.app.note(|history| history.woken = Some(wall_clock()));
        self.show(Phase::Awake, view);
    }
}

#[cfg(test)]
#[path = "waker_tests.rs"]
mod tests;
