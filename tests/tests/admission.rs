//! Who may come in, and who does not keep others out: floods, storms and clients
//! that begin and never go on, against a real daemon, over loopback, whose
//! 127.0.0.0/8 has as many senders as a test wants.

// A test's panic with its line is the best report.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use alknet::endpoint::{PublicKey, tls};
use alknet_tests::daemon::{Client, Daemon, NodeFolder, within};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, TokioRuntime, UdpPoller};
use serde_json::json;

/// A development node's files, with the limits that an operator gets who sets
/// none, but for `limits`.
fn folder(limits: &str) -> NodeFolder {
    let node = NodeFolder::developed();
    let text = node.read("access.toml");
    let (before, _) = text.split_once("[limits]").expect("a test's node has its own limits");
    node.write("access.toml", &format!("{before}[limits]\n{limits}\n"));
    node
}

fn config() -> quinn::ClientConfig {
    let mut crypto = tls::client_config(None).unwrap();
    crypto.alpn_protocols = vec![b"alknet/echo".to_vec()];
    let mut config =
        quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(crypto).unwrap()));
    let mut transport = quinn::TransportConfig::default();
    transport.max_concurrent_bidi_streams(0_u32.into()).max_concurrent_uni_streams(0_u32.into());
    config.transport_config(Arc::new(transport));
    config
}

fn name(node: &Daemon) -> String {
    tls::server_name(&PublicKey(node.address().key().unwrap().0))
}

/// A client at an address of its own.
struct At {
    socket: quinn::Endpoint,
    config: quinn::ClientConfig,
    node: SocketAddr,
    name: String,
}

impl At {
    fn new(node: &Daemon, address: Ipv4Addr) -> Self {
        let socket = quinn::Endpoint::client((address, 0).into()).unwrap();
        Self { socket, config: config(), node: node.listen(), name: name(node) }
    }

    async fn connect(&self) -> Result<quinn::Connection, quinn::ConnectionError> {
        self.socket.connect_with(self.config.clone(), self.node, &self.name).unwrap().await
    }
}

async fn echo(connection: &quinn::Connection) -> Result<(), Box<dyn std::error::Error>> {
    let (mut send, mut recv) = connection.open_bi().await?;
    send.write_all(b"there?").await?;
    send.finish()?;
    let said = recv.read_to_end(64).await?;
    assert_eq!(said, b"there?");
    Ok(())
}

/// Sockets of many addresses behind one client, which hears nothing.
struct Deaf {
    sockets: Vec<UdpSocket>,
    dumb: AtomicBool,
    sent: AtomicUsize,
}

impl fmt::Debug for Deaf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Deaf({})", self.sockets.len())
    }
}

#[derive(Debug)]
struct Writable;

impl UdpPoller for Writable {
    fn poll_writable(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl AsyncUdpSocket for Deaf {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Writable)
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        if self.dumb.load(Ordering::SeqCst) {
            return Ok(());
        }
        // The first bytes of the id that the client gave the server are random,
        // and every datagram of one attempt comes from one address.
        let id = usize::from(transmit.contents[6]) << 8 | usize::from(transmit.contents[7]);
        self.sockets[id % self.sockets.len()].send_to(transmit.contents, transmit.destination)?;
        self.sent.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    fn poll_recv(
        &self,
        _: &mut Context<'_>,
        _: &mut [IoSliceMut<'_>],
        _: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        Poll::Pending
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.sockets[0].local_addr()
    }
}

/// Clients that say hello and nothing more.
struct Crowd {
    socket: Arc<Deaf>,
    quinn: quinn::Endpoint,
}

impl Crowd {
    fn new(addresses: impl Iterator<Item = Ipv4Addr>) -> Self {
        let sockets = addresses.map(|address| UdpSocket::bind((address, 0)).unwrap()).collect();
        let (dumb, sent) = (AtomicBool::new(false), AtomicUsize::new(0));
        let socket = Arc::new(Deaf { sockets, dumb, sent });
        let quinn = quinn::Endpoint::new_with_abstract_socket(
            quinn::EndpointConfig::default(),
            None,
            socket.clone(),
            Arc::new(TokioRuntime),
        );
        Self { socket, quinn: quinn.unwrap() }
    }

    /// Says this many hellos.
    async fn hello(&self, node: &Daemon, count: usize) {
        let (config, name) = (config(), name(node));
        let mut left = count;
        while left > 0 {
            let some = left.min(200);
            left -= some;
            let before = self.socket.sent.load(Ordering::SeqCst);
            let begun: Vec<_> = (0..some)
                .map(|_| self.quinn.connect_with(config.clone(), node.listen(), &name).unwrap())
                .collect();
            within(async {
                while self.socket.sent.load(Ordering::SeqCst) < before + some {
                    tokio::task::yield_now().await;
                }
            })
            .await;
            // They leave without a word, and take no memory here.
            self.socket.dumb.store(true, Ordering::SeqCst);
            drop(begun);
            tokio::time::sleep(Duration::from_millis(1)).await;
            self.socket.dumb.store(false, Ordering::SeqCst);
        }
    }
}

/// A client that behaves: it calls, all the time, and every call is answered.
async fn call_until(client: &Client, over: &AtomicBool) -> Latencies {
    let mut latencies = Vec::new();
    while !over.load(Ordering::SeqCst) {
        let began = Instant::now();
        client.assert_answered().await;
        latencies.push(began.elapsed());
    }
    latencies.sort_unstable();
    Latencies(latencies)
}

struct Latencies(Vec<Duration>);

impl fmt::Display for Latencies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = |part: usize| self.0[(self.0.len() * part / 100).min(self.0.len() - 1)];
        write!(f, "{} calls answered, median {:?}, p99 {:?}", self.0.len(), at(50), at(99))
    }
}

/// Runs something while a client calls, and says what both came to.
async fn meanwhile<T>(client: &Client, what: impl Future<Output = T>) -> (T, Latencies) {
    let over = AtomicBool::new(false);
    let doing = async {
        let done = what.await;
        over.store(true, Ordering::SeqCst);
        done
    };
    tokio::join!(doing, call_until(client, &over))
}

/// The sum of a counter over its labels.
async fn counted(client: &Client, counter: &str) -> u64 {
    let metrics = client.ask("/node/metrics", json!({})).await.unwrap();
    let text = metrics["text"].as_str().unwrap();
    let lines = text
        .lines()
        .filter(|line| line.strip_prefix(counter).is_some_and(|rest| rest.starts_with([' ', '{'])));
    lines.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
}

async fn figures(what: &str, node: &Daemon, client: &Client, before: u64, calls: &Latencies) {
    println!(
        "{what}: {calls}; {} refused, {} Retry sent, {} handshakes failed; memory {} MiB before, \
         {} MiB after",
        counted(client, "alknet_connections_refused_total").await,
        counted(client, "alknet_retries_sent_total").await,
        counted(client, "alknet_handshakes_failed_total").await,
        before >> 20,
        node.resident_bytes() >> 20,
    );
}

#[tokio::test]
async fn k53_a_prefix_is_refused_at_its_rate_and_recovers() {
    let node = folder("").start(&[]).await;
    let one = At::new(&node, Ipv4Addr::new(127, 0, 5, 1));
    let mut open = Vec::new();
    let refused = loop {
        match one.connect().await {
            Ok(connection) => open.push(connection),
            Err(error) => break error,
        }
        assert!(open.len() < 100, "nothing stops it: {}", open.len());
    };
    assert!(matches!(refused, quinn::ConnectionError::ConnectionClosed(_)), "{refused}");
    assert!(open.len() >= 50, "its burst is {}", open.len());
    echo(open.last().unwrap()).await.unwrap();
    echo(&At::new(&node, Ipv4Addr::new(127, 0, 5, 2)).connect().await.unwrap()).await.unwrap();
    // A token comes each twentieth of a second.
    let again = within(async {
        loop {
            if let Ok(connection) = one.connect().await {
                return connection;
            }
        }
    });
    echo(&again.await).await.unwrap();
}

#[tokio::test]
async fn k53_a_prefix_holds_no_more_connections_than_it_may() {
    let node = folder("connections_per_prefix = 3").start(&[]).await;
    let one = At::new(&node, Ipv4Addr::new(127, 0, 5, 1));
    let mut open = Vec::new();
    for _ in 0..3 {
        let connection = one.connect().await.unwrap();
        echo(&connection).await.unwrap();
        open.push(connection);
    }
    assert!(one.connect().await.is_err());
    open.pop().unwrap().close(0_u32.into(), b"");
    within(async { while one.connect().await.is_err() {} }).await;
}

/// Whoever forges an address hears nothing of what is sent there.
#[tokio::test]
async fn k53_forged_packets_do_not_lock_their_victim_out() {
    let node = folder("").start(&[]).await;
    let victim = Ipv4Addr::new(127, 0, 5, 1);
    Crowd::new([victim].into_iter()).hello(&node, 500).await;
    let connection = within(At::new(&node, victim).connect()).await.unwrap();
    echo(&connection).await.unwrap();
    let client = node.client().await;
    assert!(counted(&client, "alknet_retries_sent_total").await > 0, "its bucket was not touched");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn k54_a_flood_of_10_000_handshakes_leaves_calls_answered() {
    let node = folder("").start(&[]).await;
    let client = node.client().await;
    client.assert_answered().await;
    let before = node.resident_bytes();
    let crowd = Crowd::new((0..500).map(|n| Ipv4Addr::from_bits(0x7f00_0601 + n)));
    let flood = async {
        crowd.hello(&node, 5_000).await;
        // Others still come in, while it goes on.
        node.client().await.assert_answered().await;
        echo(&At::new(&node, Ipv4Addr::new(127, 0, 5, 1)).connect().await.unwrap()).await.unwrap();
        crowd.hello(&node, 5_000).await;
    };
    let ((), calls) = meanwhile(&client, flood).await;
    figures("flood of 10,000 hellos from 500 addresses", &node, &client, before, &calls).await;
    assert!(node.resident_bytes() < before + (128 << 20), "{} bytes", node.resident_bytes());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn k54_k55_handshakes_that_do_not_go_on_are_dropped_and_keep_nobody_out() {
    let node = folder("");
    node.replace("node.toml", "[endpoint.quic]", "[endpoint.quic]\nhandshake_timeout = \"500ms\"");
    let node = node.start(&[]).await;
    let client = node.client().await;
    client.assert_answered().await;
    let before = node.resident_bytes();
    let crowd = Crowd::new((0..100).map(|n| Ipv4Addr::from_bits(0x7f00_0701 + n)));
    let slow = async {
        crowd.hello(&node, 400).await;
        node.client().await.assert_answered().await;
        // Some were put off with a Retry, and hold nothing either.
        within(async {
            loop {
                let failed = counted(&client, "alknet_handshakes_failed_total").await;
                if failed + counted(&client, "alknet_retries_sent_total").await >= 400 {
                    return;
                }
            }
        })
        .await;
    };
    let ((), calls) = meanwhile(&client, slow).await;
    figures("400 handshakes that stop after the hello", &node, &client, before, &calls).await;
    assert!(counted(&client, "alknet_handshakes_failed_total").await > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn k54_a_reconnect_storm_of_1_000_connections_gets_in_again() {
    let node = folder("").start(&[]).await;
    let client = node.client().await;
    client.assert_answered().await;
    let before = node.resident_bytes();
    let clients: Vec<_> =
        (0..100).map(|n| At::new(&node, Ipv4Addr::from_bits(0x7f00_0801 + n))).collect();
    let storm = async {
        let mut attempts = 0;
        for _ in 0..2 {
            let mut coming: FuturesUnordered<_> =
                (0..1_000).map(|n| insist(&clients[n % clients.len()])).collect();
            let mut open = Vec::new();
            while let Some((connection, tries)) = coming.next().await {
                attempts += tries;
                open.push(connection);
            }
            assert_eq!(open.len(), 1_000);
            // All gone at once, as when a network comes back.
            for connection in open {
                connection.close(0_u32.into(), b"");
            }
        }
        attempts
    };
    let (attempts, calls) = meanwhile(&client, storm).await;
    let what = format!("1,000 connections, twice, in {attempts} attempts");
    figures(&what, &node, &client, before, &calls).await;
}

/// Who completes its handshake costs the most: keys and a place in the table. Some
/// leave at once, some stay and say nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn k54_a_flood_of_completed_handshakes_leaves_calls_answered() {
    const SENDERS: u32 = 100;
    const EACH: usize = 25;
    let node = folder("").start(&[]).await;
    let client = node.client().await;
    client.assert_answered().await;
    let before = node.resident_bytes();
    let senders: Vec<_> =
        (0..SENDERS).map(|n| At::new(&node, Ipv4Addr::from_bits(0x7f00_0901 + n))).collect();
    let flood = async {
        let mut coming: FuturesUnordered<_> = senders
            .iter()
            .map(async |sender| {
                let (mut completed, mut silent) = (0, Vec::new());
                for n in 0..EACH {
                    let Ok(connection) = sender.connect().await else { continue };
                    completed += 1;
                    match n % 2 {
                        0 => connection.close(0_u32.into(), b""),
                        _ => silent.push(connection),
                    }
                }
                (completed, silent)
            })
            .collect();
        let (mut completed, mut silent) = (0, Vec::new());
        while let Some((more, stay)) = coming.next().await {
            completed += more;
            silent.extend(stay);
        }
        // Others still come in.
        node.client().await.assert_answered().await;
        echo(&At::new(&node, Ipv4Addr::new(127, 0, 5, 1)).connect().await.unwrap()).await.unwrap();
        (completed, silent)
    };
    let ((completed, silent), calls) = meanwhile(&client, flood).await;
    let what = format!("{completed} completed handshakes, {} of which stay", silent.len());
    figures(&what, &node, &client, before, &calls).await;
    assert!(completed >= 1_000, "this was no flood");
    assert!(node.resident_bytes() < before + (256 << 20), "{} bytes", node.resident_bytes());
    let open = async || client.ask("/node/status", json!({})).await.unwrap()["connections"].clone();
    let count = async || open().await.as_array().map_or(usize::MAX, Vec::len);
    drop(silent);
    within(async { while count().await > 2 {} }).await;
}

/// Connects and is served, however often it takes.
async fn insist(at: &At) -> (quinn::Connection, usize) {
    within(async {
        for tries in 1.. {
            if let Ok(connection) = at.connect().await
                && echo(&connection).await.is_ok()
            {
                return (connection, tries);
            }
        }
        unreachable!("it tries for ever");
    })
    .await
}

/// Loopback has as many addresses as these tests take for granted.
#[test]
fn loopback_is_a_whole_network() {
    let address = IpAddr::from(Ipv4Addr::new(127, 0, 5, 1));
    assert!(UdpSocket::bind((address, 0)).is_ok(), "this system has one loopback address alone");
}
