//! Why a plugin was not loaded.

use std::io;
use std::path::{Path, PathBuf};

use alknet_plugin_api::abi::Panicked;

/// A reason to refuse a plugin, with the file, the cause and the remedy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The file is not there or cannot be read.
    #[error("{}: cannot read the plugin: {cause}. Check `artifact` in the deployment file, and that the daemon's user may read it", path.display())]
    Unreadable {
        /// The artifact.
        path: PathBuf,
        /// The system's answer.
        cause: io::Error,
    },
    /// A symbolic link.
    #[error("{}: is a symbolic link, whose target could change unseen. Name the file itself", path.display())]
    Symlink {
        /// The artifact.
        path: PathBuf,
    },
    /// A directory, a device, a pipe.
    #[error("{}: is {found}, not a regular file. Name the plugin's file", path.display())]
    NotAFile {
        /// The artifact.
        path: PathBuf,
        /// What it is.
        found: &'static str,
    },
    /// Somebody else owns the file and could change it.
    #[error("{}: belongs to user {owner}, who could change it. Give it to root or to the daemon's user {daemon} (chown)", path.display())]
    Owner {
        /// The artifact.
        path: PathBuf,
        /// The owner's user id.
        owner: u32,
        /// The daemon's user id.
        daemon: u32,
    },
    /// Others may write to the file.
    #[error("{}: mode {mode:04o} lets group or others write to it. Take that away: chmod go-w", path.display())]
    Writable {
        /// The artifact.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file is larger than any plugin should be.
    #[error("{}: has {size} bytes, more than the {max} that a plugin may have. Is it the right file?", path.display())]
    TooLarge {
        /// The artifact.
        path: PathBuf,
        /// Its size in bytes.
        size: u64,
        /// The limit in bytes.
        max: u64,
    },
    /// The deployment file does not pin a digest.
    #[error("{}: no `sha256` is pinned for it. If the file is the right one, add: sha256 = \"{found}\"", path.display())]
    Unpinned {
        /// The artifact.
        path: PathBuf,
        /// Its digest, in hexadecimal.
        found: String,
    },
    /// The file is not the one that was pinned.
    #[error("{}: is not the file that the deployment file pins\n  expected sha256 {expected}\n  found    sha256 {found}\nIf you replaced the plugin on purpose, pin the new digest; otherwise find out who did", path.display())]
    Digest {
        /// The artifact.
        path: PathBuf,
        /// The pinned digest, in hexadecimal.
        expected: String,
        /// The file's digest, in hexadecimal.
        found: String,
    },
    /// Keys are trusted, and the plugin is not signed.
    #[error("{}: is not signed, and `trusted_plugin_keys` admits signed plugins only. Add `signature` with its maker's signature", path.display())]
    Unsigned {
        /// The artifact.
        path: PathBuf,
    },
    /// A signature is given that nothing could check.
    #[error("{}: has a `signature`, but `trusted_plugin_keys` is empty, so that nothing would check it. Add its maker's key, or remove the signature", path.display())]
    SignatureUnchecked {
        /// The artifact.
        path: PathBuf,
    },
    /// The signature is malformed or cannot be read.
    #[error("{}: its signature is unusable: {cause}. It must be 64 bytes, raw in a file or as hexadecimal or base64 text", path.display())]
    SignatureMalformed {
        /// The artifact.
        path: PathBuf,
        /// What is wrong.
        cause: String,
    },
    /// No trusted key has made the signature.
    #[error("{}: no trusted key has made its signature ({keys} tried). Either the file or the signature was changed, or its maker's key is missing from `trusted_plugin_keys`", path.display())]
    Signature {
        /// The artifact.
        path: PathBuf,
        /// How many keys are trusted.
        keys: usize,
    },
    /// Neither a shared library nor a component.
    #[error("{}: is neither a shared library (ELF) nor a WebAssembly component: {found}. Name the file that the plugin's build produced", path.display())]
    NotAPlugin {
        /// The artifact.
        path: PathBuf,
        /// What it seems to be.
        found: String,
    },
    /// A part of the file is missing.
    #[error("{}: is truncated: {cause}. Copy it again and compare its digest with its maker's", path.display())]
    Truncated {
        /// The artifact.
        path: PathBuf,
        /// What lies beyond its end.
        cause: String,
    },
    /// The file is for another machine.
    #[error("{}: is built for {found}, and this daemon for {expected}. Get the build for this machine", path.display())]
    Architecture {
        /// The artifact.
        path: PathBuf,
        /// What the file is for.
        found: String,
        /// What this daemon runs on.
        expected: String,
    },
    /// A shared library, but not of a plugin.
    #[error("{}: is a shared library without the symbol `{symbol}`, so not an alknet plugin. A plugin's crate calls alknet_plugin_api::export!(..) and is built as a cdylib; one in C says ALKNET_EXPORT(..)", path.display())]
    NoSymbol {
        /// The artifact.
        path: PathBuf,
        /// The symbol that a plugin exports.
        symbol: &'static str,
    },
    /// The symbol is there, but what it names is not a plugin's header.
    #[error("{}: exports `{symbol}`, but behind it is no plugin header: {cause}. Rebuild the plugin with alknet-plugin-api's export! macro, or with ALKNET_EXPORT of its header for C", path.display())]
    Header {
        /// The artifact.
        path: PathBuf,
        /// The symbol that a plugin exports.
        symbol: &'static str,
        /// What is wrong.
        cause: String,
    },
    /// Built against another major version of the plugin API.
    #[error("{}: is built against plugin API {found}, and this daemon speaks {expected}; major versions must agree. Rebuild the plugin against alknet-plugin-api {expected}, or use a daemon that speaks {found}", path.display())]
    Api {
        /// The artifact.
        path: PathBuf,
        /// The plugin's version.
        found: String,
        /// The daemon's version.
        expected: String,
    },
    /// The system's loader refuses the file.
    #[error("{}: the system's loader refuses it: {cause}. Most often a library that it needs is missing: see ldd", path.display())]
    Loader {
        /// The artifact.
        path: PathBuf,
        /// The loader's answer.
        cause: String,
    },
    /// The plugin's idea of the interface differs from the daemon's.
    #[error("{}: its interface does not fit this daemon's, though both claim plugin API {api}\n{difference}\nRebuild the plugin against the published alknet-plugin-api, or its header for C", path.display())]
    Layout {
        /// The artifact.
        path: PathBuf,
        /// The major version.
        api: u32,
        /// Where they differ: field, expected, found.
        difference: String,
    },
    /// The manifest cannot be used.
    #[error("{}: its manifest is wrong: {cause}. This is the plugin's fault: tell its maker", path.display())]
    Manifest {
        /// The artifact.
        path: PathBuf,
        /// Everything that is wrong with it.
        cause: String,
    },
    /// The plugin's own code panicked.
    #[error("{}: panicked {during}: {text}. This is the plugin's fault: tell its maker", path.display())]
    Panicked {
        /// The artifact.
        path: PathBuf,
        /// What it was doing.
        during: &'static str,
        /// What the panic said.
        text: String,
    },
    /// The plugin refuses to start.
    #[error("{}: the plugin `{plugin}` does not start: {reason}", path.display())]
    Refused {
        /// The artifact.
        path: PathBuf,
        /// Its name in its manifest.
        plugin: String,
        /// Its reason.
        reason: String,
    },
    /// The deployment file says another kind than the file is of.
    #[error("{}: is a {} plugin, and the deployment file says `kind = \"{}\"`. Correct `kind`, or leave it out", path.display(), found.name(), expected.name())]
    Kind {
        /// The artifact.
        path: PathBuf,
        /// What the deployment file says.
        expected: super::Kind,
        /// What the file is.
        found: super::Kind,
    },
    /// A process of its own does not come to load the plugin.
    #[error("{}: its own process {cause}. See the log above it; `isolation = \"none\"` would load it into the daemon", path.display())]
    Process {
        /// The artifact.
        path: PathBuf,
        /// What became of the process.
        cause: String,
    },
    /// What loading it in a process of its own has found, in that process's words.
    #[error("{text}")]
    InProcess {
        /// As one of the other reasons says it.
        text: String,
    },
    /// Only a native plugin needs a process of its own.
    #[error("{}: is a component, which is confined already. Remove `isolation`", path.display())]
    Isolation {
        /// The artifact.
        path: PathBuf,
    },
    /// This daemon runs no components.
    #[cfg(not(feature = "components"))]
    #[error("{}: is a component, and this daemon is built without them. Build it with the feature `components`", path.display())]
    NoComponents {
        /// The artifact.
        path: PathBuf,
    },
    /// A component cannot be loaded or built.
    #[cfg(feature = "components")]
    #[error("{}: {cause}", path.display())]
    Component {
        /// The artifact.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        cause: super::component::ComponentError,
    },
}

impl LoadError {
    /// Whether the node may start without a plugin that says `required = false`.
    /// It may where the plugin is missing, does not fit or does not start, never
    /// where somebody may have tampered with it.
    pub fn may_degrade(&self) -> bool {
        match self {
            Self::Symlink { .. }
            | Self::NotAFile { .. }
            | Self::Owner { .. }
            | Self::Writable { .. }
            | Self::Unpinned { .. }
            | Self::Digest { .. }
            | Self::Unsigned { .. }
            | Self::SignatureUnchecked { .. }
            | Self::SignatureMalformed { .. }
            | Self::Signature { .. } => false,
            Self::Unreadable { .. }
            | Self::TooLarge { .. }
            | Self::NotAPlugin { .. }
            | Self::Truncated { .. }
            | Self::Architecture { .. }
            | Self::NoSymbol { .. }
            | Self::Header { .. }
            | Self::Api { .. }
            | Self::Loader { .. }
            | Self::Layout { .. }
            | Self::Manifest { .. }
            | Self::Panicked { .. }
            | Self::Refused { .. }
            | Self::Process { .. }
            | Self::InProcess { .. } => true,
            Self::Kind { .. } | Self::Isolation { .. } => false,
            #[cfg(not(feature = "components"))]
            Self::NoComponents { .. } => true,
            #[cfg(feature = "components")]
            Self::Component { .. } => true,
        }
    }

    /// The plugin's code panicked at `path` while it did `during`.
    pub(crate) fn panicked(path: &Path, during: &'static str, panicked: Panicked) -> Self {
        Self::Panicked { path: path.to_owned(), during, text: panicked.0 }
    }
}
