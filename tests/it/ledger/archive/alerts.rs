//! Alerts: one change, whatever the number of processes and whatever becomes of them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::{BoxFuture, join_all, ready};
use nightporter::alerts::measurement::{Measure, MeasureContext, Measurement};
use nightporter::alerts::plan::{Change, Observation};
use nightporter::alerts::subject::Subject;
use nightporter::alerts::table::{
    self, Alert, AlertPage, Cursor, HistoryEntry, Observer, after_silence,
};
use nightporter::alerts::{Evaluator, Rule};
use nightporter::ledger::archive::{Archive, Transaction};
use nightporter::ledger::record::{Micros, WriterId};

use super::Database;
use crate::ledger::samples::TENANT;
use crate::support::server::config;
use crate::support::soak::STATE_CHANGES;

const FAR: Micros = Micros(i64::MAX);

fn seen(app: &str) -> Observation {
    Observation {
        rule: Rule::AppFailing,
        subject: Subject::App(app.into()),
        since: Micros(5),
        value: 3,
        detail: "container web exited with code 3".into(),
    }
}

async fn locked(archive: &Archive) -> Transaction<'_> {
    let mut transaction = archive.begin().await.expect("begins");
    assert!(table::try_lock(&mut transaction, TENANT).await.expect("answers"));
    transaction
}

/// Changes an alert in a transaction of its own.
async fn change(archive: &Archive, tenant: &str, change: &Change, at: i64) -> Option<Alert> {
    let mut transaction = locked(archive).await;
    let writer = WriterId(1);
    let changed = table::change(&mut transaction, tenant, writer, change, Micros(at)).await;
    transaction.commit().await.expect("commits");
    changed.expect("changed")
}

async fn fire(archive: &Archive, app: &str, since: i64) -> Alert {
    let observation = Observation { since: Micros(since), ..seen(app) };
    change(archive, TENANT, &Change::Fires(observation), since).await.expect("an alert")
}

async fn resolve(archive: &Archive, app: &str, at: i64) -> Option<Alert> {
    let key = (Rule::AppFailing, Subject::App(app.into()));
    change(archive, TENANT, &Change::Resolves(key), at).await
}

async fn page(archive: &Archive, page: AlertPage) -> Vec<Alert> {
    let mut snapshot = archive.snapshot().await.expect("begins");
    table::page(&mut snapshot, TENANT, &page).await.expect("a page")
}

async fn all(archive: &Archive) -> Vec<Alert> {
    page(archive, AlertPage { limit: 10_000, ..AlertPage::default() }).await
}

async fn history(archive: &Archive, id: &str) -> Vec<HistoryEntry> {
    let mut snapshot = archive.snapshot().await.expect("begins");
    table::history(&mut snapshot, TENANT, id, None, 10_000).await.expect("a history")
}

/// Observes as one process; returns what all observe.
async fn observe(
    archive: &Archive,
    writer: i64,
    expires_at: Micros,
    own: &[Observation],
) -> Vec<Observation> {
    let mut transaction = locked(archive).await;
    let now = transaction.now().await.expect("answers");
    let observer = Observer { writer: WriterId(writer), expires_at };
    let stored = table::observe(&mut transaction, TENANT, observer, own, now).await;
    transaction.commit().await.expect("commits");
    stored.expect("written").observed
}

pub async fn an_alert_is_one_row_with_its_history(database: &dyn Database) {
    let archive = database.archive();
    let fired = fire(&archive, "notes", 10).await;
    assert_eq!((fired.is_firing, fired.since, fired.changes), (true, Micros(10), 1));
    assert_eq!((fired.rule, &fired.subject), (Rule::AppFailing, &Subject::App("notes".into())));
    assert_eq!((fired.value, fired.detail.as_str()), (3, "container web exited with code 3"));
    let resolved = resolve(&archive, "notes", 20).await.expect("it fired");
    assert_eq!((resolved.is_firing, resolved.since, resolved.changes), (false, Micros(20), 2));
    assert_eq!(resolve(&archive, "notes", 25).await, None, "it is resolved already");
    let again = fire(&archive, "notes", 30).await;
    assert_eq!((&again.id, again.changes), (&fired.id, 3));
    assert_eq!(all(&archive).await, [again]);
    let changes: Vec<_> = history(&archive, &fired.id)
        .await
        .iter()
        .map(|entry| (entry.n, entry.at.0, entry.is_firing))
        .collect();
    assert_eq!(changes, [(3, 30, true), (2, 20, false), (1, 10, true)]);
    let key = (Rule::AppFailing, Subject::App("notes".into()));
    let other = change(&archive, "another box", &Change::Resolves(key), 40).await;
    assert_eq!(other, None, "that of another box");
}

pub async fn what_a_process_observes_counts_until_it_expires(database: &dyn Database) {
    let archive = database.archive();
    let (notes, wiki) = (seen("notes"), seen("wiki"));
    assert_eq!(observe(&archive, 1, FAR, std::slice::from_ref(&notes)).await.len(), 1);
    let both = observe(&archive, 2, FAR, &[notes.clone(), wiki.clone()]).await;
    assert_eq!(both.len(), 3);
    assert_eq!(observe(&archive, 2, FAR, std::slice::from_ref(&wiki)).await.len(), 2);
    // The third was killed long ago.
    assert_eq!(observe(&archive, 3, Micros(7), std::slice::from_ref(&wiki)).await.len(), 3);
    let mut snapshot = archive.snapshot().await.expect("begins");
    assert!(table::overview(&mut snapshot, TENANT).await.expect("answers").has_expired);
    drop(snapshot);
    assert_eq!(observe(&archive, 2, FAR, &[]).await, [notes]);
    let mut snapshot = archive.snapshot().await.expect("begins");
    assert!(!table::overview(&mut snapshot, TENANT).await.expect("answers").has_expired);
    drop(snapshot);
    assert_eq!(observe(&archive, 1, FAR, &[]).await, []);
}

pub async fn what_has_expired_while_nobody_could_write_counts_for_a_while(database: &dyn Database) {
    let archive = database.archive();
    let notes = seen("notes");
    assert_eq!(observe(&archive, 1, Micros(50), std::slice::from_ref(&notes)).await.len(), 1);
    let observed = async |expired_at| {
        let mut transaction = locked(&archive).await;
        let observer = Observer { writer: WriterId(2), expires_at: FAR };
        let stored = table::observe(&mut transaction, TENANT, observer, &[], expired_at).await;
        transaction.commit().await.expect("commits");
        stored.expect("written").observed.len()
    };
    assert_eq!(observed(Micros(49)).await, 1);
    assert_eq!(observed(Micros(50)).await, 0);
}

pub async fn a_change_that_is_not_committed_leaves_nothing(database: &dyn Database) {
    let archive = database.archive();
    let mut transaction = locked(&archive).await;
    let observer = Observer { writer: WriterId(1), expires_at: FAR };
    let own = [seen("notes")];
    table::observe(&mut transaction, TENANT, observer, &own, Micros(0)).await.expect("written");
    let fires = Change::Fires(seen("notes"));
    let writer = WriterId(1);
    table::change(&mut transaction, TENANT, writer, &fires, Micros(9)).await.expect("written");
    drop(transaction);
    assert_eq!(observe(&archive, 2, FAR, &[]).await, []);
    assert_eq!(all(&archive).await, []);
}

pub async fn pages_of_alerts_follow_each_other(database: &dyn Database) {
    let archive = database.archive();
    for n in 0..7 {
        // Two of them at the same time each.
        fire(&archive, &format!("app{n}"), 100 + n / 2).await;
    }
    resolve(&archive, "app3", 50).await;
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let part = page(&archive, AlertPage { after, limit: 2, ..AlertPage::default() }).await;
        let Some(last) = part.last() else { break };
        after = Some(Cursor { since: last.since, id: last.id.clone() });
        found.extend(part);
    }
    assert_eq!(found, all(&archive).await);
    assert_eq!(found.len(), 7);
    assert!(found.is_sorted_by_key(|alert| std::cmp::Reverse(alert.since)));
    let of = |is_firing, rule| AlertPage { is_firing, rule, limit: 100, after: None };
    assert_eq!(page(&archive, of(Some(true), None)).await.len(), 6);
    assert_eq!(page(&archive, of(Some(false), Some(Rule::AppFailing))).await.len(), 1);
    assert_eq!(page(&archive, of(None, Some(Rule::DiskLow))).await, []);
}

pub async fn a_silence_stays_with_the_alert_and_ends_by_itself(database: &dyn Database) {
    let archive = database.archive();
    let fired = fire(&archive, "notes", 10).await;
    let set = async |id: &str, until: Option<i64>| {
        let mut transaction = locked(&archive).await;
        let until = until.map(Micros);
        let silenced = table::silence(&mut transaction, TENANT, id, until).await.expect("set");
        transaction.commit().await.expect("commits");
        silenced
    };
    assert_eq!(set("missing", Some(50)).await, None);
    let silenced = set(&fired.id, Some(50)).await.expect("it is there");
    assert!(silenced.is_silenced(Micros(49)) && !silenced.is_silenced(Micros(50)));
    let resolved = resolve(&archive, "notes", 20).await.expect("it fired");
    assert_eq!(resolved.silenced_until, Some(Micros(50)));
    fire(&archive, "notes", 60).await;
    let is_silenced: Vec<_> =
        history(&archive, &fired.id).await.iter().map(|entry| entry.is_silenced).collect();
    assert_eq!(is_silenced, [false, true, false]);
    assert_eq!(set(&fired.id, None).await.expect("it is there").silenced_until, None);
}

pub async fn what_changed_in_a_silence_is_told_once_when_it_has_ended(database: &dyn Database) {
    let archive = database.archive();
    let fired = fire(&archive, "notes", 10).await;
    let silence = async |until: i64| {
        let mut transaction = locked(&archive).await;
        let until = Some(Micros(until));
        table::silence(&mut transaction, TENANT, &fired.id, until).await.expect("set");
        transaction.commit().await.expect("commits");
    };
    let told = async |now: i64| {
        let mut transaction = locked(&archive).await;
        let ended = after_silence::end_silences(&mut transaction, TENANT, Micros(now)).await;
        let mut told = Vec::new();
        for alert in ended.expect("ended") {
            if after_silence::take_message(&mut transaction, TENANT, &alert).await.expect("looked")
            {
                told.push(alert.is_firing);
            }
        }
        transaction.commit().await.expect("commits");
        told
    };
    let has_expired = async || {
        let mut snapshot = archive.snapshot().await.expect("begins");
        table::overview(&mut snapshot, TENANT).await.expect("answers").has_expired
    };
    silence(50).await;
    assert!(has_expired().await, "that was long ago");
    resolve(&archive, "notes", 20).await.expect("it fired");
    assert_eq!(told(49).await, [] as [bool; 0], "it is silenced");
    assert_eq!(told(50).await, [false]);
    assert_eq!(told(51).await, [] as [bool; 0], "once");
    assert!(!has_expired().await);
    // It fires and resolves: as things stood.
    silence(100).await;
    fire(&archive, "notes", 60).await;
    resolve(&archive, "notes", 70).await.expect("it fired");
    assert_eq!(told(100).await, [] as [bool; 0]);
    silence(200).await;
    fire(&archive, "notes", 160).await;
    assert_eq!(told(200).await, [true]);
    let is_silenced: Vec<_> =
        history(&archive, &fired.id).await.iter().map(|entry| entry.is_silenced).collect();
    assert_eq!(is_silenced, [false, true, true, false, false]);
}

pub async fn what_was_resolved_long_ago_is_removed(database: &dyn Database) {
    let archive = database.archive();
    for app in ["old", "silenced", "firing", "new"] {
        fire(&archive, app, 10).await;
    }
    for app in ["old", "silenced"] {
        resolve(&archive, app, 20).await;
    }
    resolve(&archive, "firing", 20).await;
    fire(&archive, "firing", 30).await;
    resolve(&archive, "new", 90).await;
    let silenced = all(&archive).await;
    let silenced = silenced.iter().find(|alert| alert.subject.stored() == "silenced");
    let silenced = silenced.expect("it is there").id.clone();
    let mut transaction = locked(&archive).await;
    table::silence(&mut transaction, TENANT, &silenced, Some(Micros(200))).await.expect("set");
    transaction.commit().await.expect("commits");
    let remove = async |before: i64, now: i64| {
        let mut transaction = locked(&archive).await;
        let (before, now) = (Micros(before), Micros(now));
        let removed = table::remove_before(&mut transaction, TENANT, before, now, 100).await;
        transaction.commit().await.expect("commits");
        removed.expect("removed")
    };
    // One alert; the first changes of the silenced one, of the one that fires, and of the new.
    assert_eq!(remove(50, 100).await, 1 + 1 + 2 + 1);
    let left: Vec<_> = all(&archive).await.iter().map(|alert| alert.subject.stored()).collect();
    assert_eq!(left, ["new", "firing", "silenced"]);
    assert_eq!(remove(50, 100).await, 0);
    assert_eq!(remove(50, 300).await, 1, "the silence is over");
}

/// Something that all processes measure, and one that only some do.
#[derive(Debug, Clone, Default)]
struct Dial {
    is_bad: Arc<AtomicBool>,
    /// The alerts that fired when it was measured last.
    firing: Arc<Mutex<usize>>,
}

impl Measure for Dial {
    fn rules(&self) -> &'static [Rule] {
        &[Rule::AppFailing]
    }

    fn measure<'a>(
        &'a self,
        context: MeasureContext<'a>,
    ) -> BoxFuture<'a, Option<Vec<Measurement>>> {
        *self.firing.lock().expect("no panic") = context.firing.len();
        let Observation { rule, subject, value, detail, .. } = seen("notes");
        let measurement = Measurement { rule, subject, value, detail };
        let is_bad = self.is_bad.load(Ordering::SeqCst);
        Box::pin(ready(Some(is_bad.then_some(measurement).into_iter().collect())))
    }
}

fn replica(database: &dyn Database, writer: i64, dial: &Dial) -> Evaluator {
    let config = config("[alerts]\ncalm = \"1ms\"\n");
    let measures: Vec<Box<dyn Measure>> = vec![Box::new(dial.clone())];
    let (archive, tenant) = (Arc::new(database.archive()), Box::new(|| TENANT.into()));
    Evaluator::new(archive, tenant, WriterId(writer), &config.alerts, measures)
}

/// Looks in all processes at once, until none has anything left to write.
async fn until(replicas: &[Evaluator], archive: &Archive, is_firing: bool) {
    for _ in 0..1000 {
        join_all(replicas.iter().map(Evaluator::evaluate)).await;
        let observed = observed_by_all(archive).await;
        let firing =
            page(archive, AlertPage { is_firing: Some(true), limit: 9, ..AlertPage::default() });
        let expected = if is_firing { replicas.len() } else { 0 };
        if observed == expected && firing.await.len() == usize::from(is_firing) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    panic!("not within 1000 looks: firing = {is_firing}");
}

/// Counts what processes observe, and changes nothing.
async fn observed_by_all(archive: &Archive) -> usize {
    loop {
        let mut transaction = archive.begin().await.expect("begins");
        if table::try_lock(&mut transaction, TENANT).await.expect("answers") {
            let nobody = Observer { writer: WriterId(999), expires_at: FAR };
            let stored = table::observe(&mut transaction, TENANT, nobody, &[], Micros(0)).await;
            transaction.roll_back().await.expect("rolls back");
            return stored.expect("read").observed.len();
        }
    }
}

pub async fn three_processes_change_an_alert_once(database: &dyn Database) {
    let (archive, dial) = (database.archive(), Dial::default());
    let replicas: Vec<_> = (1..=3).map(|writer| replica(database, writer, &dial)).collect();
    let changes = STATE_CHANGES.count();
    for change in 0..changes {
        let is_bad = change % 2 == 0;
        dial.is_bad.store(is_bad, Ordering::SeqCst);
        until(&replicas, &archive, is_bad).await;
    }
    let alerts = all(&archive).await;
    assert_eq!(alerts.len(), 1, "{alerts:?}");
    assert_eq!(alerts[0].changes, i64::from(changes));
    let entries = history(&archive, &alerts[0].id).await;
    let expected: Vec<_> = (1..=i64::from(changes)).rev().map(|n| (n, n % 2 == 1)).collect();
    let found: Vec<_> = entries.iter().map(|entry| (entry.n, entry.is_firing)).collect();
    assert_eq!(found, expected);
}

pub async fn a_process_that_takes_over_tells_nothing_again(database: &dyn Database) {
    let (archive, dial) = (database.archive(), Dial::default());
    dial.is_bad.store(true, Ordering::SeqCst);
    let first = [replica(database, 1, &dial)];
    until(&first, &archive, true).await;
    // It is killed, and started again.
    drop(first);
    let second = replica(database, 2, &dial);
    second.evaluate().await;
    assert_eq!(*dial.firing.lock().expect("no panic"), 1, "it knows what fires");
    assert_eq!(observed_by_all(&archive).await, 2);
    // What the first has observed expires.
    observe(&archive, 1, FAR, &[]).await;
    second.evaluate().await;
    let alerts = all(&archive).await;
    assert_eq!((alerts.len(), alerts[0].changes, alerts[0].is_firing), (1, 1, true));
    dial.is_bad.store(false, Ordering::SeqCst);
    until(&[second], &archive, false).await;
    assert_eq!(all(&archive).await[0].changes, 2);
}
