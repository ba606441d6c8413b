//! A running node: its endpoint, its signals, its end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use alknet_plugin_api::Identity;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::confine::confinement;
use super::identity::TlsIdentity;
use super::importing::Imports;
use super::reload::{InForce, admission};
use super::{Assembled, reload, service};
use crate::auth::{IdentityProvider, PolicyStore};
use crate::config::{AccessLimits, Problem, Quic};
use crate::endpoint::{
    Crash, DialError, Endpoint, EndpointConfig, EndpointError, PeerResolver, RouteTable,
    RuntimeShape,
};
use crate::imports::ImportState;
use crate::observe::audit::AuditLog;
use crate::observe::status::{NodeStatus, PluginStatus};
use crate::observe::{exposition, metrics};
use crate::operator::{Live, Sources};
use crate::plugins::mark_crashes;

/// How often metrics are folded together, so that they do not pile up between
/// two looks at them.
const UPKEEP: Duration = Duration::from_secs(5);

/// How long the end waits for the audit log's last lines.
const FLUSH: Duration = Duration::from_secs(1);

/// Why a node that is in order does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The certificate cannot be taken up.
    #[error("{0}")]
    Certificate(String),
    /// Nothing to listen on.
    #[error("no endpoint is enabled; add `[endpoint.quic]` with `listen` to node.toml")]
    NoEndpoint,
    /// The endpoint does not stand.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// Other nodes cannot be dialled.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// An import that the deployment file requires cannot be made.
    #[error("{0}; the import's `required = true` keeps the node from starting without it")]
    Import(String),
    /// The audit log cannot be opened.
    #[error("{0}")]
    Audit(Problem),
    /// The address for metrics is not to be had.
    #[error("metrics cannot be served at {address}: {cause}; choose another address")]
    Metrics {
        /// The address.
        address: std::net::SocketAddr,
        /// Why.
        cause: std::io::Error,
    },
    /// Signals cannot be listened for.
    #[error("cannot listen for signals: {0}")]
    Signals(std::io::Error),
}

/// A node that serves.
pub struct Node {
    endpoint: Arc<Endpoint>,
    plugins: Arc<[PluginStatus]>,
    imports: Arc<Imports>,
    sources: Sources,
    draining: watch::Sender<bool>,
    drain: Duration,
    audit: Option<AuditLog>,
    interrupt: Signal,
    terminate: Signal,
    /// What keeps the certificate up to date ends with the node.
    _followers: JoinSet<()>,
}

impl Assembled {
    /// Binds the endpoint and begins to serve. From here on a signal no longer
    /// kills the process: [`Node::serve`] will find it.
    ///
    /// # Errors
    /// An address that is not to be had, or signals that cannot be listened for.
    pub async fn start(mut self) -> Result<Node, StartError> {
        let started = Instant::now();
        // Before anybody is told that the node serves, and may send one.
        let interrupt = signal(SignalKind::interrupt()).map_err(StartError::Signals)?;
        let terminate = signal(SignalKind::terminate()).map_err(StartError::Signals)?;
        let hangup = signal(SignalKind::hangup()).map_err(StartError::Signals)?;
        let config = &self.deployment.node;
        let key = &self.key;
        if config.quic.is_none() && config.iroh.is_none() && config.tcp.is_none() {
            return Err(StartError::NoEndpoint);
        }
        let limits = self.deployment.access.limits_under(&config.limits);
        let peers = Arc::new(Peers(self.deployment.policy.clone()));
        let identity = TlsIdentity::take_up(config)?;
        #[cfg_attr(not(feature = "iroh"), allow(unused_mut))]
        let mut endpoint = Endpoint::bind_with(
            endpoint_config(config.quic.as_ref(), &limits),
            key,
            identity.certificate.clone(),
            self.routes(),
            peers,
        )?;
        #[cfg(feature = "iroh")]
        if let Some(iroh) = &config.iroh {
            endpoint.listen_iroh(iroh, key).await?;
        }
        #[cfg(feature = "tcp")]
        let tcp_addresses = match &config.tcp {
            Some(tcp) => {
                let served = super::served(&self.alpns, &self.missing);
                super::tcp::listen(&endpoint, tcp, key, &identity, &served)?
            }
            None => Vec::new(),
        };
        #[cfg(not(feature = "tcp"))]
        let tcp_addresses = Vec::new();
        let endpoint = Arc::new(endpoint);
        let plugins: Arc<[PluginStatus]> = self.plugins().into();
        for note in self.unenforceable() {
            tracing::warn!("{note}");
        }
        let meters: Vec<_> = self.plugins.iter().map(|plugin| plugin.meter.clone()).collect();
        metrics::before_render(move || meters.iter().for_each(|meter| meter.publish()));

        let imports = std::mem::take(&mut self.imports);
        let imports = Imports::start(imports, key, &self.registry, &self.peers)?;
        let imports = Arc::new(imports);

        let in_force = Arc::new(InForce::new(
            config,
            self.deployment.access.clone(),
            self.deployment.policy.clone(),
            self.registry.clone(),
            endpoint.clone(),
            self.explainer.clone(),
        ));
        // Set once: a node is started once.
        let reload = reload::start(in_force.clone(), hangup, self.draining.subscribe());
        let _first = self.sources.reload.set(Box::new(reload));

        let (shown, seen, imported) = (endpoint.clone(), plugins.clone(), imports.clone());
        let operations = self.registry.operations().len();
        let node_key = hex::encode(key.public().0);
        let certificate = identity.certificate.clone();
        let tell = move || NodeStatus {
            node_key: node_key.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            addresses: shown.local_addrs().to_vec(),
            relay: relay(&shown),
            tcp_addresses: tcp_addresses.clone(),
            certificates: certificate.iter().map(|live| live.status()).collect(),
            uptime_seconds: started.elapsed().as_secs(),
            degraded: seen.iter().any(|plugin| plugin.failure.is_some())
                || imported.status().iter().any(|import| import.state != ImportState::Connected),
            plugins: seen.iter().map(PluginStatus::now).collect(),
            imports: imported.status(),
            connections: shown.table().snapshot(),
            operations,
            tasks: tokio::runtime::Handle::current().metrics().num_alive_tasks(),
            resident_bytes: metrics::resident_bytes(),
            access: in_force.status(),
            confinement: confinement().cloned(),
        };
        let _first = self.sources.status.set(Box::new(tell));
        let _first = self.sources.live.set(self.live(&endpoint, started));
        let struck = Arc::downgrade(&endpoint);
        let _first = self.strikes.set(Box::new(move |connection| {
            if let Some(endpoint) = struck.upgrade() {
                endpoint.authentication_failed(connection);
            }
        }));
        let audit = self.observe()?;
        tokio::spawn(async {
            let mut interval = tokio::time::interval(UPKEEP);
            loop {
                interval.tick().await;
                metrics::upkeep();
            }
        });
        Ok(Node {
            endpoint,
            plugins,
            imports,
            sources: self.sources,
            draining: self.draining,
            drain: self.deployment.node.limits.drain_timeout,
            audit,
            interrupt,
            terminate,
            _followers: identity.followers,
        })
    }

    /// What the node's own operations look at.
    fn live(&self, endpoint: &Arc<Endpoint>, started: Instant) -> Live {
        let (listed, counted) = (endpoint.clone(), endpoint.clone());
        Live {
            registry: self.registry.clone(),
            policy: self.deployment.policy.clone(),
            connections: Box::new(move || listed.table().snapshot()),
            connected: Box::new(move || counted.table().len()),
            started,
        }
    }

    /// Opens the audit log and serves the metrics, where the file asks for them.
    fn observe(&self) -> Result<Option<AuditLog>, StartError> {
        let observe = &self.deployment.node.observe;
        if let Some(address) = observe.metrics {
            let listener = exposition::bind(address)
                .map_err(|cause| StartError::Metrics { address, cause })?;
            tokio::spawn(exposition::serve(listener));
        }
        let Some(asked) = &observe.audit else { return Ok(None) };
        let log = AuditLog::open(&asked.file, asked.what).map_err(|error| {
            let what = format!("the audit log {} cannot be opened: {error}", asked.file.display());
            let remedy = "make its folder one that the daemon's user may write to";
            StartError::Audit(asked.place().problem(what, remedy))
        })?;
        // Set once: a node is started once.
        let _first = self.audit.set(log.clone());
        let mut hangup = signal(SignalKind::hangup()).map_err(StartError::Signals)?;
        let reopened = log.clone();
        tokio::spawn(async move {
            while hangup.recv().await.is_some() {
                reopened.reopen();
            }
        });
        Ok(Some(log))
    }

    fn routes(&self) -> RouteTable {
        let mut routes = RouteTable::new();
        for (plugin, alpns) in self.plugins.iter().zip(&self.alpns) {
            for alpn in alpns {
                let manifest = &plugin.built.manifest;
                let index = manifest.alpns.iter().position(|provided| provided == alpn);
                let handler = index.and_then(|index| plugin.built.handlers.get(index)).cloned();
                let handler = handler.map(|handler| mark_crashes(handler, Crash));
                // Duplicates were refused when the node was assembled.
                let _first_stays = routes.add(alpn, &plugin.name, handler);
                routes.meter(alpn, plugin.meter.clone());
            }
        }
        for plugin in &self.missing {
            for alpn in &plugin.alpns {
                let _first_stays = routes.add(alpn, &plugin.name, None);
            }
        }
        routes
    }
}

/// The relay by which the node is reached.
fn relay(endpoint: &Endpoint) -> Option<String> {
    #[cfg(feature = "iroh")]
    return endpoint.relay();
    #[cfg(not(feature = "iroh"))]
    {
        let _ = endpoint;
        None
    }
}

fn endpoint_config(quic: Option<&Quic>, limits: &AccessLimits) -> EndpointConfig {
    let admission = admission(limits);
    let Some(quic) = quic else {
        return EndpointConfig { bind: Vec::new(), admission, ..EndpointConfig::default() };
    };
    EndpointConfig {
        bind: quic.listen.clone(),
        handshake_timeout: quic.handshake_timeout,
        idle_timeout: quic.idle_timeout,
        keep_alive: quic.keep_alive,
        max_bidirectional_streams: quic.bidirectional_streams,
        max_unidirectional_streams: quic.unidirectional_streams,
        admission,
        runtime: match quic.shards {
            0 => RuntimeShape::Shared,
            shards => RuntimeShape::Shards(shards as usize),
        },
        ..EndpointConfig::default()
    }
}

struct Peers(Arc<PolicyStore>);

impl PeerResolver for Peers {
    fn resolve_fingerprint(&self, fingerprint: &str) -> Option<Identity> {
        self.0.resolve_from_fingerprint(fingerprint).map(|identity| (*identity).clone())
    }
}

impl Node {
    /// The node at this moment.
    pub fn status(&self) -> Option<NodeStatus> {
        self.sources.status.get().map(|tell| tell())
    }

    /// The plugins, as status shows them.
    pub fn plugins(&self) -> &[PluginStatus] {
        &self.plugins
    }

    /// Waits for the imports that the deployment file requires.
    ///
    /// # Errors
    /// One of them cannot be made: the node is to be stopped.
    pub async fn required_imports(&self) -> Result<(), StartError> {
        self.imports.required().await
    }

    /// The endpoint.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Serves until SIGINT or SIGTERM, then drains; a second signal closes at
    /// once.
    pub async fn serve(mut self) {
        service::ready();
        service::watchdog();
        let name = tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
        };
        let connections = self.endpoint.table().len();
        self.draining.send_replace(true);
        self.endpoint.begin_shutdown();
        // From here on nobody new is let in.
        tracing::info!(signal = name, connections, "shutting down");
        service::stopping();
        let shutdown = self.endpoint.shutdown(self.drain);
        tokio::pin!(shutdown);
        let drained = tokio::select! {
            () = &mut shutdown => true,
            _ = self.interrupt.recv() => false,
            _ = self.terminate.recv() => false,
        };
        if !drained {
            tracing::info!("second signal: closing at once");
            self.endpoint.close_now();
            shutdown.await;
        }
        self.imports.close().await;
        if let Some(audit) = self.audit {
            let written = tokio::task::spawn_blocking(move || audit.flush(FLUSH));
            let _too_slow = written.await;
        }
    }

    /// Tells handlers and plugins to finish, waits for them at most the drain
    /// time, and closes what is left.
    pub async fn shutdown(&self) {
        self.draining.send_replace(true);
        self.endpoint.shutdown(self.drain).await;
        self.imports.close().await;
    }
}
