//! Envelopes: reading them without copying what is only passed on, and writing
//! them straight into a stream's buffer.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use alknet_plugin_api::{AbortPolicy, CallError, Identity, Json, code};
use bytes::{Bytes, BytesMut};
use serde::Deserialize;
use serde::de::{self, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::frame::READ_CHUNK;

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
#[derive(Clone, Debug)]
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
    // One pass over what is well-formed and has its fields in the usual order;
    // the second look is for what the first does not understand.
    let (id, event) = match serde_json::from_str::<Typed<'_>>(text) {
        Ok(Typed { id, body }) => (id.0, body.event(share)),
        Err(_) => read_slowly(text, share)?,
    };
    if matches!(event, Event::Requested(_)) && !(1..=MAX_ID).contains(&id.len()) {
        return Err(EnvelopeError::BadId(id.len()));
    }
    Ok((id, event))
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

/// Appends `call.requested`.
pub fn write_request(out: &mut BytesMut, id: &str, request: &Request) {
    let Request { operation, input, auth_token, forwarded_for, timeout } = request;
    let auth_token = auth_token.as_deref();
    write_call(out, id, operation, input, auth_token, forwarded_for, *timeout);
}

pub(crate) fn write_call(
    out: &mut BytesMut,
    id: &str,
    operation: &str,
    input: &Json,
    auth_token: Option<&str>,
    forwarded_for: &[Identity],
    timeout: Option<Duration>,
) {
    open(out, "call.requested", id);
    out.extend_from_slice(b"\"operationId\":");
    if operation.starts_with('/') {
        text(out, operation);
    } else {
        text(out, &format!("/{operation}"));
    }
    out.extend_from_slice(b",\"input\":");
    out.extend_from_slice(input.as_bytes());
    if let Some(token) = auth_token {
        out.extend_from_slice(b",\"auth_token\":");
        text(out, token);
    }
    if !forwarded_for.is_empty() {
        out.extend_from_slice(b",\"forwarded_for\":");
        // Identities hold strings alone, which JSON always can.
        out.extend_from_slice(&serde_json::to_vec(forwarded_for).unwrap_or_default());
    }
    if let Some(timeout) = timeout {
        let millis = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        out.extend_from_slice(b",\"timeout_ms\":");
        out.extend_from_slice(millis.to_string().as_bytes());
    }
    out.extend_from_slice(b"}}");
}

/// Appends `call.responded`.
pub fn write_response(out: &mut BytesMut, id: &str, output: &Json, terminal: bool) {
    open(out, "call.responded", id);
    out.extend_from_slice(b"\"output\":");
    out.extend_from_slice(output.as_bytes());
    out.extend_from_slice(if terminal { b",\"terminal\":true}}" } else { b"}}" });
}

/// Appends `call.completed`.
pub fn write_completed(out: &mut BytesMut, id: &str) {
    open(out, "call.completed", id);
    out.extend_from_slice(b"}}");
}

/// Appends `call.error`.
pub fn write_error(out: &mut BytesMut, id: &str, error: &CallError) {
    open(out, "call.error", id);
    out.extend_from_slice(b"\"code\":");
    text(out, &error.code);
    out.extend_from_slice(b",\"message\":");
    text(out, &error.message);
    out.extend_from_slice(b",\"retryable\":");
    out.extend_from_slice(if error.retryable { b"true" } else { b"false" });
    if let Some(details) = &error.details {
        out.extend_from_slice(b",\"details\":");
        out.extend_from_slice(details.as_bytes());
    }
    out.extend_from_slice(b"}}");
}

/// Appends `call.aborted`.
pub fn write_aborted(out: &mut BytesMut, id: &str, policy: AbortPolicy, reason: &str) {
    open(out, "call.aborted", id);
    out.extend_from_slice(match policy {
        AbortPolicy::AbortDependents => b"\"policy\":\"abort-dependents\",\"reason\":",
        AbortPolicy::ContinueRunning => b"\"policy\":\"continue-running\",\"reason\":".as_slice(),
    });
    text(out, reason);
    out.extend_from_slice(b"}}");
}

fn open(out: &mut BytesMut, kind: &str, id: &str) {
    out.extend_from_slice(b"{\"type\":\"");
    out.extend_from_slice(kind.as_bytes());
    out.extend_from_slice(b"\",\"id\":");
    text(out, id);
    out.extend_from_slice(b",\"payload\":{");
}

/// Appends a JSON string, in the common case without looking for escapes twice.
fn text(out: &mut BytesMut, value: &str) {
    if value.bytes().all(|b| b >= 0x20 && b != b'"' && b != b'\\') {
        out.extend_from_slice(b"\"");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\"");
    } else {
        out.extend_from_slice(serde_json::Value::from(value).to_string().as_bytes());
    }
}
