//! Drives a plugin in memory, without a node.
//!
//! [`TestPlugin`] builds a plugin on a [`TestHost`] and stands in for the node:
//! it hands connections to the plugin's handlers and calls to its operations.
//! The transport is [`pair`], which behaves as QUIC does. Switch the feature
//! `testing` on under `[dev-dependencies]`; tests run on tokio, and timers keep to
//! tokio's clock, paused or not.
//!
//! ```
//! use alknet_plugin_api::prelude::*;
//! use alknet_plugin_api::testing::{TestHost, TestPlugin};
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Serialize, Deserialize)]
//! struct Text { text: String }
//!
//! struct Shout;
//!
//! impl ProtocolHandler for Shout {
//!     async fn handle(&self, connection: Connection, _: &AuthContext) -> Result<(), HandlerError> {
//!         let (mut send, mut recv) = connection.accept_bi().await?;
//!         let mut text = recv.read_to_end(1024).await?;
//!         text.make_ascii_uppercase();
//!         send.write_all(&text).await?;
//!         send.finish()?;
//!         send.stopped().await?;
//!         Ok(())
//!     }
//! }
//!
//! impl Plugin for Shout {
//!     fn manifest() -> Manifest {
//!         Manifest::new("shout", "1.0.0")
//!             .alpn("alknet/shout")
//!             .operation(OperationSpec::query("shout/loud"))
//!     }
//!
//!     fn build(_: Host, _: Json, on: &mut Registrar) -> Result<(), BuildError> {
//!         on.handler("alknet/shout", Shout);
//!         on.operation("shout/loud", |_, input: Text| async move {
//!             Ok(Text { text: input.text.to_uppercase() })
//!         });
//!         Ok(())
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let plugin = TestPlugin::build::<Shout>(TestHost::new(), Json::empty_object())?;
//!
//! // A handler, over a connection:
//! let connection = plugin.connect("alknet/shout");
//! let (mut send, mut recv) = connection.open_bi().await?;
//! send.write_all(b"hello").await?;
//! send.finish()?;
//! assert_eq!(recv.read_to_end(1024).await?, b"HELLO");
//! assert_eq!(connection.closed().await.code, Some(0));
//!
//! // An operation:
//! let output: Text = plugin.call("shout/loud", json!({ "text": "hello" })).await?.to()?;
//! assert_eq!(output.text, "HELLO");
//! # Ok(())
//! # }
//! ```
//!
//! # What differs from a node
//!
//! A node checks inputs against the operation's schema and callers against its
//! access control before the plugin runs; here both reach the plugin as the test
//! gives them. Everything else is as there: deadlines drop the call, a panic
//! costs one connection or call, an undeclared error code becomes `INTERNAL`.

mod calls;
mod host;
mod log;
mod pair;
mod pipe;
mod plugin;

pub use calls::{Cancel, TestContext};
pub use host::{Metric, TestHost};
pub use log::LogLine;
pub use pair::{Pair, PairControl, pair, single_stream};
pub use plugin::{Serving, TestPlugin};
