//! Why a component was refused, or an instance stopped.

use std::path::PathBuf;

/// Why a component was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ComponentError {
    /// The file is no WebAssembly.
    #[error(
        "this is no WebAssembly component; build the plugin with `cargo build --target wasm32-wasip2`"
    )]
    NotWasm,
    /// The file is a core module.
    #[error(
        "this is a WebAssembly module but not a component; build the plugin for `wasm32-wasip2` instead of `wasm32-unknown-unknown` or `wasm32-wasip1`"
    )]
    CoreModule,
    /// The file cannot be compiled: it is cut off, or not valid.
    #[error("it does not compile, perhaps because it was cut off; build or copy it again: {0}")]
    Invalid(String),
    /// The component implements another major version of the world.
    #[error(
        "it was built against {found}, but this node provides alknet:plugin@{}.{}; build it with a matching alknet-plugin-api",
        alknet_plugin_api::API_VERSION.0,
        alknet_plugin_api::API_VERSION.1
    )]
    Version {
        /// The interface that it names.
        found: String,
    },
    /// The component does not export what a plugin must.
    #[error(
        "it does not export {}; a plugin crate says `alknet_plugin_api::export!(Type)`, and in other languages every function of the world is exported",
        .0.join(", ")
    )]
    MissingExports(Vec<String>),
    /// The component wants what the world does not have.
    #[error(
        "it imports {}, which this node gives to no component; a plugin may only use the world alknet:plugin",
        .0.join(", ")
    )]
    UnknownImports(Vec<String>),
    /// Imports or exports have other types than the world's.
    #[error("its imports or exports are not those of the world alknet:plugin: {0}")]
    Types(String),
    /// The manifest cannot be read.
    #[error("its manifest is not valid: {0}")]
    Manifest(String),
    /// It trapped before it served anything.
    #[error("it was stopped in `{export}`: {trap}")]
    Trapped {
        /// The export that was running.
        export: &'static str,
        /// What stopped it.
        trap: Trap,
    },
    /// The plugin refused its configuration or could not start.
    #[error("it could not be built: {0}")]
    Build(String),
    /// The engine cannot be set up.
    #[error("wasmtime cannot be set up for {slots} instances: {cause}")]
    Engine {
        /// The number of instances asked for.
        slots: u32,
        /// Wasmtime's reason.
        cause: String,
    },
    /// The cache of compiled code is not safe to use.
    #[error(
        "the cache of compiled code {} is not private: {problem}; compiled code is run as it is, so make it a directory of the node's user with mode 0700",
        path.display()
    )]
    Cache {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}

/// Why an instance was stopped. It ends that instance alone.
///
/// A handler's trap is found inside
/// [`HandlerError::Internal`](alknet_plugin_api::HandlerError::Internal) with
/// [`Trap::of`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Trap {
    /// It computed for longer than its slice.
    #[error("out of CPU slice: computed for {0} ms without waiting")]
    CpuSlice(u64),
    /// It wanted more memory than it may have.
    #[error("memory limit of {0} bytes")]
    Memory(u64),
    /// All components together want more memory than the node gives them.
    #[error("memory limit of {0} bytes for all components together")]
    NodeMemory(u64),
    /// No instance is free.
    #[error("limit of {0} instances")]
    Instances(u32),
    /// It crashed: a panic, or what the WebAssembly machine forbids.
    #[error("{0}")]
    Crashed(String),
}

impl Trap {
    /// The trap that a handler's error reports, if that is what it does.
    pub fn of(error: &alknet_plugin_api::HandlerError) -> Option<&Self> {
        match error {
            alknet_plugin_api::HandlerError::Internal(error) => error.downcast_ref(),
            _ => None,
        }
    }

    /// Says why `error` stopped an instance whose last words were `stderr`.
    pub(super) fn from_wasmtime(error: &wasmtime::Error, stderr: &str) -> Self {
        if let Some(trap) = error.downcast_ref::<Self>() {
            return trap.clone();
        }
        let cause = match error.downcast_ref::<wasmtime::Trap>() {
            Some(wasmtime::Trap::UnreachableCodeReached) => "unreachable".to_owned(),
            Some(trap) => trap.to_string(),
            None => error.root_cause().to_string(),
        };
        Self::Crashed(match last_words(stderr) {
            Some(words) => format!("{cause}: {words}"),
            None => cause,
        })
    }
}

/// A panic's text in what an instance wrote to its standard error.
fn last_words(stderr: &str) -> Option<String> {
    let from = stderr.rfind("panicked at").or_else(|| stderr.rfind("memory allocation of"))?;
    let text = stderr[from..].split("\nnote: ").next().unwrap_or_default();
    Some(text.trim().replace('\n', " "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_found_in_what_was_written_last() {
        let stderr = "noise\nthread 'main' panicked at src/lib.rs:3:5:\nout of cheese\nnote: run with `RUST_BACKTRACE=1`\n";
        assert_eq!(last_words(stderr).unwrap(), "panicked at src/lib.rs:3:5: out of cheese");
        assert_eq!(last_words("a warning\n"), None);
    }
}
