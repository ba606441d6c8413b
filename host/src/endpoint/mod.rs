//! Listeners, TLS identities, the accept loop and the connection table.
