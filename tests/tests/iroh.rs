//! Nodes that are reached by their keys: the real daemon and the real command
//! line over iroh, on loopback, without a relay and through one.

// A test's panic with its line is the best report.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::net::SocketAddr;

use alknet::config::{Place, read_key};
use alknet::endpoint::{IrohConfig, IrohDialer, NodeKey};
use alknet_call_protocol::{ALPN, CallClient, Options};
use alknet_tests::daemon::{Daemon, NodeFolder, Running, Tokio, reserve_address, within};
use iroh_relay::server::{RelayConfig, Server, ServerConfig};
use serde_json::json;
use tokio::io::AsyncWriteExt;

/// A relay of the test's own, without TLS, as loopback may have it.
async fn relay() -> (Server, String) {
    let mut config = ServerConfig::default();
    config.relay = Some(RelayConfig::new(SocketAddr::from(([127, 0, 0, 1], 0))));
    let server = Server::spawn(config).await.unwrap();
    let url = format!("http://{}", server.http_addr().unwrap());
    (server, url)
}

/// A development node with iroh on loopback.
fn folder(iroh: &str) -> (NodeFolder, SocketAddr) {
    let (node, listen) = (NodeFolder::developed(), reserve_address());
    node.append("node.toml", &format!("[endpoint.iroh]\nlisten = [\"{listen}\"]\n{iroh}\n"));
    (node, listen)
}

fn hex(node: &NodeFolder) -> String {
    let address = node.address().to_string();
    address["alknet://".len()..].split('@').next().unwrap().to_owned()
}

/// Waits until the node has a relay, and gives what reaches it by that.
async fn relayed(node: &Daemon) -> String {
    within(async {
        loop {
            let status = node.alknet(["status", "--json"]).await.json();
            if let Some(relay) = status["relay"].as_str() {
                return format!("alknet://{}?relay={relay}", hex(node));
            }
        }
    })
    .await
}

#[tokio::test]
async fn k14_a_call_over_iroh_is_answered_and_shown_as_such() {
    let (node, listen) = folder("");
    let node = node.start(&[]).await;
    let key = read_key(&node.directory().client_key(), &Place::default()).unwrap();
    let config =
        IrohConfig { listen: vec!["127.0.0.1:0".parse().unwrap()], ..IrohConfig::default() };
    let dialer = IrohDialer::new(Some(&NodeKey::from_seed(*key)), &config).await.unwrap();
    let public = node.key();
    let connection = within(dialer.dial(public, None, &[listen], ALPN)).await.unwrap();
    let (calls, driver) = CallClient::spawn_dispatch(connection, Options::new(Tokio::shared()));
    tokio::spawn(driver);
    let said = within(calls.call("echo/say", json!({ "text": "by key" }))).await.unwrap();
    assert_eq!(said.to::<serde_json::Value>().unwrap()["text"], "by key");
    let status = node.alknet(["status", "--json"]).await.json();
    let sources: Vec<_> = status["connections"].as_array().unwrap().iter().collect();
    let ours = sources.iter().find(|one| one["source"] == "iroh").unwrap();
    assert_eq!(ours["alpn"], ALPN);
    assert_eq!(ours["peer"], NodeKey::from_seed(*key).public().fingerprint());
    calls.connection().close(0, "done");
    dialer.close().await;
}

#[tokio::test]
async fn k28_the_command_line_reaches_iroh_by_quic_too() {
    let (node, listen) = folder("");
    let node = node.start(&[]).await;
    let to = format!("alknet://{}@{listen}", hex(&node));
    let said = node.alknet(["--to", &to, "call", "/echo/say", r#"{"text":"across"}"#]).await;
    assert!(said.text().contains("across"), "{said:?}");
}

#[tokio::test]
async fn a_node_without_quic_is_reached_by_iroh_alone() {
    let (node, listen) = folder("");
    node.replace("node.toml", "[endpoint.quic]", "[endpoint.quic]\nenabled = false");
    node.write("known-nodes", &format!("local alknet://{}@{listen}\n", hex(&node)));
    let node = node.start(&[]).await;
    let said = node.alknet(["call", "/echo/say", r#"{"text":"alone"}"#]).await;
    assert!(said.text().contains("alone"), "{said:?}");
}

#[tokio::test]
async fn a_call_through_a_relay_answers() {
    let (server, url) = relay().await;
    let (node, _) = folder(&format!("relay = [\"{url}\"]"));
    let node = node.start(&[]).await;
    let to = relayed(&node).await;
    let before = server.metrics().server.send_packets_sent.get();
    let said = node.alknet(["--to", &to, "call", "/echo/say", r#"{"text":"relayed"}"#]).await;
    assert!(said.text().contains("relayed"), "{said:?}");
    assert!(server.metrics().server.send_packets_sent.get() > before, "the relay carried nothing");

    // The same by a name, whose line has the relay.
    node.append("known-nodes", &format!("far alknet://{} {url}\n", hex(&node)));
    let said = node.alknet(["--to", "far", "call", "/echo/say", r#"{"text":"far"}"#]).await;
    assert!(said.text().contains("far"), "{said:?}");

    // The node's own file knows the relay, and any ALPN can be joined.
    let mut command = node.command(["connect", "far", "--alpn", "alknet/echo"]);
    let mut joined = Running::spawn(command.stdin(std::process::Stdio::piped()));
    let mut input = joined.stdin();
    input.write_all(b"through\n").await.unwrap();
    joined.said("through").await;
    drop(input);
    assert_eq!(within(joined.ended()).await.status, Some(0));
    within(server.shutdown()).await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_dialled_by_key_says_what_is_missing() {
    let node = NodeFolder::developed();
    let key = hex(&node);
    let call = |to: String| node.alknet(["--to".to_owned(), to, "ops".to_owned()]);
    let nowhere = call(format!("alknet://{key}")).await;
    let told = nowhere.refused(69);
    assert!(told.contains("nothing says where") && told.contains("?relay="), "{told}");
    let bad = call(format!("alknet://{key}?relay=relay.example")).await;
    assert!(bad.refused(64).contains("relay=https://"), "{bad:?}");
}
