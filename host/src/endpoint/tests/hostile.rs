//! Clients that do not behave, below what a [`Dialer`] can do.

use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use quinn::crypto::rustls::QuicClientConfig;
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, Runtime, TokioRuntime, UdpPoller};

use super::*;

/// A client's configuration, with several ALPNs if need be.
fn client(mut crypto: rustls::ClientConfig, alpns: &[&str]) -> quinn::ClientConfig {
    crypto.alpn_protocols = alpns.iter().map(|alpn| alpn.as_bytes().to_vec()).collect();
    quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(crypto).unwrap()))
}

fn socket() -> quinn::Endpoint {
    quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap()
}

#[tokio::test]
async fn k02_the_files_order_decides_whatever_order_the_client_prefers() {
    let node = node();
    let name = tls::server_name(&node.endpoint.key());
    let socket = socket();
    for (offered, chosen) in [
        (["t/hold", "t/echo"], "t/echo"),
        (["t/echo", "t/hold"], "t/echo"),
        (["t/hold", "t/unknown"], "t/hold"),
    ] {
        let config = client(tls::client_config(None).unwrap(), &offered);
        let connecting = socket.connect_with(config, node.endpoint.local_addr(), &name).unwrap();
        let connection = connecting.await.unwrap();
        assert_eq!(quic::alpn(&connection).as_deref(), Some(chosen), "{offered:?}");
    }
}

/// The client really sends early data: its ticket comes from another server with
/// the same key, which allows it.
#[tokio::test]
async fn k31_early_data_is_refused() {
    let key = NodeKey::from_seed([1; 32]);
    let mut crypto = tls::server_config(&key, vec![b"t/echo".to_vec()]).unwrap();
    crypto.max_early_data_size = u32::MAX;
    let crypto = quinn::crypto::rustls::QuicServerConfig::try_from(crypto).unwrap();
    let lenient = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    let lenient = quinn::Endpoint::server(lenient, "127.0.0.1:0".parse().unwrap()).unwrap();

    let mut crypto = tls::client_config(None).unwrap();
    crypto.enable_early_data = true;
    let (config, socket) = (client(crypto, &["t/echo"]), socket());
    let name = tls::server_name(&key.public());
    let dial = |address: SocketAddr| socket.connect_with(config.clone(), address, &name).unwrap();

    // A stream that arrives shows that the ticket, sent before it, has too.
    let serve = async {
        let connection = lenient.accept().await.unwrap().await.unwrap();
        connection.open_uni().await.unwrap().write_all(b"hello").await.unwrap();
        connection.closed().await
    };
    let take = async {
        let connection = dial(lenient.local_addr().unwrap()).await.unwrap();
        let mut greeting = [0; 5];
        connection.accept_uni().await.unwrap().read_exact(&mut greeting).await.unwrap();
        connection.close(0_u32.into(), b"");
    };
    tokio::join!(serve, take);

    let node = node();
    let Ok((connection, accepted)) = dial(node.endpoint.local_addr()).into_0rtt() else {
        panic!("the client has no ticket for early data");
    };
    let (mut early, mut answer) = connection.open_bi().await.unwrap();
    early.write_all(b"replayable").await.unwrap();
    assert!(!accepted.await, "the node took early data");
    let refused = answer.read(&mut [0; 16]).await.unwrap_err();
    assert!(matches!(refused, quinn::ReadError::ZeroRttRejected), "{refused}");
    // The same connection goes on, without what was early.
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    send.write_all(b"fresh").await.unwrap();
    send.finish().unwrap();
    assert_eq!(recv.read_to_end(64).await.unwrap(), b"fresh");
    assert_eq!(node.endpoint.table().snapshot()[0].streams, 1, "only one reached the handler");
}

/// A socket that lets so many datagrams out, and none in.
struct Muzzled {
    inner: Arc<dyn AsyncUdpSocket>,
    left: AtomicUsize,
}

impl fmt::Debug for Muzzled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl AsyncUdpSocket for Muzzled {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        self.inner.clone().create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let one_less = |left: usize| left.checked_sub(1);
        match self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less) {
            Ok(_) => self.inner.try_send(transmit),
            Err(_) => Ok(()),
        }
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
        self.inner.local_addr()
    }
}

fn muzzled(datagrams: usize) -> quinn::Endpoint {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let inner = TokioRuntime.wrap_udp_socket(socket).unwrap();
    let socket = Arc::new(Muzzled { inner, left: datagrams.into() });
    let config = quinn::EndpointConfig::default();
    quinn::Endpoint::new_with_abstract_socket(config, None, socket, Arc::new(TokioRuntime)).unwrap()
}

#[tokio::test]
async fn k55_a_handshake_that_does_not_go_on_is_dropped_in_time() {
    let limit = Duration::from_millis(300);
    let on = EndpointConfig::on("127.0.0.1:0".parse().unwrap());
    let configured = node_of(EndpointConfig { handshake_timeout: limit, ..on.clone() });
    dropped_after(&configured, limit).await;
    let limited = node_of(on);
    limited.endpoint.set_connection_limits(ConnectionLimits {
        handshake_timeout: Some(limit),
        ..ConnectionLimits::default()
    });
    dropped_after(&limited, limit).await;
}

async fn dropped_after(node: &Node, limit: Duration) {
    let name = tls::server_name(&node.endpoint.key());
    let config = client(tls::client_config(None).unwrap(), &["t/echo"]);
    // Its hello, and nothing more.
    let muzzled = muzzled(1);
    let began = Instant::now();
    let _connecting = muzzled.connect_with(config, node.endpoint.local_addr(), &name).unwrap();
    let until = async |wanted: u32| {
        while node.endpoint.handshakes() != wanted {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let within = |future| tokio::time::timeout(Duration::from_secs(5), future);
    within(until(1)).await.expect("the handshake begins");
    within(until(0)).await.expect("the handshake is still under way");
    assert!(began.elapsed() >= limit, "it was given its time");
    assert!(node.endpoint.table().is_empty());
    echo(&node.dial_with(&anonymous(), "t/echo").await.unwrap()).await;
}
