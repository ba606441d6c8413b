//! A host in memory.

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tracing::Dispatch;

use super::calls::{Composition, TestContext, TestGateway};
use super::log::{Log, LogLine, Logged, Recorder};
use crate::backend::HostBackend;
use crate::connection::Connection;
use crate::context::{OperationContext, OperationEnv};
use crate::error::CallError;
use crate::host::{
    Capability, CapabilityBackend, CapabilityKind, Gateway, Host, Level, LogRecord, TaskControl,
    TaskHandle,
};
use crate::http::{HttpFuture, HttpRequest, HttpResponse};
use crate::identity::Identity;
use crate::json::Json;
use crate::manifest::Manifest;
use crate::operation::{ItemSink, OperationSpec};
use crate::ownership::OwnershipRequest;
use crate::plugin::{OperationCode, Registrar};

/// A host whose answers the test decides and whose records it reads. Clones are
/// handles to the same.
///
/// Tasks and timers are tokio's: a plugin that spawns or sleeps needs the test to
/// run on a tokio runtime, and follows its clock when that is paused.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// use alknet_plugin_api::prelude::*;
/// use alknet_plugin_api::testing::TestHost;
///
/// let host = TestHost::new()
///     .token("alk_secret", Identity { id: "ada".into(), ..Identity::default() })
///     .operation("notes/count", |_, _: Json| async { Ok(json!({ "count": 3 })) });
///
/// let plugin_side: Host = host.host();
/// assert_eq!(plugin_side.resolve_token(b"alk_secret").unwrap().id, "ada");
/// let count = plugin_side.env().invoke("notes/count", Json::empty_object()).await.unwrap();
/// assert_eq!(count.to_string(), r#"{"count":3}"#);
/// plugin_side.counter("notes_seen", &[], 3);
/// assert_eq!(host.counter("notes_seen"), 3);
/// # }
/// ```
#[derive(Clone)]
pub struct TestHost {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    log: Arc<Log>,
    pub(super) dispatch: Dispatch,
    started: (tokio::time::Instant, SystemTime),
    shutdown: watch::Sender<bool>,
    settings: Mutex<Settings>,
    metrics: Mutex<BTreeMap<MetricKey, Metric>>,
}

type MetricKey = (String, Vec<(String, String)>);

#[derive(Default)]
struct Settings {
    tokens: HashMap<Vec<u8>, Identity>,
    fingerprints: HashMap<String, Identity>,
    capabilities: HashMap<String, Capability>,
    operations: BTreeMap<String, OperationCode>,
    peer_operations: BTreeMap<String, BTreeMap<String, OperationCode>>,
    gateway: bool,
    /// The owner of each resource, by type and id.
    owners: BTreeMap<(String, String), String>,
}

/// What a plugin has recorded under one name and set of labels.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Metric {
    /// The sum of what was added.
    Counter(u64),
    /// The value set last.
    Gauge(f64),
    /// Every value, in order.
    Histogram(Vec<f64>),
}

impl Default for TestHost {
    fn default() -> Self {
        Self::new()
    }
}

impl TestHost {
    /// A host that knows nobody, lends nothing and has no operation in reach.
    pub fn new() -> Self {
        let log = Arc::<Log>::default();
        Self {
            inner: Arc::new(Inner {
                dispatch: Recorder::dispatch(log.clone()),
                log,
                started: (tokio::time::Instant::now(), SystemTime::now()),
                shutdown: watch::Sender::new(false),
                settings: Mutex::default(),
                metrics: Mutex::default(),
            }),
        }
    }

    /// What a plugin is given.
    pub fn host(&self) -> Host {
        Host::new(Arc::new(HostSide(self.inner.clone())))
    }

    /// Lets a bearer token resolve to `identity`.
    #[must_use]
    pub fn token(self, token: impl AsRef<[u8]>, identity: Identity) -> Self {
        self.inner.settings().tokens.insert(token.as_ref().to_vec(), identity);
        self
    }

    /// Lets a key resolve to `identity`, by its fingerprint.
    #[must_use]
    pub fn fingerprint(self, fingerprint: impl Into<String>, identity: Identity) -> Self {
        self.inner.settings().fingerprints.insert(fingerprint.into(), identity);
        self
    }

    /// Lends a secret that the plugin may read.
    #[must_use]
    pub fn secret(self, name: &str, kind: CapabilityKind, secret: impl Into<Bytes>) -> Self {
        struct Secret(CapabilityKind, Bytes);
        impl CapabilityBackend for Secret {
            fn kind(&self) -> CapabilityKind {
                self.0
            }
            fn reveal(&self) -> Option<Bytes> {
                Some(self.1.clone())
            }
            fn sign(&self, _: &[u8]) -> Option<[u8; 64]> {
                None
            }
        }
        self.capability(name, Capability::new(Arc::new(Secret(kind, secret.into()))))
    }

    /// Lends a secret that the plugin cannot see: `answer` gives the answers to
    /// the requests that it sends with it.
    #[must_use]
    pub fn sender<Fut>(
        self,
        name: &str,
        answer: impl Fn(HttpRequest) -> Fut + Send + Sync + 'static,
    ) -> Self
    where
        Fut: Future<Output = Result<HttpResponse, CallError>> + Send + 'static,
    {
        struct Sender<F>(F);
        impl<F: Fn(HttpRequest) -> HttpFuture + Send + Sync + 'static> CapabilityBackend for Sender<F> {
            fn kind(&self) -> CapabilityKind {
                CapabilityKind::Bearer
            }
            fn reveal(&self) -> Option<Bytes> {
                None
            }
            fn sign(&self, _: &[u8]) -> Option<[u8; 64]> {
                None
            }
            fn send(&self, request: HttpRequest) -> HttpFuture {
                self.0(request)
            }
        }
        let sender = Sender(move |request| -> HttpFuture { Box::pin(answer(request)) });
        self.capability(name, Capability::new(Arc::new(sender)))
    }

    /// Lends a capability.
    #[must_use]
    pub fn capability(self, name: &str, capability: Capability) -> Self {
        self.inner.settings().capabilities.insert(name.to_owned(), capability);
        self
    }

    /// Puts an operation within the plugin's reach, answered as
    /// [`Registrar::operation`] answers.
    ///
    /// # Panics
    /// If `name` is not an operation's name. So do the next two.
    #[must_use]
    pub fn operation<I, O, F, Fut>(self, name: &str, function: F) -> Self
    where
        I: DeserializeOwned + Send + 'static,
        O: Serialize + 'static,
        F: Fn(OperationContext, I) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<O, CallError>> + Send + 'static,
    {
        self.attach(None, OperationSpec::query(name), |on| on.operation(name, function))
    }

    /// Puts a subscription within the plugin's reach, served as
    /// [`Registrar::subscription`] serves.
    #[must_use]
    pub fn subscription<I, T, F, Fut>(self, name: &str, function: F) -> Self
    where
        I: DeserializeOwned + Send + 'static,
        T: Serialize + 'static,
        F: Fn(OperationContext, I, ItemSink<T>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), CallError>> + Send + 'static,
    {
        self.attach(None, OperationSpec::subscription(name), |on| on.subscription(name, function))
    }

    /// Attaches a peer that serves an operation.
    #[must_use]
    pub fn peer_operation<I, O, F, Fut>(self, peer: &str, name: &str, function: F) -> Self
    where
        I: DeserializeOwned + Send + 'static,
        O: Serialize + 'static,
        F: Fn(OperationContext, I) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<O, CallError>> + Send + 'static,
    {
        self.attach(Some(peer), OperationSpec::query(name), |on| on.operation(name, function))
    }

    /// Grants the plugin a gateway: calls on behalf of a connection's peer reach
    /// the host's operations. The caller is the identity of the request's token,
    /// or else the one that [`fingerprint`](TestHost::fingerprint) gives for the
    /// connection's peer key.
    #[must_use]
    pub fn gateway(self) -> Self {
        self.inner.settings().gateway = true;
        self
    }

    fn attach(
        self,
        peer: Option<&str>,
        spec: OperationSpec,
        attach: impl FnOnce(&mut Registrar),
    ) -> Self {
        let name = spec.name.clone();
        let mut on = Registrar::new();
        attach(&mut on);
        let built = match on.finish(Manifest::new("test-host", "1.0.0").operation(spec)) {
            Ok(built) => built,
            Err(error) => panic!("{error}"),
        };
        let mut settings = self.inner.settings();
        let operations = match peer {
            Some(peer) => settings.peer_operations.entry(peer.to_owned()).or_default(),
            None => &mut settings.operations,
        };
        operations.extend(built.operations.into_iter().map(|code| (name.clone(), code)));
        drop(settings);
        self
    }

    /// A call of `operation` as its handler will see it, to be filled in.
    pub fn context(&self, operation: &str) -> TestContext {
        TestContext::new(self, operation)
    }

    /// Who owns a resource, by what the plugin has recorded.
    pub fn owner(&self, resource_type: &str, id: &str) -> Option<String> {
        self.inner.settings().owners.get(&(resource_type.to_owned(), id.to_owned())).cloned()
    }

    /// Begins the node's drain: [`Host::shutdown`] resolves.
    pub fn begin_shutdown(&self) {
        self.inner.shutdown.send_replace(true);
    }

    /// Everything logged so far.
    pub fn logs(&self) -> Vec<LogLine> {
        self.inner.log.lines()
    }

    /// The first line whose message contains `text`; waits for one.
    pub async fn logged(&self, text: &str) -> LogLine {
        self.inner.log.find(text).await
    }

    /// What was recorded under `name` with exactly these labels.
    pub fn metric(&self, name: &str, labels: &[(&str, &str)]) -> Option<Metric> {
        lock(&self.inner.metrics).get(&key(name, labels)).cloned()
    }

    /// The sum of the counters of this name, over all labels.
    pub fn counter(&self, name: &str) -> u64 {
        let metrics = lock(&self.inner.metrics);
        let of_name = metrics.iter().filter(|((metric, _), _)| metric == name);
        of_name.map(|(_, metric)| if let Metric::Counter(n) = metric { *n } else { 0 }).sum()
    }
}

impl Inner {
    fn settings(&self) -> MutexGuard<'_, Settings> {
        lock(&self.settings)
    }

    pub(super) fn operation(&self, name: &str) -> Option<OperationCode> {
        let name = name.strip_prefix('/').unwrap_or(name);
        self.settings().operations.get(name).cloned()
    }

    pub(super) fn peer_operation(&self, peer: Option<&str>, name: &str) -> Option<OperationCode> {
        let settings = self.settings();
        let mut peers = settings.peer_operations.iter();
        peers
            .find(|(id, operations)| {
                peer.is_none_or(|peer| peer == *id) && operations.contains_key(name)
            })
            .and_then(|(_, operations)| operations.get(name).cloned())
    }

    pub(super) fn resolve_token(&self, token: &[u8]) -> Option<Identity> {
        self.settings().tokens.get(token).cloned()
    }

    pub(super) fn resolve_fingerprint(&self, fingerprint: &str) -> Option<Identity> {
        self.settings().fingerprints.get(fingerprint).cloned()
    }

    pub(super) fn ownership(
        &self,
        identity: Option<&Identity>,
        request: OwnershipRequest,
    ) -> Result<Json, CallError> {
        let owners = &mut self.settings().owners;
        let owned_by = |owner: &String| identity.is_some_and(|identity| identity.id == *owner);
        Ok(match request {
            OwnershipRequest::Record { resource_type, id } => {
                let owner = identity.ok_or_else(|| CallError::forbidden("nobody to own it"))?;
                let slot = owners.entry((resource_type, id));
                let free = matches!(slot, std::collections::btree_map::Entry::Vacant(_));
                slot.or_insert_with(|| owner.id.clone());
                serde_json::Value::from(free)
            }
            OwnershipRequest::Revoke { resource_type, id } => {
                owners.remove(&(resource_type, id)).is_some().into()
            }
            OwnershipRequest::Owns { resource_type, id } => {
                owners.get(&(resource_type, id)).is_some_and(owned_by).into()
            }
            OwnershipRequest::Owned { resource_type } => {
                let all = owners.iter().filter(|((kind, _), _)| *kind == resource_type);
                let own = all.filter(|(_, owner)| owned_by(owner));
                own.map(|((_, id), _)| id.clone()).collect()
            }
        }
        .into())
    }

    pub(super) fn find_capability(&self, name: &str) -> Option<Capability> {
        self.settings().capabilities.get(name).cloned()
    }

    fn change_metric(
        &self,
        name: &str,
        labels: &[(&str, &str)],
        change: impl FnOnce(&mut Metric),
        new: Metric,
    ) {
        let mut metrics = lock(&self.metrics);
        change(metrics.entry(key(name, labels)).or_insert(new));
    }
}

fn key(name: &str, labels: &[(&str, &str)]) -> MetricKey {
    let mut labels: Vec<_> =
        labels.iter().map(|(label, value)| ((*label).to_owned(), (*value).to_owned())).collect();
    labels.sort();
    (name.to_owned(), labels)
}

struct HostSide(Arc<Inner>);

impl HostBackend for HostSide {
    fn spawn(&self, task: BoxFuture<'static, ()>) -> TaskHandle {
        let log = self.0.log.clone();
        let task = Logged::new(&self.0.dispatch, task);
        let guarded = std::panic::AssertUnwindSafe(task).catch_unwind();
        let task = tokio::spawn(async move {
            if let Err(panic) = guarded.await {
                let message = format!("a task panicked: {}", panic_text(&*panic));
                let (level, target) = (Level::Error, "alknet::testing");
                log.record(&LogRecord { level, target, message: &message, fields: &[] });
            }
        });
        TaskHandle::new(Box::new(Task(task)))
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(duration))
    }

    fn now(&self) -> Duration {
        self.0.started.0.elapsed()
    }

    fn unix_time(&self) -> Duration {
        self.0.started.1.duration_since(UNIX_EPOCH).unwrap_or_default() + self.now()
    }

    fn log_enabled(&self, _: Level, _: &str) -> bool {
        true
    }

    fn log(&self, record: &LogRecord<'_>) {
        self.0.log.record(record);
    }

    fn counter(&self, name: &str, labels: &[(&str, &str)], add: u64) {
        let add_to = |metric: &mut Metric| {
            if let Metric::Counter(sum) = metric {
                *sum += add;
            }
        };
        self.0.change_metric(name, labels, add_to, Metric::Counter(0));
    }

    fn gauge(&self, name: &str, labels: &[(&str, &str)], value: f64) {
        self.0.change_metric(
            name,
            labels,
            |metric| *metric = Metric::Gauge(value),
            Metric::Gauge(value),
        );
    }

    fn histogram(&self, name: &str, labels: &[(&str, &str)], value: f64) {
        let push = |metric: &mut Metric| {
            if let Metric::Histogram(values) = metric {
                values.push(value);
            }
        };
        self.0.change_metric(name, labels, push, Metric::Histogram(Vec::new()));
    }

    fn resolve_token(&self, token: &[u8]) -> Option<Identity> {
        self.0.resolve_token(token)
    }

    fn resolve_fingerprint(&self, fingerprint: &str) -> Option<Identity> {
        self.0.resolve_fingerprint(fingerprint)
    }

    fn capability(&self, name: &str) -> Option<Capability> {
        self.0.find_capability(name)
    }

    fn env(&self) -> Arc<dyn OperationEnv> {
        Arc::new(Composition::new(TestHost { inner: self.0.clone() }, None))
    }

    fn gateway(&self, connection: &Connection) -> Option<Arc<dyn Gateway>> {
        let host = TestHost { inner: self.0.clone() };
        let granted = self.0.settings().gateway;
        granted.then(|| Arc::new(TestGateway::new(host, connection)) as Arc<dyn Gateway>)
    }

    fn shutdown(&self) -> BoxFuture<'static, ()> {
        let mut begun = self.0.shutdown.subscribe();
        Box::pin(async move {
            if begun.wait_for(|begun| *begun).await.is_err() {
                std::future::pending().await
            }
        })
    }
}

struct Task(tokio::task::JoinHandle<()>);

impl TaskControl for Task {
    fn abort(&self) {
        self.0.abort();
    }

    fn poll_ended(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.0.is_finished() { Poll::Ready(()) } else { self.0.poll_unpin(cx).map(|_| ()) }
    }
}

/// What a panic said.
pub(super) fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
