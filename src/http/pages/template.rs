//! A minimal template engine.

use std::fmt::Write;

/// Replaces the placeholders `{{name}}` of a template; inserted values are not expanded
/// again.
pub(super) fn fill(template: &str, value: impl Fn(&str) -> String) -> String {
    let mut parts = template.split("{{");
    let mut filled = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.split_once("}}") {
            Some((placeholder, rest)) => {
                filled.push_str(&value(placeholder));
                filled.push_str(rest);
            }
            None => filled.push_str(part),
        }
    }
    filled
}

/// Replaces the first placeholder of a sentence, or removes it if the value is empty.
pub(super) fn fill_or_leave_out(template: &str, value: &str) -> String {
    let Some((before, rest)) = template.split_once("{{") else { return template.to_owned() };
    let Some((_, after)) = rest.split_once("}}") else { return template.to_owned() };
    if value.is_empty() {
        format!("{}{after}", before.trim_end())
    } else {
        format!("{before}{value}{after}")
    }
}

/// Escapes text for HTML content or a quoted attribute.
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
        let value = |placeholder: &str| format!("<{placeholder}{{{{b}}}}>");
        assert_eq!(fill("x{{a}}y{{b}}", value), "x<a{{b}}>y<b{{b}}>");
        assert_eq!(fill("no placeholder } } {{open", value), "no placeholder } } open");
    }

    #[test]
    fn what_is_not_known_leaves_no_hole() {
        assert_eq!(fill_or_leave_out("It is {{x}}.", "here"), "It is here.");
        assert_eq!(fill_or_leave_out("It is {{x}}.", ""), "It is.");
        assert_eq!(fill_or_leave_out("On {{x}} for {{time}}.", "a"), "On a for {{time}}.");
        assert_eq!(fill_or_leave_out("None.", "a"), "None.");
    }

    #[test]
    fn nothing_escaped_ends_an_attribute_or_begins_markup() {
        assert_eq!(
            escaped(r#"<a b="c" d='e'>&ü"#),
            "&#60;a b=&#34;c&#34; d=&#39;e&#39;&#62;&#38;ü"
        );
    }
}
