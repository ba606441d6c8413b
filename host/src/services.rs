//! The host's services to one plugin: tasks, time, log, metrics, identities,
//! capabilities, composition and the gateway.

use std::collections::BTreeMap;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use alknet_plugin_api::backend::HostBackend;
use alknet_plugin_api::{
    Capability, Connection, Gateway, Identity, Level, LogRecord, OperationEnv, TaskControl,
    TaskHandle,
};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use metrics::Label;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::budget::{Meter, Timed};
use crate::observe::log;

/// What the registry and the authentication offer to plugins. It is known only
/// once every plugin has been built, which is why it is set later.
pub trait Services: Send + Sync {
    /// The identity that a token belongs to.
    fn resolve_token(&self, token: &[u8]) -> Option<Identity>;
    /// The identity that a key belongs to.
    fn resolve_fingerprint(&self, fingerprint: &str) -> Option<Identity>;
    /// Composition under the authority of `plugin`.
    fn env(&self, plugin: &str) -> Arc<dyn OperationEnv>;
    /// Calls by `plugin` on behalf of the peer of `connection`.
    fn gateway(&self, plugin: &str, connection: &Connection) -> Arc<dyn Gateway>;
}

/// What every plugin's host shares.
#[derive(Clone)]
pub struct Shared {
    runtime: Handle,
    start: Instant,
    draining: watch::Receiver<bool>,
    services: Arc<OnceLock<Arc<dyn Services>>>,
}

impl Shared {
    /// Services that run tasks on `runtime` unless the caller is on another
    /// runtime of the node, and that end when `draining` turns true.
    pub fn new(runtime: Handle, draining: watch::Receiver<bool>) -> Self {
        Self { runtime, start: Instant::now(), draining, services: Arc::default() }
    }

    /// Opens the registry to plugins, once it is frozen. Later calls change
    /// nothing.
    pub fn open(&self, services: Arc<dyn Services>) {
        let _already_open = self.services.set(services);
    }

    /// The runtime to work on: a plugin's own threads are on none of ours.
    fn handle(&self) -> Handle {
        Handle::try_current().unwrap_or_else(|_| self.runtime.clone())
    }
}

/// The host as one plugin sees it.
pub struct PluginHost {
    plugin: Arc<str>,
    shared: Shared,
    capabilities: BTreeMap<String, Capability>,
    gateway: bool,
    meter: Arc<Meter>,
}

impl PluginHost {
    /// The host for `plugin`, with what the deployment file lends and grants it. What it
    /// spawns is on the account of `meter`.
    pub fn new(
        plugin: impl Into<Arc<str>>,
        shared: Shared,
        capabilities: BTreeMap<String, Capability>,
        gateway: bool,
        meter: Arc<Meter>,
    ) -> Self {
        Self { plugin: plugin.into(), shared, capabilities, gateway, meter }
    }

    fn labels(&self, labels: &[(&str, &str)]) -> Vec<Label> {
        std::iter::once(Label::new("plugin", self.plugin.to_string()))
            .chain(labels.iter().map(|(k, v)| Label::new((*k).to_owned(), (*v).to_owned())))
            .collect()
    }
}

impl HostBackend for PluginHost {
    fn spawn(&self, task: BoxFuture<'static, ()>) -> TaskHandle {
        let plugin = self.plugin.clone();
        let task = Timed::new(self.meter.clone(), task);
        let handle = self.shared.handle().spawn(async move {
            if let Err(panic) = AssertUnwindSafe(task).catch_unwind().await {
                metrics::counter!("alknet_plugin_panics_total", "plugin" => plugin.to_string())
                    .increment(1);
                tracing::error!(%plugin, "a spawned task panicked: {}", panic_text(&*panic));
            }
        });
        TaskHandle::new(Box::new(Task(handle)))
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        let handle = self.shared.handle();
        let _entered = handle.enter();
        Box::pin(tokio::time::sleep(duration))
    }

    fn now(&self) -> Duration {
        self.shared.start.elapsed()
    }

    fn unix_time(&self) -> Duration {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
    }

    fn log_enabled(&self, level: Level, _target: &str) -> bool {
        log::plugin_enabled(level)
    }

    fn log(&self, record: &LogRecord<'_>) {
        log::plugin_record(&self.plugin, record);
    }

    fn counter(&self, name: &str, labels: &[(&str, &str)], add: u64) {
        metrics::counter!(format!("alknet_plugin_{name}"), self.labels(labels)).increment(add);
    }

    fn gauge(&self, name: &str, labels: &[(&str, &str)], value: f64) {
        metrics::gauge!(format!("alknet_plugin_{name}"), self.labels(labels)).set(value);
    }

    fn histogram(&self, name: &str, labels: &[(&str, &str)], value: f64) {
        metrics::histogram!(format!("alknet_plugin_{name}"), self.labels(labels)).record(value);
    }

    fn resolve_token(&self, token: &[u8]) -> Option<Identity> {
        self.shared.services.get()?.resolve_token(token)
    }

    fn resolve_fingerprint(&self, fingerprint: &str) -> Option<Identity> {
        self.shared.services.get()?.resolve_fingerprint(fingerprint)
    }

    fn capability(&self, name: &str) -> Option<Capability> {
        self.capabilities.get(name).cloned()
    }

    fn env(&self) -> Arc<dyn OperationEnv> {
        match self.shared.services.get() {
            Some(services) => services.env(&self.plugin),
            None => Arc::new(unopened::NotYet),
        }
    }

    fn gateway(&self, connection: &Connection) -> Option<Arc<dyn Gateway>> {
        let services = self.shared.services.get()?;
        self.gateway.then(|| services.gateway(&self.plugin, connection))
    }

    fn shutdown(&self) -> BoxFuture<'static, ()> {
        let mut draining = self.shared.draining.clone();
        Box::pin(async move {
            // The sender's end is the node's end.
            let _gone = draining.wait_for(|draining| *draining).await;
        })
    }
}

/// A task on one of the node's runtimes.
pub(crate) struct Task(pub(crate) JoinHandle<()>);

impl TaskControl for Task {
    fn abort(&self) {
        self.0.abort();
    }

    fn poll_ended(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.0.is_finished() {
            return Poll::Ready(());
        }
        Pin::new(&mut self.0).poll(cx).map(drop)
    }
}

/// The text of a panic's payload, where it has one.
pub fn panic_text(payload: &(dyn std::any::Any + Send)) -> &str {
    payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("(no text)")
}

mod unopened {
    //! Composition before the registry is frozen: nothing is in reach.

    use alknet_plugin_api::{
        AbortPolicy, CallError, CallFuture, CallStream, Json, OperationEnv, PeerRef,
    };
    use futures_util::{FutureExt, StreamExt, future, stream};

    pub(super) struct NotYet;

    fn error() -> CallError {
        CallError::not_found("the registry opens once every plugin has been built")
    }

    impl OperationEnv for NotYet {
        fn invoke(&self, _: &str, _: Json) -> CallFuture {
            future::ready(Err(error())).boxed()
        }
        fn invoke_with_policy(&self, _: &str, _: Json, _: AbortPolicy) -> CallFuture {
            future::ready(Err(error())).boxed()
        }
        fn subscribe(&self, _: &str, _: Json) -> CallStream {
            stream::iter([Err(error())]).boxed()
        }
        fn subscribe_with_policy(&self, _: &str, _: Json, _: AbortPolicy) -> CallStream {
            stream::iter([Err(error())]).boxed()
        }
        fn invoke_peer(&self, _: PeerRef, _: &str, _: Json) -> CallFuture {
            future::ready(Err(error())).boxed()
        }
        fn contains(&self, _: &str) -> bool {
            false
        }
        fn peer_contains(&self, _: &PeerRef, _: &str) -> bool {
            false
        }
    }
}
