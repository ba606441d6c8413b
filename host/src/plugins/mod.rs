//! Finding, verifying and loading plugins.
//!
//! A plugin comes as a native shared library or as a WebAssembly component.
//! Both are opened in the same two steps, and both become the same thing: a
//! [`Built`] with a handler for each ALPN and code for each operation.
//!
//! 1. *Open*: the file is verified and loaded, and its [`Manifest`] read.
//! 2. *Build*: the plugin gets its host services and its configuration.

use std::path::PathBuf;
use std::time::Duration;

use alknet_plugin_api::{Built, Host, Json, Manifest};

pub mod artifact;
#[cfg(feature = "components")]
pub mod component;
mod crash;
mod error;
pub mod native;

pub use artifact::Artifact;
pub use crash::{crash_of, mark_crashes};
pub use error::LoadError;

/// What a plugin is made of, which decides how far it is trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A shared library in the daemon's own process.
    Native,
    /// A WebAssembly component that sees only what its world imports.
    Component,
}

impl Kind {
    /// As deployment files and listings write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Component => "component",
        }
    }

    /// The trust label shown to operators: a native plugin can do whatever the
    /// daemon's process can, a component only what it is given.
    pub fn trust(self) -> &'static str {
        match self {
            Self::Native => "native",
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
    /// Its handlers and code.
    pub built: Built,
}
