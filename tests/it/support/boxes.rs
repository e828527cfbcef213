//! The same box in either store, so that every test of the gate runs on both stores.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use nightporter::domain::identity::encode_id;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::client::poll;
use super::postgres::{Cluster, Database};
use super::sign::{self, BOX_KEY, PEER_KEY, RsaKey};

/// Which store holds the box.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Store {
    Files,
    Postgres,
}

impl Store {
    pub const BOTH: [Self; 2] = [Self::Files, Self::Postgres];
}

pub const TERMINAL_SECRET: &str = "0b9c1f4e-terminal-secret-of-the-sample-box";
pub const MANAGEMENT_SECRET: &str = "shared-key-of-the-controller";
/// The paired device of the sample box.
pub const TERMINAL: &str = "phone1";
/// Its name, with one character of latin-1.
pub const TERMINAL_NAME: &str = "Büro-Handy";
/// The zone of a derived domain: `<first six characters of the id>.<zone>`.
pub const ZONE: &str = "freeshard.test";

/// A box: an identity, a terminal, a peer, both secrets, and the apps a test adds.
#[derive(Debug)]
pub struct SampleBox {
    pub store: Store,
    folder: TempDir,
    /// Holds `ledger.path`.
    ledger: TempDir,
    database: Option<Database>,
    /// The content of the files, so that one entry can be changed.
    terminals: Mutex<Vec<(String, String)>>,
    peers: Mutex<Vec<(String, String, String)>>,
}

/// The token of the sample terminal.
pub fn token() -> String {
    sign::token(TERMINAL_SECRET, TERMINAL)
}

/// The id that belongs to a key: 103 characters.
pub fn id_of(key: &RsaKey) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA512, key.public_pem.as_bytes());
    encode_id(digest.as_ref())
}

/// A complete `app_meta.json` with these paths.
pub fn app_meta(name: &str, paths: &Value) -> Value {
    json!({
        "v": "1.3", "app_version": "1.0.0", "name": name, "pretty_name": name,
        "icon": "icon.svg", "paths": paths, "lifecycle": {"always_on": false},
        "entrypoints": [
            {"container_name": name, "container_port": 80, "entrypoint_port": "http"}],
    })
}

impl SampleBox {
    /// Creates a box without apps.
    pub async fn new(store: Store) -> Self {
        let database = match store {
            Store::Files => None,
            Store::Postgres => Some(Cluster::shared().database().await),
        };
        Self::in_database(store, database).await
    }

    /// Creates a box in a given database, for a cluster that the test will restart.
    pub async fn in_database(store: Store, database: Option<Database>) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        std::fs::create_dir(folder.path().join("installed_apps")).expect("a new folder");
        let ledger = tempfile::tempdir().expect("a temporary folder");
        let (terminals, peers) = (Mutex::default(), Mutex::default());
        let sample = Self { store, folder, ledger, database, terminals, peers };
        if let Some(database) = &sample.database {
            database.create_freeshard_tables().await;
        }
        sample.set_terminal_secret(TERMINAL_SECRET).await;
        sample.set_management_secret(MANAGEMENT_SECRET).await;
        sample.set_identity(&BOX_KEY).await;
        sample.add_terminal(TERMINAL, TERMINAL_NAME).await;
        sample.add_peer(&id_of(&PEER_KEY), "Friendly Box", &PEER_KEY.public_pem).await;
        sample
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Returns the database of a box in Postgres.
    pub fn database(&self) -> &Database {
        self.database.as_ref().expect("a box in Postgres")
    }

    /// Returns the folder of the box's ledger.
    pub fn ledger(&self) -> PathBuf {
        self.ledger.path().join("ledger")
    }

    /// Returns `[ledger]` and `[store]` of a configuration that serves this box.
    pub fn store_config(&self) -> String {
        let url = self.database.as_ref().map(Database::url);
        self.store_config_with(url.as_deref())
    }

    /// The same with the ledger in a file, for those who count the statements of the store.
    pub fn quiet_config(&self) -> String {
        self.store_config().replacen("[ledger]\n", "[ledger]\nkind = \"sqlite\"\n", 1)
    }

    /// The same, with another address of the database.
    pub fn store_config_with(&self, url: Option<&str>) -> String {
        let folder = self.folder.path().display();
        let mut config = format!("[ledger]\npath = \"{}\"\n", self.ledger().display());
        match url {
            Some(url) => write!(config, "[store]\nkind = \"postgres\"\nurl = \"{url}\"\n"),
            None => write!(config, "[store]\nkind = \"files\"\npath = \"{folder}\"\n"),
        }
        .expect("text");
        write!(config, "installed_apps_dir = \"{folder}/installed_apps\"\nzone = \"{ZONE}\"\n")
            .expect("text");
        config
    }

    fn app_meta_path(&self, name: &str) -> PathBuf {
        self.folder.path().join("installed_apps").join(name).join("app_meta.json")
    }

    /// Installs an app whose description is these bytes.
    pub async fn add_app_bytes(&self, name: &str, meta: &[u8]) {
        self.write_app_meta(name, meta);
        if let Some(database) = &self.database {
            database.insert_app(name, "running").await;
        }
    }

    pub async fn add_app(&self, name: &str, paths: &Value) {
        self.add_app_bytes(name, app_meta(name, paths).to_string().as_bytes()).await;
    }

    /// Saves an app's description as an editor does: a new file replaces the old one.
    pub fn write_app_meta(&self, name: &str, meta: &[u8]) {
        let path = self.app_meta_path(name);
        std::fs::create_dir_all(path.parent().expect("in a folder")).expect("writable");
        replace(&path, meta);
    }

    /// Waits until no description is so recent that a scan reads it once more: one that is
    /// saved twice within one step of the file system's clock looks unchanged.
    pub async fn settle(&self) {
        const STEP: Duration = Duration::from_millis(200);
        let apps = self.folder.path().join("installed_apps");
        let is_young = |entry: std::io::Result<std::fs::DirEntry>| {
            let file = entry.expect("readable").path().join("app_meta.json");
            let saved = file.metadata().and_then(|metadata| metadata.modified()).expect("there");
            saved.elapsed().unwrap_or_default() < STEP
        };
        let patience = Duration::from_secs(20);
        poll("descriptions are older than a step of the clock", patience, async || {
            !std::fs::read_dir(&apps).expect("readable").any(is_young)
        })
        .await;
    }

    pub fn edit_app(&self, name: &str, paths: &Value) {
        self.write_app_meta(name, app_meta(name, paths).to_string().as_bytes());
    }

    pub async fn remove_app(&self, name: &str) {
        if let Some(database) = &self.database {
            database.execute("DELETE FROM installed_apps WHERE name = $1", &[&name]).await;
        }
        let path = self.app_meta_path(name);
        std::fs::remove_dir_all(path.parent().expect("in a folder")).expect("was there");
    }

    pub async fn add_terminal(&self, id: &str, name: &str) {
        if let Some(database) = &self.database {
            return database.insert_terminal(id, name).await;
        }
        self.terminals.lock().expect("no panic").push((id.into(), name.into()));
        self.write_terminals();
    }

    /// Adds many terminals in one step.
    pub async fn add_terminals(&self, ids: impl Iterator<Item = String>) {
        let ids: Vec<String> = ids.collect();
        if let Some(database) = &self.database {
            let sql =
                "INSERT INTO terminals SELECT id, id, 'unknown', NULL FROM unnest($1::text[]) id";
            database.execute(sql, &[&ids]).await;
            return;
        }
        let entries = ids.into_iter().map(|id| (id.clone(), id));
        self.terminals.lock().expect("no panic").extend(entries);
        self.write_terminals();
    }

    /// Revokes a device.
    pub async fn remove_terminal(&self, id: &str) {
        if let Some(database) = &self.database {
            database.execute("DELETE FROM terminals WHERE id = $1", &[&id]).await;
            return;
        }
        self.terminals.lock().expect("no panic").retain(|(other, _)| other != id);
        self.write_terminals();
    }

    fn write_terminals(&self) {
        let mut text = String::new();
        for (id, name) in &*self.terminals.lock().expect("no panic") {
            let (id, name) = (toml_text(id), toml_text(name));
            write!(text, "[[terminal]]\nid = {id}\nname = {name}\n").expect("text");
        }
        self.replace_file("terminals.toml", &text);
    }

    pub async fn add_peer(&self, id: &str, name: &str, public_key_pem: &str) {
        if let Some(database) = &self.database {
            return database.insert_peer(id, name, Some(public_key_pem)).await;
        }
        let entry = (id.into(), name.into(), public_key_pem.into());
        self.peers.lock().expect("no panic").push(entry);
        self.write_peers();
    }

    pub async fn remove_peer(&self, id: &str) {
        if let Some(database) = &self.database {
            database.execute("DELETE FROM peers WHERE id = $1", &[&id]).await;
            return;
        }
        self.peers.lock().expect("no panic").retain(|(other, _, _)| other != id);
        self.write_peers();
    }

    fn write_peers(&self) {
        let mut text = String::new();
        for (id, name, key) in &*self.peers.lock().expect("no panic") {
            let (id, name, key) = (toml_text(id), toml_text(name), toml_text(key));
            write!(text, "[[peer]]\nid = {id}\nname = {name}\npublic_key_pem = {key}\n")
                .expect("text");
        }
        self.replace_file("peers.toml", &text);
    }

    /// Makes the identity of this key the default identity, in one commit.
    pub async fn set_identity(&self, key: &RsaKey) {
        let id = id_of(key);
        if let Some(database) = &self.database {
            let sql = "WITH others AS (UPDATE identities SET is_default = false WHERE id <> $1)
                       INSERT INTO identities VALUES ($1, 'Sample', NULL, NULL, $2, true)
                       ON CONFLICT (id) DO UPDATE SET is_default = true";
            database.execute(sql, &[&id, &key.private_pem]).await;
            return;
        }
        let key = toml_text(&key.public_pem);
        self.replace_file("identity.toml", &format!("id = \"{id}\"\npublic_key_pem = {key}\n"));
    }

    pub async fn set_terminal_secret(&self, secret: &str) {
        match &self.database {
            Some(database) => database.set_secret("terminal_jwt_secret", secret).await,
            None => self.replace_file("terminal_jwt_secret", secret),
        }
    }

    pub async fn set_management_secret(&self, secret: &str) {
        match &self.database {
            Some(database) => database.set_secret("freeshard_controller_shared_key", secret).await,
            None => self.replace_file("management_secret", secret),
        }
    }

    fn replace_file(&self, name: &str, text: &str) {
        replace(&self.folder.path().join(name), text.as_bytes());
    }
}

/// Saves a file in one step, so that no reader sees half of it.
fn replace(path: &Path, bytes: &[u8]) {
    let new = path.with_extension("new");
    std::fs::write(&new, bytes).expect("writable");
    std::fs::rename(&new, path).expect("the same folder");
}

/// A TOML basic string; TOML has all escapes of JSON and requires one more.
fn toml_text(text: &str) -> String {
    Value::from(text).to_string().replace('\u{7f}', "\\u007f")
}
