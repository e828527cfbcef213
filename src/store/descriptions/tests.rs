use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use super::*;
use crate::config;
use crate::domain::app::Access;
use crate::domain::app::labels::{Labelled, PREFIX};
use crate::store::Table;

const PATIENCE: Duration = Duration::from_secs(20);

fn freshness() -> Arc<Freshness> {
    Arc::new(Freshness::new(config::Cache {
        capacity: 1,
        ttl: PATIENCE,
        degraded_ttl: PATIENCE,
        max_stale: PATIENCE,
        heartbeat: Duration::from_millis(50),
    }))
}

fn file(dir: &Path, app: &str, more: &str) {
    let folder = dir.join(app);
    std::fs::create_dir_all(&folder).expect("writable");
    let json = format!(
        r#"{{"v": "1.3", "app_version": "1", "name": "{app}", "pretty_name": "File", "icon": "i",
            "entrypoints": [], "paths": {{"": {{"access": "private"}}}}{more}}}"#
    );
    std::fs::write(folder.join("app_meta.json"), json).expect("writable");
}

/// Labels that say that the app `notes` is public.
fn labels(folder: &Path, freshness: &Arc<Freshness>) -> Arc<Labels> {
    let labels = Arc::new(Labels::open(folder.join("labels.json"), Arc::clone(freshness)));
    let said = [("app", "notes"), ("public", "/"), ("hosts", "labels.example")];
    let said: BTreeMap<_, _> =
        said.iter().map(|(key, value)| (format!("{PREFIX}{key}"), (*value).to_owned())).collect();
    let labelled = Labelled::new("web".into(), None, &said, Vec::new());
    let present = BTreeMap::from([("1".into(), Arc::new(labelled))]);
    labels.observe(&present, &BTreeSet::new(), Instant::now());
    labels
}

async fn first_access(descriptions: &Descriptions) -> Result<Access, ReadError> {
    descriptions.read("notes").await.map(|meta| meta.paths[0].access)
}

#[tokio::test]
async fn a_file_counts_and_labels_only_where_there_is_none() {
    let folder = tempfile::tempdir().expect("a folder");
    let (dir, freshness) = (folder.path().join("apps"), freshness());
    let labels = labels(folder.path(), &freshness);
    let descriptions = Descriptions::new(dir.clone(), Some(labels), &freshness);
    // A missing folder says nothing about its files.
    assert!(matches!(first_access(&descriptions).await, Err(ReadError::Unavailable(_))));
    std::fs::create_dir(&dir).expect("writable");
    assert_eq!(first_access(&descriptions).await.expect("labels"), Access::Public);
    assert!(descriptions.problems("notes")[0].contains("port"), "it has none");
    file(&dir, "notes", "");
    assert_eq!(first_access(&descriptions).await.expect("the file"), Access::Private);
    assert!(descriptions.problems("NOTES")[0].contains("app_meta.json counts"));
    // A file that cannot be used is not replaced by labels, which say less.
    std::fs::write(dir.join("notes/app_meta.json"), "{").expect("writable");
    assert!(matches!(first_access(&descriptions).await, Err(ReadError::Unusable(_))));
    std::fs::remove_file(dir.join("notes/app_meta.json")).expect("it is there");
    assert_eq!(first_access(&descriptions).await.expect("labels"), Access::Public);
    assert!(matches!(descriptions.read("other").await, Err(ReadError::Missing(_))));
    let without = Descriptions::new(dir, None, &freshness);
    assert!(matches!(first_access(&without).await, Err(ReadError::Missing(_))));
    assert!(without.problems("notes").is_empty());
}

#[tokio::test]
async fn a_file_that_is_written_anew_is_never_replaced_by_labels() {
    let folder = tempfile::tempdir().expect("a folder");
    let (dir, freshness) = (folder.path().to_owned(), freshness());
    let labels = labels(folder.path(), &freshness);
    let descriptions = Arc::new(Descriptions::new(dir.clone(), Some(labels), &freshness));
    file(&dir, "notes", "");
    assert_eq!(first_access(&descriptions).await.expect("the file"), Access::Private);
    for _ in 0..5 {
        std::fs::remove_file(dir.join("notes/app_meta.json")).expect("it is there");
        let reading = tokio::spawn({
            let descriptions = Arc::clone(&descriptions);
            async move { first_access(&descriptions).await }
        });
        tokio::task::yield_now().await;
        file(&dir, "notes", "");
        let read = reading.await.expect("no panic");
        assert_eq!(read.expect("the file"), Access::Private);
    }
}

#[tokio::test]
async fn hosts_of_files_are_known_before_a_request_asks_and_follow_the_files() {
    let folder = tempfile::tempdir().expect("a folder");
    let (dir, freshness) = (folder.path().join("apps"), freshness());
    let labels = labels(folder.path(), &freshness);
    file(&dir, "wiki", r#", "hosts": ["Wiki.example", "bad host", "example.org."]"#);
    let descriptions = Arc::new(Descriptions::new(dir.clone(), Some(labels), &freshness));
    descriptions.begin();
    let (done, first_scan) = oneshot::channel();
    let (watched, watching) = (Arc::clone(&descriptions), Arc::clone(&freshness));
    let watch = tokio::spawn(async move { watched.watch(watching, true, done).await });
    descriptions.settled().await;
    first_scan.await.expect("scanned");
    let hosts = |app: &str| {
        let claims = descriptions.claims(|_| false);
        claims.into_iter().find(|claim| *claim.app == *app).map(|claim| claim.hosts)
    };
    assert_eq!(hosts("wiki").expect("read"), ["example.org", "wiki.example"]);
    assert_eq!(hosts("notes").expect("labels"), ["labels.example"]);
    assert_eq!(descriptions.claims(|app| app == "notes").len(), 1, "a file counts");
    let until = async |what: &str, expected: Option<&[&str]>| {
        let deadline = Instant::now() + PATIENCE;
        while hosts("wiki").as_deref()
            != expected
                .map(|hosts| hosts.iter().map(|h| (*h).to_owned()).collect::<Vec<_>>())
                .as_deref()
        {
            assert!(Instant::now() < deadline, "{what}: {:?}", hosts("wiki"));
            sleep(Duration::from_millis(5)).await;
        }
    };
    let mark = freshness.origin([Table::Hosts; 2], "");
    file(&dir, "wiki", r#", "hosts": ["other.example"]"#);
    until("changed", Some(&["other.example"])).await;
    assert!(!freshness.is_current(&mark));
    // A broken file leaves the claims as they were.
    std::fs::write(dir.join("wiki/app_meta.json"), "{").expect("writable");
    file(&dir, "chat", r#", "hosts": ["chat.example"]"#);
    let deadline = Instant::now() + PATIENCE;
    while hosts("chat").is_none() {
        assert!(Instant::now() < deadline, "the other is not read");
        sleep(Duration::from_millis(5)).await;
    }
    until("broken", Some(&["other.example"])).await;
    std::fs::remove_dir_all(dir.join("wiki")).expect("it is there");
    until("removed", None).await;
    watch.abort();
}
