//! A real endpoint and real clients over loopback.

#![allow(clippy::unwrap_used, clippy::expect_used)] // In tests a panic is the report.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use alknet_plugin_api::{
    AuthContext, Connection, DatagramError, HandlerError, Identity, ProtocolHandler, StreamError,
};
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::*;

mod hostile;
#[cfg(feature = "iroh")]
mod iroh;

/// A code that takes all of QUIC's 62 bits but one.
const STOPPED: u64 = (1 << 62) - 3;

/// Bytes that a handler finishes before it returns: more than fit one flight.
const PARTING: usize = 1 << 20;

/// Serves each connection by what its ALPN says.
struct Behaviour {
    finished: Arc<AtomicUsize>,
    entered: Arc<Notify>,
    go: Arc<Notify>,
}

/// A guest of a handler that does not leave quietly.
struct Sore;

impl Drop for Sore {
    fn drop(&mut self) {
        panic!("a destructor's bug");
    }
}

impl ProtocolHandler for Behaviour {
    async fn handle(&self, connection: Connection, auth: &AuthContext) -> Result<(), HandlerError> {
        self.entered.notify_one();
        match auth.alpn() {
            "t/echo" => loop {
                let (mut send, mut recv) = connection.accept_bi().await?;
                tokio::io::copy(&mut recv, &mut send).await?;
                send.finish()?;
            },
            "t/who" => {
                let (mut send, _recv) = connection.accept_bi().await?;
                let who = |id: &str| Identity { id: id.into(), ..Identity::default() };
                let first = connection.set_identity(who("first")).is_ok();
                let second = connection.set_identity(who("second")).is_ok();
                let kept = connection.identity().map(|identity| identity.id);
                let text = format!(
                    "{:?} {:?} {first} {second} {kept:?}",
                    auth.peer_fingerprint(),
                    auth.identity().map(|identity| identity.id.as_str()),
                );
                send.write_all(text.as_bytes()).await?;
                send.finish()?;
                connection.closed().await;
                Ok(())
            }
            "t/done" => Ok(()),
            "t/error" => Err(HandlerError::internal("no")),
            "t/protocol" => Err(HandlerError::protocol("no")),
            "t/sore" => {
                let _sore = Sore;
                std::future::pending().await
            }
            "t/leave-told" => {
                let (mut send, _recv) = connection.accept_bi().await?;
                self.entered.notify_one();
                self.go.notified().await;
                send.write_all(&vec![b'x'; PARTING]).await?;
                send.finish()?;
                self.finished.fetch_add(1, Ordering::SeqCst);
                Ok(())
            }
            "t/watched" => {
                let (watched, finished) = (connection.clone(), self.finished.clone());
                tokio::spawn(async move {
                    let code = watched.closed().await.code;
                    finished.store(code.unwrap_or(u64::MAX) as usize, Ordering::SeqCst);
                    drop(finished);
                });
                std::future::pending().await
            }
            "t/auth" => Err(HandlerError::AuthRequired),
            "t/panic" => panic!("a handler's bug"),
            "t/trap" => Err(HandlerError::Internal(Box::new(Crash("trap".into())))),
            "t/drain" => {
                connection.shutdown().await;
                self.finished.fetch_add(1, Ordering::SeqCst);
                Ok(())
            }
            "t/stay" => std::future::pending().await,
            "t/leave" => {
                let (mut send, _recv) = connection.accept_bi().await?;
                send.write_all(&vec![b'x'; PARTING]).await?;
                send.finish()?;
                Ok(())
            }
            "t/stops" => {
                let (mut send, mut recv) = connection.accept_bi().await?;
                recv.stop(STOPPED);
                let code = send.stopped().await?;
                let mut report = connection.open_uni().await?;
                report.write_all(format!("{code:?}").as_bytes()).await?;
                report.finish()?;
                Ok(())
            }
            "t/hold" => {
                let mut held = Vec::new();
                loop {
                    held.push(connection.accept_bi().await?);
                }
            }
            "t/dropped" => {
                let (mut send, _recv) = connection.accept_bi().await?;
                send.write_all(b"half").await?;
                drop(send);
                connection.closed().await;
                Ok(())
            }
            "t/codes" => {
                let (mut send, mut recv) = connection.accept_bi().await?;
                let mut buffer = [0; 16];
                loop {
                    match recv.read(&mut buffer).await {
                        Ok(_) => {}
                        // Back to the client goes what the client sent.
                        Err(StreamError::Reset(code)) => {
                            send.reset(code);
                            break;
                        }
                        Err(error) => return Err(error.into()),
                    }
                }
                connection.closed().await;
                Ok(())
            }
            "t/datagram" => loop {
                let data = connection.read_datagram().await?;
                connection
                    .send_datagram(data)
                    .map_err(|error| HandlerError::internal(error.to_string()))?;
            },
            other => Err(HandlerError::internal(other)),
        }
    }
}

/// The peers of a node, by fingerprint. They can change.
#[derive(Default)]
struct Peers(Mutex<HashMap<String, String>>);

impl Peers {
    fn alice() -> Arc<Self> {
        let peers = Arc::<Self>::default();
        peers.name(&NodeKey::from_seed([2; 32]), Some("alice"));
        peers
    }

    fn name(&self, key: &NodeKey, id: Option<&str>) {
        let fingerprint = key.public().fingerprint();
        match id {
            Some(id) => self.0.lock().insert(fingerprint, id.to_owned()),
            None => self.0.lock().remove(&fingerprint),
        };
    }
}

impl PeerResolver for Peers {
    fn resolve_fingerprint(&self, fingerprint: &str) -> Option<Identity> {
        let id = self.0.lock().get(fingerprint)?.clone();
        Some(Identity { id, ..Identity::default() })
    }
}

struct Node {
    endpoint: Endpoint,
    peers: Arc<Peers>,
    go: Arc<Notify>,
    finished: Arc<AtomicUsize>,
    entered: Arc<Notify>,
}

fn node_shaped(runtime: RuntimeShape) -> Node {
    let config = EndpointConfig { runtime, ..EndpointConfig::on("127.0.0.1:0".parse().unwrap()) };
    node_of(config)
}

fn node_of(config: EndpointConfig) -> Node {
    let (finished, entered) = (Arc::<AtomicUsize>::default(), Arc::<Notify>::default());
    let go = Arc::<Notify>::default();
    let handler = Arc::new(Behaviour {
        finished: finished.clone(),
        entered: entered.clone(),
        go: go.clone(),
    });
    let mut routes = RouteTable::new();
    for name in [
        "echo",
        "who",
        "done",
        "error",
        "auth",
        "panic",
        "trap",
        "drain",
        "stay",
        "dropped",
        "codes",
        "datagram",
        "leave",
        "leave-told",
        "hold",
        "stops",
        "protocol",
        "sore",
        "watched",
    ] {
        routes.add(&format!("t/{name}"), "test", Some(handler.clone())).unwrap();
    }
    routes.add("t/absent", "absent", None).unwrap();
    let key = NodeKey::from_seed([1; 32]);
    let peers = Peers::alice();
    let endpoint = Endpoint::bind(config, &key, routes, peers.clone()).unwrap();
    Node { endpoint, peers, go, finished, entered }
}

fn node() -> Node {
    node_shaped(RuntimeShape::Shared)
}

impl Node {
    async fn dial_with(&self, dialer: &Dialer, alpn: &str) -> Result<Connection, DialError> {
        dialer.dial(self.endpoint.local_addr(), self.endpoint.key(), alpn).await
    }
}

fn anonymous() -> Dialer {
    Dialer::new(None).unwrap()
}

async fn echo(connection: &Connection) {
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    send.write_all(b"hello").await.unwrap();
    send.finish().unwrap();
    assert_eq!(recv.read_to_end(64).await.unwrap(), b"hello");
}

async fn who(connection: &Connection) -> String {
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    send.write_all(b"?").await.unwrap();
    String::from_utf8(recv.read_to_end(512).await.unwrap()).unwrap()
}

#[tokio::test]
async fn both_runtime_shapes_serve() {
    for shape in [RuntimeShape::Shared, RuntimeShape::Shards(2)] {
        let node = node_shaped(shape);
        for _ in 0..4 {
            let dialer = anonymous();
            echo(&node.dial_with(&dialer, "t/echo").await.unwrap()).await;
        }
        node.endpoint.shutdown(Duration::ZERO).await;
    }
}

#[tokio::test]
async fn k03_no_common_alpn_fails_the_handshake_and_the_loop_goes_on() {
    let (node, dialer) = (node(), anonymous());
    let error = node.dial_with(&dialer, "t/unknown").await.unwrap_err();
    assert!(matches!(error, DialError::Handshake { .. }), "{error}");
    echo(&node.dial_with(&dialer, "t/echo").await.unwrap()).await;
}

#[tokio::test]
async fn k05_k06_each_end_of_a_handler_has_its_code_and_harms_nobody() {
    let (node, dialer) = (node(), anonymous());
    let bystander = node.dial_with(&dialer, "t/echo").await.unwrap();
    for (alpn, code) in [
        ("t/done", 0),
        ("t/error", 1),
        ("t/auth", 2),
        ("t/panic", 5),
        ("t/trap", 5),
        ("t/absent", 6),
        ("t/protocol", 7),
    ] {
        let connection = node.dial_with(&dialer, alpn).await.unwrap();
        assert_eq!(connection.closed().await.code, Some(code), "{alpn}");
        echo(&bystander).await;
    }
    let closed = node.endpoint.table().close_where(CloseCode::PeerRemoved, |_| true);
    assert_eq!(closed, 1);
    assert_eq!(bystander.closed().await.code, Some(8));
}

#[tokio::test]
async fn k06_k51_connections_of_a_removed_peer_close_with_8_and_no_others() {
    let node = node();
    let (alice, bob, stranger) = [2, 3, 4].map(|seed| NodeKey::from_seed([seed; 32])).into();
    node.peers.name(&bob, Some("bob"));
    let mut dialled = Vec::new();
    for key in [&alice, &bob, &stranger] {
        let dialer = Dialer::new(Some(key)).unwrap();
        let connection = node.dial_with(&dialer, "t/echo").await.unwrap();
        echo(&connection).await;
        dialled.push((connection, dialer));
    }
    assert_eq!(node.endpoint.close_removed(), 0, "nobody is gone");
    node.peers.name(&alice, None);
    assert_eq!(node.endpoint.close_removed(), 1);
    assert_eq!(dialled[0].0.closed().await.code, Some(8));
    for (connection, _) in &dialled[1..] {
        echo(connection).await;
    }
    // Who becomes a peer while connected can be removed like any other, and who
    // has become another peer is not the one that connected.
    node.peers.name(&stranger, Some("carol"));
    assert_eq!(node.endpoint.close_removed(), 0);
    node.peers.name(&stranger, None);
    node.peers.name(&bob, Some("robert"));
    assert_eq!(node.endpoint.close_removed(), 2);
    for (connection, _) in &dialled[1..] {
        assert_eq!(connection.closed().await.code, Some(8));
    }
}

#[tokio::test]
async fn k06_a_prefix_over_its_limit_is_turned_away() {
    let (node, dialer) = (node(), anonymous());
    let limits = |concurrent_per_prefix| admission::AdmissionLimits {
        concurrent_per_prefix,
        ..Default::default()
    };
    node.endpoint.set_limits(limits(1));
    let first = node.dial_with(&dialer, "t/echo").await.unwrap();
    echo(&first).await;
    assert!(node.dial_with(&dialer, "t/echo").await.is_err());
    node.endpoint.set_limits(limits(2));
    echo(&node.dial_with(&dialer, "t/echo").await.unwrap()).await;
}

/// Both knock before either stays, so that the second is found out late.
#[tokio::test]
async fn k06_who_is_over_a_limit_after_the_handshake_is_closed_with_4() {
    let node = node();
    let limits = admission::AdmissionLimits {
        concurrent_per_prefix: 1,
        rate_per_prefix: 1e6,
        burst_per_prefix: 1_000_000,
        ..Default::default()
    };
    node.endpoint.set_limits(limits);
    for _ in 0..50 {
        let (one, two) = (anonymous(), anonymous());
        let dialled = futures_util::future::join(
            node.dial_with(&one, "t/echo"),
            node.dial_with(&two, "t/echo"),
        );
        let (Ok(one), Ok(two)) = dialled.await else { continue };
        let first = futures_util::future::select(Box::pin(one.closed()), Box::pin(two.closed()));
        assert_eq!(first.await.factor_first().0.code, Some(4));
        return;
    }
    panic!("no two handshakes met");
}

#[tokio::test]
async fn k09_k22_k32_the_server_sees_the_clients_key_and_one_identity() {
    let node = node();
    for (seed, identity) in [(2, "Some(\"alice\")"), (3, "None")] {
        let key = NodeKey::from_seed([seed; 32]);
        let dialer = Dialer::new(Some(&key)).unwrap();
        let connection = node.dial_with(&dialer, "t/who").await.unwrap();
        let fingerprint = key.public().fingerprint();
        let expected = format!("Some({fingerprint:?}) {identity} true false Some(\"first\")");
        assert_eq!(who(&connection).await, expected);
        assert_eq!(connection.peer_key(), Some(node.endpoint.key().0));
        let records = node.endpoint.table().snapshot();
        let record = records.iter().find(|r| r.peer.as_ref() == Some(&fingerprint)).unwrap();
        assert_eq!((record.identity.as_deref(), record.streams), (Some("first"), 1));
    }
}

#[tokio::test]
async fn k10_a_dropped_send_half_is_reset() {
    let (node, dialer) = (node(), anonymous());
    drops_are_resets(&node.dial_with(&dialer, "t/dropped").await.unwrap()).await;
}

async fn drops_are_resets(connection: &Connection) {
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    send.write_all(b"?").await.unwrap();
    let error = recv.read_to_end(64).await.unwrap_err();
    assert!(matches!(error, StreamError::Reset(0x10)), "{error}");
}

#[tokio::test]
async fn what_a_handler_finished_arrives_although_it_returned_at_once() {
    for shape in [RuntimeShape::Shared, RuntimeShape::Shards(1)] {
        let (node, dialer) = (node_shaped(shape), anonymous());
        for _ in 0..8 {
            leaves_what_it_finished(&node.dial_with(&dialer, "t/leave").await.unwrap()).await;
        }
    }
}

async fn leaves_what_it_finished(connection: &Connection) {
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    send.write_all(b"?").await.unwrap();
    assert_eq!(recv.read_to_end(2 * PARTING).await.unwrap().len(), PARTING);
    assert_eq!(connection.closed().await.code, Some(0));
}

#[tokio::test]
async fn a_connection_grows_to_as_many_streams_as_are_configured() {
    let (node, dialer) = (node(), anonymous());
    let connection = node.dial_with(&dialer, "t/hold").await.unwrap();
    let mut open = Vec::new();
    for _ in 0..EndpointConfig::default().max_bidirectional_streams {
        let (mut send, recv) = connection.open_bi().await.unwrap();
        send.write_all(b"?").await.unwrap();
        open.push((send, recv));
    }
    let beyond = tokio::time::timeout(Duration::from_millis(100), connection.open_bi());
    assert!(beyond.await.is_err(), "the limit does not hold");
}

#[tokio::test]
async fn k11_codes_arrive_unchanged_both_ways() {
    let (node, dialer) = (node(), anonymous());
    resets_are_returned(&node.dial_with(&dialer, "t/codes").await.unwrap()).await;
}

async fn resets_are_returned(connection: &Connection) {
    let code = (1 << 62) - 2;
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    send.write_all(b"?").await.unwrap();
    send.reset(code);
    let error = recv.read_to_end(64).await.unwrap_err();
    assert!(matches!(error, StreamError::Reset(c) if c == code), "{error}");
}

#[tokio::test]
async fn k11_stop_codes_arrive_unchanged_both_ways() {
    let (node, dialer) = (node(), anonymous());
    stops_are_returned(&node.dial_with(&dialer, "t/stops").await.unwrap()).await;
}

async fn stops_are_returned(connection: &Connection) {
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    send.write_all(b"?").await.unwrap();
    assert_eq!(send.stopped().await.unwrap(), Some(STOPPED));
    recv.stop(STOPPED - 1);
    let mut report = connection.accept_uni().await.unwrap();
    let report = report.read_to_end(64).await.unwrap();
    assert_eq!(String::from_utf8(report).unwrap(), format!("Some({})", STOPPED - 1));
}

#[tokio::test]
async fn a_local_close_is_told_with_its_code() {
    let (node, dialer) = (node(), anonymous());
    let connection = node.dial_with(&dialer, "t/stay").await.unwrap();
    connection.close(42, "enough");
    let closed = connection.closed().await;
    assert_eq!((closed.code, closed.reason.as_str()), (Some(42), "enough"));
}

#[tokio::test]
async fn k12_datagrams_arrive_and_an_oversize_one_names_the_maximum() {
    let (node, dialer) = (node(), anonymous());
    datagrams_are_returned(&node.dial_with(&dialer, "t/datagram").await.unwrap()).await;
}

async fn datagrams_are_returned(connection: &Connection) {
    connection.send_datagram(Bytes::from_static(b"ping")).unwrap();
    assert_eq!(connection.read_datagram().await.unwrap(), "ping");
    let error = connection.send_datagram(vec![0; 70_000].into()).unwrap_err();
    let DatagramError::TooLarge { size: 70_000, max } = error else { panic!("{error}") };
    assert_eq!(Some(max), connection.max_datagram_size());
}

#[tokio::test]
async fn k16_k17_a_drain_refuses_newcomers_and_lets_handlers_finish() {
    let (node, dialer) = (node(), anonymous());
    let draining = node.dial_with(&dialer, "t/drain").await.unwrap();
    node.entered.notified().await;
    let staying = node.dial_with(&dialer, "t/stay").await.unwrap();
    node.entered.notified().await;
    let newcomer = async {
        assert_eq!(draining.closed().await.code, Some(0));
        assert_eq!(node.finished.load(Ordering::SeqCst), 1);
        assert!(node.dial_with(&dialer, "t/echo").await.is_err());
        // The second signal ends the wait for the one that stays.
        node.endpoint.close_now();
    };
    let began = Instant::now();
    tokio::join!(node.endpoint.shutdown(Duration::from_secs(60)), newcomer);
    assert_eq!(staying.closed().await.code, Some(3));
    assert!(began.elapsed() < Duration::from_secs(5), "k20: a second signal closes at once");
}

#[tokio::test]
async fn k18_a_handler_beyond_the_drain_is_closed_with_3() {
    let (node, dialer) = (node(), anonymous());
    let connection = node.dial_with(&dialer, "t/stay").await.unwrap();
    node.entered.notified().await;
    let limit = Duration::from_millis(100);
    let began = Instant::now();
    node.endpoint.shutdown(limit).await;
    assert!(began.elapsed() >= limit);
    assert_eq!(connection.closed().await.code, Some(3));
}

#[tokio::test]
async fn k05_k06_a_panic_of_a_dropped_handler_is_a_crash() {
    let (node, dialer) = (node(), anonymous());
    let sore = node.dial_with(&dialer, "t/sore").await.unwrap();
    node.entered.notified().await;
    let quiet = node.dial_with(&dialer, "t/stay").await.unwrap();
    node.entered.notified().await;
    node.endpoint.shutdown(Duration::ZERO).await;
    assert_eq!(sore.closed().await.code, Some(5));
    assert_eq!(quiet.closed().await.code, Some(3));
    assert!(node.endpoint.table().is_empty());
}

#[tokio::test]
async fn who_watches_a_connection_learns_that_the_endpoint_closed_it() {
    let (node, dialer) = (node(), anonymous());
    let connection = node.dial_with(&dialer, "t/watched").await.unwrap();
    node.entered.notified().await;
    let Node { endpoint, finished, .. } = node;
    // Nothing waits here: the sockets close over the handlers' heads.
    drop(endpoint);
    assert_eq!(connection.closed().await.code, Some(3));
    let told = async {
        while Arc::strong_count(&finished) > 1 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), told).await.unwrap();
    assert_eq!(finished.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn k19_an_idle_node_stops_at_once() {
    let node = node();
    let began = Instant::now();
    node.endpoint.shutdown(Duration::from_secs(60)).await;
    assert!(began.elapsed() < Duration::from_secs(1));
}

#[tokio::test]
async fn k23_anothers_public_key_without_its_private_key_is_refused() {
    let node = node();
    let victim = NodeKey::from_seed([2; 32]).public();
    let crypto = tls::forged_client_config(&NodeKey::from_seed([9; 32]), victim);
    let forger = Dialer::with_crypto(crypto);
    // A TLS 1.3 client is done before the server has judged it.
    if let Ok(connection) = node.dial_with(&forger, "t/who").await {
        assert_eq!(connection.closed().await.code, None, "the handshake failed, not a handler");
    }
    assert!(node.endpoint.table().is_empty());
    echo(&node.dial_with(&anonymous(), "t/echo").await.unwrap()).await;
    assert_eq!(node.endpoint.table().snapshot().len(), 1, "the forger reached no handler");
}

/// A client whose process has stopped answers nothing and says no goodbye.
#[tokio::test]
async fn k55_a_peer_that_goes_silent_is_dropped_in_time() {
    let node = node_of(EndpointConfig {
        idle_timeout: Duration::from_millis(400),
        keep_alive: Duration::from_millis(100),
        ..EndpointConfig::on("127.0.0.1:0".parse().unwrap())
    });
    silence_is_noticed(&node).await;
}

async fn silence_is_noticed(node: &Node) {
    let frozen = Frozen::after(node, "t/hold", async |_| {}).await;
    // An earlier handler may have told that it was entered: the table knows.
    let mut count = node.endpoint.table().count();
    let there = tokio::time::timeout(Duration::from_secs(5), count.wait_for(|n| *n == 1));
    assert!(matches!(there.await, Ok(Ok(_))), "the connection was never there");
    node.emptied().await;
    frozen.discard();
}

/// What is set while the node runs holds for who comes from then on.
#[tokio::test]
async fn k53_k55_limits_of_connections_change_while_the_node_runs() {
    let (node, dialer) = (node(), anonymous());
    let before = node.dial_with(&dialer, "t/hold").await.unwrap();
    node.endpoint.set_connection_limits(ConnectionLimits {
        bidirectional_streams: Some(3),
        ..ConnectionLimits::default()
    });
    let after = node.dial_with(&dialer, "t/hold").await.unwrap();
    for (connection, streams, goes_on) in [(&before, 4, true), (&after, 3, false)] {
        opens_no_more_than(connection, streams, goes_on).await;
    }
    node.endpoint.set_connection_limits(ConnectionLimits::default());
    let again = node.dial_with(&dialer, "t/hold").await.unwrap();
    opens_no_more_than(&again, 4, true).await;

    // A peer that lives is not lost, as it is asked more often than it may be silent.
    let node = self::node();
    node.endpoint.set_connection_limits(ConnectionLimits {
        idle_timeout: Some(Duration::from_millis(600)),
        ..ConnectionLimits::default()
    });
    let alive = node.dial_with(&dialer, "t/echo").await.unwrap();
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    echo(&alive).await;
    alive.close(0, "");
    node.emptied().await;
    silence_is_noticed(&node).await;
}

/// Opens so many streams, and sees whether there is a further one.
async fn opens_no_more_than(connection: &Connection, streams: usize, goes_on: bool) {
    let mut open = Vec::new();
    for _ in 0..streams {
        let (mut send, recv) = connection.open_bi().await.unwrap();
        send.write_all(b"?").await.unwrap();
        open.push((send, recv));
    }
    let further = tokio::time::timeout(Duration::from_millis(100), connection.open_bi()).await;
    assert_eq!(further.is_ok(), goes_on);
}

/// The node has answered and finished; the client is not there to confirm it.
#[tokio::test]
async fn a_client_that_vanishes_during_delivery_is_not_waited_for() {
    let node = node();
    let received = node.entered.clone();
    let frozen = Frozen::after(&node, "t/leave-told", async move |connection| {
        let (mut send, _recv) = connection.open_bi().await.unwrap();
        send.write_all(b"?").await.unwrap();
        // Once at the handler's beginning, once for what was written.
        received.notified().await;
        received.notified().await;
    })
    .await;
    node.go.notify_one();
    // Long before its idle time, which is 30 s.
    node.emptied().await;
    assert_eq!(node.finished.load(Ordering::SeqCst), 1, "the handler had finished");
    frozen.discard();
    node.endpoint.shutdown(Duration::from_secs(5)).await;
}

/// A client whose process has stopped: nothing drives its socket any more.
struct Frozen {
    runtime: tokio::runtime::Runtime,
    connection: Connection,
    dialer: Dialer,
}

impl Frozen {
    /// Dials, does `first`, and stops.
    async fn after<F>(node: &Node, alpn: &'static str, first: F) -> Self
    where
        F: AsyncFnOnce(&Connection) + Send + 'static,
    {
        let (address, key) = (node.endpoint.local_addr(), node.endpoint.key());
        let client = tokio::task::spawn_blocking(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let dialer = anonymous();
            let connection = runtime.block_on(async {
                let connection = dialer.dial(address, key, alpn).await.unwrap();
                first(&connection).await;
                connection
            });
            Self { runtime, connection, dialer }
        });
        client.await.unwrap()
    }

    /// Goes without a goodbye.
    fn discard(self) {
        std::mem::forget((self.connection, self.dialer));
        self.runtime.shutdown_background();
    }
}

impl Node {
    /// Waits until no connection is left.
    async fn emptied(&self) {
        let mut count = self.endpoint.table().count();
        let empty = tokio::time::timeout(Duration::from_secs(5), count.wait_for(|n| *n == 0));
        assert!(matches!(empty.await, Ok(Ok(_))), "connections are still there");
    }
}

#[tokio::test]
async fn k25_a_client_without_a_key_is_anonymous() {
    let (node, dialer) = (node(), anonymous());
    let connection = node.dial_with(&dialer, "t/who").await.unwrap();
    assert!(who(&connection).await.starts_with("None None"));
}

#[tokio::test]
async fn k26_a_mismatched_or_unpinned_raw_key_is_refused() {
    let (node, dialer) = (node(), anonymous());
    let (address, other) = (node.endpoint.local_addr(), NodeKey::from_seed([8; 32]).public());
    assert!(dialer.dial(address, other, "t/echo").await.is_err());
    assert!(dialer.dial_name(address, other, "localhost", "t/echo").await.is_err());
}

#[tokio::test]
async fn an_address_that_is_taken_is_an_error_in_either_shape() {
    let node = node_shaped(RuntimeShape::Shards(2));
    for runtime in [RuntimeShape::Shared, RuntimeShape::Shards(2)] {
        let config = EndpointConfig { runtime, ..EndpointConfig::on(node.endpoint.local_addr()) };
        let mut routes = RouteTable::new();
        routes.add("a", "a", None).unwrap();
        let key = NodeKey::from_seed([1; 32]);
        let error = Endpoint::bind(config, &key, routes, Peers::alice()).err().unwrap();
        assert!(matches!(error, EndpointError::Bind { .. }), "{error}");
    }
}
