//! Logs, metrics and status.
