//! The plugin, driven in memory.

#![allow(clippy::unwrap_used)]

use alknet_plugin_api::prelude::*;
use alknet_plugin_api::testing::{Pair, TestHost, TestPlugin, single_stream};
use alknet_plugin_echo::Echo;
use bytes::Bytes;
use futures_util::future::{join, join_all};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const ALPN: &str = "alknet/echo";

fn echo() -> TestPlugin {
    TestPlugin::build::<Echo>(TestHost::new(), json!({})).unwrap()
}

/// Sends `data` on a stream of its own and reads what comes back.
async fn round_trip(connection: &Connection, data: &[u8]) -> Vec<u8> {
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    let sending = async {
        send.write_all(data).await.unwrap();
        send.finish().unwrap();
    };
    join(sending, recv.read_to_end(data.len() + 1)).await.1.unwrap()
}

#[tokio::test]
async fn streams_of_all_sizes_come_back() {
    let connection = echo().connect(ALPN);
    for size in [0, 1, 4096, 65_536, 3_000_001] {
        let data: Vec<u8> = (0..size).map(|n| (n % 251) as u8).collect();
        assert!(round_trip(&connection, &data).await == data, "{size} bytes");
    }
}

#[tokio::test]
async fn a_thousand_streams_at_once_come_back() {
    let plugin = echo();
    let connection = plugin.connect(ALPN);
    let answers = join_all((0..1000u32).map(|n| {
        let connection = connection.clone();
        async move { round_trip(&connection, &n.to_be_bytes()).await == n.to_be_bytes() }
    }));
    assert!(answers.await.into_iter().all(|same| same));
    assert_eq!(plugin.host().counter("streams_total"), 1000);
}

#[tokio::test]
async fn bytes_come_back_before_the_stream_ends() {
    let connection = echo().connect(ALPN);
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    for text in ["one", "two"] {
        send.write_all(text.as_bytes()).await.unwrap();
        let mut back = [0; 3];
        recv.read_exact(&mut back).await.unwrap();
        assert_eq!(back, text.as_bytes());
    }
}

#[tokio::test]
async fn a_reset_comes_back_with_its_code() {
    let connection = echo().connect(ALPN);
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    send.write_all(b"x").await.unwrap();
    send.reset(0x1234_5678_9abc);
    match recv.read_to_end(10).await {
        Err(StreamError::Reset(code)) => assert_eq!(code, 0x1234_5678_9abc),
        other => panic!("{other:?}"),
    }
    assert_eq!(round_trip(&connection, b"still here").await, b"still here");
}

#[tokio::test]
async fn a_stop_comes_back_with_its_code() {
    let connection = echo().connect(ALPN);
    // Once with the echo waiting for data, once with it waiting for room.
    for data in [&b"x"[..], &[0; 200_000]] {
        let (mut send, mut recv) = connection.open_bi().await.unwrap();
        send.write_all(b"y").await.unwrap();
        recv.read_exact(&mut [0]).await.unwrap();
        let write = tokio::spawn({
            let data = data.to_vec();
            async move {
                // The echo stops reading once it notices; large data cannot get by.
                let _ = send.write_all(&data).await;
                send.stopped().await
            }
        });
        recv.stop(0xabc);
        assert_eq!(write.await.unwrap().unwrap(), Some(0xabc));
    }
    assert_eq!(round_trip(&connection, b"still here").await, b"still here");
}

#[tokio::test]
async fn datagrams_come_back() {
    let connection = echo().connect(ALPN);
    for text in ["one", "two"] {
        connection.send_datagram(Bytes::from_static(text.as_bytes())).unwrap();
        assert_eq!(connection.read_datagram().await.unwrap(), text);
    }
}

#[tokio::test]
async fn a_peer_without_datagrams_is_served_all_the_same() {
    let pair = Pair::new(ALPN).datagram_size(None);
    let (connection, _, _serving) = echo().connect_over(pair, None);
    assert_eq!(round_trip(&connection, b"hello").await, b"hello");
}

#[tokio::test]
async fn a_single_stream_is_served_to_its_end() {
    let (mut far, connection) = single_stream(ALPN);
    let serving = echo().serve(connection, None);
    let data: Vec<u8> = (0..1_000_000).map(|n| (n % 251) as u8).collect();
    let mut back = Vec::new();
    let (mut reader, mut writer) = tokio::io::split(&mut far);
    let sending = async {
        writer.write_all(&data).await.unwrap();
        writer.shutdown().await.unwrap();
    };
    join(sending, reader.read_to_end(&mut back)).await.1.unwrap();
    assert!(back == data);
    serving.await.unwrap();
}

#[tokio::test]
async fn a_drain_finishes_what_is_under_way_and_takes_on_nothing() {
    let (connection, control, serving) = echo().connect_over(Pair::new(ALPN), None);
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    send.write_all(b"be").await.unwrap();
    recv.read_exact(&mut [0; 2]).await.unwrap();
    control.begin_shutdown();
    send.write_all(b"fore").await.unwrap();
    send.finish().unwrap();
    assert_eq!(recv.read_to_end(10).await.unwrap(), b"fore");
    serving.await.unwrap();
    assert_eq!(connection.closed().await.code, Some(0));
}

#[tokio::test]
async fn operations_answer() {
    let plugin = echo();
    let call = async |name: &str, text: &str| plugin.call(name, json!({ "text": text })).await;
    assert_eq!(call("echo/say", "hi").await.unwrap(), json!({ "text": "hi" }).into());
    assert_eq!(call("echo/reverse", "añb").await.unwrap(), json!({ "text": "bña" }).into());
    let error = call("echo/fail", "hi").await.unwrap_err();
    assert_eq!(error.code, "ECHO_REFUSED");
    assert_eq!(error.details, Some(json!({ "text": "hi" }).into()));
    let error = plugin.call("echo/say", json!({ "txt": 1 })).await.unwrap_err();
    assert_eq!(error.code, alknet_plugin_api::code::INVALID_INPUT);
}
