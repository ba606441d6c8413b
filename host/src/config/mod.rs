//! What an operator writes: `node.toml`, `access.toml` and `known-nodes`.
//!
//! * [`NodeConfig`] is static: it decides what the node is made of, and is read
//!   once, at start.
//! * [`AccessConfig`] is dynamic: it decides who may do what, and is read again
//!   on every reload.
//! * [`KnownNodes`] gives remote nodes names, for the command line.
//!
//! All three are read the same way: everything that is wrong with a file is
//! found and reported at once, each [`Problem`] with its line, its cause and a
//! remedy, and an unknown key is a problem like any other. Values keep their
//! [`Place`] in the file, so that what is found wrong later on (a digest that
//! differs, an ALPN that the plugin does not have) still points at a line.
//!
//! ```
//! use alknet::config::{AccessConfig, Problems};
//!
//! let text = "[[peer]]\npeer_id = \"ada\"\nscope = [\"admin\"]\n";
//! let problems: Problems = AccessConfig::parse("access.toml".as_ref(), text).unwrap_err();
//! let lines: Vec<_> = problems.iter().map(|problem| problem.place.line()).collect();
//! assert_eq!(lines, [1, 3]);
//! ```

mod access;
mod develop;
mod document;
mod edit;
mod identity;
mod import;
mod init;
mod known_nodes;
mod locate;
mod node;
mod node_file;
mod plugin;
mod problem;
mod reload;
mod sandbox;
mod settings;
mod tcp;
#[cfg(test)]
mod tests;
mod values;
mod vault;
mod write;

pub use access::{AccessConfig, AccessLimits, CallRate, EntryPlaces, is_fingerprint};
pub use develop::{
    DevelopError, DevelopPlugin, Developed, Repinned, create_private, develop, write_key,
};
pub use edit::{AccessFile, EditError};
pub use identity::{Acme, AcmeChallenge, CertificateSource};
pub use import::{Document, ImportSource, ImportStanza};
pub use init::{NewNode, existing, init};
pub use known_nodes::{AddressError, Carrier, KeyAddress, KnownNodes, NodeAddress, Pin, Reach};
pub use locate::{Environment, LocateError, NodeDirectory, component_cache, locate, state_folder};
pub use node::{Audit, LogFormat, Mode, NodeConfig, NodeLimits, Observe, Quic, read_key};
pub use node_file::{NodeFile, PinnedArtifact};
pub use plugin::{
    Authority, CapabilityGrant, CapabilitySource, Isolation, PluginLimits, PluginStanza,
};
pub use problem::{Place, Problem, Problems};
pub use reload::{Changes, Lost, ReloadPlan};
pub use sandbox::Sandbox;
pub use settings::Settings;
pub use tcp::Tcp;
pub use values::{Digest, PublicKey, Signature};
pub use vault::{Unlock, VaultConfig, VaultIdentity};

pub(crate) use values::{parse_duration, utc_text};
pub(crate) use write::{replace, write_new};
