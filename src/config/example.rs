//! The documented file, `config/nightporter.toml`.

use std::fmt::Write as _;

use serde_json::json;

use super::key::{Fallback, Key, Section, toml};
use super::keys::TABLE;

const PREAMBLE: &str = "\
# nightporter: every key, with its default.
#
# A key that begins with `#` is unset by default, or its default depends on others; the text
# shown is an example. nightporter also starts without this file, with the defaults and the
# environment.
#
# Environment: NIGHTPORTER_<SECTION>__<KEY> takes precedence over the file, for example
# NIGHTPORTER_GATE__LISTEN or NIGHTPORTER_GATE__TLS__SELF_SIGNED. Lists are
# separated by commas; an empty variable counts as unset.
# Secrets: each can also be given as `<key>_file`, the name of a file that holds it.
# Durations: a number and a unit, such as \"500ms\", \"10s\" or \"1h 30m\".
# Paths: relative ones start at the working directory.
#
# `nightporter check` reports all problems of a configuration at once, and `nightporter config
# show` prints every value in force and where it comes from.
";

/// Returns the text of a file with every key, its documentation and its default.
#[must_use]
pub fn example() -> String {
    let mut text = PREAMBLE.to_owned();
    let mut current = "";
    for Section { name, about, keys } in TABLE.sections {
        if *name != current {
            text.push('\n');
            comment(&mut text, about);
            if TABLE.is_list(name) {
                line(&mut text, format_args!("#[[{name}]]"));
            } else {
                line(&mut text, format_args!("[{name}]"));
            }
            current = name;
        }
        for key in *keys {
            write_key(&mut text, key);
        }
    }
    text
}

fn write_key(text: &mut String, key: &Key) {
    comment(text, key.doc);
    let leaf = |name: &'static str| name.rsplit('.').next().unwrap_or(name);
    let name = leaf(key.name);
    match key.fallback {
        Fallback::Value(value) if !TABLE.is_listed(key.name) => {
            line(text, format_args!("{name} = {}", toml(&value.json())));
        }
        Fallback::Value(example) | Fallback::Computed(example, _) | Fallback::Unset(example) => {
            line(text, format_args!("#{name} = {}", toml(&example.json())));
        }
        Fallback::Secret(secret, file) => {
            line(text, format_args!("#{name} = {}", json!(secret)));
            line(text, format_args!("#{} = {}", leaf(key.file_name), json!(file)));
        }
    }
}

fn comment(text: &mut String, lines: &[&str]) {
    for comment in lines {
        line(text, format_args!("#{comment}"));
    }
}

fn line(text: &mut String, line: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{line}");
}
