//! End-to-end tests: a real daemon, real plugins, real clients.
