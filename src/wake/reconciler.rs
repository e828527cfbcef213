//! The reconciler: the task that decides which app is woken, put to sleep, or has to wait.
//!
//! It alone changes what is shown of an app, and it runs at most one action per app at a
//! time. That provides single flight, and excludes a wake and a sleep at the same time.
//! Actions run in tasks of their own, so that the reconciler can always receive commands
//! and changes from the engine.

mod completion;

use std::collections::{HashMap, HashSet, VecDeque};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::{AbortHandle, Id, JoinSet};
use tokio::time::{Instant, sleep_until};

use super::action::{Action, ActionTask, Completion};
use super::app_state::{AppState, Assessment, InProgress};
use super::attempt::{Attempt, Context};
use super::command::{Command, CommandReceiver, LastUse, Reply};
use super::docker::watch::View;
use super::handle::{milliseconds_since_1970, wall_clock};
use super::observed::EngineState;
use super::registry::Registry;
use super::status::Statuses;
use crate::domain::lifecycle::{Phase, SleepMode, WakeError};
use crate::domain::observation::{ActionObserver, Cause};
use crate::store::touch::Touches;

/// How long a start that is not ready yet holds its start slot. The beginning of a start
/// loads the box most, and a start that hangs must not keep other apps asleep.
const SLOT_HOLD: Duration = Duration::from_secs(10);

/// How many apps are put to sleep at the same time without an operator's command: stopping
/// an app may take ten seconds, during which it cannot be woken.
const MAX_CONCURRENT_SLEEPS: usize = 4;

/// Commands that are handled before the apps are observed again.
const MAX_BATCH: usize = 1000;

/// The longest time between two checks for due attempts.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);

/// The phase that an attempt under way reports, and its app.
pub(super) type Progress = (Arc<str>, Phase);

/// Decides what is done to each app; owned by one task.
#[derive(Debug)]
pub(super) struct Reconciler {
    pub(super) context: Arc<Context>,
    pub(super) registry: Arc<Registry>,
    pub(super) touches: Arc<Touches>,
    pub(super) view: View,
    pub(super) statuses: Statuses,
    observers: Box<[Box<dyn ActionObserver>]>,
    /// Boxed, since a table is up to twice as large as its content.
    apps: HashMap<Arc<str>, Box<AppState>>,
    /// Apps that wait for a start slot.
    queue: VecDeque<Arc<str>>,
    running: JoinSet<Completion>,
    /// The action of each task and its app's handle: an app that was removed and installed
    /// again has a new handle.
    tasks: HashMap<Id, (ActionTask, AbortHandle)>,
    /// Whether something has happened that may change what is shown of an app.
    is_changed: bool,
    /// Whether the engine was live when it was last observed.
    was_live: bool,
    progress: mpsc::UnboundedSender<Progress>,
    progress_receiver: mpsc::UnboundedReceiver<Progress>,
}

impl Reconciler {
    pub(super) fn new(
        context: Arc<Context>,
        registry: Arc<Registry>,
        touches: Arc<Touches>,
        view: View,
        statuses: Statuses,
        observers: Box<[Box<dyn ActionObserver>]>,
    ) -> Self {
        let (progress, progress_receiver) = mpsc::unbounded_channel();
        Self {
            context,
            registry,
            touches,
            view,
            statuses,
            observers,
            apps: HashMap::new(),
            queue: VecDeque::new(),
            running: JoinSet::new(),
            tasks: HashMap::new(),
            is_changed: true,
            was_live: false,
            progress,
            progress_receiver,
        }
    }

    /// Handles commands and changes as long as the process runs.
    pub(super) async fn run(mut self, mut commands: CommandReceiver) -> Infallible {
        loop {
            let due = self.next_due();
            tokio::select! {
                // A report is older than the end of the task that sent it.
                biased;
                Some((name, phase)) = self.progress_receiver.recv() => self.report(&name, phase),
                Some(ended) = self.running.join_next_with_id() => self.finish_task(ended),
                // Before the commands, which may never end; those are handled below, too.
                () = self.view.changed() => self.is_changed = true,
                Some(command) = commands.recv() => self.handle(command),
                () = sleep_until(due) => {}
            }
            // Observing costs time for every app, and at the start there is a command for
            // every app.
            for command in std::iter::from_fn(|| commands.try_recv()).take(MAX_BATCH) {
                self.handle(command);
            }
            if std::mem::take(&mut self.is_changed) {
                self.observe_all();
            }
            self.start_due_attempts();
            self.fill_start_slots();
        }
    }

    /// Returns when an app next needs attention without a command.
    fn next_due(&self) -> Instant {
        let (now, is_queue) = (Instant::now(), !self.queue.is_empty());
        let held_back = self.held_back();
        let free = self.apps.values().filter(|app_state| !held_back.contains(&app_state.app.name));
        let due = free.filter_map(|app_state| app_state.due(now, is_queue));
        due.min().unwrap_or(now + LONGEST_WAIT)
    }

    /// Returns the apps that cannot be woken now, because an app that shares containers with
    /// them is being put to sleep.
    fn held_back(&self) -> HashSet<Arc<str>> {
        let sleeping =
            self.apps.values().filter(|app_state| app_state.in_progress == InProgress::Sleeping);
        sleeping.flat_map(|app_state| app_state.partners.iter().cloned()).collect()
    }

    /// Whether an action on an app that shares containers is in progress or pending.
    fn is_busy(&self, partner: &Arc<str>) -> bool {
        let app_state = self.apps.get(partner);
        app_state.is_some_and(|app_state| {
            app_state.wanted || app_state.in_progress != InProgress::Nothing
        })
    }

    fn app_state(&mut self, name: &Arc<str>) -> Option<&mut AppState> {
        if !self.apps.contains_key(name) {
            let app = self.registry.get(name)?;
            let (name, selector) = (Arc::clone(&app.name), self.registry.selector(&app.name));
            self.apps.insert(name, Box::new(AppState::new(app, selector)));
        }
        self.apps.get_mut(name).map(AsMut::as_mut)
    }

    fn handle(&mut self, command: Command) {
        match command {
            Command::Observe(name) => {
                self.app_state(&name);
                self.is_changed = true;
            }
            Command::Wake(name) => {
                if let Some(app_state) = self.app_state(&name) {
                    app_state.app.clear_pending_wake();
                    app_state.wanted = !app_state.app.is_awake();
                    app_state.cause = Cause::Request;
                }
            }
            Command::Retry(name) => {
                let throttle = self.context.config.throttle;
                if let Some(app_state) = self.app_state(&name) {
                    app_state.app.clear_pending_retry();
                    app_state.wanted = !app_state.app.is_awake();
                    app_state.cause = Cause::Request;
                    // At most one attempt in that time for all visitors together.
                    let soonest = app_state.last_attempt.map(|at| at + throttle);
                    app_state.not_before = app_state.not_before.min(soonest);
                }
            }
            Command::KeepRunning(name) => {
                if let Some(app_state) = self.app_state(&name)
                    && !app_state.app.is_awake()
                    && !app_state.wanted
                {
                    app_state.wanted = true;
                    app_state.cause = Cause::AlwaysOn;
                }
            }
            Command::WakeNow(name, reply) => {
                if let Some(app_state) = self.app_state(&name) {
                    app_state.wanted = true;
                    app_state.cause = Cause::Operator;
                    // The operator may know that the cause of a failure is gone.
                    app_state.not_before = None;
                    app_state.replies.push(reply);
                }
            }
            Command::Sleep { app, mode, cause, unless_used_since, reply } => {
                self.is_changed = true;
                self.sleep(&app, mode, cause, unless_used_since, reply);
            }
            Command::Forget(name) => {
                if let Some(app_state) = self.apps.remove(&name) {
                    // Releases waiting requests; the gate answers those that follow.
                    app_state.app.show(Phase::Awake, &Arc::default());
                }
                self.queue.retain(|queued| *queued != name);
            }
        }
    }

    /// Shows the phase that an attempt has reached.
    fn report(&mut self, name: &Arc<str>, phase: Phase) {
        if let Some(app_state) = self.apps.get_mut(name)
            && matches!(app_state.in_progress, InProgress::Waking { .. } | InProgress::Following)
        {
            let app = &app_state.app;
            let mut tasks = self.tasks.values_mut().map(|(task, _)| task);
            if let Some(task) = tasks.find(|task| Arc::ptr_eq(&task.app, app)) {
                task.steps.begin(phase.as_str(), Instant::now());
            }
            app_state.has_started |= phase == Phase::Starting;
            app_state.show(phase, &self.view);
        }
    }

    /// Puts an app to sleep, unless it has been used since that was decided.
    fn sleep(
        &mut self,
        name: &Arc<str>,
        mode: SleepMode,
        cause: Cause,
        unless_used_since: Option<LastUse>,
        reply: Option<Reply>,
    ) {
        let (touches, view) = (Arc::clone(&self.touches), self.view.clone());
        let sleeping = self
            .apps
            .values()
            .filter(|app_state| app_state.in_progress == InProgress::Sleeping)
            .count();
        if reply.is_none() && sleeping >= MAX_CONCURRENT_SLEEPS {
            // The idle loop tries again; until then requests pass.
            return;
        }
        if reply.is_some() && view.snapshot().live {
            self.stop_following(name);
        }
        let Some(app_state) = self.app_state(name) else { return };
        let partners = app_state.observe(&view).partners();
        let is_shared_busy = partners.iter().any(|partner| self.is_busy(partner));
        let Some(app_state) = self.apps.get_mut(name) else { return };
        let refusal = if !view.snapshot().live {
            Some(WakeError::EngineAway)
        } else if is_shared_busy {
            Some(WakeError::Declined(
                "an action on an app that shares its containers is in progress",
            ))
        } else if app_state.in_progress != InProgress::Nothing {
            Some(WakeError::Declined("another action on it is in progress"))
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
            (None, false) if app_state.wanted => return,
            (None, false) if app_state.app.history().is_left_alone(Instant::now()) => return,
            // The idle loop looked before the sleep that has ended since.
            (None, false) if app_state.app.shown().phase == phase_of(mode) => return,
            (None, _) => {}
        }
        let was_awake = app_state.app.is_awake();
        // The flag is cleared first, and uses are checked afterwards: a request that was
        // let through has noted its use before it read the flag.
        app_state.app.close();
        let noted = LastUse(touches.last_use(name));
        if unless_used_since.is_some_and(|before| before != noted) {
            app_state.last_state = None;
            return;
        }
        // Operators whose order to wake it was not carried out yet get an answer, too.
        let ordered_to_sleep = WakeError::Declined("it was ordered to sleep");
        app_state.reply(&if was_awake { Ok(()) } else { Err(ordered_to_sleep) });
        app_state.show(phase_of(mode), &view);
        app_state.in_progress = InProgress::Sleeping;
        app_state.partners = partners;
        app_state.wanted = false;
        app_state.outcome_phase = None;
        if let Some(attempt) = self.attempt(name) {
            let task = ActionTask::new(&attempt.app, Action::Sleep(mode), cause, None, reply);
            self.spawn(task, async move { Completion::Slept(mode, attempt.sleep(mode).await) });
        }
    }

    fn attempt(&self, name: &Arc<str>) -> Option<Attempt> {
        let app_state = self.apps.get(name)?;
        Some(Attempt {
            context: Arc::clone(&self.context),
            registry: Arc::clone(&self.registry),
            app: Arc::clone(&app_state.app),
            selector: app_state.selector.clone(),
            view: self.view.clone(),
            chosen: HashSet::new(),
            progress: self.progress.clone(),
        })
    }

    fn spawn(
        &mut self,
        task: ActionTask,
        future: impl Future<Output = Completion> + Send + 'static,
    ) {
        let handle = self.running.spawn(future);
        self.tasks.insert(handle.id(), (task, handle));
    }

    /// Stops waiting for an app that another program has started, unless an operator waits
    /// for it.
    fn stop_following(&mut self, name: &Arc<str>) {
        let is_followed = |app_state: &&mut Box<AppState>| {
            app_state.in_progress == InProgress::Following && app_state.replies.is_empty()
        };
        let Some(app_state) = self.apps.get_mut(name).filter(is_followed) else { return };
        app_state.in_progress = InProgress::Nothing;
        self.tasks.retain(|_, (task, handle)| {
            let is_it =
                matches!(task.action, Action::Follow) && Arc::ptr_eq(&task.app, &app_state.app);
            if is_it {
                handle.abort();
            }
            !is_it
        });
    }

    /// Ends the backoff of apps that failed because the engine was away, once it is live
    /// again.
    fn clear_engine_failures(&mut self) {
        for app_state in self.apps.values_mut().filter(|app_state| app_state.failed_without_engine)
        {
            app_state.failed_without_engine = false;
            app_state.failures = 0;
            app_state.not_before = None;
            app_state.outcome_phase = None;
            app_state.wanted |= app_state.app.is_waited_for();
        }
    }

    /// Updates every app without an action in progress from the engine's state.
    fn observe_all(&mut self) {
        let snapshot = self.view.snapshot();
        if !snapshot.was_listed {
            // No app is known to be asleep yet.
            return;
        }
        if snapshot.live && !self.was_live {
            self.clear_engine_failures();
        }
        self.was_live = snapshot.live;
        let now = milliseconds_since_1970(wall_clock());
        let mut came_up = Vec::new();
        for (name, app_state) in &mut self.apps {
            if !matches!(app_state.in_progress, InProgress::Nothing | InProgress::Queued) {
                continue;
            }
            let observed = app_state.observe_in(&snapshot);
            let before = app_state.last_state.replace(observed.state);
            let can_be_made = observed.state == EngineState::Missing
                && self.context.compose.can_make(name, &app_state.selector);
            let is_ours = observed.state != EngineState::Missing || can_be_made;
            if snapshot.live && is_ours && app_state.written != Some(observed.state) {
                app_state.written = Some(observed.state);
                self.statuses.write(name, observed.state);
            }
            let is_first = !std::mem::replace(&mut app_state.was_observed, true);
            let may_start = is_first
                && observed.is_recently_started(
                    &app_state.app.spec(),
                    now,
                    self.context.config.start_timeout,
                );
            match app_state.assess(&observed, before, can_be_made, may_start) {
                // Its place in the queue is shown.
                Assessment::Show(_) if app_state.in_progress == InProgress::Queued => {}
                Assessment::Show(phase) => app_state.app.show(phase, &observed.states()),
                Assessment::Follow { was_paused } => came_up.push((Arc::clone(name), was_paused)),
            }
        }
        for (name, was_paused) in came_up {
            self.follow(&name, was_paused);
        }
    }

    /// Waits for an app that another program has started.
    fn follow(&mut self, name: &Arc<str>, was_paused: bool) {
        let Some(attempt) = self.attempt(name) else { return };
        if let Some(app_state) = self.apps.get_mut(name) {
            // It was requested: if it does not become ready, it is woken.
            app_state.wanted |= app_state.in_progress == InProgress::Queued;
            app_state.queued = None;
            app_state.in_progress = InProgress::Following;
            app_state.outcome_phase = None;
            app_state.show(Phase::Starting, &self.view);
        }
        self.queue.retain(|queued| queued != name);
        let cause = Cause::OtherProgram;
        let task = ActionTask::new(&attempt.app, Action::Follow, cause, None, None);
        self.spawn(task, async move { Completion::Followed(attempt.follow(was_paused).await) });
    }

    fn start_due_attempts(&mut self) {
        let now = Instant::now();
        let held_back = self.held_back();
        let is_due = |app_state: &AppState| {
            app_state.wanted
                && !held_back.contains(&app_state.app.name)
                && app_state.in_progress == InProgress::Nothing
                && app_state.not_before.is_none_or(|at| at <= now)
        };
        let due: Vec<_> = self
            .apps
            .iter()
            .filter(|(_, app_state)| is_due(app_state))
            .map(|(name, _)| Arc::clone(name))
            .collect();
        for name in due {
            let Some(app_state) = self.apps.get_mut(&name) else { continue };
            app_state.wanted = false;
            if app_state.app.is_awake() {
                app_state.reply(&Ok(()));
            } else if app_state.last_state == Some(EngineState::Paused) {
                // Unpausing costs the box almost nothing, so it needs no start slot.
                self.wake(&name, None);
            } else {
                app_state.in_progress = InProgress::Queued;
                app_state.queued = Some(now);
                self.queue.push_back(name);
            }
        }
    }

    /// Starts queued apps while slots are free, and shows the others their places.
    fn fill_start_slots(&mut self) {
        let now = Instant::now();
        let holds_slot = |app_state: &AppState| {
            matches!(
                app_state.in_progress,
                InProgress::Waking { slot_until: Some(until) } if until > now
            )
        };
        let mut under_way = self.apps.values().filter(|app_state| holds_slot(app_state)).count();
        while under_way < self.context.config.max_concurrent {
            let Some(name) = self.queue.pop_front() else { break };
            self.wake(&name, Some(now + SLOT_HOLD));
            under_way += 1;
        }
        for (ahead, name) in self.queue.iter().enumerate() {
            if let Some(app_state) = self.apps.get(name) {
                app_state.show(Phase::Queued { place: ahead + 1 }, &self.view);
            }
        }
    }

    fn wake(&mut self, name: &Arc<str>, slot_until: Option<Instant>) {
        let Some(attempt) = self.attempt(name) else { return };
        let Some(app_state) = self.apps.get_mut(name) else { return };
        app_state.in_progress = InProgress::Waking { slot_until };
        app_state.last_attempt = Some(Instant::now());
        app_state.has_started = false;
        app_state.outcome_phase = None;
        app_state.dormant = None;
        let queued = app_state.queued.take();
        // Requests that keep waiting after a failure cause the next attempt.
        let cause = std::mem::replace(&mut app_state.cause, Cause::Request);
        let task = ActionTask::new(&attempt.app, Action::Wake, cause, queued, None);
        self.spawn(task, async move { Completion::Woken(attempt.wake().await) });
    }
}

fn phase_of(mode: SleepMode) -> Phase {
    match mode {
        SleepMode::Paused => Phase::Paused,
        SleepMode::Stopped => Phase::Stopped,
    }
}

#[cfg(test)]
mod tests;
