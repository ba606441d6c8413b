//! Serves the operation registry over the call protocol, ALPN alknet/call.
