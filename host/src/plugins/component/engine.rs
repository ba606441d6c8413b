//! The one wasmtime engine of a node.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use wasmtime::component::types::Component as ComponentType;
use wasmtime::component::{Component, Linker};
use wasmtime::{Config, InstanceAllocationStrategy, PoolingAllocationConfig};

use super::bindings;
use super::cache::Cache;
use super::cpu::Ticker;
use super::error::ComponentError;
use super::imports::futures;
use super::instance::State;
use crate::budget::MAX_INSTANCE_MEMORY;
use crate::observe::terminal::Progress;

/// Memory mappings left to the rest of the process.
const RESERVED_MAPS: u64 = 8_192;
/// Mappings of one live instance. At the kernel's limit the whole process
/// aborts, so the pool must not be able to get there.
const MAPS_PER_INSTANCE: u64 = 6;
/// What the kernel allows unless told otherwise.
const DEFAULT_MAX_MAPS: u64 = 65_530;

/// Core modules of one component, at most: CPython takes most of these.
const CORE_INSTANCES: u32 = 32;
/// Memories of one component, at most: tools that compose components leave a few. All
/// count against its limit, and a slot is one memory.
const MEMORIES: u32 = 4;
/// Tables of one component, at most.
const TABLES: u32 = 8;

/// How a node runs components.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// Where compiled code is kept between starts; nowhere without it. The
    /// directory must be the node's own and private, and is made so where it
    /// does not exist.
    pub cache_dir: Option<PathBuf>,
    /// Bytes of memory that the instances of all components hold together.
    pub memory_budget: u64,
    /// The most that any plugin's
    /// [`memory_bytes`](super::ComponentLimits::memory_bytes) can be.
    pub max_instance_memory: u64,
    /// Instances of all components together, at most; fewer where the kernel's
    /// `vm.max_map_count` does not allow as many.
    pub max_instances: u32,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            cache_dir: None,
            memory_budget: 1 << 30,
            max_instance_memory: MAX_INSTANCE_MEMORY,
            max_instances: 2_048,
        }
    }
}

/// Compiles and runs components. One a node; clones are handles to it.
#[derive(Clone)]
pub struct Engine(Arc<Shared>);

struct Shared {
    wasmtime: wasmtime::Engine,
    linker: Linker<State>,
    /// For the world's other form.
    linker_of_futures: Linker<State>,
    ticker: Arc<Ticker>,
    cache: Option<Cache>,
    memory: Arc<MemoryBudget>,
    slots: u32,
    max_instance_memory: u64,
}

impl Engine {
    /// Sets the machine up and reserves address space for its instances.
    ///
    /// # Errors
    /// [`ComponentError::Engine`] when the system refuses that, and
    /// [`ComponentError::Cache`] when the cache's directory is not private.
    pub fn new(options: EngineOptions) -> Result<Self, ComponentError> {
        let slots = options.max_instances.min(slots_for(max_map_count())).max(1);
        let failed =
            |error: wasmtime::Error| ComponentError::Engine { slots, cause: format!("{error:#}") };
        let max_memory = usize::try_from(options.max_instance_memory).unwrap_or(usize::MAX);
        let wasmtime = wasmtime::Engine::new(&config(slots, max_memory)).map_err(failed)?;
        let mut linker = Linker::new(&wasmtime);
        wasmtime_wasi::p2::add_to_linker_async(&mut linker).map_err(failed)?;
        bindings::Plugin::add_to_linker::<State, super::imports::Imports>(&mut linker, |state| {
            state
        })
        .map_err(failed)?;
        let mut linker_of_futures = linker.clone();
        futures::replace_in(&mut linker_of_futures).map_err(failed)?;
        let ticker =
            Ticker::start(wasmtime.weak()).map_err(|error| failed(wasmtime::Error::from(error)))?;
        let cache = options.cache_dir.map(|dir| Cache::open(dir, &wasmtime)).transpose()?;
        Ok(Self(Arc::new(Shared {
            wasmtime,
            linker,
            linker_of_futures,
            ticker: Arc::new(ticker),
            cache,
            memory: Arc::new(MemoryBudget {
                limit: options.memory_budget,
                used: AtomicU64::new(0),
            }),
            slots,
            max_instance_memory: options.max_instance_memory,
        })))
    }

    /// Compiles a component, or takes its code from the cache. Compiling takes
    /// a good part of a second on several threads: never call it on a thread
    /// that serves connections.
    pub(super) fn compile(
        &self,
        bytes: &[u8],
        sha256: &[u8; 32],
        name: &str,
    ) -> Result<Component, ComponentError> {
        if let Some(cache) = &self.0.cache
            && let Some(component) = cache.load(&self.0.wasmtime, sha256)
        {
            return Ok(component);
        }
        let _shown = Progress::begin(format!("compiling {name}"));
        let component = Component::new(&self.0.wasmtime, bytes)
            .map_err(|error| ComponentError::Invalid(format!("{error:#}")))?;
        if let Some(cache) = &self.0.cache {
            cache.store(&component, sha256);
        }
        Ok(component)
    }

    pub(super) fn wasmtime(&self) -> &wasmtime::Engine {
        &self.0.wasmtime
    }

    /// What a component of this type is linked with.
    pub(super) fn linker(&self, ty: &ComponentType) -> &Linker<State> {
        match futures::is_used_by(ty, &self.0.wasmtime) {
            true => &self.0.linker_of_futures,
            false => &self.0.linker,
        }
    }

    pub(super) fn ticker(&self) -> Arc<Ticker> {
        self.0.ticker.clone()
    }

    pub(super) fn memory(&self) -> Arc<MemoryBudget> {
        self.0.memory.clone()
    }

    pub(super) fn max_instance_memory(&self) -> u64 {
        self.0.max_instance_memory
    }

    /// Instances of all components together, at most.
    pub fn max_instances(&self) -> u32 {
        self.0.slots
    }

    /// Bytes of memory that all instances hold now.
    pub fn memory_used(&self) -> u64 {
        self.0.memory.used.load(Ordering::Relaxed)
    }
}

fn config(slots: u32, max_memory: usize) -> Config {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(slots)
        .total_memories(slots.max(MEMORIES))
        .max_memories_per_component(MEMORIES)
        .max_memory_size(max_memory)
        // A component is a few core modules: the plugin and its adapters, or an
        // interpreter with its libraries.
        .total_core_instances(slots.saturating_mul(CORE_INSTANCES))
        .max_core_instances_per_component(CORE_INSTANCES)
        .total_tables(slots.saturating_mul(4).max(TABLES))
        .max_tables_per_component(TABLES)
        .table_elements(20_000)
        .total_stacks(slots)
        // What a closed instance leaves in memory adds up over a thousand slots.
        .linear_memory_keep_resident(0)
        .table_keep_resident(0)
        .max_unused_warm_slots(64);
    let mut config = Config::new();
    config
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pool))
        .wasm_component_model_async(true)
        .epoch_interruption(true)
        .wasm_backtrace_max_frames(std::num::NonZeroUsize::new(8));
    config
}

fn slots_for(max_maps: u64) -> u32 {
    let slots = max_maps.saturating_sub(RESERVED_MAPS) / MAPS_PER_INSTANCE;
    u32::try_from(slots).unwrap_or(u32::MAX)
}

fn max_map_count() -> u64 {
    std::fs::read_to_string("/proc/sys/vm/max_map_count")
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(DEFAULT_MAX_MAPS)
}

/// Memory that all components share.
pub(super) struct MemoryBudget {
    limit: u64,
    used: AtomicU64,
}

impl MemoryBudget {
    /// Takes `bytes`, or says that there are not as many left.
    pub(super) fn take(&self, bytes: u64) -> Result<(), u64> {
        let take = |used: u64| used.checked_add(bytes).filter(|sum| *sum <= self.limit);
        match self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take) {
            Ok(_) => Ok(()),
            Err(_) => Err(self.limit),
        }
    }

    pub(super) fn give_back(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pool_leaves_mappings_to_the_process() {
        let slots = u64::from(slots_for(DEFAULT_MAX_MAPS));
        assert!(slots * MAPS_PER_INSTANCE + RESERVED_MAPS <= DEFAULT_MAX_MAPS);
        assert!(slots > 9_000);
        assert_eq!(slots_for(100), 0);
    }

    #[test]
    fn the_budget_is_never_exceeded() {
        let budget = MemoryBudget { limit: 10, used: AtomicU64::new(0) };
        budget.take(6).unwrap();
        assert_eq!(budget.take(5), Err(10));
        assert_eq!(budget.take(u64::MAX), Err(10));
        budget.give_back(6);
        budget.take(10).unwrap();
    }
}
