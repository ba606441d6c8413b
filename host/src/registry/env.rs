//! Composition: the operations that a call's handler, or a plugin, can reach.

use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use alknet_plugin_api::{
    AbortPolicy, CallError, CallFuture, CallStream, Json, OperationEnv, PeerRef,
};
use futures_util::{Stream, StreamExt};

use super::call::{Call, Origin};
use super::cancel::{End, Node};
use super::dispatch::{ChildRequest, bare_name};
use super::relay;
use super::running::Event;
use super::{Grant, Registry, peers};

/// The env of one call. What it starts is checked against the authority of the
/// call's operation.
pub(crate) struct LocalEnv {
    call: Arc<Call>,
}

impl LocalEnv {
    pub(crate) fn new(call: Arc<Call>) -> Self {
        Self { call }
    }

    fn once(&self, request: ChildRequest) -> CallFuture {
        Box::pin(Composed::new(self.call.clone(), request, false))
    }

    fn stream(&self, name: &str, input: Json, policy: Option<AbortPolicy>) -> CallStream {
        let request =
            ChildRequest { name: name.to_owned(), input, policy, peer: None, subscription: true };
        Composed::new(self.call.clone(), request, false).boxed()
    }
}

fn once(
    name: &str,
    input: Json,
    policy: Option<AbortPolicy>,
    peer: Option<PeerRef>,
) -> ChildRequest {
    ChildRequest { name: name.to_owned(), input, policy, peer, subscription: false }
}

impl OperationEnv for LocalEnv {
    fn invoke(&self, name: &str, input: Json) -> CallFuture {
        self.once(once(name, input, None, None))
    }

    fn invoke_with_policy(&self, name: &str, input: Json, policy: AbortPolicy) -> CallFuture {
        self.once(once(name, input, Some(policy), None))
    }

    fn subscribe(&self, name: &str, input: Json) -> CallStream {
        self.stream(name, input, None)
    }

    fn subscribe_with_policy(&self, name: &str, input: Json, policy: AbortPolicy) -> CallStream {
        self.stream(name, input, Some(policy))
    }

    fn invoke_peer(&self, peer: PeerRef, name: &str, input: Json) -> CallFuture {
        self.once(once(name, input, None, Some(peer)))
    }

    fn contains(&self, name: &str) -> bool {
        self.call.registry.in_reach(&self.call, bare_name(name)).is_some()
    }

    fn peer_contains(&self, peer: &PeerRef, name: &str) -> bool {
        let source = self.call.registry.peers.as_deref();
        self.call
            .scoped_env()
            .is_some_and(|env| peers::resolve(source, env, peer, bare_name(name)).is_ok())
    }
}

/// The env of a plugin outside any call. Each call made through it is a tree
/// of its own, with nobody as its origin.
struct PluginEnv {
    registry: Arc<Registry>,
    grant: Arc<Grant>,
}

impl PluginEnv {
    /// The unseen root of one call. It ends with the call.
    fn root(&self) -> Arc<Call> {
        Arc::new(Call {
            registry: self.registry.clone(),
            entry: None,
            node: Node::root(),
            parent: None,
            request_id: OnceLock::new(),
            identity: None,
            authority: self.grant.authority.clone(),
            origin: Arc::new(Origin::default()),
            deadline: None,
            started: self.registry.clock.now(),
            depth: 0,
            internal: true,
            nested: self.grant.limited,
            plugin_env: Some(self.grant.clone()),
        })
    }

    fn call(&self, request: ChildRequest) -> Composed {
        Composed::new(self.root(), request, true)
    }

    fn stream(&self, name: &str, input: Json, policy: Option<AbortPolicy>) -> CallStream {
        let request =
            ChildRequest { name: name.to_owned(), input, policy, peer: None, subscription: true };
        self.call(request).boxed()
    }
}

impl OperationEnv for PluginEnv {
    fn invoke(&self, name: &str, input: Json) -> CallFuture {
        Box::pin(self.call(once(name, input, None, None)))
    }

    fn invoke_with_policy(&self, name: &str, input: Json, policy: AbortPolicy) -> CallFuture {
        Box::pin(self.call(once(name, input, Some(policy), None)))
    }

    fn subscribe(&self, name: &str, input: Json) -> CallStream {
        self.stream(name, input, None)
    }

    fn subscribe_with_policy(&self, name: &str, input: Json, policy: AbortPolicy) -> CallStream {
        self.stream(name, input, Some(policy))
    }

    fn invoke_peer(&self, peer: PeerRef, name: &str, input: Json) -> CallFuture {
        Box::pin(self.call(once(name, input, None, Some(peer))))
    }

    fn contains(&self, name: &str) -> bool {
        LocalEnv::new(self.root()).contains(name)
    }

    fn peer_contains(&self, peer: &PeerRef, name: &str) -> bool {
        LocalEnv::new(self.root()).peer_contains(peer, name)
    }
}

impl Registry {
    /// Composition under a plugin's own authority, outside any call: what
    /// [`RegistryBuilder::grant`](super::RegistryBuilder::grant) gave it. A
    /// plugin without a grant reaches nothing.
    pub fn plugin_env(self: &Arc<Self>, plugin: &str) -> Arc<dyn OperationEnv> {
        let grant = self.grants.get(plugin).cloned().unwrap_or_default();
        Arc::new(PluginEnv { registry: self.clone(), grant })
    }
}

/// A composed call. It starts when first polled: until then, an abort of its
/// parent makes it `ABORTED`.
struct Composed {
    parent: Arc<Call>,
    stage: Stage,
    /// Whether the parent exists for this call alone and ends with it.
    owns_parent: bool,
}

enum Stage {
    Unstarted(ChildRequest),
    Started(relay::Started),
    Ended,
}

impl Composed {
    fn new(parent: Arc<Call>, request: ChildRequest, owns_parent: bool) -> Self {
        Self { parent, stage: Stage::Unstarted(request), owns_parent }
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        if matches!(self.stage, Stage::Unstarted(_))
            && let Stage::Unstarted(request) = std::mem::replace(&mut self.stage, Stage::Ended)
        {
            match self.parent.registry.start_child(&self.parent, request) {
                Ok(running) => {
                    let depth = self.parent.depth + 1;
                    self.stage = Stage::Started(relay::Started::composed(running, depth));
                }
                Err(error) => return Poll::Ready(Some(Event::Failed(error))),
            }
        }
        match &mut self.stage {
            Stage::Started(call) => call.poll_event(cx),
            Stage::Unstarted(_) | Stage::Ended => Poll::Ready(None),
        }
    }
}

impl Future for Composed {
    type Output = Result<Json, CallError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let event = ready!(self.poll_event(cx));
        self.stage = Stage::Ended;
        Poll::Ready(match event {
            Some(Event::Answer(output) | Event::Item(output)) => Ok(output),
            Some(Event::Failed(error)) => Err(error),
            // The task that ran it was dropped with the node's runtime.
            Some(Event::Completed) | None => Err(CallError::aborted("the call was dropped")),
        })
    }
}

impl Stream for Composed {
    type Item = Result<Json, CallError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let item = match ready!(self.poll_event(cx)) {
            Some(Event::Answer(output) | Event::Item(output)) => {
                return Poll::Ready(Some(Ok(output)));
            }
            Some(Event::Failed(error)) => Some(Err(error)),
            Some(Event::Completed) | None => None,
        };
        self.stage = Stage::Ended;
        Poll::Ready(item)
    }
}

impl Drop for Composed {
    fn drop(&mut self) {
        if self.owns_parent {
            // Dropping the call below aborts it by name; the root goes with it.
            self.stage = Stage::Ended;
            self.parent.node.close(End::Done);
        }
    }
}
