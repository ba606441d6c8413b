//! Connections: datagrams, identity, close codes, timers.

use alknet_plugin_api::DatagramError;
use alknet_plugin_conformance::{ALPN, Command};
use bytes::Bytes;
use serde_json::{Value, json};

use super::{ask, command, mark};
use crate::substrate::{NAME, Substrate, TOKEN};

pub async fn datagrams_come_back(substrate: &dyn Substrate) {
    let connection = substrate.connect().await;
    assert!(connection.max_datagram_size().is_some_and(|max| max >= 1000));
    // Some may be lost: sent until one is back.
    for n in 0..10_000u32 {
        let sent = Bytes::copy_from_slice(&n.to_be_bytes());
        connection.send_datagram(sent.clone()).unwrap();
        let back = connection.read_datagram();
        let wait = std::time::Duration::from_millis(500);
        if let Ok(back) = tokio::time::timeout(wait, back).await {
            let back: [u8; 4] = back.unwrap()[..].try_into().unwrap();
            assert!(u32::from_be_bytes(back) <= n);
            return;
        }
    }
    panic!("no datagram came back");
}

pub async fn an_oversize_datagram_is_refused_with_the_maximum(substrate: &dyn Substrate) {
    let connection = substrate.connect().await;
    match connection.send_datagram(Bytes::from(vec![0; 100_000])) {
        Err(DatagramError::TooLarge { size, max }) => {
            assert_eq!(size, 100_000);
            assert_eq!(Some(max), connection.max_datagram_size());
        }
        other => panic!("{other:?}"),
    }
    let info: Value = ask(&connection, &Command::Info).await;
    let max = info["max_datagram_size"].as_u64().unwrap();
    let error: Option<String> = ask(&connection, &Command::Datagram { size: 100_000 }).await;
    let error = error.unwrap();
    assert!(error.contains("100000") && error.contains(&max.to_string()), "{error}");
}

pub async fn the_plugin_knows_its_peer(substrate: &dyn Substrate) {
    let connection = substrate.connect().await;
    let info: Value = ask(&connection, &Command::Info).await;
    assert_eq!(info["alpn"], ALPN);
    assert_eq!(info["auth"]["alpn"], ALPN);
    assert_eq!(info["source"], info["auth"]["source"]);
    assert_eq!(info["remote_addr"], info["auth"]["remote_addr"]);
    let key: [u8; 32] = serde_json::from_value(info["peer_key"].clone()).unwrap();
    let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(info["auth"]["peer_fingerprint"], format!("ed25519:{hex}"));
    assert_eq!(info["auth"]["identity"], NAME);
    assert!(info["bytes_received"].as_u64().unwrap() > 0);
    let other: Value = ask(&substrate.connect().await, &Command::Info).await;
    assert_ne!(info["id"], other["id"]);
}

pub async fn the_first_identity_is_kept(substrate: &dyn Substrate) {
    let connection = substrate.connect().await;
    let unknown = Command::Identify { token: "alk_unknown".into() };
    assert_eq!(ask::<Value>(&connection, &unknown).await, json!({ "name": null }));
    let known = Command::Identify { token: TOKEN.into() };
    let named: Value = ask(&connection, &known).await;
    assert_eq!(named, json!({ "name": NAME, "first": true, "second": false }));
}

pub async fn the_plugin_closes_with_code_and_reason(substrate: &dyn Substrate) {
    for code in [0, 77, (1 << 62) - 1] {
        let connection = substrate.connect().await;
        let reason = String::from("enough");
        let _streams = command(&connection, &Command::Close { code, reason }).await;
        let closed = connection.closed().await;
        assert_eq!((closed.code, closed.reason.as_str()), (Some(code), "enough"));
    }
}

pub async fn results_become_close_codes(substrate: &dyn Substrate) {
    for (asked, code) in
        [(Command::Return, 0), (Command::Fail, 1), (Command::RequireAuth, 2), (Command::Panic, 5)]
    {
        let connection = substrate.connect().await;
        let _streams = command(&connection, &asked).await;
        assert_eq!(connection.closed().await.code, Some(code), "{asked:?}");
    }
}

pub async fn timers_and_tasks_work(substrate: &dyn Substrate) {
    let connection = substrate.connect().await;
    let started = std::time::Instant::now();
    assert_eq!(ask::<String>(&connection, &Command::Sleep { ms: 50 }).await, "slept");
    assert!(started.elapsed() >= std::time::Duration::from_millis(49));
    assert_eq!(ask::<String>(&connection, &Command::Spawn).await, "spawned");
}

pub async fn a_dropped_task_is_dropped(substrate: &dyn Substrate) {
    let connection = substrate.connect().await;
    let mark = mark("task");
    let asked = Command::SpawnAbort { mark: mark.clone() };
    assert_eq!(ask::<String>(&connection, &asked).await, "aborted");
    substrate.logged(&format!("stopped waiting: {mark}")).await;
}

pub async fn a_vanished_peer_ends_the_handler(substrate: &dyn Substrate) {
    let mark = mark("vanished");
    let connection = substrate.connect().await;
    let streams = command(&connection, &Command::Wait { mark: mark.clone() }).await;
    substrate.logged(&format!("waiting: {mark}")).await;
    drop((connection, streams));
    substrate.logged(&format!("stopped waiting: {mark}")).await;
}

pub async fn nonsense_costs_the_connection_alone(substrate: &dyn Substrate) {
    for nonsense in
        [&b"no json\n"[..], b"{\"do\":\"nothing known\"}\n", b"\xff\xfe\n", &[b'x'; 9000]]
    {
        let connection = substrate.connect().await;
        let (mut send, _recv) = connection.open_bi().await.unwrap();
        // The plugin may close before it has taken everything.
        let _ = send.write_all(nonsense).await;
        assert_eq!(connection.closed().await.code, Some(1));
    }
}
