//! More than one side can take: limits, back-pressure, bounded memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use alknet_plugin_api::{Json, OperationSpec, StreamError};
use futures_util::stream::FuturesUnordered;
use futures_util::{StreamExt, stream};
use serde_json::json;
use tokio::sync::Semaphore;

use crate::peer::{Peer, both, framed, operations, options, request, run, server, serving, settle};

/// Items of 1 KiB without end, and how many of them were taken.
pub(crate) fn endless() -> (alknet_call_protocol::Options, Arc<AtomicUsize>) {
    let made = Arc::new(AtomicUsize::new(0));
    let counter = made.clone();
    let local = operations().subscription(OperationSpec::subscription("t/endless"), move |_| {
        let counter = counter.clone();
        stream::iter(0..10_000).map(move |n| {
            counter.fetch_add(1, Relaxed);
            Ok(Json::from(json!([n, "x".repeat(1000)])))
        })
    });
    (serving(local), made)
}

#[tokio::test]
async fn c19_ten_thousand_items_to_a_paused_consumer_lose_nothing_in_bounded_memory() {
    let (options, made) = endless();
    let (client, _server) = both(options);
    let mut items = client.subscribe("t/endless", Json::null()).await.unwrap();
    let ahead = settle(|| made.load(Relaxed)).await;
    // The transport's buffer, two of the writer's, one of the reader's, 32 items.
    assert!((32..400).contains(&ahead), "{ahead} items of 1 KiB wait");
    // The rest of the connection goes on.
    assert_eq!(client.call("t/echo", json!(1)).await.unwrap().to_string(), "1");
    assert_eq!(made.load(Relaxed), ahead);
    for n in 0..10_000 {
        let item: (usize, String) = items.next().await.unwrap().unwrap().to().unwrap();
        assert_eq!(item.0, n);
    }
    assert!(items.next().await.is_none());
}

#[tokio::test]
async fn c19_the_accepting_side_is_no_faster_a_consumer_than_it_wants_to_be() {
    let (serving_endless, made) = endless();
    let (near, far) = alknet_plugin_api::testing::pair(alknet_call_protocol::ALPN);
    let (dialling, accepting) = (run(near, serving_endless), run(far, options()));
    let mut items = accepting.subscribe("t/endless", Json::null()).await.unwrap();
    let ahead = settle(|| made.load(Relaxed)).await;
    assert!((32..400).contains(&ahead), "{ahead} items of 1 KiB wait");
    assert_eq!(dialling.call("t/echo", json!(1)).await.unwrap().to_string(), "1");
    for n in 0..10_000 {
        let item: (usize, String) = items.next().await.unwrap().unwrap().to().unwrap();
        assert_eq!(item.0, n);
    }
    assert!(items.next().await.is_none());
}

#[tokio::test]
async fn a_client_that_never_reads_suspends_its_subscriptions() {
    let (options, made) = endless();
    let connection = server(options);
    let mut peer = Peer::open(&connection).await;
    for n in 0..20 {
        peer.write(request(&n.to_string(), "/t/endless", json!(1))).await;
    }
    let ahead = settle(|| made.load(Relaxed)).await;
    assert!((64..600).contains(&ahead), "{ahead} items of 1 KiB wait");
    // An abort is heard all the same.
    peer.write(json!({"type": "call.aborted", "id": "7", "payload": {}})).await;
    peer.write(request("7", "/t/never", json!(1))).await;
    let mut other = Peer::open(&connection).await;
    other.write(request("x", "/t/echo", json!(5))).await;
    assert_eq!(other.next().await.unwrap()["payload"]["output"], 5);
}

#[tokio::test]
async fn c20_the_257th_call_in_flight_is_refused_and_the_others_go_on() {
    let gate = Arc::new(Semaphore::new(0));
    let opened = gate.clone();
    let local = operations().operation(OperationSpec::query("t/gate"), move |input| {
        let gate = opened.clone();
        async move {
            gate.acquire().await.unwrap().forget();
            Ok(input)
        }
    });
    let mut peer = Peer::open(&server(serving(local))).await;
    for n in 0..257 {
        peer.write(request(&n.to_string(), "/t/gate", json!(n))).await;
    }
    let refused = peer.next().await.unwrap();
    assert_eq!(refused["id"], "256");
    assert_eq!(refused["payload"]["code"], "RESOURCE_EXHAUSTED");
    assert_eq!(refused["payload"]["retryable"], true);
    gate.add_permits(256);
    for _ in 0..256 {
        assert_eq!(peer.next().await.unwrap()["type"], "call.responded");
    }
    peer.write(request("again", "/t/echo", json!(1))).await;
    assert_eq!(peer.next().await.unwrap()["id"], "again");
}

#[tokio::test]
async fn a_burst_of_ten_thousand_calls_to_a_slow_operation_is_refused_without_a_reset() {
    let gate = Arc::new(Semaphore::new(0));
    let opened = gate.clone();
    let local = operations().operation(OperationSpec::query("t/gate"), move |input| {
        let gate = opened.clone();
        async move {
            gate.acquire().await.unwrap().forget();
            Ok(input)
        }
    });
    let (client, _server) = both(serving(local));
    let mut calls: FuturesUnordered<_> =
        (0..10_000).map(|n| client.call("t/gate", json!(n))).collect();
    for _ in 0..10_000 - 256 {
        let error = calls.next().await.unwrap().unwrap_err();
        assert_eq!(error.code, "RESOURCE_EXHAUSTED", "{error:?}");
    }
    gate.add_permits(256);
    while let Some(answer) = calls.next().await {
        answer.unwrap();
    }
}

#[tokio::test]
async fn ten_thousand_quick_calls_at_once_are_all_answered() {
    let (client, _server) = both(options());
    let calls = (0..10_000).map(|n| ("t/echo".to_owned(), Json::from(json!(n))));
    for (n, answer) in client.batch(calls).await.into_iter().enumerate() {
        assert_eq!(answer.unwrap().to_string(), n.to_string());
    }
}

#[tokio::test]
async fn a_late_reader_of_many_refusals_gets_them_all() {
    let connection = server(options());
    let Peer { mut send, recv, .. } = Peer::open(&connection).await;
    let writing = tokio::spawn(async move {
        for n in 0..5_000 {
            let text = request(&n.to_string(), "/t/none", json!({}));
            // Malformed: no operation.
            let text = text.to_string().replace("operationId", "operation");
            send.write_all(&framed(text)).await?;
        }
        send.finish()
    });
    settle(|| writing.is_finished()).await;
    let mut recv = recv;
    let all = recv.read_to_end(8 << 20).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&all).matches("INVALID_INPUT").count(), 5_000);
    writing.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_client_that_reads_no_refusals_is_stopped_and_then_reset() {
    let connection = server(options());
    let Peer { mut send, mut recv, .. } = Peer::open(&connection).await;
    let start = tokio::time::Instant::now();
    let sent = Arc::new(AtomicUsize::new(0));
    let counter = sent.clone();
    let writing = tokio::spawn(async move {
        loop {
            let one = framed(r#"{"type":"call.requested","id":"a","payload":{}}"#);
            if let Err(error) = send.write_all(&one).await {
                return error;
            }
            counter.fetch_add(1, Relaxed);
        }
    });
    let error = writing.await.unwrap();
    assert!(matches!(error, StreamError::Stopped(3)), "{error:?}");
    assert!(start.elapsed() >= Duration::from_secs(10));
    assert!(sent.load(Relaxed) < 8_000, "{sent:?}");
    let end = recv.read_to_end(8 << 20).await;
    assert!(matches!(end, Err(StreamError::Reset(3))), "{end:?}");
}

#[tokio::test]
async fn a_flood_of_answers_does_not_keep_requests_from_being_sent_on_its_stream() {
    let (feeding, _) = endless();
    let (near, far) = alknet_plugin_api::testing::pair(alknet_call_protocol::ALPN);
    let calling = crate::peer::run(far, feeding);
    let calls = async {
        for n in 0..20 {
            calling.call("t/x", json!(n)).await.unwrap();
        }
    };
    let answering = async {
        let mut peer = Peer::accept(&near).await;
        // Its calls come on the stream on which this side subscribes.
        peer.write(request("flood", "/t/endless", json!(1))).await;
        let (mut items, mut asked) = (0, 0);
        while asked < 20 {
            let envelope = peer.next().await.unwrap();
            match envelope["type"].as_str() {
                Some("call.responded") => items += 1,
                Some("call.requested") => {
                    asked += 1;
                    let (id, output) = (&envelope["id"], json!({"output": 1}));
                    peer.write(json!({"type": "call.responded", "id": id, "payload": output}))
                        .await;
                }
                _ => panic!("{envelope}"),
            }
        }
        assert!(items < 10_000, "the calls waited for the end of the flood");
        peer
    };
    let ((), _peer) = tokio::join!(calls, answering);
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_of_refusals_is_never_reset() {
    let connection = server(options());
    let Peer { mut send, mut recv, .. } = Peer::open(&connection).await;
    let writing = tokio::spawn(async move {
        let one = framed(r#"{"type":"call.requested","id":"a","payload":{}}"#);
        for _ in 0..20_000 {
            send.write_all(&one).await?;
        }
        Ok::<_, StreamError>(send)
    });
    let mut chunk = [0; 4096];
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_secs(6)).await;
        recv.read(&mut chunk).await.unwrap().unwrap();
    }
    assert!(!writing.is_finished());
    let reading = tokio::spawn(async move { recv.read_to_end(8 << 20).await });
    writing.await.unwrap().unwrap().finish().unwrap();
    reading.await.unwrap().unwrap();
}
