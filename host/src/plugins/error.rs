//! Why a plugin was not loaded.

#[cfg(feature = "components")]
use std::path::PathBuf;

/// A reason to refuse a plugin, with the file, the cause and the remedy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
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
