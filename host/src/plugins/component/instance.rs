//! One instance: a store with what it holds of the host's.

use std::sync::Arc;

use alknet_plugin_api::{Connection, Host};
use tokio::sync::OwnedSemaphorePermit;
use wasmtime::component::{Accessor, ResourceTable, ResourceTableError};
use wasmtime::{ResourceLimiter, Store};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

use super::bindings::{Plugin, PluginPre};
use super::cpu::Cpu;
use super::engine::{Engine, MemoryBudget};
use super::error::{ComponentError, Trap};
use super::limits::ComponentLimits;
use super::stderr::Stderr;
use crate::budget::{Meter, Place, Resource};

/// A component that instances can be made of.
pub(super) struct Program {
    pub(super) engine: Engine,
    pub(super) pre: PluginPre<State>,
    pub(super) limits: ComponentLimits,
    pub(super) meter: Arc<Meter>,
}

/// What an instance reaches through its imports.
#[allow(unreachable_pub)] // the bindings ask for it
pub struct State {
    pub(super) table: ResourceTable,
    /// Nothing before `build`: a manifest must not depend on the host.
    pub(super) host: Option<Host>,
    /// The connection that the instance serves, if it serves one.
    pub(super) connection: Option<Connection>,
    pub(super) cpu: Arc<Cpu>,
    wasi: WasiCtx,
    memory: Memory,
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

/// An instance's memory.
struct Memory {
    limit: u64,
    used: u64,
    node: Arc<MemoryBudget>,
    meter: Arc<Meter>,
}

impl ResourceLimiter for Memory {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let more = (desired - current) as u64;
        // Stopping the instance here names the cause. Were growth only refused,
        // the plugin would end itself, for no reason that anybody could see.
        if self.used + more > self.limit {
            self.meter.hit(Resource::Memory);
            return Err(Trap::Memory(self.limit).into());
        }
        self.node.take(more).map_err(Trap::NodeMemory)?;
        self.used += more;
        self.meter.grow(more);
        Ok(true)
    }

    fn table_growing(
        &mut self,
        _: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(maximum.is_none_or(|maximum| desired <= maximum))
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.node.give_back(self.used);
        self.meter.shrink(self.used);
    }
}

/// A running component. Dropping it stops it, wherever it is.
pub(super) struct Instance {
    store: Store<State>,
    plugin: Plugin,
    cpu: Arc<Cpu>,
    stderr: Stderr,
    counted: Counted,
    /// Its place among the plugin's instances.
    _place: Option<OwnedSemaphorePermit>,
}

/// Keeps count of the instances that there are.
struct Counted {
    gauge: metrics::Gauge,
    place: Place,
}

impl Counted {
    fn new(place: Place) -> Self {
        let gauge = metrics::gauge!("alknet_component_instances");
        gauge.increment(1.0);
        Self { gauge, place }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.gauge.decrement(1.0);
    }
}

impl Program {
    /// Makes an instance that has not been built.
    pub(super) async fn instantiate(
        &self,
        host: Option<Host>,
        place: Option<OwnedSemaphorePermit>,
    ) -> Result<Instance, Trap> {
        let stderr = Stderr::new(host.clone());
        let meter = self.meter.clone();
        let cpu =
            Cpu::new(self.engine.ticker(), self.limits.cpu_slice_ms, meter.clone(), host.clone());
        // Whoever has a place among those for connections serves one.
        let counted = meter.count(match place {
            Some(_) => Resource::Instances,
            None => Resource::CallInstances,
        });
        let mut table = ResourceTable::new();
        table.set_max_capacity(self.limits.handles as usize);
        let wasi = WasiCtx::builder()
            .stderr(stderr.clone())
            .allow_tcp(false)
            .allow_udp(false)
            .allow_ip_name_lookup(false)
            .build();
        let memory =
            Memory { limit: self.limits.memory_bytes, used: 0, node: self.engine.memory(), meter };
        let state = State { table, host, connection: None, cpu: cpu.clone(), wasi, memory };
        let mut store = Store::new(self.engine.wasmtime(), state);
        store.limiter(|state| &mut state.memory);
        store.set_epoch_deadline(1);
        let account = cpu.clone();
        store.epoch_deadline_callback(move |_| account.deadline());
        let plugin = cpu
            .meter(self.pre.instantiate_async(&mut store))
            .await
            .map_err(|error| self.explain(&error, &stderr))?;
        Ok(Instance { store, plugin, cpu, stderr, counted: Counted::new(counted), _place: place })
    }

    fn explain(&self, error: &wasmtime::Error, stderr: &Stderr) -> Trap {
        if error.is::<wasmtime::PoolConcurrencyLimitError>() {
            return Trap::Instances(self.engine.max_instances());
        }
        Trap::from_wasmtime(error, &stderr.last())
    }
}

impl Instance {
    /// Runs an export. After an error the instance must not be used again.
    pub(super) async fn run<R>(
        &mut self,
        export: impl AsyncFnOnce(&Accessor<State>, &Plugin) -> wasmtime::Result<R> + Send,
    ) -> Result<R, Trap>
    where
        R: Send + 'static,
    {
        let plugin = &self.plugin;
        let run = self.store.run_concurrent(async |accessor| export(accessor, plugin).await);
        match self.cpu.meter(run).await {
            Ok(Ok(output)) => Ok(output),
            Ok(Err(error)) | Err(error) => {
                if let Some(ResourceTableError::Full) = error.downcast_ref() {
                    self.counted.place.meter().hit(Resource::Handles);
                }
                Err(Trap::from_wasmtime(&error, &self.stderr.last()))
            }
        }
    }

    /// What the instance reaches.
    pub(super) fn state(&mut self) -> &mut State {
        self.store.data_mut()
    }

    /// The plugin's declaration.
    pub(super) async fn manifest(&mut self) -> Result<String, Trap> {
        let cpu = self.cpu.clone();
        cpu.meter(self.plugin.call_manifest(&mut self.store))
            .await
            .map_err(|error| Trap::from_wasmtime(&error, &self.stderr.last()))
    }

    /// Asks a built plugin whether it is what its manifest declares.
    pub(super) async fn verify(&mut self) -> Result<(), ComponentError> {
        let cpu = self.cpu.clone();
        cpu.meter(self.plugin.call_verify(&mut self.store))
            .await
            .map_err(|error| ComponentError::Trapped {
                export: "verify",
                trap: Trap::from_wasmtime(&error, &self.stderr.last()),
            })?
            .map_err(ComponentError::Build)
    }

    /// Builds the plugin.
    pub(super) async fn build(&mut self, config: &str) -> Result<(), ComponentError> {
        let cpu = self.cpu.clone();
        cpu.meter(self.plugin.call_build(&mut self.store, config))
            .await
            .map_err(|error| ComponentError::Trapped {
                export: "build",
                trap: Trap::from_wasmtime(&error, &self.stderr.last()),
            })?
            .map_err(ComponentError::Build)
    }
}
