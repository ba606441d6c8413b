//! Serves the operation registry over the call protocol, ALPN `alknet/call`.
//!
//! Who may call what is the host's decision: each request goes, as it came, to
//! the connection's gateway.

use std::sync::Arc;
use std::time::Duration;

use alknet_call_protocol::frame::{DEFAULT_MAX_FRAME, MAX_MAX_FRAME};
use alknet_call_protocol::{ALPN, CallClient, Limits, Options};
use alknet_plugin_api::prelude::*;
use serde::Deserialize;

/// The plugin.
pub struct Call;

alknet_plugin_api::export!(Call);

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Config {
    max_frame_bytes: usize,
    max_calls: usize,
    drain_ms: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self { max_frame_bytes: DEFAULT_MAX_FRAME, max_calls: 1280, drain_ms: 1500 }
    }
}

impl Plugin for Call {
    fn manifest() -> Manifest {
        Manifest::new("call", env!("CARGO_PKG_VERSION"))
            .description("Serves the operation registry over the call protocol")
            .alpn(ALPN)
            .gateway()
            .config(json!({
                "type": "object",
                "additionalProperties": false,
                "properties": {
                    "max_frame_bytes": {
                        "type": "integer", "minimum": 1024, "maximum": MAX_MAX_FRAME,
                    },
                    "max_calls": { "type": "integer", "minimum": 1 },
                    "drain_ms": { "type": "integer", "minimum": 0 },
                },
            }))
    }

    fn build(host: Host, config: Json, on: &mut Registrar) -> Result<(), BuildError> {
        let config: Config = config.to()?;
        let limits = Limits {
            max_frame: config.max_frame_bytes,
            // The node has its own, lower limit on calls that run. This one also
            // holds for those that wait because the peer reads no answers.
            in_flight: config.max_calls,
            drain: Duration::from_millis(config.drain_ms),
        };
        on.handler(ALPN, CallHandler { host, limits });
        Ok(())
    }
}

struct CallHandler {
    host: Host,
    limits: Limits,
}

impl ProtocolHandler for CallHandler {
    async fn handle(&self, connection: Connection, _: &AuthContext) -> Result<(), HandlerError> {
        let gateway = self.host.gateway(&connection).ok_or_else(|| {
            HandlerError::internal("the deployment file does not say `gateway = true` for `call`")
        })?;
        let options = Options::new(Arc::new(self.host.clone())).serve(gateway).limits(self.limits);
        CallClient::spawn_dispatch(connection, options).1.await;
        Ok(())
    }
}
