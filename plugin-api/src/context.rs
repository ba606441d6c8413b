//! What an operation's handler knows of its call, and how it calls on.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::backend::ContextBackend;
use crate::error::CallError;
use crate::host::Capability;
use crate::identity::Identity;
use crate::json::Json;
use crate::operation::{CallFuture, CallStream};
use crate::ownership::Ownership;

/// What happens to started descendants when a call is aborted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AbortPolicy {
    /// They are aborted too.
    #[default]
    AbortDependents,
    /// They finish; none start.
    ContinueRunning,
}

/// Which peer's operation [`OperationEnv::invoke_peer`] calls.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PeerRef {
    /// This peer, or `NOT_FOUND`.
    Specific(String),
    /// The first attached peer that offers the operation.
    Any,
}

/// The operations that a handler can reach. The host binds each to one call, so
/// that a plugin acts only as itself: inner calls are checked against the
/// authority that the deployment file grants the plugin, never against the
/// caller's scopes.
pub trait OperationEnv: Send + Sync {
    /// Calls a query or mutation. Dropping the future aborts the call.
    fn invoke(&self, name: &str, input: Json) -> CallFuture;
    /// As [`invoke`](OperationEnv::invoke), with a policy of its own.
    fn invoke_with_policy(&self, name: &str, input: Json, policy: AbortPolicy) -> CallFuture;
    /// Subscribes. Dropping the stream aborts the subscription.
    fn subscribe(&self, name: &str, input: Json) -> CallStream;
    /// As [`subscribe`](OperationEnv::subscribe), with a policy of its own.
    fn subscribe_with_policy(&self, name: &str, input: Json, policy: AbortPolicy) -> CallStream;
    /// Calls an operation that a connected peer serves.
    fn invoke_peer(&self, peer: PeerRef, name: &str, input: Json) -> CallFuture;
    /// Whether `name` is within reach.
    fn contains(&self, name: &str) -> bool;
    /// Whether `peer` offers `name` within reach.
    fn peer_contains(&self, peer: &PeerRef, name: &str) -> bool;
}

/// What does not change during a call.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContextInfo {
    /// The wire's id for a root call, a fresh UUID for a composed one.
    pub request_id: String,
    /// The composing call's id.
    pub parent_request_id: Option<String>,
    /// The operation's name, without a leading slash.
    pub operation: String,
    /// Whose rights admitted this call: the caller, or the composing plugin.
    pub identity: Option<Identity>,
    /// Whose rights this operation's own calls are checked against.
    pub handler_identity: Option<Identity>,
    /// Who a forwarding peer says it acts for, end user first. A claim.
    pub forwarded_for: Vec<Identity>,
    /// Who set the call tree off, for audit and rate limits; never for access.
    pub origin: Option<Identity>,
    /// What happens to this call's descendants on abort.
    pub abort_policy: AbortPolicy,
    /// Whether another operation composed this call.
    pub internal: bool,
}

/// One call, as its handler sees it. Only a host makes these:
///
/// ```compile_fail
/// use alknet_plugin_api::OperationContext;
/// let forged = OperationContext { internal: true };
/// ```
///
/// ```compile_fail
/// # // Constructors exist for hosts alone, behind the feature `host`.
/// use alknet_plugin_api::{ContextInfo, OperationContext};
/// fn forge(context: &mut OperationContext) { context.info().internal = true; }
/// ```
#[derive(Clone)]
pub struct OperationContext {
    backend: Arc<dyn ContextBackend>,
    info: Arc<OnceLock<Arc<ContextInfo>>>,
}

impl OperationContext {
    #[cfg(feature = "host")]
    /// Wraps a host's side of a call.
    pub fn from_backend(backend: Arc<dyn ContextBackend>) -> Self {
        Self::wrap(backend)
    }

    pub(crate) fn wrap(backend: Arc<dyn ContextBackend>) -> Self {
        Self { backend, info: Arc::default() }
    }

    /// The host's side.
    #[cfg(not(target_family = "wasm"))]
    pub(crate) fn backend(&self) -> &Arc<dyn ContextBackend> {
        &self.backend
    }

    /// What does not change during the call; fetched from the host at first use.
    pub fn info(&self) -> &ContextInfo {
        self.info.get_or_init(|| self.backend.info())
    }

    /// The wire's id for a root call, a fresh UUID for a composed one.
    pub fn request_id(&self) -> &str {
        &self.info().request_id
    }

    /// Whose rights admitted this call.
    pub fn identity(&self) -> Option<&Identity> {
        self.info().identity.as_ref()
    }

    /// Whether another operation composed this call.
    pub fn is_internal(&self) -> bool {
        self.info().internal
    }

    /// Time left before the deadline, `None` without one. The host enforces it.
    pub fn remaining(&self) -> Option<Duration> {
        self.backend.remaining()
    }

    /// Whether the call has been aborted. A handler's future is dropped then;
    /// work that it has moved elsewhere should look here.
    pub fn is_cancelled(&self) -> bool {
        self.backend.is_cancelled()
    }

    /// Resolves when the call is aborted or its deadline passes.
    pub async fn cancelled(&self) {
        self.backend.cancelled().await;
    }

    /// The operations within reach.
    pub fn env(&self) -> Arc<dyn OperationEnv> {
        self.backend.env()
    }

    /// Calls an operation under the plugin's own authority.
    ///
    /// # Errors
    /// The callee's, or `NOT_FOUND` when it is out of reach.
    pub async fn invoke(&self, name: &str, input: impl Into<Json>) -> Result<Json, CallError> {
        self.backend.env().invoke(name, input.into()).await
    }

    /// Subscribes under the plugin's own authority.
    pub fn subscribe(&self, name: &str, input: impl Into<Json>) -> CallStream {
        self.backend.env().subscribe(name, input.into())
    }

    /// Whether a confined instance waits for this call, for hosts to know.
    #[doc(hidden)]
    pub fn is_nested(&self) -> bool {
        self.backend.is_nested()
    }

    /// The owners of the plugin's resources.
    pub fn ownership(&self) -> Ownership {
        Ownership::new(self.backend.clone())
    }

    /// A capability that the deployment file grants this operation.
    pub fn capability(&self, name: &str) -> Option<Capability> {
        self.backend.capability(name)
    }
}

impl fmt::Debug for OperationContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OperationContext").field("info", self.info()).finish_non_exhaustive()
    }
}
