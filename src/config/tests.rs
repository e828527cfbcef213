//! The table of keys and the files that repeat it.

use super::example;
use super::key::{Fallback, Key};
use super::keys::TABLE;

const README: &str = include_str!("../../README.md");

#[test]
fn the_documented_file_is_generated() {
    let file = include_str!("../../config/nightporter.toml");
    let hint = "run `nightporter config example > config/nightporter.toml`";
    assert!(file == example(), "{hint}");
}

#[test]
fn every_key_is_documented() {
    for Key { name, doc, .. } in TABLE.keys() {
        let last = doc.last().unwrap_or_else(|| panic!("{name} has no documentation"));
        assert!(last.ends_with('.'), "{name}: {last}");
        assert!(doc.iter().all(|line| line.starts_with(' ')), "{name}");
    }
}

/// The keys of a row of the settings: `` `gate.tls.directory`, `.names` ``.
fn keys_of(cell: &str) -> Vec<String> {
    let mut section = "";
    let names = cell.split(',').map(|name| name.trim().trim_matches('`'));
    let whole = names.map(|name| {
        if let Some(leaf) = name.strip_prefix('.') {
            return format!("{section}.{leaf}");
        }
        section = name.rsplit_once('.').map_or("", |(section, _)| section);
        name.to_owned()
    });
    whole.collect()
}

#[test]
fn the_settings_in_the_readme_are_all_keys_with_their_defaults() {
    let (_, settings) = README.split_once("## Settings").expect("the section");
    let (settings, _) = settings.split_once("\n## ").expect("a section after it");
    let mut named = Vec::new();
    for row in settings.lines().filter(|row| row.starts_with("| `")) {
        let cells: Vec<_> = row.split('|').map(str::trim).collect();
        for name in keys_of(cells[1]) {
            let key = TABLE.find(&name).unwrap_or_else(|| panic!("there is no key {name}"));
            if let Fallback::Value(value) = key.fallback
                && let value = value.json()
                && !value.is_array()
            {
                let default = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                assert!(cells[2].contains(&format!("`{default}`")), "{name} is {default}: {row}");
            }
            named.push(name);
        }
    }
    let mut all: Vec<_> = TABLE.keys().map(|key| key.name.to_owned()).collect();
    named.sort_unstable();
    all.sort_unstable();
    assert_eq!(named, all, "the rows and the keys differ");
}
