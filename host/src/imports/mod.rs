//! Operations from elsewhere, as operations of this node.
//!
//! An [`OperationAdapter`] asks one source what it offers and gives a registration
//! for each of its operations. Those are leaves: they hold no authority, name
//! nothing, and see nothing of the node but the credential that the deployment
//! file lends them. They are internal unless the file exposes them by name.
//!
//! [`Importing`] keeps an adapter's operations in the registry: it asks again, ever
//! less often, while the source cannot be reached, and takes them out when what
//! they need is lost.
//!
//! ```text
//! [[import]] ──► OperationAdapter::import ──► Registry::attach_import   peer/<id>/…
//!                        ▲                └─► Peers (the node's peers, by id)
//!                        └── after a pause ── OperationAdapter::lost
//! ```

use alknet_plugin_api::{Capability, OperationSpec};
use futures_util::future::BoxFuture;

use crate::registry::{Code, HandlerRegistration, Provenance, RegistryError};

mod backoff;
#[cfg(feature = "imports")]
mod body;
#[cfg(feature = "quinn")]
pub mod call;
#[cfg(feature = "imports")]
mod endpoint;
#[cfg(feature = "imports")]
pub(crate) mod http;
mod importing;
#[cfg(feature = "imports")]
pub mod json_schema;
#[cfg(feature = "imports")]
pub mod mcp;
#[cfg(feature = "imports")]
pub mod openapi;
#[cfg(feature = "imports")]
mod parameter;
mod peers;
mod selection;
#[cfg(feature = "imports")]
mod sse;
mod status;

pub(crate) use backoff::Backoff;
pub use importing::{ImportPlan, Importing};
pub use peers::Peers;
pub use selection::Selection;
pub use status::{ImportState, ImportStatus};

/// The name under which an imported operation finds its credential:
/// `context.capability(CREDENTIAL)`, when it is called and not before.
pub const CREDENTIAL: &str = "credential";

/// A source of operations.
pub trait OperationAdapter: Send + Sync + 'static {
    /// Asks the source what it offers. Names are those that the node will use:
    /// [`Selection::name`] makes them. Dropping the future gives up.
    ///
    /// # Errors
    /// What stands in the way; nothing has been imported then.
    fn import(&self) -> BoxFuture<'_, Result<Vec<HandlerRegistration>, AdapterError>>;

    /// Resolves when what was imported last no longer works and must be imported
    /// again, with the cause. A source without a connection has nothing to lose.
    fn lost(&self) -> BoxFuture<'_, AdapterError> {
        Box::pin(std::future::pending())
    }

    /// Resolves when the source offers something else than it did, and has to be
    /// asked again. Until it has answered, everything stays. Most sources never say.
    fn changed(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::pending())
    }

    /// Whether its operations stay in the registry while the source is lost, and
    /// tell their callers so themselves.
    fn keeps_operations(&self) -> bool {
        false
    }

    /// Lets go of the source, when the node stops.
    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}

/// Why nothing could be imported. No text holds a secret.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdapterError {
    /// The source was reached and does not say what it offers.
    #[error("{source_name} does not say what it offers: {cause}; {remedy}")]
    DiscoveryFailed {
        /// The source, as the deployment file has it.
        source_name: String,
        /// What went wrong.
        cause: String,
        /// What an operator can do.
        remedy: String,
    },
    /// What the source says cannot be understood.
    #[error(
        "{source_name} describes `{operation}` in a way that cannot be used: {cause}; \
         leave it out with `exclude`, or have the source corrected"
    )]
    SchemaParse {
        /// The source.
        source_name: String,
        /// The operation, or the document.
        operation: String,
        /// What went wrong.
        cause: String,
    },
    /// The source cannot be reached, or no longer.
    #[error("{source_name} cannot be reached: {cause}")]
    Transport {
        /// The source.
        source_name: String,
        /// What went wrong, and what to look at.
        cause: String,
    },
    /// The source refuses this node.
    #[error("{source_name} refuses this node: {cause}; {remedy}")]
    Unauthorized {
        /// The source.
        source_name: String,
        /// What it answered.
        cause: String,
        /// What an operator can do.
        remedy: String,
    },
    /// The source offers two operations under one name.
    #[error(
        "{source_name} offers `{operation}` twice; have the source corrected, or leave the name \
         out with `exclude`"
    )]
    SamePeerCollision {
        /// The source.
        source_name: String,
        /// The name.
        operation: String,
    },
    /// The node cannot have an operation of this name or form.
    #[error("{source_name}: {}", list(.problems))]
    Refused {
        /// The source.
        source_name: String,
        /// Everything that the registry refuses.
        problems: Vec<RegistryError>,
    },
}

fn list(problems: &[RegistryError]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// A registration as every import must be: without authority and reach, and with
/// no secret but its source's credential. `import` is the name in the deployment
/// file. Whether it is exposed is decided when it is attached.
pub fn leaf(
    spec: OperationSpec,
    code: Code,
    import: &str,
    provenance: Provenance,
    credential: Option<&Capability>,
) -> HandlerRegistration {
    let mut registration = HandlerRegistration::new(spec, code, import);
    registration.provenance = provenance;
    if let Some(credential) = credential {
        registration.capabilities.insert(CREDENTIAL.to_owned(), credential.clone());
    }
    registration
}
