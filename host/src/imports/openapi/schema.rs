//! Schemas of a document as JSON Schema 2020-12 that stands on its own.
//!
//! What a schema refers to comes along under `$defs`, so circles stay circles. The
//! dialect of OpenAPI 3.0 is translated; annotations that only documentation
//! tools read are left out.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::document::{CORRECT, Document, DocumentError, Place, Version};

/// Whether a schema is of what callers send or of what they get: members that are
/// read only need not be sent, and those that are write only are not given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    Input,
    Output,
}

/// Translates schemas that share their definitions.
#[derive(Debug)]
pub(super) struct Translator<'d> {
    document: &'d Document,
    direction: Direction,
    /// The name under `$defs` of each place that is referred to.
    names: HashMap<String, String>,
    definitions: Map<String, Value>,
    /// What is referred to and not translated yet.
    pending: Vec<(Place, &'d Value)>,
}

impl<'d> Translator<'d> {
    pub(super) fn new(document: &'d Document, direction: Direction) -> Self {
        Self {
            document,
            direction,
            names: HashMap::new(),
            definitions: Map::new(),
            pending: Vec::new(),
        }
    }

    /// The schema that stands at `at`.
    ///
    /// # Errors
    /// A reference that leads nowhere, or something that is no schema.
    pub(super) fn translate(&mut self, schema: &Value, at: &Place) -> Result<Value, DocumentError> {
        let translated = self.schema(schema, at, &Place::root())?;
        while let Some((place, target)) = self.pending.pop() {
            let definition = self.schema(target, &place, &Place::root())?;
            let name = self.names[place.as_str()].clone();
            self.definitions.insert(name, definition);
        }
        Ok(translated)
    }

    /// `schema` with the definitions that it and others need.
    pub(super) fn finish(self, mut schema: Value) -> Value {
        if !self.definitions.is_empty()
            && let Value::Object(keywords) = &mut schema
        {
            keywords.insert("$defs".to_owned(), Value::Object(self.definitions));
        }
        schema
    }

    /// `base` is what local references begin at: the document, or the schema
    /// around that has an id.
    fn schema(&mut self, schema: &Value, at: &Place, base: &Place) -> Result<Value, DocumentError> {
        let keywords = match schema {
            Value::Bool(_) => return Ok(schema.clone()),
            Value::Object(keywords) => keywords,
            _ => {
                let what = "a schema is an object, `true` or `false`";
                return Err(at.wrong(what, CORRECT));
            }
        };
        let own_base = keywords.contains_key("$id").then(|| at.clone());
        let base = own_base.as_ref().unwrap_or(base);
        let old = self.document.version == Version::V30;
        let mut translated = Map::new();
        for key in ["$ref", "$dynamicRef"] {
            if let Some(reference) = keywords.get(key) {
                let reference = self.reference(reference, &at.at(key), base)?;
                translated.insert("$ref".to_owned(), reference);
            }
        }
        // 3.0 ignores what stands beside a reference; `nullable` is meant, though.
        let ignored = old && translated.contains_key("$ref");
        for (key, value) in keywords {
            let place = at.at(key);
            let value = match &**key {
                _ if ignored => continue,
                "$ref" | "$dynamicRef" | "$id" | "$schema" | "$anchor" | "$dynamicAnchor"
                | "$defs" | "definitions" | "$comment" | "discriminator" | "xml"
                | "externalDocs" | "example" => continue,
                "nullable" | "exclusiveMinimum" | "exclusiveMaximum" if old => continue,
                key if key.starts_with("x-") => continue,
                "not"
                | "if"
                | "then"
                | "else"
                | "contains"
                | "additionalProperties"
                | "propertyNames"
                | "unevaluatedItems"
                | "unevaluatedProperties"
                | "contentSchema" => self.schema(value, &place, base)?,
                "items" => match value {
                    Value::Array(_) => self.list(value, &place, base)?,
                    value => self.schema(value, &place, base)?,
                },
                "allOf" | "anyOf" | "oneOf" | "prefixItems" => self.list(value, &place, base)?,
                "properties" | "patternProperties" | "dependentSchemas" => {
                    self.map(value, &place, base)?
                }
                "required" => self.required(keywords, value),
                _ => value.clone(),
            };
            translated.insert(key.clone(), value);
        }
        if let Some(example) = keywords.get("example").filter(|_| !ignored)
            && !translated.contains_key("examples")
        {
            translated.insert("examples".to_owned(), json!([example]));
        }
        if old {
            bounds(keywords, &mut translated);
            if keywords.get("nullable") == Some(&Value::Bool(true)) {
                return Ok(nullable(translated));
            }
        }
        Ok(Value::Object(translated))
    }

    fn reference(
        &mut self,
        reference: &Value,
        at: &Place,
        base: &Place,
    ) -> Result<Value, DocumentError> {
        let Some(text) = reference.as_str() else {
            return Err(at.wrong("a reference is a text", CORRECT));
        };
        let based = match text.strip_prefix('#') {
            Some(fragment) => format!("#{}{fragment}", base.as_str()),
            None => text.to_owned(),
        };
        let (target, place) = self.document.target(&based, at)?;
        if let Some(name) = self.names.get(place.as_str()) {
            return Ok(json!(format!("#/$defs/{name}")));
        }
        let last = place.as_str().rsplit('/').next().unwrap_or_default();
        let plain: String = last
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' })
            .collect();
        let mut name = if plain.is_empty() { "document".to_owned() } else { plain };
        while self.names.values().any(|taken| *taken == name) {
            name.push('_');
        }
        self.names.insert(place.as_str().to_owned(), name.clone());
        self.pending.push((place, target));
        Ok(json!(format!("#/$defs/{name}")))
    }

    fn list(&mut self, list: &Value, at: &Place, base: &Place) -> Result<Value, DocumentError> {
        let Some(items) = list.as_array() else {
            return Err(at.wrong("this is a list of schemas", CORRECT));
        };
        let items = items.iter().enumerate();
        items.map(|(index, item)| self.schema(item, &at.at(index), base)).collect()
    }

    fn map(&mut self, map: &Value, at: &Place, base: &Place) -> Result<Value, DocumentError> {
        let Some(members) = map.as_object() else {
            return Err(at.wrong("this is an object of schemas", CORRECT));
        };
        let mut translated = Map::new();
        for (key, member) in members {
            translated.insert(key.clone(), self.schema(member, &at.at(key), base)?);
        }
        Ok(Value::Object(translated))
    }

    /// The members that are required in this direction.
    fn required(&self, keywords: &Map<String, Value>, required: &Value) -> Value {
        let Some(names) = required.as_array() else {
            // OpenAPI documents of old have `required: true` on members, too.
            return json!([]);
        };
        let absent = match self.direction {
            Direction::Input => "readOnly",
            Direction::Output => "writeOnly",
        };
        let is_absent = |name: &&Value| {
            let member = name.as_str().and_then(|name| keywords.get("properties")?.get(name));
            let resolved =
                member.and_then(|member| self.document.resolve(member, Place::root()).ok());
            let says = |value: &Value| value.get(absent) == Some(&Value::Bool(true));
            member.is_some_and(says) || resolved.is_some_and(|(value, _)| says(value))
        };
        names.iter().filter(|name| !is_absent(name)).cloned().collect()
    }
}

/// In 3.0, exclusive bounds are flags beside the bounds.
fn bounds(keywords: &Map<String, Value>, translated: &mut Map<String, Value>) {
    for (flag, bound) in [("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")] {
        match keywords.get(flag) {
            Some(Value::Bool(true)) => {
                if let Some(value) = translated.remove(bound) {
                    translated.insert(flag.to_owned(), value);
                }
            }
            // Some documents of 3.0 write it as later versions do.
            Some(value @ Value::Number(_)) => {
                translated.insert(flag.to_owned(), value.clone());
            }
            _ => {}
        }
    }
}

/// A schema that also takes null.
fn nullable(mut schema: Map<String, Value>) -> Value {
    if let Some(Value::Array(values)) = schema.get_mut("enum")
        && !values.contains(&Value::Null)
    {
        values.push(Value::Null);
    }
    match schema.get("type") {
        Some(Value::String(name)) => {
            let both = json!([name, "null"]);
            schema.insert("type".to_owned(), both);
            Value::Object(schema)
        }
        Some(_) => Value::Object(schema),
        None if schema.is_empty() => Value::Bool(true),
        None => json!({ "anyOf": [schema, { "type": "null" }] }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn translate(version: &str, schemas: Value, direction: Direction) -> Value {
        let text = json!({"openapi": version, "components": {"schemas": schemas}}).to_string();
        let document = Document::parse(&text).unwrap();
        let at = Place::root().at("components").at("schemas").at("T");
        let schema = document.root().pointer("/components/schemas/T").unwrap();
        let mut translator = Translator::new(&document, direction);
        let translated = translator.translate(schema, &at).unwrap();
        let finished = translator.finish(translated);
        jsonschema::options().build(&finished).unwrap();
        finished
    }

    fn old(schema: Value) -> Value {
        translate("3.0.3", json!({ "T": schema, "U": {"type": "string"} }), Direction::Output)
    }

    #[test]
    fn the_dialect_of_3_0_is_translated() {
        assert_eq!(
            old(json!({"type": "integer", "minimum": 1, "exclusiveMinimum": true, "maximum": 9,
                "exclusiveMaximum": false, "nullable": true, "example": 3, "xml": {}, "x-y": 1})),
            json!({"type": ["integer", "null"], "exclusiveMinimum": 1, "maximum": 9, "examples": [3]})
        );
        assert_eq!(
            old(json!({"type": "string", "enum": ["a"], "nullable": true})),
            json!({"type": ["string", "null"], "enum": ["a", null]})
        );
        let reference =
            old(json!({"$ref": "#/components/schemas/U", "nullable": true, "minLength": 3}));
        assert_eq!(
            reference,
            json!({"anyOf": [{"$ref": "#/$defs/U"}, {"type": "null"}], "$defs": {"U": {"type": "string"}}})
        );
        assert_eq!(old(json!({"nullable": true})), json!(true));
    }

    #[test]
    fn later_versions_stay_as_they_are() {
        let schema = json!({"type": ["string", "null"], "exclusiveMinimum": 3, "nullable": true,
            "not": {"const": "x"}, "patternProperties": {"^a": false}, "if": true, "then": {}});
        assert_eq!(translate("3.1.0", json!({ "T": schema.clone() }), Direction::Output), schema);
    }

    #[test]
    fn definitions_come_along_and_circles_stay() {
        let translated = translate(
            "3.1.0",
            json!({
                "T": {"properties": {
                    "next": {"$ref": "#/components/schemas/T"},
                    "list": {"$ref": "#/components/schemas/A~1b"},
                    "same": {"$ref": "#/components/schemas/A_b"},
                }},
                "A/b": {"items": {"$ref": "#/components/schemas/T"}},
                "A_b": {"type": "string"},
            }),
            Direction::Output,
        );
        let mut names: Vec<_> = translated["$defs"].as_object().unwrap().keys().collect();
        names.sort();
        assert_eq!(names, ["A_1b", "A_b", "T"]);
        let validator = jsonschema::options().build(&translated).unwrap();
        assert!(validator.is_valid(&json!({"next": {"list": [{"same": "x"}]}})));
        assert!(!validator.is_valid(&json!({"next": {"list": [{"same": 1}]}})));
    }

    #[test]
    fn ids_and_definitions_inside_a_schema_are_understood() {
        let translated = translate(
            "3.1.0",
            json!({"T": {"$id": "urn:t", "$ref": "#/$defs/n", "$defs": {"n": {"type": "number"}}}}),
            Direction::Output,
        );
        assert_eq!(translated, json!({"$ref": "#/$defs/n", "$defs": {"n": {"type": "number"}}}));
    }

    #[test]
    fn what_is_read_only_need_not_be_sent() {
        let schema = json!({"T": {"type": "object", "required": ["id", "name", "secret"], "properties": {
            "id": {"$ref": "#/components/schemas/Id"}, "name": {}, "secret": {"writeOnly": true}}},
            "Id": {"type": "string", "readOnly": true}});
        let required =
            |direction| translate("3.0.3", schema.clone(), direction)["required"].clone();
        assert_eq!(required(Direction::Input), json!(["name", "secret"]));
        assert_eq!(required(Direction::Output), json!(["id", "name"]));
    }
}
