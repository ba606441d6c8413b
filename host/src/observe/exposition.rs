//! Metrics over HTTP, for Prometheus and its like: `GET /metrics` and nothing
//! else.
//!
//! Whoever can reach the address can read it: the deployment file chooses one
//! that only the monitoring reaches.

use std::net::SocketAddr;

use tokio::net::TcpListener;

use super::metrics;
use crate::small_http::{self, Found};

/// Prometheus's text format.
const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Binds the address at once.
///
/// # Errors
/// The address is not to be had.
pub fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

/// Answers requests for ever.
pub async fn serve(listener: TcpListener) {
    let find = |path: &str| {
        (path == "/metrics").then(|| Found { content_type: CONTENT_TYPE, body: metrics::render() })
    };
    small_http::serve(&listener, find).await;
}
