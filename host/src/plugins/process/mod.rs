//! Native plugins, each in a process of its own.
//!
//! With `isolation = "process"` in its stanza the very artifact that would be
//! loaded into the daemon runs in a child that the daemon supervises. What kills a
//! process, a segmentation fault, `abort`, `exit`, costs the plugin's own
//! connections and calls; the child is started again, with ever longer pauses.
//!
//! | here | what |
//! |---|---|
//! | `wire`, `link` | what both ends say to each other, and how |
//! | `supervise` | the child's life: its start, its pings, its end |
//! | `session` | one child, from the host's side: what its messages mean |
//! | `streams`, `asks` | streams, and what the child asks the host for |
//! | `serving` | the handlers and operations that the host calls |
//! | [`child`] | the other end |
//!
//! The child is trusted with no more than its plugin's grants: what it says is
//! checked, and nonsense ends it.

mod asks;
pub mod child;
mod link;
mod serving;
mod session;
mod streams;
mod supervise;
mod wire;

use std::path::PathBuf;
use std::time::Duration;

use alknet_plugin_api::{Built, Host, Json, Manifest, OperationCode, OperationType};

pub use self::serving::Died;
use self::serving::Part;
use self::supervise::Supervised;
use super::{Artifact, Kind, LoadError, Opened, native};
use crate::budget::{PROCESS_CPU, PROCESS_MEMORY};

/// How a plugin's process is started and what it is held to.
#[derive(Clone, Debug)]
pub struct Launch {
    /// The daemon's binary.
    pub program: PathBuf,
    /// What the node calls the plugin.
    pub name: String,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// How long one of its threads may go without giving way.
    pub patience: Duration,
    /// The files that it may use; `None` does not confine it.
    pub files: Option<FileAccess>,
}

/// The files that an isolated plugin may use.
#[derive(Clone, Debug, Default)]
pub struct FileAccess {
    /// To read, and what is beneath them.
    pub read: Vec<PathBuf>,
    /// To read and to change.
    pub write: Vec<PathBuf>,
    /// Whether the plugin does not run where the kernel cannot see to that.
    pub required: bool,
}

impl Launch {
    /// This very program, with the limits of a stanza that names none.
    pub fn new(name: &str) -> Self {
        Self {
            program: "/proc/self/exe".into(),
            name: name.to_owned(),
            memory_bytes: PROCESS_MEMORY,
            patience: PROCESS_CPU,
            files: None,
        }
    }
}

/// Starts a plugin's process and has it load the artifact and read the manifest.
/// Nothing of the artifact runs in this process.
///
/// # Errors
/// What loading it here would find, or the process does not start.
pub fn open(artifact: &Artifact, launch: Launch) -> Result<Box<dyn Opened>, LoadError> {
    let file = native::sealed(artifact)?;
    let (supervised, manifest) = Supervised::start(launch, artifact.path.clone(), file)?;
    native::check_manifest(&artifact.path, &manifest)?;
    Ok(Box::new(Isolated { supervised, manifest }))
}

/// A plugin that its process has loaded.
struct Isolated {
    supervised: Supervised,
    manifest: Manifest,
}

impl Opened for Isolated {
    fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    fn kind(&self) -> Kind {
        Kind::Isolated
    }

    fn build(self: Box<Self>, host: Host, config: Json) -> Result<Built, LoadError> {
        let Self { supervised, manifest } = *self;
        let process = supervised.build(host, config)?;
        let part = |index: usize| Part::new(process.clone(), index);
        let handlers = (0..manifest.alpns.len()).map(|index| part(index) as _).collect();
        let operations = manifest.operations.iter().enumerate();
        let operations = operations.map(|(index, spec)| match spec.op_type {
            OperationType::Subscription => OperationCode::Stream(part(index)),
            _ => OperationCode::Once(part(index)),
        });
        Ok(Built { handlers, operations: operations.collect(), manifest })
    }
}
