//! Finds keys that appear twice in one JSON object: parsers silently keep the last one, so
//! the value that a person reads first may not be the one that counts.

use std::collections::HashSet;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// Returns the dotted names of all keys that repeat another one of the same object; none if
/// the text is not JSON.
pub(super) fn repeated_keys(json: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    let mut parser = serde_json::Deserializer::from_slice(json);
    let walk = Walk { at: String::new(), found: &mut found };
    match walk.deserialize(&mut parser) {
        Ok(()) => found,
        Err(_) => Vec::new(),
    }
}

struct Walk<'a> {
    at: String,
    found: &'a mut Vec<String>,
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut seen = HashSet::new();
        while let Some(key) = map.next_key::<String>()? {
            let at = match self.at.as_str() {
                "" => key.clone(),
                outer => format!("{outer}.{key:?}"),
            };
            if !seen.insert(key) {
                self.found.push(at.clone());
            }
            map.next_value_seed(Walk { at, found: &mut *self.found })?;
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq
            .next_element_seed(Walk { at: self.at.clone(), found: &mut *self.found })?
            .is_some()
        {}
        Ok(())
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_stands_twice_is_found_wherever_it_is() {
        let json = br#"{"a": 1, "paths": {"": {"access": "private"}, "/x": [{"h": 1, "h": 2}],
            "": {"access": "public"}}, "b": null, "c": [true, -1, 1.5, "x"], "a": 2}"#;
        assert_eq!(repeated_keys(json), ["paths.\"/x\".\"h\"", "paths.\"\"", "a"]);
        assert_eq!(repeated_keys(br#"{"a": {"a": {"a": 1}}}"#), Vec::<String>::new());
        assert_eq!(repeated_keys(b"{"), Vec::<String>::new());
    }
}
