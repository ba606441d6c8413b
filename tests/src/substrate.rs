//! What hosts the conformance plugin: a program it is linked into, a native
//! loader, a component runtime, a daemon behind QUIC.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use alknet::plugins::artifact::Policy;
use alknet::plugins::component::{self, ComponentLimits, Engine, EngineOptions};
use alknet::plugins::process::{self, Launch};
use alknet::plugins::{Artifact, Kind, LoadError, Opened, mark_crashes, native};
use alknet_plugin_api::abi::Panicked;
use alknet_plugin_api::testing::{Pair, TestHost, TestPlugin};
use alknet_plugin_api::{Built, CallError, CallStream, CapabilityKind, Connection, Identity, Json};
use alknet_plugin_conformance::{ALPN, Conformance};
use futures_util::future::BoxFuture;
use serde_json::{Value, json};

use crate::{artifact, daemon};

/// The token that a substrate's host resolves, and to whom.
pub const TOKEN: &str = "alk_conformance";
/// The name that [`TOKEN`] resolves to.
pub const NAME: &str = "ada";
/// What the plugin is configured to greet with.
pub const GREETING: &str = "good morning";
/// The capability lent as `secret`.
pub const SECRET: &[u8] = b"eleven byte";

/// A host with the conformance plugin in it.
///
/// The plugin is configured with [`GREETING`], lent [`SECRET`] as `secret`, and
/// has `host/add` and `host/count` in reach ([`host`] has all that).
pub trait Substrate: Send + Sync {
    /// A new connection to the plugin's handler.
    fn connect(&self) -> BoxFuture<'_, Connection>;

    /// Calls one of the plugin's queries as [`NAME`], with a time limit where the
    /// test sets one.
    fn call<'a>(
        &'a self,
        name: &'a str,
        input: Value,
        timeout: Option<std::time::Duration>,
    ) -> BoxFuture<'a, Result<Json, CallError>>;

    /// Subscribes to one of the plugin's subscriptions.
    fn subscribe(&self, name: &str, input: Value) -> CallStream;

    /// Resolves once the host's log has a line with this text, from the plugin.
    fn logged<'a>(&'a self, text: &'a str) -> BoxFuture<'a, ()>;

    /// The plugin's counter of this name, over all its labels.
    fn counter(&self, name: &str) -> BoxFuture<'_, u64>;

    /// Whether the host can stop a plugin that neither awaits nor stays within its
    /// memory, at the cost of one connection. One that shares its process with the
    /// plugin cannot, and one that gives it a process has to end that.
    fn confines(&self) -> bool;
}

/// The host's side of a substrate that runs in the test's own process.
pub fn host() -> TestHost {
    TestHost::new()
        .token(TOKEN, Identity { id: NAME.into(), ..Identity::default() })
        .secret("secret", CapabilityKind::Bytes, SECRET)
        .operation("host/add", |_, (a, b): (u64, u64)| async move { Ok(a + b) })
        .subscription("host/count", |_, to: u64, mut items| async move {
            for n in 0..to {
                items.send(&n).await?;
            }
            Ok(())
        })
}

/// The plugin's configuration.
pub fn config() -> Json {
    json!({ "greeting": GREETING }).into()
}

fn read(file: &Path, kind: Kind) -> Artifact {
    let policy = Policy { allow_unpinned: true, ..Policy::default() };
    let artifact = Artifact::read(file, &policy).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(artifact.kind().unwrap_or_else(|error| panic!("{error}")), kind);
    artifact
}

fn build(opened: Result<Box<dyn Opened>, LoadError>) -> (TestHost, Built) {
    let host = host();
    let built = opened.and_then(|opened| opened.build(host.host(), config()));
    (host, built.unwrap_or_else(|error| panic!("{error}")))
}

/// A node's engine, for a few instances. The cache becomes a private directory.
///
/// # Panics
/// If there can be no engine.
pub fn engine(cache: &Path) -> Engine {
    fs::create_dir_all(cache).unwrap();
    fs::set_permissions(cache, fs::Permissions::from_mode(0o700)).unwrap();
    let options = EngineOptions {
        cache_dir: Some(cache.to_owned()),
        max_instances: 64,
        ..EngineOptions::default()
    };
    Engine::new(options).unwrap_or_else(|error| panic!("{error}"))
}

fn limits() -> ComponentLimits {
    ComponentLimits { cpu_slice_ms: 500, ..ComponentLimits::default() }
}

/// A plugin driven in memory, however its code came into the process.
pub struct InMemory {
    plugin: TestPlugin,
    confines: bool,
}

impl InMemory {
    /// The plugin's code linked into the test.
    pub fn linked() -> Self {
        Self::of(TestPlugin::build::<Conformance>(host(), config()).unwrap(), false)
    }

    /// The plugin as a shared library, through the daemon's own loader.
    pub fn native() -> Self {
        let artifact = read(&artifact::native("alknet-plugin-conformance"), Kind::Native);
        let (host, built) = build(native::open(&artifact));
        Self::of(TestPlugin::of(host, built), false)
    }

    /// The plugin as the same shared library in a process of its own.
    pub fn process() -> Self {
        let built = daemon::built();
        let artifact = read(&built.conformance, Kind::Native);
        let launch =
            Launch { program: built.alknet.clone(), ..Launch::new("alknet-plugin-conformance") };
        let (host, mut built) = build(process::open(&artifact, launch));
        for handler in &mut built.handlers {
            *handler = mark_crashes(handler.clone(), Panicked);
        }
        Self::of(TestPlugin::of(host, built), false)
    }

    /// The plugin as a component, through the daemon's own loader. Its compiled
    /// code is kept in `cache` for the next test.
    pub fn component(cache: &Path) -> Self {
        let artifact = read(&artifact::component("alknet-plugin-conformance"), Kind::Component);
        let (host, mut built) = build(component::open(artifact, &engine(cache), limits()));
        for handler in &mut built.handlers {
            *handler = mark_crashes(handler.clone(), Panicked);
        }
        Self::of(TestPlugin::of(host, built), true)
    }

    /// A plugin that has been built on [`host`].
    pub fn of(plugin: TestPlugin, confines: bool) -> Self {
        Self { plugin, confines }
    }
}

impl Substrate for InMemory {
    fn connect(&self) -> BoxFuture<'_, Connection> {
        Box::pin(async move {
            let pair = Pair::new(ALPN).client_key([7; 32]);
            let identity = Identity { id: NAME.into(), ..Identity::default() };
            self.plugin.connect_over(pair, Some(identity)).0
        })
    }

    fn call<'a>(
        &'a self,
        name: &'a str,
        input: Value,
        timeout: Option<std::time::Duration>,
    ) -> BoxFuture<'a, Result<Json, CallError>> {
        let mut context = self.plugin.context(name);
        context = context.identity(Identity { id: NAME.into(), ..Identity::default() });
        if let Some(timeout) = timeout {
            context = context.timeout(timeout);
        }
        Box::pin(self.plugin.call_with(context, input))
    }

    fn subscribe(&self, name: &str, input: Value) -> CallStream {
        self.plugin.subscribe(name, input)
    }

    fn logged<'a>(&'a self, text: &'a str) -> BoxFuture<'a, ()> {
        Box::pin(async move { drop(self.plugin.host().logged(text).await) })
    }

    fn counter(&self, name: &str) -> BoxFuture<'_, u64> {
        let count = self.plugin.host().counter(name);
        Box::pin(async move { count })
    }

    fn confines(&self) -> bool {
        self.confines
    }
}
