//! Importing over an established connection, from peers that do not behave.

// A test's panic with its line is the best report.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use alknet::imports::call::{FromCallConfig, Link, from_call};
use alknet::imports::{AdapterError, Selection};
use alknet::registry::{
    CompositionAuthority, HandlerRegistration, Provenance, Registry, RegistryBuilder,
    ScopedPeerEnv, TokioClock, TokioSpawner,
};
use alknet_call_protocol::{ALPN, CallClient, Options};
use alknet_plugin_api::testing::pair;
use alknet_plugin_api::{
    AbortPolicy, CallError, Capability, CapabilityBackend, CapabilityKind, Gateway, GatewayCall,
    GatewayEvent, GatewayRequest, Json, OperationSpec, Visibility, code,
};
use alknet_tests::daemon::{Tokio, within};
use futures_util::stream;
use serde_json::{Value, json};

const TOKEN: &str = "alk_a-token-that-only-requests-carry-0123456";

type Answer = Box<dyn Fn(&GatewayRequest) -> Result<Value, CallError> + Send + Sync>;

/// Answers as a test says, and keeps what it was asked.
struct Scripted {
    answer: Answer,
    asked: Arc<Mutex<Vec<GatewayRequest>>>,
}

impl Gateway for Scripted {
    fn dispatch(&self, request: GatewayRequest) -> GatewayCall {
        let event = match (self.answer)(&request) {
            Ok(output) => GatewayEvent::Responded(output.into()),
            Err(error) => GatewayEvent::Error(error),
        };
        self.asked.lock().unwrap().push(request);
        GatewayCall::new(stream::iter([event]))
    }

    fn abort(&self, _: &str, _: AbortPolicy) {}
}

struct Peer {
    link: Arc<Link>,
    asked: Arc<Mutex<Vec<GatewayRequest>>>,
}

/// A connection to a peer that answers so.
fn peer(
    answer: impl Fn(&GatewayRequest) -> Result<Value, CallError> + Send + Sync + 'static,
) -> Peer {
    let (near, far) = pair(ALPN);
    let asked = Arc::default();
    let served = Scripted { answer: Box::new(answer), asked: Arc::clone(&asked) };
    let options = Options::new(Arc::new(Tokio)).serve(Arc::new(served));
    let (calls, driver) = CallClient::spawn_dispatch(far, options);
    tokio::spawn(async move {
        let _kept = calls;
        driver.await;
    });
    Peer { link: Arc::new(Link::new(near, "b".into())), asked }
}

/// A peer that offers these operations, and answers calls so.
fn offering(
    specs: Vec<OperationSpec>,
    call: impl Fn(&GatewayRequest) -> Result<Value, CallError> + Send + Sync + 'static,
) -> Peer {
    peer(move |request| match request.operation.as_str() {
        "/services/list" => {
            let names: Vec<_> = specs.iter().map(|spec| json!({ "name": spec.name })).collect();
            Ok(json!({ "operations": names }))
        }
        "/services/schema" => {
            let input: Value = request.input.to().unwrap();
            let spec = specs.iter().find(|spec| input["name"] == *spec.name);
            spec.map(|spec| json!(spec)).ok_or_else(|| CallError::not_found("no such operation"))
        }
        _ => call(request),
    })
}

fn config() -> FromCallConfig {
    FromCallConfig {
        import: "b".into(),
        peer: "b".into(),
        selection: Selection::new("peer/b"),
        withhold_origin: false,
        credential: None,
        timeout: Duration::from_secs(20),
    }
}

struct Token;

impl CapabilityBackend for Token {
    fn kind(&self) -> CapabilityKind {
        CapabilityKind::Bearer
    }
    fn reveal(&self) -> Option<bytes::Bytes> {
        Some(TOKEN.into())
    }
    fn sign(&self, _: &[u8]) -> Option<[u8; 64]> {
        None
    }
}

async fn refused(peer: &Peer, config: &FromCallConfig) -> AdapterError {
    within(from_call(&peer.link, config)).await.unwrap_err()
}

/// A registry with what was imported, and an env that reaches all of it.
fn registry(operations: Vec<HandlerRegistration>) -> Arc<Registry> {
    let spawner = TokioSpawner(tokio::runtime::Handle::current());
    let mut builder = RegistryBuilder::new(Arc::new(TokioClock::new()), Arc::new(spawner));
    let names = operations.iter().map(|one| one.spec.name.clone()).collect();
    let authority = CompositionAuthority { label: "test".into(), ..Default::default() };
    let env = ScopedPeerEnv { allowed_ops: names, ..Default::default() };
    builder.grant("test", Some(authority), env);
    let registry = builder.freeze().unwrap();
    registry.attach_import("b", operations, &|_| false).unwrap();
    registry
}

async fn invoke(registry: &Arc<Registry>, name: &str) -> Result<Json, CallError> {
    within(registry.plugin_env("test").invoke(name, json!({}).into())).await
}

#[tokio::test]
async fn imports_are_leaves_and_mirror_all_but_visibility() {
    let find = OperationSpec::query("notes/find")
        .description("Finds notes")
        .scope("notes:read")
        .error("LOCKED", "held");
    let specs = vec![
        find.clone(),
        OperationSpec::subscription("notes/changes"),
        OperationSpec::query("services/list"),
        OperationSpec::query("peer/c/notes/find"),
    ];
    let peer = offering(specs, |_| Ok(json!(1)));
    let operations = within(from_call(&peer.link, &config())).await.unwrap();
    let names: Vec<_> = operations.iter().map(|one| &*one.spec.name).collect();
    assert_eq!(names, ["peer/b/notes/find", "peer/b/notes/changes"], "what is its own");
    for one in &operations {
        assert_eq!(one.provenance, Provenance::FromCall);
        assert!(one.authority.is_none() && one.scoped_env.is_empty());
        assert!(one.capabilities.is_empty());
    }
    let mirrored = &operations[0].spec;
    assert_eq!((&*mirrored.namespace, &mirrored.description), ("peer", &find.description));
    assert_eq!(mirrored.access_control, find.access_control);
    assert_eq!(mirrored.error_schemas, find.error_schemas);
    let registry = registry(operations);
    let entry = registry.operation("peer/b/notes/find").unwrap();
    assert_eq!(entry.spec().visibility, Visibility::Internal);
    // The peer's rules are this node's, too: its own authority must hold the scope.
    assert_eq!(invoke(&registry, "peer/b/notes/find").await.unwrap_err().code, code::FORBIDDEN);
}

#[tokio::test]
async fn a_name_twice_from_one_peer_is_a_collision() {
    let spec = OperationSpec::query("notes/find");
    let peer = offering(vec![spec.clone(), spec], |_| Ok(json!(1)));
    let error = refused(&peer, &config()).await;
    assert!(matches!(error, AdapterError::SamePeerCollision { .. }), "{error}");
    assert!(error.to_string().contains("import `b` offers `notes/find` twice"), "{error}");
    let mut without = config();
    without.selection = without.selection.exclude(["notes/*"]);
    assert!(within(from_call(&peer.link, &without)).await.unwrap().is_empty());
}

#[tokio::test]
async fn what_cannot_be_understood_names_the_operation() {
    let no_list = peer(|_| Ok(json!({ "operations": "none" })));
    let error = refused(&no_list, &config()).await;
    assert!(matches!(error, AdapterError::SchemaParse { .. }), "{error}");
    assert!(error.to_string().contains("services/list"), "{error}");

    let half = peer(|request| match request.operation.as_str() {
        "/services/list" => Ok(json!({ "operations": [{ "name": "notes/find" }] })),
        _ => Ok(json!({ "name": "notes/find" })),
    });
    let error = refused(&half, &config()).await;
    assert!(error.to_string().contains("`notes/find`"), "{error}");
    assert!(error.to_string().contains("leave it out with `exclude`"), "{error}");

    let other = peer(|request| match request.operation.as_str() {
        "/services/list" => Ok(json!({ "operations": [{ "name": "notes/find" }] })),
        _ => Ok(json!(OperationSpec::query("notes/drop"))),
    });
    let error = refused(&other, &config()).await;
    assert!(error.to_string().contains("described as `notes/drop`"), "{error}");

    let failing = peer(|_| Err(CallError::new(code::RESOURCE_EXHAUSTED, "slow down")));
    let error = refused(&failing, &config()).await;
    assert!(matches!(error, AdapterError::DiscoveryFailed { .. }), "{error}");
}

#[tokio::test]
async fn c37_a_peers_output_is_checked_against_its_own_schema() {
    let spec = OperationSpec::query("notes/find").output(json!({ "type": "integer" }));
    let peer = offering(vec![spec], |_| Ok(json!("no number")));
    let registry = registry(within(from_call(&peer.link, &config())).await.unwrap());
    let error = invoke(&registry, "peer/b/notes/find").await.unwrap_err();
    assert_eq!(error.code, code::INTERNAL);
    assert!(error.message.contains("violates its schema"), "{error}");
}

#[tokio::test]
async fn c35_a_peers_protocol_codes_come_through_unchanged() {
    let specs = vec![OperationSpec::query("notes/find").error("LOCKED", "held")];
    let errors = Mutex::new(vec![
        CallError::new("UNDECLARED", "x"),
        CallError::new("LOCKED", "held").retryable(true),
        CallError::new("HTTP_503", "upstream"),
        CallError::aborted("by the peer"),
        CallError::new(code::RESOURCE_EXHAUSTED, "slow down"),
        CallError::not_found("gone"),
    ]);
    let peer = offering(specs, move |_| Err(errors.lock().unwrap().pop().unwrap()));
    let registry = registry(within(from_call(&peer.link, &config())).await.unwrap());
    let mut codes = Vec::new();
    for _ in 0..6 {
        codes.push(invoke(&registry, "peer/b/notes/find").await.unwrap_err().code);
    }
    let expected = ["NOT_FOUND", "RESOURCE_EXHAUSTED", "ABORTED", "HTTP_503", "LOCKED", "INTERNAL"];
    assert_eq!(codes, expected);
}

#[tokio::test]
async fn a_credential_is_in_requests_and_nowhere_else() {
    let specs = vec![OperationSpec::query("notes/find")];
    let peer = offering(specs, |_| Err(CallError::internal("it failed")));
    let mut config = config();
    config.credential = Some(Capability::new(Arc::new(Token)));
    let operations = within(from_call(&peer.link, &config)).await.unwrap();
    assert!(!format!("{operations:?}").contains(TOKEN));
    let registry = registry(operations);
    let error = invoke(&registry, "peer/b/notes/find").await.unwrap_err();
    assert!(!format!("{error:?} {registry:?}").contains(TOKEN));
    let asked = peer.asked.lock().unwrap();
    assert_eq!(asked.len(), 3);
    for request in asked.iter() {
        assert_eq!(request.auth_token.as_deref(), Some(TOKEN), "{}", request.operation);
        assert!(!request.input.to_string().contains(TOKEN));
    }
}

#[tokio::test]
async fn a_token_that_the_peer_refuses_is_told_without_showing_it() {
    let peer = peer(|_| Err(CallError::forbidden("invalid token")));
    let mut config = config();
    config.credential = Some(Capability::new(Arc::new(Token)));
    let error = refused(&peer, &config).await;
    assert!(matches!(error, AdapterError::Unauthorized { .. }), "{error}");
    assert!(error.to_string().contains("vault entry"), "{error}");
    assert!(!format!("{error} {error:?}").contains(TOKEN));
}
