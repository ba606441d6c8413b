//! An OpenAPI document as it is written: its text, its version, and the places
//! that references point to.
//!
//! The document stays the JSON value that it is. Typed models know fewer keywords
//! of JSON Schema than services use, and would drop what they do not know.

use std::borrow::Cow;
use std::fmt;

use serde_json::Value;

/// References that follow one another; more are a mistake, or malice.
const MAX_REFERENCES: usize = 32;

/// What to do about most mistakes.
pub(super) const CORRECT: &str =
    "have the document corrected, or leave the operation out with `exclude`";

/// Something wrong with a document, where, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("at {place}: {what}; {remedy}")]
pub(crate) struct DocumentError {
    /// A line and column, or a JSON Pointer.
    pub(crate) place: String,
    pub(crate) what: String,
    pub(crate) remedy: &'static str,
}

/// The versions that differ in what this module has to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    V30,
    V31,
}

/// A place in the document: a JSON Pointer, built on the way down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place(String);

impl Place {
    pub(super) fn root() -> Self {
        Self(String::new())
    }

    /// The place of a member or an item below.
    pub(super) fn at(&self, key: impl fmt::Display) -> Self {
        let key = key.to_string().replace('~', "~0").replace('/', "~1");
        Self(format!("{}/{key}", self.0))
    }

    /// Something wrong here.
    pub(super) fn wrong(&self, what: impl Into<String>, remedy: &'static str) -> DocumentError {
        DocumentError { place: self.to_string(), what: what.into(), remedy }
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

/// A document whose version is understood.
#[derive(Debug)]
pub(super) struct Document {
    root: Value,
    pub(super) version: Version,
}

impl Document {
    /// Reads JSON or YAML.
    ///
    /// # Errors
    /// Text that is neither, or not an OpenAPI document of a version that is
    /// understood.
    pub(super) fn parse(text: &str) -> Result<Self, DocumentError> {
        let root = read(text)?;
        let place = Place::root();
        let missing = "give the address of an OpenAPI document, such as its `openapi.json`";
        if !root.is_object() {
            return Err(place.wrong("the document is no object", missing));
        }
        if let Some(old) = root.get("swagger") {
            return Err(place.at("swagger").wrong(
                format!("this is version {} of the format, which is too old", plain(old)),
                "convert it to OpenAPI 3, for example with swagger2openapi",
            ));
        }
        let Some(version) = root.get("openapi") else {
            return Err(place.wrong("`openapi`, the format's version, is missing", missing));
        };
        let text = plain(version);
        let minor = text.strip_prefix("3.").and_then(|rest| rest.split('.').next());
        let version = match minor {
            Some("0") => Version::V30,
            Some("1") => Version::V31,
            _ => {
                return Err(place.at("openapi").wrong(
                    format!("version {text} of OpenAPI is not understood"),
                    "give a document of version 3.0 or 3.1",
                ));
            }
        };
        Ok(Self { root, version })
    }

    /// The whole of it.
    pub(super) fn root(&self) -> &Value {
        &self.root
    }

    /// What a reference in this document points to, and where that stands.
    ///
    /// # Errors
    /// The reference leads out of the document, or nowhere.
    pub(super) fn target(
        &self,
        reference: &str,
        at: &Place,
    ) -> Result<(&Value, Place), DocumentError> {
        let Some(fragment) = reference.strip_prefix('#') else {
            return Err(at.wrong(
                format!("`{reference}` refers to another document"),
                "put everything into one document, for example with `redocly bundle`",
            ));
        };
        let pointer = decode(fragment);
        if !pointer.is_empty() && !pointer.starts_with('/') {
            return Err(at.wrong(
                format!("`{reference}` refers to an anchor"),
                "refer by a JSON Pointer, such as `#/components/schemas/Pet`",
            ));
        }
        let target = self
            .root
            .pointer(&pointer)
            .ok_or_else(|| at.wrong(format!("`{reference}` refers to nothing"), CORRECT))?;
        Ok((target, Place(pointer.into_owned())))
    }

    /// `value`, or what it refers to if it is a reference.
    ///
    /// # Errors
    /// As for [`target`](Self::target), or references that go round in a circle.
    pub(super) fn resolve<'a>(
        &'a self,
        mut value: &'a Value,
        mut at: Place,
    ) -> Result<(&'a Value, Place), DocumentError> {
        for _ in 0..MAX_REFERENCES {
            let Some(reference) = value.get("$ref").and_then(Value::as_str) else {
                return Ok((value, at));
            };
            (value, at) = self.target(reference, &at)?;
        }
        Err(at.wrong("references go round in a circle", CORRECT))
    }
}

/// A value in a message.
fn plain(value: &Value) -> Cow<'_, str> {
    match value {
        Value::String(text) => text.into(),
        value => value.to_string().into(),
    }
}

fn read(text: &str) -> Result<Value, DocumentError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let remedy = "correct it there, or give another document";
    let looks_like_json = text.trim_start().starts_with('{');
    if looks_like_json {
        let json = serde_json::from_str(text);
        // What begins with a brace may be YAML all the same.
        let error = match json {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        return yaml_serde::from_str(text).map_err(|_| DocumentError {
            place: format!("line {}, column {}", error.line(), error.column()),
            what: format!("this is not JSON: {}", without_place(&error.to_string())),
            remedy,
        });
    }
    yaml_serde::from_str(text).map_err(|error| DocumentError {
        place: match error.location() {
            Some(location) => format!("line {}, column {}", location.line(), location.column()),
            None => "an unknown line".to_owned(),
        },
        what: format!("this is not YAML: {}", without_place(&error.to_string())),
        remedy,
    })
}

/// A parser's message without the line, which stands before it already.
fn without_place(message: &str) -> &str {
    message.split(" at line ").next().unwrap_or(message)
}

/// A URI fragment without its percent-encoding.
fn decode(fragment: &str) -> Cow<'_, str> {
    if !fragment.contains('%') {
        return fragment.into();
    }
    let mut bytes = Vec::with_capacity(fragment.len());
    let mut rest = fragment.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let digits = after.get(..2).and_then(|two| std::str::from_utf8(two).ok());
        let encoded = digits.and_then(|two| u8::from_str_radix(two, 16).ok());
        match (first, encoded) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            _ => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned().into()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn error(text: &str) -> String {
        Document::parse(text).unwrap_err().to_string()
    }

    #[test]
    fn json_and_yaml_are_read() {
        let json = Document::parse(r#"{"openapi": "3.1.0", "paths": {}}"#).unwrap();
        assert_eq!(json.version, Version::V31);
        let text =
            "openapi: 3.0.3\npaths:\n  /a:\n    get:\n      responses:\n        200: {x: 1}\n";
        let yaml = Document::parse(text).unwrap();
        assert_eq!(yaml.version, Version::V30);
        // YAML's keys may be numbers; statuses are texts here.
        assert_eq!(yaml.root().pointer("/paths/~1a/get/responses/200"), Some(&json!({"x": 1})));
        Document::parse("{openapi: 3.1.0}").unwrap();
    }

    #[test]
    fn what_is_no_document_says_where_and_what_to_do() {
        let text = error("{\"openapi\": \"3.1.0\",\n \"paths\" 1}");
        assert!(text.contains("line 2, column 10: this is not JSON"), "{text}");
        let text = error("openapi: 3.0.0\npaths: [\n  a: b: c\n");
        assert!(text.contains("line 3") && text.contains("not YAML"), "{text}");
        let text = error("swagger: '2.0'\n");
        assert!(text.contains("#/swagger") && text.contains("version 2.0"), "{text}");
        assert!(text.contains("convert it"), "{text}");
        assert!(error("openapi: 4.0.0\n").contains("version 4.0.0"));
        assert!(error("openapi: 3.2.0\n").contains("3.0 or 3.1"));
        assert!(error("info: {}\n").contains("`openapi`"));
        assert!(error("<html></html>").contains("no object"));
    }

    #[test]
    fn references_are_followed_inside_the_document_alone() {
        let document = Document::parse(
            &json!({
                "openapi": "3.1.0",
                "a/b": {"c d": 1},
                "two": {"$ref": "#/one"},
                "one": {"$ref": "#/a~1b/c%20d"},
                "circle": {"$ref": "#/circle"},
            })
            .to_string(),
        )
        .unwrap();
        let resolve = |value: Value| {
            let found = document.resolve(&value, Place::root().at("x"));
            found.map(|(value, at)| (value.clone(), at.to_string())).map_err(|e| e.to_string())
        };
        assert_eq!(resolve(json!({"$ref": "#/two"})), Ok((json!(1), "#/a~1b/c d".into())));
        assert_eq!(resolve(json!({"y": 2})), Ok((json!({"y": 2}), "#/x".into())));
        for remote in ["other.yaml#/x", "https://elsewhere/x", "//x"] {
            let text = resolve(json!({ "$ref": remote })).unwrap_err();
            assert!(text.contains("at #/x: ") && text.contains("another document"), "{text}");
        }
        assert!(resolve(json!({"$ref": "#/none"})).unwrap_err().contains("refers to nothing"));
        assert!(resolve(json!({"$ref": "#anchor"})).unwrap_err().contains("anchor"));
        assert!(resolve(json!({"$ref": "#/circle"})).unwrap_err().contains("in a circle"));
    }

    #[test]
    fn aliases_cannot_make_a_small_text_large() {
        let mut text = "openapi: 3.0.0\nx0: &x0 [a, a, a, a, a, a, a, a, a, a]\n".to_owned();
        for n in 1..12 {
            let item = format!("*x{}", n - 1);
            text.push_str(&format!("x{n}: &x{n} [{}]\n", vec![item; 10].join(", ")));
        }
        assert!(error(&text).contains("not YAML"));
    }
}
