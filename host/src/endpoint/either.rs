//! One QUIC listener for clients of both kinds: those that know raw public keys
//! and those that know X.509.
//!
//! quinn starts a TLS session before it has seen anything of the client, and
//! rustls' choice between the two kinds belongs to a whole configuration. So the
//! session here begins undecided: it keeps the client's hello, which may take
//! several packets, until rustls' own acceptor can read which certificate types
//! it offers, and then hands everything to a session of the configuration that
//! suits.

use std::any::Any;
use std::sync::Arc;

use quinn::crypto::rustls::QuicServerConfig;
use quinn::crypto::{
    ExportKeyingMaterialError, HeaderKey, KeyPair, Keys, PacketKey, ServerConfig, Session,
    UnsupportedVersion,
};
use quinn::{ConnectionId, Side};
use quinn_proto::TransportError;
use quinn_proto::transport_parameters::TransportParameters;
use rustls::server::Acceptor;

use super::tls::{ServerIdentities, offers_raw_keys};

/// quinn's configuration for a node's identities.
///
/// # Errors
/// The provider lacks the cipher that QUIC begins with.
pub(super) fn quic_config(
    identities: &ServerIdentities,
) -> Result<Arc<dyn ServerConfig>, rustls::Error> {
    let quic = |config: &Arc<rustls::ServerConfig>| {
        QuicServerConfig::try_from(config.clone())
            .map(Arc::new)
            .map_err(|error| rustls::Error::General(error.to_string()))
    };
    let raw = quic(&identities.raw)?;
    Ok(match &identities.x509 {
        Some(x509) => Arc::new(Either { raw, x509: quic(x509)? }),
        None => raw,
    })
}

struct Either {
    raw: Arc<QuicServerConfig>,
    x509: Arc<QuicServerConfig>,
}

/// What comes before a client's hello depends on the version alone, so that
/// either configuration can answer.
impl ServerConfig for Either {
    fn initial_keys(
        &self,
        version: u32,
        connection: &ConnectionId,
    ) -> Result<Keys, UnsupportedVersion> {
        self.raw.initial_keys(version, connection)
    }

    fn retry_tag(&self, version: u32, connection: &ConnectionId, packet: &[u8]) -> [u8; 16] {
        self.raw.retry_tag(version, connection, packet)
    }

    fn start_session(
        self: Arc<Self>,
        version: u32,
        parameters: &TransportParameters,
    ) -> Box<dyn Session> {
        Box::new(Deciding::Hello(Box::new(Hello {
            configs: self,
            version,
            parameters: *parameters,
            acceptor: Acceptor::default(),
            bytes: Vec::new(),
        })))
    }
}

/// A session before and after its configuration is known.
enum Deciding {
    Hello(Box<Hello>),
    Decided(Box<dyn Session>),
}

struct Hello {
    configs: Arc<Either>,
    version: u32,
    parameters: TransportParameters,
    acceptor: Acceptor,
    /// What the client has said so far, for the session to come.
    bytes: Vec<u8>,
}

/// A TLS record of handshake bytes: its type, a version that nobody looks at any
/// more, and its length. The acceptor reads records, and QUIC has none.
const RECORD: [u8; 3] = [0x16, 0x03, 0x03];
const MAX_RECORD: usize = 1 << 14;

impl Hello {
    /// Takes more of the hello. Gives the configuration once it is whole, and
    /// also when it is wrong: the session then finds that out for itself, and
    /// tells the client with the right alert.
    fn read(&mut self, bytes: &[u8]) -> Option<Arc<QuicServerConfig>> {
        self.bytes.extend_from_slice(bytes);
        for chunk in bytes.chunks(MAX_RECORD) {
            let length = u16::try_from(chunk.len()).unwrap_or(u16::MAX).to_be_bytes();
            let record = [&RECORD[..], &length, chunk].concat();
            let mut unread = &record[..];
            while !unread.is_empty() {
                match self.acceptor.read_tls(&mut unread) {
                    Ok(read) if read > 0 => {}
                    _ => return Some(self.configs.raw.clone()),
                }
                match self.acceptor.accept() {
                    Ok(None) => {}
                    Ok(Some(accepted)) => {
                        return Some(match offers_raw_keys(&accepted.client_hello()) {
                            true => self.configs.raw.clone(),
                            false => self.configs.x509.clone(),
                        });
                    }
                    Err(_) => return Some(self.configs.raw.clone()),
                }
            }
        }
        None
    }
}

impl Deciding {
    fn decided(&self) -> Option<&dyn Session> {
        match self {
            Self::Hello(_) => None,
            Self::Decided(session) => Some(&**session),
        }
    }
}

impl Session for Deciding {
    fn initial_keys(&self, connection: &ConnectionId, side: Side) -> Keys {
        match self {
            Self::Decided(session) => session.initial_keys(connection, side),
            Self::Hello(hello) => {
                let session =
                    hello.configs.raw.clone().start_session(hello.version, &hello.parameters);
                session.initial_keys(connection, side)
            }
        }
    }

    fn handshake_data(&self) -> Option<Box<dyn Any>> {
        self.decided()?.handshake_data()
    }

    fn peer_identity(&self) -> Option<Box<dyn Any>> {
        self.decided()?.peer_identity()
    }

    fn early_crypto(&self) -> Option<(Box<dyn HeaderKey>, Box<dyn PacketKey>)> {
        self.decided()?.early_crypto()
    }

    fn early_data_accepted(&self) -> Option<bool> {
        self.decided()?.early_data_accepted()
    }

    fn is_handshaking(&self) -> bool {
        self.decided().is_none_or(|session| session.is_handshaking())
    }

    fn read_handshake(&mut self, bytes: &[u8]) -> Result<bool, TransportError> {
        let hello = match self {
            Self::Decided(session) => return session.read_handshake(bytes),
            Self::Hello(hello) => hello,
        };
        let Some(config) = hello.read(bytes) else { return Ok(false) };
        let mut session = config.start_session(hello.version, &hello.parameters);
        let said = std::mem::take(&mut hello.bytes);
        let result = session.read_handshake(&said);
        *self = Self::Decided(session);
        result
    }

    fn transport_parameters(&self) -> Result<Option<TransportParameters>, TransportError> {
        self.decided().map_or(Ok(None), |session| session.transport_parameters())
    }

    fn write_handshake(&mut self, bytes: &mut Vec<u8>) -> Option<Keys> {
        match self {
            Self::Hello(_) => None,
            Self::Decided(session) => session.write_handshake(bytes),
        }
    }

    fn next_1rtt_keys(&mut self) -> Option<KeyPair<Box<dyn PacketKey>>> {
        match self {
            Self::Hello(_) => None,
            Self::Decided(session) => session.next_1rtt_keys(),
        }
    }

    /// Only clients are asked to retry.
    fn is_valid_retry(&self, _: &ConnectionId, _: &[u8], _: &[u8]) -> bool {
        false
    }

    fn export_keying_material(
        &self,
        output: &mut [u8],
        label: &[u8],
        context: &[u8],
    ) -> Result<(), ExportKeyingMaterialError> {
        let session = self.decided().ok_or(ExportKeyingMaterialError)?;
        session.export_keying_material(output, label, context)
    }
}
