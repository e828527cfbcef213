use super::*;
use crate::config;
use crate::domain::app::Access;
use crate::domain::app::labels::PREFIX;

type Present = BTreeMap<Arc<str>, Arc<Labelled>>;

fn freshness() -> Arc<Freshness> {
    let second = Duration::from_secs(1);
    Arc::new(Freshness::new(config::Cache {
        capacity: 1,
        ttl: second,
        degraded_ttl: second,
        max_stale: second,
        heartbeat: second,
    }))
}

/// Id and name of a container, and its labels.
type Made<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)]);

fn present(containers: &[Made<'_>]) -> Present {
    containers
        .iter()
        .map(|(id, name, labels)| {
            let labels: BTreeMap<_, _> = labels
                .iter()
                .map(|(key, value)| (format!("{PREFIX}{key}"), (*value).to_owned()))
                .collect();
            let labelled = Labelled::new((*name).to_owned(), None, &labels, vec![80]);
            (Arc::from(*id), Arc::new(labelled))
        })
        .collect()
}

fn access(labels: &Labels, app: &str) -> Option<Access> {
    let described = labels.get(app)?;
    Some(described.meta.as_ref().expect("described").paths[0].access)
}

const PUBLIC: &[(&str, &str)] = &[("app", "notes"), ("public", "/")];
const PRIVATE: &[(&str, &str)] = &[("app", "Notes"), ("private", "/")];

#[tokio::test(start_paused = true)]
async fn an_app_lives_as_long_as_its_containers_and_a_grace() {
    let folder = tempfile::tempdir().expect("a folder");
    let freshness = freshness();
    let labels = Labels::open(folder.path().join("labels.json"), Arc::clone(&freshness));
    let mark = || freshness.origin([Table::Apps, Table::AppMeta], "notes");
    let names = || freshness.origin([Table::AppNames, Table::Hosts], "");
    let (before, before_names) = (mark(), names());
    let first = labels.observe(&present(&[("1", "web", PUBLIC)]), &BTreeSet::new(), Instant::now());
    assert_eq!(first.apps, ["notes".into()]);
    assert!(!freshness.is_current(&before) && !freshness.is_current(&before_names));
    assert_eq!(access(&labels, "NOTES"), Some(Access::Public));
    // The same again changes nothing.
    let (before, before_names) = (mark(), names());
    let again = labels.observe(&present(&[("1", "web", PUBLIC)]), &BTreeSet::new(), Instant::now());
    assert!(again.apps.is_empty() && !again.is_unsaved && again.again.is_none());
    assert!(freshness.is_current(&before) && freshness.is_current(&before_names));
    // Created again under the same name: what it says now counts at once.
    labels.observe(&present(&[("2", "web", PRIVATE)]), &BTreeSet::new(), Instant::now());
    assert_eq!(access(&labels, "notes"), Some(Access::Private));
    // Removed: known for the grace.
    let removed = labels.observe(&Present::new(), &BTreeSet::new(), Instant::now());
    let ends = removed.again.expect("to be looked at again");
    assert_eq!(access(&labels, "notes"), Some(Access::Private));
    tokio::time::advance(REMOVAL_GRACE / 2).await;
    assert_eq!(labels.observe(&Present::new(), &BTreeSet::new(), Instant::now()).again, Some(ends));
    assert_eq!(access(&labels, "notes"), Some(Access::Private));
    tokio::time::advance(REMOVAL_GRACE / 2).await;
    let before_names = names();
    let gone = labels.observe(&Present::new(), &BTreeSet::new(), Instant::now());
    assert!(gone.again.is_none() && access(&labels, "notes").is_none());
    assert!(!freshness.is_current(&before_names));
}

#[tokio::test(start_paused = true)]
async fn two_that_contradict_each_other_deny_until_one_is_removed() {
    let folder = tempfile::tempdir().expect("a folder");
    let labels = Labels::open(folder.path().join("labels.json"), freshness());
    let both = present(&[("1", "old", PUBLIC), ("2", "new", PRIVATE)]);
    labels.observe(&both, &BTreeSet::new(), Instant::now());
    assert!(labels.get("notes").expect("known").meta.is_err());
    // The removed one is not asked where the other speaks.
    labels.observe(&present(&[("2", "new", PRIVATE)]), &BTreeSet::new(), Instant::now());
    assert_eq!(access(&labels, "notes"), Some(Access::Private));
}

/// A container that the engine cannot describe for a while says what it said: were it taken for
/// removed, its app would be gone, or what contradicts it would count alone.
#[tokio::test(start_paused = true)]
async fn a_container_that_cannot_be_inspected_says_what_it_said() {
    let folder = tempfile::tempdir().expect("a folder");
    let labels = Labels::open(folder.path().join("labels.json"), freshness());
    let both = [("1", "web", PUBLIC), ("2", "api", PRIVATE)];
    labels.observe(&present(&both), &BTreeSet::new(), Instant::now());
    let contradicts = || labels.get("notes").expect("known").meta.is_err();
    assert!(contradicts());
    let unread = BTreeSet::from(["2".into()]);
    for _ in 0..2 {
        let observed = labels.observe(&present(&both[..1]), &unread, Instant::now());
        assert!(observed.apps.is_empty() && observed.again.is_none());
        assert!(contradicts());
        tokio::time::advance(2 * REMOVAL_GRACE).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_known_outlives_the_process() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("state/labels.json");
    let labels = Labels::open(file.clone(), freshness());
    labels.observe(
        &present(&[("1", "web", PUBLIC), ("2", "db", &[("app", "a, b")])]),
        &BTreeSet::new(),
        Instant::now(),
    );
    labels.save().await.expect("writable");
    let later = Labels::open(file.clone(), freshness());
    assert_eq!(access(&later, "notes"), Some(Access::Public));
    assert_eq!(later.apps().len(), 1, "a shared container makes no app known");
    // What is no longer there when the engine answers has its grace from then on.
    let removed = later.observe(&Present::new(), &BTreeSet::new(), Instant::now());
    assert!(removed.again.is_some());
    assert_eq!(access(&later, "notes"), Some(Access::Public));
    std::fs::write(&file, "{").expect("writable");
    assert!(Labels::open(file, freshness()).apps().is_empty());
}

#[test]
fn only_names_that_a_host_can_have_are_apps() {
    let folder = tempfile::tempdir().expect("a folder");
    let labels = Labels::open(folder.path().join("labels.json"), freshness());
    let of =
        |name| -> &'static [(&'static str, &'static str)] { Box::leak(Box::new([("app", name)])) };
    let names = ["ok", "a.b", "a b", "", "ü", "../x", "Up-per_1"];
    let ids = ["0", "1", "2", "3", "4", "5", "6"];
    let all: Vec<_> = ids.iter().zip(names).map(|(id, name)| (*id, *id, of(name))).collect();
    labels.observe(&present(&all), &BTreeSet::new(), Instant::now());
    let apps: Vec<_> = labels.apps().into_iter().map(|(name, _)| name.to_string()).collect();
    assert_eq!(apps, ["ok", "up-per_1"]);
}
