//! The client's side over TCP: one connection, one stream.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use alknet_plugin_api::backend::{BiHalves, ConnectionBackend, RecvBackend, SendBackend};
use alknet_plugin_api::{
    Closed, Connection, ConnectionInfo, ConnectionStats, DatagramError, Identity,
    IdentityAlreadySet, Source, StreamError,
};
use bytes::Bytes;
use futures_util::future::{self, BoxFuture};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::dial::{DialError, Dialer, Expected};
use super::drain::Drain;
use super::fingerprint::Fingerprint;
use super::tcp::single_stream;

impl Dialer {
    /// Connects to a node's TCP listener, with the same proofs on both sides as
    /// [`dial_expecting`](Self::dial_expecting). The connection has one stream,
    /// which the first `open_bi` gives. Its task runs on the current runtime.
    ///
    /// # Errors
    /// As for [`dial_expecting`](Self::dial_expecting).
    pub async fn dial_tcp(
        &self,
        address: SocketAddr,
        expected: &Expected,
        alpn: &str,
    ) -> Result<Connection, DialError> {
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| DialError::Handshake {
            address,
            expected: expected.clone().into(),
            alpn: alpn.to_owned(),
            source,
        };
        let config = self.config(expected, alpn)?;
        let name = ServerName::try_from(expected.name()).map_err(|error| failed(error.into()))?;
        let stream = TcpStream::connect(address).await.map_err(|error| failed(error.into()))?;
        stream.set_nodelay(true).map_err(|error| failed(error.into()))?;
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
        let stream = stream.map_err(|error| failed(error.into()))?;
        let session = stream.get_ref().1;
        // A server may go on without a protocol in common; nobody could tell then
        // what it takes the bytes for.
        if session.alpn_protocol() != Some(alpn.as_bytes()) {
            return Err(failed("the node does not serve this ALPN over TCP".into()));
        }
        let shown = session.peer_certificates().and_then(|shown| shown.first());
        let peer = shown.map(|entry| Fingerprint::of_shown(entry));
        let info = ConnectionInfo {
            id: self.next_id(),
            source: Source::Tls,
            alpn: alpn.to_owned(),
            remote_addr: Some(address),
            peer_key: peer.and_then(|peer| peer.key()).map(|key| key.0),
        };
        let (connection, ended) =
            single_stream(info, peer, stream, Drain::never(), &Arc::default());
        tokio::spawn(ended);
        let backend = Opener { stream: connection, opened: AtomicBool::new(false) };
        Ok(Connection::new(Arc::new(backend)))
    }
}

/// A single stream seen from the side that opens it.
struct Opener {
    stream: Connection,
    opened: AtomicBool,
}

fn closed_stream<T: Send + 'static>() -> BoxFuture<'static, Result<T, StreamError>> {
    Box::pin(future::ready(Err(StreamError::StreamClosed)))
}

impl Opener {
    fn inner(&self) -> &dyn ConnectionBackend {
        &**self.stream.backend()
    }
}

impl ConnectionBackend for Opener {
    fn info(&self) -> &ConnectionInfo {
        self.inner().info()
    }

    fn peer_fingerprint(&self) -> Option<String> {
        self.inner().peer_fingerprint()
    }

    /// The node opens none, so that this waits for the end.
    fn accept_bi(&self) -> BoxFuture<'static, Result<BiHalves, StreamError>> {
        let closed = self.inner().closed();
        Box::pin(async move {
            closed.await;
            Err(StreamError::ConnectionClosed)
        })
    }

    fn open_bi(&self) -> BoxFuture<'static, Result<BiHalves, StreamError>> {
        match self.opened.swap(true, Ordering::Relaxed) {
            true => closed_stream(),
            false => self.inner().accept_bi(),
        }
    }

    fn accept_uni(&self) -> BoxFuture<'static, Result<Box<dyn RecvBackend>, StreamError>> {
        self.inner().accept_uni()
    }

    fn open_uni(&self) -> BoxFuture<'static, Result<Box<dyn SendBackend>, StreamError>> {
        self.inner().open_uni()
    }

    fn send_datagram(&self, data: Bytes) -> Result<(), DatagramError> {
        self.inner().send_datagram(data)
    }

    fn read_datagram(&self) -> BoxFuture<'static, Result<Bytes, StreamError>> {
        self.inner().read_datagram()
    }

    fn max_datagram_size(&self) -> Option<usize> {
        self.inner().max_datagram_size()
    }

    fn close(&self, code: u64, reason: &str) {
        self.inner().close(code, reason);
    }

    fn closed(&self) -> BoxFuture<'static, Closed> {
        self.inner().closed()
    }

    fn shutdown(&self) -> BoxFuture<'static, ()> {
        self.inner().shutdown()
    }

    fn stats(&self) -> ConnectionStats {
        self.inner().stats()
    }

    fn set_identity(&self, identity: Identity) -> Result<(), IdentityAlreadySet> {
        self.inner().set_identity(identity)
    }

    fn identity(&self) -> Option<Identity> {
        self.inner().identity()
    }
}
