//! The call protocol's rules over a pair of connections in memory.

use std::sync::Arc;
use std::time::Duration;

use alknet_call_protocol::frame::{FrameDecoder, FrameError};
use alknet_call_protocol::{ALPN, CallClient, CallConnection, LocalOperations, Options, Timer};
use alknet_plugin_api::testing::pair;
use alknet_plugin_api::{CallError, Connection, Json, OperationSpec, StreamError};
use futures_util::future::BoxFuture;
use futures_util::{StreamExt, stream};

struct Tokio;
impl Timer for Tokio {
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(duration))
    }
}

fn operations() -> Arc<LocalOperations> {
    let local = LocalOperations::new()
        .operation(OperationSpec::query("t/echo"), |input| async move { Ok(input) })
        .operation(OperationSpec::query("t/never"), |_| std::future::pending())
        .operation(OperationSpec::query("t/fail"), |_| async {
            Err(CallError::new("LOCKED", "held").retryable(true))
        })
        .subscription(OperationSpec::subscription("t/count"), |_| {
            stream::iter(0..10_000u32).map(|n| Ok(Json::from(serde_json::json!(n))))
        });
    Arc::new(local)
}

fn options() -> Options {
    Options::new(Arc::new(Tokio)).serve(operations())
}

fn both() -> (CallConnection, CallConnection) {
    let (client, server) = pair(ALPN);
    let (client, driver) = CallClient::spawn_dispatch(client, options());
    tokio::spawn(driver);
    let (server, driver) = CallClient::spawn_dispatch(server, options());
    tokio::spawn(driver);
    (client, server)
}

fn server() -> Connection {
    let (client, server) = pair(ALPN);
    let (_, driver) = CallClient::spawn_dispatch(server, options());
    tokio::spawn(driver);
    client
}

async fn reset_of(bytes: &[u8], finish: bool) -> u64 {
    let connection = server();
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    send.write_all(bytes).await.unwrap();
    if finish {
        send.finish().unwrap();
    }
    match recv.read_to_end(1 << 20).await {
        Err(StreamError::Reset(code)) => code,
        other => panic!("{other:?}"),
    }
}

fn framed(text: &str) -> Vec<u8> {
    [&(text.len() as u32).to_be_bytes(), text.as_bytes()].concat()
}

#[test]
fn c01_a_run_of_frames_comes_out_as_it_went_in() {
    let mut decoder = FrameDecoder::new(100);
    decoder.buffer().extend_from_slice(&[framed("{}"), framed("[1]")].concat());
    assert_eq!(decoder.next_frame().unwrap().unwrap(), "{}");
    assert_eq!(decoder.next_frame().unwrap().unwrap(), "[1]");
    assert_eq!(decoder.finish(), Ok(()));
}

#[test]
fn c03_a_declared_length_is_not_allocated() {
    let mut decoder = FrameDecoder::new(1 << 20);
    decoder.buffer().extend_from_slice(&(1u32 << 20).to_be_bytes());
    decoder.buffer().extend_from_slice(&[b' '; 10]);
    assert_eq!(decoder.next_frame(), Ok(None));
    assert!(decoder.buffer().capacity() < 1024);
    assert_eq!(decoder.finish(), Err(FrameError::Truncated));
}

#[tokio::test]
async fn c02_bad_frames_reset_their_stream() {
    assert_eq!(reset_of(&[0, 0, 0, 0], false).await, 1);
    assert_eq!(reset_of(&[0xff, 0, 0, 0], false).await, 1);
    assert_eq!(reset_of(&[0, 0, 0, 9, b'{'], true).await, 1);
}

#[tokio::test]
async fn c06_requests_that_cannot_be_answered_reset_their_stream() {
    assert_eq!(reset_of(&framed("nonsense"), false).await, 2);
    assert_eq!(reset_of(&framed(r#"{"type":"call.requested","payload":{}}"#), false).await, 2);
}

#[tokio::test]
async fn c06_a_malformed_request_with_an_id_is_answered() {
    let connection = server();
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    send.write_all(&framed(r#"{"type":"later","id":"x","payload":{},"more":1}"#)).await.unwrap();
    send.write_all(&framed(r#"{"type":"call.requested","id":"a","payload":{}}"#)).await.unwrap();
    send.finish().unwrap();
    let answer = recv.read_to_end(4096).await.unwrap();
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.contains("INVALID_INPUT") && answer.contains(r#""id":"a""#), "{answer}");
}

#[tokio::test]
async fn c09_an_id_in_flight_resets_the_stream() {
    let never =
        r#"{"type":"call.requested","id":"a","payload":{"operationId":"/t/never","input":1}}"#;
    assert_eq!(reset_of(&[framed(never), framed(never)].concat(), false).await, 2);
}

#[tokio::test]
async fn c10_c13_both_sides_call_and_a_slow_call_delays_none() {
    let (client, server) = both();
    for side in [&client, &server] {
        let slow = side.call("t/never", Json::null());
        let fast = side.call("t/echo", serde_json::json!({"a": 1}));
        tokio::select! {
            _ = slow => panic!("it never answers"),
            answer = fast => assert_eq!(answer.unwrap().to_string(), r#"{"a":1}"#),
        }
    }
    let error = client.call("t/fail", Json::null()).await.unwrap_err();
    assert_eq!((&*error.code, error.retryable), ("LOCKED", true));
}

#[tokio::test]
async fn c14_a_lost_connection_fails_its_calls() {
    let (client, server) = both();
    let call = client.call("t/never", Json::null());
    let close = async {
        client.call("t/echo", Json::null()).await.unwrap();
        server.connection().close(0, "bye");
        std::future::pending::<()>().await;
    };
    let error = tokio::select! { r = call => r.unwrap_err(), () = close => unreachable!() };
    assert_eq!((&*error.code, &*error.message), ("INTERNAL", "connection closed"));
}

#[tokio::test]
async fn c12_c19_a_subscription_loses_nothing_and_completes() {
    let (client, _server) = both();
    let mut items = client.subscribe("t/count", Json::null()).await.unwrap();
    for n in 0..10_000u32 {
        assert_eq!(items.next().await.unwrap().unwrap().to_string(), n.to_string());
    }
    assert!(items.next().await.is_none());
    let refused = client.subscribe("t/echo", Json::null()).await.err().unwrap();
    assert_eq!(refused.code, "INVALID_OPERATION_TYPE");
}

#[tokio::test]
async fn ten_thousand_calls_at_once_are_all_answered() {
    let (client, _server) = both();
    let calls = (0..10_000).map(|n| ("t/echo".to_owned(), Json::from(serde_json::json!(n))));
    for (n, answer) in client.batch(calls).await.into_iter().enumerate() {
        assert_eq!(answer.unwrap().to_string(), n.to_string());
    }
}

#[test]
fn mutated_input_neither_panics_nor_decodes_differently_when_split() {
    let seed = framed(
        r#"{"type":"call.requested","id":"a","payload":{"operationId":"/t/echo","input":[1,"\u00e9"],"timeout_ms":5}}"#,
    );
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..5_000 {
        let mut data = seed.clone();
        for _ in 0..3 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let at = (random >> 33) as usize % data.len();
            data[at] = (random >> 20) as u8;
        }
        alknet_call_protocol::fuzz::fuzz_frame(&data);
        alknet_call_protocol::fuzz::fuzz_envelope(&data[4..]);
    }
    alknet_call_protocol::fuzz::fuzz_envelope(&seed[4..]);
}

#[tokio::test]
async fn c50_a_dropped_call_sends_an_abort() {
    let (client, server) = pair(ALPN);
    let (client, driver) = CallClient::spawn_dispatch(client, options());
    tokio::spawn(driver);
    let mut call = Box::pin(client.call("t/x", Json::null()));
    let (_send, mut recv) = tokio::select! {
        _ = &mut call => panic!("nobody answers"),
        streams = server.accept_bi() => streams.unwrap(),
    };
    drop(call);
    let mut seen = Vec::new();
    while !String::from_utf8_lossy(&seen).contains("call.aborted") {
        let mut chunk = [0; 512];
        let n = recv.read(&mut chunk).await.unwrap().unwrap();
        seen.extend_from_slice(&chunk[..n]);
    }
}
