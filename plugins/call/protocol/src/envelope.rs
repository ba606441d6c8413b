//! Envelopes: what they say, and reading them without parsing what is only
//! passed on.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use alknet_plugin_api::{AbortPolicy, CallError, Identity, Json, code};
use bytes::Bytes;
use serde::Deserialize;
use serde::de::{self, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::frame::READ_CHUNK;

mod write;

pub use write::{write_aborted, write_completed, write_error, write_request, write_response};
pub(crate) use write::{write_call, write_nudge};

/// Most bytes of an id.
pub const MAX_ID: usize = 128;
/// Most entries of `forwarded_for`.
pub const MAX_FORWARDED: usize = 8;

/// An envelope that cannot be answered; the stream is reset with `BAD_ENVELOPE`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EnvelopeError {
    /// Not UTF-8.
    #[error("not an envelope: {0}; frames hold UTF-8")]
    NotText(std::str::Utf8Error),
    /// Not JSON, or without a readable type and id.
    #[error("not an envelope: {0}")]
    Malformed(#[from] serde_json::Error),
    /// A request whose id has no bytes, or too many.
    #[error("a request's id has {0} bytes; 1 to {MAX_ID} are allowed")]
    BadId(usize),
}

/// One envelope, as it came.
#[derive(Debug)]
pub struct Envelope {
    /// What it correlates with.
    pub id: String,
    /// What it says.
    pub event: Event,
}

/// What an envelope says.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// Somebody calls; `Err` is what to answer to a malformed request.
    Requested(Result<Request, CallError>),
    /// A result; `terminal` marks a stream's final one.
    Responded {
        /// The result.
        output: Json,
        /// Whether it is a stream's final result.
        terminal: bool,
    },
    /// A subscription's clean end.
    Completed,
    /// The other side aborts the call.
    Aborted {
        /// What happens to started descendants.
        policy: AbortPolicy,
        /// Why, for people.
        reason: Option<String>,
    },
    /// The call's end with an error.
    Error(CallError),
    /// An answer that does not have its type's shape.
    Unparsable(&'static str),
    /// A type that this version does not know.
    Unknown,
}

/// The payload of `call.requested`.
#[derive(Clone)]
pub struct Request {
    /// The operation's name as it came, with its leading slash.
    pub operation: String,
    /// The input.
    pub input: Json,
    /// A token for this request alone.
    pub auth_token: Option<String>,
    /// Who the caller says it acts for, end user first.
    pub forwarded_for: Vec<Identity>,
    /// The caller's remaining budget.
    pub timeout: Option<Duration>,
}

impl fmt::Debug for Request {
    /// Shows all but the token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("operation", &self.operation)
            .field("input", &self.input)
            .field("auth_token", &self.auth_token.as_ref().map(|_| "…"))
            .field("forwarded_for", &self.forwarded_for)
            .field("timeout", &self.timeout)
            .finish()
    }
}

/// A string, borrowed unless it holds escapes.
#[derive(Deserialize)]
#[serde(transparent)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// An envelope of which nothing is known but that it may be one.
#[derive(Deserialize)]
struct RawEnvelope<'a> {
    #[serde(rename = "type", borrow)]
    kind: Text<'a>,
    #[serde(borrow)]
    id: Text<'a>,
    #[serde(borrow)]
    payload: Option<&'a RawValue>,
}

/// An envelope whose payload was read as its type says, in the same pass.
struct Typed<'a> {
    id: Text<'a>,
    body: Body<'a>,
}

enum Body<'a> {
    Requested(RawRequest<'a>),
    Responded(RawResponse<'a>),
    Completed,
    Aborted(RawAbort<'a>),
    Error(RawError<'a>),
    Unknown,
}

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "lowercase")]
enum Field {
    Type,
    Id,
    Payload,
    #[serde(other)]
    Other,
}

/// The payload of `call.completed`: any object.
#[derive(Deserialize)]
struct Anything {}

impl<'de: 'a, 'a> Deserialize<'de> for Typed<'a> {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(TypedVisitor(std::marker::PhantomData))
    }
}

struct TypedVisitor<'a>(std::marker::PhantomData<&'a ()>);

impl<'de: 'a, 'a> Visitor<'de> for TypedVisitor<'a> {
    type Value = Typed<'a>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an envelope whose type precedes its payload")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Typed<'a>, A::Error> {
        let (mut kind, mut id, mut body) = (None::<Text<'a>>, None, None);
        while let Some(field) = map.next_key()? {
            match field {
                Field::Type if kind.is_none() => kind = Some(map.next_value()?),
                Field::Id if id.is_none() => id = Some(map.next_value()?),
                Field::Payload if body.is_none() => {
                    let Some(kind) = &kind else { return Err(de::Error::missing_field("type")) };
                    body = Some(match &*kind.0 {
                        "call.requested" => Body::Requested(map.next_value()?),
                        "call.responded" => Body::Responded(map.next_value()?),
                        "call.completed" => {
                            map.next_value::<Anything>()?;
                            Body::Completed
                        }
                        "call.aborted" => Body::Aborted(map.next_value()?),
                        "call.error" => Body::Error(map.next_value()?),
                        _ => {
                            map.next_value::<IgnoredAny>()?;
                            Body::Unknown
                        }
                    });
                }
                Field::Other => {
                    map.next_value::<IgnoredAny>()?;
                }
                _ => return Err(de::Error::custom("a field twice")),
            }
        }
        let (Some(id), Some(body)) = (id, body) else {
            return Err(de::Error::missing_field("id or payload"));
        };
        Ok(Typed { id, body })
    }
}

#[derive(Deserialize)]
struct RawRequest<'a> {
    #[serde(rename = "operationId")]
    operation: String,
    #[serde(borrow)]
    input: &'a RawValue,
    #[serde(default)]
    auth_token: Option<String>,
    #[serde(default)]
    forwarded_for: Vec<Identity>,
    #[serde(default)]
    timeout_ms: Option<u64>,
}

#[derive(Deserialize)]
struct RawResponse<'a> {
    #[serde(borrow)]
    output: &'a RawValue,
    #[serde(default)]
    terminal: bool,
}

#[derive(Deserialize)]
struct RawError<'a> {
    #[serde(borrow)]
    code: Text<'a>,
    message: String,
    retryable: bool,
    #[serde(borrow, default)]
    details: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
struct RawAbort<'a> {
    #[serde(borrow, default)]
    policy: Option<&'a RawValue>,
    #[serde(default)]
    reason: Option<String>,
}

/// Reads one envelope out of a frame's content. Large values share the frame's
/// memory; small ones are copied, lest they keep a whole read buffer alive.
///
/// # Errors
/// What cannot be answered. A malformed request with a readable id can: it is
/// an [`Event::Requested`] that holds the error.
pub fn parse(frame: &Bytes) -> Result<Envelope, EnvelopeError> {
    let (id, event) = read(frame)?;
    Ok(Envelope { id: id.into_owned(), event })
}

/// As [`parse`], with the id borrowed where that is possible.
pub(crate) fn read(frame: &Bytes) -> Result<(Cow<'_, str>, Event), EnvelopeError> {
    let text = std::str::from_utf8(frame).map_err(EnvelopeError::NotText)?;
    let share = |value: &RawValue| {
        let value = value.get().as_bytes();
        Json::from_checked(if value.len() * 4 < frame.len().max(READ_CHUNK) {
            Bytes::copy_from_slice(value)
        } else {
            frame.slice_ref(value)
        })
    };
    let (id, event) = match usual(text) {
        Some((id, body)) => (Cow::Borrowed(id), body.event(share)),
        None => read_any(text, share)?,
    };
    if matches!(event, Event::Requested(_)) && !(1..=MAX_ID).contains(&id.len()) {
        return Err(EnvelopeError::BadId(id.len()));
    }
    Ok((id, event))
}

/// Requests and answers exactly as this library writes them, which most are.
/// Whether a value's text is one JSON value decides where it ends: text that only
/// looks usual is left to [`read_any`].
fn usual(text: &str) -> Option<(&str, Body<'_>)> {
    let rest = text.strip_prefix(r#"{"type":"call."#)?.strip_suffix("}}")?;
    if let Some(rest) = rest.strip_prefix(r#"responded","id":""#) {
        let (id, rest) = plain(rest)?;
        let output = serde_json::from_str(rest.strip_prefix(r#","payload":{"output":"#)?).ok()?;
        return Some((id, Body::Responded(RawResponse { output, terminal: false })));
    }
    let (id, rest) = plain(rest.strip_prefix(r#"requested","id":""#)?)?;
    let rest = rest.strip_prefix(r#","payload":{"operationId":""#)?;
    let (operation, rest) = plain(rest)?;
    let rest = rest.strip_prefix(r#","input":"#)?;
    let digits = rest.bytes().rev().take_while(u8::is_ascii_digit).count();
    let (before, digits) = rest.split_at(rest.len() - digits);
    let (input, timeout_ms) = match before.strip_suffix(r#","timeout_ms":"#) {
        Some(input) if digits == "0" || !digits.starts_with('0') => {
            (input, Some(digits.parse().ok()?))
        }
        _ => (rest, None),
    };
    let body = RawRequest {
        operation: operation.to_owned(),
        input: serde_json::from_str(input).ok()?,
        auth_token: None,
        forwarded_for: Vec::new(),
        timeout_ms,
    };
    Some((id, Body::Requested(body)))
}

/// The content of a string without escapes, and what follows its closing quote.
fn plain(text: &str) -> Option<(&str, &str)> {
    let end = text.bytes().position(|b| b == b'"' || b == b'\\' || b < 0x20)?;
    let rest = text[end..].strip_prefix('"')?;
    Some((&text[..end], rest))
}

/// One pass over what is well-formed and has its type before its payload; the
/// second look is for what the first does not understand.
fn read_any<'a>(
    text: &'a str,
    share: impl Fn(&RawValue) -> Json,
) -> Result<(Cow<'a, str>, Event), EnvelopeError> {
    match serde_json::from_str::<Typed<'_>>(text) {
        Ok(Typed { id, body }) => Ok((id.0, body.event(share))),
        Err(_) => read_slowly(text, share),
    }
}

/// As [`parse`], by the longest way.
pub(crate) fn parse_slowly(frame: &Bytes) -> Option<(String, Event)> {
    let share = |value: &RawValue| Json::from(value);
    let (id, event) = read_slowly(std::str::from_utf8(frame).ok()?, share).ok()?;
    Some((id.into_owned(), event))
}

fn read_slowly<'a>(
    text: &'a str,
    share: impl Fn(&RawValue) -> Json,
) -> Result<(Cow<'a, str>, Event), EnvelopeError> {
    let raw: RawEnvelope<'a> = serde_json::from_str(text)?;
    let payload = raw.payload.map_or("", RawValue::get);
    let event = match &*raw.kind.0 {
        "call.requested" => Event::Requested(
            serde_json::from_str(payload).map_err(malformed).and_then(|body| request(body, share)),
        ),
        "call.responded" => match serde_json::from_str(payload) {
            Ok(body) => Body::Responded(body).event(share),
            Err(_) => Event::Unparsable("call.responded"),
        },
        "call.completed" if payload.starts_with('{') => Event::Completed,
        "call.completed" => Event::Unparsable("call.completed"),
        // Whatever else it says, it says to stop.
        "call.aborted" => {
            Body::Aborted(serde_json::from_str(payload).unwrap_or_default()).event(share)
        }
        "call.error" => match serde_json::from_str(payload) {
            Ok(body) => Body::Error(body).event(share),
            Err(_) => Event::Unparsable("call.error"),
        },
        _ => Event::Unknown,
    };
    Ok((raw.id.0, event))
}

impl Body<'_> {
    fn event(self, share: impl Fn(&RawValue) -> Json) -> Event {
        match self {
            Self::Requested(body) => Event::Requested(request(body, share)),
            Self::Responded(body) => {
                Event::Responded { output: share(body.output), terminal: body.terminal }
            }
            Self::Completed => Event::Completed,
            Self::Aborted(body) => {
                let continues = body.policy.is_some_and(|p| p.get() == "\"continue-running\"");
                let policy = if continues {
                    AbortPolicy::ContinueRunning
                } else {
                    AbortPolicy::AbortDependents
                };
                Event::Aborted { policy, reason: body.reason }
            }
            Self::Error(body) => Event::Error(CallError {
                code: match code::lookup(&body.code.0) {
                    Some(known) => Cow::Borrowed(known),
                    None => Cow::Owned(body.code.0.into_owned()),
                },
                message: body.message,
                retryable: body.retryable,
                details: body.details.map(share),
            }),
            Self::Unknown => Event::Unknown,
        }
    }
}

/// Says what is wrong without quoting what was sent, which may be a token.
fn malformed(error: serde_json::Error) -> CallError {
    let text = error.to_string();
    CallError::invalid_input(if text.starts_with("missing field") {
        format!("malformed request: {text} of the payload")
    } else {
        let (line, column) = (error.line(), error.column());
        format!("malformed request: a wrong value at line {line} column {column} of the payload")
    })
}

fn request(body: RawRequest<'_>, share: impl Fn(&RawValue) -> Json) -> Result<Request, CallError> {
    if body.forwarded_for.len() > MAX_FORWARDED {
        return Err(CallError::invalid_input(format!(
            "forwarded_for has {} entries; at most {MAX_FORWARDED} are allowed",
            body.forwarded_for.len()
        )));
    }
    Ok(Request {
        input: share(body.input),
        operation: body.operation,
        auth_token: body.auth_token,
        forwarded_for: body.forwarded_for,
        timeout: body.timeout_ms.map(Duration::from_millis),
    })
}
