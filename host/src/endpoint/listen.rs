//! A node's listening side, started and stopped.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::accept::{QuicSetup, sockets};
use super::admission::{Admission, AdmissionLimits};
use super::close::CloseCode;
use super::config::{ConnectionLimits, EndpointConfig};
use super::dispatch::{Dispatcher, PeerResolver};
#[cfg(feature = "tcp")]
use super::identity::Challenges;
use super::identity::LiveCertificate;
use super::key::NodeKey;
use super::quic::varint;
use super::table::{ConnectionTable, RouteTable};
#[cfg(feature = "tcp")]
use super::tcp::{TcpConfig, TcpSetup};
use super::tls::ServerIdentities;
use super::{EndpointError, PublicKey};

/// How long close frames may take to leave once everything is closed.
const FAREWELL: Duration = Duration::from_millis(250);

/// The listening endpoint of a node. Dropping it closes everything at once.
pub struct Endpoint {
    node: Arc<Dispatcher>,
    key: PublicKey,
    addresses: Vec<SocketAddr>,
    quinn: Vec<quinn::Endpoint>,
    #[cfg(feature = "iroh")]
    iroh: Option<super::iroh::Listener>,
    /// What further sources take over.
    #[cfg(feature = "iroh")]
    config: EndpointConfig,
    /// Ends the shards' threads.
    stopped: CancellationToken,
    shards: Mutex<Vec<JoinHandle<()>>>,
}

impl Endpoint {
    /// The default drain time.
    pub const DRAIN: Duration = Duration::from_secs(2);

    /// Listens on every address of `config`, or on none where one fails.
    ///
    /// # Errors
    /// [`EndpointError`]; [`EndpointError::Bind`] when an address is taken.
    ///
    /// # Panics
    /// With [`RuntimeShape::Shared`](super::RuntimeShape::Shared), outside a
    /// tokio runtime.
    pub fn bind(
        config: EndpointConfig,
        key: &NodeKey,
        routes: RouteTable,
        resolver: Arc<dyn PeerResolver>,
    ) -> Result<Self, EndpointError> {
        Self::bind_with(config, key, None, routes, resolver)
    }

    /// [`bind`](Self::bind), and clients that do not know raw keys are shown
    /// `certificate`, as it is at the time of their handshake.
    ///
    /// # Errors
    /// As for [`bind`](Self::bind).
    ///
    /// # Panics
    /// As for [`bind`](Self::bind).
    pub fn bind_with(
        config: EndpointConfig,
        key: &NodeKey,
        certificate: Option<Arc<LiveCertificate>>,
        routes: RouteTable,
        resolver: Arc<dyn PeerResolver>,
    ) -> Result<Self, EndpointError> {
        let alpns: Vec<_> = routes.alpns().map(|alpn| alpn.as_bytes().to_vec()).collect();
        if alpns.is_empty() {
            return Err(EndpointError::NoRoutes);
        }
        let identities = ServerIdentities::new(key, certificate, alpns)?;
        let setup = QuicSetup::new(&config, &identities)?;
        let admission = Admission::new(config.admission.clone());
        let shards = config.runtime.shards();
        let mut each_shard: Vec<Vec<UdpSocket>> = Vec::new();
        each_shard.resize_with(shards.unwrap_or(1), Vec::new);
        let mut addresses = Vec::new();
        for &address in &config.bind {
            let sockets = sockets(address, each_shard.len(), config.socket_buffer_bytes)?;
            let local = sockets[0].local_addr();
            addresses.push(local.map_err(|source| EndpointError::Bind { address, source })?);
            for (shard, socket) in each_shard.iter_mut().zip(sockets) {
                shard.push(socket);
            }
        }
        let mut endpoint = Self {
            node: Arc::new(Dispatcher::new(routes, resolver, admission)),
            key: key.public(),
            addresses,
            quinn: Vec::new(),
            #[cfg(feature = "iroh")]
            iroh: None,
            #[cfg(feature = "iroh")]
            config,
            stopped: CancellationToken::new(),
            shards: Mutex::default(),
        };
        for (number, sockets) in each_shard.into_iter().enumerate() {
            let started = if shards.is_some() {
                endpoint.start_shard(number, setup.clone(), sockets)?
            } else {
                start(&setup, sockets, &endpoint.node).map_err(EndpointError::Shard)?
            };
            endpoint.quinn.extend(started);
        }
        if !endpoint.addresses.is_empty() {
            tracing::info!(addresses = ?endpoint.addresses, key = %endpoint.key, "listening");
        }
        Ok(endpoint)
    }

    fn start_shard(
        &self,
        number: usize,
        setup: QuicSetup,
        sockets: Vec<UdpSocket>,
    ) -> Result<Vec<quinn::Endpoint>, EndpointError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(EndpointError::Shard)?;
        // Registered here, driven there: failures are known before anyone runs.
        let started = {
            let _entered = runtime.enter();
            start(&setup, sockets, &self.node).map_err(EndpointError::Shard)?
        };
        let stopped = self.stopped.clone();
        let thread = std::thread::Builder::new()
            .name(format!("alknet-shard-{number}"))
            .spawn(move || runtime.block_on(stopped.cancelled()))
            .map_err(EndpointError::Shard)?;
        self.shards.lock().push(thread);
        Ok(started)
    }

    /// Listens for iroh's peers too, with the same handlers, key and limits.
    ///
    /// # Errors
    /// [`EndpointError::Iroh`].
    ///
    /// # Panics
    /// Outside a tokio runtime.
    #[cfg(feature = "iroh")]
    pub async fn listen_iroh(
        &mut self,
        iroh: &super::config::IrohConfig,
        key: &NodeKey,
    ) -> Result<(), EndpointError> {
        let listener = super::iroh::Listener::bind(iroh, &self.config, key, &self.node).await?;
        let addresses = listener.addresses();
        tracing::info!(?addresses, relay = ?iroh.relay, "listening for iroh");
        self.addresses.extend(addresses);
        self.iroh = Some(listener);
        Ok(())
    }

    /// The relay by which iroh's peers reach the node, once it has found one.
    #[cfg(feature = "iroh")]
    pub fn relay(&self) -> Option<String> {
        self.iroh.as_ref()?.relay()
    }

    /// Listens for TLS over TCP, too, on every address of `config` or on none,
    /// and shows clients `identities`. Connections are
    /// served on the current runtime, whatever the shape of the QUIC side. Gives
    /// the addresses, with the ports that the system chose.
    ///
    /// # Errors
    /// [`EndpointError::BindTcp`] when an address is taken.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    #[cfg(feature = "tcp")]
    pub fn listen_tcp(
        &self,
        config: TcpConfig,
        identities: ServerIdentities,
        challenges: Option<Arc<Challenges>>,
    ) -> Result<Vec<SocketAddr>, EndpointError> {
        let addresses = TcpSetup::new(identities, challenges, config).listen(&self.node)?;
        tracing::info!(?addresses, "listening for TLS over TCP");
        Ok(addresses)
    }

    /// The first address listened on, with the port that the system chose.
    ///
    /// # Panics
    /// Where no source listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.addresses[0]
    }

    /// Every address listened on, in the configuration's order.
    pub fn local_addrs(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The key that the node proves to its peers.
    pub fn key(&self) -> PublicKey {
        self.key
    }

    /// The connections served now.
    pub fn table(&self) -> &ConnectionTable {
        &self.node.table
    }

    /// Looks the proven key of every connection up again, and closes with
    /// [`CloseCode::PeerRemoved`] those whose peer is removed, disabled or
    /// another one now. Call it once the resolver answers by the new peers; says
    /// how many it closed. A stranger's connections are left alone.
    pub fn close_removed(&self) -> usize {
        self.node.close_removed()
    }

    /// Where further sources hand their connections in.
    pub fn dispatcher(&self) -> &Arc<Dispatcher> {
        &self.node
    }

    /// Changes the admission limits from the next decision on.
    pub fn set_limits(&self, limits: AdmissionLimits) {
        self.node.admission.lock().set_limits(limits);
    }

    /// Changes the limits of connections that come from now on, over every source.
    /// Those that are there keep theirs.
    pub fn set_connection_limits(&self, limits: ConnectionLimits) {
        self.node.set_limits(limits);
    }

    /// Handshakes under way.
    pub fn handshakes(&self) -> u32 {
        self.node.admission.lock().half_open()
    }

    /// Counts a failed authentication against a connection's prefix.
    pub fn authentication_failed(&self, connection: u64) {
        if let Some(origin) = self.node.table.origin(connection) {
            self.node.admission.lock().authentication_failed(self.node.now(), origin);
        }
    }

    /// Refuses new connections and tells every handler to finish, without waiting
    /// for them as [`Endpoint::shutdown`] does.
    pub fn begin_shutdown(&self) {
        self.node.begin_drain();
    }

    /// Refuses new connections, tells every handler to finish, waits for them at
    /// most `drain`, closes what is left with [`CloseCode::ShuttingDown`] and
    /// stops. [`Endpoint::close_now`] cuts the wait short. Calling it again waits
    /// again for the same end.
    pub async fn shutdown(&self, drain: Duration) {
        self.begin_shutdown();
        // Whether they finished or ran out of time, what is left closes now.
        let _out_of_time = tokio::time::timeout(drain, self.node.idle()).await;
        self.close_now();
        self.node.idle().await;
        let code = CloseCode::ShuttingDown;
        for quinn in &self.quinn {
            quinn.close(varint(code.code()), code.text().as_bytes());
        }
        let farewell = async {
            for quinn in &self.quinn {
                quinn.wait_idle().await;
            }
            #[cfg(feature = "iroh")]
            if let Some(iroh) = &self.iroh {
                iroh.close().await;
            }
        };
        let _sent_all_that_mattered = tokio::time::timeout(FAREWELL, farewell).await;
        self.stopped.cancel();
        let shards = std::mem::take(&mut *self.shards.lock());
        let ended = tokio::task::spawn_blocking(move || {
            shards.into_iter().all(|shard| shard.join().is_ok())
        });
        if !matches!(ended.await, Ok(true)) {
            tracing::error!("a shard's thread panicked");
        }
    }

    /// Drops every handler and closes its connection with
    /// [`CloseCode::ShuttingDown`], at once.
    pub fn close_now(&self) {
        self.node.begin_drain();
        self.node.closing().cancel();
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.close_now();
        let code = CloseCode::ShuttingDown;
        for quinn in &self.quinn {
            quinn.close(varint(code.code()), code.text().as_bytes());
        }
        self.stopped.cancel();
    }
}

/// Starts the accept loops of one set of sockets on the current runtime.
fn start(
    setup: &QuicSetup,
    sockets: Vec<UdpSocket>,
    node: &Arc<Dispatcher>,
) -> std::io::Result<Vec<quinn::Endpoint>> {
    let start = |socket| {
        let quinn = setup.listen(socket)?;
        tokio::spawn(setup.clone().accept(quinn.clone(), node.clone()));
        Ok(quinn)
    };
    sockets.into_iter().map(start).collect()
}
