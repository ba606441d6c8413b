//! Calls on behalf of whoever sent a request.
//!
//! A connection has one gateway, and each request a token of its own. Who that is
//! and what they may do is the host's decision, for every call anew.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use alknet_plugin_api::{
    CallError, Gateway, GatewayCall, GatewayEvent, GatewayRequest, Json, OperationSpec,
    OperationSummary, OperationType, code,
};
use axum::http::StatusCode;
use futures_util::FutureExt;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::problem::Problem;

/// What the host says of a token that it does not know.
const INVALID_TOKEN: &str = "invalid token";

/// Operations whose type is remembered; the names come from callers.
const MAX_KINDS: usize = 4_096;

/// The other end of a connection.
#[derive(Clone)]
pub(crate) struct Peer {
    gateway: Arc<dyn Gateway>,
    requests: Arc<AtomicU64>,
}

impl Peer {
    pub(crate) fn new(gateway: Arc<dyn Gateway>) -> Self {
        Self { gateway, requests: Arc::default() }
    }
}

/// Types of operations, by name. The host alone knows who may learn of one, so
/// this only spares questions whose answer would change nothing.
#[derive(Default)]
pub(crate) struct Kinds(Mutex<HashMap<String, OperationType>>);

impl Kinds {
    fn get(&self, name: &str) -> Option<OperationType> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(name).copied()
    }

    fn put(&self, name: &str, kind: Option<OperationType>) {
        let mut kinds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match kind {
            Some(kind) if kinds.len() < MAX_KINDS => drop(kinds.insert(name.to_owned(), kind)),
            Some(_) => kinds.clear(),
            None => drop(kinds.remove(name)),
        }
    }
}

/// Whether each of these words, in lower case, is somewhere in an operation's summary.
fn has(summary: &OperationSummary, words: &[String]) -> bool {
    let OperationSummary { name, description, tags, .. } = summary;
    let text = format!("{name} {description} {}", tags.join(" ")).to_lowercase();
    words.iter().all(|word| text.contains(word))
}

/// What a search finds.
#[derive(Debug, Serialize)]
pub(crate) struct Found {
    /// The first ones, by name.
    pub(crate) operations: Vec<OperationSummary>,
    /// How many there are.
    pub(crate) total: usize,
}

/// One call to make.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Request {
    /// The operation's name; one leading slash is allowed.
    pub(crate) operation: String,
    /// Its input.
    pub(crate) input: Json,
}

/// The sender of one request.
#[derive(Clone)]
pub(crate) struct Caller {
    peer: Peer,
    kinds: Arc<Kinds>,
    token: Option<String>,
    timeout: Option<Duration>,
}

impl Caller {
    pub(crate) fn new(
        peer: Peer,
        kinds: Arc<Kinds>,
        token: Option<String>,
        timeout: Option<Duration>,
    ) -> Self {
        Self { peer, kinds, token, timeout }
    }

    /// The token that came with the request.
    pub(crate) fn token(&self) -> Option<&str> {
        self.token.as_deref()
    }

    fn dispatch(&self, operation: &str, input: Json) -> GatewayCall {
        let number = self.peer.requests.fetch_add(1, Ordering::Relaxed);
        self.peer.gateway.dispatch(GatewayRequest {
            request_id: format!("http-{number}"),
            operation: operation.to_owned(),
            input,
            auth_token: self.token.clone(),
            forwarded_for: Vec::new(),
            timeout: self.timeout,
            remote_addr: None,
        })
    }

    /// The only answer of an operation that gives one.
    async fn ask(&self, operation: &str, input: impl Into<Json>) -> Result<Json, CallError> {
        let mut call = self.dispatch(operation, input.into());
        match call.next().await {
            // A call has ended with its answer. Anything else to come, now or later,
            // is a subscription's.
            Some(GatewayEvent::Responded(output)) if ended(&mut call) => Ok(output),
            Some(GatewayEvent::Responded(_) | GatewayEvent::Completed) => {
                self.kinds.put(bare(operation), None);
                Err(mismatch(operation, false))
            }
            Some(GatewayEvent::Error(error)) => Err(error),
            None => Err(CallError::internal("the call ended without an answer")),
        }
    }

    /// Whether the operation is of the type that is asked for, as far as the
    /// caller may know. What it may not know, the call itself will say.
    async fn expect(&self, operation: &str, subscription: bool) -> Result<(), CallError> {
        let fits = |kind: OperationType| (kind == OperationType::Subscription) == subscription;
        if self.kinds.get(bare(operation)).is_some_and(fits) {
            return Ok(());
        }
        match self.spec(operation).await {
            Ok(spec) if fits(spec.op_type) => Ok(()),
            Ok(_) => Err(mismatch(operation, subscription)),
            Err(error) if error.code == code::NOT_FOUND => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Calls a query or mutation. Dropping the future aborts the call.
    pub(crate) async fn call(&self, request: Request) -> Result<Json, CallError> {
        self.expect(&request.operation, false).await?;
        self.ask(&request.operation, request.input).await
    }

    /// Starts a subscription. Dropping it aborts.
    pub(crate) async fn subscribe(&self, request: Request) -> Result<GatewayCall, CallError> {
        self.expect(&request.operation, true).await?;
        Ok(self.dispatch(&request.operation, request.input))
    }

    /// The declaration of an operation that the caller may call.
    pub(crate) async fn schema(&self, name: &str) -> Result<Json, CallError> {
        self.ask("services/schema", json!({ "name": name })).await
    }

    async fn spec(&self, name: &str) -> Result<OperationSpec, CallError> {
        let text = self.schema(name).await?;
        let spec: OperationSpec =
            text.to().map_err(|error| CallError::internal(error.to_string()))?;
        self.kinds.put(&spec.name, Some(spec.op_type));
        Ok(spec)
    }

    /// What the caller may call, in short or in full.
    async fn listing<T: DeserializeOwned>(&self, full: bool) -> Result<Vec<T>, CallError> {
        #[derive(Deserialize)]
        struct Listing<T> {
            operations: Vec<T>,
        }
        let listing = self.ask("services/list", json!({ "full": full })).await?;
        let listing: Listing<T> =
            listing.to().map_err(|error| CallError::internal(error.to_string()))?;
        Ok(listing.operations)
    }

    /// The operations that the caller may call and that have all words of `text`,
    /// those of `kind` alone.
    pub(crate) async fn search(
        &self,
        text: &str,
        limit: usize,
        kind: impl Fn(OperationType) -> bool,
    ) -> Result<Found, CallError> {
        let words: Vec<_> = text.split_whitespace().map(str::to_lowercase).collect();
        let mut operations: Vec<OperationSummary> = self.listing(false).await?;
        operations.retain(|one| kind(one.op_type) && has(one, &words));
        let total = operations.len();
        operations.truncate(limit);
        Ok(Found { operations, total })
    }

    /// The declarations of everything that the caller may call.
    pub(crate) async fn specs(&self) -> Result<Vec<OperationSpec>, CallError> {
        self.listing(true).await
    }

    /// The text of the node's metrics.
    pub(crate) async fn metrics(&self) -> Result<String, CallError> {
        #[derive(Deserialize)]
        struct Metrics {
            text: String,
        }
        let metrics = self.ask("node/metrics", Json::empty_object()).await?;
        let metrics: Metrics =
            metrics.to().map_err(|error| CallError::internal(error.to_string()))?;
        Ok(metrics.text)
    }

    /// Whether the request's token stands for somebody, if one came.
    pub(crate) async fn authenticate(&self) -> Result<(), Problem> {
        if self.token.is_none() {
            return Ok(());
        }
        match self.ask("services/whoami", Json::empty_object()).await {
            Ok(_) => Ok(()),
            Err(error) => Err(self.problem("services/whoami", error).await),
        }
    }

    /// Whether the caller is somebody, where no token says so.
    async fn known(&self) -> bool {
        #[derive(Deserialize)]
        struct Whoami {
            identity: Option<alknet_plugin_api::Identity>,
        }
        let answer = self.ask("services/whoami", Json::empty_object()).await;
        answer.is_ok_and(|who| who.to::<Whoami>().is_ok_and(|who| who.identity.is_some()))
    }

    /// The problem that an error of this operation is shown as.
    pub(crate) async fn problem(&self, operation: &str, error: CallError) -> Problem {
        if error.code == code::FORBIDDEN {
            return match &self.token {
                Some(_) if error.message == INVALID_TOKEN => Problem::invalid_token(INVALID_TOKEN),
                None if !self.known().await => Problem::unauthenticated(error),
                _ => Problem::of_call(StatusCode::FORBIDDEN, error),
            };
        }
        let undeclared = OperationSpec::query("");
        let spec = match code::is_protocol(&error.code) || error.code.starts_with("HTTP_") {
            true => undeclared,
            false => self.spec(operation).await.unwrap_or(undeclared),
        };
        let status = StatusCode::from_u16(spec.http_status(&error.code));
        // A status below 400 is no error's: an upstream redirect, at most.
        let status = status.ok().filter(|status| status.as_u16() >= 400);
        Problem::of_call(status.unwrap_or(StatusCode::BAD_GATEWAY), error)
    }
}

/// Whether nothing more will come.
fn ended(call: &mut GatewayCall) -> bool {
    matches!(call.next().now_or_never(), Some(None))
}

/// The name without its one leading slash.
fn bare(operation: &str) -> &str {
    operation.strip_prefix('/').unwrap_or(operation)
}

/// The operation is of the other type.
fn mismatch(operation: &str, subscription: bool) -> CallError {
    let text = match subscription {
        true => "is no subscription; call it instead",
        false => "is a subscription; subscribe to it instead",
    };
    CallError::new(code::INVALID_OPERATION_TYPE, format!("`{}` {text}", bare(operation)))
}
