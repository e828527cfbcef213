//! Writes a JSON value as YAML that people can read.

use serde_json::Value;

/// Returns the value as a YAML document: objects as blocks, lists of words in one line.
#[must_use]
pub fn to_yaml(value: &Value) -> String {
    let mut text = String::new();
    match value {
        Value::Object(map) if !map.is_empty() => block(&mut text, value, 0),
        other => {
            text.push_str(&other.to_string());
            text.push('\n');
        }
    }
    text
}

/// Writes the lines of an object or of a list of objects.
fn block(text: &mut String, value: &Value, indent: usize) {
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                text.push_str(&" ".repeat(indent));
                member(text, name, value, indent);
            }
        }
        Value::Array(list) => {
            for item in list {
                text.push_str(&" ".repeat(indent));
                text.push_str("- ");
                match item {
                    // The first member stands behind the dash, the others below it.
                    Value::Object(map) if !map.is_empty() => {
                        for (n, (name, value)) in map.iter().enumerate() {
                            if n > 0 {
                                text.push_str(&" ".repeat(indent + 2));
                            }
                            member(text, name, value, indent + 2);
                        }
                    }
                    other => {
                        text.push_str(&other.to_string());
                        text.push('\n');
                    }
                }
            }
        }
        _ => {}
    }
}

fn member(text: &mut String, name: &str, value: &Value, indent: usize) {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    if name.starts_with(|c: char| c.is_ascii_alphabetic()) && name.bytes().all(is_plain) {
        text.push_str(name);
    } else {
        text.push_str(&quoted(name));
    }
    text.push(':');
    match value {
        Value::Object(map) if !map.is_empty() => {
            text.push('\n');
            block(text, value, indent + 2);
        }
        Value::Array(list) if list.iter().any(Value::is_object) => {
            text.push('\n');
            block(text, value, indent + 2);
        }
        Value::Array(list) => {
            let words: Vec<_> = list.iter().map(ToString::to_string).collect();
            text.push_str(" [");
            text.push_str(&words.join(", "));
            text.push_str("]\n");
        }
        other => {
            text.push(' ');
            text.push_str(&other.to_string());
            text.push('\n');
        }
    }
}

/// Quotes a text: a JSON string is a YAML one (YAML 1.2 section 1.3).
fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_value_is_written_as_blocks() {
        let value = json!({
            "http": {
                "app-notes": {"rule": "Host(`a`)", "entryPoints": ["web", "x\"y"]},
                "n": 1, "yes": true, "none": {}, "true": null,
                "servers": [{"url": "http://a:1", "weight": 2}, {"url": "b"}],
            },
        });
        let expected = concat!(
            "http:\n",
            "  \"app-notes\":\n",
            "    entryPoints: [\"web\", \"x\\\"y\"]\n",
            "    rule: \"Host(`a`)\"\n",
            "  n: 1\n",
            "  none: {}\n",
            "  servers:\n",
            "    - url: \"http://a:1\"\n",
            "      weight: 2\n",
            "    - url: \"b\"\n",
            "  true: null\n",
            "  yes: true\n",
        );
        assert_eq!(to_yaml(&value), expected);
    }
}
