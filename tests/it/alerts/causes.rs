//! Every rule fires and resolves by a real cause. Apps that do not start are in
//! `wake/alerts.rs`, denials in `storms.rs`.

use std::path::Path;
use std::time::Duration;

use nightporter::domain::identity::encode_id;
use rcgen::{CertificateParams, KeyPair};
use serde_json::{Value, json};
use tokio_postgres::Client;

use super::{PATIENCE, Watched, add_app, get, section};
use crate::support::boxes::{SampleBox, Store, id_of, token};
use crate::support::chaos::{ChaosProxy, Network};
use crate::support::client::{Request, poll};
use crate::support::disk::SmallDisk;
use crate::support::load::{Shot, drive};
use crate::support::postgres::Cluster;
use crate::support::sign::BOX_KEY;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_not_heard() {
    let sample = SampleBox::new(Store::Postgres).await;
    add_app(&sample).await;
    let proxy = ChaosProxy::before(sample.database().server_address()).await;
    let url = sample.database().url_at(proxy.address);
    // The ledger is elsewhere, so the alert is written at once.
    let store = sample.store_config_with(Some(&url));
    let store = store.replacen("[ledger]\n", "[ledger]\nkind = \"sqlite\"\n", 1);
    let toml = format!("{store}{}", section("cache_degraded = \"1s\"\n"));
    let watched = Watched::of(sample, &toml).await;
    proxy.set(Network::Cut);
    let alert = watched.fires("cache_degraded").await;
    assert_eq!(alert["subject"], json!({"kind": "box", "value": ""}), "{alert}");
    proxy.set(Network::Pass);
    proxy.reset();
    watched.resolves("cache_degraded").await;
    assert_eq!(watched.history(&alert).await, ["firing", "resolved"]);
}

/// The alert is about the very database that it is written to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_away_is_shown_at_once_and_told_when_it_is_back() {
    let cluster = Cluster::own();
    let sample = SampleBox::in_database(Store::Postgres, Some(cluster.database().await)).await;
    add_app(&sample).await;
    let alerts = section("cache_degraded = \"1s\"\ncalm = \"1s\"\n");
    let toml = format!("{}{alerts}", sample.store_config());
    let watched = Watched::of(sample, &toml).await;
    cluster.crash().await;
    poll("/healthz says it", PATIENCE, async || {
        let health = get_any(&watched, "/healthz").await;
        let alerts = health["alerts"].as_array().expect("a list");
        alerts.iter().any(|alert| alert["rule"] == "cache_degraded")
    })
    .await;
    assert_eq!(super::metric(&watched.porter, "cache_degraded").await, 1);
    cluster.start().await;
    let mut told = Vec::new();
    poll("it is told, and then resolves", PATIENCE, async || {
        let path = "/v1/alerts?rule=cache_degraded&state=resolved";
        let response =
            crate::support::client::ask(watched.porter.ops, &Request::new("GET", path)).await;
        if response.status == 200 {
            let page: Value = serde_json::from_slice(&response.body).expect("JSON");
            told = page["alerts"].as_array().expect("a list").clone();
        }
        !told.is_empty()
    })
    .await;
    assert_eq!(watched.history(&told[0]).await, ["firing", "resolved"]);
    watched.resolves("cache_degraded").await;
}

/// The health of a box that may be unwell.
async fn get_any(watched: &Watched, path: &str) -> Value {
    let response =
        crate::support::client::ask(watched.porter.ops, &Request::new("GET", path)).await;
    serde_json::from_slice(&response.body).expect("JSON")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_the_database_refuses() {
    let sample = SampleBox::new(Store::Postgres).await;
    add_app(&sample).await;
    let toml = format!(
        "{}{}[jobs]\ndead_letters = \"500ms\"\n",
        sample.store_config(),
        section("dead_letters = \"1s\"\n")
    );
    let watched = Watched::of(sample, &toml).await;
    let client = watched.sample.database().connect().await;
    let requests = "ALTER TABLE nightporter_ledger.requests";
    poll("the ledger has its tables", PATIENCE, async || {
        let sql = "SELECT to_regclass('nightporter_ledger.requests') IS NOT NULL";
        client.query_one(sql, &[]).await.expect("answers").get::<_, bool>(0)
    })
    .await;
    execute(&client, &format!("{requests} ADD CONSTRAINT poison CHECK (path <> '/poison')")).await;
    let poisoned = Request::auth("notes.localhost", "/poison");
    assert_eq!(watched.porter.ask(&poisoned).await.status, 401);
    let alert = watched.fires("dead_letters").await;
    assert!(alert["help"].as_str().expect("text").contains("deadletter list"), "{alert}");
    execute(&client, &format!("{requests} DROP CONSTRAINT poison")).await;
    watched.resolves("dead_letters").await;
}

async fn execute(client: &Client, sql: &str) {
    client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_that_are_lost() {
    let sample = SampleBox::new(Store::Files).await;
    add_app(&sample).await;
    let database = Cluster::shared().database().await;
    let proxy = ChaosProxy::before(database.server_address()).await;
    // Neither the database nor the spool takes any.
    let disk = SmallDisk::of_kib(64 * 1024);
    std::fs::create_dir_all(sample.ledger()).expect("a folder");
    std::os::unix::fs::symlink(disk.path(), sample.ledger().join("spool")).expect("a link");
    let ledger =
        format!("[ledger]\nurl = \"{}\"\ngrants = \"all\"\n", database.url_at(proxy.address));
    let store = sample.store_config().replacen("[ledger]\n", &ledger, 1);
    let toml = format!("{store}{}", section("records_dropped = \"5s\"\n"));
    let watched = Watched::of(sample, &toml).await;
    // It has begun to write.
    watched.is_denied("192.0.2.1").await;
    poll("a record is written", PATIENCE, async || {
        get(&watched.porter, "/healthz").await["ledger"]["written"] != 0
    })
    .await;
    proxy.set(Network::Cut);
    disk.set_read_only(true);
    let granted = Request::auth("notes.localhost", "/").cookie(token());
    let shots = [Shot::new(&granted, 200)].into();
    poll("records are lost", PATIENCE, async || {
        drive(watched.porter.gate, &shots, 8, 10_000).await.is_as_expected(10_000);
        get_any(&watched, "/healthz").await["ledger"]["dropped"] != 0
    })
    .await;
    disk.set_read_only(false);
    proxy.set(Network::Pass);
    proxy.reset();
    let alert = watched.fires("records_dropped").await;
    assert!(alert["value"].as_u64().expect("a number") > 0, "{alert}");
    watched.resolves("records_dropped").await;
}

/// Writes a certificate that is valid for so many days, and its key.
#[expect(clippy::disallowed_methods, reason = "certificates are valid by the clock")]
fn certify(folder: &Path, days: i64) {
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new(["localhost".to_owned()]).expect("a name");
    let now = std::time::SystemTime::now();
    let days = Duration::from_secs(u64::try_from(days).expect("positive") * 24 * 3600);
    params.not_before = (now - Duration::from_secs(3600)).into();
    params.not_after = (now + days).into();
    let certificate = params.self_signed(&key).expect("a certificate");
    std::fs::write(folder.join("gate.key"), key.serialize_pem()).expect("written");
    std::fs::write(folder.join("gate.pem"), certificate.pem()).expect("written");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_ends_soon() {
    let sample = SampleBox::new(Store::Files).await;
    let folder = tempfile::tempdir().expect("a folder");
    certify(folder.path(), 3);
    let path = folder.path().display();
    let tls = format!("[gate.tls]\ncertificate = \"{path}/gate.pem\"\nkey = \"{path}/gate.key\"\n");
    let toml = format!("{}{}{tls}", sample.store_config(), section(""));
    let watched = Watched::of(sample, &toml).await;
    let alert = watched.fires("certificate_expiring").await;
    assert!(alert["detail"].as_str().expect("text").contains("valid until"), "{alert}");
    certify(folder.path(), 60);
    watched.resolves("certificate_expiring").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_with_little_space() {
    let sample = SampleBox::new(Store::Files).await;
    let disk = SmallDisk::of_kib(64 * 1024);
    let path = disk.path().display();
    let wake = format!("[wake]\nenabled = false\ndata_dir = \"{path}\"\n");
    // This machine's own disk has more.
    let toml = format!("{}{}{wake}", sample.store_config(), section("disk_low = \"16 MiB\"\n"));
    let watched = Watched::of(sample, &toml).await;
    assert_eq!(watched.alerts("").await, Vec::<Value>::new());
    std::fs::write(disk.path().join("filler"), vec![0; 52 << 20]).expect("written");
    let alert = watched.fires("disk_low").await;
    assert_eq!(alert["subject"], json!({"kind": "folder", "value": path.to_string()}), "{alert}");
    disk.resize(128 * 1024);
    watched.resolves("disk_low").await;
}

/// Another session holds the locks of two jobs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_and_a_checkpoint_that_are_overdue() {
    // "ledgerjo" read as a number.
    const LOCKS: i64 = 0x6c65_6467_6572_6a6f;
    let sample = SampleBox::new(Store::Postgres).await;
    add_app(&sample).await;
    let store = sample.store_config();
    let store = store.replacen("[ledger]\n", "[ledger]\ncheckpoint_interval = \"1s\"\n", 1);
    let alerts = section("job_overdue = \"2s\"\ncheckpoint_overdue = \"2s\"\n");
    let jobs = "[jobs]\nintegrity = \"500ms\"\nretention = \"1h\"\ndead_letters = \"1h\"\n";
    let watched = Watched::of(sample, &format!("{store}{alerts}{jobs}")).await;
    watched.is_denied("192.0.2.1").await;
    let checkpoint = Request::new("GET", "/v1/audit/checkpoint");
    poll("there is a checkpoint", PATIENCE, async || {
        crate::support::client::ask(watched.porter.ops, &checkpoint).await.status == 200
    })
    .await;
    let client = watched.sample.database().connect().await;
    let name = format!("{}/integrity", id_of(&BOX_KEY));
    assert_eq!(name.len(), encode_id(&[0; 64]).len() + "/integrity".len());
    let lock = "SELECT pg_advisory_lock(hashtextextended($1, $2))";
    client.query(lock, &[&name, &LOCKS]).await.expect("locked");
    watched.is_denied("192.0.2.2").await;
    let job = watched.fires("job_overdue").await;
    assert_eq!(job["subject"], json!({"kind": "job", "value": "integrity"}), "{job}");
    watched.fires("checkpoint_overdue").await;
    drop(client);
    watched.resolves("job_overdue").await;
    watched.resolves("checkpoint_overdue").await;
}
