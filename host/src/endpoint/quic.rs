//! QUIC by quinn.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use alknet_plugin_api::{Closed, ConnectionStats, DatagramError, StreamError};
use bytes::Bytes;
use rustls::pki_types::CertificateDer;
use tokio::io::ReadBuf;

use super::fingerprint::Fingerprint;
use super::transport::{RecvHalf, SendHalf, Stopped, StreamLimits, Transport, quic_library};

quic_library!(quinn, stats: stats, peer: peer, read: quinn::RecvStream::poll_read_buf);

fn stats(quinn: &quinn::Connection) -> ConnectionStats {
    let stats = quinn::Connection::stats(quinn);
    ConnectionStats {
        rtt: stats.path.rtt,
        bytes_sent: stats.udp_tx.bytes,
        bytes_received: stats.udp_rx.bytes,
        packets_lost: stats.path.lost_packets,
        mtu: stats.path.current_mtu,
    }
}

/// The key or certificate that the peer has proven to hold; the handshake checked
/// its signature.
pub(super) fn peer(quinn: &quinn::Connection) -> Option<Fingerprint> {
    let shown = quinn.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    shown.first().map(|entry| Fingerprint::of_shown(entry))
}

/// The ALPN that the handshake settled on.
pub(super) fn alpn(quinn: &quinn::Connection) -> Option<String> {
    let data = quinn.handshake_data()?.downcast::<quinn::crypto::rustls::HandshakeData>().ok()?;
    String::from_utf8(data.protocol?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn k07_transport_errors_map_as_the_table_says() {
        use quinn::ConnectionError as E;
        assert!(matches!(connection_error(E::TimedOut), StreamError::Timeout));
        for error in [
            E::Reset,
            E::LocallyClosed,
            E::ApplicationClosed(quinn::ApplicationClose {
                error_code: quinn::VarInt::from_u32(1),
                reason: Bytes::new(),
            }),
        ] {
            assert!(matches!(connection_error(error), StreamError::ConnectionClosed));
        }
        for error in [E::VersionMismatch, E::CidsExhausted] {
            let text = error.to_string();
            match connection_error(error) {
                StreamError::Internal(io) => assert_eq!(io.to_string(), text),
                other => panic!("{other:?}"),
            }
        }
    }
}
