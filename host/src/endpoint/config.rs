//! The endpoint's part of the deployment file.

use std::net::{Ipv6Addr, SocketAddr};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::admission::AdmissionLimits;
#[cfg(any(feature = "quinn", feature = "iroh"))]
use super::transport::StreamLimits;

/// Bytes that a connection's streams may hold together before a handler reads
/// them. One stream alone may hold 1.25 MB.
pub(super) const RECEIVE_WINDOW: u32 = 16 << 20;

/// `[endpoint.quic]`: where to listen, and within which limits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EndpointConfig {
    /// UDP addresses to listen on; none where other sources do. Default
    /// `[::]:4433`, both address families.
    pub bind: Vec<SocketAddr>,
    /// How connections are spread over threads.
    pub runtime: RuntimeShape,
    /// How long a handshake may take. Default 5 s.
    pub handshake_timeout: Duration,
    /// Time without a packet after which a connection is lost. The peer's
    /// own limit counts where it is smaller. Default 30 s.
    pub idle_timeout: Duration,
    /// Silence after which the node pings. Default 10 s.
    pub keep_alive: Duration,
    /// Bidirectional streams that a peer may have open. Default 1,000.
    pub max_bidirectional_streams: u32,
    /// Unidirectional streams that a peer may have open. Default 100.
    pub max_unidirectional_streams: u32,
    /// Bytes asked of the kernel for each UDP socket's buffers, in and out; it
    /// may give less (`net.core.rmem_max`, `wmem_max`). Default 2 MiB.
    pub socket_buffer_bytes: usize,
    /// Who may connect, and how often.
    pub admission: AdmissionLimits,
}

impl Default for EndpointConfig {
    fn default() -> Self {
        Self {
            bind: vec![(Ipv6Addr::UNSPECIFIED, 4433).into()],
            runtime: RuntimeShape::default(),
            handshake_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(30),
            keep_alive: Duration::from_secs(10),
            max_bidirectional_streams: 1_000,
            max_unidirectional_streams: 100,
            socket_buffer_bytes: 2 << 20,
            admission: AdmissionLimits::default(),
        }
    }
}

impl EndpointConfig {
    /// These, with `limits` in the place of its own.
    #[cfg(any(feature = "quinn", feature = "iroh"))]
    pub(super) fn under(&self, limits: &ConnectionLimits) -> Self {
        let idle_timeout = limits.idle_timeout.unwrap_or(self.idle_timeout);
        let streams = StreamLimits::of(self).under(limits);
        Self {
            handshake_timeout: limits.handshake_timeout.unwrap_or(self.handshake_timeout),
            idle_timeout,
            keep_alive: keep_alive_within(self.keep_alive, idle_timeout),
            max_bidirectional_streams: streams.bidirectional,
            max_unidirectional_streams: streams.unidirectional,
            ..self.clone()
        }
    }

    /// The default limits on one address.
    pub fn on(address: SocketAddr) -> Self {
        Self { bind: vec![address], ..Self::default() }
    }
}

/// Limits that take the place of the endpoint's own for connections that come from
/// now on, over every source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// How long a handshake may take.
    pub handshake_timeout: Option<Duration>,
    /// Time without a packet after which a connection is lost.
    pub idle_timeout: Option<Duration>,
    /// Bidirectional streams that a peer may have open.
    pub bidirectional_streams: Option<u32>,
    /// Unidirectional streams that a peer may have open.
    pub unidirectional_streams: Option<u32>,
}

impl ConnectionLimits {
    /// Whether they change what a QUIC library is told of a connection.
    pub(super) fn shape_connections(&self) -> bool {
        *self != Self { handshake_timeout: self.handshake_timeout, ..Self::default() }
    }
}

/// The silence after which to ping, so that a living peer is not taken for a lost
/// one where the idle time has become shorter than what is configured.
pub(super) fn keep_alive_within(keep_alive: Duration, idle_timeout: Duration) -> Duration {
    if keep_alive < idle_timeout { keep_alive } else { idle_timeout / 3 }
}

/// `[endpoint.iroh]`: peers that are dialled by key, through relays where there
/// is no other way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IrohConfig {
    /// UDP addresses to listen on, at most one of each family; empty means every
    /// address of both, on ports that the system chooses.
    pub listen: Vec<SocketAddr>,
    /// Through which relays the node can be reached.
    pub relay: Relay,
    /// Who is told where the node is, and asked where others are. By default
    /// nobody: keys and addresses are told to no third party unasked.
    pub lookup: Vec<Lookup>,
}

/// Relays, which carry packets, all encrypted, between peers that find no
/// straight way to each other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Relay {
    /// None.
    #[default]
    Disabled,
    /// Those that number 0, who write iroh, offer to everybody.
    N0,
    /// These, by URL.
    Own(Vec<String>),
}

/// Services that know where a key can be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Lookup {
    /// Number 0's, by pkarr over HTTPS and by DNS: the node's relay is published
    /// there, signed by its key, and others are looked up.
    N0,
}

/// How connections are spread over threads; `docs/adr/0003-runtime-shape.md`
/// has the reasons.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RuntimeShape {
    /// One socket an address, on the runtime that binds the endpoint; tasks move
    /// between its threads.
    #[default]
    Shared,
    /// This many threads, each with a runtime and sockets of its own; a
    /// connection and its handler stay where the kernel first put them. 0 means
    /// one a core.
    Shards(usize),
}

impl RuntimeShape {
    /// Shards to start; `None` when the ambient runtime does the work.
    pub(super) fn shards(self) -> Option<usize> {
        match self {
            Self::Shared => None,
            Self::Shards(0) => {
                Some(std::thread::available_parallelism().map_or(1, std::num::NonZero::get))
            }
            Self::Shards(count) => Some(count),
        }
    }
}
