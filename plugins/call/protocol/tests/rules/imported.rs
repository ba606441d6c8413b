//! The other side's operations as an env, and calls that are forwarded.

use alknet_call_protocol::{ALPN, CallOptions, LocalOperations};
use alknet_plugin_api::testing::pair;
use alknet_plugin_api::{AbortPolicy, Json, OperationSpec, PeerRef, code};
use futures_util::{StreamExt, poll};
use serde_json::{Value, json};

use crate::peer::{Peer, both, options, run};

#[tokio::test]
async fn what_the_other_side_serves_can_be_composed_with() {
    let (client, _server) = both(options());
    let env = client.overlay_env();
    let early = env.invoke("t/echo", json!(1).into()).await.unwrap_err();
    assert_eq!(early.code, code::NOT_FOUND);
    assert!(!env.contains("t/echo"));

    let spec = client.register_imported("/t/echo").await.unwrap();
    assert_eq!(spec.name, "t/echo");
    assert!(env.contains("/t/echo") && !env.contains("t/count"));
    assert_eq!(env.invoke("/t/echo", json!(1).into()).await.unwrap(), json!(1).into());
    let missing = client.register_imported("t/none").await.unwrap_err();
    assert_eq!(missing.code, code::NOT_FOUND);

    let all = client.register_imported_all().await.unwrap();
    assert!(all.iter().any(|spec| spec.name == "t/count"));
    let items: Vec<_> = env.subscribe("t/count", json!(3).into()).collect().await;
    let items: Vec<Value> = items.iter().map(|item| item.as_ref().unwrap().to().unwrap()).collect();
    assert_eq!(items, [json!(0), json!(1), json!(2)]);
    let failed = env.invoke("t/fail", json!(1).into()).await.unwrap_err();
    assert_eq!((&*failed.code, failed.retryable), ("LOCKED", true));

    let called = env.invoke("t/count", json!(3).into()).await.unwrap_err();
    assert_eq!(called.code, code::INVALID_OPERATION_TYPE);
    let mut subscribed = env.subscribe("t/echo", json!(3).into());
    let error = subscribed.next().await.unwrap().unwrap_err();
    assert_eq!(error.code, code::INVALID_OPERATION_TYPE);
    let peer = PeerRef::Specific("x".into());
    assert!(!env.peer_contains(&peer, "t/echo"));
    assert_eq!(env.invoke_peer(peer, "t/echo", Json::null()).await.unwrap_err().code, "NOT_FOUND");
}

async fn answer(peer: &mut Peer, output: Value) {
    let request = peer.next().await.unwrap();
    let payload = json!({ "output": output });
    peer.write(json!({ "type": "call.responded", "id": request["id"], "payload": payload })).await;
}

#[tokio::test]
async fn a_name_that_is_listed_twice_imports_nothing() {
    let (near, far) = pair(ALPN);
    let client = run(near, options());
    let all = client.register_imported_all();
    let serve = async {
        let mut peer = Peer::accept(&far).await;
        let named = json!({ "name": "t/x" });
        answer(&mut peer, json!({ "operations": [named, named] })).await;
        answer(&mut peer, json!(OperationSpec::query("t/x"))).await;
        answer(&mut peer, json!(OperationSpec::query("t/x"))).await;
        peer
    };
    let (all, _peer) = futures_util::join!(all, serve);
    let error = all.unwrap_err();
    assert!(error.message.contains("t/x twice"), "{error}");
    assert!(!client.overlay_env().contains("t/x"));
}

#[tokio::test]
async fn c50_a_forwarded_abort_carries_its_policy() {
    let (near, far) = pair(ALPN);
    let client = run(near, options());
    let begin = client.begin("t/x", json!(1).into(), CallOptions::default());
    let (call, mut peer) = futures_util::join!(begin, Peer::accept(&far));
    let mut call = call.unwrap();
    let id = peer.next().await.unwrap()["id"].clone();
    assert_eq!(id, call.id());
    assert!(poll!(&mut call).is_pending());
    call.set_abort_policy(AbortPolicy::ContinueRunning);
    drop(call);
    let aborted = peer.next().await.unwrap();
    assert_eq!((&aborted["type"], &aborted["id"]), (&json!("call.aborted"), &id));
    assert_eq!(aborted["payload"]["policy"], "continue-running");

    // A call that has been answered is not aborted any more.
    let call = client.begin("t/x", json!(2).into(), CallOptions::default()).await.unwrap();
    answer(&mut peer, json!("done")).await;
    assert_eq!(call.await.unwrap(), json!("done").into());
    client.nudge().await.unwrap();
    assert_eq!(peer.next().await.unwrap()["type"], "nudge");
}

#[tokio::test]
async fn c05_a_nudge_is_skipped() {
    let (client, server) = both(crate::peer::serving(LocalOperations::new()));
    client.nudge().await.unwrap();
    server.nudge().await.unwrap();
    assert!(client.services_list().await.is_ok());
    client.connection().close(0, "done");
    client.connection().closed().await;
    let error = client.call("t/x", json!(1)).await.unwrap_err();
    assert_eq!(error.message, "connection closed");
    assert!(client.is_closed());
}
