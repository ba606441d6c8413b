//! The input of an operation: one object that holds what an HTTP request spreads
//! over path, query, headers, cookies and body.
//!
//! Parameters stand under their names, the body under `body`. Where a name would
//! stand for two things, each of them is called `<location>.<name>` instead.

use std::collections::HashSet;

use serde_json::{Map, Value, json};

use super::document::{CORRECT, Document, DocumentError, Place};
use super::schema::{Direction, Translator};
use crate::imports::body::{Body, Encoding};
use crate::imports::parameter::{Location, Parameter, Style};

/// The body's key in an input.
const BODY: &str = "body";

/// An operation's input, and how it becomes a request.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) parameters: Vec<Parameter>,
    pub(super) body: Option<(String, Body)>,
    pub(super) schema: Value,
    /// An input that the document shows, if it shows a whole one.
    pub(super) example: Option<Value>,
}

struct Declared<'d> {
    parameter: Parameter,
    value: &'d Value,
    at: Place,
}

/// Reads the parameters of `path_item` and `operation`, and the body.
///
/// # Errors
/// What is wrong with them.
pub(super) fn layout<'d>(
    document: &'d Document,
    path_item: (&'d Value, &Place),
    operation: (&'d Value, &Place),
) -> Result<Layout, DocumentError> {
    let mut declared: Vec<Declared<'d>> = Vec::new();
    for (holder, at) in [path_item, operation] {
        let Some(list) = holder.get("parameters") else { continue };
        let at = at.at("parameters");
        let Some(list) = list.as_array() else {
            return Err(at.wrong("`parameters` is a list", CORRECT));
        };
        for (index, value) in list.iter().enumerate() {
            let (value, at) = document.resolve(value, at.at(index))?;
            let Some(parameter) = parameter(document, value, &at)? else { continue };
            let same = |other: &Declared<'_>| {
                other.parameter.name == parameter.name
                    && other.parameter.location == parameter.location
            };
            // What an operation says goes before what its path says.
            declared.retain(|other| !same(other));
            declared.push(Declared { parameter, value, at });
        }
    }
    let body = match operation.0.get("requestBody") {
        Some(body) => Some(document.resolve(body, operation.1.at("requestBody"))?),
        None => None,
    };
    name_keys(&mut declared, body.is_some());
    assemble(document, declared, body)
}

fn parameter(
    document: &Document,
    value: &Value,
    at: &Place,
) -> Result<Option<Parameter>, DocumentError> {
    let text = |key: &str| {
        value
            .get(key)
            .and_then(Value::as_str)
            .ok_or_else(|| at.wrong(format!("a parameter needs `{key}`"), CORRECT))
    };
    let (name, place) = (text("name")?, text("in")?);
    let Some(location) = Location::of(place) else {
        return Err(at.at("in").wrong(format!("`{place}` is no place for a parameter"), CORRECT));
    };
    // The specification leaves these to the media types and to security.
    let ignored = ["accept", "content-type", "authorization"];
    if location == Location::Header && ignored.contains(&&*name.to_ascii_lowercase()) {
        return Ok(None);
    }
    let mut parameter = Parameter::new(name, location);
    if value.get("content").is_some() {
        let (media_type, _, at) = first_media_type(document, value, at)?;
        match Encoding::of(media_type) {
            Some((_, Encoding::Json)) => parameter.style = Style::Json,
            Some((_, Encoding::Text)) => {}
            _ => {
                let what = format!("a parameter cannot be written as `{media_type}`");
                return Err(at.wrong(what, CORRECT));
            }
        }
        return Ok(Some(parameter));
    }
    if let Some(style) = value.get("style").and_then(Value::as_str) {
        parameter.style = Style::of(style, location).ok_or_else(|| {
            let what = format!("a parameter in the {place} cannot have the style `{style}`");
            at.at("style").wrong(what, CORRECT)
        })?;
        parameter.explode = parameter.style == Style::Form;
    }
    let flag = |key: &str| value.get(key).and_then(Value::as_bool);
    parameter.explode = flag("explode").unwrap_or(parameter.explode);
    parameter.allow_reserved = location == Location::Query && flag("allowReserved") == Some(true);
    Ok(Some(parameter))
}

fn name_keys(declared: &mut [Declared<'_>], has_body: bool) {
    let names: Vec<_> = declared.iter().map(|one| one.parameter.name.clone()).collect();
    let mut taken: HashSet<String> = has_body.then(|| BODY.to_owned()).into_iter().collect();
    for one in declared.iter_mut() {
        let Parameter { name, location, key, .. } = &mut one.parameter;
        let stands_for_two = names.iter().filter(|other| *other == name).count() > 1;
        if stands_for_two || taken.contains(name) {
            *key = format!("{}.{name}", location.name());
        }
        while taken.contains(key) {
            key.push('_');
        }
        taken.insert(key.clone());
    }
}

fn assemble<'d>(
    document: &'d Document,
    declared: Vec<Declared<'d>>,
    body: Option<(&'d Value, Place)>,
) -> Result<Layout, DocumentError> {
    let mut translator = Translator::new(document, Direction::Input);
    let (mut properties, mut required, mut example) = (Map::new(), Vec::new(), Map::new());
    let mut parameters = Vec::new();
    for Declared { parameter, value, at } in declared {
        let (schema, schema_at) = match value.get("content") {
            Some(_) => {
                let (_, media, at) = first_media_type(document, value, &at)?;
                (media.get("schema"), at.at("schema"))
            }
            None => (value.get("schema"), at.at("schema")),
        };
        let mut translated = match schema {
            Some(schema) => translator.translate(schema, &schema_at)?,
            None => json!(true),
        };
        annotate(&mut translated, value);
        let key = &parameter.key;
        let must = value.get("required").and_then(Value::as_bool) == Some(true)
            || parameter.location == Location::Path;
        if must {
            required.push(key.clone());
        }
        if let Some(shown) = shown(document, value).or_else(|| schema.and_then(of_schema)) {
            example.insert(key.clone(), shown.clone());
        }
        properties.insert(key.clone(), translated);
        parameters.push(parameter);
    }
    let body = match body {
        Some((value, at)) => {
            let (media_type, media, media_at, mut encoding) = body_media(document, value, &at)?;
            let schema_at = media_at.at("schema");
            let schema = media.get("schema");
            if let Encoding::Multipart { binary } = &mut encoding {
                *binary = schema.map_or_else(Vec::new, |schema| files(document, schema));
            }
            let mut translated = match (&encoding, schema) {
                (Encoding::Binary, _) => json!({"type": "string", "contentEncoding": "base64"}),
                (_, Some(schema)) => translator.translate(schema, &schema_at)?,
                (Encoding::Text, None) => json!({"type": "string"}),
                (_, None) => json!(true),
            };
            annotate(&mut translated, value);
            if value.get("required").and_then(Value::as_bool) == Some(true) {
                required.push(BODY.to_owned());
            }
            if let Some(shown) = shown(document, media).or_else(|| schema.and_then(of_schema)) {
                example.insert(BODY.to_owned(), shown.clone());
            }
            properties.insert(BODY.to_owned(), translated);
            Some((BODY.to_owned(), Body { encoding, media_type: media_type.to_owned() }))
        }
        None => None,
    };
    let whole = !example.is_empty() && required.iter().all(|key| example.contains_key(key));
    let mut schema = json!({
        "type": "object",
        "properties": properties,
        "additionalProperties": false,
    });
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    let schema = translator.finish(schema);
    Ok(Layout { parameters, body, schema, example: whole.then_some(Value::Object(example)) })
}

/// The document's own words on a value, where its schema has none.
fn annotate(schema: &mut Value, holder: &Value) {
    for key in ["description", "deprecated"] {
        let Some(value) = holder.get(key).filter(|value| !value.is_null()) else { continue };
        match schema {
            Value::Object(keywords) => {
                keywords.entry(key).or_insert_with(|| value.clone());
            }
            Value::Bool(true) => *schema = json!({ key: value }),
            _ => {}
        }
    }
}

/// The example that a parameter or media type shows.
fn shown<'d>(document: &'d Document, holder: &'d Value) -> Option<&'d Value> {
    let first =
        holder.get("examples").and_then(Value::as_object).and_then(|all| all.values().next());
    holder.get("example").or_else(|| {
        let (example, _) = document.resolve(first?, Place::root()).ok()?;
        example.get("value")
    })
}

fn of_schema(schema: &Value) -> Option<&Value> {
    let first = || schema.get("examples").and_then(Value::as_array).and_then(|all| all.first());
    schema.get("example").or_else(first).or_else(|| schema.get("default"))
}

/// The only media type of a parameter.
fn first_media_type<'d>(
    document: &'d Document,
    holder: &'d Value,
    at: &Place,
) -> Result<(&'d str, &'d Value, Place), DocumentError> {
    let content = holder.get("content").and_then(Value::as_object);
    let first = content.and_then(|content| content.iter().next());
    let Some((media_type, value)) = first else {
        return Err(at.at("content").wrong("`content` names no media type", CORRECT));
    };
    let (value, at) = document.resolve(value, at.at("content").at(media_type))?;
    Ok((media_type, value, at))
}

/// The media type that bodies are sent as: of those that the service takes, the
/// one that says most of what is in it.
fn body_media<'d>(
    document: &'d Document,
    body: &'d Value,
    at: &Place,
) -> Result<(&'d str, &'d Value, Place, Encoding), DocumentError> {
    let at = at.at("content");
    let Some(content) = body.get("content").and_then(Value::as_object) else {
        return Err(at.wrong("a request body needs `content`", CORRECT));
    };
    let known = content.iter().filter_map(|(media_type, value)| {
        let (rank, encoding) = Encoding::of(media_type)?;
        Some((rank, media_type, value, encoding))
    });
    let Some((_, media_type, value, encoding)) = known.min_by_key(|(rank, ..)| *rank) else {
        return Err(at.wrong("none of the body's media types can be sent", CORRECT));
    };
    let (value, at) = document.resolve(value, at.at(media_type))?;
    Ok((media_type, value, at, encoding))
}

/// The members of a form that are files: strings of bytes, or lists of them.
fn files(document: &Document, schema: &Value) -> Vec<String> {
    let resolve = |value| document.resolve(value, Place::root()).map(|(value, _)| value).ok();
    let is_file = |value: &Value| {
        value.get("format").and_then(Value::as_str) == Some("binary")
            || value.get("contentMediaType").and_then(Value::as_str)
                == Some("application/octet-stream")
    };
    let members = resolve(schema).and_then(|schema| schema.get("properties")?.as_object());
    let files = members.into_iter().flatten().filter(|(_, member)| {
        let member = resolve(member);
        let items = member.and_then(|member| resolve(member.get("items")?));
        member.is_some_and(is_file) || items.is_some_and(is_file)
    });
    files.map(|(name, _)| name.clone()).collect()
}
