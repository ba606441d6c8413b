//! The plugin whose behaviours every substrate must show.
//!
//! It does on demand whatever a handler or an operation can do, well or badly. The
//! suite in the crate `alknet-tests` asks for one behaviour after the other and
//! sees whether the host bears it. The same source builds native and as a
//! component.

mod answer;
mod command;
mod handler;
mod memory;
mod operations;
mod trouble;

use alknet_plugin_api::prelude::*;

pub use command::{Command, Ended};

/// The ALPN that the plugin handles.
pub const ALPN: &str = "alknet/conformance";

/// The plugin.
pub struct Conformance;

alknet_plugin_api::export!(Conformance);

impl Plugin for Conformance {
    fn manifest() -> Manifest {
        operations::declare(
            Manifest::new("conformance", env!("CARGO_PKG_VERSION"))
                .description("Behaves well or badly on demand, to test hosts")
                .alpn(ALPN)
                .config(json!({
                    "type": "object",
                    "properties": {
                        "greeting": { "type": "string" },
                        "refuse": {
                            "description": "Fails the build with this text",
                            "type": "string",
                        },
                        "panic": { "description": "Panics in the build", "type": "boolean" },
                    },
                    "additionalProperties": false,
                })),
        )
    }

    fn build(host: Host, config: Json, on: &mut Registrar) -> Result<(), BuildError> {
        #[derive(Default, serde::Deserialize)]
        #[serde(deny_unknown_fields, default)]
        struct Config {
            greeting: String,
            refuse: Option<String>,
            panic: bool,
        }
        let config: Config = config.to()?;
        if let Some(reason) = config.refuse {
            return Err(BuildError::new(reason));
        }
        if config.panic {
            panic!("panicked in build, as configured");
        }
        on.handler(ALPN, handler::Handler::new(host.clone()));
        operations::attach(host, config.greeting, on);
        Ok(())
    }
}
