//! Envelopes: reading them without copying what is only passed on, and writing
//! them straight into a stream's buffer.

use std::borrow::Cow;
use std::time::Duration;

use alknet_plugin_api::{AbortPolicy, CallError, Identity, Json, code};
use bytes::{Bytes, BytesMut};
use serde::Deserialize;
use serde_json::value::RawValue;

/// Most bytes of an id.
pub const MAX_ID: usize = 128;
/// Most entries of `forwarded_for`.
pub const MAX_FORWARDED: usize = 8;

/// An envelope that cannot be answered; the stream is reset with `BAD_ENVELOPE`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EnvelopeError {
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

#[derive(Deserialize)]
struct RawEnvelope<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    id: String,
    #[serde(borrow)]
    payload: Option<&'a RawValue>,
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
    code: Cow<'a, str>,
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

/// Reads one envelope out of a frame's content, which its JSON values share.
///
/// # Errors
/// What cannot be answered. A malformed request with a readable id can: it is
/// an [`Event::Requested`] that holds the error.
pub fn parse(frame: &Bytes) -> Result<Envelope, EnvelopeError> {
    let raw: RawEnvelope<'_> = serde_json::from_slice(frame)?;
    let payload = raw.payload.map_or("", RawValue::get);
    let share = |value: &RawValue| Json::from_checked(frame.slice_ref(value.get().as_bytes()));
    let event = match &*raw.kind {
        "call.requested" => {
            if raw.id.is_empty() || raw.id.len() > MAX_ID {
                return Err(EnvelopeError::BadId(raw.id.len()));
            }
            Event::Requested(request(payload, share))
        }
        "call.responded" => match serde_json::from_str::<RawResponse<'_>>(payload) {
            Ok(body) => Event::Responded { output: share(body.output), terminal: body.terminal },
            Err(_) => Event::Unparsable("call.responded"),
        },
        "call.completed" => Event::Completed,
        "call.aborted" => {
            let body = serde_json::from_str::<RawAbort<'_>>(payload).unwrap_or_default();
            let continues = body.policy.is_some_and(|p| p.get() == "\"continue-running\"");
            let policy =
                if continues { AbortPolicy::ContinueRunning } else { AbortPolicy::AbortDependents };
            Event::Aborted { policy, reason: body.reason }
        }
        "call.error" => match serde_json::from_str::<RawError<'_>>(payload) {
            Ok(body) => Event::Error(CallError {
                code: match code::lookup(&body.code) {
                    Some(known) => Cow::Borrowed(known),
                    None => Cow::Owned(body.code.into_owned()),
                },
                message: body.message,
                retryable: body.retryable,
                details: body.details.map(share),
            }),
            Err(_) => Event::Unparsable("call.error"),
        },
        _ => Event::Unknown,
    };
    Ok(Envelope { id: raw.id, event })
}

fn request(payload: &str, share: impl Fn(&RawValue) -> Json) -> Result<Request, CallError> {
    let body: RawRequest<'_> = serde_json::from_str(payload)
        .map_err(|error| CallError::invalid_input(format!("malformed request: {error}")))?;
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
    open(out, "call.requested", id);
    out.extend_from_slice(b"\"operationId\":");
    if request.operation.starts_with('/') {
        text(out, &request.operation);
    } else {
        text(out, &format!("/{}", request.operation));
    }
    out.extend_from_slice(b",\"input\":");
    out.extend_from_slice(request.input.as_bytes());
    if let Some(token) = &request.auth_token {
        out.extend_from_slice(b",\"auth_token\":");
        text(out, token);
    }
    if !request.forwarded_for.is_empty() {
        out.extend_from_slice(b",\"forwarded_for\":");
        // Identities hold strings alone, which JSON always can.
        out.extend_from_slice(&serde_json::to_vec(&request.forwarded_for).unwrap_or_default());
    }
    if let Some(timeout) = request.timeout {
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
