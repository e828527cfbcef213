use tempfile::TempDir;

use super::*;
use crate::ledger::fake::{FakeArchive, Mode, records};
use crate::ledger::record::{Kind, Micros};

struct Set {
    letters: DeadLetters,
    link: Link<FakeArchive>,
    archive: Arc<FakeArchive>,
    losses: Arc<Losses>,
    folder: TempDir,
}

fn set() -> Set {
    let folder = tempfile::tempdir().expect("a folder");
    let spool = Arc::new(Spool::new(folder.path().join("spool"), 1 << 30));
    let (losses, archive) = (Arc::<Losses>::default(), Arc::<FakeArchive>::default());
    let letters = DeadLetters::new(spool, Arc::clone(&losses), 3);
    Set { letters, link: Link::new(Arc::clone(&archive)), archive, losses, folder }
}

impl Set {
    async fn put(&self, numbers: impl IntoIterator<Item = i64>) {
        let records = Arc::new(records(Kind::Visit, numbers));
        self.letters.put(records, None).await.expect("room");
    }

    async fn replay(&self) -> Outcome {
        self.letters.replay(&self.link).await
    }

    async fn list(&self) -> Vec<Summary> {
        self.letters.list().await.expect("readable")
    }
}

#[tokio::test]
async fn letters_are_replayed_and_gone() {
    let set = set();
    set.put(1..=10).await;
    set.put(11..=20).await;
    let outcome = set.replay().await;
    assert_eq!(outcome, Outcome { replayed: 20, letters: 2, ..Outcome::default() });
    assert_eq!(set.archive.numbers(), (1..=20).collect::<Vec<_>>());
    assert!(set.list().await.is_empty());
    assert_eq!(set.replay().await, Outcome::default());
}

#[tokio::test]
async fn of_ten_thousand_records_only_the_poisoned_one_stays_with_its_error() {
    let set = set();
    set.put(1..=5000).await;
    set.put(5001..=10_000).await;
    set.archive.inner().poisoned.insert(7321);
    let outcome = set.replay().await;
    assert_eq!((outcome.replayed, outcome.failed), (9999, 1));
    let expected: Vec<_> = (1..=10_000).filter(|number| *number != 7321).collect();
    assert_eq!(set.archive.numbers(), expected);
    let [letter] = &set.list().await[..] else { panic!("{:?}", set.list().await) };
    let detail = set.letters.get(&letter.id).await.expect("there");
    assert_eq!(detail.summary.error.as_deref(), Some("7321 is refused"));
    let kept: Vec<_> = detail.records.iter().map(|record| record.id.seq).collect();
    assert_eq!(kept, [7321]);
    assert!(set.archive.inner().writes.len() < 40, "{:?}", set.archive.inner().writes);
    assert_eq!(set.losses.take(Micros(0)), [], "nothing is lost");
}

#[tokio::test]
async fn many_poisoned_records_each_stay_by_themselves() {
    let set = set();
    set.put(1..=100).await;
    set.archive.inner().poisoned.extend([1, 2, 50, 99, 100]);
    assert_eq!(set.replay().await.replayed, 95);
    let mut left = Vec::new();
    for Summary { id, .. } in set.list().await {
        let records = set.letters.get(&id).await.expect("there").records;
        assert_eq!(records.len(), 1);
        left.push(records[0].id.seq);
    }
    left.sort_unstable();
    assert_eq!(left, [1, 2, 50, 99, 100]);
}

#[tokio::test(start_paused = true)]
async fn a_poisoned_record_is_retried_and_then_waits_for_the_operator() {
    let set = set();
    set.put([1]).await;
    set.archive.inner().poisoned.insert(1);
    let mut passes = 0;
    loop {
        set.replay().await;
        passes += 1;
        assert!(passes < 1000);
        let [letter] = &set.list().await[..] else { panic!("{:?}", set.list().await) };
        if letter.is_given_up {
            assert_eq!(letter.retries, 3);
            break;
        }
        tokio::time::advance(Duration::from_secs(10)).await;
    }
    let stats = set.letters.stats().await.expect("readable");
    assert_eq!((stats.letters, stats.given_up), (1, 1));
    let writes = set.archive.inner().writes.len();
    tokio::time::advance(LONGEST_WAIT * 2).await;
    set.replay().await;
    assert_eq!(set.archive.inner().writes.len(), writes, "it waits");
    // The operator has repaired the cause.
    set.archive.inner().poisoned.clear();
    let id = set.list().await[0].id.clone();
    let outcome = set.letters.replay_now(&id, &set.link).await.expect("replayed");
    assert_eq!((outcome.replayed, outcome.letters), (1, 1));
    assert_eq!(set.archive.numbers(), [1]);
    assert!(set.list().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn while_the_archive_does_not_work_no_retry_counts() {
    let set = set();
    for number in 0..20 {
        set.put([number + 1]).await;
    }
    for mode in [Mode::Fails, Mode::Panics, Mode::Hangs, Mode::WritesAndFails] {
        set.archive.set(mode);
        for _ in 0..10 {
            assert_eq!(set.replay().await.failed, 2, "not all are tried: {mode:?}");
            tokio::time::advance(Duration::from_secs(10)).await;
        }
    }
    assert!(set.list().await.iter().all(|letter| letter.retries == 0));
    set.archive.set(Mode::Works);
    assert_eq!(set.replay().await.letters, 20);
    assert_eq!(set.archive.numbers(), (1..=20).collect::<Vec<_>>(), "nothing twice");
}

#[tokio::test]
async fn a_split_that_is_interrupted_is_repeated_without_harm() {
    let set = set();
    set.put(1..=64).await;
    set.archive.inner().poisoned.insert(64);
    // The letter is refused as a whole; then the archive goes away.
    let refused = set.link.write(&records(Kind::Visit, [64]), REPLAY_LIMIT).await;
    assert!(matches!(refused, Err(ArchiveError::Content(_))));
    set.archive.set(Mode::WritesAndFails);
    set.replay().await;
    assert_eq!(set.list().await.len(), 1, "it is still whole");
    set.archive.set(Mode::Works);
    set.replay().await;
    assert_eq!(set.archive.numbers(), (1..=63).collect::<Vec<_>>());
    assert_eq!(set.list().await.len(), 1);
}

#[tokio::test]
async fn a_dismissed_letter_is_a_loss_with_its_numbers() {
    let set = set();
    set.put([3, 4, 5, 9]).await;
    let id = set.list().await[0].id.clone();
    assert_eq!(set.letters.dismiss(&id).await.expect("there"), 4);
    assert!(set.list().await.is_empty());
    let said = set.losses.take(Micros(0));
    assert_eq!(said.len(), 1);
    assert_eq!(said[0].reason.as_deref(), Some("dismissed"));
    assert_eq!(&*said[0].notes[0].text, "000000000000004f 3-5 9");
    assert!(matches!(set.letters.dismiss(&id).await, Err(LetterError::NotFound)));
    assert!(matches!(set.letters.get("../x").await, Err(LetterError::NotFound)));
}

#[tokio::test]
async fn files_that_are_no_letters_are_set_aside_and_the_others_replayed() {
    let set = set();
    set.put(1..=5).await;
    let spool = set.folder.path().join("spool");
    for name in ["0.letter", "z.letter", "notes.txt"] {
        std::fs::write(spool.join(name), "something else").expect("written");
    }
    let outcome = set.replay().await;
    assert_eq!((outcome.replayed, outcome.set_aside), (5, 3));
    let stats = set.letters.stats().await.expect("readable");
    assert_eq!((stats.letters, stats.bad.len()), (0, 3));
    assert_eq!(set.replay().await, Outcome::default(), "once");
}

#[tokio::test]
async fn letters_are_replayed_at_once_when_the_archive_is_back() {
    let set = Arc::new(set());
    set.put([1]).await;
    let run = tokio::spawn({
        let set = Arc::clone(&set);
        async move { set.letters.run(&set.link).await }
    });
    set.archive.set(Mode::Fails);
    let write = |number| {
        let (set, records) = (Arc::clone(&set), records(Kind::Visit, [number]));
        async move { set.link.write(&records, REPLAY_LIMIT).await }
    };
    assert!(write(2).await.is_err());
    set.archive.set(Mode::Works);
    write(3).await.expect("it works again");
    let deadline = Instant::now() + Duration::from_secs(10);
    while set.archive.numbers() != [1, 3] {
        assert!(Instant::now() < deadline, "{:?}", set.archive.numbers());
        tokio::task::yield_now().await;
    }
    run.abort();
}

#[tokio::test(start_paused = true)]
async fn an_archive_that_is_away_is_looked_for_now_and_then_though_no_letter_waits() {
    let set = Arc::new(set());
    set.archive.set(Mode::Fails);
    let outcome = set.link.write(&records(Kind::Visit, [1]), REPLAY_LIMIT).await;
    assert!(outcome.is_err());
    let run = tokio::spawn({
        let set = Arc::clone(&set);
        async move { set.letters.run(&set.link).await }
    });
    // Time goes on only while nothing runs.
    tokio::time::sleep(Duration::from_secs(60)).await;
    let probes = set.archive.inner().probes;
    assert!((5..=60).contains(&probes), "{probes}");
    set.archive.set(Mode::Works);
    let deadline = Instant::now() + Duration::from_secs(60);
    while !set.link.works() {
        assert!(Instant::now() < deadline, "it is not noticed");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(set.link.writes(), 0, "a look is not a write");
    run.abort();
}
