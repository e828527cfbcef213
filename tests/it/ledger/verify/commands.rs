//! The commands, run as processes.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use nightporter::access::Viewer;
use nightporter::ledger::canonical::{Hasher, Masked, Version};
use nightporter::ledger::form::RecordForm;
use nightporter::ledger::proof::{Audit, audit};
use serde_json::Value;

use super::EDITED;
use super::sample::{BEGIN, Kinds, Ledger};

/// A ledger of a box that has no identity yet, and the configuration of that box.
struct Home {
    ledger: Ledger,
    config: PathBuf,
}

/// The exit code, and what was printed to both outputs.
type Run = (i32, String, String);

impl Home {
    async fn new(count: i64) -> Self {
        let mut ledger = Box::pin(Ledger::empty(Kinds::Sqlite)).await;
        ledger.tenant = "".into();
        ledger.write(count).await;
        let _ = ledger.extend().await.expect("extended");
        Self::of(ledger)
    }

    fn of(ledger: Ledger) -> Self {
        let folder = ledger.folder.path();
        let store = folder.join("box");
        fs::create_dir_all(store.join("installed_apps")).expect("folders");
        let config = folder.join("nightporter.toml");
        let url = ledger.url().map(|url| format!("url = \"{url}\"\n")).unwrap_or_default();
        let text = format!(
            "[ledger]\npath = \"{}\"\n{url}[store]\nkind = \"files\"\npath = \"{}\"\n\
             installed_apps_dir = \"{}\"\n",
            folder.display(),
            store.display(),
            store.join("installed_apps").display()
        );
        fs::write(&config, text).expect("written");
        Self { ledger, config }
    }

    fn run(&self, arguments: &[&str]) -> Run {
        let config = self.config.to_str().expect("a path");
        run(&[&["ledger"], arguments, &["--config", config]].concat())
    }

    fn claim(&self) -> String {
        let notes = self.ledger.file().read().expect("readable").expect("a file").notes;
        let lines: Vec<_> = notes.last().expect("a checkpoint").lines().collect();
        let time = lines[3].strip_prefix("time ").expect("a time");
        format!("unaltered since checkpoint {} of {time}", lines[1])
    }
}

fn run(arguments: &[&str]) -> Run {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nightporter"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("NIGHTPORTER_") {
            command.env_remove(name);
        }
    }
    let output = command.args(arguments).stdin(Stdio::null()).output().expect("it starts");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (output.status.code().expect("a code"), text(output.stdout), text(output.stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_prints_what_is_proved_and_what_was_altered() {
    let mut home = Home::new(300).await;
    let claim = home.claim();
    assert_eq!(home.run(&["verify"]), (0, format!("{claim}\n"), String::new()));

    home.ledger.write(5).await;
    let (code, out, _) = home.run(&["verify"]);
    let expected = format!("{claim}\nrecords that no checkpoint covers yet: 5\n");
    assert_eq!((code, out), (0, expected));

    let (code, out, _) = home.run(&["verify", "--json"]);
    let report: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!((code, &report["unaltered_since"]["size"]), (0, &Value::from(300)));

    // With what the operator has kept elsewhere.
    let (code, key, _) = home.run(&["key"]);
    assert_eq!((code, key.trim()), (0, &*home.ledger.key.verifier("").to_string()));
    let kept = home.ledger.folder.path().join("kept.txt");
    fs::copy(home.ledger.file().path(), &kept).expect("copied");
    let file = home.ledger.folder.path().join("key.txt");
    fs::write(&file, &key).expect("written");
    let (kept, file) = (kept.to_str().expect("a path"), file.to_str().expect("a path"));
    for key in [key.trim(), file] {
        let (code, out, err) = home.run(&["verify", "--checkpoint", kept, "--key", key]);
        assert_eq!((code, out.lines().next()), (0, Some(&*claim)), "{err}");
    }

    home.ledger.tamper("UPDATE requests SET path = '/outbox' WHERE position = 125").await;
    let (code, out, _) = home.run(&["verify"]);
    let first = format!("record {EDITED} at position 125 was edited");
    assert_eq!((code, out.lines().next()), (1, Some(&*first)));
    let (code, out, _) = home.run(&["verify", "--json"]);
    let report: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!((code, &report["findings"][0]), (1, &Value::from(first)));
    assert_eq!(report["unaltered_since"], Value::Null);

    let (code, _, err) = home.run(&["verify", "--key", "nonsense"]);
    assert_eq!(code, 2);
    assert!(err.contains("invalid verifier key"), "{err}");
    fs::remove_file(home.ledger.folder.path().join("ledger.key")).expect("removed");
    let (code, _, err) = home.run(&["verify"]);
    assert_eq!(code, 2);
    assert!(err.contains("there is no key"), "{err}");
}

/// The machine's clock is years ahead of this database's.
#[tokio::test(flavor = "multi_thread")]
async fn which_records_may_be_on_their_way_is_judged_by_the_databases_clock() {
    let mut ledger = Box::pin(Ledger::empty(Kinds::Postgres)).await;
    ledger.tenant = "".into();
    ledger.write(5).await;
    let _ = ledger.extend().await.expect("extended");
    // Given its number, and not written.
    let _sixth = ledger.next();
    ledger.write(1).await;
    let home = Home::of(ledger);
    let search = "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET search_path TO
                      other_clock, pg_catalog', current_database()); END $$";
    home.ledger.tamper(&format!("CREATE SCHEMA other_clock; {search}")).await;
    for (seconds, expected) in [(60, 0), (600, 1)] {
        let now = BEGIN / 1_000_000 + seconds;
        let clock = format!(
            "CREATE OR REPLACE FUNCTION other_clock.clock_timestamp() RETURNS timestamptz
             LANGUAGE sql AS 'SELECT to_timestamp({now})'"
        );
        home.ledger.tamper(&clock).await;
        let (code, out, err) = home.run(&["verify"]);
        assert_eq!(code, expected, "{seconds}: {out}{err}");
        let missing = out.contains("records 6 of writer");
        assert_eq!(missing, expected == 1, "{seconds}: {out}{err}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proof_is_verified_without_a_box() {
    let home = Home::new(300).await;
    let claim = home.claim();
    let proof =
        audit(&home.ledger.archive, "", EDITED, true, &Viewer::clear()).await.expect("read");
    let Audit::Covered(proof) = proof else { panic!("{proof:?}") };
    let key = home.ledger.key.verifier("").to_string();
    drop(home);

    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("proof.json");
    let text = serde_json::to_string(&proof).expect("JSON");
    fs::write(&file, &text).expect("written");
    let path = file.to_str().expect("a path");
    let arguments = ["ledger", "verify", "--record", path, "--key", &key];
    let expected = format!("record {EDITED} at position 125: {claim}\n");
    assert_eq!(run(&arguments), (0, expected, String::new()));

    fs::write(&file, text.replace("deny", "grant")).expect("written");
    let (code, out, _) = run(&arguments);
    assert_eq!(code, 1);
    assert!(out.contains("the record was altered"), "{out}");
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_cannot_be_read_end_neither_an_export_nor_a_verification() {
    let home = Home::new(2_500).await;
    let edit = "UPDATE requests SET kind = 'nonsense' WHERE position IN (5, 2300)";
    home.ledger.tamper(edit).await;
    let named: Vec<_> = [6, 2301].iter().map(|seq| super::sample::id(*seq)).collect();
    let (code, out, err) = home.run(&["export", "--masked"]);
    assert_eq!((code, out.lines().count()), (1, 2_498), "{err}");
    let expected: Vec<_> = named
        .iter()
        .map(|id| format!("record {id} cannot be read: invalid kind"))
        .chain(["records that cannot be read and are not in the export: 2".into()])
        .collect();
    assert_eq!(err.lines().collect::<Vec<_>>(), expected);

    let (code, out, err) = home.run(&["verify"]);
    let expected = [
        format!("record {} at position 5 cannot be read: invalid kind", named[0]),
        format!("record {} at position 2300 cannot be read: invalid kind", named[1]),
        "records that cannot be read: 2".into(),
    ];
    assert_eq!(
        (code, out.lines().collect::<Vec<_>>()),
        (1, expected.iter().map(|line| &**line).collect()),
        "{err}"
    );
    let (code, out, _) = home.run(&["verify", "--json"]);
    let report: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!((code, &report["unreadable"]), (1, &Value::from(2)));
    assert_eq!(report["unaltered_since"], Value::Null);

    // However many there are, a few are named.
    home.ledger.tamper("UPDATE requests SET kind = 'nonsense'").await;
    let (code, out, err) = home.run(&["export"]);
    assert_eq!((code, &*out, err.lines().count()), (1, "", 11));
    assert!(err.ends_with("not in the export: 2500\n"), "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_has_every_record_once() {
    let mut home = Home::new(4_500).await;
    home.ledger.write(5).await;
    let (code, out, err) = home.run(&["export"]);
    assert_eq!((code, err), (0, String::new()));
    let lines: Vec<Value> =
        out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(lines.len(), 4_505);
    let positions: Vec<_> = lines.iter().filter_map(|line| line["position"].as_i64()).collect();
    assert_eq!(positions, (0..4_500).collect::<Vec<_>>());
    assert_eq!(lines[125]["id"], Value::from(EDITED.to_string()));
    assert!(out.contains("Ada's phone"));
    let (_, out, _) = home.run(&["export", "--masked"]);
    for personal in ["Ada's phone", "192.0.2.7", "/inbox/", "no answer", "salt"] {
        assert!(!out.contains(personal), "{personal}");
    }
    assert_eq!(out.lines().count(), 4_505);
    // Whoever has only the export can compute the leaves.
    let mut hasher = Hasher::default();
    for line in out.lines().skip(120).take(10) {
        let mut line: Value = serde_json::from_str(line).expect("JSON");
        line.as_object_mut().expect("an object").remove("position");
        let form: RecordForm = serde_json::from_value(line).expect("a record");
        let masked = Masked::try_from(form).expect("valid");
        let leaf = home.ledger.find(masked.record.id).await.record.leaf;
        assert_eq!(hasher.masked_leaf_in(Version::Two, &masked), Some(leaf));
    }
}
