//! The deployment files: `node.toml` (static) and `access.toml` (dynamic).
