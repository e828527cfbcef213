//! The files that a Compose project is created from, and whether they have changed.
//!
//! nightporter does not read compose files, it only looks for the names in them under the
//! keys that refer to files: a name too many costs one call of Compose, which then finds
//! nothing changed.

use std::collections::{BTreeSet, VecDeque};
use std::ffi::OsStr;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// Files of a project that are checked; a project has a handful.
const MOST_FILES: usize = 64;

/// Largest compose file that is searched for names, in bytes.
const MAX_SEARCHED: u64 = 256 * 1024;

/// Keys whose values are names of files: of `env_file` and `include` in their short and
/// long forms, of `extends`, and of configs and secrets.
const KEYS: [&str; 5] = ["env_file", "include", "path", "file", "project_directory"];

/// Identifies a state of a file: path, inode, size, and the inode's change time in
/// nanoseconds since 1970. The change time is updated by every write and every rename.
pub(super) type FileStamp = (PathBuf, u64, u64, i128);

/// Returns the state of the files that the project in a folder may be created from:
/// compose files, files that these refer to, and files of variables. The given compose
/// files, which it is known to be created from, come first: whatever else the folder
/// contains, they and the files that they refer to are checked.
pub(super) fn stamps(folder: &Path, known: Vec<PathBuf>) -> Vec<FileStamp> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    let is_relevant = |file: &PathBuf| {
        let name = file.file_name().and_then(OsStr::to_str);
        let has_variables = file.extension().is_some_and(|extension| extension == "env");
        has_variables || is_compose_file(file) || name.is_some_and(|name| name.starts_with(".env"))
    };
    let mut others: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(is_relevant).collect();
    others.sort_unstable();
    let mut others = others.into_iter();
    let mut waiting = VecDeque::from(known);
    // The variables of every compose file.
    waiting.push_back(folder.join(".env"));
    let mut seen: BTreeSet<PathBuf> = waiting.iter().cloned().collect();
    let mut stamps = Vec::new();
    loop {
        let next = waiting.pop_front();
        let Some(file) = next.or_else(|| others.find(|file| seen.insert(file.clone()))) else {
            break;
        };
        // Follows symbolic links.
        let Ok(metadata) = std::fs::metadata(&file) else { continue };
        if metadata.is_dir() {
            // That of an included project.
            waiting.extend(Some(file.join(".env")).filter(|file| seen.insert(file.clone())));
            continue;
        }
        if stamps.len() >= MOST_FILES {
            break;
        }
        let changed = changed_at(&metadata).max(link_changed_at(&file, folder));
        if is_compose_file(&file) && metadata.is_file() && metadata.len() <= MAX_SEARCHED {
            let text = std::fs::read_to_string(&file).unwrap_or_default();
            // An included file's names are relative to its own folder, unless it says
            // otherwise.
            let folders = [file.parent(), Some(folder)];
            let named = file_names(&text)
                .into_iter()
                .flat_map(|name| folders.into_iter().flatten().map(move |folder| folder.join(name)))
                .filter(|file| file.exists());
            waiting.extend(named.filter(|file| seen.insert(file.clone())));
        }
        stamps.push((file, metadata.ino(), metadata.size(), changed));
    }
    stamps.sort();
    stamps
}

fn is_compose_file(file: &Path) -> bool {
    file.extension().is_some_and(|extension| extension == "yml" || extension == "yaml")
}

/// Returns the values of [`KEYS`] in YAML or JSON.
fn file_names(text: &str) -> Vec<&str> {
    let mut names: Vec<&str> = Vec::new();
    // The last key, and the last scalar, which is a key if a colon follows.
    let (mut key, mut last) = ("", "");
    for line in text.lines().map(without_comment) {
        // Pieces of a name that contains a variable, whose value is not known here.
        let mut ignored = 0;
        for piece in line.split(['"', '\'', '{', '}', '[', ']', ',']) {
            let mut piece = piece.trim();
            if ignored > 0 {
                ignored -= 1;
                continue;
            }
            if piece.ends_with('$') {
                ignored = 2;
            }
            while let Some(item) = piece.strip_prefix("- ") {
                piece = item.trim_start();
            }
            if let Some(value) = piece.strip_prefix(':') {
                // It was taken for a value of the key before it.
                if names.last() == Some(&last) && !last.is_empty() {
                    names.pop();
                }
                key = last;
                piece = value.trim_start();
            } else if let Some(name) = piece.strip_suffix(':') {
                key = name;
                continue;
            } else if let Some((name, value)) = piece.split_once(": ") {
                key = name;
                piece = value.trim_start();
            }
            if piece.is_empty() || piece == "-" {
                continue;
            }
            last = piece;
            if KEYS.contains(&key) && !piece.contains(['$', '\0']) {
                names.push(piece);
            }
        }
    }
    names
}

fn without_comment(line: &str) -> &str {
    let begins =
        |(at, _): &(usize, &str)| line[..*at].chars().next_back().is_none_or(char::is_whitespace);
    line.match_indices('#').find(begins).map_or(line, |(at, _)| &line[..at])
}

/// Returns when the last symbolic link on the way to a file was changed: a link to another,
/// older file changes nothing about the files themselves.
fn link_changed_at(file: &Path, folder: &Path) -> i128 {
    let root = folder.parent().unwrap_or(folder);
    file.ancestors()
        .take_while(|part| part.starts_with(root) && *part != root)
        .filter_map(|part| std::fs::symlink_metadata(part).ok())
        .filter(Metadata::is_symlink)
        .map(|link| changed_at(&link))
        .max()
        .unwrap_or_default()
}

fn changed_at(metadata: &Metadata) -> i128 {
    i128::from(metadata.ctime()) * 1_000_000_000 + i128::from(metadata.ctime_nsec())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(folder: &Path, files: &[(&str, &str)]) {
        for (name, text) in files {
            let file = folder.join(name);
            std::fs::create_dir_all(file.parent().expect("a folder")).expect("made");
            std::fs::write(file, text).expect("written");
        }
    }

    #[test]
    fn names_of_files_are_found_in_yaml_and_json() {
        for (text, expected) in [
            ("services:\n  web:\n    env_file: web.env # of web\n", &["web.env"][..]),
            (
                "    env_file:\n      - a.env\n      - 'conf/b c.env'\n    image: x.yml",
                &["a.env", "conf/b c.env"],
            ),
            ("env_file: [a.env, \"b.env\"]\nports: [\"80:80\"]", &["a.env", "b.env"]),
            ("env_file:\n  - path: ./a.env\n    required: false", &["./a.env"]),
            (
                "include:\n  - ../db/compose.yml\n- path: [x.yml, y.yml]",
                &["../db/compose.yml", "x.yml", "y.yml"],
            ),
            ("extends: {file: base.yml, service: web}", &["base.yml"]),
            ("extends:\n  file: \"base.yml\"\n  service: web", &["base.yml"]),
            (
                r#"{"web":{"env_file":["a","b"],"image":"c","extends":{"file":"d"}}}"#,
                &["a", "b", "d"],
            ),
            (r#"{ "env_file": "a", "volumes": ["./data:/data"] }"#, &["a"]),
            ("secrets:\n  key:\n    file: ./key.txt\n", &["./key.txt"]),
            ("# env_file: a\nenv_file: ${DIR}/a\nfile: it#s", &["it#s"]),
            ("volumes:\n  - type: bind\n    source: ./data.db\n    target: /db", &[]),
            ("env_file:\n", &[]),
            (": :\n- - -\n\"\":'\n{[,]}", &[]),
            ("", &[]),
        ] {
            assert_eq!(file_names(text), expected, "{text}");
        }
    }

    #[test]
    fn every_file_that_a_project_is_made_from_is_stamped() {
        let dir = tempfile::tempdir().expect("a folder");
        let folder = dir.path().join("shop");
        write(
            &folder,
            &[
                (
                    "compose.yml",
                    "include: [db/compose.yml]\nweb:\n  env_file: conf/web\n  file: gone",
                ),
                (
                    "db/compose.yml",
                    "db:\n  env_file: db.env\n  extends: {file: ../../base/base.yml}",
                ),
                ("db/db.env", "A=1"),
                ("../base/base.yml", "x:\n  env_file: base.env\n  extends: {file: base.yml}"),
                ("../base/base.env", "A=1"),
                ("conf/web", "A=1"),
                (".env", "A=1"),
                ("data/other.yml", "x"),
                ("app_meta.json", "{}"),
            ],
        );
        let names = |stamps: &[FileStamp]| -> Vec<PathBuf> {
            let real = |file: &PathBuf| file.canonicalize().expect("it is there");
            let root = dir.path().canonicalize().expect("it is there");
            let relative =
                |file: PathBuf| file.strip_prefix(&root).map(Path::to_owned).expect("inside");
            let mut names: Vec<_> = stamps.iter().map(|(file, ..)| relative(real(file))).collect();
            names.sort();
            names
        };
        let stamps = |folder: &Path| stamps(folder, vec![folder.join("compose.yml")]);
        let before = stamps(&folder);
        let expected = [
            "base/base.env",
            "base/base.yml",
            "shop/.env",
            "shop/compose.yml",
            "shop/conf/web",
            "shop/db/compose.yml",
            "shop/db/db.env",
        ];
        let mut found = names(&before);
        found.dedup();
        assert_eq!(found, expected.map(PathBuf::from));
        assert_eq!(stamps(&folder), before);
        for name in expected {
            let before = stamps(&folder);
            let file = dir.path().join(name);
            let text = std::fs::read_to_string(&file).expect("text") + "\n";
            std::fs::write(file, text).expect("written");
            assert_ne!(stamps(&folder), before, "{name}");
        }
    }

    #[test]
    fn a_link_to_an_older_file_is_a_change() {
        let dir = tempfile::tempdir().expect("a folder");
        write(dir.path(), &[("old/web.env", "A=1"), ("new/web.env", "A=1")]);
        write(dir.path(), &[("shop/compose.yml", "env_file: conf/web.env")]);
        let newest = || {
            let folder = dir.path().join("shop");
            let stamps = stamps(&folder, vec![folder.join("compose.yml")]);
            stamps.iter().map(|(.., changed)| *changed).max().expect("some")
        };
        let link = dir.path().join("shop/conf");
        std::os::unix::fs::symlink("../new", &link).expect("linked");
        let before = newest();
        std::thread::sleep(std::time::Duration::from_millis(20));
        std::fs::remove_file(&link).expect("it was there");
        std::os::unix::fs::symlink("../old", &link).expect("linked");
        assert!(newest() > before);
    }

    #[test]
    fn files_that_include_each_other_and_many_files_are_survived() {
        let dir = tempfile::tempdir().expect("a folder");
        let folder = dir.path().join("shop");
        let names: Vec<_> = (0..200).map(|n| format!("{n}.yml")).collect();
        let all = format!("include: [{}]", names.join(", "));
        let files: Vec<_> = names.iter().map(|name| (&**name, &*all)).collect();
        write(&folder, &files);
        assert_eq!(stamps(&folder, vec![folder.join("0.yml")]).len(), MOST_FILES);
        let gone = dir.path().join("gone");
        assert_eq!(stamps(&gone, vec![gone.join("compose.yml")]), []);
    }

    #[test]
    fn the_files_of_a_project_are_stamped_however_many_others_there_are() {
        let dir = tempfile::tempdir().expect("a folder");
        let others: Vec<_> = (0..MOST_FILES).map(|n| format!("a{n}.yml")).collect();
        let others: Vec<_> = others.iter().map(|name| (&**name, "env_file: b.env")).collect();
        write(dir.path(), &others);
        let of_project = [
            ("docker-compose.yml", "web:\n  env_file: web.env"),
            ("more/override.yml", "web:\n  env_file: conf/web"),
            (".env", "A=1"),
            ("web.env", "A=1"),
            ("conf/web", "A=1"),
        ];
        write(dir.path(), &of_project);
        let known = ["docker-compose.yml", "./more/override.yml"].map(|file| dir.path().join(file));
        let stamps = stamps(dir.path(), known.to_vec());
        assert_eq!(stamps.len(), MOST_FILES);
        for (name, _) in of_project {
            let file = dir.path().join(name);
            assert!(stamps.iter().any(|(stamped, ..)| *stamped == file), "{name}");
        }
    }
}
