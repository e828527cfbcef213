//! The writer: makes records of what was accepted, and writes them in batches.
//!
//! What it has taken from the queue is in flight until it is in the archive or in the spool.
//! That outlives a panic and a cancelled task: the next task that runs the writer goes on with it.
//! What neither the archive nor the spool takes stays in flight; then the queue fills up, and
//! what no longer fits is counted.

mod in_flight;

use std::convert::Infallible;
use std::fmt;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::{Mutex as AsyncMutex, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::archive::ArchiveError;
use super::clock;
use super::dead_letter::{DeadLetters, LetterError};
use super::link::{Link, Target, WRITE_LIMIT};
use super::losses::{Cause, Losses};
use super::record::{Entry, Record, RecordId};
use super::recorder::{Accepted, Queue, Recorder};
use super::rollup::Rollup;
use in_flight::{InFlight, Received};

/// The most records of one batch; each is one transaction or one file.
const MAX_BATCH: usize = 5_000;

/// The most bytes of one batch, about as they are in memory.
const MAX_BATCH_BYTES: usize = 4 << 20;

/// How often counts are written: a delta is at most this old, and the time that writing takes,
/// which is at most as long again.
const DELTAS: Duration = Duration::from_secs(5);

/// Waits while neither the archive nor the spool takes anything.
const STUCK_WAIT: Duration = Duration::from_secs(1);

/// How long a write may take while the process ends.
const LAST_WRITE_LIMIT: Duration = Duration::from_secs(1);

/// Makes records of entries: gives them salt, hash and seal.
pub trait Seal: fmt::Debug + Send + 'static {
    /// Does what is needed before the first record, such as reading the key. Called before
    /// each batch.
    fn prepare(&mut self) -> BoxFuture<'_, Result<(), String>>;

    /// Returns `None` if it is not prepared.
    fn seal(&mut self, id: RecordId, tenant: &Arc<str>, entry: Entry) -> Option<Record>;
}

/// The id of the box, which records carry; empty while it has none.
#[derive(Debug, Default)]
pub struct Tenant(Mutex<Option<Arc<str>>>);

impl Tenant {
    pub fn set(&self, id: &str) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(id.into());
    }

    #[must_use]
    pub fn get(&self) -> Arc<str> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone().unwrap_or_default()
    }
}

/// What a writer works with.
#[derive(Debug)]
pub struct Dependencies<T> {
    pub recorder: Arc<Recorder>,
    pub rollup: Arc<Rollup>,
    pub losses: Arc<Losses>,
    pub letters: Arc<DeadLetters>,
    pub link: Arc<Link<T>>,
    pub tenant: Arc<Tenant>,
    pub seal: Box<dyn Seal>,
    pub flush_interval: Duration,
}

/// Writes what is accepted.
#[derive(Debug)]
pub struct Writer<T> {
    recorder: Arc<Recorder>,
    rollup: Arc<Rollup>,
    losses: Arc<Losses>,
    letters: Arc<DeadLetters>,
    link: Arc<Link<T>>,
    tenant: Arc<Tenant>,
    flush_interval: Duration,
    state: AsyncMutex<State>,
    closing: watch::Sender<bool>,
    spooled: AtomicU64,
    /// When the oldest record in flight was accepted, in microseconds; 0 if there is none.
    oldest: AtomicI64,
    problem: Mutex<Option<Arc<str>>>,
}

#[derive(Debug)]
struct State {
    queue: Queue,
    in_flight: InFlight,
    seal: Box<dyn Seal>,
    deltas_due: Instant,
}

impl<T: Target> Writer<T> {
    pub(super) fn new(parts: Dependencies<T>, queue: Queue) -> Self {
        let Dependencies { recorder, rollup, losses, letters, link, tenant, seal, flush_interval } =
            parts;
        let in_flight = InFlight::default();
        Self {
            recorder,
            rollup,
            losses,
            letters,
            link,
            tenant,
            flush_interval,
            state: AsyncMutex::new(State {
                queue,
                in_flight,
                seal,
                deltas_due: Instant::now() + DELTAS,
            }),
            closing: watch::Sender::new(false),
            spooled: AtomicU64::new(0),
            oldest: AtomicI64::new(0),
            problem: Mutex::default(),
        }
    }

    /// Writes for the life of the process. To be started again after a panic.
    pub async fn run(&self) -> Infallible {
        while !*self.closing.borrow() {
            let mut state = self.state.lock().await;
            self.turn(&mut state).await;
        }
        std::future::pending().await
    }

    /// Writes or spools everything that was accepted, and nothing that is accepted later.
    /// Returns how many records could be neither written nor spooled in time.
    pub async fn finish(&self, limit: Duration) -> usize {
        let deadline = Instant::now() + limit;
        self.closing.send_replace(true);
        let finishing = Box::pin(async {
            let mut state = self.state.lock().await;
            state.queue.close();
            self.finish_all(&mut state).await;
            state.in_flight.len() + state.queue.len()
        });
        let left = timeout_at(deadline, finishing).await.unwrap_or_else(|_| {
            let held = self.state.try_lock();
            // Somebody is stuck in a write to a disk that does not answer.
            let in_queue = self.recorder.waiting();
            held.map_or(in_queue.max(1), |state| state.in_flight.len() + state.queue.len())
        });
        if left > 0 {
            tracing::error!(left, "records are lost: neither the database nor the spool took them");
        }
        left
    }

    async fn finish_all(&self, state: &mut State) {
        loop {
            state.in_flight.receive_now(&mut state.queue, MAX_BATCH);
            self.add_deltas(state);
            if state.in_flight.is_empty() {
                return;
            }
            if !self.deliver(state).await {
                return;
            }
        }
    }

    /// Waits for what is accepted, collects a batch and delivers it.
    async fn turn(&self, state: &mut State) {
        if state.in_flight.is_empty() {
            self.receive(state).await;
        } else {
            // An earlier turn did not come to its end.
            state.in_flight.receive_now(&mut state.queue, MAX_BATCH);
        }
        if Instant::now() >= state.deltas_due && state.in_flight.accepted() < MAX_BATCH {
            self.add_deltas(state);
        }
        if state.in_flight.is_empty() {
            return;
        }
        if !self.deliver(state).await {
            let mut closing = self.closing.subscribe();
            tokio::select! {
                () = sleep(STUCK_WAIT) => {}
                _ = closing.wait_for(|closing| *closing) => {}
            }
        }
    }

    /// Receives until a batch is complete: it is large enough, its first record may not wait
    /// any longer, or it has an act.
    async fn receive(&self, state: &mut State) {
        let State { queue, in_flight, deltas_due, .. } = state;
        let mut closing = self.closing.subscribe();
        let mut until = *deltas_due;
        while in_flight.accepted() < MAX_BATCH && !in_flight.has_act() {
            tokio::select! {
                biased;
                _ = closing.wait_for(|closing| *closing) => return,
                refilled = in_flight.receive(queue, MAX_BATCH) => match refilled {
                    Received::First(since) => {
                        // Half of the interval is left for the write.
                        until = until.min(since + self.flush_interval / 2);
                        self.note_oldest(Some(since));
                    }
                    Received::More => {}
                    Received::Closed => return,
                },
                () = sleep_until(until) => return,
            }
        }
    }

    /// Adds what was counted, and what was lost.
    fn add_deltas(&self, state: &mut State) {
        state.deltas_due = Instant::now() + DELTAS;
        let since = Instant::now();
        let losses = self.losses.take(clock::now());
        for entry in losses.into_iter().chain(self.rollup.take()) {
            let seq = self.recorder.next_id().seq;
            state.in_flight.add(Accepted { seq, since, entry, reply: None });
        }
    }

    /// Delivers everything in flight. Returns whether that was possible.
    async fn deliver(&self, state: &mut State) -> bool {
        let State { in_flight, seal, .. } = state;
        loop {
            if let Err(problem) = seal.prepare().await {
                self.note_problem(Some(&problem));
                in_flight.refuse_acts(&ArchiveError::Unavailable(problem.into()));
                return false;
            }
            self.seal_batch(in_flight, &mut **seal);
            if let Err(problem) = self.deliver_sealed(in_flight).await {
                self.note_problem(Some(&problem));
                in_flight.refuse_acts(&ArchiveError::Unavailable(problem.into()));
                return false;
            }
            self.note_problem(None);
            if in_flight.is_empty() {
                self.note_oldest(None);
                return true;
            }
        }
    }

    /// Makes records of what was accepted, up to a batch.
    fn seal_batch(&self, in_flight: &mut InFlight, seal: &mut dyn Seal) {
        let (tenant, writer) = (self.tenant.get(), self.recorder.writer());
        if let Some(seq) = in_flight.take_unsealable() {
            tracing::error!(seq, "no record could be made of an accepted entry; it is lost");
            self.losses.add(Cause::Unsealable, [RecordId { writer, seq }]);
        }
        while in_flight.has_room(MAX_BATCH, MAX_BATCH_BYTES) {
            let sealed = in_flight
                .seal_next(|seq, entry| seal.seal(RecordId { writer, seq }, &tenant, entry));
            if !sealed {
                break;
            }
        }
    }

    /// Writes what is sealed. The records of acts are written whether or not the archive is
    /// known to work: somebody waits. They are written together with those that were accepted
    /// before them, or after these: if the process is killed, the numbers that are missing are
    /// the last ones, and not such that look deleted. Acts that are not committed are told so,
    /// and go on as records like any other.
    async fn deliver_sealed(&self, in_flight: &mut InFlight) -> Result<(), String> {
        if in_flight.acts().is_empty() {
            return self.deliver_batch(in_flight).await;
        }
        let all = [&in_flight.batch()[..], in_flight.acts()].concat();
        let outcome = self.write_batch(&all).await;
        match outcome {
            Ok(()) => {
                in_flight.answer_acts(&outcome);
                in_flight.batch_done();
                Ok(())
            }
            // What is refused may be none of the acts.
            Err(ArchiveError::Content(_)) if !in_flight.batch().is_empty() => {
                let spooled = self.spool(in_flight).await;
                let outcome = self.write_batch(in_flight.acts()).await;
                in_flight.answer_acts(&outcome);
                spooled.map_err(|error| error.to_string())?;
                // The archive works: what is not at fault is there soon.
                self.letters.want_replay();
                Ok(())
            }
            Err(_) => {
                in_flight.answer_acts(&outcome);
                self.deliver_batch(in_flight).await
            }
        }
    }

    async fn deliver_batch(&self, in_flight: &mut InFlight) -> Result<(), String> {
        let batch = in_flight.batch();
        if batch.is_empty() {
            return Ok(());
        }
        let mut is_refused = false;
        // While the archive does not work, nothing new waits for it: it is tried with what is in
        // the spool.
        let works = self.link.works();
        if works {
            match self.write_batch(&batch).await {
                Ok(()) => {
                    in_flight.batch_done();
                    return Ok(());
                }
                Err(ArchiveError::Content(_)) => is_refused = true,
                Err(ArchiveError::Unavailable(_)) => {}
            }
        }
        drop(batch);
        if let Err(error) = self.spool(in_flight).await {
            let is_due = self.link.retry_at().is_none_or(|at| Instant::now() >= at);
            if works || !is_due || self.write_batch(&in_flight.batch()).await.is_err() {
                return Err(error.to_string());
            }
            in_flight.batch_done();
            return Ok(());
        }
        if is_refused {
            // The archive works: what is not at fault is there soon.
            self.letters.want_replay();
        }
        Ok(())
    }

    /// Puts the batch into the spool. Counts of grants have a letter of their own, which goes
    /// first if there is too little room; it is written last, since their numbers are the last.
    async fn spool(&self, in_flight: &mut InFlight) -> Result<(), LetterError> {
        let counts = in_flight.move_counts_to_the_end();
        let others = in_flight.batch().len() - counts;
        for number in [others, counts].into_iter().filter(|number| *number > 0) {
            let batch = in_flight.batch();
            let part = if number == batch.len() { batch } else { batch[..number].to_vec().into() };
            self.letters.put(part, None).await?;
            in_flight.remove_from_batch(number);
            self.spooled.fetch_add(number as u64, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Writes a batch; gives up sooner if the process ends meanwhile.
    async fn write_batch(&self, batch: &[Record]) -> Result<(), ArchiveError> {
        let mut closing = self.closing.subscribe();
        let ending = async {
            if closing.wait_for(|closing| *closing).await.is_err() {
                std::future::pending::<()>().await;
            }
            sleep(LAST_WRITE_LIMIT).await;
        };
        tokio::select! {
            outcome = self.link.write(batch, self.limit()) => outcome,
            () = ending => Err(ArchiveError::Unavailable("the process ends".into())),
        }
    }

    fn limit(&self) -> Duration {
        if *self.closing.borrow() { LAST_WRITE_LIMIT } else { WRITE_LIMIT }
    }

    fn note_problem(&self, problem: Option<&str>) {
        let mut noted = self.problem.lock().unwrap_or_else(PoisonError::into_inner);
        if let (Some(problem), None) = (problem, &*noted) {
            tracing::error!(problem, "the ledger can neither be written nor spooled");
        }
        *noted = problem.map(Into::into);
    }

    fn note_oldest(&self, since: Option<Instant>) {
        let at = since.map_or(0, |since| {
            clock::now().0 - super::record::micros(Instant::now().saturating_duration_since(since))
        });
        self.oldest.store(at, Ordering::Relaxed);
    }

    /// Returns how many records have been spooled.
    #[must_use]
    pub fn spooled(&self) -> u64 {
        self.spooled.load(Ordering::Relaxed)
    }

    /// Returns how long the oldest record that is being written has waited.
    #[must_use]
    pub fn age(&self) -> Duration {
        match self.oldest.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            at => Duration::from_micros(u64::try_from(clock::now().0 - at).unwrap_or(0)),
        }
    }

    /// Returns why nothing can be written or spooled.
    #[must_use]
    pub fn problem(&self) -> Option<Arc<str>> {
        self.problem.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests;
