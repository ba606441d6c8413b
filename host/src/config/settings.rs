//! A plugin's own configuration: any TOML, handed over as JSON.

use std::collections::BTreeMap;

use serde_json::{Map, Number, Value};
use toml::de::DeValue;

use super::document::{Node, Read};
use super::problem::Place;

/// A plugin's configuration as JSON, with the place of each value, so that what
/// the plugin's schema refuses is shown at its line.
#[derive(Clone, Debug)]
pub struct Settings {
    value: Value,
    /// By JSON Pointer.
    places: BTreeMap<String, Place>,
}

impl Settings {
    /// As the plugin gets it: an object, empty where the file gives none.
    pub fn value(&self) -> &Value {
        &self.value
    }

    /// Where the value at a JSON Pointer (RFC 6901) stands, or else the nearest
    /// value around it; `None` where the file has no `config` at all.
    pub fn place(&self, pointer: &str) -> Option<&Place> {
        let mut pointer = pointer;
        loop {
            if let Some(place) = self.places.get(pointer) {
                return Some(place);
            }
            pointer = &pointer[..pointer.rfind('/')?];
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self { value: Value::Object(Map::new()), places: BTreeMap::new() }
    }
}

impl Read for Settings {
    fn read(node: &Node<'_>) -> Option<Self> {
        if !matches!(node.value(), DeValue::Table(_)) {
            return node.refuse_type("a table", "{ … }");
        }
        let mut places = BTreeMap::new();
        let value = convert(node, "", &mut places)?;
        Some(Self { value, places })
    }
}

fn convert(node: &Node<'_>, pointer: &str, places: &mut BTreeMap<String, Place>) -> Option<Value> {
    places.insert(pointer.to_owned(), node.place());
    Some(match node.value() {
        DeValue::String(text) => match super::values::is_token(text) {
            true => String::read(node)?.into(),
            false => Value::String(text.to_string()),
        },
        DeValue::Boolean(value) => Value::Bool(*value),
        DeValue::Datetime(datetime) => Value::String(datetime.to_string()),
        DeValue::Integer(integer) => {
            let digits = integer.as_str().replace('_', "");
            match i64::from_str_radix(&digits, integer.radix()) {
                Ok(number) => Value::Number(number.into()),
                Err(_) => {
                    return node.refuse(
                        format!("{integer} is out of range"),
                        "write an integer of at most 64 bits, or the number in quotes",
                    );
                }
            }
        }
        DeValue::Float(float) => {
            let number = float.as_str().replace('_', "").parse().ok().and_then(Number::from_f64);
            match number {
                Some(number) => Value::Number(number),
                None => {
                    return node.refuse(
                        format!("{float} is no number in JSON, which the plugin gets"),
                        "write a finite number",
                    );
                }
            }
        }
        DeValue::Array(_) => {
            let mut values = Vec::new();
            for (index, element) in node.elements()?.iter().enumerate() {
                values.extend(convert(element, &format!("{pointer}/{index}"), places));
            }
            Value::Array(values)
        }
        DeValue::Table(_) => {
            let mut values = Map::new();
            for (key, value) in node.entries()? {
                let escaped = key.replace('~', "~0").replace('/', "~1");
                let value = convert(&value, &format!("{pointer}/{escaped}"), places);
                values.extend(value.map(|value| (key.to_owned(), value)));
            }
            Value::Object(values)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::super::document::read_document;
    use super::*;

    #[test]
    fn settings_become_json_and_keep_their_places() {
        let text = "\
[config]
root = \"/srv\"
when = 2027-01-01
sizes = [1, 2.5]

[config.\"a/b\"]
deep = true
";
        let settings: Settings =
            read_document("f".as_ref(), text, |table| table.or_default("config")).unwrap();
        assert_eq!(
            settings.value(),
            &serde_json::json!({
                "root": "/srv", "when": "2027-01-01", "sizes": [1, 2.5], "a/b": { "deep": true },
            })
        );
        let line = |pointer| settings.place(pointer).map(Place::line);
        assert_eq!(line("/root"), Some(2));
        assert_eq!(line("/sizes/1"), Some(4));
        assert_eq!(line("/a~1b/deep"), Some(7));
        assert_eq!(line("/a~1b/missing/far"), Some(6));
        assert_eq!(line("/missing"), Some(1));
    }

    #[test]
    fn settings_refuse_what_json_cannot_hold() {
        let text = "config = { a = nan, b = 99999999999999999999 }";
        let problems =
            read_document("f".as_ref(), text, |table| table.or_default::<Settings>("config"));
        assert_eq!(problems.unwrap_err().len(), 2);
    }
}
