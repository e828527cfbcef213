//! Filling templates.

use std::fmt::Write;

/// Fills the holes `{{name}}` of a template; what is filled in is not read again.
pub(super) fn fill(template: &str, value: impl Fn(&str) -> String) -> String {
    let mut parts = template.split("{{");
    let mut filled = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.split_once("}}") {
            Some((hole, rest)) => {
                filled.push_str(&value(hole));
                filled.push_str(rest);
            }
            None => filled.push_str(part),
        }
    }
    filled
}

/// Text as HTML content or a quoted attribute.
pub(super) fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' | '<' | '>' | '"' | '\'' => {
                // Writing to a String does not fail.
                write!(escaped, "&#{};", u32::from(character)).ok();
            }
            _ => escaped.push(character),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_are_filled_once() {
        let value = |hole: &str| format!("<{hole}{{{{b}}}}>");
        assert_eq!(fill("x{{a}}y{{b}}", value), "x<a{{b}}>y<b{{b}}>");
        assert_eq!(fill("no hole } } {{open", value), "no hole } } open");
    }

    #[test]
    fn nothing_escaped_ends_an_attribute_or_begins_markup() {
        assert_eq!(
            escaped(r#"<a b="c" d='e'>&ü"#),
            "&#60;a b=&#34;c&#34; d=&#39;e&#39;&#62;&#38;ü"
        );
    }
}
