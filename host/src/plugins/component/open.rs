//! From a component's file to a plugin ready to serve.

use std::future::Future;
use std::sync::Arc;
use std::task::{Context, Poll, Wake};
use std::thread::Thread;

use alknet_plugin_api::{API_VERSION, Built, Host, Json, Manifest, OperationCode, OperationType};
use wasmtime::component::types::{Component as ComponentType, ComponentItem};

use super::bindings::PluginPre;
use super::calls::{Call, Calls, Subscribe};
use super::engine::Engine;
use super::error::{ComponentError, Trap};
use super::handler::Handler;
use super::instance::{Instance, Program};
use super::limits::ComponentLimits;
use crate::budget::{Limits, Meter, Substrate};
use crate::plugins::{Artifact, Kind, LoadError, Opened};

/// The world's package.
const PACKAGE: &str = "alknet:plugin";
/// Interfaces of the world.
const INTERFACES: [&str; 5] = ["types", "connections", "capabilities", "operations", "host"];
/// What every plugin exports.
const EXPORTS: [&str; 6] = ["manifest", "build", "verify", "handle", "call", "subscribe"];

/// Compiles a component, or takes its code from the cache, and reads its
/// manifest. This takes up to seconds and blocks: call it on a thread for such
/// work, as the [`Opened::build`] of what it returns.
///
/// # Errors
/// Everything that makes the file no plugin of this node; see [`ComponentError`].
pub fn open(
    artifact: Artifact,
    engine: &Engine,
    limits: ComponentLimits,
) -> Result<Box<dyn Opened>, LoadError> {
    open_metered(artifact, engine, limits, Meter::new("", Substrate::Component, Limits::default()))
}

/// As [`open`], on the account of `meter`, whose limits `limits` are.
///
/// # Errors
/// As for [`open`].
pub fn open_metered(
    artifact: Artifact,
    engine: &Engine,
    mut limits: ComponentLimits,
    meter: Arc<Meter>,
) -> Result<Box<dyn Opened>, LoadError> {
    let refuse =
        |cause: ComponentError| LoadError::Component { path: artifact.path.clone(), cause };
    check_magic(&artifact.bytes).map_err(refuse)?;
    let name = artifact.path.file_name().unwrap_or_default().to_string_lossy();
    let component = engine.compile(&artifact.bytes, &artifact.sha256, &name).map_err(refuse)?;
    let ty = component.component_type();
    check_world(&ty, engine.wasmtime()).map_err(refuse)?;
    let pre = engine
        .linker(&ty)
        .instantiate_pre(&component)
        .and_then(PluginPre::new)
        .map_err(|error| refuse(ComponentError::Types(format!("{error:#}"))))?;
    limits.memory_bytes = limits.memory_bytes.min(engine.max_instance_memory());
    let program = Arc::new(Program { engine: engine.clone(), pre, limits, meter });
    let manifest = block_on(manifest(&program)).map_err(refuse)?;
    Ok(Box::new(OpenedComponent { artifact, program, manifest }))
}

/// Tells what the file is by its first eight bytes.
fn check_magic(bytes: &[u8]) -> Result<(), ComponentError> {
    match bytes.first_chunk::<8>() {
        Some(b"\0asm\x0d\0\x01\0") => Ok(()),
        Some([0, b'a', b's', b'm', _, _, 0, 0]) => Err(ComponentError::CoreModule),
        _ => Err(ComponentError::NotWasm),
    }
}

/// Checks names before types, for errors that say what to do.
fn check_world(ty: &ComponentType, engine: &wasmtime::Engine) -> Result<(), ComponentError> {
    let mut unknown = Vec::new();
    for (name, item) in ty.imports(engine) {
        // The world's own `use` shows as types; what can be called decides.
        if !matches!(item.ty, ComponentItem::ComponentInstance(_) | ComponentItem::ComponentFunc(_))
        {
            continue;
        }
        let (path, version) = name.split_once('@').unwrap_or((name, ""));
        match path.strip_prefix(PACKAGE).and_then(|rest| rest.strip_prefix('/')) {
            Some(_) if !version.starts_with(&format!("{}.", API_VERSION.0)) => {
                return Err(ComponentError::Version { found: name.to_owned() });
            }
            Some(interface) if INTERFACES.contains(&interface) => {}
            None if path.starts_with("wasi:") && version.starts_with("0.2.") => {}
            _ => unknown.push(format!("`{name}`")),
        }
    }
    if !unknown.is_empty() {
        return Err(ComponentError::UnknownImports(unknown));
    }
    let exported = |name: &str| {
        ty.exports(engine).any(|(export, item)| {
            export == name && matches!(item.ty, ComponentItem::ComponentFunc(_))
        })
    };
    let missing: Vec<_> =
        EXPORTS.iter().filter(|name| !exported(name)).map(|name| format!("`{name}`")).collect();
    if missing.is_empty() { Ok(()) } else { Err(ComponentError::MissingExports(missing)) }
}

async fn manifest(program: &Program) -> Result<Manifest, ComponentError> {
    let trapped = |trap: Trap| ComponentError::Trapped { export: "manifest", trap };
    let mut instance = program.instantiate(None, None).await.map_err(trapped)?;
    let text = instance.manifest().await.map_err(trapped)?;
    let manifest: Manifest =
        serde_json::from_str(&text).map_err(|error| ComponentError::Manifest(error.to_string()))?;
    if manifest.api.0 != API_VERSION.0 {
        let found = format!("plugin API {}.{}", manifest.api.0, manifest.api.1);
        return Err(ComponentError::Version { found });
    }
    let problems: Vec<_> = manifest.problems().iter().map(ToString::to_string).collect();
    if problems.is_empty() {
        Ok(manifest)
    } else {
        Err(ComponentError::Manifest(problems.join("; ")))
    }
}

struct OpenedComponent {
    artifact: Artifact,
    program: Arc<Program>,
    manifest: Manifest,
}

impl Opened for OpenedComponent {
    fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    fn kind(&self) -> Kind {
        Kind::Component
    }

    fn build(self: Box<Self>, host: Host, config: Json) -> Result<Built, LoadError> {
        let Self { artifact, program, manifest } = *self;
        let refuse = |cause| LoadError::Component { path: artifact.path.clone(), cause };
        let config = String::from_utf8_lossy(config.as_bytes()).into_owned();
        let plugin = Arc::new(Component::new(program, host, config));
        // One instance is built now: whatever is wrong with the configuration
        // or the plugin's code must show before anybody connects.
        let first = block_on(async {
            let mut first = plugin.instance(None).await?;
            first.verify().await?;
            Ok(first)
        });
        let calls = Arc::new(Calls::new(plugin.clone(), first.map_err(refuse)?));
        let handlers = manifest
            .alpns
            .iter()
            .map(|alpn| Arc::new(Handler::new(plugin.clone(), alpn)) as _)
            .collect();
        let operations = manifest
            .operations
            .iter()
            .map(|spec| match spec.op_type {
                OperationType::Subscription => {
                    OperationCode::Stream(Arc::new(Subscribe::new(calls.clone(), &spec.name)))
                }
                _ => OperationCode::Once(Arc::new(Call::new(calls.clone(), &spec.name))),
            })
            .collect();
        Ok(Built { manifest, handlers, operations })
    }
}

/// A component with its host services and configuration.
pub(super) struct Component {
    pub(super) program: Arc<Program>,
    pub(super) host: Host,
    config: String,
    /// Places for connections.
    pub(super) connections: Arc<tokio::sync::Semaphore>,
}

impl Component {
    fn new(program: Arc<Program>, host: Host, config: String) -> Self {
        let places = program.limits.connection_instances as usize;
        let connections =
            Arc::new(tokio::sync::Semaphore::new(places.min(tokio::sync::Semaphore::MAX_PERMITS)));
        Self { program, host, config, connections }
    }

    /// Makes and builds an instance.
    pub(super) async fn instance(
        &self,
        place: Option<tokio::sync::OwnedSemaphorePermit>,
    ) -> Result<Instance, ComponentError> {
        let mut instance = self
            .program
            .instantiate(Some(self.host.clone()), place)
            .await
            .map_err(|trap| ComponentError::Trapped { export: "instantiation", trap })?;
        instance.build(&self.config).await?;
        Ok(instance)
    }
}

/// Runs a future that waits for nothing but its own turn, on this thread.
fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Arc::new(Unpark(std::thread::current())).into();
    let mut cx = Context::from_waker(&waker);
    let mut future = std::pin::pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut cx) {
            return output;
        }
        std::thread::park();
    }
}
