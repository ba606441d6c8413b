//! One call: who made it, under which rights, until when.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use alknet_plugin_api::backend::ContextBackend;
use alknet_plugin_api::{
    AbortPolicy, CallFuture, Capability, ContextInfo, Identity, OperationContext, OperationEnv,
    OwnershipRequest,
};
use futures_util::future::BoxFuture;

use super::Registry;
use super::cancel::{Node, State};
use super::env::LocalEnv;
use super::spec::{Entry, HostCall, ScopedPeerEnv};

/// Who set a call tree off. It serves audit and forwarding, never access.
#[derive(Debug, Default)]
pub(crate) struct Origin {
    pub(crate) caller: Option<Arc<Identity>>,
    /// The caller's claim, end user first.
    pub(crate) forwarded_for: Vec<Identity>,
}

/// One call under way. Its handler's context and env are handles to it.
pub(crate) struct Call {
    pub(crate) registry: Arc<Registry>,
    /// `None` for the unseen root of what a plugin composes outside any call.
    pub(crate) entry: Option<Arc<Entry>>,
    pub(crate) node: Arc<Node>,
    pub(crate) parent: Option<Arc<Call>>,
    /// A root's id comes from the wire; others get theirs when asked for it.
    pub(crate) request_id: OnceLock<String>,
    /// Whose rights admitted the call.
    pub(crate) identity: Option<Arc<Identity>>,
    /// Whose rights its own calls are checked against.
    pub(crate) authority: Option<Arc<Identity>>,
    pub(crate) origin: Arc<Origin>,
    /// On the registry's clock.
    pub(crate) deadline: Option<Duration>,
    pub(crate) started: Duration,
    /// Calls above this one.
    pub(crate) depth: u32,
    pub(crate) internal: bool,
    /// Whether a call of a limited plugin waits for this one.
    pub(crate) nested: bool,
    /// What the call may name instead of its entry's env, where it has no entry.
    pub(crate) plugin_env: Option<Arc<super::Grant>>,
}

impl Call {
    pub(crate) fn request_id(&self) -> &str {
        self.request_id.get_or_init(|| uuid::Uuid::new_v4().to_string())
    }

    pub(crate) fn scoped_env(&self) -> Option<&ScopedPeerEnv> {
        match (&self.entry, &self.plugin_env) {
            (Some(entry), _) => Some(&entry.scoped_env),
            (None, Some(grant)) => Some(&grant.scoped_env),
            (None, None) => None,
        }
    }

    /// The operation's name; empty outside any call.
    pub(crate) fn operation(&self) -> &str {
        self.entry.as_ref().map_or("", |entry| &entry.spec.name)
    }

    /// Whether a confined instance runs this call while another waits for it.
    pub(crate) fn is_confined_within_another(&self) -> bool {
        self.nested && self.entry.as_ref().is_some_and(|entry| entry.limited)
    }

    pub(crate) fn context(self: &Arc<Self>) -> OperationContext {
        OperationContext::from_backend(Arc::new(Context(self.clone())))
    }

    fn info(&self) -> ContextInfo {
        let parent = self.parent.as_ref().filter(|parent| parent.entry.is_some());
        let owned = |identity: &Option<Arc<Identity>>| identity.as_deref().cloned();
        ContextInfo {
            request_id: self.request_id().to_owned(),
            parent_request_id: parent.map(|parent| parent.request_id().to_owned()),
            operation: self.operation().to_owned(),
            identity: owned(&self.identity),
            handler_identity: owned(&self.authority),
            forwarded_for: if self.internal {
                Vec::new()
            } else {
                self.origin.forwarded_for.clone()
            },
            origin: owned(&self.origin.caller),
            abort_policy: self.node.policy(),
            internal: self.internal,
        }
    }

    fn remaining(&self) -> Option<Duration> {
        self.deadline.map(|deadline| deadline.saturating_sub(self.registry.clock.now()))
    }
}

/// A call as its handler sees it.
struct Context(Arc<Call>);

impl ContextBackend for Context {
    fn info(&self) -> Arc<ContextInfo> {
        Arc::new(self.0.info())
    }

    fn remaining(&self) -> Option<Duration> {
        self.0.remaining()
    }

    fn is_cancelled(&self) -> bool {
        matches!(self.0.node.state(), State::Aborted | State::TimedOut)
    }

    fn cancelled(&self) -> BoxFuture<'static, ()> {
        Box::pin(self.0.node.cancelled())
    }

    fn env(&self) -> Arc<dyn OperationEnv> {
        Arc::new(LocalEnv::new(self.0.clone()))
    }

    fn capability(&self, name: &str) -> Option<Capability> {
        self.0.entry.as_ref()?.capabilities.get(name).cloned()
    }

    fn is_nested(&self) -> bool {
        self.0.nested
    }

    fn ownership(&self, request: OwnershipRequest) -> CallFuture {
        self.0.ownership(request)
    }
}

impl HostCall {
    /// What a plugin would see.
    pub fn context(&self) -> OperationContext {
        self.0.context()
    }

    /// Time left before the deadline; `None` without one.
    pub fn remaining(&self) -> Option<Duration> {
        self.0.remaining()
    }

    /// Once the call is aborted: the policy in force, for carrying the abort to
    /// another node.
    pub fn abort_policy(&self) -> AbortPolicy {
        self.0.node.abort_in_force()
    }

    /// Who set the call tree off: the caller's claim, end user first, and then
    /// the caller itself. This is what a request to another node carries as
    /// `forwarded_for`.
    pub fn origin_chain(&self) -> Vec<Identity> {
        let origin = &self.0.origin;
        origin.forwarded_for.iter().chain(origin.caller.as_deref()).cloned().collect()
    }
}
