use std::collections::BTreeSet;

use tempfile::TempDir;
use tokio::task::JoinHandle;

use super::*;
use crate::domain::client::Client;
use crate::domain::endpoint::VerdictKind;
use crate::ledger::fake::{FakeArchive, FakeSeal, Mode, UNSEALABLE, entry};
use crate::ledger::ranges::Ranges;
use crate::ledger::record::{Kind, Micros};
use crate::ledger::recorder::CommitError;
use crate::ledger::rollup::Counted;
use crate::ledger::spool::Spool;

const PATIENCE: Duration = Duration::from_secs(20);

struct Set {
    writer: Arc<Writer<FakeArchive>>,
    archive: Arc<FakeArchive>,
    folder: TempDir,
}

fn set_with(room: usize, max_spool: u64) -> Set {
    let folder = tempfile::tempdir().expect("a folder");
    let spool = Arc::new(Spool::new(folder.path().join("spool"), max_spool));
    let (losses, archive) = (Arc::<Losses>::default(), Arc::<FakeArchive>::default());
    let (recorder, queue) = Recorder::with_room(Arc::clone(&losses), room);
    let parts = Dependencies {
        recorder,
        rollup: Arc::default(),
        letters: Arc::new(DeadLetters::new(spool, Arc::clone(&losses), 3)),
        losses,
        link: Arc::new(Link::new(Arc::clone(&archive))),
        tenant: Arc::default(),
        seal: Box::new(FakeSeal::new()),
        flush_interval: Duration::from_millis(200),
    };
    parts.tenant.set("box");
    Set { writer: Arc::new(Writer::new(parts, queue)), archive, folder }
}

fn set() -> Set {
    set_with(100_000, 1 << 30)
}

impl Set {
    fn record(&self, numbers: usize) {
        (0..numbers).for_each(|_| self.writer.recorder.record(entry(Kind::Visit)));
    }

    /// Runs the writer as the process does: again after each panic.
    fn run(&self) -> JoinHandle<()> {
        let writer = Arc::clone(&self.writer);
        tokio::spawn(async move {
            let replay = async { match writer.letters.run(&writer.link).await {} };
            let write = async {
                loop {
                    let writer = Arc::clone(&writer);
                    let _panicked = tokio::spawn(async move { writer.run().await }).await;
                }
            };
            tokio::join!(replay, write);
        })
    }

    /// Waits for something; fails if it does not happen in time.
    async fn until(&self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !is_so(self) {
            assert!(Instant::now() < deadline, "{what}");
            sleep(Duration::from_millis(2)).await;
        }
    }

    async fn spooled(&self) -> Vec<i64> {
        let letters = &self.writer.letters;
        let mut numbers = Vec::new();
        for letter in letters.list().await.expect("readable") {
            let records = letters.get(&letter.id).await.expect("there").records;
            numbers.extend(records.iter().map(|record| record.id.seq));
        }
        numbers.sort_unstable();
        numbers
    }

    /// Replaces the spool's folder by a file, so that nothing can be spooled.
    fn break_spool(&self) {
        std::fs::write(self.folder.path().join("spool"), "").expect("written");
    }

    fn repair_spool(&self) {
        std::fs::remove_file(self.folder.path().join("spool")).expect("removed");
    }
}

fn all(count: i64) -> Vec<i64> {
    (1..=count).collect()
}

#[tokio::test(start_paused = true)]
async fn what_is_accepted_is_written_within_the_interval_in_few_batches() {
    let set = set();
    let run = set.run();
    tokio::task::yield_now().await;
    for _ in 0..50 {
        set.record(10);
        sleep(Duration::from_millis(20)).await;
    }
    let begin = Instant::now();
    set.record(1);
    while set.archive.numbers().len() < 501 {
        sleep(Duration::from_millis(1)).await;
    }
    assert!(begin.elapsed() <= Duration::from_millis(150), "{:?}", begin.elapsed());
    assert_eq!(set.archive.numbers(), all(501));
    let writes = set.archive.inner().writes.len();
    assert!((5..=30).contains(&writes), "{writes} writes in a second");
    assert!(set.archive.of_kind(Kind::Visit).iter().all(|record| &*record.tenant == "box"));
    run.abort();
}

#[tokio::test]
async fn batches_are_bounded() {
    let set = set();
    set.record(12_345);
    assert_eq!(set.writer.finish(PATIENCE).await, 0);
    assert_eq!(set.archive.numbers(), all(12_345));
    let writes = set.archive.inner().writes.clone();
    assert!(writes.iter().all(|records| *records <= MAX_BATCH), "{writes:?}");
}

#[tokio::test]
async fn an_archive_that_fails_panics_or_loses_its_answer_costs_nothing() {
    let set = set();
    let run = set.run();
    let mut count = 0;
    for mode in [Mode::Fails, Mode::Panics, Mode::WritesAndFails, Mode::Works].repeat(3) {
        set.archive.set(mode);
        set.record(100);
        count += 100;
        let expected = usize::try_from(count).expect("small");
        set.until("nothing is in flight", |set| {
            let spooled = usize::try_from(set.writer.spooled()).expect("small");
            spooled + usize::try_from(set.writer.link.records()).expect("small") >= expected
        })
        .await;
    }
    set.archive.set(Mode::Works);
    // The process's own replay may have a letter in hand, or wait with it.
    let deadline = Instant::now() + PATIENCE;
    while set.archive.numbers() != all(count) || !set.spooled().await.is_empty() {
        assert!(Instant::now() < deadline, "not all are written");
        set.writer.letters.replay(&set.writer.link).await;
        sleep(Duration::from_millis(2)).await;
    }
    run.abort();
}

#[tokio::test(start_paused = true)]
async fn an_archive_that_hangs_is_given_up_and_its_batch_spooled() {
    let set = set();
    set.archive.set(Mode::Hangs);
    let run = set.run();
    set.record(10);
    let begin = Instant::now();
    while set.writer.spooled() < 10 {
        sleep(Duration::from_millis(50)).await;
    }
    assert!(begin.elapsed() <= WRITE_LIMIT + Duration::from_secs(1), "{:?}", begin.elapsed());
    assert!(set.writer.link.problem().is_some());
    // The next batch does not wait for another attempt.
    let begin = Instant::now();
    set.record(1);
    while set.writer.spooled() < 11 {
        sleep(Duration::from_millis(5)).await;
    }
    assert!(begin.elapsed() <= Duration::from_millis(300), "{:?}", begin.elapsed());
    run.abort();
}

#[tokio::test]
async fn a_writer_that_panics_or_is_cancelled_anywhere_loses_nothing() {
    let set = set();
    set.record(500);
    // Cancelled at each point at which it can be.
    for polls in 0..60 {
        let mut run = Box::pin(set.writer.run());
        for _ in 0..polls {
            let _ = futures_util::poll!(run.as_mut());
            tokio::task::yield_now().await;
        }
        drop(run);
        set.record(10);
        if polls == 30 {
            set.archive.set(Mode::Fails);
        }
    }
    set.archive.set(Mode::Works);
    assert_eq!(set.writer.finish(PATIENCE).await, 0);
    set.writer.letters.replay(&set.writer.link).await;
    assert_eq!(set.archive.numbers(), all(1100));
}

#[tokio::test]
async fn an_entry_that_cannot_be_sealed_is_named_and_the_others_are_written() {
    let set = set();
    set.record(10);
    let bad = || Entry { app: Some(UNSEALABLE.into()), ..entry(Kind::Visit) };
    set.writer.recorder.record(bad());
    set.record(10);
    set.writer.recorder.record(bad());
    let run = set.run();
    set.until("the others are written", |set| set.archive.numbers().len() >= 20).await;
    run.abort();
    let _ended = run.await;
    set.writer.finish(PATIENCE).await;
    let written: BTreeSet<_> = set.archive.numbers().into_iter().collect();
    assert!(!written.contains(&11) && !written.contains(&22), "{written:?}");
    assert!((1..=21).filter(|seq| *seq != 11).all(|seq| written.contains(&seq)), "{written:?}");
    let losses = set.archive.of_kind(Kind::Loss);
    let said: Vec<_> = losses.iter().map(|record| record.reason.as_deref()).collect();
    assert!(said.iter().all(|reason| *reason == Some("unsealable")), "{said:?}");
    assert_eq!(losses.iter().map(|record| record.count).sum::<i64>(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_act_is_committed_before_it_is_answered() {
    let set = set();
    let run = set.run();
    let begin = Instant::now();
    let id = set.writer.recorder.commit(entry(Kind::Act)).await.expect("committed");
    assert!(set.archive.inner().records.contains_key(&id));
    assert!(begin.elapsed() < Duration::from_millis(50), "flushed at once");
    run.abort();
}

#[tokio::test]
async fn a_poisoned_visit_does_not_refuse_an_act() {
    let set = set();
    set.archive.inner().poisoned.insert(1);
    set.record(1);
    let run = set.run();
    set.writer.recorder.commit(entry(Kind::Act)).await.expect("committed");
    set.until("the visit is spooled", |set| set.writer.spooled() == 1).await;
    assert_eq!(set.archive.numbers(), [2]);
    run.abort();
}

#[tokio::test]
async fn an_act_fails_closed_and_the_record_says_that_it_was_refused() {
    for mode in [Mode::Fails, Mode::Panics, Mode::WritesAndFails] {
        let set = set();
        let run = set.run();
        set.archive.set(mode);
        let outcome = set.writer.recorder.commit(entry(Kind::Act)).await;
        assert!(matches!(outcome, Err(CommitError::Archive(_))), "{mode:?}: {outcome:?}");
        set.until("both are spooled", |set| set.writer.spooled() == 2).await;
        run.abort();
        set.archive.set(Mode::Works);
        set.writer.letters.replay(&set.writer.link).await;
        let acts = set.archive.of_kind(Kind::Act);
        assert_eq!(acts.len(), 2, "{mode:?}");
        let refusal = &acts[1];
        assert_eq!(refusal.verdict.as_deref(), Some("refused"), "{mode:?}");
        let named = format!("{}", acts[0].id);
        assert!(refusal.notes.iter().any(|note| note.text.contains(&named)), "{refusal:?}");
    }
}

#[tokio::test]
async fn without_archive_and_spool_acts_are_refused_and_the_rest_is_kept_as_far_as_there_is_room() {
    let set = set_with(50, 1 << 30);
    set.archive.set(Mode::Fails);
    set.break_spool();
    let run = set.run();
    set.record(20);
    set.until("it is stuck", |set| set.writer.problem().is_some()).await;
    let outcome = set.writer.recorder.commit(entry(Kind::Act)).await;
    assert!(outcome.is_err(), "{outcome:?}");
    set.until("the queue is full", |set| {
        set.record(10);
        set.writer.losses.refused().iter().any(|(kind, count)| *kind == Kind::Visit && *count > 10)
    })
    .await;
    let refused: u64 = set.writer.losses.refused().iter().map(|(_, count)| count).sum();
    let accepted = set.writer.recorder.accepted();
    // Room again, without a restart.
    set.repair_spool();
    set.archive.set(Mode::Works);
    set.until("all that was accepted is written", |set| {
        set.archive.numbers().len() as u64 >= accepted
    })
    .await;
    set.until("the loss is recorded", |set| !set.archive.of_kind(Kind::Loss).is_empty()).await;
    run.abort();
    let _ended = run.await;
    set.writer.finish(PATIENCE).await;
    set.writer.letters.replay(&set.writer.link).await;
    let losses = set.archive.of_kind(Kind::Loss);
    let said: i64 = losses.iter().map(|record| record.count).sum();
    assert_eq!(said, i64::try_from(refused).expect("small"));
    let last = i64::try_from(set.writer.recorder.accepted()).expect("small");
    assert_eq!(set.archive.numbers(), all(last), "no number is missing");
    assert_eq!(set.writer.problem(), None);
}

#[tokio::test]
async fn what_is_dropped_from_the_spool_is_named_by_a_record() {
    let set = set_with(100_000, 3 * 4096);
    set.archive.set(Mode::Fails);
    let run = set.run();
    for number in 1..=10 {
        set.record(1);
        set.until("it is spooled", |set| set.writer.spooled() == number).await;
    }
    run.abort();
    let _ended = run.await;
    set.archive.set(Mode::Works);
    assert_eq!(set.writer.finish(PATIENCE).await, 0);
    set.writer.letters.replay(&set.writer.link).await;
    let (mut lost, losses) = (Ranges::default(), set.archive.of_kind(Kind::Loss));
    for loss in &losses {
        assert_eq!(loss.reason.as_deref(), Some("spool_full"));
        let (writer, ranges) = loss.notes[0].text.split_once(' ').expect("a writer and ranges");
        assert_eq!(writer, format!("{:016x}", set.writer.recorder.writer().0));
        let ranges: Ranges = ranges.parse().expect("ranges");
        assert_eq!(loss.count.unsigned_abs(), ranges.count());
        ranges.iter().for_each(|(first, last)| lost.insert_range(first, last));
    }
    assert!(lost.count() >= 7, "{lost}");
    let last = i64::try_from(set.writer.recorder.accepted()).expect("small");
    let written = set.archive.numbers();
    let is_named = |seq: &i64| lost.contains(*seq) != written.contains(seq);
    assert!((1..=last).all(|seq| is_named(&seq)), "lost {lost}, written {written:?}");
}

#[tokio::test]
async fn counts_are_written_as_deltas() {
    let set = set();
    let grant = |minute: i64| Counted {
        verdict: VerdictKind::Grant,
        at: Micros(minute * 60_000_000 + 5),
        app: Some("notes"),
        rule: Some(""),
        client: Some(Client::Anonymous),
    };
    (0..1000).for_each(|index| set.writer.rollup.count(grant(index % 2)));
    assert_eq!(set.writer.finish(PATIENCE).await, 0);
    let grants = set.archive.of_kind(Kind::Grants);
    let counts: Vec<_> = grants.iter().map(|record| record.count).collect();
    assert_eq!(counts, [500, 500]);
    assert_eq!(set.archive.numbers(), [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn a_delta_is_written_within_ten_seconds_though_nothing_else_happens() {
    let set = set();
    let run = set.run();
    tokio::task::yield_now().await;
    let (verdict, at) = (VerdictKind::Grant, Micros(0));
    let counted = Counted { verdict, at, app: None, rule: None, client: None };
    for _ in 0..3 {
        let begin = Instant::now();
        set.writer.rollup.count(counted);
        let before = set.archive.numbers().len();
        while set.archive.numbers().len() == before {
            sleep(Duration::from_millis(100)).await;
        }
        assert!(begin.elapsed() <= Duration::from_secs(10), "{:?}", begin.elapsed());
    }
    run.abort();
}

#[tokio::test(start_paused = true)]
async fn the_end_of_the_process_has_a_deadline() {
    let set = set();
    set.archive.set(Mode::Hangs);
    let run = set.run();
    set.record(100);
    // It is in the middle of a write.
    sleep(Duration::from_millis(200)).await;
    set.record(100);
    let begin = Instant::now();
    assert_eq!(set.writer.finish(Duration::from_secs(4)).await, 0);
    assert!(begin.elapsed() < Duration::from_secs(4), "{:?}", begin.elapsed());
    assert_eq!(set.spooled().await, all(200));
    run.abort();

    let set = self::set();
    set.archive.set(Mode::Hangs);
    set.break_spool();
    set.record(7);
    assert_eq!(set.writer.finish(Duration::from_secs(4)).await, 7, "said to be lost");
}

#[tokio::test]
async fn what_comes_too_late_is_counted() {
    let set = set();
    set.record(1);
    set.writer.finish(PATIENCE).await;
    set.record(1);
    assert_eq!(set.archive.numbers(), [1]);
    assert_eq!(set.writer.losses.refused(), [(Kind::Visit, 1)]);
}

#[tokio::test]
async fn an_act_is_committed_with_what_was_accepted_before_it() {
    let set = set();
    set.record(10);
    let run = set.run();
    set.writer.recorder.commit(entry(Kind::Act)).await.expect("committed");
    let inner = set.archive.inner();
    // Whatever ends the process between two writes leaves no gap before the act.
    let first = inner.writes.first().copied().expect("a write");
    assert_eq!((first, inner.records.len()), (11, 11), "{:?}", inner.writes);
    drop(inner);
    run.abort();
}

#[tokio::test]
async fn an_act_is_done_though_a_visit_is_refused_and_cannot_be_spooled() {
    let set = set();
    set.archive.inner().poisoned.insert(1);
    set.break_spool();
    set.record(1);
    let run = set.run();
    set.until("it is stuck", |set| set.writer.problem().is_some()).await;
    let act = set.writer.recorder.commit(entry(Kind::Act)).await;
    assert!(act.is_ok(), "{act:?}");
    set.repair_spool();
    set.until("the visit is spooled", |set| set.writer.spooled() >= 1).await;
    run.abort();
}

#[tokio::test(start_paused = true)]
async fn an_act_that_is_being_written_when_the_process_ends_costs_no_other_record() {
    let set = set();
    set.archive.set(Mode::Hangs);
    let run = set.run();
    set.record(50);
    let recorder = Arc::clone(&set.writer.recorder);
    let act = tokio::spawn(async move { recorder.commit(entry(Kind::Act)).await });
    // It is in the middle of the write of the act, which may take longer than the end.
    sleep(Duration::from_millis(200)).await;
    set.record(50);
    assert_eq!(set.writer.finish(Duration::from_secs(4)).await, 0);
    assert!(act.await.expect("ends").is_err());
    let spooled = set.spooled().await;
    assert!(all(101).iter().all(|number| spooled.contains(number)), "{spooled:?}");
    run.abort();
}

#[tokio::test]
async fn counts_of_grants_have_a_letter_of_their_own() {
    let set = set();
    set.archive.set(Mode::Fails);
    let (verdict, at) = (VerdictKind::Grant, Micros(0));
    set.writer.rollup.count(Counted { verdict, at, app: None, rule: None, client: None });
    set.record(20);
    assert_eq!(set.writer.finish(PATIENCE).await, 0);
    let mut letters = Vec::new();
    for letter in set.writer.letters.list().await.expect("readable") {
        let records = set.writer.letters.get(&letter.id).await.expect("there").records;
        let grants = records.iter().filter(|record| record.kind == Kind::Grants).count();
        letters.push((letter.id.ends_with(".grants.letter"), records.len(), grants));
    }
    assert_eq!(letters, [(false, 20, 0), (true, 1, 1)]);
    assert_eq!(set.writer.spooled(), 21);
}
