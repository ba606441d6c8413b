//! Who is on the other side.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::connection::Source;

/// A caller that the node has authenticated, with what it may do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The peer's id, or an API key's prefix. It survives key rotation.
    pub id: String,
    /// What the identity may do, such as `notes:read`.
    #[serde(default)]
    pub scopes: Vec<String>,
    /// Actions allowed on each type of resource.
    #[serde(default)]
    pub resources: BTreeMap<String, Vec<String>>,
}

/// What the endpoint knows of a connection's peer when the handler starts. It
/// never changes; a handler that learns more keeps it to itself and may name it
/// for status with [`Connection::set_identity`](crate::Connection::set_identity).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthContext {
    identity: Option<Identity>,
    alpn: String,
    remote_addr: Option<SocketAddr>,
    peer_fingerprint: Option<String>,
    source: Source,
}

impl AuthContext {
    /// Puts together what an endpoint has proven about a peer.
    pub fn new(
        identity: Option<Identity>,
        alpn: impl Into<String>,
        remote_addr: Option<SocketAddr>,
        peer_fingerprint: Option<String>,
        source: Source,
    ) -> Self {
        Self { identity, alpn: alpn.into(), remote_addr, peer_fingerprint, source }
    }

    /// The identity that the proven key belongs to, if the node knows it.
    pub fn identity(&self) -> Option<&Identity> {
        self.identity.as_ref()
    }

    /// The negotiated ALPN.
    pub fn alpn(&self) -> &str {
        &self.alpn
    }

    /// The peer's address, where the transport has one.
    pub fn remote_addr(&self) -> Option<SocketAddr> {
        self.remote_addr
    }

    /// The key that the peer has proven to hold: `ed25519:` and 64 hexadecimal
    /// digits, or `SHA256:` and the digest of an X.509 certificate. Present even
    /// when no identity is known for it.
    pub fn peer_fingerprint(&self) -> Option<&str> {
        self.peer_fingerprint.as_deref()
    }

    /// What carried the connection.
    pub fn source(&self) -> Source {
        self.source
    }
}
