//! TLS over TCP as a source: for clients and protocols that know no QUIC.
//!
//! A TCP connection is one stream and carries one protocol, which its ALPN names
//! as on QUIC. It goes through the same admission, shows its client the same
//! identities, and ends at the same dispatcher, as a connection whose only stream
//! is there at the first `accept_bi`.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use alknet_plugin_api::single::SingleStream;
use alknet_plugin_api::{Connection, ConnectionInfo, Source};
use futures_util::FutureExt;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf, ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use super::EndpointError;
use super::admission::Origin;
use super::config::keep_alive_within;
use super::delivery::Deliveries;
use super::dispatch::{Arrival, Dispatcher};
use super::drain::Drain;
use super::fingerprint::Fingerprint;
use super::identity::Challenges;
use super::tls::ServerIdentities;

/// ALPNs of protocols that are made of QUIC's streams or datagrams.
pub const QUIC_ONLY: [&str; 2] = ["h3", "doq"];

/// What a client means that names no protocol: HTTPS is older than ALPN.
const UNNAMED: &str = "http/1.1";

/// Connections that the kernel may hold for the accept loop.
const BACKLOG: i32 = 1_024;

/// How long the accept loop rests when the system has nothing left to accept
/// with, such as file descriptors.
const EXHAUSTED: Duration = Duration::from_millis(100);

/// How long, and for how many bytes, a connection that is done listens to what
/// its client still sends: closing a socket with unread bytes in it resets the
/// connection, and the client may lose the answer.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: u64 = 1 << 20;

/// Where to listen, and within which limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcpConfig {
    /// TCP addresses.
    pub bind: Vec<SocketAddr>,
    /// How long a handshake may take.
    pub handshake_timeout: Duration,
    /// After how long without an answer from its system a peer counts as gone.
    pub idle_timeout: Duration,
    /// Silence after which the peer's system is asked.
    pub keep_alive: Duration,
}

/// Whether the process, or the system, may open no more.
fn descriptors_are_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

/// Everything that the listeners of one node have in common.
pub(super) struct TcpSetup {
    identities: ServerIdentities,
    /// Answers for an ACME server that asks whether the node holds its names.
    challenges: Option<Arc<Challenges>>,
    config: TcpConfig,
}

impl TcpSetup {
    pub(super) fn new(
        identities: ServerIdentities,
        challenges: Option<Arc<Challenges>>,
        config: TcpConfig,
    ) -> Self {
        Self { identities, challenges, config }
    }

    /// Listens on every address, or on none, and serves on the current runtime
    /// until the node closes.
    pub(super) fn listen(self, node: &Arc<Dispatcher>) -> Result<Vec<SocketAddr>, EndpointError> {
        let open = |&address: &SocketAddr| {
            let bound = listener(address).and_then(|listener| {
                let local = listener.local_addr()?;
                Ok((TcpListener::from_std(listener)?, local))
            });
            bound.map_err(|source| EndpointError::BindTcp { address, source })
        };
        let listeners: Vec<_> = self.config.bind.iter().map(open).collect::<Result<_, _>>()?;
        let setup = Arc::new(self);
        let mut addresses = Vec::new();
        for (listener, address) in listeners {
            addresses.push(address);
            tokio::spawn(setup.clone().accept(listener, node.clone()));
        }
        Ok(addresses)
    }

    async fn accept(self: Arc<Self>, listener: TcpListener, node: Arc<Dispatcher>) {
        let mut exhausted = false;
        loop {
            let accepted = tokio::select! {
                biased;
                () = node.closing().cancelled() => return,
                () = node.drain().begun() => return,
                accepted = listener.accept() => accepted,
            };
            let (stream, address) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Said once, until the node has some again for a while.
                    match descriptors_are_gone(&error) {
                        true if exhausted => {}
                        true => tracing::error!(
                            %error,
                            "the node has no file descriptor left, and lets new TCP connections \
                             wait; raise its limit (`LimitNOFILE` in the unit, `ulimit -n` in a \
                             shell)"
                        ),
                        false => tracing::warn!(%error, "cannot accept a TCP connection"),
                    }
                    exhausted = descriptors_are_gone(&error);
                    tokio::time::sleep(EXHAUSTED).await;
                    continue;
                }
            };
            // The address is proven: the client has answered TCP's own handshake.
            // A dropped stream is a refusal.
            let Ok(half_open) = node.knock(Origin::Address(address.ip()), true) else { continue };
            let (setup, node) = (self.clone(), node.clone());
            tokio::spawn(async move {
                let limits = node.limits();
                let limit = limits.handshake_timeout.unwrap_or(setup.config.handshake_timeout);
                let idle = limits.idle_timeout.unwrap_or(setup.config.idle_timeout);
                let done = tokio::time::timeout(limit, setup.handshake(stream, idle)).await;
                drop(half_open);
                match done {
                    Ok(Ok(Some(stream))) => arrive(&node, stream, address).await,
                    Ok(Ok(None)) => tracing::debug!("answered an ACME challenge"),
                    Ok(Err(error)) => node.handshake_failed(&error.to_string()),
                    Err(_) => node.handshake_failed("not complete in time"),
                }
            });
        }
    }

    /// The client's connection; `None` when it was an ACME server's question.
    async fn handshake(
        &self,
        stream: TcpStream,
        idle_timeout: Duration,
    ) -> io::Result<Option<TlsStream<TcpStream>>> {
        stream.set_nodelay(true)?;
        self.watch(&stream, idle_timeout)?;
        let start = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), stream).await?;
        let hello = start.client_hello();
        if let Some(challenge) = self.challenges.as_ref().and_then(|all| all.answer(&hello)) {
            start.into_stream(challenge).await?;
            return Ok(None);
        }
        let config = self.identities.choose(&hello).clone();
        let stream = start.into_stream(config).await?;
        if stream.get_ref().1.alpn_protocol().is_none() && !self.offers(UNNAMED) {
            return Err(io::Error::other("the client names no protocol"));
        }
        Ok(Some(stream))
    }

    fn offers(&self, alpn: &str) -> bool {
        self.identities.raw.alpn_protocols.iter().any(|offered| offered == alpn.as_bytes())
    }

    /// Lets the system find out about a peer that is gone.
    fn watch(&self, stream: &TcpStream, idle_timeout: Duration) -> io::Result<()> {
        let keep_alive = keep_alive_within(self.config.keep_alive, idle_timeout);
        let rest = idle_timeout.saturating_sub(keep_alive).max(Duration::from_secs(1));
        let probes =
            TcpKeepalive::new().with_time(keep_alive).with_interval(rest / 2).with_retries(2);
        let socket = SockRef::from(stream);
        socket.set_tcp_keepalive(&probes)?;
        #[cfg(target_os = "linux")]
        socket.set_tcp_user_timeout(Some(idle_timeout))?;
        Ok(())
    }
}

async fn arrive(node: &Arc<Dispatcher>, stream: TlsStream<TcpStream>, address: SocketAddr) {
    let session = stream.get_ref().1;
    let alpn = session.alpn_protocol().unwrap_or(UNNAMED.as_bytes());
    let shown = session.peer_certificates().and_then(|shown| shown.first());
    let peer = shown.map(|entry| Fingerprint::of_shown(entry));
    let info = ConnectionInfo {
        id: node.next_id(),
        source: Source::Tls,
        alpn: String::from_utf8_lossy(alpn).into_owned(),
        remote_addr: Some(address),
        peer_key: peer.and_then(|peer| peer.key()).map(|key| key.0),
    };
    let deliveries = Arc::default();
    let (connection, ended) = single_stream(info, peer, stream, node.drain(), &deliveries);
    node.dispatch(Arrival {
        connection: connection.backend().clone(),
        origin: Some(Origin::Address(address.ip())),
        streams: Arc::new(AtomicU64::new(1)),
        deliveries,
    });
    drop(connection);
    ended.await;
}

/// A connection out of a TLS stream, and what completes it: a finished stream is
/// sent to its end, and the socket closes only once the peer has it.
pub(super) fn single_stream<S>(
    info: ConnectionInfo,
    peer: Option<Fingerprint>,
    stream: S,
    drain: Drain,
    deliveries: &Arc<Deliveries>,
) -> (Connection, impl Future<Output = ()> + use<S>)
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let (reader, writer) = tokio::io::split(stream);
    let (back, returned) = oneshot::channel();
    let reader = Lent { reader: Some(reader), back: Some(back) };
    let complete = Arc::<AtomicBool>::default();
    let writer = Delivered {
        writer,
        deliveries: deliveries.clone(),
        arrives: None,
        complete: complete.clone(),
    };
    let mut single = SingleStream::new(info, reader, writer).shutdown(move || drain.begun());
    if let Some(peer) = peer {
        single = single.peer_fingerprint(peer.to_string());
    }
    let (connection, driver) = single.build();
    let ended = async move {
        driver.await;
        if !complete.load(Ordering::Relaxed) {
            // It breaks off, and its peer learns that at once.
            return;
        }
        let Ok(reader) = returned.await else { return };
        let mut rest = reader.take(LINGER_BYTES);
        let mut nowhere = tokio::io::sink();
        let read = tokio::io::copy(&mut rest, &mut nowhere);
        let _gone_or_silent = tokio::time::timeout(LINGER, read).await;
    };
    (connection, ended)
}

/// The reading half, which comes back when the handler is done with it.
struct Lent<S> {
    reader: Option<ReadHalf<S>>,
    back: Option<oneshot::Sender<ReadHalf<S>>>,
}

impl<S: AsyncRead> AsyncRead for Lent<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.reader {
            Some(reader) => Pin::new(reader).poll_read(cx, buffer),
            None => Poll::Ready(Ok(())),
        }
    }
}

impl<S> Drop for Lent<S> {
    fn drop(&mut self) {
        if let (Some(reader), Some(back)) = (self.reader.take(), self.back.take()) {
            // Nobody waits for it on a connection that is cut off.
            let _cut_off = back.send(reader);
        }
    }
}

/// The writing half, which counts as a delivery from its first byte on: the
/// connection of a handler that is done waits until it has been shut down.
struct Delivered<S> {
    writer: WriteHalf<S>,
    deliveries: Arc<Deliveries>,
    /// Dropped once there is nothing left to arrive.
    arrives: Option<oneshot::Sender<()>>,
    /// Set once it has been shut down.
    complete: Arc<AtomicBool>,
}

impl<S: AsyncRead + AsyncWrite> AsyncWrite for Delivered<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.arrives.is_none() {
            let (arrives, arrived) = oneshot::channel();
            self.arrives = Some(arrives);
            self.deliveries.keep(Box::pin(arrived.map(drop)));
        }
        Pin::new(&mut self.writer).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.writer).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut_down = Pin::new(&mut self.writer).poll_shutdown(cx);
        if let Poll::Ready(result) = &shut_down {
            self.arrives = None;
            self.complete.store(result.is_ok(), Ordering::Relaxed);
        }
        shut_down
    }
}

fn listener(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        // `[::]` serves both families; the platform's default for that varies.
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    // Connections of a node that has just stopped must not keep the next one out.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}
