//! iroh: nodes that are reached by key alone, behind NATs and firewalls.
//!
//! iroh speaks QUIC as quinn does, with the same raw keys and the same handshake:
//! one seed is one identity on both, and a client of one can dial a server of the
//! other. What it adds is finding a way: through a relay at first, and straight
//! as soon as both sides have found how. Handlers see none of it.
//!
//! Two things differ, and are made equal here. iroh's server always wants the
//! client's key, so that nobody is anonymous there: a client without a key shows
//! one that it made up. And its TLS would take early data, which can be replayed;
//! so a connection begins with no streams at all, for which early data could
//! speak, and gets its first ones when the handshake is over.

mod dial;
mod listen;

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use alknet_plugin_api::{Closed, ConnectionStats, DatagramError, StreamError};
use bytes::Bytes;
// iroh's own names for the types of noq, its fork of quinn.
use iroh::endpoint as noq;
use iroh::endpoint::{Builder, presets};
use iroh::{RelayConfig, RelayMode, RelayUrl, SecretKey};
use tokio::io::ReadBuf;

use super::config::{IrohConfig, Lookup, Relay};
use super::fingerprint::Fingerprint;
use super::key::{NodeKey, PublicKey};
use super::tls;
use super::transport::{RecvHalf, SendHalf, Stopped, StreamLimits, Transport, quic_library};

pub use dial::{IrohDialError, IrohDialer};
pub(super) use listen::Listener;

/// Why an iroh endpoint does not stand.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IrohError {
    /// Two addresses of one family.
    #[error(
        "iroh cannot listen on {address} too: it takes one address of each family; leave one, or \
         listen on 0.0.0.0"
    )]
    SecondAddress {
        /// The second one.
        address: std::net::SocketAddr,
    },
    /// Not a relay's URL.
    #[error("`{url}` is not a relay's URL, such as https://relay.example: {reason}")]
    Relay {
        /// What stands there.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// It could not be started.
    #[error(
        "iroh cannot listen on {listen:?}: {reason}; another program may hold the port, or the \
         address may not be this machine's"
    )]
    Bind {
        /// The addresses from the deployment file.
        listen: Vec<std::net::SocketAddr>,
        /// iroh's reason.
        reason: String,
    },
}

/// What dialling and listening have in common.
fn builder(config: &IrohConfig, key: Option<&NodeKey>) -> Result<Builder, IrohError> {
    let relay = match &config.relay {
        Relay::Disabled => RelayMode::Disabled,
        Relay::N0 => RelayMode::Default,
        Relay::Own(urls) => {
            let relays: Result<Vec<_>, _> = urls.iter().map(|url| relay(url)).collect();
            RelayMode::Custom(relays?.into_iter().collect())
        }
    };
    // Asking whether a network wants a login first is for laptops in hotels.
    let mut report = iroh::endpoint::NetReportConfig::default();
    report.captive_portal_check = false;
    let mut builder = iroh::Endpoint::builder(presets::Minimal)
        .crypto_provider(tls::provider())
        .relay_mode(relay)
        .net_report_config(report);
    if let Some(key) = key {
        builder = builder.secret_key(SecretKey::from_bytes(key.seed()));
    }
    if !config.listen.is_empty() {
        builder = builder.clear_ip_transports();
    }
    for &address in &config.listen {
        builder = builder.bind_addr(address).map_err(|_| IrohError::SecondAddress { address })?;
    }
    for lookup in &config.lookup {
        use iroh::address_lookup::{DnsAddressLookup, PkarrPublisher, PkarrResolver};
        builder = match lookup {
            Lookup::N0 => builder
                .address_lookup(PkarrPublisher::n0_dns())
                .address_lookup(PkarrResolver::n0_dns())
                .address_lookup(DnsAddressLookup::n0_dns()),
        };
    }
    Ok(builder)
}

fn relay(url: &str) -> Result<RelayConfig, IrohError> {
    let url = relay_url(url)?;
    // Without TLS a relay has no QUIC by which to tell a peer its address.
    Ok(match url.scheme() {
        "http" => RelayConfig::new(url, None),
        _ => RelayConfig::from(url),
    })
}

fn relay_url(url: &str) -> Result<RelayUrl, IrohError> {
    url.parse()
        .map_err(|error| IrohError::Relay { url: url.to_owned(), reason: format!("{error:#}") })
}

quic_library!(noq, stats: stats, peer: peer, read: read);

fn peer(connection: &noq::Connection) -> Option<Fingerprint> {
    Some(Fingerprint::Key(PublicKey(*connection.remote_id().as_bytes())))
}

fn stats(connection: &noq::Connection) -> ConnectionStats {
    let all = noq::Connection::stats(connection);
    let paths = connection.paths();
    let used = paths.iter().find(noq::Path::is_selected).map(|path| path.stats());
    ConnectionStats {
        rtt: used.as_ref().map(|path| path.rtt).unwrap_or_default(),
        bytes_sent: all.udp_tx.bytes,
        bytes_received: all.udp_rx.bytes,
        packets_lost: all.lost_packets,
        mtu: used.map(|path| path.current_mtu).unwrap_or_default(),
    }
}

fn read(
    recv: &mut noq::RecvStream,
    cx: &mut Context<'_>,
    buffer: &mut ReadBuf<'_>,
) -> Poll<Result<(), noq::ReadError>> {
    let read = ready!(recv.poll_read(cx, buffer.initialize_unfilled()))?;
    buffer.advance(read);
    Poll::Ready(Ok(()))
}
