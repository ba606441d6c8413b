//! Calls, subscriptions, and who hears what.

use std::time::Duration;

use alknet_call_protocol::{ALPN, CallOptions};
use alknet_plugin_api::testing::pair;
use alknet_plugin_api::{AbortPolicy, Connection, Json};
use serde_json::{Value, json};

use crate::peer::{Peer, both, operations, options, request, run, server, serving};

/// A client whose other side is played by the test: the call's result, and what
/// the test made of its request.
async fn answered(
    play: impl AsyncFnOnce(&Connection, Peer, Value),
) -> Result<Json, alknet_plugin_api::CallError> {
    let (near, far) = pair(ALPN);
    let client = run(near, options());
    let playing = async {
        let mut peer = Peer::accept(&far).await;
        let asked = peer.next().await.unwrap();
        play(&far, peer, asked).await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        result = client.call("t/x", Json::null()) => result,
        () = playing => unreachable!(),
    }
}

fn response(asked: &Value, output: Value) -> Value {
    json!({"type": "call.responded", "id": asked["id"], "payload": {"output": output}})
}

#[tokio::test]
async fn c07_an_answer_on_another_stream_resolves_its_call() {
    let result = answered(async |connection, peer, asked| {
        let mut other = Peer::open(connection).await;
        other.write(response(&asked, json!("elsewhere"))).await;
        std::future::pending::<()>().await;
        drop((peer, other));
    });
    assert_eq!(result.await.unwrap().to_string(), "\"elsewhere\"");
}

#[tokio::test]
async fn c08_answers_that_nobody_waits_for_are_harmless() {
    let (near, far) = pair(ALPN);
    let client = run(near, options());
    let mut late = Box::pin(client.call("t/x", Json::null()));
    let mut peer = tokio::select! {
        _ = &mut late => panic!("nobody answers"),
        peer = Peer::accept(&far) => peer,
    };
    let asked = peer.next().await.unwrap();
    drop(late);
    peer.write(response(&asked, json!("late"))).await;
    let own_but_unused = asked["id"].as_str().unwrap().to_owned() + "f";
    for id in ["unknown", "", "0", &own_but_unused] {
        peer.write(json!({"type": "call.error", "id": id,
            "payload": {"code": "X", "message": "", "retryable": false}}))
            .await;
        peer.write(json!({"type": "call.completed", "id": id, "payload": {}})).await;
        peer.write(json!({"type": "call.aborted", "id": id, "payload": {}})).await;
        peer.write(response(&json!({"id": id}), json!(1))).await;
    }
    let call = client.call("t/y", Json::null());
    let answering = async {
        loop {
            let asked = peer.next().await.unwrap();
            if asked["type"] == "call.requested" {
                peer.write(response(&asked, json!("right"))).await;
                peer.write(response(&asked, json!("twice"))).await;
            }
        }
    };
    let got = tokio::select! { got = call => got, () = answering => unreachable!() };
    assert_eq!(got.unwrap().to_string(), "\"right\"");
}

#[tokio::test]
async fn c10_c13_both_sides_call_and_a_slow_call_delays_none() {
    let (client, server) = both(options());
    for side in [&client, &server] {
        let slow = side.call("t/never", Json::null());
        let fast = side.call("t/echo", json!({"a": 1}));
        tokio::select! {
            _ = slow => panic!("it never answers"),
            answer = fast => assert_eq!(answer.unwrap().to_string(), r#"{"a":1}"#),
        }
    }
    let error = client.call("t/fail", Json::null()).await.unwrap_err();
    assert_eq!((&*error.code, error.retryable), ("LOCKED", true));
}

#[tokio::test]
async fn c11_a_call_ends_without_completed() {
    for operation in ["/t/echo", "/t/fail", "/t/none"] {
        let mut peer = Peer::open(&server(options())).await;
        peer.write(request("a", operation, json!(1))).await;
        let answers = peer.rest().await;
        assert_eq!(answers.len(), 1, "{answers:?}");
        assert_ne!(answers[0]["type"], "call.completed");
    }
    let result = answered(async |_, mut peer, asked| {
        peer.write(json!({"type": "call.completed", "id": asked["id"], "payload": {}})).await;
        std::future::pending::<()>().await;
        drop(peer);
    });
    assert_eq!(result.await.unwrap_err().code, "INTERNAL");
}

#[tokio::test]
async fn c12_a_subscription_ends_exactly_once() {
    for (operation, items, end) in
        [("/t/count", 5, "call.completed"), ("/t/break", 1, "call.error")]
    {
        let mut peer = Peer::open(&server(options())).await;
        peer.write(request("a", operation, json!(5))).await;
        let answers = peer.rest().await;
        assert_eq!(answers.len(), items + 1);
        assert!(answers[..items].iter().all(|answer| answer["type"] == "call.responded"));
        assert_eq!(answers[items]["type"], end);
    }
    // After the caller's abort there is nothing, not even an end.
    let mut peer = Peer::open(&server(options())).await;
    peer.write(request("a", "/t/never", json!(5))).await;
    peer.write(json!({"type": "call.aborted", "id": "a", "payload": {}})).await;
    assert_eq!(peer.rest().await, [] as [Value; 0]);
}

#[tokio::test]
async fn c12_c19_a_subscription_loses_nothing_and_completes() {
    let (client, _server) = both(options());
    let mut items = client.subscribe("t/count", json!(10_000)).await.unwrap();
    for n in 0..10_000u32 {
        assert_eq!(items.next().await.unwrap().unwrap().to_string(), n.to_string());
    }
    assert!(items.next().await.is_none());
    let refused = client.subscribe("t/echo", Json::null()).await.err().unwrap();
    assert_eq!(refused.code, "INVALID_OPERATION_TYPE");
    let mut unknown = client.subscribe("t/none", Json::null()).await.unwrap();
    assert_eq!(unknown.next().await.unwrap().unwrap_err().code, "NOT_FOUND");
}

#[tokio::test]
async fn an_answer_without_its_shape_fails_its_call() {
    let result = answered(async |_, mut peer, asked| {
        peer.write(json!({"type": "call.responded", "id": asked["id"], "payload": {}})).await;
        std::future::pending::<()>().await;
        drop(peer);
    });
    assert_eq!(result.await.unwrap_err().code, "INTERNAL");
}

#[tokio::test]
async fn c50_a_dropped_call_sends_an_abort() {
    let (near, far) = pair(ALPN);
    let client = run(near, options());
    let mut call = Box::pin(client.call("t/x", Json::null()));
    let mut peer = tokio::select! {
        _ = &mut call => panic!("nobody answers"),
        peer = Peer::accept(&far) => peer,
    };
    let asked = peer.next().await.unwrap();
    drop(call);
    let aborted = peer.next().await.unwrap();
    assert_eq!((&aborted["type"], &aborted["id"]), (&json!("call.aborted"), &asked["id"]));
    assert_eq!(aborted["payload"]["policy"], "abort-dependents");
}

#[tokio::test]
async fn c53_an_abort_by_the_other_side_surfaces_as_aborted() {
    let result = answered(async |_, mut peer, asked| {
        let why = json!({"reason": "going away"});
        peer.write(json!({"type": "call.aborted", "id": asked["id"], "payload": why})).await;
        std::future::pending::<()>().await;
        drop(peer);
    });
    let error = result.await.unwrap_err();
    assert_eq!((&*error.code, &*error.message), ("ABORTED", "going away"));
}

#[tokio::test]
async fn a_call_aborted_by_its_id_fails_and_tells_the_other_side() {
    let (near, far) = pair(ALPN);
    let client = run(near, options());
    let call = client.call("t/x", Json::null());
    let aborting = async {
        let mut peer = Peer::accept(&far).await;
        let asked = peer.next().await.unwrap();
        client.abort(asked["id"].as_str().unwrap(), AbortPolicy::ContinueRunning);
        let told = peer.next().await.unwrap();
        assert_eq!(told["payload"]["policy"], "continue-running");
    };
    let (result, ()) = tokio::join!(call, aborting);
    assert_eq!(result.unwrap_err().code, "ABORTED");
}

#[tokio::test(start_paused = true)]
async fn a_client_enforces_its_own_timeout_and_aborts() {
    let (near, far) = pair(ALPN);
    let client = run(near, options());
    let limit = CallOptions { timeout: Some(Duration::from_millis(250)), ..Default::default() };
    let start = tokio::time::Instant::now();
    let playing = async {
        let mut peer = Peer::accept(&far).await;
        let asked = peer.next().await.unwrap();
        assert_eq!(asked["payload"]["timeout_ms"], 250);
        assert_eq!(peer.next().await.unwrap()["type"], "call.aborted");
    };
    let (result, ()) = tokio::join!(client.call_with("t/x", Json::null(), limit), playing);
    let error = result.unwrap_err();
    assert_eq!((&*error.code, error.retryable), ("TIMEOUT", true));
    assert_eq!(start.elapsed().as_millis() / 10, 25);
}

#[tokio::test]
async fn a_second_item_shows_a_subscription_and_aborts_it() {
    let (near, far) = pair(ALPN);
    let client = run(near, options());
    let playing = async {
        let mut peer = Peer::accept(&far).await;
        let asked = peer.next().await.unwrap();
        peer.write(response(&asked, json!(1))).await;
        peer.write(response(&asked, json!(2))).await;
        let aborted = peer.next().await.unwrap();
        assert_eq!((&aborted["type"], &aborted["id"]), (&json!("call.aborted"), &asked["id"]));
    };
    let (result, ()) = tokio::join!(client.call("t/x", Json::null()), playing);
    assert_eq!(result.unwrap().to_string(), "1");
}

#[tokio::test]
async fn what_is_too_large_to_be_sent_fails_its_call_alone() {
    let (near, far) = pair(ALPN);
    let limits = alknet_call_protocol::Limits { max_frame: 4096, ..Default::default() };
    let client = run(near, options().limits(limits));
    let _server = run(far, serving(operations()).limits(limits));
    let error = client.call("t/long", json!(5000)).await.unwrap_err();
    assert_eq!(error.code, "INTERNAL");
    let error = client.call("t/echo", json!("x".repeat(5000))).await.unwrap_err();
    assert_eq!(error.code, "INVALID_INPUT");
    assert_eq!(client.call("t/echo", json!(1)).await.unwrap().to_string(), "1");
}
