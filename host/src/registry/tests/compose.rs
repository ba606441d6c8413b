use alknet_plugin_api::{CallError, OperationContext, PeerRef};
use futures_util::StreamExt;

use super::*;

/// An operation that invokes `target` with its own input.
fn caller(name: &str, target: &'static str) -> HandlerRegistration {
    operation(OperationSpec::query(name), move |context: OperationContext, input| async move {
        let outcome = context.invoke(target, input).await;
        // Says what the inner call said, whatever it was.
        Json::of(&outcome).map_err(|error| CallError::internal(error.to_string()))
    })
}

/// The inner call's outcome, as [`caller`] reports it.
fn inner(outcome: Result<Value, CallError>) -> Result<Value, String> {
    let outcome = outcome.unwrap();
    match outcome.get("Err") {
        Some(error) => Err(error["code"].as_str().unwrap().to_owned()),
        None => Ok(outcome["Ok"].clone()),
    }
}

/// An operation that answers with what its context says.
fn mirror(spec: OperationSpec) -> HandlerRegistration {
    operation(spec, |context, _| async move { Ok(Json::of(context.info()).unwrap()) })
}

#[tokio::test(start_paused = true)]
async fn c18_a_childs_deadline_is_its_parents() {
    let remaining = operation(OperationSpec::query("a/child"), |context, _| async move {
        Ok(Json::of(&context.remaining().unwrap().as_millis()).unwrap())
    });
    let mut parent = operation(OperationSpec::query("a/parent"), |context, input| async move {
        tokio::time::sleep(Duration::from_millis(400)).await;
        context.invoke("a/child", input).await
    });
    parent.scoped_env = reach(&["a/child"]);
    let registry = freeze([remaining, parent]);
    let peer = Peer::anonymous(&registry);
    let mut request = peer.request("/a/parent", json!({}));
    request.timeout = Some(Duration::from_secs(1));
    assert_eq!(answer(peer.gateway.dispatch(request)).await, Ok(json!(600)));
}

#[tokio::test(start_paused = true)]
async fn c18_under_a_parent_without_a_deadline_a_call_has_the_default() {
    let child = operation(OperationSpec::query("a/child"), |context, _| async move {
        Ok(Json::of(&context.remaining().map(|left| left.as_secs())).unwrap())
    });
    let mut parents = plugin("a", vec![OperationSpec::subscription("a/parent")], |on| {
        on.subscription("a/parent", |context, _: Value, mut sink| async move {
            assert_eq!(context.remaining(), None);
            let left = context.invoke("a/child", Json::null()).await?;
            sink.send(&left).await
        });
    });
    parents[0].scoped_env = reach(&["a/child"]);
    parents.push(child);
    let registry = freeze(parents);
    let peer = Peer::anonymous(&registry);
    let all = events(peer.start("/a/parent", json!({}))).await;
    assert_eq!(all[0], GatewayEvent::Responded(json!(30).into()));
}

#[tokio::test]
async fn c21_infinite_recursion_stops_at_the_limit() {
    let mut again = operation(OperationSpec::query("a/again"), |context, input| async move {
        let depth: u64 = input.to().unwrap();
        match context.invoke("a/again", json!(depth + 1)).await {
            Err(error) if error.code == "RESOURCE_EXHAUSTED" => Ok(json!(depth).into()),
            other => other,
        }
    });
    again.scoped_env = reach(&["a/again"]);
    let registry = freeze([again]);
    let peer = Peer::anonymous(&registry);
    assert_eq!(peer.call("/a/again", json!(0)).await, Ok(json!(1024)));
    assert_eq!(peer.call("/a/again", json!(0)).await, Ok(json!(1024)), "all places came back");
}

#[tokio::test]
async fn c39_what_is_not_in_reach_is_not_found_though_registered() {
    let mut parent = caller("a/parent", "a/child");
    parent.scoped_env = reach(&["a/other"]);
    let registry = freeze([parent, echo(OperationSpec::query("a/child"))]);
    let peer = Peer::anonymous(&registry);
    assert_eq!(inner(peer.call("/a/parent", json!(1)).await), Err("NOT_FOUND".into()));
    assert_eq!(peer.call("/a/child", json!(1)).await, Ok(json!(1)));
}

#[tokio::test]
async fn c40_the_handlers_scopes_count_and_never_the_callers() {
    let child = || echo(OperationSpec::query("a/child").access(scopes(&["inner"])).internal());
    let parent = |scopes: &[&str]| {
        let mut parent = caller("a/parent", "a/child");
        parent.scoped_env = reach(&["a/child"]);
        parent.authority = authority("a", scopes);
        parent
    };
    let registry = freeze([child(), parent(&["inner"])]);
    let peer = Peer::with_scopes(&registry, &[]);
    assert_eq!(inner(peer.call("/a/parent", json!(1)).await), Ok(json!(1)));
    let registry = freeze([child(), parent(&[])]);
    let peer = Peer::with_scopes(&registry, &["inner"]);
    assert_eq!(inner(peer.call("/a/parent", json!(1)).await), Err("FORBIDDEN".into()));
}

#[tokio::test]
async fn c41_a_leaf_is_checked_against_its_parents_authority() {
    let mut leaf = echo(OperationSpec::query("peer/b/leaf").access(scopes(&["leaf"])));
    leaf.provenance = Provenance::FromCall;
    let mut parent = caller("a/parent", "peer/b/leaf");
    parent.scoped_env = reach(&["peer/b/leaf"]);
    parent.authority = authority("a", &["leaf"]);
    let registry = freeze([parent]);
    registry.attach_import("b", vec![leaf], &|_| false).unwrap();
    let peer = Peer::anonymous(&registry);
    assert_eq!(inner(peer.call("/a/parent", json!(1)).await), Ok(json!(1)));
}

struct Secret(&'static str);

impl alknet_plugin_api::CapabilityBackend for Secret {
    fn kind(&self) -> alknet_plugin_api::CapabilityKind {
        alknet_plugin_api::CapabilityKind::Bytes
    }
    fn reveal(&self) -> Option<bytes::Bytes> {
        Some(self.0.into())
    }
    fn sign(&self, _: &[u8]) -> Option<[u8; 64]> {
        None
    }
}

#[tokio::test]
async fn c42_a_child_sees_its_own_capabilities_and_no_others() {
    let secret = |text| alknet_plugin_api::Capability::new(Arc::new(Secret(text)));
    let seen = |context: &OperationContext| {
        ["parent", "child"].map(|name| {
            context
                .capability(name)
                .and_then(|capability| capability.reveal())
                .map(|bytes| String::from_utf8(bytes.to_vec()).unwrap())
        })
    };
    let mut child = operation(OperationSpec::query("a/child"), move |context, _| async move {
        Ok(Json::of(&seen(&context)).unwrap())
    });
    child.capabilities.insert("child".into(), secret("of the child"));
    let mut parent =
        operation(OperationSpec::query("a/parent"), move |context, input| async move {
            let below: Value = context.invoke("a/child", input).await?.to().unwrap();
            Ok(json!([seen(&context), below]).into())
        });
    parent.capabilities.insert("parent".into(), secret("of the parent"));
    parent.scoped_env = reach(&["a/child"]);
    let registry = freeze([parent, child]);
    let answer = Peer::anonymous(&registry).call("/a/parent", json!({})).await;
    assert_eq!(answer, Ok(json!([["of the parent", null], [null, "of the child"]])));
}

#[tokio::test]
async fn c43_the_origin_reaches_children_unchanged_and_claims_do_not() {
    let mut parent = operation(OperationSpec::query("a/parent"), |context, input| async move {
        let below: Value = context.invoke("a/child", input).await?.to().unwrap();
        Ok(json!([context.info(), below]).into())
    });
    parent.scoped_env = reach(&["a/child"]);
    parent.authority = authority("notes", &["x"]);
    let registry = freeze([parent, mirror(OperationSpec::query("a/child"))]);
    let peer = Peer::with_scopes(&registry, &["y"]);
    let mut request = peer.request("/a/parent", json!({}));
    request.forwarded_for = vec![identity("end-user", &[])];
    let id = request.request_id.clone();
    let infos = answer(peer.gateway.dispatch(request)).await.unwrap();
    let (root, child) = (&infos[0], &infos[1]);
    assert_eq!(root["request_id"], *id);
    assert_eq!(root["parent_request_id"], Value::Null);
    assert_eq!(root["identity"]["id"], "dora");
    assert_eq!(root["handler_identity"]["id"], "notes");
    assert_eq!(root["forwarded_for"][0]["id"], "end-user");
    assert_eq!(root["internal"], false);
    assert_eq!(child["parent_request_id"], *id);
    assert!(uuid::Uuid::parse_str(child["request_id"].as_str().unwrap()).is_ok());
    assert_eq!(child["identity"]["id"], "notes");
    assert_eq!(child["identity"]["scopes"], json!(["x"]));
    assert_eq!(child["handler_identity"], Value::Null);
    assert_eq!(child["forwarded_for"], json!([]));
    assert_eq!(child["origin"], root["origin"]);
    assert_eq!(child["origin"]["id"], "dora");
    assert_eq!(child["internal"], true);
}

#[tokio::test]
async fn c43_forwarding_names_the_end_user_first() {
    struct Forward;
    impl HostOperation for Forward {
        fn call(&self, call: HostCall, _: Json) -> alknet_plugin_api::CallFuture {
            let chain = Json::of(&call.origin_chain()).unwrap();
            Box::pin(async move { Ok(chain) })
        }
    }
    let forward = OperationSpec::query("a/forward");
    let forward = HandlerRegistration::new(forward, Code::Host(Arc::new(Forward)), "node");
    let mut parent = caller("a/parent", "a/forward");
    parent.authority = authority("label", &[]);
    parent.scoped_env = reach(&["a/forward"]);
    let registry = freeze([forward, parent]);
    let peer = Peer::with_scopes(&registry, &[]);
    let mut request = peer.request("/a/parent", json!({}));
    request.forwarded_for = vec![identity("end-user", &[])];
    let chain = inner(answer(peer.gateway.dispatch(request)).await).unwrap();
    let ids: Vec<_> = chain.as_array().unwrap().iter().map(|who| who["id"].clone()).collect();
    assert_eq!(ids, ["end-user", "dora"]);
}

#[tokio::test]
async fn c44_invoke_and_subscribe_keep_to_their_kinds() {
    let specs = vec![OperationSpec::query("a/once"), OperationSpec::subscription("a/many")];
    let mut all = plugin("a", specs, |on| {
        on.operation_json("a/once", |_, input| async move { Ok(input) });
        on.subscription("a/many", |_, n: u32, mut sink| async move {
            for i in 0..n {
                sink.send(&i).await?;
            }
            Ok(())
        });
    });
    let mut parent = operation(OperationSpec::query("a/parent"), |context, _| async move {
        let wrong = context.invoke("a/many", json!(1)).await.unwrap_err().code;
        let mut once = context.subscribe("a/once", json!(1));
        let also_wrong = once.next().await.unwrap().unwrap_err().code;
        assert!(once.next().await.is_none());
        let many: Vec<u32> = context
            .subscribe("a/many", json!(3))
            .map(|item| item.unwrap().to::<u32>().unwrap())
            .collect()
            .await;
        Ok(json!([wrong, also_wrong, many]).into())
    });
    parent.scoped_env = reach(&["a/once", "a/many"]);
    all.push(parent);
    let registry = freeze(all);
    let answer = Peer::anonymous(&registry).call("/a/parent", json!({})).await;
    let kind = "INVALID_OPERATION_TYPE";
    assert_eq!(answer, Ok(json!([kind, kind, [0, 1, 2]])));
}

/// Peers with operations that answer with the peer's name.
struct Attached(Vec<(Arc<str>, Vec<Arc<Entry>>)>);

impl Attached {
    fn new(peers: &[(&'static str, &[&str])]) -> Self {
        let entry =
            |peer: &'static str, name: &str| {
                let mut entry = operation(OperationSpec::query(name), move |_, _| async move {
                    Ok(json!(peer).into())
                });
                entry.provenance = Provenance::FromCall;
                Arc::new(Entry::compile(entry).unwrap())
            };
        let offers = |peer: &'static str, names: &[&str]| {
            names.iter().map(|name| entry(peer, name)).collect()
        };
        Self(peers.iter().map(|(peer, names)| ((*peer).into(), offers(peer, names))).collect())
    }
}

impl PeerSource for Attached {
    fn attached(&self) -> Vec<Arc<str>> {
        self.0.iter().map(|(peer, _)| peer.clone()).collect()
    }
    fn operation(&self, peer_id: &str, name: &str) -> Option<Arc<Entry>> {
        self.operations(peer_id).into_iter().find(|entry| entry.spec().name == name)
    }
    fn operations(&self, peer_id: &str) -> Vec<Arc<Entry>> {
        let peer = self.0.iter().find(|(peer, _)| **peer == *peer_id);
        peer.map(|(_, entries)| entries.clone()).unwrap_or_default()
    }
}

/// A registry with peers, and the env of a plugin with this reach.
fn with_peers(env: ScopedPeerEnv) -> Arc<dyn alknet_plugin_api::OperationEnv> {
    let peers = Attached::new(&[("b", &["x/only-b"]), ("c", &["x/y"]), ("d", &["x/y"])]);
    let mut builder = builder();
    builder.peers(Arc::new(peers)).grant("a", authority("a", &[]), env);
    builder.freeze().unwrap().plugin_env("a")
}

#[tokio::test]
async fn c55_specific_never_falls_through_and_any_takes_the_first() {
    let env = with_peers(reach(&["x/y"]));
    let specific = |peer: &str| PeerRef::Specific(peer.into());
    let call = async |peer| {
        let outcome = env.invoke_peer(peer, "x/y", Json::null()).await;
        outcome.map(|json| json.to_string()).map_err(|error| error.code.into_owned())
    };
    assert_eq!(call(specific("b")).await, Err("NOT_FOUND".into()));
    assert_eq!(call(specific("nobody")).await, Err("NOT_FOUND".into()));
    assert_eq!(call(specific("d")).await, Ok("\"d\"".into()));
    assert_eq!(call(PeerRef::Any).await, Ok("\"c\"".into()));
    assert!(env.peer_contains(&PeerRef::Any, "x/y"));
    assert!(!env.peer_contains(&specific("b"), "x/y"));
    let out_of_reach = env.invoke_peer(PeerRef::Any, "x/only-b", Json::null()).await;
    assert_eq!(out_of_reach.unwrap_err().code, "NOT_FOUND");
}

#[tokio::test]
async fn c56_a_pinned_operation_is_callable_on_that_peer_alone() {
    let env = with_peers(ScopedPeerEnv {
        peer_pinned: ["d/x/y".to_owned()].into(),
        ..ScopedPeerEnv::default()
    });
    let call = async |peer| env.invoke_peer(peer, "x/y", Json::null()).await;
    assert_eq!(call(PeerRef::Specific("d".into())).await.unwrap().to_string(), "\"d\"");
    assert_eq!(call(PeerRef::Specific("c".into())).await.unwrap_err().code, "NOT_FOUND");
    assert_eq!(call(PeerRef::Any).await.unwrap_err().code, "NOT_FOUND");
    assert_eq!(env.invoke("x/y", Json::null()).await.unwrap_err().code, "NOT_FOUND");
}

#[tokio::test]
async fn a_plugin_composes_outside_calls_under_its_own_grant() {
    let mut builder = builder();
    builder
        .register(mirror(OperationSpec::query("x/y").access(scopes(&["s"]))))
        .register(echo(OperationSpec::query("x/z")))
        .grant("a", authority("a-label", &["s"]), reach(&["x/y"]));
    let registry = builder.freeze().unwrap();
    let env = registry.plugin_env("a");
    assert!(env.contains("x/y") && env.contains("/x/y") && !env.contains("x/z"));
    let info: Value = env.invoke("x/y", Json::null()).await.unwrap().to().unwrap();
    assert_eq!(info["identity"]["id"], "a-label");
    assert_eq!((&info["origin"], &info["parent_request_id"]), (&Value::Null, &Value::Null));
    assert_eq!(info["internal"], true);
    let ungranted = registry.plugin_env("b");
    assert_eq!(ungranted.invoke("x/y", Json::null()).await.unwrap_err().code, "NOT_FOUND");
}

/// A session tier for calls of one plugin's operations.
struct Session(Arc<Entry>);

impl Overlay for Session {
    fn get(&self, name: &str) -> Option<Arc<Entry>> {
        (name == self.0.spec().name).then(|| self.0.clone())
    }
}

struct Sessions(Arc<dyn Overlay>);

impl SessionOverlaySource for Sessions {
    fn overlay_for(&self, context: &OperationContext) -> Option<Arc<dyn Overlay>> {
        (context.info().operation == "a/agent").then(|| self.0.clone())
    }
}

#[tokio::test]
async fn c60_a_sessions_operations_are_reached_by_composition_alone() {
    let mut script = echo(OperationSpec::query("session/s1/double").internal());
    script.provenance = Provenance::Session;
    let entry = Arc::new(Entry::compile(script).unwrap());
    let mut agent = caller("a/agent", "session/s1/double");
    agent.scoped_env = reach(&["session/s1/double"]);
    let mut other = caller("a/other", "session/s1/double");
    other.scoped_env = reach(&["session/s1/double"]);
    let mut builder = builder();
    builder.register(agent).register(other).sessions(Arc::new(Sessions(Arc::new(Session(entry)))));
    let registry = builder.freeze().unwrap();
    let peer = Peer::anonymous(&registry);
    assert_eq!(inner(peer.call("/a/agent", json!(2)).await), Ok(json!(2)));
    assert_eq!(inner(peer.call("/a/other", json!(2)).await), Err("NOT_FOUND".into()));
    assert_eq!(peer.code("/session/s1/double", json!(2)).await, "NOT_FOUND");
}
