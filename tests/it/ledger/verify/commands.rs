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
use super::sample::{Kinds, Ledger};

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
        let folder = ledger.folder.path();
        let store = folder.join("box");
        fs::create_dir_all(store.join("installed_apps")).expect("folders");
        let config = folder.join("nightporter.toml");
        let text = format!(
            "[ledger]\npath = \"{}\"\n[store]\nkind = \"files\"\npath = \"{}\"\n\
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
