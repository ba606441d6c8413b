//! The plugin whose behaviours every substrate must show.
