//! `nightporter config`: the values in force, the schema and the example.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::support::sign::python;

const SECRET: &str = "hunter2-hunter2-hunter2-hunter2-hunter2";

/// The files that show how nightporter is configured, as far as they have text of their own.
const WITH_VARIABLES: [&str; 3] = ["deploy/compose.yml", "deploy/standby.yml", "Dockerfile"];

/// The binary, in an empty folder and without variables of the tests' own environment.
fn nightporter(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nightporter"));
    let ours = |name: &str| name.starts_with("NIGHTPORTER_") || name.starts_with("DOCKER_");
    for (name, _) in std::env::vars_os().filter(|(name, _)| ours(&name.to_string_lossy())) {
        command.env_remove(name);
    }
    command.current_dir(folder).args(arguments).stdin(Stdio::null());
    command
}

/// Runs it; returns its exit code and what it printed.
fn run(command: &mut Command) -> (i32, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = String::from_utf8([stdout, stderr].concat()).unwrap();
    (status.code().unwrap_or(-1), text)
}

fn show(folder: &Path, variables: &[(&str, &str)]) -> BTreeMap<String, Value> {
    let mut command = nightporter(folder, &["config", "show", "--json"]);
    let (code, text) = run(command.envs(variables.iter().copied()));
    assert_eq!(code, 0, "{text}");
    let keys: Vec<Value> = serde_json::from_str(&text).unwrap();
    keys.into_iter().map(|key| (key["key"].as_str().unwrap().to_owned(), key)).collect()
}

fn root() -> PathBuf {
    env!("CARGO_MANIFEST_DIR").into()
}

#[test]
fn every_key_is_shown_with_its_value_and_its_source() {
    let folder = tempfile::tempdir().unwrap();
    let file = "[gate]\ndrain_timeout = \"90s\"\n[ops]\nhosts = [\"a.lan\", \"b.lan\"]\n";
    fs::write(folder.path().join("nightporter.toml"), file).unwrap();
    let variables = [
        ("NIGHTPORTER_GATE__REFUSE_REPLAYS", "true"),
        ("NIGHTPORTER_CACHE__CAPACITY", "7"),
        ("NIGHTPORTER_GATE__TRUSTED_PROXIES", "10.1.2.3, fd00::/8,"),
        ("NIGHTPORTER_STORE__URL", SECRET),
        ("NIGHTPORTER_STORE__INSTALLED_APPS_DIR", "/apps"),
        ("NIGHTPORTER_UPSTREAM__URL", "http://core:80"),
        ("DOCKER_HOST", "tcp://engine:2375"),
    ];
    let keys = show(folder.path(), &variables);
    for (key, value, source) in [
        ("gate.listen", json!("127.0.0.1:8400"), "default"),
        ("gate.drain_timeout", json!("90s"), "nightporter.toml:2"),
        ("ops.hosts", json!(["a.lan", "b.lan"]), "nightporter.toml:4"),
        ("gate.refuse_replays", json!(true), "NIGHTPORTER_GATE__REFUSE_REPLAYS"),
        ("cache.capacity", json!(7), "NIGHTPORTER_CACHE__CAPACITY"),
        (
            "gate.trusted_proxies",
            json!(["10.1.2.3", "fd00::/8"]),
            "NIGHTPORTER_GATE__TRUSTED_PROXIES",
        ),
        ("store.url", json!("***"), "NIGHTPORTER_STORE__URL"),
        // These depend on others.
        ("store.kind", json!("postgres"), "default"),
        ("wake.data_dir", json!("/apps"), "default"),
        ("wake.docker", json!("tcp://engine:2375"), "DOCKER_HOST"),
        ("wake.streams.wake", json!("all"), "default"),
        ("sleep.enabled", json!(false), "default"),
        ("gate.domain", Value::Null, "default"),
    ] {
        assert_eq!(keys[key]["value"], value, "{key}");
        assert_eq!(keys[key]["source"], source, "{key}");
    }
    assert_eq!(keys["log.level"]["reload"], true);
    assert_eq!(keys["log.format"]["reload"], false);

    let mut command = nightporter(folder.path(), &["config", "show"]);
    let (code, text) = run(command.envs(variables));
    assert_eq!(code, 0, "{text}");
    assert!(!text.contains("hunter2"), "{text}");
    let drain = text.lines().find(|line| line.starts_with("gate.drain_timeout")).unwrap();
    assert!(drain.starts_with("gate.drain_timeout = \"90s\" "), "{drain}");
    assert!(drain.ends_with(" # nightporter.toml:2"), "{drain}");
    let shown = text.parse::<toml::Table>().expect("the output is TOML");
    assert_eq!(shown["cache"]["capacity"].as_integer(), Some(7));
}

#[test]
fn a_secret_from_a_file_is_masked_too() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("token"), SECRET).unwrap();
    let keys = show(folder.path(), &[("NIGHTPORTER_OPS__TOKEN_FILE", "token")]);
    assert_eq!(keys["ops.token"]["value"], "***");
    assert_eq!(keys["ops.token"]["source"], "NIGHTPORTER_OPS__TOKEN_FILE");
}

#[test]
fn mistakes_are_shown_as_check_shows_them() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("nightporter.toml"), "[gate]\nlisen = 1\n").unwrap();
    for arguments in [["config", "show"].as_slice(), &["config", "show", "--json"]] {
        let check = [&["check"], &arguments[2..]].concat();
        let shown = run(&mut nightporter(folder.path(), arguments));
        assert_eq!(shown, run(&mut nightporter(folder.path(), &check)));
        assert_eq!(shown.0, 1, "{}", shown.1);
        assert!(shown.1.contains("gate.lisen"), "{}", shown.1);
    }
}

#[test]
fn the_example_is_the_shipped_file() {
    let shipped = fs::read_to_string(root().join("config/nightporter.toml")).unwrap();
    let printed = run(&mut nightporter(&root(), &["config", "example"]));
    assert_eq!(printed, (0, shipped));
}

/// The TOML of a text in Markdown.
fn blocks(markdown: &str) -> Vec<String> {
    let after = markdown.split("```toml\n").skip(1);
    after.map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
}

/// The variables that a file for Compose or Docker sets, by name.
fn variables(file: &str) -> BTreeMap<String, String> {
    let text = fs::read_to_string(root().join(file)).unwrap();
    let mut found = BTreeMap::new();
    for line in text.lines().filter(|line| !line.trim_start().starts_with('#')) {
        let Some(at) = line.find("NIGHTPORTER_") else { continue };
        let rest = &line[at..];
        let Some(end) = rest.find([':', '=']).filter(|end| rest[..*end].contains("__")) else {
            continue;
        };
        let value = rest[end + 1..].trim().trim_end_matches('\\').trim().trim_matches('"');
        found.insert(rest[..end].to_owned(), value.to_owned());
    }
    assert!(!found.is_empty(), "{file} sets no variable any more");
    found
}

/// Returns the errors of each document, as a validator of JSON Schema reports them.
fn validate(documents: &[Value]) -> Vec<Vec<String>> {
    let (code, schema) = run(&mut nightporter(&root(), &["config", "schema"]));
    assert_eq!(code, 0, "{schema}");
    let schema: Value = serde_json::from_str(&schema).unwrap();
    let mut python = Command::new(python())
        .args(["-c", include_str!("config/validate.py")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("Python with jsonschema; `tests/run` makes target/venv");
    let mut input = python.stdin.take().unwrap();
    let order = json!({"schema": schema, "documents": documents});
    input.write_all(&serde_json::to_vec(&order).unwrap()).unwrap();
    drop(input);
    let output = python.wait_with_output().unwrap();
    assert!(output.status.success(), "the script failed, see above");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn the_schema_accepts_every_example() {
    let read = |file: &str| fs::read_to_string(root().join(file)).unwrap();
    let documented = read("config/nightporter.toml");
    // Keys that are unset are there as `#key`, prose as `# prose`.
    let with_all_keys: Vec<_> = documented
        .lines()
        .map(|line| line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).unwrap_or(line))
        .collect();
    let readme = blocks(&read("README.md"));
    assert!(readme.len() >= 2, "{readme:#?}");
    let texts = [documented.clone(), with_all_keys.join("\n")].into_iter().chain(readme);
    let documents = texts.map(|text| json!({"toml": text}));
    let variables = WITH_VARIABLES.map(|file| json!({"variables": variables(file)}));
    let documents: Vec<_> = documents.chain(variables).collect();
    for (document, errors) in documents.iter().zip(validate(&documents)) {
        assert!(errors.is_empty(), "{document:#}\n{errors:#?}");
    }
}

#[test]
fn the_schema_refuses_unknown_keys_and_wrong_types() {
    let wrong = [
        ("[gate]\nlisen = \"127.0.0.1:1\"", "'lisen' was unexpected"),
        ("[gates]\n", "'gates' was unexpected"),
        ("[gate.tls]\nself_signed = \"yes\"", "is not of type 'boolean'"),
        ("[gate]\nlisten = 8400", "is not of type 'string'"),
        ("[gate]\ntrusted_proxies = \"10.0.0.0/8\"", "is not of type 'array'"),
        ("[gate]\ntrusted_proxies = []", "non-empty"),
        ("[gate]\npath_matching = \"exact\"", "is not one of ['prefix', 'segment']"),
        ("[gate]\ndrain_timeout = \"10\"", "does not match"),
        ("[store]\npool_size = 0", "less than the minimum of 1"),
        ("[store]\nurl_file = 1", "is not of type 'string'"),
        ("[wake]\nmin_free_disk = \"1 GB\"", "does not match"),
        ("[sleep]\nactivity = \"trafic\"", "does not match"),
        ("gate = 1", "is not of type 'object'"),
    ];
    let documents = wrong.map(|(text, _)| json!({"toml": text}));
    for ((text, expected), errors) in wrong.iter().zip(validate(&documents)) {
        assert!(errors.len() == 1 && errors[0].contains(expected), "{text}\n{errors:#?}");
    }
}
