//! The one way to make a call: from the wire, and from another operation.
//!
//! Both ways take the same steps in the same order, and the first that fails
//! answers. They differ in whose rights are checked and in what may be named.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use alknet_plugin_api::{
    AbortPolicy, CallError, Identity, Json, OperationType, PeerRef, Visibility, code,
};
use serde_json::Value;

use super::Registry;
use super::access::{self, Allowed, Denied, Resource};
use super::call::{Call, Origin};
use super::cancel::{End, Node, Refused};
use super::limits::Limits;
use super::ownership::OwnershipProvider;
use super::peers;
use super::record::{AccessDecided, CallRefused};
use super::running::Running;
use super::spec::Entry;
use crate::budget::Place;

/// A name without the one leading slash that the wire puts there.
pub(crate) fn bare_name(name: &str) -> &str {
    name.strip_prefix('/').unwrap_or(name)
}

/// A request from the wire, once its envelope is known to be well-formed.
pub(crate) struct RootRequest {
    pub(crate) request_id: String,
    pub(crate) operation: String,
    pub(crate) input: Json,
    pub(crate) caller: Option<Arc<Identity>>,
    pub(crate) forwarded_for: Vec<Identity>,
    pub(crate) timeout: Option<Duration>,
    /// When it came, on the registry's clock.
    pub(crate) at: Duration,
}

/// What a composing handler asks for.
pub(crate) struct ChildRequest {
    pub(crate) name: String,
    pub(crate) input: Json,
    pub(crate) policy: Option<AbortPolicy>,
    pub(crate) peer: Option<PeerRef>,
    /// Whether the handler expects a subscription.
    pub(crate) subscription: bool,
}

/// An operation that may be called, with the call's place among those of its plugin.
type Admitted = (Arc<Entry>, Option<Place>);

impl Registry {
    /// Starts a call from the wire: everything up to its handler. The caller
    /// has been counted and resolved before.
    pub(crate) fn start_root(self: &Arc<Self>, request: RootRequest) -> Result<Running, CallError> {
        let name = bare_name(&request.operation);
        let started = request.at;
        let caller = request.caller.clone();
        let checked = self.check_root(name, &request);
        let ((entry, place), limits) = match checked {
            Ok(checked) => checked,
            Err(error) => {
                self.refused(name, &error, false, caller.as_deref());
                return Err(error);
            }
        };
        let timeout = match entry.spec.op_type {
            OperationType::Subscription => match (request.timeout, limits.max_subscription) {
                (Some(asked), Some(max)) => Some(asked.min(max)),
                (asked, max) => asked.or(max),
            },
            _ => Some(request.timeout.unwrap_or(limits.default_timeout).min(limits.max_timeout)),
        };
        let validate = entry.provenance.output_is_untrusted() || limits.validate_local_output;
        let call = Arc::new(Call {
            registry: self.clone(),
            node: Node::root(),
            parent: None,
            request_id: OnceLock::from(request.request_id),
            identity: request.caller.clone(),
            authority: entry.authority.clone(),
            origin: Arc::new(Origin {
                caller: request.caller,
                forwarded_for: request.forwarded_for,
            }),
            deadline: timeout.and_then(|timeout| started.checked_add(timeout)),
            started,
            depth: 0,
            internal: false,
            nested: false,
            plugin_env: None,
            entry: Some(entry),
        });
        Ok(Running::new(call, request.input, validate, place))
    }

    fn check_root(
        &self,
        name: &str,
        request: &RootRequest,
    ) -> Result<(Admitted, Arc<Limits>), CallError> {
        let limits = self.limits.load_full();
        let caller = request.caller.as_deref();
        if let Some(caller) = caller {
            self.spend(&limits, caller, &request.forwarded_for, request.at)?;
        }
        let entry = self
            .on_wire(name)
            .ok_or_else(|| CallError::not_found(format!("there is no operation `{name}`")))?;
        let decided = |decision: &Result<Allowed, Denied>| {
            if let Some(recorder) = &self.recorder {
                recorder.access_decided(&AccessDecided {
                    request_id: Some(&request.request_id),
                    operation: name,
                    subject: caller,
                    origin: caller,
                    forwarded_for: &request.forwarded_for,
                    internal: false,
                    decision,
                });
            }
        };
        self.check_input(&entry, caller, &request.input, None, decided)?;
        let place = entry.enter()?;
        Ok(((entry, place), limits))
    }

    /// Takes a call from the caller's bucket, and one from that of the end user
    /// whom it names. A claim can so be held against its maker, and against nobody
    /// else: the bucket belongs to both.
    fn spend(
        &self,
        limits: &Limits,
        caller: &Identity,
        forwarded_for: &[Identity],
        at: Duration,
    ) -> Result<(), CallError> {
        let slow_down = |wait: Duration| {
            CallError::new(code::RESOURCE_EXHAUSTED, "too many calls; slow down")
                .with_details(serde_json::json!({ "retry_after": wait.as_secs_f64().ceil() }))
        };
        if let Some(rate) = limits.rate {
            self.rates.take(&caller.id, rate, at).map_err(slow_down)?;
        }
        if let (Some(rate), Some(end_user)) = (limits.origin_rate, forwarded_for.first()) {
            let both = format!("{}\n{}", caller.id, end_user.id);
            self.rates.take(&both, rate, at).map_err(slow_down)?;
        }
        Ok(())
    }

    /// An operation that the wire can name.
    pub(crate) fn on_wire(&self, name: &str) -> Option<Arc<Entry>> {
        let entry = self.core.get(name).cloned().or_else(|| self.imports.get(name))?;
        (entry.spec.visibility == Visibility::External).then_some(entry)
    }

    /// Starts a call that another call's handler composes.
    pub(crate) fn start_child(
        self: &Arc<Self>,
        parent: &Arc<Call>,
        request: ChildRequest,
    ) -> Result<Running, CallError> {
        let limits = self.limits.load();
        let policy = request.policy.unwrap_or(parent.node.policy());
        let node =
            parent.node.child(policy, limits.live_descendants).map_err(|refused| match refused {
                Refused::Closed => CallError::aborted("the composing call has ended"),
                Refused::Full => CallError::new(
                    code::RESOURCE_EXHAUSTED,
                    "the call has too many live descendants",
                ),
            });
        let checked = node.and_then(|node| match self.check_child(parent, &request) {
            Ok((entry, place)) => Ok((node, entry, place)),
            Err(error) => {
                node.close(End::Done);
                Err(error)
            }
        });
        let (node, entry, place) = match checked {
            Ok(checked) => checked,
            Err(error) => {
                let caller = parent.authority.as_deref();
                self.refused(bare_name(&request.name), &error, true, caller);
                return Err(error);
            }
        };
        let started = self.clock.now();
        let deadline = match (parent.deadline, entry.spec.op_type) {
            (Some(deadline), _) => Some(deadline),
            (None, OperationType::Subscription) => {
                limits.max_subscription.and_then(|max| started.checked_add(max))
            }
            (None, _) => started.checked_add(limits.default_timeout),
        };
        let validate = entry.provenance.output_is_untrusted() || limits.validate_local_output;
        let call = Arc::new(Call {
            registry: self.clone(),
            node,
            parent: Some(parent.clone()),
            request_id: OnceLock::new(),
            identity: parent.authority.clone(),
            authority: entry.authority.clone(),
            origin: parent.origin.clone(),
            deadline,
            started,
            depth: parent.depth + 1,
            internal: true,
            nested: parent.nested || parent.entry.as_ref().is_some_and(|entry| entry.limited),
            plugin_env: None,
            entry: Some(entry),
        });
        Ok(Running::new(call, request.input, validate, place))
    }

    fn check_child(
        &self,
        parent: &Arc<Call>,
        request: &ChildRequest,
    ) -> Result<Admitted, CallError> {
        let name = bare_name(&request.name);
        let entry = match &request.peer {
            Some(peer) => match parent.scoped_env() {
                Some(env) => peers::resolve(self.peers.as_deref(), env, peer, name)?,
                None => return Err(out_of_reach(name)),
            },
            None => self.in_reach(parent, name).ok_or_else(|| out_of_reach(name))?,
        };
        let subject = parent.authority.as_deref();
        let decided = |decision: &Result<Allowed, Denied>| {
            if let Some(recorder) = &self.recorder {
                recorder.access_decided(&AccessDecided {
                    request_id: None,
                    operation: &entry.spec.name,
                    subject,
                    origin: parent.origin.caller.as_deref(),
                    forwarded_for: &parent.origin.forwarded_for,
                    internal: true,
                    decision,
                });
            }
        };
        let expected = Some(request.subscription);
        self.check_input(&entry, subject, &request.input, expected, decided)?;
        let place = entry.enter()?;
        Ok((entry, place))
    }

    /// The operation that `parent`'s handler means by `name`, if it may name it.
    pub(crate) fn in_reach(&self, parent: &Arc<Call>, name: &str) -> Option<Arc<Entry>> {
        if !parent.scoped_env()?.allowed_ops.contains(name) {
            return None;
        }
        if let Some(sessions) = &self.sessions
            && let Some(overlay) = sessions.overlay_for(&parent.context())
            && let Some(entry) = overlay.get(name)
        {
            return Some(entry);
        }
        self.imports.get(name).or_else(|| self.core.get(name).cloned())
    }

    /// Access, kind and input, in this order.
    fn check_input(
        &self,
        entry: &Entry,
        subject: Option<&Identity>,
        input: &Json,
        subscription: Option<bool>,
        decided: impl FnOnce(&Result<Allowed, Denied>),
    ) -> Result<(), CallError> {
        let mut parsed = None;
        let decision = match &entry.spec.resource_id_path {
            None => self.decide(entry, subject, Resource::Undeclared),
            Some(pointer) => {
                let value = input.to::<Value>().unwrap_or(Value::Null);
                let id = value.pointer(pointer).and_then(Value::as_str);
                let resource = id.map_or(Resource::Missing, Resource::Id);
                let decision = self.decide(entry, subject, resource);
                parsed = Some(value);
                decision
            }
        };
        decided(&decision);
        decision?;
        let is_subscription = entry.spec.op_type == OperationType::Subscription;
        if subscription.is_some_and(|expected| expected != is_subscription) {
            return Err(CallError::new(
                code::INVALID_OPERATION_TYPE,
                format!("operation `{}` is a {:?}", entry.spec.name, entry.spec.op_type),
            ));
        }
        if entry.input.accepts_anything() {
            return Ok(());
        }
        let value = match parsed {
            Some(value) => value,
            None => input.to().map_err(|error| {
                let message = error.to_string();
                CallError::invalid_input("the input cannot be read")
                    .with_details(serde_json::json!([{ "path": "", "message": message }]))
            })?,
        };
        entry.input.validate(&value).map_err(|violations| {
            CallError::invalid_input("the input violates the operation's schema")
                .with_details(serde_json::json!(violations))
        })
    }

    /// The access decision on an operation of this registry.
    pub(crate) fn decide(
        &self,
        entry: &Entry,
        subject: Option<&Identity>,
        resource: Resource<'_>,
    ) -> Result<Allowed, Denied> {
        let access = &entry.spec.access_control;
        let ownership = self.ownership.as_deref().map(|store| store as &dyn OwnershipProvider);
        access::decide(access, subject, resource, ownership)
    }

    pub(crate) fn refused(
        &self,
        operation: &str,
        error: &CallError,
        internal: bool,
        caller: Option<&Identity>,
    ) {
        if let Some(recorder) = &self.recorder {
            let caller = caller.map(|identity| &*identity.id);
            recorder.call_refused(&CallRefused { operation, code: &error.code, internal, caller });
        }
    }
}

fn out_of_reach(name: &str) -> CallError {
    CallError::not_found(format!("operation `{name}` is not in reach"))
}
