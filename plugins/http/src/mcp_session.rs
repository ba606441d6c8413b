//! Sessions of MCP: what lets a client cancel a request by a notification.
//!
//! Clients of versions before 2026-07-28 cancel so. The notification is a request of
//! its own and names the one that it means by a number, and every client counts from
//! zero. Hence each client gets a random name, the session. Nothing is kept for it
//! but its calls under way, each with the token that it came with: the name alone
//! cancels nobody else's.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use alknet_plugin_api::CallError;
use axum::body::Body;
use axum::extract::{Extension, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::future::{AbortHandle, abortable};
use http_body_util::BodyExt;
use rmcp::model::RequestId;
use serde::Deserialize;
use uuid::Uuid;

use crate::caller::Caller;
use crate::problem::Problem;

/// A session's name.
pub(crate) const SESSION: HeaderName = HeaderName::from_static("mcp-session-id");

/// The calls under way that a notification may cancel.
#[derive(Clone, Default)]
pub(crate) struct Sessions(Arc<Mutex<HashMap<Key, AbortHandle>>>);

/// Whose request it is, and which of theirs.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    session: String,
    token: Option<String>,
    request: RequestId,
}

impl Key {
    fn new(headers: &HeaderMap, caller: &Caller, request: RequestId) -> Option<Self> {
        let session = headers.get(SESSION)?.to_str().ok()?.to_owned();
        Some(Self { session, token: caller.token().map(str::to_owned), request })
    }
}

impl Sessions {
    fn calls(&self) -> MutexGuard<'_, HashMap<Key, AbortHandle>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs a call until it ends or is cancelled.
    pub(crate) async fn run<T>(
        &self,
        headers: &HeaderMap,
        caller: &Caller,
        request: RequestId,
        call: impl Future<Output = Result<T, CallError>>,
    ) -> Result<T, CallError> {
        let (call, handle) = abortable(call);
        let _listed = Key::new(headers, caller, request).and_then(|key| self.list(key, handle));
        call.await.unwrap_or_else(|_| Err(CallError::aborted("the client has cancelled the call")))
    }

    /// Lists a call, unless the client has given its number to another one.
    fn list(&self, key: Key, handle: AbortHandle) -> Option<Listed<'_>> {
        let mut calls = self.calls();
        if calls.contains_key(&key) {
            return None;
        }
        calls.insert(key.clone(), handle);
        Some(Listed { sessions: self, key })
    }

    fn cancel(&self, key: &Key) {
        if let Some(call) = self.calls().get(key) {
            call.abort();
        }
    }
}

/// A call that is listed until this is dropped.
struct Listed<'a> {
    sessions: &'a Sessions,
    key: Key,
}

impl Drop for Listed<'_> {
    fn drop(&mut self) {
        self.sessions.calls().remove(&self.key);
    }
}

/// What matters here of a message.
#[derive(Deserialize)]
#[serde(tag = "method")]
enum Message {
    #[serde(rename = "initialize")]
    Initialize,
    #[serde(rename = "notifications/cancelled")]
    Cancelled { params: Cancelled },
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Cancelled {
    request_id: RequestId,
}

/// Names a session for a client that initializes one, and has its cancellations
/// heard.
pub(crate) async fn follow(
    State(sessions): State<Sessions>,
    Extension(caller): Extension<Caller>,
    request: Request,
    next: Next,
) -> Response {
    let (parts, body) = request.into_parts();
    // The gate has read it as a whole.
    let body = match body.collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) => return Problem::malformed(error.to_string()).into_response(),
    };
    let message = serde_json::from_slice(&body).unwrap_or(Message::Other);
    if let Message::Cancelled { params: Cancelled { request_id } } = &message
        && let Some(key) = Key::new(&parts.headers, &caller, request_id.clone())
    {
        sessions.cancel(&key);
    }
    let mut response = next.run(Request::from_parts(parts, Body::from(body))).await;
    if matches!(message, Message::Initialize)
        && response.status() == StatusCode::OK
        && let Ok(name) = HeaderValue::from_str(&Uuid::new_v4().to_string())
    {
        response.headers_mut().insert(SESSION, name);
    }
    response
}
