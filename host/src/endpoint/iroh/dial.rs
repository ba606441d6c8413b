//! Dialling by key.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use alknet_plugin_api::{Connection, ConnectionInfo, Source};
use iroh::{EndpointAddr, EndpointId};

use super::{IrohError, builder, relay_url};
use crate::endpoint::config::IrohConfig;
use crate::endpoint::key::{NodeKey, PublicKey};
use crate::endpoint::transport::QuicConnection;

/// Dials nodes by their keys. Close it, so that they learn of it.
pub struct IrohDialer {
    iroh: iroh::Endpoint,
    last_id: AtomicU64,
}

/// Why a node could not be dialled by its key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IrohDialError {
    /// iroh's own side does not stand.
    #[error(transparent)]
    Iroh(#[from] IrohError),
    /// The key is on no curve.
    #[error("{0} is not a node's key: no private key belongs to it; check it for a typing error")]
    Key(PublicKey),
    /// Nobody knows where the node is.
    #[error(
        "nothing says where {0} is: name its relay or its address, or turn an address lookup on"
    )]
    Nowhere(PublicKey),
    /// The node was not reached, or is another.
    #[error(
        "no connection to {key}: {reason}; check that the node runs, that it is reached by this \
         relay or address, and that it serves ALPN `{alpn}`"
    )]
    Handshake {
        /// Whom.
        key: PublicKey,
        /// What for.
        alpn: String,
        /// iroh's reason.
        reason: String,
    },
}

impl IrohDialer {
    /// A dialer that proves `key`, or one that it makes up. `config` says by
    /// which relays and lookups it goes, and where its own sockets are.
    ///
    /// # Errors
    /// Sockets that are not to be had, or a relay's URL that is none.
    pub async fn new(key: Option<&NodeKey>, config: &IrohConfig) -> Result<Self, IrohDialError> {
        let bound = builder(config, key)?.bind().await;
        let iroh = bound.map_err(|error| IrohError::Bind {
            listen: config.listen.clone(),
            reason: format!("{error:#}"),
        })?;
        Ok(Self { iroh, last_id: AtomicU64::new(0) })
    }

    /// Connects to the node that holds `key`, for `alpn`, by a relay, by
    /// addresses, or by what a lookup says. Dropping the future gives the attempt
    /// up.
    ///
    /// # Errors
    /// [`IrohDialError::Nowhere`] at once where there is nothing to go by;
    /// [`IrohDialError::Handshake`] when nobody answers or the ALPN is not served.
    pub async fn dial(
        &self,
        key: PublicKey,
        relay: Option<&str>,
        addresses: &[SocketAddr],
        alpn: &str,
    ) -> Result<Connection, IrohDialError> {
        let id = EndpointId::from_bytes(&key.0).map_err(|_| IrohDialError::Key(key))?;
        let mut place = EndpointAddr::new(id);
        if let Some(relay) = relay {
            place = place.with_relay_url(relay_url(relay)?);
        }
        for address in addresses {
            place = place.with_ip_addr(*address);
        }
        let nobody_to_ask = self.iroh.address_lookup().is_ok_and(|services| services.is_empty());
        if place.is_empty() && nobody_to_ask {
            return Err(IrohDialError::Nowhere(key));
        }
        let dialled = self.iroh.connect(place, alpn.as_bytes()).await;
        let connection = dialled.map_err(|error| IrohDialError::Handshake {
            key,
            alpn: alpn.to_owned(),
            reason: format!("{error:#}"),
        })?;
        let info = ConnectionInfo {
            id: self.last_id.fetch_add(1, Ordering::Relaxed) + 1,
            source: Source::Iroh,
            alpn: alpn.to_owned(),
            remote_addr: addresses.first().copied().filter(|_| addresses.len() == 1),
            peer_key: Some(*connection.remote_id().as_bytes()),
        };
        Ok(Connection::new(Arc::new(QuicConnection::dialled(connection, info))))
    }

    /// The key that the dialer proves.
    pub fn key(&self) -> PublicKey {
        PublicKey(*self.iroh.id().as_bytes())
    }

    /// Waits until what has been closed is closed on the wire too, and closes the
    /// rest.
    pub async fn close(&self) {
        self.iroh.close().await;
    }
}
