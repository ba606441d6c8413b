//! Why a plugin was not loaded.

/// A reason to refuse a plugin, with the file, the cause and the remedy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {}
