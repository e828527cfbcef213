//! Accepts what is to be recorded, without waiting.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout};

use super::archive::ArchiveError;
use super::clock;
use super::losses::Losses;
use super::record::{Entry, Note, RecordId, WriterId};
use crate::backoff::random;

/// Entries that wait for the writer: what arrives in six seconds at 5,000 a second, which is
/// longer than one attempt to write may take.
const QUEUE: usize = 32_768;

/// How long the record of an act may take to be committed.
const COMMIT_LIMIT: Duration = Duration::from_secs(10);

/// Accepts entries. An accepted one has a number, and is written, or its loss is.
#[derive(Debug)]
pub struct Recorder {
    writer: WriterId,
    /// The last number that was given.
    last: AtomicI64,
    queue: mpsc::Sender<Accepted>,
    losses: Arc<Losses>,
}

/// An entry that was accepted.
#[derive(Debug)]
pub(crate) struct Accepted {
    pub(crate) seq: i64,
    pub(crate) since: Instant,
    pub(crate) entry: Entry,
    /// Is told when the record is committed, and that it could not be.
    pub(crate) reply: Option<Reply>,
}

pub(super) type Reply = oneshot::Sender<Result<(), ArchiveError>>;

/// What the writer receives from.
pub(super) type Queue = mpsc::Receiver<Accepted>;

/// Why an act must not be done.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CommitError {
    /// Too much waits to be written.
    #[error("the ledger's queue is full")]
    QueueFull,
    #[error("the ledger cannot be written: {0}")]
    Archive(#[from] ArchiveError),
    #[error("the ledger was not written within {}s", COMMIT_LIMIT.as_secs())]
    TooSlow,
}

impl Recorder {
    pub(super) fn new(losses: Arc<Losses>) -> (Arc<Self>, Queue) {
        Self::with_room(losses, QUEUE)
    }

    pub(crate) fn with_room(losses: Arc<Losses>, room: usize) -> (Arc<Self>, Queue) {
        let (queue, received) = mpsc::channel(room);
        let recorder = Self { writer: random_writer(), last: AtomicI64::new(0), queue, losses };
        (Arc::new(recorder), received)
    }

    /// Hands an entry over. If there is no room for it, it is counted as lost.
    pub fn record(&self, entry: Entry) {
        self.accept(entry, None);
    }

    /// Commits the record of an act. The act may be done only if this returns `Ok`; if it does
    /// not, or is cancelled, a further record says that the act was refused.
    pub async fn commit(&self, entry: Entry) -> Result<RecordId, CommitError> {
        let (reply, committed) = oneshot::channel();
        let copy = entry.clone();
        let id = self.accept(entry, Some(reply)).ok_or(CommitError::QueueFull)?;
        let mut act = Act { recorder: self, id, entry: Some(copy), problem: None };
        let error = match timeout(COMMIT_LIMIT, committed).await {
            Ok(Ok(Ok(()))) => {
                act.entry = None;
                return Ok(id);
            }
            Ok(Ok(Err(error))) => CommitError::Archive(error),
            Ok(Err(_)) | Err(_) => CommitError::TooSlow,
        };
        act.problem = Some(error.to_string().into());
        Err(error)
    }

    /// Records what came of an act: done, or why it failed. `act` is the entry whose record was
    /// committed under `id`.
    pub fn conclude(&self, id: RecordId, act: Entry, outcome: Result<(), &str>) {
        let (verdict, text) = match outcome {
            Ok(()) => ("done", format!("the act of record {id} was done")),
            Err(why) => ("failed", format!("the act of record {id} failed: {why}")),
        };
        let mut entry = Entry { verdict: Some(verdict.into()), at: clock::now(), ..act };
        entry.notes.push(Note { topic: "outcome".into(), text: text.into() });
        self.record(entry);
    }

    /// Returns the id of an accepted entry; `None` if there is no room.
    fn accept(&self, entry: Entry, reply: Option<Reply>) -> Option<RecordId> {
        let Ok(place) = self.queue.try_reserve() else {
            self.losses.count_refused(entry.kind, u64::try_from(entry.count).unwrap_or(1));
            return None;
        };
        let id = self.next_id();
        place.send(Accepted { seq: id.seq, since: Instant::now(), entry, reply });
        Some(id)
    }

    /// Gives the number of a record that does not pass the queue.
    pub(super) fn next_id(&self) -> RecordId {
        RecordId { writer: self.writer, seq: self.last.fetch_add(1, Ordering::Relaxed) + 1 }
    }

    #[must_use]
    pub fn writer(&self) -> WriterId {
        self.writer
    }

    /// Returns how many records have been accepted.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        u64::try_from(self.last.load(Ordering::Relaxed)).unwrap_or(0)
    }

    /// Returns how many entries wait for the writer.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.queue.max_capacity() - self.queue.capacity()
    }
}

/// An act whose record is being committed. Whatever keeps it from being done, dropping the
/// caller included, is recorded: the record of the act itself may still be written.
struct Act<'a> {
    recorder: &'a Recorder,
    id: RecordId,
    /// `None` once the record is committed.
    entry: Option<Entry>,
    problem: Option<Box<str>>,
}

impl Drop for Act<'_> {
    fn drop(&mut self) {
        let Some(mut entry) = self.entry.take() else { return };
        let problem = self.problem.take().unwrap_or_else(|| "its caller was gone".into());
        entry.verdict = Some("refused".into());
        entry.notes.push(Note {
            topic: "refused".into(),
            text: format!("the act of record {} was not done: {problem}", self.id).into(),
        });
        self.recorder.record(entry);
    }
}

/// Returns the number of a process's life: positive, and different from all others by chance.
pub(crate) fn random_writer() -> WriterId {
    let bits = (u64::from(random()) << 32) | u64::from(random());
    WriterId(i64::try_from(bits >> 1).unwrap_or(1).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::record::{Kind, Micros};

    fn recorder(room: usize) -> (Arc<Recorder>, Queue, Arc<Losses>) {
        let losses = Arc::new(Losses::default());
        let (recorder, queue) = Recorder::with_room(Arc::clone(&losses), room);
        (recorder, queue, losses)
    }

    fn entry(kind: Kind) -> Entry {
        Entry::new(kind, Micros(1))
    }

    #[tokio::test]
    async fn numbers_have_no_gaps_and_what_does_not_fit_is_counted_by_kind() {
        let (recorder, mut queue, losses) = recorder(100);
        std::thread::scope(|scope| {
            for kind in [Kind::Visit, Kind::Wake] {
                let recorder = &recorder;
                scope.spawn(move || (0..100).for_each(|_| recorder.record(entry(kind))));
            }
        });
        let mut accepted = Vec::new();
        queue.recv_many(&mut accepted, 1000).await;
        let mut numbers: Vec<_> = accepted.iter().map(|accepted| accepted.seq).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, (1..=100).collect::<Vec<_>>());
        assert_eq!(recorder.accepted(), 100);
        let refused = losses.refused();
        let of = |kind: Kind| refused.iter().find(|(of, _)| *of == kind).map_or(0, |found| found.1);
        assert_eq!(of(Kind::Visit) + of(Kind::Wake), 100);
        assert_eq!(of(Kind::Act), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn an_act_is_refused_and_said_so_when_its_record_is_not_committed() {
        let (recorder, mut queue, _losses) = recorder(100);
        let told = async {
            let Some(Accepted { reply, .. }) = queue.recv().await else { panic!("accepted") };
            let error = ArchiveError::Unavailable("gone".into());
            reply.expect("one waits").send(Err(error)).expect("it still waits");
        };
        let (outcome, ()) = tokio::join!(recorder.commit(entry(Kind::Act)), told);
        assert!(matches!(outcome, Err(CommitError::Archive(_))), "{outcome:?}");
        let refusal = queue.try_recv().expect("a record").entry;
        assert_eq!((refusal.kind, refusal.verdict.as_deref()), (Kind::Act, Some("refused")));
        assert!(refusal.notes[0].text.contains("-1 was not done: "), "{refusal:?}");
        assert!(refusal.notes[0].text.contains("gone"), "{refusal:?}");

        // Nobody answers.
        let outcome = recorder.commit(entry(Kind::Act)).await;
        assert!(matches!(outcome, Err(CommitError::TooSlow)), "{outcome:?}");
        let act = queue.try_recv().expect("a record");
        assert_eq!((act.seq, act.entry.verdict), (3, None));
        assert_eq!(queue.try_recv().expect("a record").entry.verdict.as_deref(), Some("refused"));

        // The caller is gone.
        let commit = recorder.commit(entry(Kind::Act));
        assert!(timeout(Duration::from_millis(1), commit).await.is_err());
        queue.try_recv().expect("the act");
        let refusal = queue.try_recv().expect("a record").entry;
        assert!(refusal.notes[0].text.contains("its caller was gone"), "{refusal:?}");
    }

    #[tokio::test]
    async fn what_came_of_an_act_is_recorded() {
        let (recorder, mut queue, _losses) = recorder(10);
        let id = RecordId { writer: WriterId(0x4f), seq: 7 };
        recorder.conclude(id, entry(Kind::Act), Ok(()));
        recorder.conclude(id, entry(Kind::Act), Err("the store is away"));
        let mut next = || {
            let entry = queue.try_recv().expect("a record").entry;
            (entry.kind, entry.verdict.expect("a verdict"), entry.notes[0].text.clone())
        };
        let text = "the act of record 000000000000004f-7 was done".into();
        assert_eq!(next(), (Kind::Act, "done".into(), text));
        let text = "the act of record 000000000000004f-7 failed: the store is away".into();
        assert_eq!(next(), (Kind::Act, "failed".into(), text));
    }

    #[tokio::test]
    async fn an_act_is_refused_when_there_is_no_room_for_its_record() {
        let (recorder, _queue, losses) = recorder(1);
        recorder.record(entry(Kind::Visit));
        let outcome = recorder.commit(entry(Kind::Act)).await;
        assert!(matches!(outcome, Err(CommitError::QueueFull)), "{outcome:?}");
        assert_eq!(losses.refused(), [(Kind::Act, 1)]);
    }
}
