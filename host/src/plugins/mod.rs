//! Finding, verifying and loading plugins.
//!
//! A plugin comes as a native shared library, which is loaded into the daemon or
//! into a process of its own, or as a WebAssembly component. All are opened in the same two steps, and become the same thing: a
//! [`Built`] with a handler for each ALPN and code for each operation.
//!
//! 1. *Open*: the file is verified and loaded, and its [`Manifest`] read.
//! 2. *Build*: the plugin gets its host services and its configuration.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use alknet_plugin_api::{Built, Host, Json, Manifest};

use crate::budget::Meter;

pub mod artifact;
#[cfg(feature = "components")]
pub mod component;
mod crash;
mod error;
pub mod native;
pub mod package;
pub mod process;

pub use artifact::Artifact;
pub use crash::{crash_of, mark_crashes};
pub use error::LoadError;

/// What a plugin is made of, which decides how far it is trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A shared library in the daemon's own process.
    Native,
    /// A shared library in a process of its own.
    Isolated,
    /// A WebAssembly component that sees only what its world imports.
    Component,
}

impl Kind {
    /// As deployment files and listings write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Native | Self::Isolated => "native",
            Self::Component => "component",
        }
    }

    /// The trust label shown to operators: a native plugin can do whatever the
    /// daemon's process can, one in a process of its own what that process can, a
    /// component only what it is given.
    pub fn trust(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Isolated => "isolated",
            Self::Component => "confined",
        }
    }
}

/// A plugin whose file has been verified and whose manifest has been read, and
/// of which nothing else has run.
pub trait Opened: Send {
    /// What the plugin is and serves.
    fn manifest(&self) -> &Manifest;

    /// What it is made of.
    fn kind(&self) -> Kind;

    /// Gives the plugin its host services and configuration.
    ///
    /// # Errors
    /// The plugin's own reason, a panic or trap in it, or a manifest that its
    /// code does not match.
    fn build(self: Box<Self>, host: Host, config: Json) -> Result<Built, LoadError>;
}

/// Opens a file as start-up would, without a pinned digest, and gives its digest, too.
/// Of a native plugin's code only its constructors and `manifest()` run.
///
/// # Errors
/// What start-up would refuse it for.
pub fn inspect(file: &Path) -> Result<([u8; 32], Box<dyn Opened>), LoadError> {
    let policy = artifact::Policy { allow_unpinned: true, ..artifact::Policy::default() };
    let artifact = Artifact::read(file, &policy)?;
    Ok((artifact.sha256, open(artifact)?))
}

/// Opens an artifact that was read and checked, to see what it declares.
///
/// # Errors
/// As for [`inspect`].
pub fn open(artifact: Artifact) -> Result<Box<dyn Opened>, LoadError> {
    match artifact.kind()? {
        Kind::Native | Kind::Isolated => native::open(&artifact),
        Kind::Component => open_component(artifact),
    }
}

#[cfg(feature = "components")]
fn open_component(artifact: Artifact) -> Result<Box<dyn Opened>, LoadError> {
    use component::{ComponentLimits, Engine, EngineOptions};
    let options = EngineOptions { max_instances: 1, ..EngineOptions::default() };
    let engine = Engine::new(options)
        .map_err(|cause| LoadError::Component { path: artifact.path.clone(), cause })?;
    component::open(artifact, &engine, ComponentLimits::default())
}

#[cfg(not(feature = "components"))]
fn open_component(artifact: Artifact) -> Result<Box<dyn Opened>, LoadError> {
    Err(LoadError::NoComponents { path: artifact.path })
}

/// A plugin ready to serve, with what status shows of it.
pub struct LoadedPlugin {
    /// The name in the deployment file.
    pub name: String,
    /// What it is made of.
    pub kind: Kind,
    /// The artifact's path.
    pub path: PathBuf,
    /// The artifact's SHA-256 digest.
    pub sha256: [u8; 32],
    /// From the first byte read to the end of its build.
    pub load_time: Duration,
    /// What it uses.
    pub meter: Arc<Meter>,
    /// Its handlers and code.
    pub built: Built,
}
