//! How streams, connections and nodes end.

use std::sync::Arc;
use std::time::Duration;

use alknet_call_protocol::{ALPN, CallClient, LocalOperations, Options};
use alknet_plugin_api::testing::{Pair, PairControl, pair};
use alknet_plugin_api::{Connection, Json, OperationSpec};
use serde_json::json;
use tokio::sync::{Notify, mpsc};

use crate::peer::{Peer, both, operations, options, request, run, server, serving};

/// Operations with one, `t/held`, that says when it starts and never ends by
/// itself. The receiver's channel closes when all of its calls are gone.
fn held() -> (Options, mpsc::Receiver<mpsc::Sender<()>>) {
    let (starts, started) = mpsc::channel(8);
    let local = operations().operation(OperationSpec::query("t/held"), move |_| {
        let starts = starts.clone();
        async move {
            let (guard, gone) = mpsc::channel::<()>(1);
            starts.send(guard).await.unwrap();
            std::future::pending::<()>().await;
            drop(gone);
            Ok(Json::null())
        }
    });
    (serving(local), started)
}

#[tokio::test]
async fn c14_a_lost_connection_fails_its_calls() {
    let (client, server) = both(options());
    let call = client.call("t/never", Json::null());
    let close = async {
        client.call("t/echo", Json::null()).await.unwrap();
        server.connection().close(0, "bye");
        std::future::pending::<()>().await;
    };
    let error = tokio::select! { r = call => r.unwrap_err(), () = close => unreachable!() };
    assert_eq!((&*error.code, &*error.message), ("INTERNAL", "connection closed"));
    let error = client.call("t/echo", Json::null()).await.unwrap_err();
    assert_eq!((&*error.code, &*error.message), ("INTERNAL", "connection closed"));
}

#[tokio::test]
async fn c14_a_vanished_peer_fails_calls_on_every_stream() {
    let (near, far, control) = Pair::new(ALPN).build();
    let client = run(near, options());
    let _server = run(far, options());
    let mut items = client.subscribe("t/count", json!(1_000_000)).await.unwrap();
    items.next().await.unwrap().unwrap();
    let call = client.call("t/never", Json::null());
    let cut = async {
        client.call("t/echo", Json::null()).await.unwrap();
        control.time_out();
        std::future::pending::<()>().await;
    };
    let error = tokio::select! { r = call => r.unwrap_err(), () = cut => unreachable!() };
    assert_eq!((&*error.code, &*error.message), ("INTERNAL", "connection closed"));
    let error = loop {
        if let Err(error) = items.next().await.expect("an end without a word") {
            break error;
        }
    };
    assert_eq!((&*error.code, &*error.message), ("INTERNAL", "connection closed"));
}

#[tokio::test]
async fn c15_an_answer_stream_that_ends_early_fails_its_calls_alone() {
    for reset in [false, true] {
        let (near, far) = pair(ALPN);
        let client = run(near, options());
        let playing = async {
            let mut peer = Peer::accept(&far).await;
            peer.next().await.unwrap();
            if reset {
                peer.send.reset(7)
            } else {
                peer.send.finish().unwrap()
            }
            peer
        };
        let (result, _peer) = tokio::join!(client.call("t/x", Json::null()), playing);
        let error = result.unwrap_err();
        assert_eq!((&*error.code, &*error.message), ("INTERNAL", "stream ended"));
        // The next call has a stream of its own.
        let playing = async {
            let mut peer = Peer::accept(&far).await;
            let id = peer.next().await.unwrap()["id"].clone();
            peer.write(json!({"type": "call.responded", "id": id, "payload": {"output": 1}})).await;
            peer
        };
        let (result, _peer) = tokio::join!(client.call("t/x", Json::null()), playing);
        assert_eq!(result.unwrap().to_string(), "1");
    }
}

#[tokio::test]
async fn resetting_a_stream_or_stopping_its_answers_aborts_its_calls_alone() {
    let (options, mut started) = held();
    let connection = server(options);
    let mut other = Peer::open(&connection).await;
    other.write(request("other", "/t/held", json!(1))).await;
    let survivor = started.recv().await.unwrap();
    for stop in [false, true] {
        let mut peer = Peer::open(&connection).await;
        peer.write(request("a", "/t/held", json!(1))).await;
        let guard = started.recv().await.unwrap();
        if stop {
            peer.recv.stop(0)
        } else {
            peer.send.reset(0)
        }
        guard.closed().await;
        assert!(!survivor.is_closed());
    }
    // Finishing the sending side, by contrast, aborts nothing.
    other.send.finish().unwrap();
    other.send.stopped().await.unwrap();
    assert!(!survivor.is_closed());
}

#[tokio::test]
async fn c47_an_abort_on_any_stream_drops_the_operation() {
    let (options, mut started) = held();
    let connection = server(options);
    let mut peer = Peer::open(&connection).await;
    peer.write(request("a", "/t/held", json!(1))).await;
    let guard = started.recv().await.unwrap();
    let mut other = Peer::open(&connection).await;
    other.write(json!({"type": "call.aborted", "id": "a", "payload": {}})).await;
    guard.closed().await;
    assert!(peer.rest().await.is_empty());
}

#[tokio::test]
async fn c51_closing_a_connection_cancels_its_inbound_calls_and_no_others() {
    let (options, mut started) = held();
    let (first, second) = (server(options.clone()), server(options));
    let mut peers = Vec::new();
    let mut guards = Vec::new();
    for connection in [&first, &second] {
        let mut peer = Peer::open(connection).await;
        peer.write(request("a", "/t/held", json!(1))).await;
        guards.push(started.recv().await.unwrap());
        peers.push(peer);
    }
    first.close(0, "done");
    guards[0].closed().await;
    assert!(!guards[1].is_closed());
}

/// A server that is closed the moment its driver says that it is done, as a node
/// does, over a connection that loses what has not arrived.
fn draining(options: Options) -> (Connection, PairControl) {
    let (near, far, control) = Pair::new(ALPN).build();
    let (_, driver) = CallClient::spawn_dispatch(far.clone(), options);
    tokio::spawn(async move {
        driver.await;
        far.close(0, "drained");
    });
    (near, control)
}

#[tokio::test]
async fn a_drain_lets_calls_end_and_their_answers_arrive() {
    let release = Arc::new(Notify::new());
    let released = release.clone();
    let local = LocalOperations::new().operation(OperationSpec::query("t/gate"), move |_| {
        let released = released.clone();
        async move {
            released.notified().await;
            Ok(Json::from(json!("x".repeat(200_000))))
        }
    });
    let (connection, control) = draining(serving(local));
    let mut peer = Peer::open(&connection).await;
    peer.write(request("a", "/t/gate", json!(1))).await;
    peer.write(request("b", "/services/list", json!({}))).await;
    peer.next().await.unwrap();
    control.begin_shutdown();
    // It runs on, and says so; what comes after is turned away.
    loop {
        peer.write(request("late", "/services/list", json!({}))).await;
        let answer = peer.next().await.unwrap();
        if answer["type"] == "call.aborted" {
            break;
        }
    }
    release.notify_one();
    let answer = peer.next().await.unwrap();
    assert_eq!(answer["id"], "a");
    assert_eq!(answer["payload"]["output"].as_str().unwrap().len(), 200_000);
    assert!(peer.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_drain_aborts_what_runs_too_long_and_says_so() {
    let (connection, control) = draining(options());
    let mut peer = Peer::open(&connection).await;
    peer.write(request("a", "/t/never", json!(1))).await;
    peer.write(request("b", "/t/echo", json!(1))).await;
    peer.next().await.unwrap();
    let start = tokio::time::Instant::now();
    control.begin_shutdown();
    let answer = peer.next().await.unwrap();
    assert_eq!((&answer["type"], &answer["id"]), (&json!("call.aborted"), &json!("a")));
    assert!(peer.next().await.is_none());
    assert!(start.elapsed() >= Duration::from_millis(1500));
}

#[tokio::test]
async fn a_drain_loses_nothing_of_an_answer_that_is_being_sent() {
    let (connection, control) = draining(options());
    let mut peer = Peer::open(&connection).await;
    peer.write(request("a", "/t/long", json!(300_000))).await;
    peer.send.finish().unwrap();
    let mut first = [0; 100];
    let n = peer.recv.read(&mut first).await.unwrap().unwrap();
    control.begin_shutdown();
    let rest = peer.recv.read_to_end(400_000).await.unwrap();
    let size = u32::from_be_bytes(first[..4].try_into().unwrap());
    assert_eq!(size as usize + 4, n + rest.len());
    assert!(rest.ends_with(b"xxx\"}}"));
}

#[tokio::test]
async fn answers_that_arrived_before_the_connection_closed_reach_their_calls() {
    let (near, far, _) = Pair::new(ALPN).lossy_close(false).build();
    let client = run(near, options());
    let calls = async {
        let all = (0..500).map(|n| ("t/x".to_owned(), Json::from(json!(n))));
        for answer in client.batch(all).await {
            assert_eq!(answer.unwrap().to_string(), "1");
        }
    };
    let playing = async {
        let mut peer = Peer::accept(&far).await;
        let mut ids = Vec::new();
        for _ in 0..500 {
            ids.push(peer.next().await.unwrap()["id"].clone());
        }
        let answer = |id| json!({"type": "call.responded", "id": id, "payload": {"output": 1}});
        let bytes: Vec<u8> =
            ids.into_iter().flat_map(|id| crate::peer::framed(answer(id).to_string())).collect();
        // Less than the transport holds: all of it is there when the end comes.
        assert!(bytes.len() < 64 * 1024);
        peer.send.write_all(&bytes).await.unwrap();
        far.close(0, "done");
    };
    tokio::join!(calls, playing);
}

#[tokio::test(start_paused = true)]
async fn a_drain_waits_a_moment_for_a_slow_reader_of_the_last_answers() {
    let (connection, control) = draining(options());
    let mut peer = Peer::open(&connection).await;
    peer.write(request("a", "/t/never", json!(1))).await;
    peer.write(request("b", "/t/long", json!(300_000))).await;
    let mut first = [0; 100];
    let n = peer.recv.read(&mut first).await.unwrap().unwrap();
    control.begin_shutdown();
    // After the calls' time, and before the answers'.
    tokio::time::sleep(Duration::from_millis(1700)).await;
    let rest = peer.recv.read_to_end(400_000).await.unwrap();
    assert!(n + rest.len() > 300_000);
    let last = String::from_utf8_lossy(&rest[rest.len() - 120..]).into_owned();
    assert!(last.contains("call.aborted") && last.contains("shutting down"), "{last}");
}
