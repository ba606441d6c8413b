//! Writing envelopes straight into a stream's buffer.

use std::time::Duration;

use alknet_plugin_api::{AbortPolicy, CallError, Identity, Json};
use bytes::BytesMut;

use super::Request;

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

/// Appends an envelope of a type that no version of the protocol has.
pub(crate) fn write_nudge(out: &mut BytesMut) {
    open(out, "nudge", "nudge");
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
