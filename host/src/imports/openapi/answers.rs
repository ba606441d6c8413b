//! What an operation's answers are: its output, its errors, and whether they come
//! as a stream.

use alknet_plugin_api::ErrorDefinition;
use serde_json::{Value, json};

use super::document::{CORRECT, Document, DocumentError, Place};
use super::schema::{Direction, Translator};
use crate::imports::body::{essence, is_json, is_text};

/// The answers of one operation.
#[derive(Debug)]
pub(super) struct Answers {
    pub(super) output: Value,
    pub(super) errors: Vec<ErrorDefinition>,
    pub(super) is_stream: bool,
    /// What to ask for.
    pub(super) accept: &'static str,
}

/// Reads the responses of an operation.
///
/// # Errors
/// What is wrong with them.
pub(super) fn answers(
    document: &Document,
    operation: &Value,
    at: &Place,
) -> Result<Answers, DocumentError> {
    let at = at.at("responses");
    let empty = serde_json::Map::new();
    let responses = match operation.get("responses") {
        Some(Value::Object(responses)) => responses,
        None => &empty,
        Some(_) => return Err(at.wrong("`responses` is an object", CORRECT)),
    };
    let mut outputs = Vec::new();
    let mut translator = Translator::new(document, Direction::Output);
    let mut errors = Vec::new();
    let (mut streams, mut others) = (false, false);
    for (status, response) in responses {
        let place = at.at(status);
        if status.starts_with("x-") {
            continue;
        }
        let (response, place) = document.resolve(response, place)?;
        match Status::of(status) {
            Some(Status::Success) => {
                for (media_type, _) in media_types(response) {
                    let is_events = essence(media_type) == "text/event-stream";
                    streams |= is_events;
                    others |= !is_events;
                }
                success(document, response, &place, &mut translator, &mut outputs)?;
            }
            Some(Status::Failure(status)) => {
                errors.push(error(document, response, &place, &status)?);
            }
            // What happens on the way to an answer is none.
            Some(Status::Interim) => {}
            None => {
                let what = format!("`{status}` is no status of an answer");
                return Err(place.wrong(what, CORRECT));
            }
        }
    }
    let is_stream = streams && !others;
    let output = match outputs.len() {
        _ if is_stream => json!({
            "type": "object",
            "required": ["data"],
            "properties": {
                "data": true,
                "event": {"type": "string"},
                "id": {"type": "string"},
            },
        }),
        // The document does not say.
        0 => json!(true),
        1 => translator.finish(outputs.remove(0)),
        _ => translator.finish(json!({ "anyOf": outputs })),
    };
    let accept = if is_stream { "text/event-stream" } else { "application/json, */*;q=0.8" };
    Ok(Answers { output, errors, is_stream, accept })
}

enum Status {
    Interim,
    Success,
    /// As in the error's code.
    Failure(String),
}

impl Status {
    fn of(text: &str) -> Option<Self> {
        if text == "default" {
            return Some(Self::Failure("DEFAULT".to_owned()));
        }
        let (first, rest) = text.split_at_checked(1)?;
        let is_range = rest.eq_ignore_ascii_case("xx");
        let is_status = rest.len() == 2 && rest.bytes().all(|digit| digit.is_ascii_digit());
        if !is_range && !is_status {
            return None;
        }
        match first {
            "1" => Some(Self::Interim),
            "2" => Some(Self::Success),
            "3" | "4" | "5" => Some(Self::Failure(text.to_ascii_uppercase())),
            _ => None,
        }
    }
}

fn media_types(response: &Value) -> impl Iterator<Item = (&String, &Value)> {
    response.get("content").and_then(Value::as_object).into_iter().flatten()
}

/// What a success may hold, as it becomes an output.
fn success<'d>(
    document: &'d Document,
    response: &'d Value,
    at: &Place,
    translator: &mut Translator<'d>,
    outputs: &mut Vec<Value>,
) -> Result<(), DocumentError> {
    let mut found = Vec::new();
    for (media_type, media) in media_types(response) {
        let (media, at) = document.resolve(media, at.at("content").at(media_type))?;
        let essence = essence(media_type);
        found.push(match media.get("schema") {
            Some(schema) if is_json(&essence) => translator.translate(schema, &at.at("schema"))?,
            None if is_json(&essence) => json!(true),
            _ if is_text(&essence) => json!({"type": "string"}),
            _ => json!({"type": "string", "contentEncoding": "base64"}),
        });
    }
    if found.is_empty() {
        found.push(json!({"type": "null"}));
    }
    for output in found {
        if !outputs.contains(&output) {
            outputs.push(output);
        }
    }
    Ok(())
}

/// An error whose details are `{status, body?, retry_after?, location?}`.
fn error(
    document: &Document,
    response: &Value,
    at: &Place,
    status: &str,
) -> Result<ErrorDefinition, DocumentError> {
    let mut translator = Translator::new(document, Direction::Output);
    let mut body = json!(true);
    for (media_type, media) in media_types(response) {
        let (media, at) = document.resolve(media, at.at("content").at(media_type))?;
        if is_json(&essence(media_type))
            && let Some(schema) = media.get("schema")
        {
            body = translator.translate(schema, &at.at("schema"))?;
        }
    }
    let schema = json!({
        "type": "object",
        "required": ["status"],
        "properties": {
            "status": {"type": "integer"},
            "retry_after": {"type": "integer"},
            "location": {"type": "string"},
            "body": body,
        },
    });
    let description = response.get("description").and_then(Value::as_str).unwrap_or_default();
    Ok(ErrorDefinition {
        code: format!("HTTP_{status}"),
        description: description.to_owned(),
        schema: translator.finish(schema),
        http_status: status.parse().ok(),
    })
}
