//! JSON Schema checks, compiled once when the registry is built.

use jsonschema::Validator;
use serde::Serialize;
use serde_json::Value;

/// At most this many violations are reported for one value.
const MAX_VIOLATIONS: usize = 32;

/// One place where a value does not have its schema's shape.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// A JSON Pointer into the value; empty for the whole of it.
    pub path: String,
    /// What is wrong. The value itself is left out, as it may hold a secret.
    pub message: String,
}

/// A compiled schema.
#[derive(Debug)]
pub(crate) enum Check {
    /// The schema is `true` or `{}`, so that values need not even be parsed.
    Anything,
    Schema(Box<Validator>),
}

impl Check {
    /// Compiles `schema`. References to other documents are refused: validation
    /// must not depend on the network.
    pub(crate) fn compile(schema: &Value) -> Result<Self, String> {
        let anything = match schema {
            Value::Bool(allowed) => *allowed,
            Value::Object(keywords) => keywords.is_empty(),
            _ => return Err("a schema is an object, `true` or `false`".to_owned()),
        };
        if anything {
            return Ok(Self::Anything);
        }
        match jsonschema::options().build(schema) {
            Ok(validator) => Ok(Self::Schema(Box::new(validator))),
            Err(error) => Err(error.to_string()),
        }
    }

    pub(crate) fn accepts_anything(&self) -> bool {
        matches!(self, Self::Anything)
    }

    /// What is wrong with `value`.
    ///
    /// # Errors
    /// The first violations, at least one.
    pub(crate) fn validate(&self, value: &Value) -> Result<(), Vec<Violation>> {
        let Self::Schema(validator) = self else { return Ok(()) };
        if validator.is_valid(value) {
            return Ok(());
        }
        Err(validator
            .iter_errors(value)
            .take(MAX_VIOLATIONS)
            .map(|error| Violation {
                path: error.instance_path().to_string(),
                message: error.masked().to_string(),
            })
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn violations_tell_where_and_keep_the_value_to_themselves() {
        let check = Check::compile(&json!({
            "type": "object",
            "properties": {"a": {"type": "array", "items": {"type": "integer"}}},
        }))
        .unwrap();
        assert_eq!(check.validate(&json!({"a": [1]})), Ok(()));
        let violations = check.validate(&json!({"a": [1, "hunter2"]})).unwrap_err();
        assert_eq!(violations[0].path, "/a/1");
        assert!(!violations[0].message.contains("hunter2"), "{violations:?}");
    }

    #[test]
    fn other_documents_are_never_fetched() {
        for reference in ["https://example.com/schema.json", "file:///etc/hostname"] {
            assert!(Check::compile(&json!({"$ref": reference})).is_err(), "{reference}");
        }
    }
}
