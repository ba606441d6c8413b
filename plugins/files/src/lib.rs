//! Sample plugin: read-only operations over a jailed directory.
//!
//! It shows how to deal with input that wants to do harm (`jail.rs`), with work
//! that blocks (`pool.rs`), and how to declare errors that callers can act on
//! (`spec.rs`).

#[cfg(not(target_os = "linux"))]
compile_error!("the jail is built on openat2(2), which only Linux has");

mod jail;
mod operations;
mod pool;
mod spec;

use std::path::Path;
use std::sync::Arc;

use alknet_plugin_api::prelude::*;
use rustix::io::Errno;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::jail::Jail;
use crate::pool::Pool;

/// The plugin.
pub struct Files;

/// What the deployment file says.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    root: String,
    #[serde(default = "default_max_read")]
    max_read: usize,
    #[serde(default = "default_max_entries")]
    max_entries: usize,
    #[serde(default = "default_threads")]
    threads: usize,
}

fn default_max_read() -> usize {
    256 * 1024
}

fn default_max_entries() -> usize {
    1000
}

fn default_threads() -> usize {
    4
}

/// What every call shares.
struct Shared {
    jail: Jail,
    pool: Pool,
    max_read: usize,
    max_entries: usize,
}

alknet_plugin_api::export!(Files);

impl Plugin for Files {
    fn manifest() -> Manifest {
        spec::manifest()
    }

    fn build(_host: Host, config: Json, on: &mut Registrar) -> Result<(), BuildError> {
        let config: Config = config.to()?;
        let root = Path::new(&config.root);
        if !root.is_absolute() {
            return Err(BuildError::new(format!("root `{}` is no absolute path", config.root)));
        }
        let jail = Jail::new(root).map_err(|errno| cannot_open(&config.root, errno))?;
        let shared = Arc::new(Shared {
            jail,
            pool: Pool::new(config.threads.clamp(1, 64))?,
            max_read: config.max_read.max(1),
            max_entries: config.max_entries.max(1),
        });
        attach(on, &shared, "files/list", operations::list);
        attach(on, &shared, "files/read", operations::read);
        attach(on, &shared, "files/stat", operations::stat);
        Ok(())
    }
}

/// Attaches an operation that runs as a whole on a thread that may block.
fn attach<I, O>(
    on: &mut Registrar,
    shared: &Arc<Shared>,
    name: &str,
    function: fn(&Shared, I) -> Result<O, CallError>,
) where
    I: DeserializeOwned + Send + 'static,
    O: Serialize + Send + 'static,
{
    let shared = shared.clone();
    on.operation(name, move |_, input: I| {
        let shared = shared.clone();
        async move {
            let on_thread = shared.clone();
            shared.pool.run(move || function(&on_thread, input)).await
        }
    });
}

fn cannot_open(root: &str, errno: Errno) -> BuildError {
    BuildError::new(match errno {
        Errno::NOSYS => "openat2(2) is missing: files needs Linux 5.6 or later, and a \
                         system-call filter that lets openat2 pass"
            .to_owned(),
        errno => format!("root `{root}`: {errno}"),
    })
}
