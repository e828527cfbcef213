//! The JSON Schema of the file.

use serde_json::{Map, Value as Json, json};

use super::key::{Fallback, Key};
use super::keys::TABLE;

/// Returns the schema (draft 2020-12) of the file: names, types, defaults and documentation.
/// It accepts some files that [`load`](super::load()) refuses, such as those whose keys
/// contradict each other.
#[must_use]
pub fn schema() -> Json {
    let mut schema = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "nightporter",
    });
    if let (Json::Object(schema), Json::Object(root)) = (&mut schema, section("")) {
        schema.extend(root);
    }
    schema
}

/// Returns the schema of a section, with those in it; the whole file is the one without a
/// name.
fn section(name: &str) -> Json {
    let mut properties = Map::new();
    for inner in TABLE.sections {
        let (parent, leaf) = inner.name.rsplit_once('.').unwrap_or(("", inner.name));
        if inner.name == name {
            for (key, schema) in inner.keys.iter().flat_map(properties_of) {
                properties.insert(leaf_of(key).into(), schema);
            }
        } else if parent == name && !properties.contains_key(leaf) {
            properties.insert(leaf.into(), section(inner.name));
        }
    }
    let about = TABLE.sections.iter().find(|section| section.name == name);
    let about = about.map_or("The configuration file.".into(), |section| text(section.about));
    let table = json!({
        "type": "object",
        "description": about,
        "additionalProperties": false,
        "properties": properties,
    });
    if TABLE.is_list(name) { json!({"type": "array", "items": table}) } else { table }
}

fn leaf_of(key: &'static str) -> &'static str {
    key.rsplit('.').next().unwrap_or(key)
}

fn properties_of(key: &Key) -> Vec<(&'static str, Json)> {
    let with = |mut schema: Json, name: &str, value: Json| {
        if let Json::Object(fields) = &mut schema {
            fields.insert(name.into(), value);
        }
        schema
    };
    let schema = with(key.shape.schema(), "description", text(key.doc).into());
    match key.fallback {
        Fallback::Value(value) => vec![(key.name, with(schema, "default", value.json()))],
        Fallback::Computed(example, _) | Fallback::Unset(example) => {
            vec![(key.name, with(schema, "examples", json!([example.json()])))]
        }
        Fallback::Secret(_, file) => {
            let about = format!("The name of a file that holds `{}`.", key.name);
            let file = json!({
                "type": "string",
                "minLength": 1,
                "description": about,
                "examples": [file],
            });
            vec![(key.name, with(schema, "writeOnly", true.into())), (key.file_name, file)]
        }
    }
}

fn text(lines: &[&str]) -> String {
    lines.concat().trim_start().to_owned()
}
