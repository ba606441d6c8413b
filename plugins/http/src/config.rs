//! What the deployment file may say, and what holds without it.

use std::path::PathBuf;

use alknet_call_protocol::frame::{DEFAULT_MAX_FRAME, MAX_MAX_FRAME};
use serde::Deserialize;
use serde_json::{Value, json};

/// The plugin's configuration. Sizes are in bytes, times in milliseconds.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Config {
    /// The largest body of a request.
    pub(crate) body_bytes: usize,
    /// The largest head of a request.
    pub(crate) header_bytes: usize,
    /// How long the head of a request may take, and a connection be idle before it.
    pub(crate) header_timeout_ms: u64,
    /// How long an HTTP/2 connection may be without a request.
    pub(crate) idle_timeout_ms: u64,
    /// Silence on an HTTP/2 connection after which its client is asked whether it is
    /// there; the answer may take as long as a head.
    pub(crate) ping_ms: u64,
    /// How long the body of a request may take.
    pub(crate) body_timeout_ms: u64,
    /// How long subscriptions, and calls over WebSocket, go on once the node drains.
    pub(crate) drain_ms: u64,
    /// Requests at a time on one connection of HTTP/2 or HTTP/3.
    pub(crate) concurrent_streams: u32,
    /// The UDP port at which clients reach HTTP/3; they are not told of it without.
    pub(crate) h3_port: Option<u16>,
    /// The largest message of a WebSocket, in either direction.
    pub(crate) max_frame_bytes: usize,
    /// How long a WebSocket's peer may be silent, and leave pings unanswered.
    pub(crate) silence_ms: u64,
    /// Calls in one batch.
    pub(crate) batch_calls: usize,
    /// Whether `/mcp` is there.
    pub(crate) mcp: bool,
    /// Whether `/console/` is there.
    pub(crate) console: bool,
    /// Whether `/metrics` is there.
    pub(crate) metrics: bool,
    /// The names that the node is reached by; `None` takes any.
    pub(crate) hosts: Option<Vec<String>>,
    /// The web origins that may use the gateway besides the node's own.
    pub(crate) origins: Vec<String>,
    /// A folder whose files are served.
    pub(crate) static_root: Option<PathBuf>,
    /// A page for `/`.
    pub(crate) front_page: Option<PathBuf>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            body_bytes: 1 << 20,
            header_bytes: 16 << 10,
            header_timeout_ms: 10_000,
            idle_timeout_ms: 60_000,
            ping_ms: 20_000,
            body_timeout_ms: 30_000,
            drain_ms: 1_500,
            concurrent_streams: 100,
            h3_port: None,
            max_frame_bytes: DEFAULT_MAX_FRAME,
            silence_ms: 60_000,
            batch_calls: 32,
            mcp: true,
            console: false,
            metrics: false,
            hosts: None,
            origins: Vec::new(),
            static_root: None,
            front_page: None,
        }
    }
}

impl Config {
    pub(crate) fn schema() -> Value {
        let time = json!({ "type": "integer", "minimum": 1, "maximum": 3_600_000 });
        let texts = json!({
            "type": "array", "items": { "type": "string", "minLength": 1 }, "uniqueItems": true,
        });
        let path = json!({ "type": "string", "minLength": 1 });
        json!({
            "type": "object",
            "additionalProperties": false,
            "properties": {
                "body_bytes": { "type": "integer", "minimum": 1024, "maximum": 64 << 20 },
                "header_bytes": { "type": "integer", "minimum": 8192, "maximum": 1 << 20 },
                "header_timeout_ms": time,
                "idle_timeout_ms": time,
                "ping_ms": time,
                "body_timeout_ms": time,
                "drain_ms": { "type": "integer", "minimum": 0, "maximum": 3_600_000 },
                "concurrent_streams": { "type": "integer", "minimum": 1, "maximum": 10_000 },
                "h3_port": { "type": "integer", "minimum": 1, "maximum": 65_535 },
                "max_frame_bytes": {
                    "type": "integer", "minimum": 1024, "maximum": MAX_MAX_FRAME,
                },
                "silence_ms": time,
                "batch_calls": { "type": "integer", "minimum": 1, "maximum": 256 },
                "mcp": { "type": "boolean" },
                "console": { "type": "boolean" },
                "metrics": { "type": "boolean" },
                "hosts": texts,
                "origins": texts,
                "static_root": path,
                "front_page": path,
            },
        })
    }
}
