//! The endpoint: from packets to handlers.
//!
//! A *source* (quinn on UDP sockets, iroh; others have their place beside them) takes a
//! peer through admission and the handshake and wraps the result in the
//! transport traits of the plugin API. From there all sources are one: the
//! [`Dispatcher`](dispatch::Dispatcher) finds the handler of the ALPN, resolves
//! the proven key, keeps the connection's record and turns the handler's end
//! into a [`CloseCode`].
//!
//! ```no_run
//! # use alknet::endpoint::*;
//! # async fn example(key: NodeKey, routes: RouteTable, peers: std::sync::Arc<dyn PeerResolver>)
//! # -> Result<(), EndpointError> {
//! let endpoint = Endpoint::bind(EndpointConfig::default(), &key, routes, peers)?;
//! println!("alknet://{}@{}", key.public(), endpoint.local_addr());
//! endpoint.shutdown(Endpoint::DRAIN).await;
//! # Ok(())
//! # }
//! ```

#[cfg(feature = "quinn")]
mod accept;
pub mod admission;
#[cfg(any(feature = "quinn", feature = "iroh"))]
mod attempt;
mod close;
mod config;
pub mod delivery;
#[cfg(feature = "quinn")]
mod dial;
#[cfg(all(feature = "tcp", feature = "quinn"))]
mod dial_tcp;
pub mod dispatch;
mod drain;
#[cfg(feature = "quinn")]
mod either;
mod fingerprint;
pub mod identity;
#[cfg(feature = "iroh")]
mod iroh;
mod key;
#[cfg(feature = "quinn")]
mod listen;
#[cfg(feature = "quinn")]
mod quic;
mod table;
#[cfg(all(feature = "tcp", feature = "quinn"))]
pub mod tcp;
pub mod tls;
#[cfg(any(feature = "quinn", feature = "iroh"))]
mod transport;

#[cfg(feature = "iroh")]
pub use self::iroh::{IrohDialError, IrohDialer, IrohError};
pub use close::{CloseCode, Crash};
pub use config::{ConnectionLimits, EndpointConfig, IrohConfig, Lookup, Relay, RuntimeShape};
#[cfg(feature = "quinn")]
pub use dial::{DialError, Dialer, Expected};
pub use dispatch::PeerResolver;
pub use drain::Drain;
pub use fingerprint::{Fingerprint, FingerprintError};
pub use key::{AddressError, NodeAddress, NodeKey, PublicKey};
#[cfg(feature = "quinn")]
pub use listen::Endpoint;
pub use table::{ConnectionRecord, ConnectionTable, DuplicateAlpn, Route, RouteTable};

/// Why an endpoint does not stand.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EndpointError {
    /// An address is not available.
    #[error(
        "cannot listen on UDP {address}: {source}; another program may hold the port, or the \
         address may not be this machine's"
    )]
    Bind {
        /// The address from the deployment file.
        address: std::net::SocketAddr,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A TCP address is not available.
    #[error(
        "cannot listen on TCP {address}: {source}; another program may hold the port, the address \
         may not be this machine's, or a port below 1024 may need CAP_NET_BIND_SERVICE"
    )]
    BindTcp {
        /// The address from the deployment file.
        address: std::net::SocketAddr,
        /// The system's reason.
        source: std::io::Error,
    },
    /// There is nothing to serve.
    #[error("no plugin serves an ALPN; enable one that does")]
    NoRoutes,
    /// The TLS configuration does not stand.
    #[error("cannot set TLS up: {0}")]
    Tls(#[from] rustls::Error),
    /// iroh's endpoint does not stand.
    #[cfg(feature = "iroh")]
    #[error(transparent)]
    Iroh(#[from] IrohError),
    /// A shard's thread or runtime could not start.
    #[error("cannot start a shard: {0}; check the process's limits on threads and files")]
    Shard(#[source] std::io::Error),
}

#[cfg(all(test, feature = "quinn"))]
mod tests;
#[cfg(all(test, feature = "quinn", feature = "tcp"))]
mod x509_tests;
