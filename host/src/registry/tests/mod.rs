//! The registry, driven as the node drives it: plugins' code through the
//! plugin API's own registrar, callers through a gateway.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use alknet_plugin_api::{
    AccessControl, CallError, Gateway, GatewayCall, GatewayEvent, GatewayRequest, Identity, Json,
    Manifest, OperationSpec, Registrar,
};
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::runtime::Handle;

use super::*;
use crate::auth::IdentityProvider;

mod abort;
mod cancel;
mod compose;
mod discovery;
mod dispatch;
mod freeze;
mod interleave;
mod model;

/// Knows `key:<id>` and the token `token-<id>` of whoever is in the map.
#[derive(Default)]
struct People(Mutex<BTreeMap<String, Arc<Identity>>>);

impl People {
    fn add(&self, identity: Identity) {
        self.0.lock().insert(identity.id.clone(), Arc::new(identity));
    }
}

impl IdentityProvider for People {
    fn resolve_from_fingerprint(&self, fingerprint: &str) -> Option<Arc<Identity>> {
        self.0.lock().get(fingerprint.strip_prefix("key:")?).cloned()
    }
    fn resolve_from_token(&self, token: &[u8]) -> Option<Arc<Identity>> {
        self.0.lock().get(std::str::from_utf8(token).ok()?.strip_prefix("token-")?).cloned()
    }
}

fn identity(id: &str, scopes: &[&str]) -> Identity {
    Identity {
        id: id.into(),
        scopes: scopes.iter().map(ToString::to_string).collect(),
        resources: BTreeMap::new(),
    }
}

fn scopes(list: &[&str]) -> AccessControl {
    AccessControl {
        required_scopes: list.iter().map(ToString::to_string).collect(),
        ..AccessControl::default()
    }
}

fn authority(label: &str, scopes: &[&str]) -> Option<CompositionAuthority> {
    Some(CompositionAuthority {
        label: label.into(),
        scopes: scopes.iter().map(ToString::to_string).collect(),
        resources: BTreeMap::new(),
    })
}

fn reach(names: &[&str]) -> ScopedPeerEnv {
    ScopedPeerEnv {
        allowed_ops: names.iter().map(ToString::to_string).collect(),
        ..ScopedPeerEnv::default()
    }
}

/// A builder on tokio's clock, which most tests pause.
fn builder() -> RegistryBuilder {
    RegistryBuilder::new(Arc::new(TokioClock::new()), Arc::new(TokioSpawner(Handle::current())))
}

/// What a plugin called `plugin` registers for these operations.
fn plugin(
    plugin: &str,
    specs: Vec<OperationSpec>,
    build: impl FnOnce(&mut Registrar),
) -> Vec<HandlerRegistration> {
    let manifest = specs
        .into_iter()
        .fold(Manifest::new(plugin, "1.0.0"), |manifest, spec| manifest.operation(spec));
    let mut registrar = Registrar::new();
    build(&mut registrar);
    let built = registrar.finish(manifest).unwrap();
    let operations = built.manifest.operations.into_iter().zip(built.operations);
    operations.map(|(spec, code)| HandlerRegistration::new(spec, code, plugin)).collect()
}

/// One operation that answers with its input.
fn echo(spec: OperationSpec) -> HandlerRegistration {
    let name = spec.name.clone();
    plugin("echo", vec![spec], |on| {
        on.operation_json(&name, |_, input| async move { Ok(input) });
    })
    .remove(0)
}

/// One operation behind a closure.
fn operation<F, Fut>(spec: OperationSpec, function: F) -> HandlerRegistration
where
    F: Fn(alknet_plugin_api::OperationContext, Json) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Json, CallError>> + Send + 'static,
{
    let name = spec.name.clone();
    plugin("test", vec![spec], |on| on.operation_json(&name, function)).remove(0)
}

fn freeze(registrations: impl IntoIterator<Item = HandlerRegistration>) -> Arc<Registry> {
    let mut builder = builder();
    for registration in registrations {
        builder.register(registration);
    }
    builder.freeze().unwrap()
}

/// A connection's peer.
struct Peer {
    gateway: Arc<dyn Gateway>,
    next: std::cell::Cell<u64>,
}

impl Peer {
    /// `id` is a peer of the provider's; with `None` the peer is anonymous.
    fn new(registry: &Arc<Registry>, people: &Arc<People>, id: Option<&str>) -> Self {
        let scope = CallerScope {
            connection: 7,
            provider: people.clone(),
            fingerprint: id.map(|id| format!("key:{id}")),
        };
        let gateway = registry.gateway("call", scope);
        Self { gateway, next: 1.into() }
    }

    fn anonymous(registry: &Arc<Registry>) -> Self {
        Self::new(registry, &Arc::default(), None)
    }

    fn with_scopes(registry: &Arc<Registry>, scopes: &[&str]) -> Self {
        let people = Arc::new(People::default());
        people.add(identity("dora", scopes));
        Self::new(registry, &people, Some("dora"))
    }

    fn request(&self, operation: &str, input: Value) -> GatewayRequest {
        self.next.set(self.next.get() + 1);
        GatewayRequest {
            request_id: format!("c-{}", self.next.get()),
            operation: operation.to_owned(),
            input: input.into(),
            auth_token: None,
            forwarded_for: Vec::new(),
            timeout: None,
            remote_addr: None,
        }
    }

    fn start(&self, operation: &str, input: Value) -> GatewayCall {
        self.gateway.dispatch(self.request(operation, input))
    }

    async fn call(&self, operation: &str, input: Value) -> Result<Value, CallError> {
        answer(self.start(operation, input)).await
    }

    async fn code(&self, operation: &str, input: Value) -> String {
        self.call(operation, input).await.unwrap_err().code.into_owned()
    }
}

/// The one event that a query or mutation ends in.
async fn answer(mut call: GatewayCall) -> Result<Value, CallError> {
    let event = call.next().await.unwrap();
    assert_eq!(call.next().await, None, "one event ends a call");
    match event {
        GatewayEvent::Responded(output) => Ok(output.to().unwrap()),
        GatewayEvent::Error(error) => Err(error),
        GatewayEvent::Completed => panic!("a call does not complete"),
    }
}

/// Every event up to the end.
async fn events(mut call: GatewayCall) -> Vec<GatewayEvent> {
    let mut events = Vec::new();
    while let Some(event) = call.next().await {
        events.push(event);
    }
    events
}

/// Polls once, which starts the call; it must have to wait.
async fn start(call: &mut GatewayCall) {
    let mut next = Box::pin(call.next());
    assert!(futures_util::poll!(&mut next).is_pending());
}

/// Tells when it is dropped.
struct DropFlag(Arc<std::sync::atomic::AtomicUsize>);

impl Drop for DropFlag {
    fn drop(&mut self) {
        self.0.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
    }
}
