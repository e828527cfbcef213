//! The record on the command line.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};

use serde_json::{Value, json};

use super::api::{PATIENCE, Recorded};
use crate::support::boxes::{SampleBox, Store};
use crate::support::client::poll;

fn nightporter(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nightporter"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("NIGHTPORTER_") {
            command.env_remove(name);
        }
    }
    command.args(arguments).stdin(Stdio::null());
    command
}

/// Exit code, standard output and standard error of a process that has ended.
fn run(command: &mut Command) -> (i32, String, String) {
    let Output { status, stdout, stderr } = command.output().expect("runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    (status.code().expect("no signal"), text(stdout), text(stderr))
}

fn asks(recorded: &Recorded, arguments: &[&str]) -> Command {
    let mut command = nightporter(arguments);
    command.env("NIGHTPORTER_OPS__LISTEN", recorded.porter.ops.to_string());
    command
}

/// Killed when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn lines(child: &mut Child) -> Receiver<String> {
    let (sender, receiver) = channel();
    let out = child.stdout.take().expect("piped");
    std::thread::spawn(move || {
        for line in BufReader::new(out).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

#[tokio::test(flavor = "multi_thread")]
async fn who_came_is_listed_shown_and_followed() {
    let recorded = Recorded::new(Store::Files).await;
    recorded.is_denied("/one?x=y").await;
    recorded.is_denied("/two").await;
    recorded.until(2, "kind=visit").await;

    let (code, out, _) = run(&mut asks(&recorded, &["ledger", "list", "--kind", "visit"]));
    let rows: Vec<_> = out.lines().collect();
    assert_eq!((code, rows.len()), (0, 3), "{out}");
    assert!(rows[0].starts_with("TIME "), "{out}");
    for (row, path) in rows[1..].iter().zip(["/two", "/one"]) {
        let cells: Vec<_> = row.split_whitespace().skip(1).collect();
        let what = format!("notes.localhost{path}");
        let expected =
            ["visit", "deny", "terminal_required", "notes", "anonymous", "192.0.2.7", &what];
        assert_eq!(cells, expected, "{out}");
    }
    let json = ["ledger", "list", "--json", "--limit", "1", "--since", "1h", "--app", "notes"];
    let (code, out, _) = run(&mut asks(&recorded, &json));
    let record: Value = serde_json::from_str(&out).expect("one line");
    assert_eq!((code, &record["path"]), (0, &json!("/two")));
    let (code, out, _) = run(&mut asks(&recorded, &["ledger", "list", "--until", "1h", "--json"]));
    assert_eq!((code, &*out), (0, ""));

    let id = record["id"].as_str().expect("an id");
    let (code, out, _) = run(&mut asks(&recorded, &["ledger", "show", id]));
    assert_eq!(code, 0);
    for part in [id, "192.0.2.7", "step         decide: terminal_required, "] {
        assert!(out.contains(part), "{part}: {out}");
    }
    let unknown = ["ledger", "show", "00000000000000ff-1"];
    let (code, _, err) = run(&mut asks(&recorded, &unknown));
    assert_eq!(code, 1, "{err}");
    assert!(err.contains("no record has the id"), "{err}");
    for (arguments, part) in [
        (&["ledger", "list", "--kind", "visits"][..], "invalid `kind`, `visits`"),
        (&["ledger", "list", "--since", "soon"], "invalid `from`, `soon`"),
        (&["ledger", "show", "x"], "invalid record id"),
    ] {
        let (code, _, err) = run(&mut asks(&recorded, arguments));
        assert_eq!(code, 2, "{err}");
        assert!(err.contains(part), "{err}");
    }
    let nobody = &mut nightporter(&["ledger", "list"]);
    let (code, _, err) = run(nobody.env("NIGHTPORTER_OPS__LISTEN", "unix:/nothere/ops.sock"));
    assert_eq!(code, 2);
    assert!(err.contains("is `nightporter serve` running"), "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn new_records_are_printed_as_they_come() {
    let recorded = Recorded::new(Store::Files).await;
    for n in 0..3 {
        recorded.is_denied(&format!("/{n}")).await;
    }
    poll("positions", PATIENCE, async || {
        let visits = recorded.records("kind=visit").await;
        visits.len() == 3 && visits.iter().all(|record| record["position"].is_i64())
    })
    .await;
    let arguments = ["ledger", "tail", "-n", "2", "--kind", "visit", "--json"];
    let mut command = asks(&recorded, &arguments);
    let mut child = Running(command.stdout(Stdio::piped()).spawn().expect("starts"));
    let lines = lines(&mut child.0);
    let next = || {
        let line = lines.recv_timeout(PATIENCE).expect("a line in time");
        let record: Value = serde_json::from_str(&line).expect("JSON");
        record["path"].as_str().expect("a path").to_owned()
    };
    assert_eq!([next(), next()], ["/1", "/2"]);
    recorded.is_denied("/3").await;
    recorded.is_denied("/4").await;
    assert_eq!([next(), next()], ["/3", "/4"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_is_added_and_removed_only_with_a_record_of_it() {
    for store in Store::BOTH {
        let sample = SampleBox::new(store).await;
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("np.toml");
        std::fs::write(&file, sample.store_config()).expect("written");
        let command = |arguments: &[&str]| {
            let mut command = nightporter(arguments);
            command.arg("--config").arg(&file);
            command
        };
        let (code, out, err) = run(&mut command(&["terminal", "add", "--id", "t2", "tablet"]));
        assert_eq!(code, 0, "{err}");
        assert!(out.starts_with("authorization="), "{out}");
        assert_eq!(run(&mut command(&["terminal", "add", "--id", "t2", "tablet"])).0, 2);
        assert_eq!(run(&mut command(&["terminal", "remove", "t2"])).0, 0);
        assert_eq!(run(&mut command(&["terminal", "remove", "t2"])).0, 1);
        let recorded = Recorded::of(sample, "", "").await;
        let acts = recorded.until(4, "kind=act&client=t2").await;
        let said = |act: &Value| format!("{} {}", act["reason"], act["verdict"]);
        let mut acts: Vec<_> = acts.iter().map(said).collect();
        acts.sort_unstable();
        let expected =
            ["pair", "revoke"].map(|act| ["accepted", "done"].map(|is| format!("{act:?} {is:?}")));
        assert_eq!(acts, expected.concat());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_act_that_fails_after_it_was_recorded_is_known_to_have_failed() {
    let sample = SampleBox::new(Store::Postgres).await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("np.toml");
    std::fs::write(&file, sample.store_config()).expect("written");
    let refusal = "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
                       'BEGIN RAISE ''no more devices''; END';
                   CREATE TRIGGER refuse BEFORE INSERT ON terminals FOR EACH ROW
                       EXECUTE FUNCTION refuse()";
    sample.database().batch(refusal).await;
    let mut command = nightporter(&["terminal", "add", "--id", "t2", "tablet"]);
    let (code, out, err) = run(command.arg("--config").arg(&file));
    assert_eq!((code, &*out), (2, ""), "{err}");
    assert!(err.contains("no more devices"), "{err}");
    let recorded = Recorded::of(sample, "", "").await;
    assert_eq!(recorded.records("kind=act&client=t2&verdict=accepted").await.len(), 1);
    let failed = recorded.until(1, "kind=act&client=t2&verdict=failed").await.remove(0);
    let path = format!("/v1/requests/{}", failed["id"].as_str().expect("an id"));
    let note = recorded.json(&path).await["notes"][0]["text"].clone();
    assert!(note.as_str().is_some_and(|text| text.contains("no more devices")), "{note}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_is_not_added_if_that_cannot_be_recorded() {
    let sample = SampleBox::new(Store::Files).await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("np.toml");
    std::fs::write(&file, sample.store_config()).expect("written");
    std::fs::create_dir_all(sample.ledger().join("ledger.db")).expect("a folder");
    let command = |arguments: &[&str]| {
        let mut command = nightporter(arguments);
        command.arg("--config").arg(&file);
        command
    };
    let (code, out, err) = run(&mut command(&["terminal", "add", "--id", "t2", "tablet"]));
    assert_eq!((code, &*out), (2, ""), "{err}");
    assert!(err.contains("not done, because it cannot be recorded"), "{err}");
    let (_, out, _) = run(&mut command(&["terminal", "list"]));
    assert!(!out.contains("t2"), "{out}");
    let (code, ..) = run(&mut command(&["terminal", "remove", "phone1"]));
    assert_eq!(code, 2);
    assert!(run(&mut command(&["terminal", "list"])).1.contains("phone1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_listed_and_no_act_is_done_without_a_record() {
    let sample = SampleBox::new(Store::Files).await;
    sample.add_app("notes", &json!({"": {"access": "private"}})).await;
    std::fs::create_dir_all(sample.ledger().join("ledger.db")).expect("a folder");
    let recorded = Recorded::of(sample, "", "").await;
    recorded.is_denied("/").await;
    let mut listed = (0, String::new(), String::new());
    poll("a dead letter", PATIENCE, async || {
        listed = run(&mut asks(&recorded, &["deadletter", "list", "--json"]));
        !listed.1.is_empty()
    })
    .await;
    let first = listed.1.lines().next().expect("a line");
    let letter: Value = serde_json::from_str(first).expect("JSON");
    let id = letter["id"].as_str().expect("an id");
    let (code, out, err) = run(&mut asks(&recorded, &["deadletter", "list"]));
    assert_eq!(code, 0, "{err}");
    assert!(out.starts_with("ID ") && out.contains(id), "{out}");
    let (code, out, _) = run(&mut asks(&recorded, &["deadletter", "show", id]));
    assert_eq!(code, 0);
    assert!(out.contains(r#""reason":"terminal_required""#), "{out}");
    for act in [&["deadletter", "dismiss", id][..], &["wake", "notes"], &["sleep", "notes"]] {
        let (code, _, err) = run(&mut asks(&recorded, act));
        assert_eq!(code, 2, "{act:?}");
        assert!(err.contains("not done, because it cannot be recorded"), "{err}");
    }
}
