//! Certificates and TCP: a real endpoint and real clients over loopback.

#![allow(clippy::unwrap_used, clippy::expect_used)] // In tests a panic is the report.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use alknet_plugin_api::{
    AuthContext, Connection, HandlerError, Identity, ProtocolHandler, StreamError,
};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair,
};
use rustls::RootCertStore;
use rustls::sign::CertifiedKey;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::identity::{Certificate, CertificateKind, LiveCertificate};
use super::tcp::TcpConfig;
use super::tls::{ClientIdentities, ServerIdentities};
use super::*;

/// An authority of the test's own.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "test authority");
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).unwrap();
        roots
    }

    fn issue(&self, name: &str) -> Certificate {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new([name.to_owned()]).unwrap();
        let chain = params.signed_by(&key, &self.0).unwrap().pem();
        let key = key.serialize_pem();
        Certificate::from_pem((chain.as_bytes(), "chain"), (key.as_bytes(), "key")).unwrap()
    }
}

struct Behaviour;

impl ProtocolHandler for Behaviour {
    async fn handle(&self, connection: Connection, auth: &AuthContext) -> Result<(), HandlerError> {
        match auth.alpn() {
            "t/echo" => loop {
                let (mut send, mut recv) = connection.accept_bi().await?;
                tokio::io::copy(&mut recv, &mut send).await?;
                send.finish()?;
            },
            "t/who" => {
                let (mut send, mut recv) = connection.accept_bi().await?;
                let who = format!(
                    "{:?} {:?} {:?}",
                    auth.peer_fingerprint(),
                    auth.identity().map(|identity| identity.id.as_str()),
                    connection.peer_key().is_some(),
                );
                send.write_all(who.as_bytes()).await?;
                send.finish()?;
                // Whoever still has the connection open has the answer whole.
                recv.read_to_end(64).await?;
                Ok(())
            }
            "t/half" => {
                let (mut send, _recv) = connection.accept_bi().await?;
                send.write_all(b"half").await?;
                send.flush().await?;
                Err(HandlerError::internal("no more"))
            }
            // More than the socket takes at once, while the client still sends.
            "t/leave" => {
                let (mut send, _recv) = connection.accept_bi().await?;
                send.write_all(&vec![b'x'; PARTING]).await?;
                send.finish()?;
                Ok(())
            }
            "t/open" => {
                let refused = connection.open_bi().await.err();
                let (mut send, _recv) = connection.accept_bi().await?;
                let second = connection.accept_bi().await.err();
                send.write_all(format!("{refused:?} {second:?}").as_bytes()).await?;
                send.finish()?;
                Ok(())
            }
            other => Err(HandlerError::internal(other)),
        }
    }
}

const PARTING: usize = 8 << 20;

const ALPNS: [&str; 5] = ["t/echo", "t/who", "t/half", "t/leave", "t/open"];

/// Knows one key and one certificate.
struct Peers(Vec<(String, &'static str)>);

impl PeerResolver for Peers {
    fn resolve_fingerprint(&self, fingerprint: &str) -> Option<Identity> {
        let known = self.0.iter().find(|(known, _)| known == fingerprint);
        known.map(|(_, id)| Identity { id: (*id).into(), ..Identity::default() })
    }
}

struct Node {
    endpoint: Endpoint,
    live: Arc<LiveCertificate>,
    tcp: SocketAddr,
}

const LIMITS: TcpConfig = TcpConfig {
    bind: Vec::new(),
    handshake_timeout: Duration::from_secs(5),
    idle_timeout: Duration::from_secs(30),
    keep_alive: Duration::from_secs(10),
};

fn node_with(certificate: Certificate, peers: Peers, limits: TcpConfig) -> Node {
    let mut routes = RouteTable::new();
    for alpn in ALPNS {
        routes.add(alpn, "test", Some(Arc::new(Behaviour))).unwrap();
    }
    let key = NodeKey::from_seed([1; 32]);
    let live = Arc::new(LiveCertificate::new(CertificateKind::X509, certificate));
    let loopback: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let endpoint = Endpoint::bind_with(
        EndpointConfig::on(loopback),
        &key,
        Some(live.clone()),
        routes,
        Arc::new(peers),
    );
    let endpoint = endpoint.unwrap();
    let alpns = ALPNS.map(|alpn| alpn.as_bytes().to_vec()).to_vec();
    let identities = ServerIdentities::new(&key, Some(live.clone()), alpns).unwrap();
    let config = TcpConfig { bind: vec![loopback], ..limits };
    let tcp = endpoint.listen_tcp(config, identities, None).unwrap()[0];
    Node { endpoint, live, tcp }
}

fn node(certificate: Certificate) -> Node {
    node_with(certificate, Peers(Vec::new()), LIMITS)
}

/// Which listener a client goes to.
#[derive(Clone, Copy, Debug)]
enum By {
    Quic,
    Tcp,
}

const BOTH: [By; 2] = [By::Quic, By::Tcp];

impl Node {
    async fn dial(
        &self,
        by: By,
        dialer: &Dialer,
        expected: &Expected,
        alpn: &str,
    ) -> Result<Connection, DialError> {
        match by {
            By::Quic => dialer.dial_expecting(self.endpoint.local_addr(), expected, alpn).await,
            By::Tcp => dialer.dial_tcp(self.tcp, expected, alpn).await,
        }
    }

    fn raw(&self) -> Expected {
        Expected::key(self.endpoint.key())
    }
}

fn anonymous() -> ClientIdentities {
    ClientIdentities::new(None).unwrap()
}

fn believing(authority: &Authority) -> Dialer {
    Dialer::with_identities(anonymous().with_authorities(authority.roots()))
}

fn name(host: &str) -> Expected {
    Expected { pin: None, host: host.into() }
}

fn pinned(fingerprint: Fingerprint) -> Expected {
    Expected { pin: Some(fingerprint), host: "127.0.0.1".into() }
}

async fn ask(connection: &Connection) -> Result<Vec<u8>, StreamError> {
    let (mut send, mut recv) = connection.open_bi().await?;
    send.write_all(b"hello").await?;
    send.finish()?;
    recv.read_to_end(1 << 24).await
}

async fn echo(connection: &Connection) {
    assert_eq!(ask(connection).await.unwrap(), b"hello");
}

#[tokio::test]
async fn k14_k27_raw_keys_and_certificates_on_one_endpoint_by_one_handler() {
    let authority = Authority::new();
    let node = node(authority.issue("node.test"));
    let dialer = believing(&authority);
    for retry in [false, true] {
        if retry {
            // Whoever has not proven its address is asked to.
            let limits = admission::AdmissionLimits { half_open_retry: 0, ..Default::default() };
            node.endpoint.set_limits(limits);
        }
        let certificate = pinned(node.live.current().unwrap().fingerprint());
        for by in BOTH {
            let dial = |expected| {
                let (node, dialer) = (&node, &dialer);
                async move {
                    let connection = node.dial(by, dialer, &expected, "t/echo").await.unwrap();
                    echo(&connection).await;
                    connection
                }
            };
            let both =
                tokio::join!(dial(node.raw()), dial(name("node.test")), dial(certificate.clone()));
            assert_eq!(both.0.peer_key(), Some(node.endpoint.key().0));
            assert_eq!(both.1.peer_key(), None);
            let shown = both.1.backend().peer_fingerprint();
            assert_eq!(shown, node.live.status().fingerprint, "{by:?}");
        }
    }
}

/// A hello that names hundreds of protocols takes several packets.
#[tokio::test]
async fn k27_a_hello_over_several_packets_is_read_whole() {
    let authority = Authority::new();
    let node = node(authority.issue("node.test"));
    let identities = anonymous().with_authorities(authority.roots());
    for retry in [false, true] {
        if retry {
            let limits = admission::AdmissionLimits { half_open_retry: 0, ..Default::default() };
            node.endpoint.set_limits(limits);
        }
        for expected in [node.raw(), name("node.test")] {
            let mut crypto = identities.config(expected.pin, "t/echo").unwrap();
            crypto
                .alpn_protocols
                .splice(0..0, (0..400).map(|n| format!("t/none-{n}").into_bytes()));
            let dialer = Dialer::with_identities(anonymous());
            let address = node.endpoint.local_addr();
            let dialled =
                dialer.dial_config(address, &expected, &expected.name(), "t/echo", crypto).await;
            echo(&dialled.unwrap()).await;
        }
    }
}

#[tokio::test]
async fn k22_k36_the_fingerprint_of_what_a_client_proves_is_the_same_on_every_source() {
    let authority = Authority::new();
    let (key, own) = (NodeKey::from_seed([7; 32]), Authority::new().issue("client.test"));
    let (raw, certificate) = (key.public().fingerprint(), own.fingerprint().to_string());
    let peers = Peers(vec![(raw.clone(), "ada"), (certificate.clone(), "bob")]);
    let node = node_with(authority.issue("node.test"), peers, LIMITS);
    let identities = ClientIdentities::new(Some(&key)).unwrap();
    let identities = identities.with_certificate(&own).with_authorities(authority.roots());
    let dialer = Dialer::with_identities(identities);
    for by in BOTH {
        for (expected, fingerprint, id, has_key) in
            [(node.raw(), &raw, "ada", true), (name("node.test"), &certificate, "bob", false)]
        {
            let connection = node.dial(by, &dialer, &expected, "t/who").await.unwrap();
            let (mut send, mut recv) = connection.open_bi().await.unwrap();
            send.write_all(b"?").await.unwrap();
            let mut said = vec![0; 256];
            let n = recv.read(&mut said).await.unwrap();
            let said = String::from_utf8_lossy(&said[..n.unwrap()]).into_owned();
            assert_eq!(said, format!("Some({fingerprint:?}) Some({id:?}) {has_key}"), "{by:?}");
            let records = node.endpoint.table().snapshot();
            assert!(records.iter().any(|r| r.peer.as_ref() == Some(fingerprint)), "{records:?}");
            connection.close(0, "");
        }
    }
}

#[tokio::test]
async fn k25_a_client_without_a_certificate_is_anonymous() {
    let authority = Authority::new();
    let node = node(authority.issue("node.test"));
    for by in BOTH {
        for expected in [node.raw(), name("node.test")] {
            let connection =
                node.dial(by, &believing(&authority), &expected, "t/who").await.unwrap();
            assert_eq!(ask(&connection).await.unwrap(), b"None None false");
        }
    }
}

/// Dials as a forger, which must not reach a handler.
async fn refused(node: &Node, by: By, forger: &Dialer, expected: &Expected) {
    // A TLS 1.3 client is done before the server has judged it.
    if let Ok(connection) = node.dial(by, forger, expected, "t/who").await {
        assert!(ask(&connection).await.is_err(), "{by:?}: the forger was answered");
    }
    let served = node.endpoint.table().snapshot();
    assert!(served.iter().all(|one| one.alpn != "t/who"), "{by:?}: {served:?}");
}

#[tokio::test]
async fn k23_anothers_public_key_is_refused_over_tcp() {
    let node = node(Authority::new().issue("node.test"));
    let victim = NodeKey::from_seed([2; 32]).public();
    let crypto = tls::forged_client_config(&NodeKey::from_seed([9; 32]), victim);
    let forger = Dialer::with_crypto(crypto);
    refused(&node, By::Tcp, &forger, &node.raw()).await;
    let dialer = Dialer::with_identities(anonymous());
    echo(&node.dial(By::Tcp, &dialer, &node.raw(), "t/echo").await.unwrap()).await;
}

#[tokio::test]
async fn k24_anothers_certificate_without_its_private_key_is_refused() {
    let authority = Authority::new();
    let victim = authority.issue("victim.test");
    let node = node_with(
        authority.issue("node.test"),
        Peers(vec![(victim.fingerprint().to_string(), "victim")]),
        LIMITS,
    );
    let own = authority.issue("forger.test");
    let chain = victim.certified_key().cert.clone();
    let forged = CertifiedKey::new(chain, own.certified_key().key.clone());
    let identities = anonymous().with_authorities(authority.roots());
    let forger = Dialer::with_identities(identities.with_certified_key(forged));
    for by in BOTH {
        refused(&node, by, &forger, &name("node.test")).await;
        echo(&node.dial(by, &believing(&authority), &name("node.test"), "t/echo").await.unwrap())
            .await;
    }
}

#[tokio::test]
async fn k26_an_unpinned_node_needs_an_authoritys_word_and_a_pinned_one_its_own() {
    let (authority, other) = (Authority::new(), Authority::new());
    let node = node(authority.issue("node.test"));
    let fingerprint = other.issue("node.test").fingerprint();
    for by in BOTH {
        for (dialer, expected) in [
            (believing(&other), name("node.test")),
            (believing(&authority), name("other.test")),
            (believing(&authority), pinned(fingerprint)),
            // The system's authorities know nothing of the test's.
            (Dialer::with_identities(anonymous()), name("node.test")),
        ] {
            let dialled = node.dial(by, &dialer, &expected, "t/echo").await;
            assert!(dialled.is_err(), "{by:?} {expected}");
        }
    }
}

#[tokio::test]
async fn k26_an_unpinned_raw_key_is_refused() {
    let mut routes = RouteTable::new();
    routes.add("t/echo", "test", Some(Arc::new(Behaviour))).unwrap();
    let (key, config) =
        (NodeKey::from_seed([1; 32]), EndpointConfig::on("127.0.0.1:0".parse().unwrap()));
    let peers = Arc::new(Peers(Vec::new()));
    let endpoint = Endpoint::bind(config, &key, routes, peers).unwrap();
    let dialer = believing(&Authority::new());
    let dialled = dialer.dial_expecting(endpoint.local_addr(), &name("node.test"), "t/echo").await;
    assert!(dialled.is_err());
    echo(&dialer.dial(endpoint.local_addr(), endpoint.key(), "t/echo").await.unwrap()).await;
}

#[tokio::test]
async fn k29_new_connections_see_a_new_certificate_and_old_ones_live() {
    let authority = Authority::new();
    let node = node(authority.issue("node.test"));
    let first = pinned(node.live.current().unwrap().fingerprint());
    let dialer = Dialer::with_identities(anonymous());
    let old = node.dial(By::Quic, &dialer, &first, "t/echo").await.unwrap();
    echo(&old).await;
    let old_tcp = node.dial(By::Tcp, &dialer, &first, "t/echo").await.unwrap();
    node.live.replace(authority.issue("node.test"));
    let second = pinned(node.live.current().unwrap().fingerprint());
    assert_ne!(first, second);
    for by in BOTH {
        assert!(node.dial(by, &dialer, &first, "t/echo").await.is_err());
        echo(&node.dial(by, &dialer, &second, "t/echo").await.unwrap()).await;
    }
    echo(&old).await;
    echo(&old_tcp).await;
}

#[tokio::test]
async fn k08_a_tcp_connection_has_one_stream() {
    let node = node(Authority::new().issue("node.test"));
    let dialer = Dialer::with_identities(anonymous());
    let connection = node.dial(By::Tcp, &dialer, &node.raw(), "t/open").await.unwrap();
    let said = ask(&connection).await.unwrap();
    assert_eq!(said, b"Some(StreamClosed) Some(ConnectionClosed)");
    assert!(matches!(connection.open_bi().await, Err(StreamError::StreamClosed)));
    assert!(matches!(connection.accept_bi().await, Err(StreamError::ConnectionClosed)));
}

#[tokio::test]
async fn k10_half_an_answer_over_tcp_does_not_read_as_a_whole_one() {
    let node = node(Authority::new().issue("node.test"));
    let dialer = Dialer::with_identities(anonymous());
    let connection = node.dial(By::Tcp, &dialer, &node.raw(), "t/half").await.unwrap();
    let error = ask(&connection).await.unwrap_err();
    assert!(matches!(error, StreamError::ConnectionClosed), "{error}");
}

#[tokio::test]
async fn what_a_handler_finished_over_tcp_arrives_although_the_client_still_sends() {
    let node = node(Authority::new().issue("node.test"));
    let dialer = Dialer::with_identities(anonymous());
    let connection = node.dial(By::Tcp, &dialer, &node.raw(), "t/leave").await.unwrap();
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    send.write_all(&vec![b'y'; 64 << 10]).await.unwrap();
    assert_eq!(recv.read_to_end(2 * PARTING).await.unwrap().len(), PARTING);
}

#[tokio::test]
async fn k03_no_common_alpn_fails_the_handshake_over_tcp_and_the_loop_goes_on() {
    let node = node(Authority::new().issue("node.test"));
    let dialer = Dialer::with_identities(anonymous());
    assert!(node.dial(By::Tcp, &dialer, &node.raw(), "t/none").await.is_err());
    echo(&node.dial(By::Tcp, &dialer, &node.raw(), "t/echo").await.unwrap()).await;
}

#[tokio::test]
async fn a_tcp_client_that_says_nothing_or_nonsense_is_dropped() {
    let limits = TcpConfig { handshake_timeout: Duration::from_millis(200), ..LIMITS };
    let node = node_with(Authority::new().issue("node.test"), Peers(Vec::new()), limits);
    let mut silent = TcpStream::connect(node.tcp).await.unwrap();
    let mut nonsense = TcpStream::connect(node.tcp).await.unwrap();
    nonsense.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let mut rest = Vec::new();
    assert_eq!(silent.read_to_end(&mut rest).await.unwrap(), 0);
    // An alert, or a reset; in any case an end.
    let _reset = nonsense.read_to_end(&mut rest).await;
    let dialer = Dialer::with_identities(anonymous());
    echo(&node.dial(By::Tcp, &dialer, &node.raw(), "t/echo").await.unwrap()).await;
}

#[tokio::test]
async fn k16_k18_a_drain_refuses_newcomers_over_tcp_and_ends_what_is_left() {
    let node = node(Authority::new().issue("node.test"));
    let dialer = Dialer::with_identities(anonymous());
    let connection = node.dial(By::Tcp, &dialer, &node.raw(), "t/echo").await.unwrap();
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    send.write_all(b"?").await.unwrap();
    recv.read_exact(&mut [0]).await.unwrap();
    node.endpoint.shutdown(Duration::from_millis(100)).await;
    assert!(recv.read_to_end(64).await.is_err(), "it broke off");
    assert!(node.dial(By::Tcp, &dialer, &node.raw(), "t/echo").await.is_err());
}
