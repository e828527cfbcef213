//! The README's first screen, as it is printed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::programs::free_address;

fn checkout() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The commands above the first heading, block by block.
fn blocks() -> Vec<String> {
    let readme = std::fs::read_to_string(checkout().join("README.md")).expect("a README");
    let (screen, _) = readme.split_once("\n## ").expect("headings");
    let blocks = screen.split("```sh\n").skip(1);
    blocks.map(|block| block.split("```").next().unwrap_or_default().to_owned()).collect()
}

/// Every file of a folder and what is in it.
fn files(folder: &Path, found: &mut BTreeMap<PathBuf, Vec<u8>>) {
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("readable").path();
        if path.is_dir() {
            files(&path, found);
        } else {
            let content = std::fs::read(&path).expect("readable");
            found.insert(path, content);
        }
    }
}

#[test]
fn the_first_screen_does_what_it_says_and_leaves_the_checkout_as_it_was() {
    let copy = tempfile::tempdir().expect("a folder");
    let config = copy.path().join("config");
    let copied = Command::new("cp").arg("-r").arg(checkout().join("config")).arg(&config).status();
    assert!(copied.expect("cp").success());
    std::fs::create_dir_all(copy.path().join("target/release")).expect("made");
    let program = copy.path().join("target/release/nightporter");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_nightporter"), program).expect("linked");
    let (mut before, mut after) = (BTreeMap::new(), BTreeMap::new());
    files(&config, &mut before);

    let blocks = blocks();
    let [run, _tests, ask] = &blocks[..] else { panic!("{blocks:?}") };
    let built = "target/release/nightporter";
    let run = run.trim_end().replace("cargo run --release", built);
    let gate = free_address().to_string();
    let script = format!(
        "set -e\n{run} >out 2>log &\ntrap 'kill $!' EXIT\n\
         until grep -qs 'gate listening' out; do kill -0 $!; sleep 0.1; done\n{ask}"
    );
    let output = Command::new("bash")
        .args(["-c", &script.replace("127.0.0.1:8400", &gate)])
        .env("NIGHTPORTER_GATE__LISTEN", &gate)
        .env("NIGHTPORTER_OPS__LISTEN", "127.0.0.1:0")
        .env_remove("DOCKER_HOST")
        .current_dir(copy.path())
        .output()
        .expect("bash");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let log = std::fs::read_to_string(copy.path().join("log")).unwrap_or_default();
    let complaints = String::from_utf8_lossy(&output.stderr);
    let answers = said.split("HTTP/1.1 ").skip(1);
    let statuses: Vec<_> = answers.filter_map(|answer| answer.split(' ').next()).collect();
    assert_eq!(statuses, ["200", "401", "200"], "{said}{complaints}{log}");
    assert!(said.contains("/shared/../x"), "explained: {said}");

    files(&config, &mut after);
    let changed = |(path, content): &(&PathBuf, &Vec<u8>)| before.get(*path) != Some(content);
    let changed: Vec<_> = after.iter().filter(changed).map(|(path, _)| path).collect();
    assert!(changed.is_empty() && after.len() == before.len(), "{changed:?}");
    // What has come is ignored.
    let ignored = std::fs::read_to_string(checkout().join(".gitignore")).expect("a .gitignore");
    assert!(copy.path().join("box/terminals.toml").exists());
    assert!(ignored.lines().any(|line| line == "/box"), "{ignored}");
}
