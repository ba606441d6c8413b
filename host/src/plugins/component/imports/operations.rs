//! Calls, and what a call's handler may reach.

use std::sync::Arc;
use std::task::{Poll, Waker};

use alknet_plugin_api::http::HttpRequest;
use alknet_plugin_api::{
    CallError, CallStream, Capability, Json, OperationContext, OperationEnv, PeerRef,
};
use futures_util::StreamExt;
use parking_lot::Mutex;
use wasmtime::Result;
use wasmtime::component::{Accessor, Resource};

use super::super::bindings::alknet::plugin::{capabilities, operations as wit, types};
use super::super::instance::State;
use super::{Imports, call_error, nanos, policy};

/// The operations within reach.
pub struct Environment(pub(super) Arc<dyn OperationEnv>);

/// A subscription that a component made; taken out while its next item is
/// awaited.
pub struct Items(Option<CallStream>);

/// Where a subscription's items leave the instance.
pub struct Sink(pub Arc<SinkSlot>);

/// Room for the one item on its way to the consumer.
#[derive(Default)]
pub struct SinkSlot(Mutex<Slot>);

#[derive(Default)]
struct Slot {
    item: Option<Vec<u8>>,
    sender: Option<Waker>,
}

impl SinkSlot {
    /// Takes the item, so that the next may come.
    pub(in super::super) fn take(&self) -> Option<Vec<u8>> {
        let mut slot = self.0.lock();
        let item = slot.item.take()?;
        if let Some(sender) = slot.sender.take() {
            sender.wake();
        }
        Some(item)
    }

    /// Resolves when the consumer has taken `item`.
    async fn send(&self, item: Vec<u8>) {
        let mut item = Some(item);
        std::future::poll_fn(|cx| {
            let mut slot = self.0.lock();
            if slot.item.is_none() {
                match item.take() {
                    Some(item) => slot.item = Some(item),
                    None => return Poll::Ready(()),
                }
            }
            slot.sender = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

/// JSON that a component sends. It is checked here: text that is passed on
/// unread must be what it says.
fn json(text: Vec<u8>) -> std::result::Result<Json, types::CallError> {
    Json::parse(text)
        .map_err(|error| call_error(alknet_plugin_api::CallError::invalid_input(error.to_string())))
}

fn peer(peer: wit::Peer) -> PeerRef {
    match peer {
        wit::Peer::Specific(id) => PeerRef::Specific(id),
        wit::Peer::Any => PeerRef::Any,
    }
}

impl wit::Host for State {}

impl wit::HostCallStream for State {
    fn drop(&mut self, stream: Resource<Items>) -> Result<()> {
        self.table.delete(stream)?;
        Ok(())
    }
}

impl wit::HostCallStreamWithStore<State> for Imports {
    async fn next(
        host: &Accessor<State, Self>,
        stream: Resource<Items>,
    ) -> Result<Option<std::result::Result<Vec<u8>, types::CallError>>> {
        let taken = host.with(|mut host| {
            Ok::<_, wasmtime::Error>(host.get().table.get_mut(&stream)?.0.take())
        })?;
        let Some(mut items) = taken else {
            return Err(wasmtime::format_err!("one item of a subscription at a time"));
        };
        let next = items.next().await;
        host.with(|mut host| {
            // Dropped meanwhile, it is gone for good.
            if let Ok(entry) = host.get().table.get_mut(&stream) {
                entry.0 = Some(items);
            }
        });
        Ok(next.map(|item| item.map(|json| json.into_bytes().into()).map_err(call_error)))
    }
}

impl wit::HostEnvironment for State {
    fn subscribe(
        &mut self,
        env: Resource<Environment>,
        name: String,
        input: Vec<u8>,
        abort: Option<types::AbortPolicy>,
    ) -> Result<Resource<Items>> {
        let env = self.table.get(&env)?.0.clone();
        let items: CallStream = match (json(input), abort) {
            (Ok(input), Some(abort)) => env.subscribe_with_policy(&name, input, policy(abort)),
            (Ok(input), None) => env.subscribe(&name, input),
            (Err(error), _) => {
                let error = super::super::calls::call_error(error);
                futures_util::stream::once(async move { Err(error) }).boxed()
            }
        };
        Ok(self.table.push(Items(Some(items)))?)
    }

    fn contains(&mut self, env: Resource<Environment>, name: String) -> Result<bool> {
        Ok(self.table.get(&env)?.0.contains(&name))
    }

    fn peer_contains(
        &mut self,
        env: Resource<Environment>,
        who: wit::Peer,
        name: String,
    ) -> Result<bool> {
        Ok(self.table.get(&env)?.0.peer_contains(&peer(who), &name))
    }

    fn drop(&mut self, env: Resource<Environment>) -> Result<()> {
        self.table.delete(env)?;
        Ok(())
    }
}

type Answer = Result<std::result::Result<Vec<u8>, types::CallError>>;

impl wit::HostEnvironmentWithStore<State> for Imports {
    async fn invoke(
        host: &Accessor<State, Self>,
        env: Resource<Environment>,
        name: String,
        input: Vec<u8>,
        abort: Option<types::AbortPolicy>,
    ) -> Answer {
        let env = environment(host, &env)?;
        let input = match json(input) {
            Ok(input) => input,
            Err(error) => return Ok(Err(error)),
        };
        let answer = match abort {
            Some(abort) => env.invoke_with_policy(&name, input, policy(abort)).await,
            None => env.invoke(&name, input).await,
        };
        Ok(answer.map(|output| output.into_bytes().into()).map_err(call_error))
    }

    async fn invoke_peer(
        host: &Accessor<State, Self>,
        env: Resource<Environment>,
        who: wit::Peer,
        name: String,
        input: Vec<u8>,
    ) -> Answer {
        let env = environment(host, &env)?;
        let input = match json(input) {
            Ok(input) => input,
            Err(error) => return Ok(Err(error)),
        };
        let answer = env.invoke_peer(peer(who), &name, input).await;
        Ok(answer.map(|output| output.into_bytes().into()).map_err(call_error))
    }
}

fn environment(
    host: &Accessor<State, Imports>,
    env: &Resource<Environment>,
) -> Result<Arc<dyn OperationEnv>> {
    host.with(|mut host| Ok(host.get().table.get(env)?.0.clone()))
}

impl wit::HostContext for State {
    fn info(&mut self, context: Resource<OperationContext>) -> Result<String> {
        Ok(serde_json::to_string(self.table.get(&context)?.info())?)
    }

    fn remaining(&mut self, context: Resource<OperationContext>) -> Result<Option<u64>> {
        Ok(self.table.get(&context)?.remaining().map(nanos))
    }

    fn is_cancelled(&mut self, context: Resource<OperationContext>) -> Result<bool> {
        Ok(self.table.get(&context)?.is_cancelled())
    }

    fn env(&mut self, context: Resource<OperationContext>) -> Result<Resource<Environment>> {
        let env = self.table.get(&context)?.env();
        Ok(self.table.push(Environment(env))?)
    }

    fn capability(
        &mut self,
        context: Resource<OperationContext>,
        name: String,
    ) -> Result<Option<Resource<Capability>>> {
        match self.table.get(&context)?.capability(&name) {
            Some(capability) => Ok(Some(self.table.push(capability)?)),
            None => Ok(None),
        }
    }

    fn drop(&mut self, context: Resource<OperationContext>) -> Result<()> {
        self.table.delete(context)?;
        Ok(())
    }
}

impl wit::HostContextWithStore<State> for Imports {
    async fn cancelled(
        host: &Accessor<State, Self>,
        context: Resource<OperationContext>,
    ) -> Result<()> {
        let context = host
            .with(|mut host| Ok::<_, wasmtime::Error>(host.get().table.get(&context)?.clone()))?;
        context.cancelled().await;
        Ok(())
    }

    async fn ownership(
        host: &Accessor<State, Self>,
        context: Resource<OperationContext>,
        request: String,
    ) -> Answer {
        let context = host
            .with(|mut host| Ok::<_, wasmtime::Error>(host.get().table.get(&context)?.clone()))?;
        let answer = match serde_json::from_str(&request) {
            Ok(request) => context.ownership().request(request).await,
            Err(error) => Err(CallError::invalid_input(error.to_string())),
        };
        Ok(answer.map(|output| output.into_bytes().into()).map_err(call_error))
    }
}

impl wit::HostItemSink for State {
    fn drop(&mut self, sink: Resource<Sink>) -> Result<()> {
        self.table.delete(sink)?;
        Ok(())
    }
}

impl wit::HostItemSinkWithStore<State> for Imports {
    async fn send(host: &Accessor<State, Self>, sink: Resource<Sink>, item: Vec<u8>) -> Result<()> {
        let slot =
            host.with(|mut host| Ok::<_, wasmtime::Error>(host.get().table.get(&sink)?.0.clone()))?;
        slot.send(item).await;
        Ok(())
    }
}

impl capabilities::Host for State {}

impl capabilities::HostCapabilityWithStore<State> for Imports {
    async fn send(
        host: &Accessor<State, Self>,
        capability: Resource<Capability>,
        request: capabilities::HttpRequest,
    ) -> Result<std::result::Result<capabilities::HttpResponse, types::CallError>> {
        let capability = host.with(|mut host| {
            Ok::<_, wasmtime::Error>(host.get().table.get(&capability)?.clone())
        })?;
        let capabilities::HttpRequest { method, url, headers, body } = request;
        let mut request = HttpRequest::new(method, url);
        (request.headers, request.body) = (headers, body.into());
        let answer = capability.send(request).await;
        Ok(answer.map_err(call_error).map(|answer| capabilities::HttpResponse {
            status: answer.status,
            headers: answer.headers,
            body: answer.body.into(),
        }))
    }
}

impl capabilities::HostCapability for State {
    fn kind(&mut self, capability: Resource<Capability>) -> Result<String> {
        match serde_json::to_value(self.table.get(&capability)?.kind())? {
            serde_json::Value::String(kind) => Ok(kind),
            other => Ok(other.to_string()),
        }
    }

    fn reveal(&mut self, capability: Resource<Capability>) -> Result<Option<Vec<u8>>> {
        Ok(self.table.get(&capability)?.reveal().map(Vec::from))
    }

    fn sign(
        &mut self,
        capability: Resource<Capability>,
        message: Vec<u8>,
    ) -> Result<Option<Vec<u8>>> {
        Ok(self.table.get(&capability)?.sign(&message).map(Vec::from))
    }

    fn drop(&mut self, capability: Resource<Capability>) -> Result<()> {
        self.table.delete(capability)?;
        Ok(())
    }
}
