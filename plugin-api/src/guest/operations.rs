//! Calls: the context of one that is answered, the environment to make others.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream;

use super::bindings::alknet::plugin::{capabilities, operations as wit, types};
use super::local::{Local, boxed};
use crate::backend::ContextBackend;
use crate::context::{AbortPolicy, ContextInfo, OperationEnv, PeerRef};
use crate::error::CallError;
use crate::host::{Capability, CapabilityBackend, CapabilityKind};
use crate::http::{HttpFuture, HttpRequest, HttpResponse};
use crate::json::Json;
use crate::operation::{CallFuture, CallStream};
use crate::ownership::OwnershipRequest;

/// The call being answered.
pub(super) struct GuestContext(Local<Rc<wit::Context>>);

impl GuestContext {
    pub(super) fn new(resource: wit::Context) -> Self {
        Self(Local(Rc::new(resource)))
    }

    pub(super) fn resource(&self) -> Rc<wit::Context> {
        self.0.clone()
    }
}

impl ContextBackend for GuestContext {
    fn info(&self) -> Arc<ContextInfo> {
        let info = serde_json::from_str(&self.0.info())
            .unwrap_or_else(|error| panic!("the host's call context: {error}"));
        Arc::new(info)
    }

    fn remaining(&self) -> Option<Duration> {
        self.0.remaining().map(Duration::from_nanos)
    }

    fn is_cancelled(&self) -> bool {
        self.0.is_cancelled()
    }

    fn cancelled(&self) -> BoxFuture<'static, ()> {
        let context = self.resource();
        boxed(async move { context.cancelled().await })
    }

    fn env(&self) -> Arc<dyn OperationEnv> {
        Arc::new(GuestEnv::new(self.0.env()))
    }

    fn capability(&self, name: &str) -> Option<Capability> {
        self.0.capability(name).map(capability)
    }

    fn ownership(&self, request: OwnershipRequest) -> CallFuture {
        let context = self.resource();
        boxed(async move {
            let request = serde_json::to_string(&request)
                .map_err(|error| CallError::internal(error.to_string()))?;
            Ok(Json::from_checked(context.ownership(request).await?))
        })
    }
}

/// The operations within reach of a call, or of the plugin.
pub(super) struct GuestEnv(Local<Rc<wit::Environment>>);

impl GuestEnv {
    pub(super) fn new(resource: wit::Environment) -> Self {
        Self(Local(Rc::new(resource)))
    }

    fn call(&self, name: &str, input: Json, policy: Option<AbortPolicy>) -> CallFuture {
        let (env, name) = (self.0.clone(), name.to_owned());
        boxed(async move {
            let output = env.invoke(name, input.into_bytes().into(), policy.map(abi)).await?;
            Ok(Json::from_checked(output))
        })
    }

    fn stream(&self, name: &str, input: Json, policy: Option<AbortPolicy>) -> CallStream {
        let calls = self.0.subscribe(name, input.as_bytes(), policy.map(abi));
        let items = stream::unfold(Some(calls), |calls| async move {
            let calls = calls?;
            match calls.next().await? {
                Ok(item) => Some((Ok(Json::from_checked(item)), Some(calls))),
                Err(error) => Some((Err(CallError::from(error)), None)),
            }
        });
        Box::pin(LocalStream(Box::pin(items)))
    }
}

/// A stream of the imports' for the author's API.
struct LocalStream<S>(std::pin::Pin<Box<S>>);

// SAFETY: an instance has one thread; see `Local`.
#[allow(unsafe_code)]
unsafe impl<S> Send for LocalStream<S> {}

impl<S: futures_core::Stream> futures_core::Stream for LocalStream<S> {
    type Item = S::Item;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<S::Item>> {
        self.0.as_mut().poll_next(cx)
    }
}

/// Makes a stream of the imports' sendable.
pub(super) fn boxed_stream<S: futures_core::Stream + 'static>(
    stream: S,
) -> futures_core::stream::BoxStream<'static, S::Item> {
    Box::pin(LocalStream(Box::pin(stream)))
}

pub(super) fn abi(policy: AbortPolicy) -> types::AbortPolicy {
    match policy {
        AbortPolicy::AbortDependents => types::AbortPolicy::AbortDependents,
        AbortPolicy::ContinueRunning => types::AbortPolicy::ContinueRunning,
    }
}

fn abi_peer(peer: &PeerRef) -> wit::Peer {
    match peer {
        PeerRef::Specific(id) => wit::Peer::Specific(id.clone()),
        PeerRef::Any => wit::Peer::Any,
    }
}

impl OperationEnv for GuestEnv {
    fn invoke(&self, name: &str, input: Json) -> CallFuture {
        self.call(name, input, None)
    }

    fn invoke_with_policy(&self, name: &str, input: Json, policy: AbortPolicy) -> CallFuture {
        self.call(name, input, Some(policy))
    }

    fn subscribe(&self, name: &str, input: Json) -> CallStream {
        self.stream(name, input, None)
    }

    fn subscribe_with_policy(&self, name: &str, input: Json, policy: AbortPolicy) -> CallStream {
        self.stream(name, input, Some(policy))
    }

    fn invoke_peer(&self, peer: PeerRef, name: &str, input: Json) -> CallFuture {
        let (env, name) = (self.0.clone(), name.to_owned());
        boxed(async move {
            let output = env.invoke_peer(abi_peer(&peer), name, input.into_bytes().into()).await?;
            Ok(Json::from_checked(output))
        })
    }

    fn contains(&self, name: &str) -> bool {
        self.0.contains(name)
    }

    fn peer_contains(&self, peer: &PeerRef, name: &str) -> bool {
        self.0.peer_contains(&abi_peer(peer), name)
    }
}

struct GuestCapability(Local<Rc<capabilities::Capability>>, CapabilityKind);

/// A capability of the host's.
pub(super) fn capability(resource: capabilities::Capability) -> Capability {
    let kind = serde_json::from_value(resource.kind().into())
        .unwrap_or_else(|error| panic!("the host's capability: {error}"));
    Capability::new(Arc::new(GuestCapability(Local(Rc::new(resource)), kind)))
}

impl CapabilityBackend for GuestCapability {
    fn kind(&self) -> CapabilityKind {
        self.1
    }

    fn reveal(&self) -> Option<Bytes> {
        self.0.reveal().map(Bytes::from)
    }

    fn sign(&self, message: &[u8]) -> Option<[u8; 64]> {
        self.0.sign(message)?.try_into().ok()
    }

    fn send(&self, request: HttpRequest) -> HttpFuture {
        let capability = self.0.clone();
        boxed(async move {
            let HttpRequest { method, url, headers, body } = request;
            let body = body.into();
            let request = capabilities::HttpRequest { method, url, headers, body };
            let answer = capability.send(request).await?;
            let capabilities::HttpResponse { status, headers, body } = answer;
            Ok(HttpResponse { status, headers, body: body.into() })
        })
    }
}
