//! A QUIC daemon that dispatches each connection by its ALPN to a plugin.
