//! Over a WebSocket, between the library and itself or a client that others wrote.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use alknet_call_protocol::websocket::{CODES, WebSocket};
use alknet_call_protocol::{ALPN, CallConnection, Limits, Options};
use alknet_plugin_api::{Closed, Connection, ConnectionInfo, Json, Source};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::DuplexStream;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::peer::{Tokio, options, request, run, settle};
use crate::pressure::endless;

/// The largest message.
const LIMIT: usize = 2000;
const SILENCE: Duration = Duration::from_secs(40);

fn info() -> ConnectionInfo {
    let alpn = ALPN.to_owned();
    ConnectionInfo { id: 1, source: Source::Memory, alpn, remote_addr: None, peer_key: None }
}

async fn opened(socket: WebSocket, stream: DuplexStream) -> Connection {
    let (connection, socket) = socket.max_frame(LIMIT).silence(SILENCE).open(stream).await;
    tokio::spawn(socket);
    connection
}

/// A client and a server.
async fn both(client: Options, server: Options) -> (CallConnection, CallConnection) {
    let (near, far) = tokio::io::duplex(4096);
    let near = opened(WebSocket::client(info(), Arc::new(Tokio)), near).await;
    let far = opened(WebSocket::server(info(), Arc::new(Tokio)), far).await;
    let limits = Limits { max_frame: LIMIT, ..Limits::default() };
    (run(near, client.limits(limits)), run(far, server.limits(limits)))
}

/// A server, and a WebSocket of somebody else's to it.
async fn foreign() -> (WebSocketStream<DuplexStream>, CallConnection) {
    let (near, far) = tokio::io::duplex(4096);
    let far = opened(WebSocket::server(info(), Arc::new(Tokio)), far).await;
    (WebSocketStream::from_raw_socket(near, Role::Client, None).await, run(far, options()))
}

async fn closed(calls: &CallConnection) -> Closed {
    calls.connection().closed().await
}

#[tokio::test]
async fn c04_c13_both_sides_call_over_one_socket() {
    let (client, server) = both(options(), options()).await;
    for (one, name) in [(&client, "client"), (&server, "server")] {
        assert_eq!(one.call("t/echo", json!(name)).await.unwrap(), Json::from(json!(name)));
        let mut items = one.subscribe("t/count", json!(100)).await.unwrap();
        for n in 0..100 {
            assert_eq!(items.next().await.unwrap().unwrap(), Json::from(json!(n)));
        }
        assert!(items.next().await.is_none());
        assert_eq!(one.call("t/fail", json!(0)).await.unwrap_err().code, "LOCKED");
        // An answer above the limit fails its call alone.
        let error = one.call("t/long", json!(3000)).await.unwrap_err();
        assert_eq!(error.code, "INTERNAL");
        assert!(error.message.contains("limit of 2000"), "{}", error.message);
        let error = one.call("t/echo", json!("x".repeat(3000))).await.unwrap_err();
        assert_eq!(error.code, "INVALID_INPUT");
    }
    let (pending, ()) = tokio::join!(server.call("t/never", json!(0)), async {
        tokio::task::yield_now().await;
        client.connection().close(0, "enough");
    });
    assert_eq!(pending.unwrap_err().message, "connection closed");
    assert_eq!(closed(&server).await, Closed { code: Some(1000), reason: "enough".into() });
}

#[tokio::test]
async fn c04_c19_a_consumer_that_pauses_holds_the_whole_socket() {
    for side in ["client", "server"] {
        let (serving_endless, made) = endless();
        let (client, server) = match side {
            "client" => both(options(), serving_endless).await,
            _ => both(serving_endless, options()).await,
        };
        let consumer = if side == "client" { &client } else { &server };
        let mut items = consumer.subscribe("t/endless", Json::null()).await.unwrap();
        let ahead = settle(|| made.load(Relaxed)).await;
        assert!((32..400).contains(&ahead), "{side}: {ahead} items of 1 KiB wait");
        for n in 0..10_000 {
            let item: (usize, String) = items.next().await.unwrap().unwrap().to().unwrap();
            assert_eq!(item.0, n, "{side}");
        }
        assert!(items.next().await.is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn c04_a_peer_that_answers_no_ping_is_dead_and_one_that_does_is_not() {
    let (mut socket, server) = foreign().await;
    // It reads, and so answers.
    let idle = timeout(50 * SILENCE, socket.next()).await.unwrap().unwrap().unwrap();
    assert!(idle.is_ping(), "{idle:?}");
    for _ in 0..500 {
        let ping = timeout(SILENCE, socket.next()).await.unwrap().unwrap().unwrap();
        assert!(ping.is_ping(), "{ping:?}");
    }
    assert!(!server.is_closed());
    // Then it does not.
    let ended = timeout(2 * SILENCE, closed(&server)).await.unwrap();
    assert_eq!(ended.code, Some(1008));
    assert!(CODES.iter().any(|(code, _)| *code == 1008));
}

#[tokio::test(start_paused = true)]
async fn c04_a_peer_that_holds_up_what_it_is_sent_is_not_silent() {
    let (mut socket, server) = foreign().await;
    let subscribe = request("1", "t/count", json!(10_000)).to_string();
    socket.send(Message::Binary(subscribe.into())).await.unwrap();
    tokio::time::sleep(100 * SILENCE).await;
    assert!(!server.is_closed());
    for n in 0..10_000 {
        let message = socket.next().await.unwrap().unwrap();
        if message.is_binary() {
            let answer: Value = serde_json::from_slice(&message.into_data()).unwrap();
            assert_eq!(answer["payload"]["output"], n);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn c04_pings_that_are_never_answered_to_cost_no_memory_and_no_turn() {
    let (mut socket, server) = foreign().await;
    // It never reads, so that answers have nowhere to go.
    let flood = async {
        for _ in 0..20_000 {
            socket.send(Message::Ping(vec![7; 125].into())).await.unwrap();
        }
    };
    timeout(SILENCE, flood).await.unwrap();
    let echo = request("1", "t/echo", json!("there")).to_string();
    socket.send(Message::Binary(echo.into())).await.unwrap();
    let mut pongs = 0;
    loop {
        let message = timeout(SILENCE, socket.next()).await.unwrap().unwrap().unwrap();
        match message {
            Message::Pong(_) => pongs += 1,
            Message::Binary(answer) => {
                let answer: Value = serde_json::from_slice(&answer).unwrap();
                assert_eq!(answer["payload"]["output"], "there");
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    // What the stream and the socket's buffer hold, and not one for each.
    assert!((1..1000).contains(&pongs), "{pongs} answers");
    assert!(!server.is_closed());
}
