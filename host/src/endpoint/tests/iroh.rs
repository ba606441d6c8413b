//! The same handlers over iroh, wholly on loopback and without a relay.

use super::*;

const SEED: [u8; 32] = [1; 32];

fn loopback() -> IrohConfig {
    IrohConfig { listen: vec!["127.0.0.1:0".parse().unwrap()], ..IrohConfig::default() }
}

/// A node that iroh reaches too, and where.
async fn node() -> (Node, SocketAddr) {
    let mut node = super::node();
    let key = NodeKey::from_seed(SEED);
    node.endpoint.listen_iroh(&loopback(), &key).await.unwrap();
    let iroh = node.endpoint.local_addrs()[1];
    (node, iroh)
}

async fn dialer(key: Option<&NodeKey>) -> IrohDialer {
    IrohDialer::new(key, &loopback()).await.unwrap()
}

fn key(seed: u8) -> NodeKey {
    NodeKey::from_seed([seed; 32])
}

#[tokio::test]
async fn k14_k36_the_same_handler_serves_iroh_and_sees_the_same_key() {
    let (node, at) = node().await;
    let (quic, iroh) = (Dialer::new(Some(&key(2))).unwrap(), dialer(Some(&key(2))).await);
    let by_quic = node.dial_with(&quic, "t/who").await.unwrap();
    let by_iroh = iroh.dial(node.endpoint.key(), None, &[at], "t/who").await.unwrap();
    let seen = who(&by_quic).await;
    assert!(seen.contains(&key(2).public().fingerprint()) && seen.contains("alice"), "{seen}");
    assert_eq!(who(&by_iroh).await, seen);
    assert_eq!(by_iroh.peer_key(), by_quic.peer_key());
    let shown = node.endpoint.table().snapshot();
    let sources: Vec<_> = shown.iter().map(|record| record.source).collect();
    assert_eq!(sources, [alknet_plugin_api::Source::Quic, alknet_plugin_api::Source::Iroh]);
    assert_eq!(shown[0].peer, shown[1].peer);
    iroh.close().await;
}

#[tokio::test]
async fn k28_one_seed_is_one_key_and_either_dials_the_other() {
    let (node, at) = node().await;
    let public = key(1).public();
    assert_eq!(node.endpoint.key(), public);
    assert_eq!(dialer(Some(&key(3))).await.key(), key(3).public());
    // iroh's client to quinn's socket, and quinn's client to iroh's.
    let iroh = dialer(Some(&key(2))).await;
    let crossed = iroh.dial(public, None, &[node.endpoint.local_addr()], "t/who").await.unwrap();
    assert!(who(&crossed).await.contains("alice"));
    let quic = Dialer::new(Some(&key(2))).unwrap();
    let crossed = quic.dial(at, public, "t/who").await.unwrap();
    assert!(who(&crossed).await.contains("alice"));
    // Whoever is dialled must hold the key, on either.
    assert!(quic.dial(at, key(8).public(), "t/echo").await.is_err());
    let error = iroh.dial(key(8).public(), None, &[at], "t/echo").await.err().unwrap();
    assert!(matches!(error, IrohDialError::Handshake { .. }), "{error}");
    iroh.close().await;
}

#[tokio::test]
async fn k23_anothers_public_key_without_its_private_key_is_refused_by_iroh() {
    let (node, at) = node().await;
    let forger = Dialer::with_crypto(tls::forged_client_config(&key(9), key(2).public()));
    // A TLS 1.3 client is done before the server has judged it.
    if let Ok(connection) = forger.dial(at, node.endpoint.key(), "t/who").await {
        assert_eq!(connection.closed().await.code, None, "the handshake failed, not a handler");
    }
    assert!(node.endpoint.table().is_empty());
}

#[tokio::test]
async fn a_client_without_a_key_makes_one_up_for_iroh() {
    let (node, at) = node().await;
    let iroh = dialer(None).await;
    let connection = iroh.dial(node.endpoint.key(), None, &[at], "t/who").await.unwrap();
    let seen = who(&connection).await;
    assert!(seen.contains(&iroh.key().fingerprint()) && seen.contains(" None true"), "{seen}");
    // A QUIC client has none to show, and iroh's server insists.
    if let Ok(connection) = anonymous().dial(at, node.endpoint.key(), "t/who").await {
        assert_eq!(connection.closed().await.code, None);
    }
    iroh.close().await;
}

#[tokio::test]
async fn k06_k11_k12_codes_and_datagrams_are_the_same_on_iroh() {
    let (node, at) = node().await;
    let iroh = dialer(None).await;
    let dial = async |alpn| iroh.dial(node.endpoint.key(), None, &[at], alpn).await.unwrap();
    for (alpn, code) in [
        ("t/done", 0),
        ("t/error", 1),
        ("t/auth", 2),
        ("t/panic", 5),
        ("t/absent", 6),
        ("t/protocol", 7),
    ] {
        assert_eq!(dial(alpn).await.closed().await.code, Some(code), "{alpn}");
    }
    resets_are_returned(&dial("t/codes").await).await;
    stops_are_returned(&dial("t/stops").await).await;
    drops_are_resets(&dial("t/dropped").await).await;
    datagrams_are_returned(&dial("t/datagram").await).await;
    leaves_what_it_finished(&dial("t/leave").await).await;
    let staying = dial("t/stay").await;
    node.endpoint.shutdown(Duration::ZERO).await;
    assert_eq!(staying.closed().await.code, Some(3));
    iroh.close().await;
}

#[tokio::test]
async fn k31_early_data_finds_no_stream_on_iroh() {
    let (node, at) = node().await;
    let client = ::iroh::Endpoint::builder(::iroh::endpoint::presets::Minimal)
        .relay_mode(::iroh::RelayMode::Disabled)
        .clear_ip_transports()
        .bind_addr("127.0.0.1:0")
        .unwrap()
        .bind()
        .await
        .unwrap();
    let id = ::iroh::EndpointId::from_bytes(&node.endpoint.key().0).unwrap();
    let place = ::iroh::EndpointAddr::new(id).with_ip_addr(at);
    let first = client.connect(place.clone(), b"t/echo").await.unwrap();
    let (mut send, mut recv) = first.open_bi().await.unwrap();
    send.write_all(b"hello").await.unwrap();
    send.finish().unwrap();
    assert_eq!(recv.read_to_end(64).await.unwrap(), b"hello");
    first.close(0_u32.into(), b"");

    let again = client.connect_with_opts(place, b"t/echo", Default::default()).await.unwrap();
    let Ok(early) = again.into_0rtt() else { panic!("the client has no ticket") };
    // Nothing can be sent before the handshake is over.
    let opened = futures_util::FutureExt::now_or_never(early.open_bi());
    assert!(opened.is_none(), "a stream for early data");
    let status = early.handshake_completed().await.unwrap();
    let connection = match status {
        ::iroh::endpoint::ZeroRttStatus::Accepted(connection) => connection,
        ::iroh::endpoint::ZeroRttStatus::Rejected(connection) => connection,
    };
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    send.write_all(b"fresh").await.unwrap();
    send.finish().unwrap();
    assert_eq!(recv.read_to_end(64).await.unwrap(), b"fresh");
    client.close().await;
}

#[tokio::test]
async fn k53_iroh_has_the_same_limits() {
    let (node, at) = node().await;
    let iroh = dialer(None).await;
    node.endpoint
        .set_limits(admission::AdmissionLimits { concurrent_per_prefix: 1, ..Default::default() });
    let first = iroh.dial(node.endpoint.key(), None, &[at], "t/echo").await.unwrap();
    echo(&first).await;
    assert!(node.dial_with(&anonymous(), "t/echo").await.is_err(), "one place for both");
    node.endpoint.set_limits(Default::default());
    echo(&node.dial_with(&anonymous(), "t/echo").await.unwrap()).await;
    node.endpoint.set_connection_limits(ConnectionLimits {
        bidirectional_streams: Some(3),
        idle_timeout: Some(Duration::from_secs(5)),
        ..ConnectionLimits::default()
    });
    let held = iroh.dial(node.endpoint.key(), None, &[at], "t/hold").await.unwrap();
    opens_no_more_than(&held, 3, false).await;
    iroh.close().await;
}

#[tokio::test]
async fn a_key_of_which_nothing_is_known_is_told_at_once() {
    let iroh = dialer(None).await;
    let error = iroh.dial(key(1).public(), None, &[], "t/echo").await.err().unwrap();
    assert!(matches!(error, IrohDialError::Nowhere(_)), "{error}");
    let config = IrohConfig { relay: Relay::Own(vec!["mine".into()]), ..loopback() };
    let error = IrohDialer::new(None, &config).await.err().unwrap();
    assert!(error.to_string().contains("`mine` is not a relay's URL"), "{error}");
    iroh.close().await;
}
