//! WebAssembly components, run by wasmtime.
//!
//! A component sees what its world imports (`wit/` in the plugin API) and
//! nothing else: it has WASI, because compilers expect it, but without files,
//! sockets, arguments or environment. Its limits are [`ComponentLimits`].
//!
//! An *instance* is a component with a memory of its own. Every connection gets
//! a new one (`handler`); calls share a few that serve one call at a time
//! (`calls`). So a trap, a runaway loop or a memory bomb costs one connection
//! or call, and giving up either is dropping its instance, wherever it is, after
//! a moment in which its destructors may run (`linger`).
//!
//! ```text
//! Engine ──open──▶ Component (compiled, or taken from the cache)
//!                      │ build
//!                      ▼
//!                  Program ──instantiate──▶ Instance ──▶ handle | call | subscribe
//! ```

mod bindings;
mod cache;
mod calls;
mod cpu;
mod engine;
mod error;
mod handler;
mod imports;
mod instance;
mod limits;
mod linger;
mod open;
mod stderr;

pub use engine::{Engine, EngineOptions};
pub use error::{ComponentError, Trap};
pub use limits::ComponentLimits;
pub use open::{open, open_metered};
