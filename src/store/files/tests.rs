use std::future::Future;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Instant;

use tokio::sync::oneshot;

use super::*;
use crate::store::app_meta::ReadError;

const DEADLINE: Duration = Duration::from_secs(10);

struct House {
    dir: tempfile::TempDir,
    files: Arc<Files>,
    freshness: Arc<Freshness>,
}

fn house() -> House {
    house_beating(Duration::from_millis(200))
}

fn house_beating(heartbeat: Duration) -> House {
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(dir.path().join("installed_apps")).expect("a folder");
    let freshness = Arc::new(Freshness::new(config::Cache {
        capacity: 100,
        ttl: Duration::from_secs(3600),
        degraded_ttl: Duration::from_millis(50),
        max_stale: Duration::from_secs(2),
        heartbeat,
    }));
    let path = dir.path().to_owned();
    let store = config::Store {
        kind: config::StoreKind::Files { path: path.clone(), terminal_jwt_secret: None },
        labels: false,
        installed_apps_dir: path.join("installed_apps"),
        zone: "box.example".into(),
        prefix_length: 6,
    };
    let files = Arc::new(Files::new(path, None, &store, Arc::clone(&freshness)));
    House { dir, files, freshness }
}

impl House {
    fn write(&self, file: &str, text: &str) {
        std::fs::write(self.dir.path().join(file), text).expect("written");
    }

    /// Follows the folder until the test ends.
    async fn watched(self) -> Self {
        let files = Arc::clone(&self.files);
        tokio::spawn(async move { files.watch().await });
        let dir = AppMetaDir::new(self.dir.path().join("installed_apps"));
        let freshness = Arc::clone(&self.freshness);
        tokio::spawn(async move { dir.watch(freshness, true, oneshot::channel().0).await });
        poll(|| async { self.freshness.is_live(self.freshness.now()) }).await;
        self
    }

    async fn has_terminal(&self, id: &str) -> bool {
        self.files.terminal(id).await.is_ok_and(|terminal| terminal.is_some())
    }
}

async fn poll<F: Future<Output = bool>>(condition: impl Fn() -> F) {
    let began = Instant::now();
    while !condition().await {
        assert!(began.elapsed() < DEADLINE, "the condition was not met in time");
        sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn an_empty_folder_is_an_empty_box() {
    let House { files, dir: _dir, .. } = house();
    assert_eq!(files.identity().await.expect("empty"), None);
    assert!(files.terminals().await.expect("empty").is_empty());
    assert!(files.peers().await.expect("empty").is_empty());
    assert!(files.app_names().await.expect("empty").is_empty());
    assert!(files.terminal_secret().await.expect("empty").is_none());
}

#[tokio::test]
async fn a_folder_that_is_away_is_not_an_empty_box() {
    let House { files, dir, .. } = house();
    drop(dir);
    assert!(files.identity().await.is_err());
    assert!(files.terminals().await.is_err());
    assert!(files.app_names().await.is_err());
}

#[tokio::test]
async fn an_identity_has_a_domain_given_or_derived() {
    let house = house();
    house.write(IDENTITY, "id = \"ABCdefghi\"");
    let identity = house.files.identity().await.expect("read").expect("there");
    assert_eq!(identity.domain, "abcdef.box.example");
    house.write(IDENTITY, "id = \"x\"\ndomain = \"home.example\"");
    let identity = house.files.identity().await.expect("read").expect("there");
    assert_eq!(identity.domain, "home.example");
}

#[tokio::test]
async fn a_saved_file_is_a_notification() {
    let house = house().watched().await;
    for round in 0..20 {
        let id = format!("t{round}");
        house.write(TERMINALS, &format!("[[terminal]]\nid = \"{id}\"\nname = \"n\""));
        poll(|| house.has_terminal(&id)).await;
    }
    std::fs::remove_file(house.dir.path().join(TERMINALS)).expect("removed");
    poll(|| async { !house.has_terminal("t19").await }).await;
}

#[tokio::test]
async fn a_broken_file_is_doubt_and_then_unavailable_but_never_empty() {
    let house = house();
    house.write(TERMINALS, "[[terminal]]\nid = \"a\"");
    let house = house.watched().await;
    assert!(house.has_terminal("a").await);
    house.write(TERMINALS, "[[terminal]\nid = ");
    poll(|| async { !house.files.health().problems.is_empty() }).await;
    assert!(house.files.health().problems[0].contains(TERMINALS));
    let terminal = house.files.terminal("a").await;
    assert!(terminal.is_err(), "stale entries are served by the gate's own caches");
    house.write(TERMINALS, "[[terminal]]\nid = \"b\"");
    poll(|| house.has_terminal("b")).await;
    assert!(!house.has_terminal("a").await);
    poll(|| async { house.files.health().problems.is_empty() }).await;
}

#[tokio::test]
async fn terminals_are_added_and_removed_without_losing_what_the_owner_wrote() {
    let house = house();
    house.write(TERMINALS, "# my devices\n[[terminal]]\nid = \"a\" # the phone\nname = \"A\"\n");
    let terminal = |id: &str| Terminal { id: id.into(), name: "B \"quoted\" ü".into() };
    assert!(house.files.add_terminal(&terminal("b")).await.expect("added"));
    assert!(!house.files.add_terminal(&terminal("b")).await.expect("there already"));
    assert!(house.has_terminal("b").await);
    assert!(house.files.remove_terminal("b").await.expect("removed"));
    assert!(!house.files.remove_terminal("b").await.expect("gone already"));
    let text = std::fs::read_to_string(house.dir.path().join(TERMINALS)).expect("read");
    assert!(text.contains("# my devices") && text.contains("# the phone"), "{text}");
}

#[tokio::test]
async fn the_secret_is_made_once_and_for_the_owner_only() {
    let house = house();
    let first = house.files.ensure_terminal_secret().await.expect("made");
    let second = house.files.ensure_terminal_secret().await.expect("kept");
    assert_eq!(first, second);
    assert_eq!(first.expose().len(), 64);
    let metadata = std::fs::metadata(house.dir.path().join(TERMINAL_SECRET)).expect("there");
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
}

#[tokio::test]
async fn uses_are_merged_and_never_set_back() {
    let house = house();
    let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
    for (key, seconds) in [("a", 100), ("b", 50), ("a", 90)] {
        let uses = [(Arc::from(key), at(seconds))];
        house.files.write_touches(Touched::App, &uses).await.expect("written");
    }
    let text = std::fs::read_to_string(house.dir.path().join(USES)).expect("read");
    let uses: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(uses, serde_json::json!({"last_access": {"a": 100, "b": 50}}));
}

#[tokio::test]
async fn on_a_full_disk_the_former_file_stays_and_the_error_names_it() {
    let house = house();
    let uses = |seconds| [(Arc::from("a"), UNIX_EPOCH + Duration::from_secs(seconds))];
    house.files.write_touches(Touched::App, &uses(100)).await.expect("written");
    let file = house.dir.path().join(USES);
    let before = std::fs::read(&file).expect("read");
    let new = house.dir.path().join(format!(".{USES}.new"));
    std::os::unix::fs::symlink("/dev/full", &new).expect("linked");
    let error = house.files.write_touches(Touched::App, &uses(200)).await.expect_err("full");
    let expected = format!("cannot write {}: No space left on device", file.display());
    assert!(error.to_string().contains(&expected), "{error}");
    assert_eq!(std::fs::read(&file).expect("read"), before);
    assert!(std::fs::symlink_metadata(&new).is_err(), "removed");
    house.files.write_touches(Touched::App, &uses(200)).await.expect("written");
    assert_ne!(std::fs::read(&file).expect("read"), before);
}

#[tokio::test]
async fn apps_come_change_and_go_with_their_folders() {
    let house = house().watched().await;
    let origin = |table| house.freshness.origin([table; 2], "notes");
    let apps = house.dir.path().join("installed_apps");
    for _ in 0..20 {
        let (names, meta) = (origin(Table::AppNames), origin(Table::AppMeta));
        std::fs::create_dir(apps.join("notes")).expect("made");
        std::fs::write(apps.join("notes/app_meta.json"), "{}").expect("written");
        poll(|| async {
            !house.freshness.is_current(&names) && !house.freshness.is_current(&meta)
        })
        .await;
        poll(|| async { house.files.app_names().await.is_ok_and(|names| names == ["notes"]) })
            .await;
        // Saved in place, and saved by renaming, as editors do.
        let meta = origin(Table::AppMeta);
        std::fs::write(apps.join("notes/app_meta.json"), "{ }").expect("written");
        poll(|| async { !house.freshness.is_current(&meta) }).await;
        let meta = origin(Table::AppMeta);
        std::fs::write(apps.join("notes/.new"), "{  }").expect("written");
        std::fs::rename(apps.join("notes/.new"), apps.join("notes/app_meta.json")).expect("moved");
        poll(|| async { !house.freshness.is_current(&meta) }).await;
        let names = origin(Table::AppNames);
        std::fs::remove_dir_all(apps.join("notes")).expect("removed");
        poll(|| async { !house.freshness.is_current(&names) }).await;
        poll(|| async { house.files.app_names().await.is_ok_and(|names| names.is_empty()) }).await;
    }
}

/// Returns the path of a folder relative to the working directory.
fn relative(path: &Path) -> PathBuf {
    let here = std::env::current_dir().expect("a working directory");
    let up: PathBuf = here.components().skip(1).map(|_| "..").collect();
    up.join(path.strip_prefix("/").expect("an absolute path"))
}

#[tokio::test]
async fn an_app_is_followed_where_its_folder_is_named_relatively() {
    // No second scan before the deadline: only the kernel's watch can report the change.
    let house = house_beating(6 * DEADLINE);
    let origin = || house.freshness.origin([Table::AppMeta; 2], "notes");
    let apps = house.dir.path().join("installed_apps");
    std::fs::create_dir(apps.join("notes")).expect("made");
    std::fs::write(apps.join("notes/app_meta.json"), "{}").expect("written");
    let first = origin();
    let (dir, freshness) = (AppMetaDir::new(relative(&apps)), Arc::clone(&house.freshness));
    tokio::spawn(async move { dir.watch(freshness, true, oneshot::channel().0).await });
    poll(|| async { !house.freshness.is_current(&first) }).await;
    let second = origin();
    std::fs::write(apps.join("notes/app_meta.json"), "{ }").expect("written");
    poll(|| async { !house.freshness.is_current(&second) }).await;
}

#[tokio::test]
async fn a_save_that_keeps_size_and_time_is_noticed() {
    let house = house();
    let save = |id: char, time: SystemTime| {
        let path = house.dir.path().join(TERMINALS);
        std::fs::write(&path, format!("[[terminal]]\nid = \"{id}\"")).expect("written");
        let file = std::fs::File::options().write(true).open(path).expect("opened");
        file.set_modified(time).expect("set");
    };
    let time = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    save('a', time);
    let files = Arc::clone(&house.files);
    tokio::spawn(async move { files.watch().await });
    poll(|| house.has_terminal("a")).await;
    for (id, text) in [('b', "b"), ('c', "c"), ('a', "a")] {
        save(id, time);
        poll(|| house.has_terminal(text)).await;
    }
}

#[test]
fn a_state_that_is_too_young_is_not_relied_on() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let state = FileState::read(file.path()).expect("there");
    #[expect(clippy::disallowed_methods, reason = "held against the time of a file")]
    let now = SystemTime::now();
    assert!(!state.is_settled(now));
    assert!(state.is_settled(now + Duration::from_secs(1)));
}

#[tokio::test]
async fn a_folder_put_in_the_place_of_another_is_followed() {
    let house = house().watched().await;
    let (path, aside) = (house.dir.path().to_owned(), house.dir.path().with_extension("aside"));
    std::fs::rename(&path, &aside).expect("moved away");
    std::fs::create_dir(&path).expect("created again");
    for id in ["a", "b"] {
        house.write(TERMINALS, &format!("[[terminal]]\nid = \"{id}\""));
        poll(|| house.has_terminal(id)).await;
    }
    std::fs::remove_dir_all(aside).expect("removed");
}

#[tokio::test]
async fn a_file_that_cannot_be_read_now_is_told_from_one_that_cannot_be_used() {
    let house = house();
    let apps = house.dir.path().join("installed_apps");
    let dir = AppMetaDir::new(apps.clone());
    for app in ["broken", "loop"] {
        std::fs::create_dir(apps.join(app)).expect("made");
    }
    std::fs::write(apps.join("broken/app_meta.json"), "{").expect("written");
    std::os::unix::fs::symlink("app_meta.json", apps.join("loop/app_meta.json")).expect("linked");
    let read = dir.read("missing").await;
    assert!(matches!(read, Err(ReadError::Missing(_))), "{read:?}");
    for app in ["broken", "../broken"] {
        let read = dir.read(app).await;
        assert!(matches!(read, Err(ReadError::Unusable(_))), "{app}: {read:?}");
    }
    let read = dir.read("loop").await;
    assert!(matches!(read, Err(ReadError::Unavailable(_))), "{read:?}");
}

#[tokio::test]
async fn a_plain_file_beside_the_apps_outdates_no_names() {
    let house = house();
    let apps = house.dir.path().join("installed_apps");
    std::fs::create_dir(apps.join("notes")).expect("made");
    std::fs::write(apps.join("notes/app_meta.json"), "{}").expect("written");
    let first = house.freshness.origin([Table::AppMeta; 2], "notes");
    let house = house.watched().await;
    poll(|| async { !house.freshness.is_current(&first) }).await;
    let names = house.freshness.origin([Table::AppNames; 2], "");
    let mut copied = std::fs::File::create(apps.join("backup.tar")).expect("made");
    for _ in 0..100 {
        std::io::Write::write_all(&mut copied, &[0; 4096]).expect("written");
    }
    copied.set_permissions(std::fs::Permissions::from_mode(0o600)).expect("set");
    copied.set_modified(UNIX_EPOCH).expect("set");
    drop(copied);
    // Events arrive in order: once this one has arrived, so have the earlier ones.
    let meta = house.freshness.origin([Table::AppMeta; 2], "notes");
    std::fs::write(apps.join("notes/app_meta.json"), "{ }").expect("written");
    poll(|| async { !house.freshness.is_current(&meta) }).await;
    assert!(house.freshness.is_current(&names));
}

#[tokio::test]
async fn an_app_that_is_a_link_to_a_folder_is_heard_of_at_once() {
    // No second scan before the deadline: only the kernel's watch can report the change.
    let house = house_beating(6 * DEADLINE);
    let (apps, elsewhere) = (house.dir.path().join("installed_apps"), house.dir.path().join("w"));
    std::fs::create_dir(&elsewhere).expect("made");
    std::fs::write(elsewhere.join("app_meta.json"), "{}").expect("written");
    let origin = |table, app| house.freshness.origin([table; 2], app);
    std::fs::create_dir(apps.join("first")).expect("made");
    std::fs::write(apps.join("first/app_meta.json"), "{}").expect("written");
    let first = origin(Table::AppMeta, "first");
    let (dir, freshness) = (AppMetaDir::new(apps.clone()), Arc::clone(&house.freshness));
    tokio::spawn(async move { dir.watch(freshness, true, oneshot::channel().0).await });
    poll(|| async { !house.freshness.is_current(&first) }).await;
    let names = origin(Table::AppNames, "");
    std::os::unix::fs::symlink(&elsewhere, apps.join("wiki")).expect("linked");
    poll(|| async { !house.freshness.is_current(&names) }).await;
    let meta = origin(Table::AppMeta, "wiki");
    std::fs::write(elsewhere.join("app_meta.json"), "{ }").expect("written");
    poll(|| async { !house.freshness.is_current(&meta) }).await;
}

#[tokio::test]
async fn an_empty_secret_file_is_named_and_not_filled() {
    for empty in ["", "\n", " \r\n"] {
        let house = house();
        house.write(TERMINAL_SECRET, empty);
        let error = house.files.ensure_terminal_secret().await.expect_err("empty").to_string();
        assert!(error.contains(TERMINAL_SECRET) && error.contains("is empty"), "{error}");
        assert_eq!(house.files.terminal_secret().await.expect("read"), None);
        let house = house.watched().await;
        poll(|| async {
            let problems = house.files.health().problems;
            problems.len() == 1 && problems[0].contains("is empty")
        })
        .await;
        house.write(TERMINAL_SECRET, "secret\n");
        poll(|| async { house.files.health().problems.is_empty() }).await;
        let secret = house.files.ensure_terminal_secret().await.expect("kept");
        assert_eq!(secret.expose(), "secret");
    }
}

#[tokio::test]
async fn uses_of_what_is_gone_are_forgotten_in_the_end() {
    let house = house();
    let day = 24 * 60 * 60;
    let apps = house.dir.path().join("installed_apps");
    std::fs::create_dir(apps.join("there")).expect("made");
    std::fs::write(apps.join("there/app_meta.json"), "{}").expect("written");
    house.write(TERMINALS, "[[terminal]]\nid = \"there\"");
    let kept = |text: &str| -> serde_json::Value { serde_json::from_str(text).expect("JSON") };
    for touched in [Touched::App, Touched::Terminal] {
        for (key, days) in [("there", 100), ("gone", 100), ("young", 106)] {
            let uses = [(Arc::from(key), UNIX_EPOCH + Duration::from_secs(days * day))];
            house.files.write_touches(touched, &uses).await.expect("written");
        }
        let uses = [(Arc::from("there"), UNIX_EPOCH + Duration::from_secs(110 * day))];
        house.files.write_touches(touched, &uses).await.expect("written");
    }
    let uses = kept(&std::fs::read_to_string(house.dir.path().join(USES)).expect("read"));
    let expected = serde_json::json!({"there": 110 * day, "young": 106 * day});
    assert_eq!(uses, serde_json::json!({"last_access": expected, "last_connection": expected}));

    // If the existing apps are unknown, no use is removed.
    std::fs::rename(&apps, house.dir.path().join("aside")).expect("moved");
    let later = [(Arc::from("there"), UNIX_EPOCH + Duration::from_secs(200 * day))];
    house.files.write_touches(Touched::App, &later).await.expect("written");
    let uses = kept(&std::fs::read_to_string(house.dir.path().join(USES)).expect("read"));
    assert_eq!(uses["last_access"]["young"], 106 * day);
}
